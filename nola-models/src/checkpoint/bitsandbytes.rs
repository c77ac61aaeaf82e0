//! Weights that bitsandbytes stored in few bits.
//!
//! NF4: `MODULE.weight` holds bytes of two codes, beside it `.absmax`, `.quant_map`, `.quant_state.bitsandbytes__nf4` (JSON) and, if the
//! scales have 8 bits, `.nested_absmax` and `.nested_quant_map`. LLM.int8: `MODULE.weight` holds integers, `MODULE.SCB` the
//! largest absolute value of each row, `MODULE.weight_format` is 0.

use nola_core::weight::{self, PackedWeight, Quantization, Scales};
use safetensors::Dtype;
use serde::Deserialize;

use super::{Checkpoint, Part, Source, Stored};

/// Where the JSON of an NF4 weight is, behind its name.
const STATE: &str = ".quant_state.bitsandbytes__nf4";
/// Largest relative difference of a stored table from the one that is meant.
const TABLE_TOLERANCE: f32 = 1e-6;

/// The JSON beside an NF4 weight.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

/// A weight that is stored in few bits.
pub(super) struct StoredPacked {
    /// The tensors that it takes.
    pub names: Vec<String>,
    /// Those of them whose numbers must be finite.
    pub scales: Vec<String>,
    /// How it is stored.
    pub quantization: Quantization,
    weight: PackedWeight,
}

impl Checkpoint {
    /// Whether `stored` can be the codes of a packed weight.
    pub(super) fn has_codes(stored: &Stored) -> bool {
        matches!(stored.dtype, Dtype::U8 | Dtype::I8)
    }

    /// The packed weight under `name`, for a parameter `[d_in, d_out]` that is stored at `source`.
    ///
    /// # Errors
    /// What is wrong with it, after its name.
    pub(super) fn packed(
        &self,
        name: &str,
        source: &Source,
        shape: &[usize],
    ) -> Result<StoredPacked, String> {
        let &[d_in, d_out] = shape else {
            return Err("is quantised, but is no weight of a linear layer".to_owned());
        };
        if source.part != Part::Whole || !source.transposed {
            return Err("is quantised; of a fused or transposed weight that is not read".to_owned());
        }
        match self.tensors[name].dtype {
            Dtype::I8 => self.llm_int8(name, [d_in, d_out]),
            _ => self.nf4(name, [d_in, d_out]),
        }
    }

    /// What lies beside a quantised weight that cannot be read, so that only the weight itself is reported.
    pub(super) fn beside_packed(&self, name: &str) -> Vec<String> {
        let module = name.strip_suffix("weight").unwrap_or(name);
        let is_beside =
            |other: &&str| other.starts_with(&format!("{name}.")) || *other == format!("{module}SCB");
        self.tensor_names().filter(is_beside).map(str::to_owned).collect()
    }

