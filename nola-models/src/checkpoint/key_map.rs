//! Fills a model from a checkpoint through a map of names, strictly.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{AllocationProperty, Bytes, Int, Shape, Tensor, TensorData};
use half::{bf16, f16};
use nola_core::weight::{PackedWeight, Quantization};
use nola_core::{Packing, with_low_rank_weights};
use safetensors::Dtype;

use super::numbers::Numbers;
use super::{Checkpoint, Part, Stored};
use crate::{Error, WeightDtype};

/// Where the checkpoint keeps one parameter of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The names it may have; the first one present is taken. Others that are present too must hold the same bytes.
    pub names: Vec<String>,
    /// How much of the stored tensor it is.
    pub part: Part,
    /// Whether the stored matrix is `[d_out, d_in]`, as PyTorch's linear layers are, and ours `[d_in, d_out]`.
    pub transposed: bool,
}

/// How the names of a checkpoint map to those of a model.
pub struct KeyMap<'a> {
    /// The source of the parameter at a path such as `blocks.0.attention.query.weight`; none for one that the
    /// checkpoint leaves out and that stays as it is.
    pub source: &'a dyn Fn(&str) -> Option<Source>,
    /// The storage dtype of the parameter at a path.
    pub dtype: &'a dyn Fn(&str) -> WeightDtype,
    /// How the weight at a path is quantised, if it is one of a linear layer.
    pub quantization: &'a dyn Fn(&str) -> Option<Quantization>,
    /// Whether the weight at a path stays in few bits where a GGUF file stores it so and a kernel reads it.
    pub keeps_few_bits: &'a dyn Fn(&str) -> bool,
    /// Stored tensors that the model knowingly leaves out: whole names, or prefixes that end in a dot; `*` stands for
    /// one part between dots.
    pub ignored: &'a [&'static str],
}

impl Checkpoint {
    /// Fills every float parameter of `module`; only its shapes are read, so lazy parameters stay unallocated.
    ///
    /// Stored f32, f16 and bf16 become what [`KeyMap::dtype`] says while they are read, one tensor at a time: beside the
    /// model, the host holds no more than one. Of what is stored in that type and is neither part of a tensor nor
    /// transposed, the CPU holds no copy at all. Weights of linear layers are quantised in the same way, if
    /// [`KeyMap::quantization`] says so; those that bitsandbytes stored in few bits stay as they are, and of what GGUF stores in
    /// blocks those that [`KeyMap::keeps_few_bits`] names and a kernel reads; the rest is made dense.
    ///
    /// # Errors
    /// One error lists all missing, unused, misshapen and contradictory tensors; another all tensors with values that
    /// are not finite; another all with values that f16, if they are to be stored in it, does not reach.
    pub fn fill<M: Module>(&self, module: M, map: &KeyMap) -> Result<M, Error> {
        let packing = Packing::of(&module);
        let mut check = Check {
            checkpoint: self,
            map,
            packing: &packing,
            path: Vec::new(),
            found: Mismatches::default(),
        };
        module.visit(&mut check);
        let Mismatches { used, narrow, twins, missing, misshapen, different, low_rank, packed, requantized } =
            check.found;
        let known = |name: &str| {
            used.contains(name)
                || packed.contains(name)
                || twins.contains(name)
                || map.ignored.iter().any(|pattern| is_left_out(pattern, name))
        };
        let extra: Vec<String> =
            self.tensor_names().filter(|name| !known(name)).map(str::to_string).collect();
        if [&missing, &extra, &misshapen, &different].iter().any(|problems| !problems.is_empty()) {
            return Err(Error::Mismatch {
                folder: self.folder.clone(),
                missing,
                extra,
                misshapen,
                different,
            });
        }
        if let Some(found) = requantized {
            return Err(Error::AlreadyQuantized { folder: self.folder.clone(), found });
        }
        let tensors = self.counted(&used, |numbers| numbers.not_finite());
        if !tensors.is_empty() {
            return Err(Error::NonFinite { folder: self.folder.clone(), tensors });
        }
        let tensors = self.counted(&narrow, |numbers| numbers.beyond_f16());
        if !tensors.is_empty() {
            return Err(Error::BeyondF16 { folder: self.folder.clone(), tensors });
        }
        let fill = &mut Fill { checkpoint: self, map, packing, path: Vec::new() };
        let module = module.map(fill);
        if low_rank.is_empty() {
            return Ok(module);
        }
        let weights =
            low_rank.into_iter().map(|(path, source)| (path, self.low_rank_weight(&source))).collect();
        let device = module.devices().into_iter().next().expect("a model has parameters");
        Ok(with_low_rank_weights(module, &weights, &device))
    }

    /// The stored tensors under the names of `source`.
    fn find(&self, source: &Source) -> impl Iterator<Item = (&String, &Stored)> {
        source.names.iter().filter_map(|name| self.tensors.get_key_value(name))
    }

