//! What completions and chats have in common: how the text is made, and how it is delivered.

use std::hash::{BuildHasher, Hasher, RandomState};

use nola_models::generate::GenerationConfig;
use serde_json::Value;

use super::errors::ApiError;
use super::fields::{Fields, wrong_type};

/// Most texts of one prompt.
pub(super) const MOST_TEXTS: u32 = 128;

/// Most stop strings, and characters of one.
const MOST_STOPS: usize = 4;
const MOST_STOP_CHARACTERS: usize = 1024;

/// Most tokens that are returned beside each new one.
pub(super) const MOST_SCORES: u32 = 20;

/// How texts are generated and returned.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sampling {
    pub generation: GenerationConfig,
    /// Whether the request says the seed.
    pub is_seeded: bool,
    pub frequency_penalty: f64,
    pub presence_penalty: f64,
    pub stops: Vec<String>,
    /// Texts of each prompt.
    pub texts: usize,
    pub delivery: Delivery,
}

/// How texts come to who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// At the end.
    Whole,
    /// As they are made.
    Streamed,
    /// The same, with the number of tokens behind them.
    StreamedWithUsage,
}

impl Delivery {
    pub(super) fn is_streamed(self) -> bool {
        self != Self::Whole
    }
}

impl Sampling {
    /// Takes its fields; what is not among them is as `defaults`, the settings of the model, say.
    pub(super) fn take(fields: &mut Fields, defaults: &GenerationConfig) -> Result<Self, ApiError> {
        let seed = fields.take_whole("seed", i64::MIN..=i64::MAX)?;
        let generation = generation(fields, defaults, seed)?;
        let texts = fields.take_count("n", 1..=MOST_TEXTS)?.unwrap_or(1);
        if let Some(best) = fields.take_count("best_of", 1..=MOST_TEXTS)?.filter(|&best| best > texts) {
            let message =
                format!("`best_of` is {best}, but only the {texts} texts of `n` are made; leave it out");
            return Err(ApiError::field("best_of", "unsupported_parameter", message));
        }
        Ok(Self {
            generation,
            is_seeded: seed.is_some(),
            frequency_penalty: fields.take_number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
            presence_penalty: fields.take_number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
            stops: stops(fields)?,
            texts,
            delivery: delivery(fields)?,
        })
    }

    /// The seed of a prompt, counted from 0: without one in the request, the same prompt twice is continued in two ways.
    pub(super) fn seed_of(&self, prompt: u64) -> u64 {
        match self.is_seeded {
            true => self.generation.seed,
            false => self.generation.seed.wrapping_add(prompt),
        }
    }
}

/// The settings of the model with what is asked for, as `generate` takes both.
fn generation(
    fields: &mut Fields,
    defaults: &GenerationConfig,
    seed: Option<i64>,
) -> Result<GenerationConfig, ApiError> {
    let mut generation = GenerationConfig { num_beams: 1, num_return_sequences: 1, ..defaults.clone() };
    // The newer name counts where both are there.
    let older = fields.take_count("max_tokens", 1..=u32::MAX)?;
    if let Some(tokens) = fields.take_count("max_completion_tokens", 1..=u32::MAX)?.or(older) {
        (generation.max_new_tokens, generation.max_length) = (tokens, usize::MAX);
    }
    if let Some(top_p) = fields.take_number("top_p", 0.0..=1.0)? {
        // 0 is in OpenAI's range, and means the likeliest token alone.
        generation.top_p = top_p.max(f64::MIN_POSITIVE);
    }
    if let Some(top_k) = fields.take_whole("top_k", -1..=i64::from(u32::MAX))? {
        // vLLM writes -1 for off.
        generation.top_k = usize::try_from(top_k).unwrap_or(0);
    }
    if let Some(min_p) = fields.take_number("min_p", 0.0..=1.0)? {
        generation.min_p = min_p;
    }
    if let Some(penalty) = fields.take_number("repetition_penalty", 0.01..=100.0)? {
        generation.repetition_penalty = penalty;
    }
    if let Some(temperature) = fields.take_number("temperature", 0.0..=2.0)? {
        generation.do_sample = temperature > 0.0;
        if generation.do_sample {
            generation.temperature = temperature;
        }
    }
    generation.seed = seed.map_or_else(fresh_seed, |seed| seed as u64);
    generation.check()?;
    Ok(generation)
}

