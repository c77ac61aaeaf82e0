//! What is generated: the settings, under the names that Hugging Face gives them.

use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::GenerateError;
use crate::fields::token_ids;
use crate::json::{self, WrongJson};

/// Most texts that are followed or returned for one prompt: each is a row of the model's batch.
const MOST_TEXTS: usize = 1024;

/// How text is generated.
///
/// # Source
/// Names, meanings and defaults are those of transformers' `GenerationConfig`. Two differ: `max_new_tokens` (there 20
/// tokens with the prompt, which surprises everybody) and `seed` (there global).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationConfig {
    /// Tokens that end a text; any of them. Empty: only the length ends it.
    #[serde(deserialize_with = "one_or_many")]
    pub eos_token_id: Vec<u32>,
    /// Most tokens that are added to a prompt.
    pub max_new_tokens: usize,
    /// Most tokens of prompt and text together.
    pub max_length: usize,
    /// Whether tokens are drawn at random; else the likeliest is taken, or `num_beams` are followed.
    pub do_sample: bool,
    /// Divides the logits before drawing; below 1 is bolder, above 1 more even.
    pub temperature: f64,
    /// Number of likeliest tokens that are drawn from; 0 is off.
    pub top_k: usize,
    /// Drawn from are the likeliest tokens that together reach this probability; 1 is off.
    pub top_p: f64,
    /// Drawn from are the tokens with at least this part of the likeliest one's probability; 0 is off.
    pub min_p: f64,
    /// Makes tokens that prompt or text already have less likely, above 1; 1 is off.
    pub repetition_penalty: f64,
    /// No run of so many tokens comes twice, in prompt and text together; 0 is off.
    pub no_repeat_ngram_size: usize,
    /// Tokens that never come.
    pub suppress_tokens: Vec<u32>,
    /// Tokens that do not come first.
    pub begin_suppress_tokens: Vec<u32>,
    /// Number of texts that are followed side by side; 1 is no beam search.
    pub num_beams: usize,
    /// A beam's score is its log-probability over its new tokens to this power; above 0 favours long texts.
    pub length_penalty: f64,
    /// When a beam search ends.
    pub early_stopping: EarlyStopping,
    /// Number of texts for each prompt.
    pub num_return_sequences: usize,
    /// Start of the random numbers, with the row of the prompt.
    pub seed: u64,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            eos_token_id: Vec::new(),
            max_new_tokens: 256,
            max_length: usize::MAX,
            do_sample: false,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            suppress_tokens: Vec::new(),
            begin_suppress_tokens: Vec::new(),
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Unlikely,
            num_return_sequences: 1,
            seed: 0,
        }
    }
}

/// When a beam search ends, apart from the length limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "StoredStopping", into = "StoredStopping")]
pub enum EarlyStopping {
    /// `false`: once `num_beams` texts have ended and the best open one, were it to end now, would not be among them.
    #[default]
    Unlikely,
    /// `true`: once `num_beams` texts have ended.
    Full,
    /// `"never"`: once `num_beams` texts have ended and no open one can come among them, however long it grows.
    Never,
}

/// As Hugging Face writes [`EarlyStopping`].
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "`early_stopping` is true, false or \"never\"")]
enum StoredStopping {
    Flag(bool),
    Word(NeverWord),
}

#[derive(Serialize, Deserialize)]
enum NeverWord {
    #[serde(rename = "never")]
    Never,
}

impl From<StoredStopping> for EarlyStopping {
    fn from(stored: StoredStopping) -> Self {
        match stored {
            StoredStopping::Flag(false) => Self::Unlikely,
            StoredStopping::Flag(true) => Self::Full,
            StoredStopping::Word(NeverWord::Never) => Self::Never,
        }
    }
}

