//! Options of every command that writes text.

use std::path::Path;

use clap::Args;
use nola_models::generate::{GenerateError, GenerationConfig};

use crate::Error;
use crate::evaluate::Decoding;
use crate::session::TextEncoder;
use crate::terminal::err_line;

/// How text is written; what is not given comes from the model's `generation_config.json`.
#[derive(Debug, Args)]
pub struct DecodingArgs {
    /// Most tokens that are added to a prompt.
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Draw tokens at random after dividing the logits by this; 0 takes the likeliest one.
    #[arg(long, value_name = "X")]
    temperature: Option<f64>,
    /// Draw from the N likeliest tokens; 0: from all.
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// Draw from the likeliest tokens that together reach this probability.
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Draw from the tokens with at least this part of the likeliest one's probability.
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,
    /// Above 1: tokens that are there already become less likely.
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f64>,
    /// No run of N tokens comes twice.
    #[arg(long, value_name = "N")]
    no_repeat: Option<usize>,
    /// Beam search with N beams.
    #[arg(long, value_name = "N")]
    beams: Option<usize>,
    /// A beam's log-probability is divided by its new tokens to this power.
    #[arg(long, value_name = "X")]
    length_penalty: Option<f64>,
    /// Token ids that end a text, separated by commas.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    end: Option<Vec<u32>>,
    /// Seed of what is drawn.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Prompts that are completed at a time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
}

impl DecodingArgs {
    /// Whether anything but the batch was typed.
    pub fn is_typed(&self) -> bool {
        let Self { max_new_tokens, temperature, top_k, top_p, min_p, .. } = self;
        let Self { repetition_penalty, no_repeat, beams, length_penalty, end, seed, .. } = self;
        let numbers = [max_new_tokens, top_k, no_repeat, beams].iter().any(|value| value.is_some());
        let measures = [temperature, top_p, min_p, repetition_penalty, length_penalty];
        numbers || measures.iter().any(|value| value.is_some()) || end.is_some() || seed.is_some()
    }

    /// The settings of the model's folder with what was typed.
    ///
    /// # Errors
    /// If they cannot be read, or a setting cannot be or does not go together with another.
    pub fn over(&self, encoder: &TextEncoder) -> Result<Decoding, Error> {
        let generation = self.merged(encoder.generation()?);
        generation.check().map_err(|error| self.explained(error.into(), &encoder.generation_file()))?;
        self.without_effect(&generation).iter().for_each(|note| err_line(note));
        Ok(Decoding { generation, batch: self.batch as usize })
    }

    /// An error about settings under the names by which the user gave them: options, or keys of `file`.
    pub fn explained(&self, error: Error, file: &Path) -> Error {
        let Error::Generate(error) = error else { return error };
        match self.problem(&error, file) {
            Some(problem) => Error::Decoding { problem },
            None => error.into(),
        }
    }

    fn problem(&self, error: &GenerateError, file: &Path) -> Option<String> {
        let name = |key| self.name(key, file);
        Some(match error {
            GenerateError::OutOfRange { field, found, allowed } => {
                format!("{} is {found}; it must be {allowed}", name(field))
            }
            GenerateError::SampledBeams { num_beams } if self.beams.is_some() => format!(
                "--beams {num_beams} and --temperature do not go together: beams are not drawn at random; leave one of them out"
            ),
            GenerateError::SampledBeams { num_beams } => format!(
                "--temperature draws at random, but {} is {num_beams}, and beams are not drawn; add --beams 1, or leave \
                 --temperature out",
                name("num_beams")
            ),
            GenerateError::TooFewBeams { wanted, num_beams } => format!(
                "{} is {wanted}, but {} is {num_beams}; give --beams {wanted} or more",
                name("num_return_sequences"),
                name("num_beams")
            ),
            GenerateError::SameSequences { wanted } => format!(
                "{} is {wanted}, but the likeliest tokens are one text; give --temperature 1 or --beams {wanted}",
                name("num_return_sequences")
            ),
            GenerateError::UnknownEnd { token, vocabulary } => format!(
                "{} names {token}, but the model has {vocabulary} tokens, from 0; give an id below with --end",
                name("eos_token_id")
            ),
            GenerateError::NothingLeft { row, new_tokens } => format!(
                "prompt {}: after {new_tokens} new tokens none may follow: {} is too small; give a larger --no-repeat, or 0 \
                 for off",
                row + 1,
                name("no_repeat_ngram_size")
            ),
            _ => return None,
        })
    }

