//! One base for many adapters: a batch in which each row has its own.

mod pass;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, Param, Reparameterization, Reparameterizer};
use burn::tensor::{Device, Int, Tensor, TensorData};

use pass::{At, Pass};
pub use shared::SharedFactors;
pub(crate) use shared::{CoreForm, SharedSite};

use crate::Error;
use crate::base_weight::{BaseWeight, LinearLayer};
use crate::params::float_params;
use crate::product::{in_compute_dtype, with_bias};
use crate::update::Update;

/// What an adapter does to each weight of its base, taken off a model that it is attached to.
#[derive(Debug, Clone)]
pub struct Updates {
    content: Content,
    bytes: u64,
}

#[derive(Debug, Clone)]
enum Content {
    /// Of each weight by its path.
    Own(BTreeMap<String, Update>),
    /// Small numbers between factors that others have, too.
    Shared {
        factors: Arc<SharedFactors>,
        /// `[1, numbers]`.
        numbers: Box<Tensor<2>>,
    },
}

/// So many rows, one after the other, with one adapter; none is the base alone.
pub type Segment = (usize, Option<Arc<Updates>>);

/// Says which rows have which adapter in the passes that follow; all clones of a model hear the same.
#[derive(Debug, Clone, Default)]
pub struct RowAdapters {
    pass: Arc<Mutex<Arc<Pass>>>,
    /// Paths of the weights that have room for adapters.
    paths: BTreeSet<String>,
}

impl Updates {
    /// Of each weight by its path; all of them have `bytes`.
    pub(crate) fn new(by_path: BTreeMap<String, Update>, bytes: u64) -> Self {
        Self { content: Content::Own(by_path), bytes }
    }

    /// Those of an adapter with these numbers between factors that it shares with others.
    ///
    /// # Panics
    /// If there are not as many numbers as the factors want.
    pub fn between(factors: Arc<SharedFactors>, numbers: &[f32], device: &Device) -> Self {
        assert_eq!(numbers.len(), factors.numbers(), "as many numbers as the factors want");
        let data = TensorData::new(numbers.to_vec(), [1, numbers.len()]);
        let bytes = numbers.len() as u64 * 4;
        let numbers = Box::new(Tensor::from_data(data, device));
        Self { content: Content::Shared { factors, numbers }, bytes }
    }

    /// Bytes of its own matrices and vectors.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The factors that it shares with other adapters, if it does.
    pub fn shared(&self) -> Option<&Arc<SharedFactors>> {
        match &self.content {
            Content::Own(_) => None,
            Content::Shared { factors, .. } => Some(factors),
        }
    }

    fn paths(&self) -> Box<dyn Iterator<Item = &String> + '_> {
        match &self.content {
            Content::Own(by_path) => Box::new(by_path.keys()),
            Content::Shared { factors, .. } => Box::new(factors.paths()),
        }
    }
}

/// `model` with room for an adapter a row at each weight whose path `is_wanted`, such as `blocks.0.attention.query.weight`.
///
/// Such a model answers; it cannot be trained, merged or saved.
pub fn with_row_adapters<M: Module>(model: M, is_wanted: &dyn Fn(&str) -> bool) -> (M, RowAdapters) {
    let paths =
        float_params(&model).into_iter().map(|param| param.path).filter(|path| is_wanted(path)).collect();
    let rows = RowAdapters { pass: Arc::default(), paths };
    (model.apply_reparameterization(RowAdapterPlacer { is_wanted, rows: rows.clone() }), rows)
}

impl RowAdapters {
    /// Whether each weight that an adapter changes has room for it.
    ///
    /// # Errors
    /// With the first that has none: such a part of the adapter would be lost.
    pub fn check(&self, updates: &Updates) -> Result<(), Error> {
        match updates.paths().find(|path| !self.paths.contains(*path)) {
            Some(path) => Err(Error::NoRoomForRows { path: path.clone() }),
            None => Ok(()),
        }
    }

    /// Gives the rows of the next passes their adapters, in order: as many rows as the batch has, or none, and then all are the
    /// base's. Where adapters that share factors stand side by side, their rows are multiplied together.
    pub fn choose(&self, segments: Vec<Segment>) {
        let pass = Arc::new(Pass::of(segments));
        *self.pass.lock().unwrap_or_else(PoisonError::into_inner) = pass;
    }

    /// The adapters of the rows; none if no adapter changes `path`.
    fn pass_at(&self, path: &str) -> Option<Arc<Pass>> {
        let pass = Arc::clone(&self.pass.lock().unwrap_or_else(PoisonError::into_inner));
        pass.changes(path).then_some(pass)
    }
}

/// Room for an adapter a row at one weight.
#[derive(Module, Debug)]
pub(crate) struct PerRow {
    #[module(skip)]
    path: String,
    #[module(skip)]
    rows: RowAdapters,
}