/// Another one each time.
fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn stops(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let expected = format!("a text, or a list of up to {MOST_STOPS} texts");
    let value = fields.take("stop");
    let stops = match value {
        None => return Ok(Vec::new()),
        Some(Value::String(stop)) => vec![stop],
        Some(Value::Array(list)) => list
            .into_iter()
            .map(|stop| match stop {
                Value::String(stop) => Ok(stop),
                other => Err(wrong_type("stop", &expected, &other)),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong_type("stop", &expected, &other)),
    };
    if stops.len() > MOST_STOPS {
        return Err(ApiError::value(
            "stop",
            format!("`stop` has {} texts; it must be {expected}", stops.len()),
        ));
    }
    if stops.iter().any(|stop| stop.is_empty() || stop.chars().count() > MOST_STOP_CHARACTERS) {
        let message = format!("a stop text has 1 to {MOST_STOP_CHARACTERS} characters");
        return Err(ApiError::value("stop", message));
    }
    Ok(stops)
}

fn delivery(fields: &mut Fields) -> Result<Delivery, ApiError> {
    let is_streamed = fields.take_flag("stream")?.unwrap_or(false);
    let with_usage = match fields.take_fields("stream_options")? {
        Some(mut options) => {
            let with_usage = options.take_flag("include_usage")?.unwrap_or(false);
            // Padding against who listens to lengths, which changes no text.
            options.take_flag("include_obfuscation")?;
            options.finish()?;
            with_usage
        }
        None => false,
    };
    Ok(match (is_streamed, with_usage) {
        (false, _) => Delivery::Whole,
        (true, false) => Delivery::Streamed,
        (true, true) => Delivery::StreamedWithUsage,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> Result<Sampling, ApiError> {
        let defaults = GenerationConfig {
            do_sample: true,
            temperature: 0.6,
            top_k: 7,
            max_length: 20,
            ..Default::default()
        };
        let mut fields = Fields::parse(text.as_bytes())?;
        let sampling = Sampling::take(&mut fields, &defaults)?;
        fields.finish()?;
        Ok(sampling)
    }

    fn param(text: &str) -> String {
        taken(text).expect_err("it is refused").to_json()["error"]["param"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    #[test]
    fn what_is_not_asked_for_is_as_the_model_says() {
        let generation = taken("{}").expect("usable").generation;
        assert_eq!((generation.do_sample, generation.temperature, generation.top_k), (true, 0.6, 7));
        assert_eq!((generation.max_new_tokens, generation.max_length), (256, 20));
    }

    #[test]
    fn temperature_0_takes_the_likeliest() {
        assert!(!taken(r#"{"temperature": 0}"#).expect("usable").generation.do_sample);
        assert!(taken(r#"{"temperature": 0.1}"#).expect("usable").generation.do_sample);
    }

    #[test]
    fn the_newer_name_of_the_length_counts() {
        let length = |text| taken(text).expect("usable").generation.max_new_tokens;
        assert_eq!(length(r#"{"max_tokens": 3}"#), 3);
        assert_eq!(length(r#"{"max_tokens": 3, "max_completion_tokens": 4}"#), 4);
        assert_eq!(taken(r#"{"max_tokens": 3}"#).expect("usable").generation.max_length, usize::MAX);
    }

    #[test]
    fn stops_are_a_text_or_up_to_four() {
        let stops = |text| taken(text).map(|sampling| sampling.stops);
        assert_eq!(stops(r#"{"stop": "\n"}"#), Ok(vec!["\n".to_owned()]));
        assert_eq!(stops(r#"{"stop": ["a", "b"]}"#), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(stops(r#"{"stop": []}"#), Ok(Vec::new()));
        for text in [
            r#"{"stop": ["a", "b", "c", "d", "e"]}"#,
            r#"{"stop": ""}"#,
            r#"{"stop": [1]}"#,
            r#"{"stop": 3}"#,
        ] {
            assert_eq!(param(text), "stop", "{text}");
        }
    }

    #[test]
    fn usage_is_told_at_the_end_of_a_stream_if_wanted() {
        let delivery = |text| taken(text).expect("usable").delivery;
        assert_eq!(delivery(r#"{"stream": false}"#), Delivery::Whole);
        assert_eq!(delivery(r#"{"stream": true}"#), Delivery::Streamed);
        assert_eq!(
            delivery(r#"{"stream": true, "stream_options": {"include_usage": true}}"#),
            Delivery::StreamedWithUsage
        );
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (text, expected) in [
            (r#"{"temperature": 2.5}"#, "temperature"),
            (r#"{"top_p": 1.5}"#, "top_p"),
            (r#"{"n": 0}"#, "n"),
            (r#"{"n": 1000}"#, "n"),
            (r#"{"max_tokens": 0}"#, "max_tokens"),
            (r#"{"presence_penalty": -3}"#, "presence_penalty"),
            (r#"{"seed": 1.5}"#, "seed"),
            (r#"{"best_of": 3}"#, "best_of"),
        ] {
            assert_eq!(param(text), expected, "{text}");
        }
        assert!(taken(r#"{"best_of": 2, "n": 2, "seed": -5}"#).is_ok());
    }

    #[test]
    fn without_a_seed_texts_differ() {
        let seed = |text| taken(text).expect("usable").generation.seed;
        assert_ne!(seed("{}"), seed("{}"));
        assert_eq!(seed(r#"{"seed": 3}"#), 3);
    }

    #[test]
    fn without_a_seed_prompts_of_one_request_have_different_ones() {
        let seeds = |text| {
            let sampling = taken(text).expect("usable");
            [0, 1].map(|prompt| sampling.seed_of(prompt))
        };
        assert_eq!(seeds(r#"{"seed": 3}"#), [3, 3]);
        let [one, other] = seeds("{}");
        assert_ne!(one, other);
    }
}
