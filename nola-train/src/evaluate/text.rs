//! Likelihood of text under a model.

use std::cmp::Reverse;

use burn::tensor::Device;
use nola_models::CausalLm;
use serde::{Deserialize, Serialize};

use crate::exact;
use crate::model_with_loss::{TextBatch, scored};
use crate::progress::{Scores, Target};
use crate::ranks::{RankError, Ranks, Topic};
use crate::text::TextData;

/// Rows per pass of an evaluation.
const ROWS: usize = 16;

/// The scores of a model on every token it had to predict.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextEvaluation {
    /// Mean cross-entropy in nats per token, and the share of tokens that were the most probable ones.
    pub scores: Scores,
    /// Tokens to predict.
    pub tokens: usize,
}

/// What a model thought of some rows.
#[derive(Serialize, Deserialize)]
struct OfRows {
    /// Sum over their tokens.
    #[serde(with = "exact")]
    log_probability: f64,
    /// Tokens that were the most probable ones.
    right: usize,
    tokens: usize,
}

/// Runs `model` on every row of `data` once; `done` is called with how many rows are finished.
pub fn evaluate_text(
    model: &CausalLm,
    data: &TextData,
    device: &Device,
    mut done: impl FnMut(usize),
) -> TextEvaluation {
    let (mut parts, mut finished) = (Vec::new(), 0);
    for rows in longest_first(data).chunks(ROWS) {
        parts.push(of_rows(model, data, rows, device));
        finished += rows.len();
        done(finished);
    }
    evaluation(&parts)
}

/// The same, where ranks share the rows; every one gets the whole, with the same bits for any number of them.
///
/// # Errors
/// If a rank ended.
pub fn evaluate_text_across(
    ranks: &Ranks,
    model: &CausalLm,
    data: &TextData,
    device: &Device,
) -> Result<TextEvaluation, RankError> {
    let rows = longest_first(data);
    let parts: Vec<&[usize]> = rows.chunks(ROWS).collect();
    let own = |wanted: Vec<usize>| {
        Ok::<_, RankError>(wanted.into_iter().map(|part| of_rows(model, data, parts[part], device)).collect())
    };
    Ok(evaluation(&ranks.share(Topic::Evaluation, parts.len(), own)?))
}

fn of_rows(model: &CausalLm, data: &TextData, rows: &[usize], device: &Device) -> OfRows {
    let batch = TextBatch::new(&data.batch(rows), device);
    let (log_probability, right) = scored(model, batch.hidden(model), &batch.next);
    OfRows { log_probability, right, tokens: batch.next.dims()[0] }
}

fn evaluation(parts: &[OfRows]) -> TextEvaluation {
    let sum: f64 = parts.iter().map(|part| part.log_probability).sum();
    let right: usize = parts.iter().map(|part| part.right).sum();
    let tokens: usize = parts.iter().map(|part| part.tokens).sum();
    let count = tokens.max(1) as f64;
    let (loss, accuracy) = ((-sum / count) as f32, right as f64 / count);
    let scores = Scores { target: Target::Token, loss, accuracy, answers: tokens };
    TextEvaluation { scores, tokens }
}

/// All rows; neighbours are of about the same length, which saves padding, and the largest pass is the first one.
fn longest_first(data: &TextData) -> Vec<usize> {
    let lengths = data.lengths();
    let mut rows: Vec<usize> = (0..data.len()).collect();
    rows.sort_by_key(|&row| Reverse(lengths[row]));
    rows
}