impl Reparameterization for PerRow {
    const NAME: &'static str = "per_row";

    /// The base: no dense weight stands for several adapters.
    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        base
    }
}

impl PerRow {
    /// The layer with the adapter of each row.
    ///
    /// # Shapes
    /// - `x`: `[rows, d_in]`
    /// - output: `[rows, d_out]`
    pub(crate) fn forward(&self, layer: &impl LinearLayer, x: Tensor<2>) -> Tensor<2> {
        let bias = layer.bias().map(|bias| bias.val());
        let y = BaseWeight::of(layer).product(x.clone(), None);
        let Some(pass) = self.rows.pass_at(&self.path) else { return with_bias(y, bias) };
        pass.by_run(&self.path, x.dims()[0], |at, range| {
            let (y, x) = (y.clone().slice([range.clone()]), x.clone().slice([range]));
            match at {
                At::Nothing => with_bias(y, bias.clone()),
                At::Own(update) => update.onto(y, x, bias.clone()),
                At::Shared(factors, numbers) => {
                    with_bias(factors.onto(&self.path, y, x, numbers), bias.clone())
                }
            }
        })
    }

    /// Rows of a table, with what the adapter of each adds.
    ///
    /// # Shapes
    /// - `looked_up`: `[rows, width]`; `ids`: `[rows]`
    /// - output: `[rows, width]`
    pub(crate) fn looked_up(&self, looked_up: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
        let Some(pass) = self.rows.pass_at(&self.path) else { return looked_up };
        let looked_up = in_compute_dtype(looked_up);
        pass.by_run(&self.path, looked_up.dims()[0], |at, range| {
            let rows = looked_up.clone().slice([range.clone()]);
            let ids = || ids.clone().slice([range]);
            match at {
                At::Nothing => rows,
                At::Own(update) => rows.clone() + update.of_rows(ids()).cast(rows.dtype()),
                At::Shared(factors, numbers) => factors.onto_rows(&self.path, rows, ids(), numbers),
            }
        })
    }
}

/// Makes room at the weights that are wanted.
struct RowAdapterPlacer<'a> {
    is_wanted: &'a dyn Fn(&str) -> bool,
    rows: RowAdapters,
}

