//! How the weights of a model are stored.

use nola_core::weight::Quantization;

use crate::WeightDtype;

/// What becomes of weights in blocks of a model that a GGUF file stores in few bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FewBits {
    /// They stay so, and are frozen, if they are of linear layers and a kernel reads them.
    #[default]
    Kept,
    /// They become dense.
    Dense,
}

/// How the weights of a model are stored: those of linear layers in its blocks may take few bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Precision {
    /// Of all weights that are not quantised; what is quantised is multiplied in it, where the device can.
    pub dtype: WeightDtype,
    /// Of the linear layers in blocks; none if they are stored as the rest, or as they lie in a file that stores them in few bits.
    pub quantization: Option<Quantization>,
    /// What becomes of the latter.
    pub few_bits: FewBits,
}

impl Precision {
    /// What people choose from, the largest first: every dtype, and every quantisation beside bf16.
    pub const ALL: [Self; 6] = [
        Self::of(WeightDtype::F32, None),
        Self::of(WeightDtype::Bf16, None),
        Self::of(WeightDtype::F16, None),
        Self::of(WeightDtype::Bf16, Some(Quantization::Int8)),
        Self::of(WeightDtype::Bf16, Some(Quantization::Nf4)),
        Self::of(WeightDtype::Bf16, Some(Quantization::Nf4Double)),
    ];

    /// Weights in `dtype`, those of linear layers quantised if it is said how.
    pub const fn of(dtype: WeightDtype, quantization: Option<Quantization>) -> Self {
        Self { dtype, quantization, few_bits: FewBits::Kept }
    }

    /// How most of the weights are stored, as recipes name it.
    pub fn name(self) -> &'static str {
        self.quantization.map_or(self.dtype.name(), Quantization::name)
    }

    /// How the weight at `path` is quantised while it is loaded, if it is one of a linear layer.
    pub fn quantization_at(self, path: &str) -> Option<Quantization> {
        self.quantization.filter(|_| path.starts_with("blocks."))
    }

    /// Whether the weight at `path` stays in few bits if it is one of a linear layer, and stored so in a GGUF file.
    pub fn keeps_few_bits_at(self, path: &str) -> bool {
        self.few_bits == FewBits::Kept && self.quantization.is_none() && path.starts_with("blocks.")
    }
}

impl From<WeightDtype> for Precision {
    fn from(dtype: WeightDtype) -> Self {
        Self::of(dtype, None)
    }
}
