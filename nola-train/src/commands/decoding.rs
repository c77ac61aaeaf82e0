//! Options of every command that writes text.

use clap::Args;
use nola_models::generate::GenerationConfig;

use crate::evaluate::Decoding;

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
    pub fn over(&self, folder: &GenerationConfig) -> Decoding {
        let mut generation = folder.clone();
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
        Decoding { generation, batch: self.batch as usize }
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
        line.decoding.over(&folder).generation
    }

    #[test]
    fn what_is_not_typed_comes_from_the_folder() {
        assert_eq!((typed(&[]).do_sample, typed(&["--top-p", "0.5"]).top_k), (true, 7));
    }

    #[test]
    fn a_typed_number_of_new_tokens_counts_instead_of_the_folders_length() {
        let line = Line::try_parse_from(["test", "--max-new-tokens", "7"]).expect("usable options");
        let folder = GenerationConfig { max_length: 20, ..GenerationConfig::default() };
        let generation = line.decoding.over(&folder).generation;
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

    #[test]
    fn end_tokens_are_a_list() {
        assert_eq!(typed(&["--end", "50256,628"]).eos_token_id, [50256, 628]);
    }
}
