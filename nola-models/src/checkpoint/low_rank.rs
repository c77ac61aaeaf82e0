//! Low-rank weights in checkpoints: `MODULE.lora_A.weight` `[rank, d_in]` and `MODULE.lora_B.weight` `[d_out, rank]` in place of
//! `MODULE.weight`, and `MODULE.lora_bias` `[d_out]` where the layer has no bias of its own. A part of a fused module has the
//! number of its first share behind the module's name.

use nola_core::LowRankWeight;
use safetensors::Dtype;

use super::{Checkpoint, NamedTensor, Part, Source};

/// Names of the tensors of a low-rank weight.
struct Names {
    a: String,
    b: String,
    bias: String,
}

impl Names {
    /// The names for what would be stored at `source`; none for what is no weight.
    fn of(source: &Source) -> Option<Self> {
        let module = source.names.first()?.strip_suffix(".weight")?;
        let module = match source.part {
            Part::Whole | Part::LastAxes(_) => module.to_owned(),
            Part::Rows(shares) | Part::Columns(shares) => format!("{module}.{}", shares.from),
        };
        let name = |leaf: &str| format!("{module}.{leaf}");
        Some(Self { a: name("lora_A.weight"), b: name("lora_B.weight"), bias: name("lora_bias") })
    }
}

/// The tensors of `weight`, which would be stored at `source`.
///
/// # Panics
/// If `source` is that of no weight.
pub(super) fn named(weight: &LowRankWeight, source: &Source) -> Vec<NamedTensor> {
    let names = Names::of(source).expect("low-rank weights are weights");
    let LowRankWeight { rank, a, b, bias } = weight;
    let (d_in, d_out) = (a.len() / rank, b.len() / rank);
    let mut tensors = vec![
        NamedTensor { name: names.a, shape: vec![*rank, d_in], values: transposed(a, d_in) },
        NamedTensor { name: names.b, shape: vec![d_out, *rank], values: transposed(b, *rank) },
    ];
    if let Some(bias) = bias {
        tensors.push(NamedTensor { name: names.bias, shape: vec![d_out], values: bias.clone() });
    }
    tensors
}

impl Checkpoint {
    /// Names of the tensors of the low-rank weight that is stored in place of `source`, if one is that fits `shape`.
    pub(super) fn low_rank_names(&self, source: &Source, shape: &[usize]) -> Option<Vec<String>> {
        let names = Names::of(source)?;
        let [d_in, d_out] = *shape else { return None };
        let (a, b) = (self.shape(&names.a)?, self.shape(&names.b)?);
        if a.len() != 2 || a[0] == 0 || a[1] != d_in || *b != [d_out, a[0]] {
            return None;
        }
        let is_float =
            |name: &String| matches!(self.tensors[name].dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
        if ![&names.a, &names.b].into_iter().all(is_float) {
            return None;
        }
        let bias = self.shape(&names.bias).filter(|shape| **shape == [d_out]).map(|_| names.bias);
        Some([names.a, names.b].into_iter().chain(bias).collect())
    }

    /// The low-rank weight that is stored in place of `source`; it was found to be there.
    pub(super) fn low_rank_weight(&self, source: &Source) -> LowRankWeight {
        let names = Names::of(source).expect("it was found");
        let read =
            |name: &str, transposed| self.numbers(&self.tensors[name]).read::<f32>(Part::Whole, transposed);
        let rank = self.tensors[&names.a].shape[0];
        let bias = self.tensors.contains_key(&names.bias).then(|| read(&names.bias, false));
        LowRankWeight { rank, a: read(&names.a, true), b: read(&names.b, true), bias }
    }
}

/// The transpose of a row-major matrix with `rows` rows.
fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let cols = values.len() / rows;
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Shares;
    use super::*;

    #[test]
    fn factors_are_stored_as_pytorch_has_them() {
        let weight = LowRankWeight { rank: 1, a: vec![1.0, 2.0], b: vec![3.0, 4.0, 5.0], bias: None };
        let source = |part| Source { names: vec!["h.0.c_attn.weight".to_owned()], part, transposed: false };
        let tensors = named(&weight, &source(Part::Whole));
        assert_eq!(
            (tensors[0].name.as_str(), &tensors[0].shape[..]),
            ("h.0.c_attn.lora_A.weight", &[1, 2][..])
        );
        assert_eq!(
            (tensors[1].name.as_str(), &tensors[1].shape[..]),
            ("h.0.c_attn.lora_B.weight", &[3, 1][..])
        );
        let part = named(&weight, &source(Part::Columns(Shares::nth(2, 3))));
        assert_eq!(part[0].name, "h.0.c_attn.2.lora_A.weight");
    }

    #[test]
    fn a_transpose_has_the_columns_as_rows() {
        assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
