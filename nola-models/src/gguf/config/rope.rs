//! Rotary positions of a GGUF file in the words of Hugging Face.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::super::GgufError;
use super::super::names::{LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS};
use super::super::value::decimal;
use super::{Settings, Tensors};
use crate::rope::LongRope;

/// The base of the wave lengths where a file does not say it, as in llama.cpp.
const THETA: f64 = 10_000.0;
/// What LLaMA 3.1 to 3.3 have in common; files have only what follows from it and the factor.
const LOW_FREQ_FACTOR: f64 = 1.0;
const HIGH_FREQ_FACTOR: f64 = 4.0;
/// The same, but for what was made with another one, which follows from a frequency that is scaled in part.
const ORIGINAL_TOKENS: f64 = 8192.0;
/// Largest relative difference of a stored factor, which was computed in f32, from the one that is meant.
const TOLERANCE: f64 = 1e-4;

pub(super) fn theta(settings: &Settings) -> Result<f64, GgufError> {
    let name = "rope.freq_base";
    match settings.float(name)?.unwrap_or(THETA) {
        theta if theta > 0.0 => Ok(theta),
        _ => Err(settings.wrong(name, "a number above 0")),
    }
}

/// `rope_scaling`: null where there is none.
pub(super) fn scaling(settings: &Settings, tensors: &Tensors) -> Result<Value, GgufError> {
    if [LONG_FACTORS, SHORT_FACTORS].iter().any(|name| settings.header.tensor(name).is_some()) {
        return long_rope(settings, tensors);
    }
    let name = "rope.scaling.type";
    let by_name = match settings.header.text(&settings.key(name))? {
        Some("none") | None => settings.float("rope.scale_linear")?,
        Some("linear") => Some(factor(settings)?),
        Some("yarn") => return yarn(settings),
        Some(_) => {
            let expected = "`none`, `linear` or `yarn`: this program computes no other in a GGUF file";
            return Err(settings.wrong(name, expected));
        }
    };
    let linear = by_name
        .filter(|&factor| factor != 1.0)
        .map(|factor| json!({"rope_type": "linear", "factor": factor}));
    if settings.header.tensor(ROPE_FACTORS).is_none() {
        return Ok(linear.into());
    }
    match (by_factors(settings, &(tensors.numbers)(ROPE_FACTORS)?)?, linear) {
        (Value::Null, linear) => Ok(linear.into()),
        (scaling, None) => Ok(scaling),
        (_, Some(_)) => Err(settings.wrong(name, &format!("`none` beside {ROPE_FACTORS}"))),
    }
}

fn factor(settings: &Settings) -> Result<f64, GgufError> {
    let name = "rope.scaling.factor";
    let factor = settings.float(name)?.filter(|&factor| factor > 0.0);
    factor.ok_or_else(|| settings.wrong(name, "a number above 0"))
}

/// # Source
/// `set_gguf_parameters` of llama.cpp's `convert_hf_to_gguf.py`; what is not there has the numbers of the paper.
fn yarn(settings: &Settings) -> Result<Value, GgufError> {
    for name in ["attn_factor", "yarn_attn_factor", "yarn_ext_factor", "yarn_log_multiplier"] {
        let name = format!("rope.scaling.{name}");
        let is_off = |number: f64| number == if name.ends_with("log_multiplier") { 0.0 } else { 1.0 };
        if settings.float(&name)?.is_some_and(|number| !is_off(number)) {
            return Err(settings.wrong(&name, "nothing: this program does not compute it"));
        }
    }
    let mut block = json!({"rope_type": "yarn", "factor": factor(settings)?});
    if let Some(original) = settings.number("rope.scaling.original_context_length")? {
        block["original_max_position_embeddings"] = original.into();
    }
    for (name, field) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
        if let Some(turns) = settings.float(&format!("rope.scaling.{name}"))? {
            block[field] = turns.into();
        }
    }
    Ok(block)
}

