//! From states to the scores of the next token.

use burn::module::{Param, ParamId};
use burn::nn::Embedding;
use burn::tensor::{DType, Tensor};
use nola_core::{Linear, adapted, product};

/// Up to this many rows the tied product is turned round.
const FEW_ROWS: usize = 32;

/// Scores of the next token, in f32: by the head, or by the embedding where there is none, without its adapter.
///
/// # Shapes
/// - `hidden`: `[.., d_model]`
/// - output: `[.., vocab_size]`
pub(crate) fn logits<const D: usize>(
    hidden: Tensor<D>,
    tokens: &Embedding,
    head: Option<&Linear>,
) -> Tensor<D> {
    let scores = match head {
        Some(head) => adapted(head, hidden),
        None => tied(hidden, tokens.weight.base()),
    };
    scores.cast(DType::F32)
}

/// A head of its own with the numbers of the embedding, without its adapter.
pub(crate) fn of_embedding(tokens: &Embedding) -> Linear {
    let table = tokens.weight.base();
    let (device, dtype) = (table.device(), table.dtype());
    // Through the host, so that it lies in memory as a head that was loaded does.
    let weight = Tensor::from_data(table.transpose().into_data(), (&device, dtype));
    Linear::dense(Param::initialized(ParamId::new(), weight).set_require_grad(true), None)
}

fn tied<const D: usize>(hidden: Tensor<D>, table: Tensor<2>) -> Tensor<D> {
    let mut shape = hidden.dims();
    let d_model = shape[D - 1];
    let rows = shape.iter().product::<usize>() / d_model;
    if rows > FEW_ROWS || table.dtype() != hidden.dtype() {
        shape[D - 1] = table.dims()[0];
        return product(hidden.reshape([rows, d_model]), table.transpose(), None).reshape(shape);
    }
    // The CPU reads a transposed table up to 20 times slower than one that lies as it is stored, which decides how fast
    // single tokens come; of many rows the copy that this costs would be large.
    shape[D - 1] = table.dims()[0];
    table.matmul(hidden.reshape([rows, d_model]).transpose()).transpose().reshape(shape)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData, Tolerance};

    use super::*;

    #[test]
    fn few_rows_get_the_scores_that_many_get() {
        let device = Device::flex();
        let numbers = |count: usize| (0..count).map(|n| (n as f32 * 0.7).sin()).collect::<Vec<f32>>();
        let table = Tensor::<2>::from_data(TensorData::new(numbers(11 * 6), [11, 6]), &device);
        let rows = 2 * FEW_ROWS;
        let hidden = Tensor::<3>::from_data(TensorData::new(numbers(rows * 6), [2, FEW_ROWS, 6]), &device);
        let many = tied(hidden.clone(), table.clone());
        let few = hidden.split(1, 0).into_iter().map(|hidden| tied(hidden, table.clone())).collect();
        let few = Tensor::cat(few, 0);
        few.into_data().assert_approx_eq::<f32>(&many.into_data(), Tolerance::absolute(1e-6));
    }

    #[test]
    fn a_head_made_of_the_embedding_scores_as_it_did() {
        let device = Device::flex();
        let numbers = |count: usize| (0..count).map(|n| (n as f32 * 0.7).sin()).collect::<Vec<f32>>();
        let table = Tensor::<2>::from_data(TensorData::new(numbers(11 * 6), [11, 6]), &device);
        let tokens = Embedding { weight: Param::from_tensor(table) };
        let hidden = Tensor::<2>::from_data(TensorData::new(numbers(40 * 6), [40, 6]), &device);
        let own = of_embedding(&tokens);
        let (tied, untied) = (logits(hidden.clone(), &tokens, None), logits(hidden, &tokens, Some(&own)));
        tied.into_data().assert_approx_eq::<f32>(&untied.into_data(), Tolerance::absolute(1e-6));
    }

    #[test]
    fn a_trained_table_gets_from_many_rows_the_gradient_that_few_give() {
        let device = Device::flex().autodiff();
        let numbers = |count: usize| (0..count).map(|n| (n as f32 * 0.7).sin()).collect::<Vec<f32>>();
        let rows = 2 * FEW_ROWS;
        let hidden = Tensor::<2>::from_data(TensorData::new(numbers(rows * 6), [rows, 6]), &device);
        let gradient = |parts: Vec<Tensor<2>>| {
            let table =
                Tensor::<2>::from_data(TensorData::new(numbers(11 * 6), [11, 6]), &device).require_grad();
            let scores = parts.into_iter().map(|hidden| tied(hidden, table.clone())).collect();
            let loss = Tensor::cat(scores, 0).powi_scalar(2).sum();
            table.grad(&loss.backward()).expect("it is trained").into_data()
        };
        let (many, few) = (gradient(vec![hidden.clone()]), gradient(hidden.split(FEW_ROWS, 0)));
        many.assert_approx_eq::<f32>(&few, Tolerance::rel_abs(1e-5, 1e-4));
    }
}