    /// Those of `names` whose tensors hold numbers that `count` counts, with how many.
    fn counted(&self, names: &BTreeSet<String>, count: fn(&Numbers) -> usize) -> Vec<(String, usize)> {
        let counted = names.iter().map(|name| (name.clone(), count(&self.numbers(&self.tensors[name]))));
        counted.filter(|(_, count)| *count > 0).collect()
    }

    pub(super) fn numbers<'a>(&'a self, stored: &'a Stored) -> Numbers<'a> {
        let bytes = match &stored.foreign {
            Some(foreign) => Cow::Owned(foreign.dense(self.bytes(stored))),
            None => Cow::Borrowed(self.bytes(stored)),
        };
        Numbers { dtype: stored.dtype, shape: &stored.shape, bytes }
    }

    /// What `source` says of a stored tensor, as `dtype`; not copied if it lies there as it is wanted.
    fn data(&self, stored: &Stored, source: &Source, dtype: WeightDtype, shape: Shape) -> TensorData {
        let Source { part, transposed, .. } = *source;
        let mapped = self.shards[stored.shard].slice(stored.bytes.clone());
        let as_wanted = stored.foreign.is_none()
            && stored.dtype == stored_as(dtype)
            && part == Part::Whole
            && !transposed;
        let is_aligned = mapped.as_ptr().addr().is_multiple_of(dtype.bytes());
        if as_wanted && cfg!(target_endian = "little") && is_aligned {
            let bytes = Bytes::from_shared(mapped, AllocationProperty::File);
            return TensorData::from_bytes(bytes, shape, dtype.dtype());
        }
        let numbers = self.numbers(stored);
        match dtype {
            WeightDtype::F32 => TensorData::new(numbers.read::<f32>(part, transposed), shape),
            WeightDtype::Bf16 => TensorData::new(numbers.read::<bf16>(part, transposed), shape),
            WeightDtype::F16 => TensorData::new(numbers.read::<f16>(part, transposed), shape),
        }
    }

    /// The weight of a linear layer that GGUF stores in blocks which a kernel reads.
    fn kept(&self, stored: &Stored, source: &Source) -> Option<PackedWeight> {
        let foreign = stored.foreign.as_ref()?;
        let all = foreign.rows();
        // Rows of the file are outputs.
        let outputs = match (source.part, foreign.is_turned()) {
            (Part::Whole, is_turned) if is_turned != source.transposed => 0..all,
            (Part::Rows(shares), false) | (Part::Columns(shares), true) => shares.range(all),
            (Part::Whole | Part::Rows(_) | Part::Columns(_) | Part::LastAxes(_), _) => return None,
        };
        foreign.packed(self.bytes(stored), outputs)
    }

    fn is_same(&self, one: &Stored, other: &Stored) -> bool {
        (one.dtype, &one.shape, &one.foreign) == (other.dtype, &other.shape, &other.foreign)
            && self.bytes(one) == self.bytes(other)
    }
}

/// What files call `dtype`.
pub(super) fn stored_as(dtype: WeightDtype) -> Dtype {
    match dtype {
        WeightDtype::F32 => Dtype::F32,
        WeightDtype::Bf16 => Dtype::BF16,
        WeightDtype::F16 => Dtype::F16,
    }
}

/// Whether `name` is what `pattern` leaves out; see [`KeyMap::ignored`].
fn is_left_out(pattern: &str, name: &str) -> bool {
    let mut parts = name.split('.');
    for wanted in pattern.split_terminator('.') {
        match parts.next() {
            Some(part) if wanted == "*" || wanted == part => {}
            Some(_) | None => return false,
        }
    }
    pattern.ends_with('.') || parts.next().is_none()
}

/// What the first walk finds.
#[derive(Default)]
struct Mismatches {
    used: BTreeSet<String>,
    /// Those of them that are to be stored in f16.
    narrow: BTreeSet<String>,
    /// Second names of what is used under its first.
    twins: BTreeSet<String>,
    missing: Vec<String>,
    misshapen: Vec<String>,
    different: Vec<String>,
    /// Weights in whose place two narrow matrices are stored, by path.
    low_rank: BTreeMap<String, Source>,
    /// Tensors of weights that are stored in few bits.
    packed: BTreeSet<String>,
    /// How weights are stored that were to be quantised otherwise.
    requantized: Option<Quantization>,
}

/// Adds `problem` unless a part of the same fused tensor has added it.
fn note(problems: &mut Vec<String>, problem: String) {
    if !problems.contains(&problem) {
        problems.push(problem);
    }
}

/// First walk: compares names and shapes; of what is stored in few bits, one weight at a time is read.
struct Check<'a> {
    checkpoint: &'a Checkpoint,
    map: &'a KeyMap<'a>,
    packing: &'a Packing,
    path: Vec<String>,
    found: Mismatches,
}

