//! Fills a model from a checkpoint through a map of names, strictly.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use half::{bf16, f16};
use safetensors::Dtype;

use super::{Checkpoint, Stored};
use crate::Error;

/// Where the checkpoint keeps one parameter of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The names it may have; the first one present is taken.
    pub names: Vec<String>,
    /// Which rows of the stored tensor it is.
    pub part: Part,
    /// Whether the stored matrix is `[d_out, d_in]`, as PyTorch's linear layers are, and ours `[d_in, d_out]`.
    pub transposed: bool,
}

/// Which rows of a stored tensor a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    Whole,
    /// The `index`-th of `of` equal parts, of a fused projection.
    Rows {
        /// Counted from 0.
        index: usize,
        /// Number of parts.
        of: usize,
    },
}

/// How the names of a checkpoint map to those of a model.
pub struct KeyMap<'a> {
    /// The source of the parameter at a path such as `blocks.0.attention.query.weight`; none for one that the
    /// checkpoint leaves out and that stays as it is.
    pub source: &'a dyn Fn(&str) -> Option<Source>,
    /// Stored tensors that the model knowingly leaves out: whole names, or prefixes that end in a dot.
    pub ignored: &'a [&'static str],
}

impl Checkpoint {
    /// Fills every float parameter of `module`; only its shapes are read, so lazy parameters stay unallocated.
    ///
    /// Stored f32, f16 and bf16 become f32.
    ///
    /// # Errors
    /// One error lists all missing, unused and misshapen tensors; another all tensors with values that are not finite.
    pub fn fill<M: Module>(&self, module: M, map: &KeyMap) -> Result<M, Error> {
        let mut check = Check {
            checkpoint: self,
            map,
            path: Vec::new(),
            used: BTreeSet::new(),
            missing: vec![],
            misshapen: vec![],
        };
        module.visit(&mut check);
        let Check { used, missing, misshapen, .. } = check;
        let known = |name: &str| {
            used.contains(name)
                || map.ignored.iter().any(|&left_out| {
                    name == left_out || left_out.ends_with('.') && name.starts_with(left_out)
                })
        };
        let extra: Vec<String> =
            self.tensor_names().filter(|name| !known(name)).map(str::to_string).collect();
        if !(missing.is_empty() && extra.is_empty() && misshapen.is_empty()) {
            return Err(Error::Mismatch { folder: self.folder.clone(), missing, extra, misshapen });
        }
        let damaged = used.iter().filter_map(|name| {
            let count = numbers(self, &self.tensors[name]).iter().filter(|value| !value.is_finite()).count();
            (count > 0).then(|| (name.clone(), count))
        });
        let tensors: Vec<_> = damaged.collect();
        if !tensors.is_empty() {
            return Err(Error::NonFinite { folder: self.folder.clone(), tensors });
        }
        Ok(module.map(&mut Fill { checkpoint: self, map, path: Vec::new() }))
    }

    fn find(&self, source: &Source) -> Option<(&String, &Stored)> {
        source.names.iter().find_map(|name| self.tensors.get_key_value(name))
    }
}

/// First walk: compares names and shapes, allocates nothing.
struct Check<'a> {
    checkpoint: &'a Checkpoint,
    map: &'a KeyMap<'a>,
    path: Vec<String>,
    used: BTreeSet<String>,
    missing: Vec<String>,
    misshapen: Vec<String>,
}

impl ModuleVisitor for Check<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(source) = (self.map.source)(&self.path.join(".")) else {
            return;
        };
        let Some((name, stored)) = self.checkpoint.find(&source) else {
            self.missing.push(source.names.join(" or "));
            return;
        };
        self.used.insert(name.clone());
        let expected = stored_shape(param.lazy_shape().as_slice(), &source);
        if stored.shape != expected {
            self.misshapen.push(format!("{name} is {:?}, expected {expected:?}", stored.shape));
        } else if !matches!(stored.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            self.misshapen.push(format!("{name} is {}, expected F32, F16 or BF16", stored.dtype));
        }
    }
}

/// Second walk: every name and shape fits.
struct Fill<'a> {
    checkpoint: &'a Checkpoint,
    map: &'a KeyMap<'a>,
    path: Vec<String>,
}

impl ModuleMapper for Fill<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(source) = (self.map.source)(&self.path.join(".")) else {
            return param;
        };
        let (_, stored) = self.checkpoint.find(&source).expect("the first walk found every tensor");
        let shape = param.lazy_shape();
        let all = numbers(self.checkpoint, stored);
        let values = match source.part {
            Part::Whole => all,
            Part::Rows { index, of } => all[index * all.len() / of..(index + 1) * all.len() / of].to_vec(),
        };
        let values = match (source.transposed, shape.as_slice()) {
            (true, &[d_in, d_out]) => transposed(&values, d_out, d_in),
            _ => values,
        };
        let data = TensorData::new(values, shape);
        Param::initialized(param.id, Tensor::from_data(data, &param.lazy_device())).set_require_grad(true)
    }
}

/// The shape a checkpoint must hold so that the parameter gets `shape`.
fn stored_shape(shape: &[usize], source: &Source) -> Vec<usize> {
    let mut stored = shape.to_vec();
    if source.transposed {
        stored.reverse();
    }
    if let (Part::Rows { of, .. }, Some(rows)) = (source.part, stored.first_mut()) {
        *rows *= of;
    }
    stored
}

/// The columns of a row-major matrix `[rows, cols]` one after the other.
fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut turned = Vec::with_capacity(values.len());
    for col in 0..cols {
        turned.extend((0..rows).map(|row| values[row * cols + col]));
    }
    turned
}

/// Values of a stored float tensor, as f32.
fn numbers(checkpoint: &Checkpoint, stored: &Stored) -> Vec<f32> {
    let bytes = checkpoint.bytes(stored);
    match stored.dtype {
        Dtype::F16 => bytes.as_chunks().0.iter().map(|&two| f16::from_le_bytes(two).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|&two| bf16::from_le_bytes(two).to_f32()).collect(),
        // The first walk lets only three types through; this is the third.
        _ => bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect(),
    }
}