/// The scaling of Phi-3 for long contexts, whose factors are tensors.
///
/// # Source
/// `Phi3MiniModel` of llama.cpp's `convert_hf_to_gguf.py`.
fn long_rope(settings: &Settings, tensors: &Tensors) -> Result<Value, GgufError> {
    let factors = |name: &str| {
        if settings.header.tensor(name).is_none() {
            return Err(settings.header.wrong(name, "a tensor, as there is one for short or long texts"));
        }
        let numbers = (tensors.numbers)(name)?;
        Ok(numbers.into_iter().map(decimal).collect::<Vec<f64>>())
    };
    let mut block = json!({
        "rope_type": "longrope", "short_factor": factors(SHORT_FACTORS)?, "long_factor": factors(LONG_FACTORS)?,
    });
    let (length, original) = ("context_length", original_tokens(settings)? as f64);
    let context = settings.float(length)?.ok_or_else(|| settings.wrong(length, "a number above 0"))?;
    let expected = LongRope::default_attention_factor(context / original, original);
    match settings.float("rope.scaling.attn_factor")? {
        // It was stored in f32.
        Some(found) if (found / expected - 1.0).abs() > TOLERANCE => block["attention_factor"] = found.into(),
        Some(_) | None => {}
    }
    Ok(block)
}

fn original_tokens(settings: &Settings) -> Result<u64, GgufError> {
    let name = "rope.scaling.original_context_length";
    let tokens = settings.number(name)?.filter(|&tokens| tokens > 1);
    tokens.ok_or_else(|| settings.wrong(name, "a number above 1, beside factors of rotary frequencies"))
}

/// What stands beside `rope_scaling`: the original context of factors for long ones.
pub(super) fn original(settings: &Settings) -> Result<Option<Value>, GgufError> {
    match settings.header.tensor(LONG_FACTORS) {
        Some(_) => original_tokens(settings).map(|tokens| Some(tokens.into())),
        None => Ok(None),
    }
}

/// The scaling that divides frequencies by `factors`: that of LLaMA 3, whose file has nothing else of it.
///
/// # Source
/// `LlamaModel.generate_extra_tensors` of llama.cpp's `convert_hf_to_gguf.py`.
fn by_factors(settings: &Settings, factors: &[f32]) -> Result<Value, GgufError> {
    if factors.iter().all(|&factor| factor == 1.0) {
        return Ok(Value::Null);
    }
    let (theta, d_head) = (theta(settings)?, settings.d_head()?);
    let factor = f64::from(factors.iter().copied().fold(0.0, f32::max));
    let frequency = |n: usize| theta.powf(-2.0 * n as f64 / d_head as f64);
    let fits = |original: f64| {
        let expected = |n: usize| 1.0 / kept(original * frequency(n) / TAU, factor);
        let fits = |(n, &found): (usize, &f32)| (f64::from(found) / expected(n) - 1.0).abs() <= TOLERANCE;
        factors.iter().enumerate().all(fits)
    };
    let between = factors.iter().position(|&found| 1.0 < found && f64::from(found) < factor);
    let by_between = between.map(|n| (waves(f64::from(factors[n]), factor) * TAU / frequency(n)).round());
    let original = [ORIGINAL_TOKENS].into_iter().chain(by_between).find(|&original| fits(original));
    let Some(original) = original.filter(|_| factors.len() as u64 == d_head / 2) else {
        let found = format!("{} factors up to {factor}", factors.len());
        let expected = format!("{}, made as those of LLaMA 3", d_head / 2);
        return Err(settings.header.wrong_value(ROPE_FACTORS, found, &expected));
    };
    Ok(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW_FREQ_FACTOR,
        "high_freq_factor": HIGH_FREQ_FACTOR,
        "original_max_position_embeddings": original as u64,
    }))
}

/// What is left of a frequency with so many waves in the original context, as a share of it.
fn kept(waves: f64, factor: f64) -> f64 {
    let kept = ((waves - LOW_FREQ_FACTOR) / (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR)).clamp(0.0, 1.0);
    (1.0 - kept) / factor + kept
}

/// The number of waves of a frequency that is divided by `found`, between 1 and `factor`.
fn waves(found: f64, factor: f64) -> f64 {
    let kept = (1.0 / found - 1.0 / factor) / (1.0 - 1.0 / factor);
    LOW_FREQ_FACTOR + kept * (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR)
}
