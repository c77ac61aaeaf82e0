//! Walks over the parameters of a module, by path and by id.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Int, Tensor, TensorData};

use crate::base_weight::{self, BaseWeight};
use crate::packed_weights::{find_words, packed_words};
use crate::site::{Site, SiteKind};

/// A float parameter as a walk meets it.
#[derive(Debug, Clone)]
pub struct FoundParam {
    /// Path in the model.
    pub path: String,
    /// Identity across clones, device moves and optimizer steps.
    pub id: ParamId,
    /// Lengths of its axes.
    pub shape: Vec<usize>,
    /// Whether its model keeps it from being trained; a parameter that was never used counts as free.
    pub frozen: bool,
    /// Kind of the module that holds it, such as `Linear`.
    container: String,
}

impl FoundParam {
    /// Whether it is the weight or the bias of a linear layer.
    pub(crate) fn is_of_linear(&self) -> bool {
        self.container == "Struct:Linear"
    }

    /// Whether it is the table of an embedding.
    pub(crate) fn is_of_embedding(&self) -> bool {
        self.container == "Struct:Embedding"
    }

    /// Whether it is the weight or the bias of a convolution over images.
    pub(crate) fn is_of_convolution(&self) -> bool {
        self.container == "Struct:Conv2d"
    }
}

#[derive(Default)]
struct Walk {
    names: Vec<String>,
    containers: Vec<String>,
    found: Vec<FoundParam>,
}

impl ModuleVisitor for Walk {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.names.push(name.to_owned());
        self.containers.push(container_type.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.names.pop();
        self.containers.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.push(FoundParam {
            path: self.names.join("."),
            id: param.id,
            shape: param.lazy_shape().to_vec(),
            // Asking one that was never used would allocate it, and asking for `val` would merge an adapter.
            frozen: param.is_initialized() && !param.base().is_require_grad(),
            container: self.containers.last().cloned().unwrap_or_default(),
        });
    }
}

/// Every float parameter of `module`, in its order; nothing is initialised by looking.
pub fn float_params<M: Module>(module: &M) -> Vec<FoundParam> {
    let mut walk = Walk::default();
    module.visit(&mut walk);
    walk.found
}

/// Every weight of `module` that an adapter can be attached to, in its order.
pub(crate) fn sites<M: Module>(module: &M) -> Vec<Site> {
    let site = |param: FoundParam| {
        let &[d_in, d_out] = param.shape.as_slice() else { return None };
        let path = param.path.strip_suffix(".weight")?;
        let linear = || Site::linear(path, d_in, d_out);
        let embedding = || Site::embedding(path, d_in, d_out);
        param.is_of_linear().then(linear).or_else(|| param.is_of_embedding().then(embedding))
    };
    float_params(module).into_iter().filter_map(site).collect()
}

/// Every linear layer of `module`, in its order.
pub(crate) fn linear_sites<M: Module>(module: &M) -> Vec<Site> {
    sites(module).into_iter().filter(|site| site.kind == SiteKind::Linear).collect()
}

/// Paths of the biases of `module`, those of its norms too.
pub fn biases<M: Module>(module: &M) -> Vec<String> {
    let is_bias = |param: &FoundParam| {
        let leaf = param.path.rsplit('.').next().unwrap_or_default();
        foreign_leaf(leaf) == "bias" && param.shape.len() == 1
    };
    float_params(module).into_iter().filter(is_bias).map(|param| param.path).collect()
}

/// Paths of the weights of `module` that no adapter can be attached to: those of convolutions and other layers that are neither
/// linear nor embeddings.
pub fn unadaptable_weights<M: Module>(module: &M) -> Vec<String> {
    let is_other =
        |param: &FoundParam| param.shape.len() > 1 && !param.is_of_linear() && !param.is_of_embedding();
    let others = float_params(module).into_iter().filter(is_other);
    others.map(|param| param.path).collect()
}

struct Read<'a> {
    wanted: &'a [ParamId],
    packed: BTreeMap<ParamId, Tensor<1, Int>>,
    values: BTreeMap<ParamId, TensorData>,
}

impl ModuleVisitor for Read<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.wanted.contains(&param.id) {
            return;
        }
        let values = match self.packed.remove(&param.id) {
            Some(words) => base_weight::dequantized(words),
            // Copied: on some devices the data is a view of memory that the next optimizer step changes.
            None => {
                let data = param.val().into_data().convert_dtype(DType::F32);
                data.as_slice::<f32>().expect("it was converted to f32").to_vec()
            }
        };
        self.values.insert(param.id, TensorData::new(values, param.lazy_shape()));
    }
}

