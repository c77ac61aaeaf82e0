//! What a model writes after the prompts of a data set, and how it compares with what people wrote.

use burn::tensor::Device;
use nola_models::CausalLm;
use nola_models::generate::{Cached, Finish, Generated, GenerationConfig, Prompt, generate};
use nola_models::tokenizer::DecodeSpecials;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::metrics::{Corpus, E2eScores, MetricsError, SacreBleu, chrf, e2e_scores, ter};
use crate::session::TextEncoder;
use crate::text::{Beginning, References, prompt_ids};

/// How texts compare with what people wrote; each score is defined in [`metrics`](crate::metrics).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TextScores {
    /// The five figures of the E2E challenge.
    #[serde(flatten)]
    pub e2e: E2eScores,
    /// sacreBLEU's default, 0 to 100.
    pub sacre_bleu: f64,
    /// chrF2, 0 to 100.
    pub chrf: f64,
    /// Edits for each reference word in percent; smaller is better.
    pub ter: f64,
}

impl TextScores {
    /// Scores of one text for each group of references.
    ///
    /// # Errors
    /// If there is none, or a group is empty.
    pub fn of(hypotheses: &[String], references: &[Vec<String>]) -> Result<Self, MetricsError> {
        let corpus = Corpus::new(hypotheses, references)?;
        Ok(Self {
            e2e: e2e_scores(hypotheses, references)?,
            sacre_bleu: SacreBleu::default().score(&corpus).score,
            chrf: chrf(&corpus),
            ter: ter(&corpus),
        })
    }
}

/// How prompts are completed.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoding {
    /// Settings of one text.
    pub generation: GenerationConfig,
    /// Prompts that are completed at a time.
    pub batch: usize,
}

/// A text that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The text, without the prompt and the end token.
    pub text: String,
    /// New tokens, the end token with them.
    pub tokens: usize,
    /// Why it ended.
    pub finish: Finish,
}

/// Completes every prompt, given as tokens; `done` is called with how many are finished.
///
/// # Errors
/// If a setting or a prompt cannot be used, or the model gives NaN.
pub fn write_all(
    model: &CausalLm,
    encoder: &TextEncoder,
    prompts: &[Vec<u32>],
    decoding: &Decoding,
    device: &Device,
    mut done: impl FnMut(usize),
) -> Result<Vec<Vec<Written>>, Error> {
    let mut decoder = Cached::new(model, device);
    let mut all = Vec::with_capacity(prompts.len());
    let numbered: Vec<Prompt> =
        (0..).zip(prompts).map(|(row, tokens)| Prompt { row, tokens: tokens.clone() }).collect();
    for batch in numbered.chunks(decoding.batch) {
        for texts in generate(&mut decoder, batch, &decoding.generation)? {
            let written = texts.iter().map(|text| written(text, encoder)).collect::<Result<_, Error>>()?;
            all.push(written);
        }
        done(all.len());
    }
    Ok(all)
}

fn written(generated: &Generated, encoder: &TextEncoder) -> Result<Written, Error> {
    let text = encoder.tokenizer.decode(generated.without_end(), DecodeSpecials::Skip)?;
    Ok(Written { text, tokens: generated.tokens.len(), finish: generated.finish })
}

/// The groups whose prompts leave room for at least one more token in the model's context; each prompt is tokenised only when
/// it is asked for. An item is an error if its prompt cannot be tokenised.
pub fn with_room(
    groups: Vec<References>,
    encoder: &TextEncoder,
) -> impl Iterator<Item = Result<References, Error>> {
    let context = encoder.info.max_tokens;
    groups.into_iter().filter_map(move |group| match tokens_of(&group, encoder) {
        Ok(tokens) => (tokens.len() < context).then_some(Ok(group)),
        Err(error) => Some(Err(error)),
    })
}

fn tokens_of(group: &References, encoder: &TextEncoder) -> Result<Vec<u32>, Error> {
    // A prompt that fills the context is left out, however long it is.
    let beginning = Beginning::new(encoder, encoder.info.max_tokens);
    prompt_ids(&group.pair(), &beginning)
        .map_err(|problem| Error::Prompt { prompt: group.prompt.clone(), problem })
}

/// Writes a text for each group of references and compares them.
///
/// # Errors
/// As [`write_all`], or if there is no group.
pub fn score_written(
    model: &CausalLm,
    encoder: &TextEncoder,
    groups: &[References],
    decoding: &Decoding,
    device: &Device,
    done: impl FnMut(usize),
) -> Result<(TextScores, Vec<String>), Error> {
    if groups.is_empty() {
        return Err(Error::NoRoom { context: encoder.info.max_tokens });
    }
    let tokens = groups.iter().map(|group| tokens_of(group, encoder));
    let prompts: Vec<Vec<u32>> = tokens.collect::<Result<_, Error>>()?;
    let written = write_all(model, encoder, &prompts, decoding, device, done)?;
    let best = |texts: Vec<Written>| {
        texts.into_iter().next().map_or(String::new(), |text| text.text.trim().to_owned())
    };
    let hypotheses: Vec<String> = written.into_iter().map(best).collect();
    let references: Vec<Vec<String>> = groups.iter().map(|group| group.references.clone()).collect();
    Ok((TextScores::of(&hypotheses, &references)?, hypotheses))
}
