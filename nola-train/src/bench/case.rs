//! A case of `bench steps`, and what is measured of it.

use nola_core::weight::Quantization;
use nola_models::{Precision, WeightDtype};
use serde::{Deserialize, Serialize};

use super::cases::{AdapterSizes, Method, Preset};

/// One case of `bench steps`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub preset: Preset,
    pub method: Method,
    /// Samples of a pass.
    pub batch: usize,
    /// Tokens of a sample.
    pub seq: usize,
    /// Storage dtype of the frozen weights.
    pub dtype: WeightDtype,
    /// Quantisation of its linear layers.
    pub quantize: Option<Quantization>,
    pub adapter: AdapterSizes,
}

impl Case {
    /// How the weights are stored.
    pub(super) fn precision(&self) -> Precision {
        Precision::of(self.dtype, self.quantize)
    }
}

/// What the process of a case says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Outcome {
    /// It was measured.
    Measured(Box<Measured>),
    /// It needs more than the machine has.
    Skipped {
        /// Why.
        skipped: String,
    },
}

/// Samples and info of a case.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Measured {
    pub info: CaseInfo,
    pub samples: Samples,
}

/// One value for each measured step.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Samples {
    /// Wall seconds.
    pub walls: Vec<f64>,
    /// CPU seconds, all threads; empty where the system does not output.
    pub cpus: Vec<f64>,
    /// Wall seconds of `expand`; empty without an adapter.
    pub expands: Vec<f64>,
    /// Wall seconds of `project`; likewise.
    pub projects: Vec<f64>,
}

impl Samples {
    /// Appends those of another round.
    pub(super) fn append(&mut self, other: Self) {
        self.walls.extend(other.walls);
        self.cpus.extend(other.cpus);
        self.expands.extend(other.expands);
        self.projects.extend(other.projects);
    }
}

/// What is known of a case beside its samples; the keys are those of the PyTorch script where it has them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CaseInfo {
    pub model: String,
    pub method: String,
    pub batch: usize,
    pub seq: usize,
    pub accumulate: usize,
    pub gradient_checkpointing: bool,
    pub dtype: String,
    pub param_dtype: String,
    pub device: String,
    pub device_name: String,
    pub threads: usize,
    pub instructions: String,
    pub burn: String,
    pub trainable: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l: Option<usize>,
    pub build_s: f64,
    pub first_step_s: f64,
    pub peak_rss_mb: Option<f64>,
    pub rss_after_build_mb: Option<f64>,
    pub peak_reset: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_device_mb: Option<f64>,
    pub loss_first: f32,
    pub loss_last: f32,
}
