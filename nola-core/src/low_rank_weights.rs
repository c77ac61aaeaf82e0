//! Layers whose weight is a product of two narrow matrices: what PC-LoRA leaves, without a weight of the base.

use std::collections::BTreeMap;

use burn::module::{Module, Param, ParamId, Reparameterization, Reparameterizer};
use burn::tensor::{Device, Tensor, TensorData};

use crate::base_weight::LinearLayer;
use crate::floats::floats;
use crate::params::{FoundParam, float_params, linear_sites, read_params};
use crate::product::{product, with_bias};

/// The weight A·B of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRankWeight {
    /// Width of the bottleneck.
    pub rank: usize,
    /// `[d_in, rank]`, row-major.
    pub a: Vec<f32>,
    /// `[rank, d_out]`, row-major.
    pub b: Vec<f32>,
    /// A bias beside the layer's own, `[d_out]`.
    pub bias: Option<Vec<f32>>,
}

/// Low-rank weights by path, such as `blocks.0.mlp.up.weight`.
pub type LowRankWeights = BTreeMap<String, LowRankWeight>;

/// A low-rank weight in a layer, in the place of a dense one that is never asked for.
#[derive(Module, Debug)]
pub(crate) struct LowRank {
    /// `[d_in, rank]`.
    a: Param<Tensor<2>>,
    /// `[rank, d_out]`.
    b: Param<Tensor<2>>,
    /// `[d_out]`.
    bias: Option<Param<Tensor<1>>>,
}

impl Reparameterization for LowRank {
    const NAME: &'static str = "low_rank";

    /// The dense weight, for models that do not call [`adapted`](fn@crate::adapted).
    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let shape = base.shape();
        self.a.val().matmul(self.b.val()).reshape(shape).cast(base.dtype())
    }
}

impl LowRank {
    fn new(weight: &LowRankWeight, device: &Device) -> Self {
        let LowRankWeight { rank, a, b, bias } = weight;
        let matrix = |values: &[f32], shape: [usize; 2]| {
            Param::from_data(TensorData::new(values.to_vec(), shape), device).set_require_grad(false)
        };
        let row = |values: &Vec<f32>| {
            Param::from_data(TensorData::new(values.clone(), [values.len()]), device).set_require_grad(false)
        };
        Self {
            a: matrix(a, [a.len() / rank, *rank]),
            b: matrix(b, [*rank, b.len() / rank]),
            bias: bias.as_ref().map(row),
        }
    }

    /// The layer with this weight.
    ///
    /// # Shapes
    /// - `x`: `[rows, d_in]`
    /// - output: `[rows, d_out]`
    pub(crate) fn forward(&self, layer: &impl LinearLayer, x: Tensor<2>) -> Tensor<2> {
        let inner = product(x, self.a.val(), None);
        let y = product(inner, self.b.val(), layer.bias().map(|bias| bias.val()));
        with_bias(y, self.bias.as_ref().map(|bias| bias.val()))
    }
}

/// `model` with these weights in place of its own, which are never asked for.
///
/// # Panics
/// If the model has no linear layer with one of the weights, or one of another shape.
pub fn with_low_rank_weights<M: Module>(model: M, weights: &LowRankWeights, device: &Device) -> M {
    let sites = linear_sites(&model);
    let low_rank = |(path, weight): (&String, &LowRankWeight)| {
        let site =
            sites.iter().find(|site| site.weight_path() == *path).expect("a linear layer of the model");
        assert_eq!(weight.a.len(), site.d_in * weight.rank, "A of {path}");
        assert_eq!(weight.b.len(), weight.rank * site.d_out, "B of {path}");
        (path.clone(), LowRank::new(weight, device))
    };
    model.apply_reparameterization(Put { weights: weights.iter().map(low_rank).collect() })
}

/// Puts low-rank weights in the place of those at their paths.
struct Put {
    weights: BTreeMap<String, LowRank>,
}

impl Reparameterizer for Put {
    type Reparam = LowRank;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LowRank>) {
        (param, self.weights.remove(path))
    }
}

/// Where the matrices of the low-rank weight at `path` are.
fn leaf(path: &str, name: &str) -> String {
    format!("{path}.{}.{name}", LowRank::NAME)
}

/// Paths of the low-rank weights among `params`.
pub(crate) fn low_rank_paths(params: &[FoundParam]) -> Vec<String> {
    let end = leaf("", "a");
    params.iter().filter_map(|param| Some(param.path.strip_suffix(&end)?.to_owned())).collect()
}

/// The low-rank weights of `model`.
pub fn low_rank_weights<M: Module>(model: &M) -> LowRankWeights {
    let params = float_params(model);
    let weight = |path: String| {
        let find = |name: &str| params.iter().find(|param| param.path == leaf(&path, name));
        let read = |id: ParamId| floats(read_params(model, &[id]).remove(&id).expect("it was found"));
        let (a, b) = (find("a").expect("its path was found"), find("b").expect("it stands beside A"));
        let bias = find("bias").map(|bias| read(bias.id));
        let weight = LowRankWeight { rank: a.shape[1], a: read(a.id), b: read(b.id), bias };
        (path, weight)
    };
    low_rank_paths(&params).into_iter().map(weight).collect()
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Distribution;

    use super::*;
    use crate::adapted;

    fn weights() -> LowRankWeights {
        let numbers = |count: usize| (0..count).map(|n| (n as f32 * 0.7).sin()).collect::<Vec<f32>>();
        let weight = LowRankWeight { rank: 2, a: numbers(6 * 2), b: numbers(2 * 5), bias: Some(numbers(5)) };
        LowRankWeights::from([("0.weight".to_owned(), weight)])
    }

    fn model() -> Vec<Linear> {
        let device = Device::flex();
        with_low_rank_weights(vec![LinearConfig::new(6, 5).init(&device)], &weights(), &device)
    }

    #[test]
    fn what_was_put_is_found_again() {
        assert_eq!(low_rank_weights(&model()), weights());
    }

    #[test]
    fn a_layer_multiplies_with_both_matrices_and_adds_both_biases() {
        let (model, device) = (model(), Device::flex());
        let x = Tensor::<2>::random([3, 6], Distribution::Default, &device);
        let weight = &weights()["0.weight"];
        let matrix = |values: &[f32], shape: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &device)
        };
        let own = matrix(weight.bias.as_deref().expect("a bias"), [1, 5]);
        let of_layer = model[0].bias.as_ref().expect("a bias").val().unsqueeze_dim(0);
        let expected =
            x.clone().matmul(matrix(&weight.a, [6, 2])).matmul(matrix(&weight.b, [2, 5])) + of_layer + own;
        let found = adapted(&model[0], x);
        found.to_data().assert_approx_eq::<f32>(&expected.to_data(), burn::tensor::Tolerance::absolute(1e-5));
    }
}
