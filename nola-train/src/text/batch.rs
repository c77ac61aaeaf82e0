//! Batches of tokens in host memory.

use super::{Sample, TextData};

/// Target of a position whose next token is not learned.
pub const NO_TARGET: i64 = -1;
/// What padding is filled with; no model output depends on it.
const PADDING: i64 = 0;

/// Rows of tokens, padded on the right to the longest of them; every array is `[rows, tokens]`, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    /// What the model is fed with.
    pub ids: Vec<i64>,
    /// The token that follows each, already shifted; [`NO_TARGET`] where it is not learned.
    pub targets: Vec<i64>,
    /// Position of each token in its sample, from 0.
    pub positions: Vec<i64>,
    /// Which sample of its row each token is of, from 1; 0 is padding. A token sees those of its own sample alone.
    pub segments: Vec<i32>,
    /// Number of rows.
    pub rows: usize,
    /// Tokens of a row.
    pub tokens: usize,
}

impl TokenBatch {
    /// The batch whose rows each hold the given samples, one after the other.
    pub fn of(rows: &[Vec<&Sample>]) -> Self {
        let length = |row: &Vec<&Sample>| row.iter().map(|sample| sample.positions()).sum();
        let tokens = rows.iter().map(length).max().unwrap_or(0);
        let places = rows.len() * tokens;
        let mut batch = Self {
            ids: Vec::with_capacity(places),
            targets: Vec::with_capacity(places),
            positions: Vec::with_capacity(places),
            segments: Vec::with_capacity(places),
            rows: rows.len(),
            tokens,
        };
        for (index, row) in rows.iter().enumerate() {
            for (segment, sample) in (1..).zip(row) {
                batch.push(segment, sample);
            }
            batch.pad((index + 1) * tokens);
        }
        batch
    }

    /// Number of tokens that are learned.
    pub fn target_count(&self) -> usize {
        self.targets.iter().filter(|&&target| target != NO_TARGET).count()
    }

    /// The same rows in passes of at most `micro_batch`; all of them are as wide as the batch.
    pub fn split(&self, micro_batch: usize) -> impl Iterator<Item = Self> + '_ {
        (0..self.rows).step_by(micro_batch).map(move |first| {
            let end = self.rows.min(first + micro_batch);
            let places = first * self.tokens..end * self.tokens;
            Self {
                ids: self.ids[places.clone()].to_vec(),
                targets: self.targets[places.clone()].to_vec(),
                positions: self.positions[places.clone()].to_vec(),
                segments: self.segments[places].to_vec(),
                rows: end - first,
                tokens: self.tokens,
            }
        })
    }

    fn push(&mut self, segment: i32, sample: &Sample) {
        let start = self.targets.len();
        let length = sample.positions();
        self.ids.extend(sample.ids[..length].iter().map(|&id| i64::from(id)));
        self.positions.extend(0..length as i64);
        self.segments.extend(std::iter::repeat_n(segment, length));
        self.targets.resize(start + length, NO_TARGET);
        for token in sample.trained.iter().cloned().flatten().filter(|&token| token > 0) {
            self.targets[start + token - 1] = sample.ids[token].into();
        }
    }

    fn pad(&mut self, places: usize) {
        self.ids.resize(places, PADDING);
        self.targets.resize(places, NO_TARGET);
        self.positions.resize(places, 0);
        self.segments.resize(places, 0);
    }
}

impl TextData {
    /// Number of rows of one epoch.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Tokens of each row.
    pub fn lengths(&self) -> Vec<usize> {
        let length = |row: &Vec<usize>| row.iter().map(|&sample| self.samples[sample].positions()).sum();
        self.rows.iter().map(length).collect()
    }

    /// The batch of these rows.
    pub fn batch(&self, rows: &[usize]) -> TokenBatch {
        let samples = |&row: &usize| self.rows[row].iter().map(|&sample| &self.samples[sample]).collect();
        TokenBatch::of(&rows.iter().map(samples).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ids: &[u32], trained: std::ops::Range<usize>) -> Sample {
        Sample { ids: ids.to_vec(), trained: vec![trained] }
    }

    #[test]
    fn targets_are_the_next_tokens_where_they_are_learned() {
        let batch = TokenBatch::of(&[vec![&sample(&[5, 6, 7, 8], 2..4)]]);
        assert_eq!((batch.rows, batch.tokens), (1, 3));
        assert_eq!(batch.ids, [5, 6, 7]);
        assert_eq!(batch.targets, [-1, 7, 8]);
        assert_eq!(batch.target_count(), 2);
    }

    #[test]
    fn nothing_predicts_the_first_token() {
        let batch = TokenBatch::of(&[vec![&sample(&[5, 6], 0..2)]]);
        assert_eq!(batch.targets, [6]);
    }

    #[test]
    fn shorter_rows_are_padded_on_the_right() {
        let batch = TokenBatch::of(&[vec![&sample(&[5, 6], 1..2)], vec![&sample(&[0, 0, 0, 0], 0..4)]]);
        assert_eq!(batch.ids, [5, 0, 0, 0, 0, 0]);
        assert_eq!(batch.targets, [6, -1, -1, 0, 0, 0]);
        assert_eq!(batch.segments, [1, 0, 0, 1, 1, 1]);
        assert_eq!(batch.positions, [0, 0, 0, 0, 1, 2]);
    }

    #[test]
    fn samples_that_share_a_row_are_told_apart() {
        let (first, second) = (sample(&[5, 6, 7], 1..3), sample(&[8, 9], 1..2));
        let batch = TokenBatch::of(&[vec![&first, &second]]);
        assert_eq!(batch.ids, [5, 6, 8]);
        assert_eq!(batch.targets, [6, 7, 9], "no token of one sample is the target of another");
        assert_eq!(batch.segments, [1, 1, 2]);
        assert_eq!(batch.positions, [0, 1, 0]);
    }

    #[test]
    fn passes_together_are_the_batch() {
        let samples: Vec<Sample> = (1..6).map(|length| sample(&vec![3; length + 1], 0..length + 1)).collect();
        let batch = TokenBatch::of(&samples.iter().map(|sample| vec![sample]).collect::<Vec<_>>());
        let passes: Vec<TokenBatch> = batch.split(2).collect();
        assert_eq!(passes.iter().map(|pass| pass.rows).collect::<Vec<_>>(), [2, 2, 1]);
        assert!(passes.iter().all(|pass| pass.tokens == batch.tokens));
        let joined = |field: fn(&TokenBatch) -> &Vec<i64>| {
            passes.iter().flat_map(|pass| field(pass).clone()).collect::<Vec<_>>()
        };
        assert_eq!(joined(|batch| &batch.ids), batch.ids);
        assert_eq!(joined(|batch| &batch.targets), batch.targets);
        assert_eq!(passes.iter().map(TokenBatch::target_count).sum::<usize>(), batch.target_count());
    }
}
