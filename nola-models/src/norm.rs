//! Norms that are one operation while they are frozen.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{DType, Device, Tensor, module};

use crate::fused;

/// Rows normalised to mean 0 and variance 1, then stretched and shifted.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Stretches, `[width]`.
    pub gamma: Param<Tensor<1>>,
    /// Shifts, `[width]`.
    pub beta: Param<Tensor<1>>,
    epsilon: f64,
}

impl LayerNorm {
    /// A norm that neither stretches nor shifts; `epsilon` is added to the variance.
    pub fn new(width: usize, epsilon: f64, device: &Device) -> Self {
        let (gamma, beta) =
            (Initializer::Ones.init([width], device), Initializer::Zeros.init([width], device));
        Self { gamma, beta, epsilon }
    }

    /// # Shapes
    /// - `x` and output: `[.., width]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (gamma, beta) = (self.gamma.val(), self.beta.val());
        let is_trained = gamma.is_require_grad() || beta.is_require_grad();
        let (gamma, beta) = (gamma.cast(x.dtype()), beta.cast(x.dtype()));
        if is_trained {
            return module::layer_norm(x, gamma, Some(beta), self.epsilon);
        }
        fused::layer_norm(x, gamma, beta, self.epsilon)
    }
}

/// What a norm multiplies by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gain {
    /// Its weight.
    Weight,
    /// 1 more than its weight.
    OnePlusWeight,
}

/// Rows normalised to a mean square of 1, then stretched.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// Weight, `[width]`.
    pub gamma: Param<Tensor<1>>,
    epsilon: f64,
    #[module(skip)]
    gain: Gain,
}

impl RmsNorm {
    /// A norm that does not stretch; `epsilon` is added to the mean square.
    pub fn new(width: usize, epsilon: f64, gain: Gain, device: &Device) -> Self {
        let unit = match gain {
            Gain::Weight => Initializer::Ones,
            Gain::OnePlusWeight => Initializer::Zeros,
        };
        Self { gamma: unit.init([width], device), epsilon, gain }
    }

    /// # Shapes
    /// - `x` and output: `[.., width]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (gamma, dtype) = (self.gamma.val(), x.dtype());
        let is_trained = gamma.is_require_grad();
        let gamma = match self.gain {
            Gain::Weight => gamma.cast(dtype),
            Gain::OnePlusWeight => (gamma.cast(DType::F32) + 1.0).cast(dtype),
        };
        if !is_trained {
            return fused::rms_norm(x, gamma, self.epsilon);
        }
        let square = x.clone().cast(DType::F32).powi_scalar(2).mean_dim(D - 1);
        x * (square + self.epsilon).sqrt().recip().cast(dtype) * gamma.unsqueeze()
    }
}