impl ModuleVisitor for Check<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        let Some(source) = (self.map.source)(&path) else {
            return;
        };
        let Mismatches { used, narrow, twins, missing, misshapen, different, low_rank, packed, requantized } =
            &mut self.found;
        let mut stored_under = self.checkpoint.find(&source);
        let Some((name, stored)) = stored_under.next() else {
            let Some(names) = self.checkpoint.low_rank_names(&source, param.lazy_shape().as_slice()) else {
                return note(missing, source.names.join(" or "));
            };
            used.extend(names);
            low_rank.insert(path, source.clone());
            return;
        };
        if self.packing.is_possible_at(&path) && Checkpoint::has_codes(stored) {
            match self.checkpoint.packed(name, &source, param.lazy_shape().as_slice()) {
                Ok(found) => {
                    let wanted = (self.map.quantization)(&path);
                    let is_other = wanted.is_some_and(|wanted| wanted != found.quantization);
                    *requantized = requantized.or(is_other.then_some(found.quantization));
                    packed.extend(found.names);
                    used.extend(found.scales);
                }
                Err(problem) => {
                    packed.extend(self.checkpoint.beside_packed(name));
                    note(misshapen, format!("{name} {problem}"));
                }
            }
            return;
        }
        used.insert(name.clone());
        if (self.map.dtype)(&path) == WeightDtype::F16 {
            narrow.insert(name.clone());
        }
        for (twin, other) in stored_under {
            twins.insert(twin.clone());
            if !self.checkpoint.is_same(stored, other) {
                note(different, format!("{name} and {twin}"));
            }
        }
        let expected = stored_shape(param.lazy_shape().as_slice(), &source);
        if stored.shape != expected {
            note(misshapen, format!("{name} is {:?}, expected {expected:?}", stored.shape));
        } else if !matches!(stored.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            note(misshapen, format!("{name} is {}, expected F32, F16 or BF16", stored.dtype));
        }
    }
}

/// Second walk: every name and shape fits.
struct Fill<'a> {
    checkpoint: &'a Checkpoint,
    map: &'a KeyMap<'a>,
    packing: Packing,
    path: Vec<String>,
}

impl Fill<'_> {
    /// The weight at `path` in few bits, if it is stored so, or to be quantised.
    fn packed(&self, path: &str, source: &Source, shape: &[usize]) -> Option<PackedWeight> {
        let (name, stored) =
            self.checkpoint.find(source).next().filter(|_| self.packing.is_possible_at(path))?;
        let quantization = (self.map.quantization)(path);
        if Checkpoint::has_codes(stored) {
            let packed = self.checkpoint.packed(name, source, shape);
            return Some(packed.expect("it was checked").into_weight());
        }
        let Some(quantization) = quantization else {
            return (self.map.keeps_few_bits)(path).then(|| self.checkpoint.kept(stored, source)).flatten();
        };
        // As PyTorch's layers are: `[d_out, d_in]`, row-major.
        let values = self.checkpoint.numbers(stored).read::<f32>(source.part, !source.transposed);
        Some(PackedWeight::quantize(quantization, &values, [shape[0], shape[1]]))
    }
}

impl ModuleMapper for Fill<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join(".");
        let Some(source) = (self.map.source)(&path) else {
            return param;
        };
        let dtype = (self.map.dtype)(&path);
        let Some((_, stored)) = self.checkpoint.find(&source).next() else {
            // Two narrow matrices take its place.
            return param;
        };
        if let Some(packed) = self.packed(&path, &source, param.lazy_shape().as_slice()) {
            return self.packing.weight(&param, packed, dtype.dtype());
        }
        let data = self.checkpoint.data(stored, &source, dtype, param.lazy_shape());
        let tensor = Tensor::from_data(data, (&param.lazy_device(), dtype.dtype()));
        Param::initialized(param.id, tensor).set_require_grad(true)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.packing.words(param)
    }
}

/// The shape a checkpoint must hold so that the parameter gets `shape`.
fn stored_shape(shape: &[usize], source: &Source) -> Vec<usize> {
    let mut stored = shape.to_vec();
    if source.transposed {
        stored.reverse();
    }
    let (axis, shares) = match source.part {
        Part::Whole => return stored,
        Part::LastAxes(_) => return source.part.stored_axes(shape).to_vec(),
        Part::Rows(shares) => (stored.first_mut(), shares),
        Part::Columns(shares) => (stored.last_mut(), shares),
    };
    if let Some(size) = axis {
        *size = shares.whole(*size);
    }
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_leaves_out_one_part_of_a_name() {
        assert!(is_left_out("h.*.attn.bias", "h.11.attn.bias"));
        assert!(!is_left_out("h.*.attn.bias", "h.11.attn.c_attn.bias"));
        assert!(!is_left_out("h.*.attn.bias", "h.11.attn.bias.more"));
    }

    #[test]
    fn a_pattern_that_ends_in_a_dot_leaves_out_all_that_follows() {
        assert!(is_left_out("pooler.", "pooler.dense.weight"));
        assert!(!is_left_out("pooler.", "pooler2.dense.weight"));
        assert!(!is_left_out("pooler", "pooler.dense.weight"));
    }
}
