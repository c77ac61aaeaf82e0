//! burn's update rules, with what they remember kept by the path of each parameter.
//!
//! burn keeps it by random numbers that every process draws anew, and puts what it reads back on a default device that
//! may not be there; so the walk over the parameters is ours, and the arithmetic is burn's.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::{DynOptimizer, DynState, GradientsParams, StateSink, StateSource};
use burn::tensor::{DType, Device, Tensor, TensorData};
use nola_core::float_params;
use serde_json::Value;

/// What an optimizer remembers of every parameter that it has changed, by path.
pub type Moments = BTreeMap<String, ParamMoments>;

/// What an optimizer remembers of one parameter: Adam's two moments and its count, or SGD's velocity.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ParamMoments {
    /// Tensors in f32, by burn's names.
    pub tensors: BTreeMap<String, TensorData>,
    /// Single numbers, likewise.
    pub numbers: BTreeMap<String, Value>,
}

/// An update rule with its memory.
#[derive(Clone)]
pub(super) struct ByPath {
    rule: Arc<dyn DynOptimizer>,
    states: BTreeMap<String, DynState>,
}

impl ByPath {
    pub(super) fn new(rule: impl DynOptimizer + 'static) -> Self {
        Self { rule: Arc::new(rule), states: BTreeMap::new() }
    }

    /// The model after a step; `rate` is the learning rate of a parameter.
    pub(super) fn step<M: Module>(
        &mut self,
        rate: &dyn Fn(ParamId) -> f64,
        model: M,
        gradients: GradientsParams,
    ) -> M {
        model.map(&mut Update { optimizer: self, rate, gradients, names: Vec::new() })
    }

    /// What is remembered, on the host.
    pub(super) fn moments(&self) -> Moments {
        self.states.iter().map(|(path, state)| (path.clone(), self.moments_of(state))).collect()
    }

    fn moments_of(&self, state: &DynState) -> ParamMoments {
        let mut sink = StateSink::default();
        self.rule.state_flatten("", state, &mut sink);
        let number = |value| serde_json::to_value(value).expect("a number");
        ParamMoments {
            tensors: sink.tensors.into_iter().map(|(name, data)| (name, copied(data))).collect(),
            numbers: sink.scalars.into_iter().map(|(name, value)| (name, number(value))).collect(),
        }
    }

    /// Remembers what another one of the same rule did, for the parameters of `model`.
    ///
    /// # Errors
    /// One text for each path that does not fit.
    pub(super) fn load<M: Module>(&mut self, model: &M, moments: Moments) -> Result<(), Vec<String>> {
        let params = float_params(model);
        let device = model.devices().into_iter().next().unwrap_or_default().inner();
        let mut problems = Vec::new();
        for (path, moments) in moments {
            let shape = params.iter().find(|param| param.path == path).map(|param| param.shape.clone());
            let state = shape.and_then(|shape| self.state_of(&shape, moments, &device));
            match state {
                Some(state) => drop(self.states.insert(path, state)),
                None => problems.push(format!("the moments of `{path}` belong to nothing in this model")),
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn state_of(&self, shape: &[usize], moments: ParamMoments, device: &Device) -> Option<DynState> {
        let names: Vec<String> = moments.tensors.keys().cloned().collect();
        let numbers = serde_json::to_value(moments.numbers).ok()?;
        let mut source = StateSource::new(serde_json::from_value(numbers).ok()?);
        for (name, data) in moments.tensors {
            if data.shape().to_vec() != shape {
                return None;
            }
            source.insert_tensor(name, data);
        }
        let state = self.rule.state_unflatten(shape.len(), "", &mut source, device)?;
        // What another rule remembered is left out without a word.
        self.moments_of(&state).tensors.into_keys().eq(names).then_some(state)
    }
}

/// On some devices the data is a view of memory that the next step changes.
fn copied(data: TensorData) -> TensorData {
    let data = data.convert_dtype(DType::F32);
    let values = data.as_slice::<f32>().expect("it was converted to f32").to_vec();
    TensorData::new(values, data.shape())
}

/// Changes every parameter that has a gradient.
struct Update<'a> {
    optimizer: &'a mut ByPath,
    rate: &'a dyn Fn(ParamId) -> f64,
    gradients: GradientsParams,
    names: Vec<String>,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.names.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.names.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let (path, rate) = (self.names.join("."), (self.rate)(param.id));
        let (rule, states) = (&self.optimizer.rule, &mut self.optimizer.states);
        param.map(|old| {
            let (is_trained, strategy) = (old.is_require_grad(), old.gradient_checkpointing_strategy());
            // A memory of half precision would lose Adam's epsilon.
            let (dtype, wide) = (old.dtype(), |tensor: Tensor<D>| tensor.cast(DType::F32).into_bridge());
            let (old, gradient) = (wide(old.inner()), wide(gradient));
            let (new, state) = rule.step_dyn(D, rate, old, gradient, states.remove(&path));
            states.extend(state.map(|state| (path, state)));
            let new = Tensor::<D>::from_inner(Tensor::<D>::from_bridge(new).cast(dtype));
            let new = match strategy {
                Some(strategy) => new.with_gradient_checkpointing_strategy(strategy),
                None => new,
            };
            if is_trained { new.require_grad() } else { new }
        })
    }
}
