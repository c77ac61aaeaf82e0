//! Embeddings whose tables have adapters.

use burn::nn::Embedding;
use burn::tensor::module::embedding;
use burn::tensor::{Int, Tensor};

use crate::Error;
use crate::adapter::Plan;
use crate::features::{self, Layers};
use crate::product::in_compute_dtype;
use crate::row_adapters::PerRow;
use crate::site::{Site, SiteKind};
use crate::update::{Update, noted};

/// `E[ids] + scale·A[ids]·B`: no product or gradient of the table's size.
///
/// In a model whose table makes its logits too, the adapter changes what is looked up here and nothing else, as in PEFT;
/// whoever merges it gives the model a head of its own first.
///
/// # Shapes
/// - `ids`: `[batch, tokens]`
/// - output: `[batch, tokens, width]`, in the storage dtype of the table; with an adapter, in the compute dtype
///
/// # Source
/// LoRA (Hu et al., ICLR 2022), equation 3, on rows of a table: `Embedding` of PEFT.
pub fn adapted_embedding(layer: &Embedding, ids: Tensor<2, Int>) -> Tensor<3> {
    if let Some(per_row) = layer.weight.reparameterization::<PerRow>() {
        let [batch, tokens] = ids.dims();
        let looked_up = embedding(layer.weight.base(), ids.clone());
        let width = looked_up.dims()[2];
        let rows =
            per_row.looked_up(looked_up.reshape([batch * tokens, width]), ids.reshape([batch * tokens]));
        return rows.reshape([batch, tokens, width]);
    }
    let Some(update) = layer.weight.reparameterization::<Update>() else { return layer.forward(ids) };
    let of_base = in_compute_dtype(embedding(layer.weight.base(), ids.clone()));
    let [batch, tokens, width] = of_base.dims();
    let rows = of_base.reshape([batch * tokens, width]);
    let rows = match features::layers() {
        Layers::Base => rows,
        Layers::Adapted => {
            let added = update.of_rows(ids.reshape([batch * tokens])).cast(rows.dtype());
            rows + added
        }
    };
    noted(rows).reshape([batch, tokens, width])
}