    fn nf4(&self, name: &str, [d_in, d_out]: [usize; 2]) -> Result<StoredPacked, String> {
        let at = |ending: &str| format!("{name}{ending}");
        if let Some(other) =
            self.tensor_names().find(|other| other.ends_with("__fp4") && other.starts_with(name))
        {
            return Err(format!("is fp4 by its {other}, expected nf4"));
        }
        let (_, bytes) = self.part_of(&at(STATE))?;
        let state: State = serde_json::from_slice(bytes)
            .map_err(|error| format!("is quantised, but its {STATE} is damaged: {error}"))?;
        if (state.quant_type.as_str(), state.blocksize) != ("nf4", weight::BLOCK) {
            let State { quant_type, blocksize, .. } = state;
            return Err(format!("is {quant_type} in blocks of {blocksize}, expected nf4 in blocks of 64"));
        }
        if state.shape != [d_out, d_in] {
            return Err(format!("is {:?} by its {STATE}, expected [{d_out}, {d_in}]", state.shape));
        }
        self.check_table(&at(".quant_map"), weight::nf4_table())?;
        let codes = self.part_of(name)?.1;
        let mut names = vec![name.to_owned(), at(STATE), at(".absmax"), at(".quant_map")];
        let is_nested = self.tensors.contains_key(&at(".nested_absmax"));
        let Some(offset) = state.nested_offset.filter(|_| is_nested) else {
            if is_nested || state.nested_offset.is_some() {
                return Err(format!("has only one of nested_absmax and the nested_offset of its {STATE}"));
            }
            let largest = self.floats_of(&at(".absmax"))?;
            let weight = PackedWeight::of_nf4(codes, Scales::Plain(&largest), [d_in, d_out]);
            let weight = weight.map_err(|wrong| format!("has {wrong}"))?;
            return Ok(StoredPacked {
                names,
                scales: vec![at(".absmax")],
                quantization: Quantization::Nf4,
                weight,
            });
        };
        if let Some(found) = state.nested_blocksize.filter(|&found| found != weight::NESTED_BLOCK) {
            return Err(format!("has scales in blocks of {found}, expected {}", weight::NESTED_BLOCK));
        }
        if !offset.is_finite() {
            return Err("has a nested_offset that is not finite".to_owned());
        }
        self.check_table(&at(".nested_quant_map"), weight::scale_table())?;
        let (_, scales) = self.part_of(&at(".absmax"))?;
        let largest = self.floats_of(&at(".nested_absmax"))?;
        let scales = Scales::Nested { codes: scales, largest: &largest, offset };
        let weight =
            PackedWeight::of_nf4(codes, scales, [d_in, d_out]).map_err(|wrong| format!("has {wrong}"))?;
        names.extend([at(".nested_absmax"), at(".nested_quant_map")]);
        Ok(StoredPacked {
            names,
            scales: vec![at(".nested_absmax")],
            quantization: Quantization::Nf4Double,
            weight,
        })
    }

    fn llm_int8(&self, name: &str, [d_in, d_out]: [usize; 2]) -> Result<StoredPacked, String> {
        let module = name.strip_suffix(".weight").ok_or("is in 8 bits, but is no weight")?;
        let (scales, format) = (format!("{module}.SCB"), format!("{module}.weight_format"));
        let (stored, codes) = self.part_of(name)?;
        if stored.shape != [d_out, d_in] {
            return Err(format!("is {:?}, expected [{d_out}, {d_in}]", stored.shape));
        }
        let mut names = vec![name.to_owned(), scales.clone()];
        if self.tensors.contains_key(&format) {
            if self.part_of(&format)?.1 != [0] {
                return Err("has a weight_format other than 0, rows one after the other".to_owned());
            }
            names.push(format);
        }
        let weight = PackedWeight::of_int8_rows(codes, &self.floats_of(&scales)?, [d_in, d_out]);
        Ok(StoredPacked {
            names,
            scales: vec![scales],
            quantization: Quantization::Int8,
            weight: weight.map_err(|wrong| format!("has {wrong}"))?,
        })
    }

    /// The bytes of a tensor that belongs to a packed weight.
    fn part_of(&self, name: &str) -> Result<(&Stored, &[u8]), String> {
        let stored = self.tensors.get(name).ok_or_else(|| format!("is quantised, but {name} is missing"))?;
        Ok((stored, self.bytes(stored)))
    }

    fn floats_of(&self, name: &str) -> Result<Vec<f32>, String> {
        let (stored, _) = self.part_of(name)?;
        match stored.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(self.numbers(stored).read(Part::Whole, false)),
            other => Err(format!("is quantised, but {name} is {other}, expected F32")),
        }
    }

    /// A stored table must be the one that codes are looked up in.
    fn check_table(&self, name: &str, expected: &[f32]) -> Result<(), String> {
        let found = self.floats_of(name)?;
        let is_near =
            |(found, expected): (&f32, &f32)| (found - expected).abs() <= TABLE_TOLERANCE * expected.abs();
        if found.len() == expected.len() && found.iter().zip(expected).all(is_near) {
            return Ok(());
        }
        Err(format!("is quantised, but {name} is not the table of bitsandbytes"))
    }
}

impl StoredPacked {
    pub(super) fn into_weight(self) -> PackedWeight {
        self.weight
    }
}
