//! One base for many adapters: a batch in which each row has its own.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, ModuleVisitor, Param, Reparameterization, Reparameterizer};
use burn::tensor::{Int, Tensor};

use crate::adapted::is_adapter;
use crate::adapter::Plan;
use crate::base_weight::{BaseWeight, LinearLayer};
use crate::product::{in_compute_dtype, with_bias};
use crate::update::{SharedGain, Update};
use crate::{Adapted, Error, Site};

/// What an adapter does to each weight of its base, taken off a model that it is attached to.
#[derive(Debug, Clone, Default)]
pub struct Updates {
    by_path: BTreeMap<String, Update>,
    bytes: u64,
}

/// So many rows, one after the other, with one adapter; none is the base alone.
pub type Segment = (usize, Option<Arc<Updates>>);

/// Says which rows have which adapter in the passes that follow; all clones of a model hear the same.
#[derive(Debug, Clone, Default)]
pub struct RowAdapters(Arc<Mutex<Vec<Segment>>>);

impl Updates {
    /// Those of the adapters of `adapted`.
    ///
    /// # Errors
    /// If it trained a parameter of the base beside its adapters, which all rows share.
    pub fn of<M: Module>(adapted: &Adapted<M>) -> Result<Self, Error> {
        if let Some(path) = adapted.trained_in_base().into_iter().next() {
            return Err(Error::TrainedInBase { path });
        }
        let mut collected = Collected::default();
        adapted.model.visit(&mut collected);
        let bytes = collected.params.values().map(|param| param.count() as u64 * 4).sum();
        let update = |((site, plan), gain): ((&Site, &Plan), &SharedGain)| {
            let path = site.weight_path();
            let update = Update::of_params(&collected.at(&path), plan.scale, gain.clone());
            (path, update)
        };
        let sites = adapted.sites().iter().zip(adapted.plans()).zip(adapted.shared_gains());
        Ok(Self { by_path: sites.map(update).collect(), bytes })
    }

    /// Bytes of its matrices and vectors.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// `model` with room for an adapter a row at each weight whose path `is_wanted`, such as `blocks.0.attention.query.weight`.
///
/// Such a model answers; it cannot be trained, merged or saved.
pub fn with_row_adapters<M: Module>(model: M, is_wanted: &dyn Fn(&str) -> bool) -> (M, RowAdapters) {
    let rows = RowAdapters::default();
    (model.apply_reparameterization(Place { is_wanted, rows: rows.clone() }), rows)
}

impl RowAdapters {
    /// Gives the rows of the next passes their adapters, in order; rows beyond them have none.
    pub fn choose(&self, segments: Vec<Segment>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = segments;
    }

    /// The segments of a pass in which the batch has `rows` rows, one for each token.
    fn of_pass(&self, rows: usize) -> Vec<Segment> {
        let segments = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let batch: usize = segments.iter().map(|(rows, _)| rows).sum();
        if batch == 0 {
            return vec![(rows, None)];
        }
        assert_eq!(rows % batch, 0, "as many tokens in each row of the batch");
        let scaled = |(count, updates): &Segment| (count * (rows / batch), updates.clone());
        segments.iter().map(scaled).collect()
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
        let segments = self.rows.of_pass(x.dims()[0]);
        let bias = layer.bias().map(|bias| bias.val());
        let y = BaseWeight::of(layer).product(x.clone(), None);
        if segments.iter().all(|segment| self.update(segment).is_none()) {
            return with_bias(y, bias);
        }
        self.by_segment(&segments, |update, range| {
            let (y, x) = (y.clone().slice([range.clone()]), x.clone().slice([range]));
            match update {
                Some(update) => update.onto(y, x, bias.clone()),
                None => with_bias(y, bias.clone()),
            }
        })
    }

