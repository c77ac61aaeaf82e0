//! What stands between the halves of an MLP.

use burn::tensor::Tensor;
use burn::tensor::activation::{relu, sigmoid, tanh};

use crate::fused::{self, FusedActivation};

/// Between the halves of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU by its tanh formula: GPT-2's own.
    GeluTanh,
    /// Exact GELU.
    Gelu,
    /// `x · sigmoid(1.702 · x)`.
    QuickGelu,
    /// Rectified linear.
    Relu,
    /// `x · sigmoid(x)`.
    Silu,
    /// Hyperbolic tangent.
    Tanh,
}

/// Names of transformers and of timm; the first of each is the one that is written.
const NAMES: [(Activation, &[&str], &str); 6] = [
    (
        Activation::GeluTanh,
        &["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python_tanh", "gelu_accurate"],
        "gelu_tanh",
    ),
    (Activation::Gelu, &["gelu", "gelu_python"], "gelu"),
    (Activation::QuickGelu, &["quick_gelu"], "quick_gelu"),
    (Activation::Relu, &["relu"], "relu"),
    (Activation::Silu, &["silu", "swish"], "silu"),
    (Activation::Tanh, &["tanh"], "tanh"),
];

impl Activation {
    /// What transformers means by a name.
    pub(crate) fn of_hugging_face(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, names, _)| names.contains(&name)).map(|&(activation, ..)| activation)
    }

    /// What timm means by a name, whose letters may be large.
    pub(crate) fn of_timm(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        let known = |timm: &str| name == timm || (timm == "silu" && name == "swish");
        NAMES.iter().find(|(.., timm)| known(timm)).map(|&(activation, ..)| activation)
    }

    /// Its name in transformers.
    pub(crate) fn hugging_face(self) -> &'static str {
        NAMES.iter().find(|(known, ..)| *known == self).map_or("gelu", |(_, names, _)| names[0])
    }

    /// Its name in timm.
    pub(crate) fn timm(self) -> &'static str {
        NAMES.iter().find(|(known, ..)| *known == self).map_or("gelu", |(.., timm)| timm)
    }

    /// Every name that transformers' configurations may hold, for messages.
    pub(crate) fn known_to_hugging_face() -> String {
        let names = NAMES.iter().flat_map(|(_, names, _)| names.iter());
        names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }

    /// Every name of timm's, for messages.
    pub(crate) fn known_to_timm() -> String {
        NAMES.map(|(.., timm)| format!("`{timm}`")).join(", ")
    }

    /// # Shapes
    /// - `x` and output: any, the same
    pub(crate) fn apply(self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::GeluTanh => fused::activation(x, FusedActivation::GeluTanh),
            Self::Gelu => fused::activation(x, FusedActivation::Gelu),
            Self::QuickGelu => x.clone() * sigmoid(x * 1.702),
            Self::Relu => relu(x),
            Self::Silu => fused::activation(x, FusedActivation::Silu),
            Self::Tanh => tanh(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::*;

    #[test]
    fn every_activation_is_its_formula() {
        let device = Device::flex();
        // Golden: the formulas in float64, of -1.5 and 2.
        for (name, expected) in [
            ("gelu", [-0.100_210_8, 1.954_499_7]),
            ("gelu_pytorch_tanh", [-0.100_428_42, 1.954_597_7]),
            ("quick_gelu", [-0.108_337_8, 1.935_658_6]),
            ("relu", [0.0, 2.0]),
            ("silu", [-0.273_638_3, 1.761_594_2]),
            ("tanh", [-0.905_148_3, 0.964_027_6]),
        ] {
            let activation = Activation::of_hugging_face(name).unwrap();
            let x = Tensor::<3>::from_data([[[-1.5, 2.0]]], &device);
            let expected = Tensor::<3>::from_data([[expected]], &device).into_data();
            activation.apply(x).into_data().assert_approx_eq::<f32>(&expected, Tolerance::absolute(2e-6));
        }
    }

    #[test]
    fn a_name_that_is_written_is_read_back() {
        for (activation, ..) in NAMES {
            assert_eq!(Activation::of_hugging_face(activation.hugging_face()), Some(activation));
            assert_eq!(Activation::of_timm(activation.timm()), Some(activation));
        }
        assert_eq!(Activation::of_timm("Swish"), Some(Activation::Silu));
        assert_eq!(Activation::of_timm("mish"), None);
    }
}
