//! Multiple choice by likelihood: the answer is the letter that the model finds most probable after the question.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_models::AttentionMask;
use nola_models::CausalLm;
use nola_models::tokenizer::Specials;
use serde::Serialize;

use crate::Error;
use crate::session::{TextEncoder, host_rows};
use crate::text::{Choice, End, encode_end};

/// Shares of right answers, from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChoiceScores {
    /// Over all questions.
    pub accuracy: f64,
    /// The mean of the subjects' shares, which is what MMLU tables report.
    pub mean_of_subjects: f64,
    /// By subject.
    pub subjects: BTreeMap<String, f64>,
    /// Number of questions.
    pub questions: usize,
    /// Questions whose beginning was cut off because they are longer than the model's context.
    pub cut: usize,
}

/// Puts every question to `model`; `done` is called with how many are answered.
///
/// # Errors
/// If a question or a letter cannot be tokenised, or the model gives a letter what is not finite.
///
/// # Source
/// The evaluation of the authors' LLaMA-2 script: the most probable of the letters after the prompt.
pub fn answer_choices(
    model: &CausalLm,
    encoder: &TextEncoder,
    choices: &[Choice],
    device: &Device,
    mut done: impl FnMut(usize),
) -> Result<ChoiceScores, Error> {
    let mut subjects: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut cut = 0;
    for (number, choice) in choices.iter().enumerate() {
        let context = model.info().max_tokens;
        // The question itself stands at the end.
        let encode = |part: &str| encoder.tokenizer.encode(part, Specials::AsModel);
        let (mut ids, _) = encode_end(&choice.prompt, End::Last, context, encode, Vec::len)?;
        if ids.len() > context {
            cut += 1;
            ids.drain(..ids.len() - context);
        }
        let letters = letter_ids(encoder, choice)?;
        check_ids(ids.iter().chain(&letters), encoder, choice)?;
        let logits = after(model, &ids, device);
        if let Some(&value) = letters.iter().map(|&id| &logits[id as usize]).find(|logit| !logit.is_finite())
        {
            return Err(Error::NonFiniteAnswer { value, what: format!("question {}", number + 1) });
        }
        let likeliest = (0..letters.len()).max_by(|&a, &b| {
            let [a, b] = [a, b].map(|choice| logits[letters[choice] as usize]);
            a.total_cmp(&b)
        });
        let (right, count) = subjects.entry(choice.subject.clone()).or_default();
        *right += usize::from(likeliest == Some(choice.answer));
        *count += 1;
        done(number + 1);
    }
    Ok(shares(&subjects, choices.len(), cut))
}

/// A token that was added to the tokenizer alone has no embedding.
fn check_ids<'a>(
    mut ids: impl Iterator<Item = &'a u32>,
    encoder: &TextEncoder,
    choice: &Choice,
) -> Result<(), Error> {
    let embeddings = encoder.info.vocab_size;
    match ids.find(|&&id| id as usize >= embeddings) {
        None => Ok(()),
        Some(&id) => {
            let token = encoder.tokenizer.token(id).unwrap_or_default();
            let problem = format!(
                "the model has {embeddings} embeddings, none for the token `{token}` ({id}); remove the token from the \
                 text, or resize the model"
            );
            Err(Error::Prompt { prompt: choice.prompt.clone(), problem })
        }
    }
}

/// Logits after the last of `ids`.
fn after(model: &CausalLm, ids: &[u32], device: &Device) -> Vec<f32> {
    let values: Vec<i64> = ids.iter().map(|&id| id.into()).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(values, [1, ids.len()]), device);
    let hidden = model.hidden(ids.clone(), &AttentionMask::causal(&ids));
    let [_, tokens, d_model] = hidden.dims();
    let last = hidden.narrow(1, tokens - 1, 1).reshape([1, d_model]);
    host_rows(model.logits(last)).concat()
}

/// The token of each letter as it follows `Answer:`, that is after a space.
fn letter_ids(encoder: &TextEncoder, choice: &Choice) -> Result<Vec<u32>, Error> {
    let prompt = encoder.tokenizer.encode("Answer:", Specials::None)?;
    let id = |letter: &String| {
        let ids = encoder.tokenizer.encode(&format!("Answer: {letter}"), Specials::None)?;
        // A tokenizer that makes the space a token of its own tells the letter by the next one.
        let after = ids.iter().skip(prompt.len()).copied();
        after.last().ok_or_else(|| Error::Prompt {
            prompt: format!("Answer: {letter}"),
            problem: "the tokenizer makes no token of the letter".to_owned(),
        })
    };
    choice.choices.iter().map(id).collect()
}

fn shares(subjects: &BTreeMap<String, (usize, usize)>, questions: usize, cut: usize) -> ChoiceScores {
    let share = |right: usize, count: usize| right as f64 / count.max(1) as f64;
    let right = subjects.values().map(|(right, _)| right).sum();
    let of_subjects: BTreeMap<String, f64> =
        subjects.iter().map(|(name, &(right, count))| (name.clone(), share(right, count))).collect();
    ChoiceScores {
        accuracy: share(right, questions),
        mean_of_subjects: of_subjects.values().sum::<f64>() / of_subjects.len().max(1) as f64,
        subjects: of_subjects,
        questions,
        cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_subjects_weighs_each_subject_alike() {
        let subjects = BTreeMap::from([("a".to_owned(), (1, 1)), ("b".to_owned(), (0, 3))]);
        let scores = shares(&subjects, 4, 0);
        assert_eq!((scores.accuracy, scores.mean_of_subjects), (0.25, 0.5));
    }
}
