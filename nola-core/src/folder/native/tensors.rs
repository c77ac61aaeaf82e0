//! What the weights file holds: coefficients, scales, check words, and other trained parameters.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::TensorData;
use half::bf16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::leaves::leaf_of;
use super::manifest::Manifest;
use super::{WEIGHTS, check_word, invalid};
use crate::Error;
use crate::adapted::{Adapted, BASE_GAIN, TrainedState, floats};
use crate::adapter::{Count, MAX_COEFFICIENTS};
use crate::linear_combinations::coefficients_shape;
use crate::quantized::{CoefficientBits, Packed, ScaleType};
use crate::update::LEAVES;

/// One tensor on its way to the file.
pub(super) struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// The tensors of a file, those of all sites cut into those of single sites: what `expected` holds.
///
/// # Errors
/// If one is not as long as its parts.
pub(super) fn by_site(
    mut stored: TrainedState,
    expected: &TrainedState,
) -> Result<TrainedState, Vec<String>> {
    let mut problems = Vec::new();
    for leaf in LEAVES {
        let parts: Vec<_> = expected.iter().filter(|(name, _)| leaf_of(name) == Some(leaf)).collect();
        if parts.is_empty() {
            // A parameter of the model itself may be called so.
            continue;
        }
        let total: usize = parts.iter().map(|(_, data)| data.shape().num_elements()).sum();
        let Some(values) = stored.remove(leaf).map(floats) else { continue };
        if values.len() != total {
            problems.push(format!("`{leaf}` holds {} numbers, expected {total}", values.len()));
            continue;
        }
        let mut rest = values.as_slice();
        for (name, data) in parts {
            let (own, behind) = rest.split_at(data.shape().num_elements());
            rest = behind;
            stored.insert(name.clone(), TensorData::new(own.to_vec(), data.shape()));
        }
    }
    if problems.is_empty() { Ok(stored) } else { Err(problems) }
}

/// Refuses numbers that no training leaves on purpose.
pub(super) fn check_finite(state: &TrainedState) -> Result<(), Error> {
    for (name, data) in state {
        let count = floats(data.clone()).iter().filter(|value| !value.is_finite()).count();
        if count > 0 {
            return Err(Error::NotFinite { name: name.clone(), count });
        }
    }
    Ok(())
}

/// Everything that is written, by name.
pub(super) fn stored_tensors<M: Module>(
    adapted: &Adapted<M>,
    state: &TrainedState,
    bits: CoefficientBits,
) -> BTreeMap<String, Stored> {
    let le_bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut tensors = BTreeMap::new();
    let mut of_sites: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    for (name, data) in state {
        let (shape, values) = (data.shape().to_vec(), floats(data.clone()));
        if let Some(leaf) = leaf_of(name) {
            of_sites.entry(leaf).or_default().extend(values);
            continue;
        }
        let Some(vectors) = adapted.vectors(name) else {
            tensors.insert(name.clone(), Stored { dtype: Dtype::F32, shape, bytes: le_bytes(&values) });
            continue;
        };
        let counts = &vectors.counts;
        let scale_type = vectors.scale_type(bits);
        let Packed { bytes, scales } = bits.pack(&vectors.to_store(&values, bits), counts, scale_type);
        let dtype = stored_dtype(bits);
        let cells = bytes.len() / dtype_bytes(dtype);
        let rows = if differ_in_length(adapted, name) { 1 } else { counts.len() };
        tensors.insert(name.clone(), Stored { dtype, shape: vec![rows, cells / rows], bytes });
        if differ_in_length(adapted, name) {
            let bytes = counts.iter().flat_map(|count| (*count as u32).to_le_bytes()).collect();
            tensors.insert(counts_of(name), Stored { dtype: Dtype::U32, shape: vec![counts.len()], bytes });
        }
        if !scales.is_empty() {
            tensors.insert(scale_of(name), stored_scales(&scales, scale_type));
        }
    }
    for (leaf, values) in of_sites {
        let stored = Stored { dtype: Dtype::F32, shape: vec![values.len()], bytes: le_bytes(&values) };
        tensors.insert(leaf.to_owned(), stored);
    }
    if !adapted.sites().is_empty() {
        let words: Vec<u32> = adapted.plans().iter().map(check_word).collect();
        let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let check = Stored { dtype: Dtype::U32, shape: vec![words.len()], bytes };
        tensors.insert("check".to_owned(), check);
    }
    tensors
}

/// Type of a stored coefficient tensor.
fn stored_dtype(bits: CoefficientBits) -> Dtype {
    match bits {
        CoefficientBits::B32 => Dtype::F32,
        CoefficientBits::B16 => Dtype::F16,
        CoefficientBits::B8 => Dtype::I8,
        CoefficientBits::B4 | CoefficientBits::B3 | CoefficientBits::B2 => Dtype::U8,
    }
}

/// Bytes of one of its cells.
fn dtype_bytes(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

fn scale_of(name: &str) -> String {
    format!("{name}_scale")
}

fn counts_of(name: &str) -> String {
    format!("{name}_counts")
}

fn stored_scales(scales: &[f32], scale_type: ScaleType) -> Stored {
    let shape = vec![scales.len()];
    match scale_type {
        // They were rounded already.
        ScaleType::Bf16 => {
            let bytes = scales.iter().flat_map(|scale| bf16::from_f32(*scale).to_le_bytes()).collect();
            Stored { dtype: Dtype::BF16, shape, bytes }
        }
        ScaleType::F32 => {
            let bytes = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
            Stored { dtype: Dtype::F32, shape, bytes }
        }
    }
}

/// Whether sites may have different numbers of the coefficients `name`.
fn differ_in_length<M: Module>(adapted: &Adapted<M>, name: &str) -> bool {
    let all = adapted.config().map(|config| config.method().coefficients()).unwrap_or_default();
    all.into_iter().any(|(known, count)| known == name && count == Count::OfItsShape)
}

/// The bytes of the weights file.
pub(super) fn serialized(folder: &Path, tensors: &BTreeMap<String, Stored>) -> Result<Vec<u8>, Error> {
    let views: Result<Vec<_>, _> = (tensors.iter())
        .map(|(name, t)| Ok((name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes)?)))
        .collect();
    views
        .and_then(|views| safetensors::serialize(views, None))
        .map_err(|error: safetensors::SafeTensorError| invalid(&folder.join(WEIGHTS), error))
}