impl From<EarlyStopping> for StoredStopping {
    fn from(stopping: EarlyStopping) -> Self {
        match stopping {
            EarlyStopping::Unlikely => Self::Flag(false),
            EarlyStopping::Full => Self::Flag(true),
            EarlyStopping::Never => Self::Word(NeverWord::Never),
        }
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let stored = Value::deserialize(deserializer)?;
    token_ids(&stored).ok_or_else(|| D::Error::custom("expected a token's number or a list of them"))
}

/// The value at which a setting that is not supported does nothing; absence, `null` and an empty list do nothing either.
enum Neutral {
    Absent,
    Number(f64),
    False,
    /// Every word but this one.
    Not(&'static str),
}

impl Neutral {
    fn is(&self, value: &Value) -> bool {
        let is_empty =
            value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
        is_empty
            || match self {
                Self::Absent => false,
                Self::Number(number) => value.as_f64() == Some(*number),
                Self::False => value == &Value::Bool(false),
                Self::Not(word) => value != word,
            }
    }
}

/// Settings that change what a model says but are not supported.
///
/// # Source
/// `GenerationConfig` of transformers 4.57 and 5.24, key by key. Not here are, beside what is supported: what only says how
/// a text is computed (caches, compilation, drafts of an assistant, which give the same texts), what is returned
/// with it, `remove_invalid_values` (a logit that is NaN is an error here), and what only other kinds of models have.
const UNSUPPORTED: [(&str, Neutral); 27] = [
    ("assistant_ensemble_weight", Neutral::Absent),
    ("bad_words_ids", Neutral::Absent),
    ("cache_implementation", Neutral::Not("quantized")),
    ("constraints", Neutral::Absent),
    ("diversity_penalty", Neutral::Number(0.0)),
    ("dola_layers", Neutral::Absent),
    ("encoder_no_repeat_ngram_size", Neutral::Number(0.0)),
    ("encoder_repetition_penalty", Neutral::Number(1.0)),
    ("epsilon_cutoff", Neutral::Number(0.0)),
    ("eta_cutoff", Neutral::Number(0.0)),
    ("exponential_decay_length_penalty", Neutral::Absent),
    ("force_words_ids", Neutral::Absent),
    ("forced_bos_token_id", Neutral::Absent),
    ("forced_eos_token_id", Neutral::Absent),
    ("guidance_scale", Neutral::Number(1.0)),
    ("max_time", Neutral::Absent),
    ("min_length", Neutral::Number(0.0)),
    ("min_new_tokens", Neutral::Number(0.0)),
    ("num_beam_groups", Neutral::Number(1.0)),
    ("penalty_alpha", Neutral::Number(0.0)),
    ("renormalize_logits", Neutral::False),
    ("sequence_bias", Neutral::Absent),
    ("stop_strings", Neutral::Absent),
    ("token_healing", Neutral::False),
    ("top_h", Neutral::Absent),
    ("typical_p", Neutral::Number(1.0)),
    ("watermarking_config", Neutral::Absent),
];

impl GenerationConfig {
    /// Reads the text of a model's `generation_config.json`, or of the `config.json` of an older one; `file` is for
    /// messages.
    ///
    /// What it does not say has its default. As in transformers, `max_length` counts only where there is no
    /// `max_new_tokens`.
    ///
    /// # Errors
    /// If the text is no JSON object, a value has the wrong type or range, or a setting that would change what is
    /// generated is not supported.
    pub fn from_json(file: &Path, text: &[u8]) -> Result<Self, GenerateError> {
        let wrong = |field: String, source| GenerateError::Json { file: file.to_path_buf(), field, source };
        let mut stored = stored(file, text)?;
        for (field, neutral) in &UNSUPPORTED {
            if let Some(found) = stored.get(*field).filter(|value| !neutral.is(value)) {
                let file = file.to_path_buf();
                return Err(GenerateError::Unsupported { file, field, found: found.clone() });
            }
        }
        let known =
            serde_json::to_value(Self::default()).expect("settings are plain numbers, flags and lists");
        stored.retain(|field, _| known.get(field).is_some());
        match (stored.contains_key("max_new_tokens"), stored.contains_key("max_length")) {
            (true, _) => drop(stored.remove("max_length")),
            (false, true) => drop(stored.insert("max_new_tokens".to_owned(), usize::MAX.into())),
            (false, false) => {}
        }
        let config: Self = serde_path_to_error::deserialize(Value::Object(stored))
            .map_err(|error| wrong(error.path().to_string(), error.into_inner()))?;
        let settings =
            |source| GenerateError::Settings { file: file.to_path_buf(), source: Box::new(source) };
        config.check().map_err(settings)?;
        Ok(config)
    }