    /// Rows of a table, with what the adapter of each adds.
    ///
    /// # Shapes
    /// - `looked_up`: `[rows, width]`; `ids`: `[rows]`
    /// - output: `[rows, width]`
    pub(crate) fn looked_up(&self, looked_up: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
        let segments = self.rows.of_pass(looked_up.dims()[0]);
        if segments.iter().all(|segment| self.update(segment).is_none()) {
            return looked_up;
        }
        let looked_up = in_compute_dtype(looked_up);
        self.by_segment(&segments, |update, range| {
            let rows = looked_up.clone().slice([range.clone()]);
            match update {
                Some(update) => rows.clone() + update.of_rows(ids.clone().slice([range])).cast(rows.dtype()),
                None => rows,
            }
        })
    }

    fn update<'a>(&self, (_, updates): &'a Segment) -> Option<&'a Update> {
        updates.as_ref()?.by_path.get(&self.path)
    }

    /// The rows that `forward` makes of each segment, one after the other.
    fn by_segment(
        &self,
        segments: &[Segment],
        forward: impl Fn(Option<&Update>, Range<usize>) -> Tensor<2>,
    ) -> Tensor<2> {
        let mut start = 0;
        let parts = segments.iter().filter(|(rows, _)| *rows > 0).map(|segment| {
            start += segment.0;
            forward(self.update(segment), start - segment.0..start)
        });
        Tensor::cat(parts.collect(), 0)
    }
}

/// Makes room at the weights that are wanted.
struct Place<'a> {
    is_wanted: &'a dyn Fn(&str) -> bool,
    rows: RowAdapters,
}

impl Reparameterizer for Place<'_> {
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

/// A parameter of an adapter.
#[derive(Debug, Clone)]
pub(crate) enum AdapterParam {
    Vector(Param<Tensor<1>>),
    Matrix(Param<Tensor<2>>),
}

impl AdapterParam {
    fn of<const D: usize>(param: &Param<Tensor<D>>) -> Option<Self> {
        let param: &dyn Any = param;
        let vector = || Some(Self::Vector(param.downcast_ref::<Param<Tensor<1>>>()?.clone()));
        let matrix = || Some(Self::Matrix(param.downcast_ref::<Param<Tensor<2>>>()?.clone()));
        vector().or_else(matrix)
    }

    fn count(&self) -> usize {
        match self {
            Self::Vector(param) => param.dims()[0],
            Self::Matrix(param) => param.dims().iter().product(),
        }
    }

    pub(crate) fn vector(self) -> Param<Tensor<1>> {
        match self {
            Self::Vector(param) => param,
            Self::Matrix(_) => panic!("a vector of an adapter"),
        }
    }

    pub(crate) fn matrix(self) -> Param<Tensor<2>> {
        match self {
            Self::Matrix(param) => param,
            Self::Vector(_) => panic!("a matrix of an adapter"),
        }
    }
}

/// The parameters of adapters by path.
#[derive(Default)]
struct Collected {
    path: Vec<String>,
    params: BTreeMap<String, AdapterParam>,
}

impl Collected {
    /// Those at the weight `path`, by their names within the adapter.
    fn at(&self, path: &str) -> BTreeMap<String, AdapterParam> {
        let prefix = format!("{path}.adapter.");
        let named = |(path, param): (&String, &AdapterParam)| {
            Some((path.strip_prefix(&prefix)?.to_owned(), param.clone()))
        };
        self.params.iter().filter_map(named).collect()
    }
}

impl ModuleVisitor for Collected {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        if is_adapter(&path) {
            let param = AdapterParam::of(param).expect("adapters have vectors and matrices");
            self.params.insert(path, param);
        }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::nn::{Embedding, EmbeddingConfig, LinearConfig};
    use burn::tensor::{Device, TensorData, Tolerance};

    use super::*;
    use crate::adapter::{DoraConfig, LoraConfig, NolaConfig};
    use crate::{AdapterConfig, Linear, Targets, adapted, adapted_embedding};

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
            models.iter().map(|model| Arc::new(Updates::of(model).expect("adapters alone"))).collect();
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
            .assert_approx_eq::<f32>(&Tensor::cat(expected, 0).into_data(), Tolerance::absolute(1e-5));
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
        let error = Updates::of(&model).expect_err("the head is trained").to_string();
        assert!(error.contains("down.weight"), "{error}");
    }
}
