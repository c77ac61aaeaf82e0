//! PC-LoRA: low-rank layers take the place of the base's, which fades while they learn; a small model is left.
//!
//! `y = λ·(W·x + b) + scale·A·B·x + c`, where λ falls from 1 to 0. The loss also compares the outputs of the layers with those
//! of the base.
//!
//! # Source
//! Hwang et al., *PC-LoRA: Low-Rank Adaptation for Progressive Model Compression with Knowledge Distillation* (2024).

use std::f64::consts::FRAC_PI_2;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    BaseGain, Factor, Format, MAX_RANK, Method, Plan, Weights, check_alpha, check_number, kaiming_uniform,
};
use crate::Error;
use crate::site::Site;

/// How the base fades; t grows from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "lowercase")]
pub enum Fade {
    /// 1 - t.
    #[default]
    Linear,
    /// 1 - sin(π·t / 2): most of it goes early.
    Early,
    /// cos(π·t / 2): most of it goes late.
    Late,
    /// 1 until the end, then 0.
    Step,
}

impl Fade {
    /// What is left of the base in optimizer step `step`, counted from 0, if nothing is left from step `end` on.
    pub fn left(self, step: usize, end: usize) -> f64 {
        if step >= end {
            return 0.0;
        }
        let t = step as f64 / end as f64;
        match self {
            Self::Linear => 1.0 - t,
            Self::Early => 1.0 - (FRAC_PI_2 * t).sin(),
            Self::Late => (FRAC_PI_2 * t).cos(),
            Self::Step => 1.0,
        }
    }
}

/// PC-LoRA: low-rank layers that take the place of the base's, each with a bias, and the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PcLoraConfig {
    /// Rank of the layers.
    #[schemars(range(min = 1, max = MAX_RANK), example = 32)]
    pub rank: usize,
    /// Numerator of the factor `alpha / rank` of the layers.
    #[schemars(
        example = 16.0,
        extend("not" = { "enum": [0] }, "x-range" = "any number but 0", "x-default" = "as `rank`, for a factor of 1")
    )]
    pub alpha: Option<f64>,
    /// How the base fades.
    #[schemars(example = &"late")]
    pub fade: Fade,
    /// Share of the optimizer steps after which nothing of the base is left.
    #[schemars(range(min = 0.0), example = 0.5, extend("exclusiveMaximum" = 1))]
    pub fade_share: f64,
    /// Share of the task's loss in the loss; the rest is the mean squared difference from the outputs of the base's layers.
    #[schemars(range(min = 0.0, max = 1.0), example = 0.2)]
    pub task_share: f64,
    /// Whether each layer gets a bias of its own; the base's fades too.
    #[schemars(example = &"none")]
    pub layer_bias: LayerBias,
    /// Seed of A's first values.
    #[schemars(example = 1)]
    pub seed: u64,
}

/// Whether a layer has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "lowercase")]
pub enum LayerBias {
    /// A trained bias, zero at first.
    #[default]
    Trained,
    /// No bias.
    None,
}

impl Default for PcLoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: None,
            fade: Fade::Linear,
            fade_share: 0.8,
            task_share: 0.5,
            layer_bias: LayerBias::Trained,
            seed: 0,
        }
    }
}

impl PcLoraConfig {
    /// Numerator of the layers' factor.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }

    /// The first of `steps` optimizer steps, counted from 0, in which nothing of the base is left.
    fn end(&self, steps: usize) -> usize {
        (self.fade_share * steps as f64) as usize
    }
}

impl Method for PcLoraConfig {
    fn check(&self) -> Result<(), Error> {
        check_number("rank", self.rank, MAX_RANK)?;
        check_alpha(self.alpha())?;
        let bad = |field, value: f64, cure| Err(Error::BadSetting { field, value: value.to_string(), cure });
        if !(0.0..1.0).contains(&self.fade_share) {
            return bad(
                "fade_share",
                self.fade_share,
                "use at least 0 and less than 1: the base must be gone before the end",
            );
        }
        if !(0.0..=1.0).contains(&self.task_share) {
            return bad("task_share", self.task_share, "use a share between 0 and 1");
        }
        Ok(())
    }

    fn resolve(&mut self) {
        self.alpha = Some(self.alpha());
    }

    fn rank(&self) -> usize {
        self.rank
    }

    fn set_rank(&mut self, rank: usize) {
        self.rank = rank;
    }

    fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    fn learning_rate(&self) -> f64 {
        2e-2
    }

    fn format(&self) -> Format {
        Format::Native
    }

    fn unlike_lora(&self) -> Option<&'static str> {
        Some("it replaces the weights of the base, and a LoRA is added to them")
    }

    /// The base is whole in one step at least, unless it is to be gone from the start.
    fn check_run(&self, steps: usize) -> Result<(), Error> {
        if self.fade_share == 0.0 || self.end(steps) > 0 {
            return Ok(());
        }
        Err(Error::BadSetting {
            field: "fade_share",
            value: format!("{} in a run of {steps} optimizer steps", self.fade_share),
            cure: "there is no step in which the base could fade: use more steps, a larger share, or 0 to train without the base",
        })
    }

    fn base_gain(&self, step: usize, steps: usize) -> Option<BaseGain> {
        let left = self.fade.left(step, self.end(steps));
        Some(BaseGain { weight: left, bias: left })
    }

    fn task_share(&self) -> Option<f64> {
        Some(self.task_share)
    }

    /// A drawn, B and the bias zero: with the whole base, a fresh adapter changes nothing.
    fn plan(&self, sites: &[Site], _weights: Weights) -> Result<Vec<Plan>, Error> {
        let plan = |site: &Site| {
            let a = Factor::Learned(kaiming_uniform(self.seed, site, self.rank));
            let b = Factor::Learned(vec![0.0; self.rank * site.d_out]);
            let bias = match self.layer_bias {
                LayerBias::Trained => Some(vec![0.0; site.d_out]),
                LayerBias::None => None,
            };
            Plan { bias, ..Plan::low_rank(a, b, self.rank, self.alpha() / self.rank as f64) }
        };
        Ok(sites.iter().map(plan).collect())
    }

    fn described(&self) -> String {
        format!("PC-LoRA, rank {}", self.rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fade_begins_at_one_and_ends_at_exactly_zero() {
        for fade in [Fade::Linear, Fade::Early, Fade::Late, Fade::Step] {
            assert_eq!(fade.left(0, 7), 1.0, "{fade:?}");
            assert_eq!([fade.left(7, 7), fade.left(8, 7), fade.left(0, 0)], [0.0; 3], "{fade:?}");
            let falls = (0..8).all(|step| fade.left(step + 1, 7) <= fade.left(step, 7));
            assert!(falls, "{fade:?}");
        }
    }

    #[test]
    fn the_last_step_of_a_run_has_nothing_of_the_base() {
        for (share, steps) in [(0.8, 10), (0.8, 1000), (0.5, 3), (0.99, 100), (0.99, 1), (0.0, 1)] {
            let config = PcLoraConfig { fade_share: share, ..PcLoraConfig::default() };
            let gain = config.base_gain(steps - 1, steps).expect("it fades");
            assert_eq!((gain.weight, gain.bias), (0.0, 0.0), "{share} of {steps}");
        }
    }

    #[test]
    fn a_run_without_a_step_of_the_fade_is_refused_with_the_cure() {
        let of = |fade_share| PcLoraConfig { fade_share, ..PcLoraConfig::default() };
        let error = of(0.1).check_run(9).expect_err("nothing fades").to_string();
        assert!(
            error.contains("`fade_share` is 0.1 in a run of 9") && error.contains("more steps"),
            "{error}"
        );
        of(0.1).check_run(10).expect("one step");
        of(0.0).check_run(1).expect("it is gone from the start");
    }

    #[test]
    fn a_site_trains_its_factors_and_a_bias() {
        let site = Site::linear("blocks.0.mlp.up", 24, 40);
        let trained = |bias| {
            let config = PcLoraConfig { rank: 3, layer_bias: bias, ..PcLoraConfig::default() };
            let plans = config.plan(std::slice::from_ref(&site), &|_| Vec::new());
            plans.expect("a valid plan")[0].trainable_parameters(40)
        };
        assert_eq!(trained(LayerBias::Trained), 3 * (24 + 40) + 40);
        assert_eq!(trained(LayerBias::None), 3 * (24 + 40));
    }

    #[test]
    fn a_share_beyond_one_is_refused_by_name() {
        let config = PcLoraConfig { task_share: 1.5, ..PcLoraConfig::default() };
        let error = config.check().expect_err("no share").to_string();
        assert!(error.contains("`task_share` is 1.5"), "{error}");
    }
}