/// Refuses adapters of embeddings that are more than two factors.
pub(crate) fn check_embeddings(sites: &[Site], plans: &[Plan]) -> Result<(), Error> {
    let is_refused =
        |(site, plan): &(&Site, &Plan)| site.kind == SiteKind::Embedding && !plan.is_low_rank_alone();
    match sites.iter().zip(plans).find(is_refused) {
        Some((site, _)) => Err(Error::EmbeddingSite { site: site.path.clone() }),
        None => Ok(()),
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::module::Module;
    use burn::nn::{EmbeddingConfig, Linear, LinearConfig};
    use burn::optim::GradientsParams;
    use burn::tensor::{Device, TensorData, Tolerance};

    use super::*;
    use crate::adapter::LoraConfig;
    use crate::params::float_params;
    use crate::{Adapted, AdapterConfig, Targets, adapted};

    #[derive(Module, Debug)]
    struct Model {
        tokens: Embedding,
        out: Linear,
    }

    const ROWS: usize = 7;
    const WIDTH: usize = 4;

    fn device() -> Device {
        Device::flex().autodiff()
    }

    fn base() -> Model {
        let tokens = EmbeddingConfig::new(ROWS, WIDTH).init(&device());
        Model { tokens, out: LinearConfig::new(WIDTH, 3).init(&device()) }
    }

    fn ids() -> Tensor<2, Int> {
        // One row twice, and some never.
        Tensor::from_data([[1, 5, 1], [0, 3, 6]], &device())
    }

    fn lora() -> AdapterConfig {
        LoraConfig { rank: 2, alpha: Some(3.0), lora_plus_ratio: 16.0, ..LoraConfig::default() }.into()
    }

    fn attached(base: Model) -> Adapted<Model> {
        Adapted::attach(base, &lora(), &Targets::matching("tokens|out"), &[], &device()).expect("both")
    }

    /// The same with other factors, as if it had been trained.
    fn moved(model: Adapted<Model>) -> Adapted<Model> {
        let mut state = model.state();
        for (number, data) in state.values_mut().enumerate() {
            let values = (0..data.shape().num_elements()).map(|n| ((n + 5 * number) as f32 * 0.7).sin());
            *data = TensorData::new(values.collect::<Vec<f32>>(), data.shape());
        }
        model.with_state(state).expect("its own names")
    }

    fn near<const D: usize>(left: Tensor<D>, right: Tensor<D>) {
        left.into_data().assert_approx_eq::<f32>(&right.into_data(), Tolerance::absolute(1e-5));
    }

    #[test]
    fn a_fresh_adapter_looks_up_what_the_base_does() {
        let base = base();
        let expected = base.tokens.forward(ids()).into_data();
        assert_eq!(adapted_embedding(&base.tokens, ids()).into_data(), expected);
        assert_eq!(adapted_embedding(&attached(base).model.tokens, ids()).into_data(), expected);
    }

    #[test]
    fn rows_and_gradients_are_those_of_the_dense_table() {
        let model = moved(attached(base()));
        let weights = Tensor::<3>::from_data(
            TensorData::new((0..24).map(|n| (n as f32 * 1.1).cos()).collect::<Vec<f32>>(), [2, 3, WIDTH]),
            &device(),
        );
        let gradients = |rows: Tensor<3>| {
            let loss = (rows * weights.clone()).square().sum();
            GradientsParams::from_grads(loss.backward(), &model)
        };
        let looked_up = adapted_embedding(&model.model.tokens, ids());
        // `forward` makes `E + scale·A·B` and differentiates through it.
        let of_dense = model.model.tokens.forward(ids());
        near(looked_up.clone(), of_dense.clone());
        let [mut found, mut expected] = [looked_up, of_dense].map(gradients);
        for leaf in ["a", "b"] {
            let path = format!("tokens.weight.adapter.{leaf}");
            let id =
                float_params(&model.model).into_iter().find(|param| param.path == path).expect("a factor").id;
            let [found, expected] =
                [&mut found, &mut expected].map(|gradients| gradients.remove::<2>(id).expect("a gradient"));
            near(found, expected);
        }
        assert!(
            gradients(adapted_embedding(&model.model.tokens, ids()))
                .get::<2>(model.model.tokens.weight.id)
                .is_none()
        );
    }

    #[test]
    fn a_merged_table_holds_the_rows_that_were_looked_up() {
        let model = moved(attached(base()));
        let expected = adapted_embedding(&model.model.tokens, ids());
        let merged = model.merge().expect("finite weights");
        near(merged.tokens.forward(ids()), expected);
    }

    #[test]
    fn every_other_adapter_refuses_an_embedding_with_the_cure() {
        for adapter in
            AdapterConfig::every().into_iter().filter(|adapter| !adapter.method().adapts_embeddings())
        {
            let attached =
                Adapted::attach(base(), &adapter, &Targets::matching("tokens|out"), &[], &device());
            let error = attached.expect_err(adapter.kind()).to_string();
            for part in ["`tokens` is an embedding", "only `lora`", "take it out of `targets`"] {
                assert!(error.contains(part), "{}: {error}", adapter.kind());
            }
        }
    }

    #[test]
    fn a_plan_of_more_than_two_factors_is_refused() {
        let site = Site::embedding("tokens", ROWS, WIDTH);
        let plan = lora().plan(std::slice::from_ref(&site), &|_| Vec::new()).expect("a valid plan").remove(0);
        let with_bias = Plan { bias: Some(vec![0.0; WIDTH]), ..plan };
        let attached = Adapted::attach_plans(base(), vec![site], vec![with_bias], &[], &device());
        assert!(matches!(attached, Err(Error::EmbeddingSite { .. })));
    }

    #[test]
    fn all_linear_leaves_embeddings_alone() {
        for pattern in ["all-linear", ".*"] {
            let sites = Targets::matching(pattern).choose(&base()).expect("a linear layer");
            assert_eq!(sites, [Site::linear("out", WIDTH, 3)], "{pattern}");
        }
    }

    #[test]
    fn both_factors_of_an_embedding_have_one_learning_rate() {
        let model = attached(base());
        let factors = model.rate_factors();
        let ids = float_params(&model.model)
            .into_iter()
            .filter(|param| factors.iter().any(|(id, _)| *id == param.id));
        assert_eq!(ids.map(|param| param.path).collect::<Vec<_>>(), ["out.weight.adapter.b"]);
    }

    #[test]
    fn a_base_pass_looks_up_the_base() {
        let model = moved(attached(base()));
        let forward = || adapted(&model.model.out, adapted_embedding(&model.model.tokens, ids()));
        let (of_base, outputs) = features::record_outputs(Layers::Base, forward);
        let plain = base_of(&model).forward_plain();
        near(of_base, plain);
        assert_eq!(outputs.len(), 2);
    }

    /// The base of a model.
    fn base_of(model: &Adapted<Model>) -> Model {
        let Model { tokens, out } = &model.model;
        let weight = |base: Tensor<2>| burn::module::Param::from_tensor(base);
        Model {
            tokens: Embedding { weight: weight(tokens.weight.base()) },
            out: Linear { weight: weight(out.weight.base()), bias: out.bias.clone() },
        }
    }

    impl Model {
        fn forward_plain(&self) -> Tensor<3> {
            self.out.forward(self.tokens.forward(ids()))
        }
    }
}
