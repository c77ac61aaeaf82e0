//! How the weights of a model are stored.

use nola_core::weight::Quantization;

use crate::WeightDtype;

/// How the weights of a model are stored: those of linear layers in its blocks may take few bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Precision {
    /// Of all weights that are not quantised; what is quantised is multiplied in it, where the device can.
    pub dtype: WeightDtype,
    /// Of the linear layers in blocks; none if they are stored as the rest.
    pub quantization: Option<Quantization>,
}

impl Precision {
    /// What people choose from, the largest first: every dtype, and every quantisation beside bf16.
    pub const ALL: [Self; 6] = [
        Self { dtype: WeightDtype::F32, quantization: None },
        Self { dtype: WeightDtype::Bf16, quantization: None },
        Self { dtype: WeightDtype::F16, quantization: None },
        Self { dtype: WeightDtype::Bf16, quantization: Some(Quantization::Int8) },
        Self { dtype: WeightDtype::Bf16, quantization: Some(Quantization::Nf4) },
        Self { dtype: WeightDtype::Bf16, quantization: Some(Quantization::Nf4Double) },
    ];

    /// How most of the weights are stored, as recipes name it.
    pub fn name(self) -> &'static str {
        self.quantization.map_or(self.dtype.name(), Quantization::name)
    }

    /// How the weight at `path` is quantised while it is loaded, if it is one of a linear layer.
    pub fn quantization_at(self, path: &str) -> Option<Quantization> {
        self.quantization.filter(|_| path.starts_with("blocks."))
    }
}

impl From<WeightDtype> for Precision {
    fn from(dtype: WeightDtype) -> Self {
        Self { dtype, quantization: None }
    }
}