/// The trained state and the check words, with shapes checked against the manifest.
pub(super) fn read_tensors(
    tensors: &SafeTensors,
    manifest: &Manifest,
) -> Result<(TrainedState, Vec<u32>), Vec<String>> {
    let mut reader = Reader { tensors, used: Vec::new(), problems: Vec::new() };
    let mut state = TrainedState::new();
    let sites = manifest.sites;
    let config = manifest.config();
    for (name, count) in config.iter().flat_map(|config| config.method().coefficients()) {
        if let Some(data) = reader.coefficients(name, sites, count, manifest.coefficient_bits) {
            state.insert(name.to_owned(), data);
        }
    }
    let of_sites = LEAVES.iter().chain([&BASE_GAIN]).map(|leaf| (*leaf).to_owned());
    let of_sites = of_sites.filter(|leaf| config.is_some() && tensors.tensor(leaf).is_ok());
    for name in of_sites.chain(manifest.modules_to_save.iter().cloned()).collect::<Vec<_>>().iter() {
        if let Some((shape, bytes)) = reader.take(name, Dtype::F32, None) {
            state.insert(name.clone(), TensorData::new(f32s(&bytes), shape));
        }
    }
    let mut words = Vec::new();
    if config.is_some()
        && let Some((_, bytes)) = reader.take("check", Dtype::U32, Some(&[sites]))
    {
        words = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    }
    let surplus = tensors.names().into_iter().filter(|name| !reader.used.contains(&(*name).to_owned()));
    let surplus: Vec<String> = surplus.map(|name| format!("`{name}` is not expected")).collect();
    reader.problems.extend(surplus);
    if reader.problems.is_empty() { Ok((state, words)) } else { Err(reader.problems) }
}

struct Reader<'a> {
    tensors: &'a SafeTensors<'a>,
    used: Vec<String>,
    problems: Vec<String>,
}

impl Reader<'_> {
    /// Shape and bytes of a tensor, or a problem.
    fn take(&mut self, name: &str, dtype: Dtype, shape: Option<&[usize]>) -> Option<(Vec<usize>, Vec<u8>)> {
        self.used.push(name.to_owned());
        let Ok(view) = self.tensors.tensor(name) else {
            self.problems.push(format!("`{name}` is missing"));
            return None;
        };
        if view.dtype() != dtype || shape.is_some_and(|shape| shape != view.shape()) {
            let expected = shape.map_or(String::new(), |shape| format!(" {shape:?}"));
            self.problems.push(format!(
                "`{name}` is {:?} {:?}, expected {dtype:?}{expected}",
                view.dtype(),
                view.shape()
            ));
            return None;
        }
        Some((view.shape().to_vec(), view.data().to_vec()))
    }

    fn coefficients(
        &mut self,
        name: &str,
        sites: usize,
        count: Count,
        bits: CoefficientBits,
    ) -> Option<TensorData> {
        let counts = match count {
            Count::InEachSite(count) => vec![count; sites],
            Count::Shared(count) => vec![count],
            Count::OfItsShape => self.counts(name, sites)?,
        };
        let dtype = stored_dtype(bits);
        let cells = counts.iter().map(|count| bits.row_bytes(*count)).sum::<usize>() / dtype_bytes(dtype);
        let rows = if count == Count::OfItsShape { 1 } else { counts.len() };
        let bytes = self.take(name, dtype, Some(&[rows, cells / rows.max(1)]));
        let scales = if bits.top().is_some() { self.scales(name, counts.len()) } else { Some(Vec::new()) };
        let packed = Packed { bytes: bytes?.1, scales: scales? };
        Some(TensorData::new(bits.unpack(&packed, &counts), coefficients_shape(&counts)))
    }

    /// How many coefficients each site has.
    fn counts(&mut self, name: &str, sites: usize) -> Option<Vec<usize>> {
        let (_, bytes) = self.take(&counts_of(name), Dtype::U32, Some(&[sites]))?;
        let counts: Vec<usize> =
            bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b) as usize).collect();
        // Beyond what a file of this size can hold, sums could overflow.
        if counts.iter().all(|count| (1..=MAX_COEFFICIENTS).contains(count)) {
            return Some(counts);
        }
        self.problems.push(format!("`{}` must be from 1 to {MAX_COEFFICIENTS}", counts_of(name)));
        None
    }

    /// The scale of each vector, in either type.
    fn scales(&mut self, name: &str, vectors: usize) -> Option<Vec<f32>> {
        let name = scale_of(name);
        let is_f32 = self.tensors.tensor(&name).is_ok_and(|view| view.dtype() == Dtype::F32);
        let dtype = if is_f32 { Dtype::F32 } else { Dtype::BF16 };
        let (_, bytes) = self.take(&name, dtype, Some(&[vectors]))?;
        if is_f32 {
            return Some(f32s(&bytes));
        }
        Some(bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect())
    }
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}
