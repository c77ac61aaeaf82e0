//! Rotary positions of a GGUF file in the words of Hugging Face.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::super::GgufError;
use super::super::names::ROPE_FACTORS;
use super::{Settings, Tensors};

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
    for name in ["rope_factors_long.weight", "rope_factors_short.weight"] {
        if settings.header.tensor(name).is_some() {
            let expected = "no such tensor: this program does not compute the rope scaling `longrope`";
            return Err(settings.header.wrong_value(name, "there".to_owned(), expected));
        }
    }
    let name = "rope.scaling.type";
    let by_name = match settings.header.text(&settings.key(name))? {
        Some("none") | None => settings.float("rope.scale_linear")?,
        Some("linear") => Some(factor(settings)?),
        Some(_) => {
            return Err(
                settings.wrong(name, "`none` or `linear`: this program computes no other in a GGUF file")
            );
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