impl Reparameterizer for RowAdapterPlacer<'_> {
    type Reparam = PerRow;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<PerRow>) {
        let room = (self.is_wanted)(path).then(|| PerRow { path: path.to_owned(), rows: self.rows.clone() });
        (param, room)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::nn::{Embedding, EmbeddingConfig, LinearConfig};
    use burn::tensor::{Device, TensorData, Tolerance};

    use super::*;
    use crate::adapter::{DoraConfig, LoraConfig, LoraXsConfig, NolaConfig, VeraConfig};
    use crate::{Adapted, AdapterConfig, Linear, Targets, adapted, adapted_embedding};

    #[derive(Module, Debug)]
    struct Model {
        tokens: Embedding,
        up: Linear,
        down: Linear,
    }

    impl Model {
        fn new() -> Self {
            let device = Device::flex();
            let layer = |d_in, d_out| Linear::from(LinearConfig::new(d_in, d_out).init(&device));
            Self { tokens: EmbeddingConfig::new(7, 6).init(&device), up: layer(6, 8), down: layer(8, 5) }
        }

        fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
            adapted(&self.down, adapted(&self.up, adapted_embedding(&self.tokens, ids)))
        }
    }

    fn ids(rows: &[[i32; 3]]) -> Tensor<2, Int> {
        let values: Vec<i32> = rows.concat();
        Tensor::from_data(TensorData::new(values, [rows.len(), 3]), &Device::flex())
    }

    /// Attached, and moved away from what the base does.
    fn trained(base: &Model, config: AdapterConfig, targets: &str) -> Adapted<Model> {
        let targets = Targets::matching(targets);
        let model = Adapted::attach(base.clone(), &config, &targets, &[], &Device::flex()).expect("they fit");
        let mut state = model.state();
        for (number, data) in state.values_mut().enumerate() {
            let values =
                (0..data.shape().num_elements()).map(|n| ((n + 5 * number) as f32 * 0.7).sin() + 1.1);
            *data = TensorData::new(values.collect::<Vec<f32>>(), data.shape());
        }
        model.with_state(state).expect("its own names").expand()
    }

    #[test]
    fn each_row_of_a_batch_gets_what_its_own_adapter_gives_it() {
        let base = Model::new();
        let models = [
            trained(&base, LoraConfig { rank: 2, ..LoraConfig::default() }.into(), "tokens|up|down"),
            trained(&base, NolaConfig { rank: 3, k: 5, ..NolaConfig::default() }.into(), "up|down"),
            trained(&base, DoraConfig(LoraConfig { rank: 1, ..LoraConfig::default() }).into(), "down"),
        ];
        let (rows, model) = {
            let (model, rows) = with_row_adapters(base.clone(), &|path| path.ends_with(".weight"));
            (rows, model)
        };
        let all = [[1, 5, 1], [0, 3, 6], [2, 2, 4], [6, 0, 1], [3, 3, 3]];
        let updates: Vec<_> =
            models.iter().map(|model| Arc::new(model.updates().expect("adapters alone"))).collect();
        let of = |place: usize| Some(Arc::clone(&updates[place]));
        rows.choose(vec![(1, of(0)), (2, of(1)), (1, None), (1, of(2))]);
        let found = model.forward(ids(&all));
        let expected = vec![
            models[0].model.forward(ids(&all[..1])),
            models[1].model.forward(ids(&all[1..3])),
            base.forward(ids(&all[3..4])),
            models[2].model.forward(ids(&all[4..])),
        ];
        found
            .into_data()
            .assert_approx_eq::<f32>(&Tensor::cat(expected, 0).into_data(), Tolerance::rel_abs(1e-5, 1e-5));
    }

    /// Whether rows get what `generate` would give each, where adapters share factors by construction.
    fn check_gathered(config: impl Fn(u64) -> AdapterConfig) {
        let base = Model::new();
        let models = [1, 2, 3].map(|seed| {
            let model = trained(&base, config(seed), "up|down");
            // They would all be moved alike.
            let state = model.state().into_iter().map(|(name, data)| {
                let values: Vec<f32> = data.clone().try_into_vec().expect("they are f32");
                let values: Vec<f32> = values.iter().map(|value| value / seed as f32).collect();
                (name, TensorData::new(values, data.shape()))
            });
            model.with_state(state.collect()).expect("its own names")
        });
        let (model, rows) = with_row_adapters(base.clone(), &|path| path.ends_with(".weight"));
        let parts = models.each_ref().map(|model| model.shared_parts().expect("they share factors"));
        assert!(parts.iter().all(|part| part.digest() == parts[0].digest()), "they share the same ones");
        let factors = Arc::new(parts[0].factors(&Device::flex()));
        let updates = parts
            .map(|part| Arc::new(Updates::between(Arc::clone(&factors), part.numbers(), &Device::flex())));
        let own = trained(&base, LoraConfig { rank: 2, ..LoraConfig::default() }.into(), "up|down");
        let own_updates = Arc::new(own.updates().expect("adapters alone"));
        let all = [[1, 5, 1], [0, 3, 6], [2, 2, 4], [6, 0, 1], [3, 3, 3], [4, 1, 2]];
        let of = |place: usize| Some(Arc::clone(&updates[place]));
        rows.choose(vec![(2, of(0)), (1, of(1)), (1, Some(own_updates)), (1, None), (1, of(2))]);
        let found = model.forward(ids(&all));
        let expected = vec![
            models[0].model.forward(ids(&all[..2])),
            models[1].model.forward(ids(&all[2..3])),
            own.model.forward(ids(&all[3..4])),
            base.forward(ids(&all[4..5])),
            models[2].model.forward(ids(&all[5..])),
        ];
        found
            .into_data()
            .assert_approx_eq::<f32>(&Tensor::cat(expected, 0).into_data(), Tolerance::rel_abs(1e-5, 1e-5));
    }

    #[test]
    fn rows_of_adapters_with_the_same_singular_vectors_get_what_each_gives_alone() {
        check_gathered(|seed| LoraXsConfig { rank: 3, alpha: Some(5.0), seed }.into());
    }

    #[test]
    fn rows_of_adapters_with_the_same_random_pair_get_what_each_gives_alone() {
        check_gathered(|_| VeraConfig { rank: 4, ..VeraConfig::default() }.into());
    }

    #[test]
    fn adapters_with_factors_of_their_own_share_none() {
        let base = Model::new();
        for config in [LoraConfig::default().into(), NolaConfig::default().into()] {
            assert!(trained(&base, config, "up|down").shared_parts().is_none());
        }
    }

    #[test]
    fn without_a_choice_all_rows_are_those_of_the_base() {
        let base = Model::new();
        let (model, _) = with_row_adapters(base.clone(), &|path| path.ends_with(".weight"));
        let ids = ids(&[[1, 5, 1], [0, 3, 6]]);
        model
            .forward(ids.clone())
            .into_data()
            .assert_approx_eq::<f32>(&base.forward(ids).into_data(), Tolerance::absolute(1e-6));
    }

    #[test]
    fn what_an_adapter_trained_in_the_base_itself_is_refused_by_name() {
        let base = Model::new();
        let targets = Targets::matching("up");
        let config = LoraConfig::default().into();
        let model = Adapted::attach(base, &config, &targets, &["down"], &Device::flex()).expect("they fit");
        let error = model.updates().expect_err("the head is trained").to_string();
        assert!(error.contains("down.weight"), "{error}");
    }
}