    /// The end tokens alone, as training needs them, whatever the rest of the file asks for; none if they cannot be read.
    ///
    /// # Errors
    /// If the text is no JSON object.
    pub fn end_tokens(file: &Path, text: &[u8]) -> Result<Vec<u32>, GenerateError> {
        Ok(stored(file, text)?.get("eos_token_id").and_then(token_ids).unwrap_or_default())
    }

    /// Checks every setting alone and with the others.
    ///
    /// # Errors
    /// Naming the setting, its value and what may stand there.
    pub fn check(&self) -> Result<(), GenerateError> {
        for (field, limit) in [("max_new_tokens", self.max_new_tokens), ("max_length", self.max_length)] {
            require(field, limit as f64, "1 or more", limit >= 1)?;
        }
        for (field, texts) in
            [("num_beams", self.num_beams), ("num_return_sequences", self.num_return_sequences)]
        {
            require(field, texts as f64, "from 1 to 1024", (1..=MOST_TEXTS).contains(&texts))?;
        }
        let temperature = self.temperature;
        require("temperature", temperature, "0 or more", temperature.is_finite() && temperature >= 0.0)?;
        let above_zero = "above 0; for the likeliest token always, set `do_sample` to false";
        require("temperature", temperature, above_zero, temperature > 0.0 || !self.do_sample)?;
        require("top_p", self.top_p, "above 0 and at most 1", self.top_p > 0.0 && self.top_p <= 1.0)?;
        require("min_p", self.min_p, "from 0 to 1", (0.0..=1.0).contains(&self.min_p))?;
        let penalty = self.repetition_penalty;
        require("repetition_penalty", penalty, "above 0", penalty.is_finite() && penalty > 0.0)?;
        require("length_penalty", self.length_penalty, "a finite number", self.length_penalty.is_finite())?;
        self.check_sequences()
    }

