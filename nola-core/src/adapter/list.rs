//! The list of adapters: to add one, write its file and add its line here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AloraConfig, DoraConfig, LoraConfig, LoraXsConfig, Method, NolaConfig, OloraConfig, PcLoraConfig,
    PissaConfig, PrancConfig, VeraConfig,
};

/// Makes [`AdapterConfig`], and with it all that walks over the adapters.
macro_rules! adapters {
    ($($(#[doc = $doc:literal])* $name:ident($config:ident) = $kind:literal),* $(,)?) => {
        /// Every adapter this project knows, with its settings.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "kind")]
        pub enum AdapterConfig {
            $($(#[doc = $doc])* #[serde(rename = $kind)] $name($config)),*
        }

        impl AdapterConfig {
            /// Names of the adapters, as recipes and folders write them.
            pub const KINDS: &[&str] = &[$($kind),*];

            /// Every adapter with its default settings.
            pub fn every() -> Vec<Self> {
                vec![$(Self::$name($config::default())),*]
            }

            /// Name of the adapter, as recipes and folders write it.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => $kind),*
                }
            }

            /// What the adapter does.
            pub fn method(&self) -> &dyn Method {
                match self {
                    $(Self::$name(config) => config),*
                }
            }

            /// Its settings, to be changed.
            pub fn method_mut(&mut self) -> &mut dyn Method {
                match self {
                    $(Self::$name(config) => config),*
                }
            }
        }

        $(impl From<$config> for AdapterConfig {
            fn from(config: $config) -> Self {
                Self::$name(config)
            }
        })*
    };
}

adapters! {
    /// NOLA: coefficients that combine random matrices into low-rank updates, and the head.
    Nola(NolaConfig) = "nola",
    /// LoRA: the two factors of low-rank updates, and the head.
    Lora(LoraConfig) = "lora",
    /// DoRA: LoRA's two factors and the length of each column, and the head.
    Dora(DoraConfig) = "dora",
    /// ALoRA: LoRA's factors, of which ranks move during training to the weights that need them, and the head.
    Alora(AloraConfig) = "alora",
    /// LoRA-XS: a square matrix between frozen singular vectors of each weight, and the head.
    LoraXs(LoraXsConfig) = "lora-xs",
    /// OLoRA: LoRA's two factors, which start at the QR decomposition of each weight, and the head.
    Olora(OloraConfig) = "olora",
    /// PiSSA: LoRA's two factors, which start at the largest singular values of each weight, and the head.
    Pissa(PissaConfig) = "pissa",
    /// PC-LoRA: low-rank layers that take the place of the base's, each with a bias, and the head.
    PcLora(PcLoraConfig) = "pc-lora",
    /// VeRA: two vectors that scale one frozen random pair in every weight, and the head.
    Vera(VeraConfig) = "vera",
    /// PRANC: one vector that combines random matrices into all chosen weights, and the head.
    Pranc(PrancConfig) = "pranc",
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self::Nola(NolaConfig::default())
    }
}