    /// What the user calls a setting: the option that was typed, else the key of `file`.
    fn name(&self, key: &str, file: &Path) -> String {
        let option = match key {
            "max_new_tokens" => self.max_new_tokens.map(|_| "--max-new-tokens"),
            "temperature" => self.temperature.map(|_| "--temperature"),
            "top_k" => self.top_k.map(|_| "--top-k"),
            "top_p" => self.top_p.map(|_| "--top-p"),
            "min_p" => self.min_p.map(|_| "--min-p"),
            "repetition_penalty" => self.repetition_penalty.map(|_| "--repetition-penalty"),
            "no_repeat_ngram_size" => self.no_repeat.map(|_| "--no-repeat"),
            "num_beams" => self.beams.map(|_| "--beams"),
            "length_penalty" => self.length_penalty.map(|_| "--length-penalty"),
            "eos_token_id" => self.end.as_ref().map(|_| "--end"),
            _ => None,
        };
        option.map_or_else(|| format!("`{key}` of {}", file.display()), str::to_owned)
    }

    /// What was typed in vain.
    fn without_effect(&self, generation: &GenerationConfig) -> Vec<String> {
        let drawing = [
            ("--top-k", self.top_k.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--min-p", self.min_p.is_some()),
            ("--seed", self.seed.is_some()),
        ];
        let drawing = drawing.into_iter().filter(|(_, is_typed)| *is_typed && !generation.do_sample).map(|(option, _)| {
            format!("warning: {option} has no effect: nothing is drawn at random; add --temperature 1 for that")
        });
        let is_vain = self.length_penalty.is_some() && generation.num_beams == 1;
        let of_beams =
            "warning: --length-penalty has no effect: there is one beam; add --beams 4, for example";
        drawing.chain(is_vain.then(|| of_beams.to_owned())).collect()
    }

    fn merged(&self, mut generation: GenerationConfig) -> GenerationConfig {
        fn set<T: Clone>(value: &mut T, typed: &Option<T>) {
            if let Some(typed) = typed {
                *value = typed.clone();
            }
        }
        if let Some(max_new_tokens) = self.max_new_tokens {
            generation.max_new_tokens = max_new_tokens;
            // As in transformers, this one counts then.
            generation.max_length = usize::MAX;
        }
        set(&mut generation.top_k, &self.top_k);
        set(&mut generation.top_p, &self.top_p);
        set(&mut generation.min_p, &self.min_p);
        set(&mut generation.repetition_penalty, &self.repetition_penalty);
        set(&mut generation.no_repeat_ngram_size, &self.no_repeat);
        set(&mut generation.length_penalty, &self.length_penalty);
        set(&mut generation.eos_token_id, &self.end);
        set(&mut generation.seed, &self.seed);
        if let Some(beams) = self.beams {
            generation.num_beams = beams;
            generation.do_sample = false;
        }
        if let Some(temperature) = self.temperature {
            generation.do_sample = temperature != 0.0;
            if generation.do_sample {
                generation.temperature = temperature;
            }
        }
        generation
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        decoding: DecodingArgs,
    }

    fn typed(arguments: &[&str]) -> GenerationConfig {
        let line = Line::try_parse_from(["test"].iter().chain(arguments)).expect("usable options");
        let folder = GenerationConfig { do_sample: true, top_k: 7, ..GenerationConfig::default() };
        line.decoding.merged(folder)
    }

    #[test]
    fn what_is_not_typed_comes_from_the_folder() {
        assert_eq!((typed(&[]).do_sample, typed(&["--top-p", "0.5"]).top_k), (true, 7));
    }

    #[test]
    fn a_typed_number_of_new_tokens_counts_instead_of_the_folders_length() {
        let line = Line::try_parse_from(["test", "--max-new-tokens", "7"]).expect("usable options");
        let folder = GenerationConfig { max_length: 20, ..GenerationConfig::default() };
        let generation = line.decoding.merged(folder);
        assert_eq!((generation.max_new_tokens, generation.max_length), (7, usize::MAX));
    }

    #[test]
    fn temperature_0_takes_the_likeliest() {
        assert!(!typed(&["--temperature", "0"]).do_sample);
        assert!(typed(&["--temperature", "0.7"]).do_sample);
    }

    #[test]
    fn beams_are_not_drawn() {
        assert!(!typed(&["--beams", "4"]).do_sample);
    }

    /// The message about options beside the settings of a folder.
    fn refused(arguments: &[&str], folder: GenerationConfig) -> String {
        let line = Line::try_parse_from(["test"].iter().chain(arguments)).expect("usable options");
        let error = line.decoding.merged(folder).check().expect_err("they do not go together");
        line.decoding.explained(error.into(), Path::new("base/generation_config.json")).to_string()
    }

    #[test]
    fn options_are_named_as_they_are_typed() {
        let folder = GenerationConfig::default;
        assert_eq!(refused(&["--top-p", "2"], folder()), "--top-p is 2; it must be above 0 and at most 1");
        assert!(refused(&["--beams", "0"], folder()).starts_with("--beams is 0; it must be from 1"));
        assert!(refused(&["--max-new-tokens", "0"], folder()).starts_with("--max-new-tokens is 0"));
        let both = refused(&["--beams", "4", "--temperature", "0.5"], folder());
        assert!(both.starts_with("--beams 4 and --temperature do not go together"), "{both}");
        let line = Line::try_parse_from(["test", "--no-repeat", "1"]).expect("usable options");
        let error = Error::from(GenerateError::NothingLeft { row: 0, new_tokens: 3 });
        let message = line.decoding.explained(error, Path::new("file")).to_string();
        assert!(message.contains(": --no-repeat is too small"), "{message}");
    }

    #[test]
    fn settings_of_the_folder_are_named_with_their_file() {
        let beams = GenerationConfig { num_beams: 3, ..GenerationConfig::default() };
        let message = refused(&["--temperature", "0.5"], beams);
        assert!(message.contains("`num_beams` of base/generation_config.json is 3"), "{message}");
        let several =
            GenerationConfig { num_return_sequences: 3, do_sample: true, ..GenerationConfig::default() };
        let message = refused(&["--temperature", "0"], several.clone());
        assert!(
            message.starts_with("`num_return_sequences` of base/generation_config.json is 3"),
            "{message}"
        );
        let message = refused(&["--beams", "2"], several);
        assert!(message.contains("but --beams is 2; give --beams 3 or more"), "{message}");
    }

    #[test]
    fn what_is_typed_in_vain_is_told() {
        let vain = |arguments: &[&str]| {
            let line = Line::try_parse_from(["test"].iter().chain(arguments)).expect("usable options");
            let generation = line.decoding.merged(GenerationConfig::default());
            line.decoding.without_effect(&generation).len()
        };
        assert_eq!(vain(&["--top-k", "3", "--seed", "1", "--length-penalty", "2"]), 3);
        assert_eq!(vain(&["--top-k", "3", "--seed", "1", "--temperature", "1"]), 0);
        assert_eq!(vain(&["--length-penalty", "2", "--beams", "2"]), 0);
    }

    #[test]
    fn end_tokens_are_a_list() {
        assert_eq!(typed(&["--end", "50256,628"]).eos_token_id, [50256, 628]);
    }
}
