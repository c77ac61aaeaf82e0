//! Rotary positions as both generations of transformers read them.

use serde_json::{Value, json};

use super::super::super::family::RopeSettings;
use super::super::LlamaConfig;
use super::{ORIGINAL, PARAMETERS, SCALING};
use crate::rope::{LongRope, Rotary, RotaryScaling, Yarn};

impl LlamaConfig {
    /// Writes the rotary settings into a configuration in both spellings: `rope_theta` and `rope_scaling`, which is all that
    /// transformers 4 reads, and `rope_parameters`, which transformers 5 writes.
    pub(crate) fn write_rotary_to(&self, config: &mut Value) {
        config["rope_theta"] = self.rotary.theta.into();
        config[SCALING] = self.old_scaling();
        let all = parameters(&self.rotary);
        config[PARAMETERS] = match self.family.rope {
            RopeSettings::Shared | RopeSettings::OfPhi3 { .. } => all,
            RopeSettings::ByLayerType { sliding_theta } => {
                let unscaled = Rotary { theta: sliding_theta, scaling: RotaryScaling::Unscaled };
                let sliding = self.sliding_window.as_ref().map_or(&unscaled, |window| &window.rotary);
                config["rope_local_base_freq"] = sliding.theta.into();
                json!({"full_attention": all, "sliding_attention": parameters(sliding)})
            }
        };
        if let RotaryScaling::LongRope(LongRope { original_max_tokens, .. }) = &self.rotary.scaling {
            // Transformers 4 reads it here alone.
            config[ORIGINAL] = whole(*original_max_tokens);
        }
    }

    /// `rope_scaling`: before transformers 4.43 there was no type `default`, and that of a Phi-3 may have three fields only.
    fn old_scaling(&self) -> Value {
        match (&self.rotary.scaling, self.family.rope) {
            (RotaryScaling::Unscaled, _) => Value::Null,
            (RotaryScaling::LongRope(long_rope), RopeSettings::OfPhi3 { .. }) => {
                let LongRope { short_factor, long_factor, attention_factor, original_max_tokens } = long_rope;
                let mut block =
                    json!({"type": "longrope", "short_factor": short_factor, "long_factor": long_factor});
                let factor = self.max_tokens as f64 / original_max_tokens;
                if *attention_factor != LongRope::default_attention_factor(factor, *original_max_tokens) {
                    block["attention_factor"] = (*attention_factor).into();
                }
                block
            }
            (scaling, _) => json_of(scaling),
        }
    }
}

fn parameters(rotary: &Rotary) -> Value {
    let mut parameters = json_of(&rotary.scaling);
    parameters["rope_theta"] = rotary.theta.into();
    parameters
}

fn json_of(scaling: &RotaryScaling) -> Value {
    match scaling {
        RotaryScaling::Unscaled => json!({"rope_type": "default"}),
        RotaryScaling::Linear { factor } => {
            json!({"rope_type": "linear", "type": "linear", "factor": factor})
        }
        RotaryScaling::Dynamic { factor, .. } => {
            json!({"rope_type": "dynamic", "type": "dynamic", "factor": factor})
        }
        RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_tokens } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            ORIGINAL: whole(*original_max_tokens),
        }),
        RotaryScaling::Yarn(yarn) => {
            let Yarn { factor, attention_factor, beta_fast, beta_slow, original_max_tokens, truncate } = yarn;
            json!({
                "rope_type": "yarn",
                "factor": factor,
                "attention_factor": attention_factor,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "truncate": truncate,
                ORIGINAL: whole(*original_max_tokens),
            })
        }
        RotaryScaling::LongRope(long_rope) => {
            let LongRope { short_factor, long_factor, attention_factor, original_max_tokens } = long_rope;
            json!({
                "rope_type": "longrope",
                "short_factor": short_factor,
                "long_factor": long_factor,
                "attention_factor": attention_factor,
                ORIGINAL: whole(*original_max_tokens),
            })
        }
    }
}

/// A whole number as one: transformers declares contexts so.
fn whole(number: f64) -> Value {
    if number.fract() == 0.0 { Value::from(number as u64) } else { Value::from(number) }
}
