//! Likelihood of text under a model.

use std::cmp::Reverse;

use burn::tensor::Device;
use nola_models::CausalLm;

use crate::model_with_loss::{TextBatch, scored};
use crate::progress::{Scores, Target};
use crate::text::TextData;

/// Rows per pass of an evaluation.
const ROWS: usize = 16;

/// What a model thought of every token that was to be told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextEvaluation {
    /// Mean cross-entropy in nats per token, and the share of tokens that were the most probable ones.
    pub scores: Scores,
    /// Tokens that were to be told.
    pub tokens: usize,
}

/// Runs `model` on every row of `data` once; `done` hears how many rows are finished.
pub fn evaluate_text(
    model: &CausalLm,
    data: &TextData,
    device: &Device,
    mut done: impl FnMut(usize),
) -> TextEvaluation {
    let (mut sum, mut right, mut tokens, mut finished) = (0.0, 0, 0, 0);
    for rows in longest_first(data).chunks(ROWS) {
        let batch = TextBatch::new(&data.batch(rows), device);
        let (log_probability, hits) = scored(model, batch.hidden(model), &batch.next);
        sum += log_probability;
        right += hits;
        tokens += batch.next.dims()[0];
        finished += rows.len();
        done(finished);
    }
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
