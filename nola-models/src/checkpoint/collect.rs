//! Reads a model back into named tensors: the way of the key map, backwards.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Int, Tensor, TensorData};
use nola_core::{FoundParam, LowRankWeights, dequantized, float_params, low_rank_weights, packed_words};

use super::{NamedTensor, Part, Source, low_rank};

/// Every float parameter of `module` under the first name that `source` has for its path; adapters are merged in, packed
/// weights become dense, and low-rank weights stay what they are.
///
/// Parts of a fused tensor are joined; the module must hold them in order.
///
/// # Panics
/// If a packed weight has an adapter, which [`Adapted::merge`](nola_core::Adapted::merge) bakes in.
pub fn collect<M: Module>(module: M, source: &dyn Fn(&str) -> Source) -> Vec<NamedTensor> {
    let low_rank = low_rank_weights(&module);
    let adapted: Vec<String> = (float_params(&module).iter())
        .filter_map(|param| Some(format!("{}.weight", param.path.split_once(".weight.adapter.")?.0)))
        .collect();
    let module = if low_rank.is_empty() { module.materialize() } else { module };
    let packed = packed_words(&module);
    let is_adapted = |param: &FoundParam| packed.contains_key(&param.id) && adapted.contains(&param.path);
    let lost = float_params(&module).into_iter().find(is_adapted);
    assert!(lost.is_none(), "an adapter over a packed weight is saved by `Adapted::merge` first");
    let mut collected = Collect { source, low_rank, packed, path: Vec::new(), tensors: Vec::new() };
    module.visit(&mut collected);
    collected.tensors
}

struct Collect<'a> {
    source: &'a dyn Fn(&str) -> Source,
    low_rank: LowRankWeights,
    packed: BTreeMap<ParamId, Tensor<1, Int>>,
    path: Vec<String>,
    tensors: Vec<NamedTensor>,
}

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        if let Some(weight) = self.low_rank.get(&path) {
            return self.tensors.extend(low_rank::named(weight, &(self.source)(&path)));
        }
        if self.low_rank.keys().any(|weight| path.starts_with(&format!("{weight}."))) {
            return;
        }
        let Source { names, part, transposed } = (self.source)(&path);
        let value = match self.packed.remove(&param.id) {
            Some(words) => Tensor::from_data(
                TensorData::new(dequantized(words), param.lazy_shape()),
                (&param.lazy_device(), DType::F32),
            ),
            None => param.val(),
        };
        let value = if transposed { value.swap_dims(0, 1) } else { value };
        let shape = part.stored_axes(&value.dims()).to_vec();
        let values = value.into_data_as::<f32>().try_into_vec().expect("the type was asked for");
        let name = names.into_iter().next().expect("every parameter has a name");
        let tensor = NamedTensor { name, shape, values };
        match self.tensors.iter_mut().find(|fused| fused.name == tensor.name) {
            Some(fused) => append(fused, tensor, part),
            None => self.tensors.push(tensor),
        }
    }
}

/// Joins a further part to a fused tensor.
///
/// # Panics
/// If two whole parameters have one name: the key map is then wrong.
fn append(fused: &mut NamedTensor, part: NamedTensor, kind: Part) {
    match kind {
        Part::Whole | Part::LastAxes(_) => panic!("two parameters are named `{}`", part.name),
        Part::Rows(_) => {
            fused.shape[0] += part.shape[0];
            fused.values.extend(part.values);
        }
        Part::Columns(_) => {
            let last = fused.shape.len() - 1;
            let (left, right) = (fused.shape[last], part.shape[last]);
            let rows = fused.values.chunks(left).zip(part.values.chunks(right));
            fused.values = rows.flat_map(|(left, right)| [left, right]).flatten().copied().collect();
            fused.shape[last] += right;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Shares;
    use super::*;

    fn tensor(shape: &[usize], values: &[f32]) -> NamedTensor {
        NamedTensor { name: "fused".to_string(), shape: shape.to_vec(), values: values.to_vec() }
    }

    #[test]
    fn columns_are_joined_row_by_row() {
        let mut fused = tensor(&[2, 1], &[1.0, 4.0]);
        append(&mut fused, tensor(&[2, 2], &[2.0, 3.0, 5.0, 6.0]), Part::Columns(Shares::nth(1, 2)));
        assert_eq!(fused, tensor(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    }

    #[test]
    fn columns_of_vectors_are_joined_end_to_end() {
        let mut fused = tensor(&[1], &[1.0]);
        append(&mut fused, tensor(&[2], &[2.0, 3.0]), Part::Columns(Shares::nth(1, 2)));
        assert_eq!(fused, tensor(&[3], &[1.0, 2.0, 3.0]));
    }
}