    /// Whether several texts can be followed or returned as asked.
    fn check_sequences(&self) -> Result<(), GenerateError> {
        let (wanted, num_beams) = (self.num_return_sequences, self.num_beams);
        if num_beams > 1 && self.do_sample {
            return Err(GenerateError::SampledBeams { num_beams });
        }
        if num_beams > 1 && wanted > num_beams {
            return Err(GenerateError::TooFewBeams { wanted, num_beams });
        }
        if num_beams == 1 && wanted > 1 && !self.do_sample {
            return Err(GenerateError::SameSequences { wanted });
        }
        Ok(())
    }
}

/// The settings of a file that say something.
fn stored(file: &Path, text: &[u8]) -> Result<Map<String, Value>, GenerateError> {
    let mut stored: Map<String, Value> = json::parse(text).map_err(|WrongJson { field, source }| {
        GenerateError::Json { file: file.to_path_buf(), field, source }
    })?;
    stored.retain(|_, value| !value.is_null());
    Ok(stored)
}

fn require(field: &'static str, found: f64, allowed: &'static str, holds: bool) -> Result<(), GenerateError> {
    if holds { Ok(()) } else { Err(GenerateError::OutOfRange { field, found, allowed }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<GenerationConfig, GenerateError> {
        GenerationConfig::from_json(Path::new("generation_config.json"), text.as_bytes())
    }

    fn message(text: &str) -> String {
        read(text).expect_err("this should be refused").to_string()
    }

    #[test]
    fn what_a_chat_model_ships_is_read() {
        let text = r#"{"bos_token_id": 1, "do_sample": true, "eos_token_id": 2, "max_length": 4096, "pad_token_id": 0,
            "temperature": 0.6, "top_p": 0.9, "transformers_version": "4.31.0.dev0"}"#;
        let expected = GenerationConfig {
            eos_token_id: vec![2],
            do_sample: true,
            temperature: 0.6,
            top_p: 0.9,
            max_length: 4096,
            max_new_tokens: usize::MAX,
            ..GenerationConfig::default()
        };
        assert_eq!(read(text).unwrap(), expected);
    }

    #[test]
    fn settings_in_the_configuration_of_an_older_model_are_read() {
        let text = r#"{"model_type": "gpt2", "n_embd": 8, "aux": NaN, "repetition_penalty": 1.2, "eos_token_id": 3}"#;
        let config = read(text).unwrap();
        assert_eq!((config.repetition_penalty, config.eos_token_id), (1.2, vec![3]));
        assert!(message(r#"{"model_type": "llama", "stop_strings": ["x"]}"#).contains("`stop_strings`"));
    }

    #[test]
    fn end_tokens_are_one_or_a_list_or_none() {
        assert_eq!(read(r#"{"eos_token_id": 7}"#).unwrap().eos_token_id, [7]);
        assert_eq!(read(r#"{"eos_token_id": [7, 9]}"#).unwrap().eos_token_id, [7, 9]);
        assert!(read(r#"{"eos_token_id": null}"#).unwrap().eos_token_id.is_empty());
        assert!(read(r#"{"eos_token_id": -1}"#).unwrap().eos_token_id.is_empty());
        assert!(message(r#"{"eos_token_id": "</s>"}"#).contains("`eos_token_id`"));
    }

    #[test]
    fn early_stopping_is_a_flag_or_never() {
        let stopping = |text| read(text).unwrap().early_stopping;
        assert_eq!(stopping(r#"{"early_stopping": false}"#), EarlyStopping::Unlikely);
        assert_eq!(stopping(r#"{"early_stopping": true}"#), EarlyStopping::Full);
        assert_eq!(stopping(r#"{"early_stopping": "never"}"#), EarlyStopping::Never);
        assert!(message(r#"{"early_stopping": "always"}"#).contains("`early_stopping`"));
    }

    #[test]
    fn settings_read_back_as_written() {
        for early_stopping in [EarlyStopping::Unlikely, EarlyStopping::Full, EarlyStopping::Never] {
            let config = GenerationConfig {
                eos_token_id: vec![1, 2],
                early_stopping,
                num_beams: 3,
                ..GenerationConfig::default()
            };
            assert_eq!(read(&serde_json::to_string(&config).unwrap()).unwrap(), config);
        }
    }

    #[test]
    fn a_misspelt_setting_of_our_own_is_refused() {
        assert!(serde_json::from_str::<GenerationConfig>(r#"{"temprature": 1.0}"#).is_err());
    }

    #[test]
    fn a_setting_that_is_not_supported_is_refused_unless_it_does_nothing() {
        for text in [
            r#"{"typical_p": 1, "min_length": 0, "token_healing": false, "stop_strings": []}"#,
            r#"{"suppress_tokens": null, "watermarking_config": null, "sequence_bias": {}}"#,
            r#"{"cache_implementation": "static", "use_cache": true, "num_assistant_tokens": 20}"#,
        ] {
            assert_eq!(read(text).unwrap(), GenerationConfig::default(), "{text}");
        }
        for (field, value) in [
            ("typical_p", "0.9"),
            ("stop_strings", r#"["e"]"#),
            ("stop_strings", r#""e""#),
            ("watermarking_config", r#"{"bias":2.0}"#),
            ("token_healing", "true"),
            ("bad_words_ids", "[[1]]"),
            ("max_time", "2.5"),
            ("top_h", "0.4"),
            ("guidance_scale", "1.5"),
            ("cache_implementation", r#""quantized""#),
        ] {
            let text = message(&format!(r#"{{"{field}": {value}}}"#));
            assert!(text.starts_with(&format!("generation_config.json: `{field}` is {value}")), "{text}");
        }
    }

    #[test]
    fn end_tokens_are_read_beside_settings_that_are_not_supported() {
        let end = |text: &str| GenerationConfig::end_tokens(Path::new("g.json"), text.as_bytes());
        assert_eq!(end(r#"{"eos_token_id": [7, 9], "stop_strings": ["e"], "top_p": 7}"#).unwrap(), [7, 9]);
        assert_eq!(end(r#"{"eos_token_id": NaN}"#).unwrap(), [0; 0]);
        assert!(end("[").is_err());
    }

    #[test]
    fn the_length_with_the_prompt_counts_where_there_is_no_other() {
        let limits = |text| read(text).map(|config| (config.max_new_tokens, config.max_length)).unwrap();
        assert_eq!(limits("{}"), (256, usize::MAX));
        assert_eq!(limits(r#"{"max_length": 20}"#), (usize::MAX, 20));
        assert_eq!(limits(r#"{"max_length": 20, "max_new_tokens": null}"#), (usize::MAX, 20));
        assert_eq!(limits(r#"{"max_length": 20, "max_new_tokens": 4}"#), (4, usize::MAX));
    }

    #[test]
    fn a_file_that_is_no_json_object_is_named() {
        for text in ["", "[]", "\u{feff}{}"] {
            assert!(message(text).starts_with("generation_config.json: `.`"), "{text}");
        }
        assert!(message("{\"top_k\": 1").starts_with("generation_config.json: `"));
        assert!(message(r#"{"top_k": "many"}"#).starts_with("generation_config.json: `top_k`"));
    }

    #[test]
    fn a_number_out_of_range_is_named_with_what_may_stand_there() {
        let cases = [
            (r#"{"max_new_tokens": 0}"#, "`max_new_tokens` is 0; it must be 1 or more"),
            (r#"{"num_beams": 0}"#, "`num_beams` is 0; it must be from 1 to 1024"),
            (r#"{"num_beams": 4000000000}"#, "`num_beams` is 4000000000; it must be from 1 to 1024"),
            (r#"{"num_return_sequences": 0}"#, "`num_return_sequences` is 0; it must be from 1 to 1024"),
            (r#"{"temperature": -1}"#, "`temperature` is -1; it must be 0 or more"),
            (r#"{"temperature": 0, "do_sample": true}"#, "`temperature` is 0; it must be above 0"),
            (r#"{"top_p": 0}"#, "`top_p` is 0; it must be above 0 and at most 1"),
            (r#"{"min_p": 1.5}"#, "`min_p` is 1.5; it must be from 0 to 1"),
            (r#"{"repetition_penalty": 0}"#, "`repetition_penalty` is 0; it must be above 0"),
        ];
        for (text, expected) in cases {
            let text = message(text);
            assert!(text.starts_with(&format!("generation_config.json: {expected}")), "{text}");
        }
        let config = GenerationConfig { length_penalty: f64::NAN, ..GenerationConfig::default() };
        assert!(config.check().unwrap_err().to_string().starts_with("`length_penalty` is NaN"));
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let problem = |text| match read(text) {
            Err(GenerateError::Settings { source, .. }) => *source,
            other => panic!("{other:?}"),
        };
        let sampled = problem(r#"{"num_beams": 2, "do_sample": true}"#);
        assert!(matches!(sampled, GenerateError::SampledBeams { num_beams: 2 }));
        let few = problem(r#"{"num_beams": 2, "num_return_sequences": 3}"#);
        assert!(matches!(few, GenerateError::TooFewBeams { wanted: 3, num_beams: 2 }));
        let same = problem(r#"{"num_return_sequences": 3}"#);
        assert!(matches!(same, GenerateError::SameSequences { wanted: 3 }));
    }

    #[test]
    fn temperature_zero_is_fine_where_nothing_is_drawn() {
        assert_eq!(read(r#"{"temperature": 0}"#).unwrap().temperature, 0.0);
    }
}