/// The values of the parameters `wanted`, as `f32` on the host; those of packed weights are dequantised.
pub fn read_params<M: Module>(module: &M, wanted: &[ParamId]) -> BTreeMap<ParamId, TensorData> {
    let mut read = Read { wanted, packed: packed_words(module), values: BTreeMap::new() };
    module.visit(&mut read);
    read.values
}

struct Tensors<'a> {
    wanted: &'a [ParamId],
    packed: BTreeMap<ParamId, Tensor<1, Int>>,
    tensors: BTreeMap<ParamId, BaseWeight>,
}

impl ModuleVisitor for Tensors<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.wanted.contains(&param.id) {
            let shape = param.lazy_shape().to_vec();
            let last = shape.last().copied().unwrap_or(1);
            let base = param.base().inner();
            let weight = match self.packed.remove(&param.id) {
                // What stands for it is never copied.
                Some(words) => BaseWeight::Packed { words, sizes: [shape[0], last], compute: base.dtype() },
                None => BaseWeight::Dense(base.reshape([-1, last as i64])),
            };
            self.tensors.insert(param.id, weight);
        }
    }
}

/// The parameters `wanted` where they are, without their adapters, as matrices outside autodiff.
pub(crate) fn base_weights<M: Module>(module: &M, wanted: &[ParamId]) -> BTreeMap<ParamId, BaseWeight> {
    let mut tensors = Tensors { wanted, packed: packed_words(module), tensors: BTreeMap::new() };
    module.visit(&mut tensors);
    tensors.tensors
}

/// The same for parameters that are never packed.
///
/// # Panics
/// If one is.
pub(crate) fn base_tensors<M: Module>(module: &M, wanted: &[ParamId]) -> BTreeMap<ParamId, Tensor<2>> {
    let dense = |weight| match weight {
        BaseWeight::Dense(tensor) => tensor,
        BaseWeight::Packed { .. } => panic!("only weights of layers are packed"),
    };
    base_weights(module, wanted).into_iter().map(|(id, weight)| (id, dense(weight))).collect()
}

struct Write {
    values: BTreeMap<ParamId, TensorData>,
    /// Words of packed weights that become dense.
    unpacked: Vec<ParamId>,
}

impl ModuleMapper for Write {
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        if self.unpacked.contains(&param.id) { base_weight::no_words(&param) } else { param }
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(data) = self.values.remove(&param.id) else { return param };
        param.map(|old| {
            let trained = old.is_require_grad();
            let new = Tensor::from_data(data.convert_dtype(old.dtype()), (&old.device(), old.dtype()));
            new.set_require_grad(trained)
        })
    }
}

/// `module` with new values for some parameters, of the same shapes; all else stays as it is. A packed weight becomes dense.
pub fn write_params<M: Module>(module: M, values: BTreeMap<ParamId, TensorData>) -> M {
    let packed = find_words(&module).into_iter();
    let unpacked = packed.filter(|(id, _)| values.contains_key(id)).map(|(_, words)| words.id).collect();
    module.map(&mut Write { values, unpacked })
}

struct Replace {
    tensors: BTreeMap<ParamId, Tensor<2>>,
}

impl ModuleMapper for Replace {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(new) = self.tensors.remove(&param.id) else { return param };
        param.map(|old| {
            let trained = old.is_require_grad();
            let new = new.reshape(old.shape()).cast(old.dtype()).to_device(&old.device());
            let new = match old.gradient_checkpointing_strategy() {
                Some(strategy) => new.autodiff().with_gradient_checkpointing_strategy(strategy),
                None => new,
            };
            new.set_require_grad(trained)
        })
    }
}

/// `module` with new values for some parameters, as tensors outside autodiff; all else stays as it is.
pub(crate) fn replace_params<M: Module>(module: M, tensors: BTreeMap<ParamId, Tensor<2>>) -> M {
    module.map(&mut Replace { tensors })
}

struct Train<'a> {
    wanted: &'a [ParamId],
}

impl ModuleMapper for Train<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trained = self.wanted.contains(&param.id);
        param.set_require_grad(trained)
    }
}

/// `module` with the parameters `wanted` trained and all others frozen.
pub fn train_only<M: Module>(module: M, wanted: &[ParamId]) -> M {
    module.map(&mut Train { wanted })
}

/// What a parameter of ours is called inside a module of transformers.
pub(crate) fn foreign_leaf(leaf: &str) -> &str {
    match leaf {
        "gamma" => "weight",
        "beta" => "bias",
        other => other,
    }
}
