//! A model for tests: its logits are a hash of the whole row, so any mistake in a row's tokens or order shows.

use super::{GenerateError, NextToken, Prompt};

/// Logits in [-2, 2) from the row's tokens; what `changed` does to them comes last.
pub(super) struct Fake {
    vocabulary: usize,
    pub(super) max_tokens: usize,
    rows: Vec<Vec<u32>>,
    /// Number of rows of each pass since the start.
    pub(super) passes: Vec<usize>,
    pub(super) changed: fn(&[u32], &mut [f32]),
}

impl Fake {
    pub(super) fn new(vocabulary: usize) -> Self {
        Self { vocabulary, max_tokens: usize::MAX, rows: Vec::new(), passes: Vec::new(), changed: |_, _| {} }
    }

    /// The logits of the token after a row.
    pub(super) fn after(&self, row: &[u32]) -> Vec<f32> {
        let state = row.iter().fold(0, |state, &token| mixed(state ^ (u64::from(token) + 1)));
        let logit = |token: u64| (mixed(state ^ (token + 1) << 32) >> 40) as f32 / (1 << 22) as f32 - 2.0;
        let mut logits: Vec<f32> = (0..self.vocabulary as u64).map(logit).collect();
        (self.changed)(row, &mut logits);
        logits
    }

    fn pass(&mut self) -> Result<Vec<Vec<f32>>, GenerateError> {
        self.passes.push(self.rows.len());
        Ok(self.rows.iter().map(|row| self.after(row)).collect())
    }
}

impl NextToken for Fake {
    fn start(&mut self, prompts: &[&[u32]]) -> Result<Vec<Vec<f32>>, GenerateError> {
        self.rows = prompts.iter().map(|prompt| prompt.to_vec()).collect();
        self.passes.clear();
        self.pass()
    }

    fn advance(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, GenerateError> {
        assert_eq!(tokens.len(), self.rows.len());
        for (row, token) in self.rows.iter_mut().zip(tokens) {
            row.push(*token);
        }
        assert!(self.rows.iter().all(|row| row.len() < self.max_tokens), "no row outgrows the model");
        self.pass()
    }

    fn reorder(&mut self, from: &[usize]) {
        self.rows = from.iter().map(|&row| self.rows[row].clone()).collect();
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }
}

/// The step of SplitMix64.
fn mixed(word: u64) -> u64 {
    let word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// Prompts with the rows 0, 1, 2, ...
pub(super) fn prompts(tokens: &[Vec<u32>]) -> Vec<Prompt> {
    (0..).zip(tokens).map(|(row, tokens)| Prompt { row, tokens: tokens.clone() }).collect()
}
