//! Rotary positions in a `config.json`, in the words of every generation.

mod write;

use serde_json::Value;

use super::super::family::{Family, RopeSettings};
use crate::Error;
use crate::fields::Fields;
use crate::rope::{LongRope, Rotary, RotaryScaling, Yarn};

const SCALING: &str = "rope_scaling";
const PARAMETERS: &str = "rope_parameters";
const ORIGINAL: &str = "original_max_position_embeddings";

/// What rotary settings refer to.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Longest sequence, in tokens.
    pub(super) max_tokens: usize,
    /// Width of a head.
    pub(super) d_head: usize,
}

/// Reads `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (before): the rotary embedding of the layers that
/// see all tokens, and of those with a sliding window.
pub(super) fn read(fields: &Fields, family: &Family, sizes: Sizes) -> Result<[Rotary; 2], Error> {
    whole_heads(fields)?;
    let theta = fields.positive("rope_theta", family.absent.theta)?;
    let block = |json: &Value, theta: f64| {
        let inside = Fields { json, file: fields.file };
        Block { fields: inside, outside: fields, settings: family.rope, sizes }.rotary(theta)
    };
    match family.rope {
        RopeSettings::Shared | RopeSettings::OfPhi3 { .. } => {
            let all = block(shared_block(fields)?, theta)?;
            Ok([all.clone(), all])
        }
        RopeSettings::ByLayerType { sliding_theta } => {
            let [full, sliding] = blocks_by_layer_type(fields)?;
            let sliding_theta = fields.positive("rope_local_base_freq", sliding_theta)?;
            Ok([block(&full, theta)?, block(&sliding, sliding_theta)?])
        }
    }
}

/// Whether there is a block in `field` that says something; of an empty one another is asked.
fn says(fields: &Fields, field: &str) -> bool {
    fields
        .json
        .get(field)
        .is_some_and(|block| !block.is_null() && block.as_object().is_none_or(|block| !block.is_empty()))
}

fn shared_block<'a>(fields: &Fields<'a>) -> Result<&'a Value, Error> {
    let Some(field) = [SCALING, PARAMETERS].into_iter().find(|field| says(fields, field)) else {
        return Ok(&Value::Null);
    };
    let json = &fields.json[field];
    // Settings for each kind of layer would be objects inside.
    let is_settings = |value: &Value| value.as_object().is_some_and(|value| !value.contains_key("__float__"));
    if json.as_object().is_none_or(|settings| settings.values().any(is_settings)) {
        return Err(fields.wrong(field, "one object with `rope_type`, for all layers, or null"));
    }
    Ok(json)
}

/// Those of full attention, to which `rope_scaling` belongs, and of sliding windows.
///
/// # Source
/// `Gemma3TextConfig.convert_rope_params_to_dict` of transformers.
fn blocks_by_layer_type(fields: &Fields) -> Result<[Value; 2], Error> {
    let parameters = &fields.json[PARAMETERS];
    let mut blocks = ["full_attention", "sliding_attention"].map(|kind| parameters[kind].clone());
    let is_nested =
        blocks.iter().any(Value::is_object) && blocks.iter().all(|b| b.is_null() || b.is_object());
    if says(fields, PARAMETERS) && !is_nested {
        let expected = "an object with the settings of `full_attention` and of `sliding_attention`";
        return Err(fields.wrong(PARAMETERS, expected));
    }
    if says(fields, SCALING) {
        let Some(scaling) = fields.json[SCALING].as_object() else {
            return Err(fields.wrong(SCALING, "an object with `rope_type` or null"));
        };
        if blocks[0].is_null() {
            blocks[0] = Value::Object(serde_json::Map::new());
        }
        scaling.iter().for_each(|(key, value)| blocks[0][key] = value.clone());
    }
    Ok(blocks)
}

fn whole_heads(fields: &Fields) -> Result<(), Error> {
    match fields.positive("partial_rotary_factor", 1.0)? {
        1.0 => Ok(()),
        _ => Err(fields.wrong("partial_rotary_factor", "1: whole heads turn")),
    }
}

/// One block of settings.
struct Block<'a> {
    fields: Fields<'a>,
    /// The fields beside it.
    outside: &'a Fields<'a>,
    settings: RopeSettings,
    sizes: Sizes,
}

impl Block<'_> {
    /// `theta` is the base of the waves where it names none.
    fn rotary(&self, theta: f64) -> Result<Rotary, Error> {
        whole_heads(&self.fields)?;
        let theta = self.fields.positive("rope_theta", theta)?;
        Ok(Rotary { theta, scaling: self.scaling(theta)? })
    }

    fn scaling(&self, theta: f64) -> Result<RotaryScaling, Error> {
        let fields = &self.fields;
        // Before transformers 4.43 the key was `type`.
        let key = if fields.json.get("rope_type").is_some() { "rope_type" } else { "type" };
        let is_phi3 = matches!(self.settings, RopeSettings::OfPhi3 { .. });
        match fields.json[key].as_str() {
            Some("default") => Ok(RotaryScaling::Unscaled),
            Some("linear") => Ok(RotaryScaling::Linear { factor: self.required("factor")? }),
            Some("dynamic") => {
                let max_tokens = self.sizes.max_tokens as f64;
                Ok(RotaryScaling::Dynamic { factor: self.required("factor")?, max_tokens })
            }
            Some("llama3") => self.llama3(),
            Some("longrope" | "su") => self.long_rope(),
            Some("yarn") if is_phi3 => self.long_rope(),
            Some("yarn") => self.yarn(theta),
            None if fields.json.get(key).is_none() && key == "type" => Ok(RotaryScaling::Unscaled),
            Some(_) | None => {
                let expected = "`default`, `linear`, `dynamic`, `llama3`, `yarn`, `longrope` or `su`";
                Err(fields.wrong(key, expected))
            }
        }
    }

    fn required(&self, field: &'static str) -> Result<f64, Error> {
        match self.fields.json.get(field) {
            Some(Value::Null) | None => Err(self.fields.wrong(field, "a number above 0")),
            Some(_) => self.fields.positive(field, 1.0),
        }
    }

    /// The context of the pretraining: beside the block if it stands there, else in it, else that of the model.
    ///
    /// # Source
    /// `standardize_rope_params` of transformers 5.24. Transformers 4 reads the one in the block alone, but for LongRoPE.
    fn original_max_tokens(&self) -> Result<f64, Error> {
        let max_tokens = self.sizes.max_tokens as f64;
        match self.settings {
            RopeSettings::Shared => {
                self.outside.positive(ORIGINAL, self.fields.positive(ORIGINAL, max_tokens)?)
            }
            RopeSettings::OfPhi3 { original_max_tokens } => {
                self.outside.positive(ORIGINAL, original_max_tokens as f64)
            }
            RopeSettings::ByLayerType { .. } => self.fields.positive(ORIGINAL, max_tokens),
        }
    }

    /// How many times as long as in the pretraining the context is.
    fn context_factor(&self, original_max_tokens: f64) -> Result<f64, Error> {
        self.fields.positive("factor", self.sizes.max_tokens as f64 / original_max_tokens)
    }

    fn llama3(&self) -> Result<RotaryScaling, Error> {
        let low_freq_factor = self.required("low_freq_factor")?;
        let high_freq_factor = self.required("high_freq_factor")?;
        if high_freq_factor <= low_freq_factor {
            let expected = format!("more than low_freq_factor = {low_freq_factor}");
            return Err(self.fields.wrong("high_freq_factor", &expected));
        }
        Ok(RotaryScaling::Llama3 {
            factor: self.required("factor")?,
            low_freq_factor,
            high_freq_factor,
            original_max_tokens: self.original_max_tokens()?,
        })
    }

    fn yarn(&self, theta: f64) -> Result<RotaryScaling, Error> {
        let fields = &self.fields;
        if theta <= 1.0 {
            return Err(fields.wrong("rope_theta", "more than 1 with `yarn`"));
        }
        let original_max_tokens = self.original_max_tokens()?;
        let factor = self.context_factor(original_max_tokens)?;
        let [mscale, mscale_all_dim] = [fields.float("mscale", 0.0)?, fields.float("mscale_all_dim", 0.0)?];
        let attention_factor = match mscale > 0.0 && mscale_all_dim > 0.0 {
            true => Yarn::attention_factor_of(factor, mscale, mscale_all_dim),
            false => Yarn::default_attention_factor(factor),
        };
        Ok(RotaryScaling::Yarn(Yarn {
            factor,
            attention_factor: fields.positive("attention_factor", attention_factor)?,
            beta_fast: fields.positive("beta_fast", 32.0)?,
            beta_slow: fields.positive("beta_slow", 1.0)?,
            original_max_tokens,
            truncate: fields.flag("truncate", true)?,
        }))
    }

    fn long_rope(&self) -> Result<RotaryScaling, Error> {
        let original_max_tokens = self.original_max_tokens()?;
        if original_max_tokens <= 1.0 {
            return Err(self.outside.wrong(ORIGINAL, "more than 1 token with `longrope`"));
        }
        let pairs = self.sizes.d_head / 2;
        let factor = self.context_factor(original_max_tokens)?;
        let attention_factor = LongRope::default_attention_factor(factor, original_max_tokens);
        Ok(RotaryScaling::LongRope(LongRope {
            short_factor: self.fields.positives("short_factor", pairs)?,
            long_factor: self.fields.positives("long_factor", pairs)?,
            attention_factor: self.fields.positive("attention_factor", attention_factor)?,
            original_max_tokens,
        }))
    }
}

#[cfg(test)]
mod tests;
