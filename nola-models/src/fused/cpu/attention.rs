//! Attention one block of queries at a time: the scores of a block stay in the cache, and none are stored.

use std::ops::Range;

use pulp::Arch;
use rayon::prelude::*;

use super::rows::{softmax, sum};
use nola_core::matrix::{Accumulate, Matrix, multiply};

/// Queries whose scores are in memory together.
const BLOCK: usize = 64;
/// A summand below this hides a key.
const HIDDEN: f32 = -1e30;

/// `[batch, heads, tokens, d_head]`; the numbers of a row lie side by side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads<'a> {
    pub(super) values: &'a [f32],
    pub(super) sizes: [usize; 4],
    /// Of all axes but the last.
    pub(super) strides: [usize; 3],
}

impl<'a> Heads<'a> {
    /// One row.
    pub(super) fn row(&self, batch: usize, head: usize, token: usize) -> &'a [f32] {
        let start = batch * self.strides[0] + head * self.strides[1] + token * self.strides[2];
        &self.values[start..start + self.sizes[3]]
    }

    fn matrix(&self, batch: usize, head: usize) -> Matrix<'a> {
        let [_, _, tokens, d_head] = self.sizes;
        let start = batch * self.strides[0] + head * self.strides[1];
        Matrix::new(&self.values[start..], [tokens, d_head], self.strides[2])
    }
}

/// What is added to the scores, `[batch or 1, 1, tokens, keys]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mask<'a> {
    pub(super) values: &'a [f32],
    pub(super) tokens: usize,
    pub(super) keys: usize,
}

impl<'a> Mask<'a> {
    /// The rows of some queries.
    fn rows(&self, batch: usize, queries: Range<usize>) -> &'a [f32] {
        let size = self.tokens * self.keys;
        let start = if self.values.len() == size { 0 } else { batch * size };
        &self.values[start + queries.start * self.keys..start + queries.end * self.keys]
    }
}

/// A block of queries, and the keys that any of them sees.
struct Block<'a> {
    queries: Range<usize>,
    keys: Range<usize>,
    /// Rows of the mask, all keys.
    mask: Option<&'a [f32]>,
}

/// The blocks of one sequence.
fn blocks(
    batch: usize,
    tokens: usize,
    keys: usize,
    mask: Option<Mask<'_>>,
) -> impl Iterator<Item = Block<'_>> {
    (0..tokens).step_by(BLOCK).map(move |start| {
        let queries = start..tokens.min(start + BLOCK);
        let mask = mask.map(|mask| mask.rows(batch, queries.clone()));
        Block { queries, keys: mask.map_or(0..keys, |mask| seen(mask, keys)), mask }
    })
}

/// The keys outside of which all queries see nothing; all of them if a query sees none, which then sees all alike.
fn seen(mask: &[f32], keys: usize) -> Range<usize> {
    let mut range = keys..0;
    for row in mask.chunks_exact(keys) {
        let is_seen = |summand: &f32| *summand > HIDDEN;
        let (Some(first), Some(last)) = (row.iter().position(is_seen), row.iter().rposition(is_seen)) else {
            return 0..keys;
        };
        range = range.start.min(first)..range.end.max(last + 1);
    }
    range
}

impl Block<'_> {
    /// Softmax of the scores, `[queries, keys]`.
    fn weights(&self, query: Matrix, key: Matrix, scale: f32, all_keys: usize, weights: &mut Vec<f32>) {
        let keys = self.keys.len();
        weights.resize(self.queries.len() * keys, 0.0);
        let (query, key) = (query.rows(self.queries.clone()), key.rows(self.keys.clone()));
        multiply(weights, Accumulate::Overwrite, scale, query, key.transposed());
        Arch::new().dispatch(
            #[inline(always)]
            || {
                if let Some(mask) = self.mask {
                    for (row, mask) in weights.chunks_exact_mut(keys).zip(mask.chunks_exact(all_keys)) {
                        row.iter_mut().zip(&mask[self.keys.clone()]).for_each(|(score, mask)| *score += mask);
                    }
                }
                weights.chunks_exact_mut(keys).for_each(softmax);
            },
        );
    }
}

/// `result` is `[batch, tokens, heads, d_head]`.
pub(super) fn forward([query, key, value]: [Heads; 3], mask: Option<Mask>, scale: f32, result: &mut [f32]) {
    let [batch, heads, tokens, d_head] = query.sizes;
    let [_, kv_heads, keys, _] = key.sizes;
    let group = heads / kv_heads;
    let mut result = rows_of_heads(result, batch, heads, d_head);
    result.par_iter_mut().enumerate().for_each(|(index, result)| {
        let (batch, head) = (index / heads, index % heads);
        let [key, value] = [key, value].map(|heads| heads.matrix(batch, head / group));
        let (mut weights, mut mixed) = (Vec::new(), Vec::new());
        for block in blocks(batch, tokens, keys, mask) {
            block.weights(query.matrix(batch, head), key, scale, keys, &mut weights);
            mixed.resize(block.queries.len() * d_head, 0.0);
            let weights = Matrix::new(&weights, [block.queries.len(), block.keys.len()], block.keys.len());
            multiply(&mut mixed, Accumulate::Overwrite, 1.0, weights, value.rows(block.keys.clone()));
            put(&mixed, &mut result[block.queries]);
        }
    });
}

/// `results` are of query, key and value, laid out as in [`forward`].
pub(super) fn backward(
    [query, key, value]: [Heads; 3],
    gradient: Heads,
    mask: Option<Mask>,
    scale: f32,
    [of_query, of_key, of_value]: [&mut [f32]; 3],
) {
    let [batch, heads, tokens, d_head] = query.sizes;
    let [_, kv_heads, keys, _] = key.sizes;
    let group = heads / kv_heads;
    let mut of_query = rows_of_heads(of_query, batch, heads, d_head);
    let mut of_key = rows_of_heads(of_key, batch, kv_heads, d_head);
    let mut of_value = rows_of_heads(of_value, batch, kv_heads, d_head);
    let results = of_query.par_chunks_mut(group).zip(&mut of_key).zip(&mut of_value);
    results.enumerate().for_each(|(index, ((of_queries, of_key), of_value))| {
        let (batch, kv_head) = (index / kv_heads, index % kv_heads);
        let [key, value] = [key, value].map(|heads| heads.matrix(batch, kv_head));
        let mut sums = [(); 2].map(|()| vec![0.0; keys * d_head]);
        let (mut weights, mut of_scores, mut of_block) = (Vec::new(), Vec::new(), Vec::new());
        for (member, of_query) in of_queries.iter_mut().enumerate() {
            let head = kv_head * group + member;
            let [query, gradient] = [query, gradient].map(|heads| heads.matrix(batch, head));
            for block in blocks(batch, tokens, keys, mask) {
                let sizes = [block.queries.len(), block.keys.len()];
                let [of_key, of_value] =
                    sums.each_mut().map(|sums| &mut sums[block.keys.start * d_head..block.keys.end * d_head]);
                block.weights(query, key, scale, keys, &mut weights);
                let (query, gradient) =
                    (query.rows(block.queries.clone()), gradient.rows(block.queries.clone()));
                let (key, value) = (key.rows(block.keys.clone()), value.rows(block.keys.clone()));
                let as_matrix = |values| Matrix::new(values, sizes, sizes[1]);
                multiply(of_value, Accumulate::Add, 1.0, as_matrix(&weights).transposed(), gradient);
                of_scores.resize(sizes[0] * sizes[1], 0.0);
                multiply(&mut of_scores, Accumulate::Overwrite, 1.0, gradient, value.transposed());
                through_softmax(&weights, &mut of_scores, sizes[1]);
                multiply(of_key, Accumulate::Add, scale, as_matrix(&of_scores).transposed(), query);
                of_block.resize(sizes[0] * d_head, 0.0);
                multiply(&mut of_block, Accumulate::Overwrite, scale, as_matrix(&of_scores), key);
                put(&of_block, &mut of_query[block.queries]);
            }
        }
        put(&sums[0], of_key);
        put(&sums[1], of_value);
    });
}

/// Gradients of the weights become those of the scores.
fn through_softmax(weights: &[f32], gradients: &mut [f32], keys: usize) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (weights, gradients) in weights.chunks_exact(keys).zip(gradients.chunks_exact_mut(keys)) {
                let along = sum(weights, gradients, |weight, gradient| weight * gradient);
                for (gradient, weight) in gradients.iter_mut().zip(weights) {
                    *gradient = (*gradient - along) * weight;
                }
            }
        },
    );
}

/// The rows of each head of each sequence, of numbers that lie as `[batch, tokens, heads, d_head]`.
fn rows_of_heads(values: &mut [f32], batch: usize, heads: usize, d_head: usize) -> Vec<Vec<&mut [f32]>> {
    let mut rows: Vec<Vec<&mut [f32]>> = (0..batch * heads).map(|_| Vec::new()).collect();
    let per_sequence = values.len() / (batch * d_head);
    for (index, row) in values.chunks_exact_mut(d_head).enumerate() {
        rows[index / per_sequence * heads + index % heads].push(row);
    }
    rows
}

fn put(values: &[f32], rows: &mut [&mut [f32]]) {
    let Some(width) = rows.first().map(|row| row.len()) else { return };
    for (row, values) in rows.iter_mut().zip(values.chunks_exact(width)) {
        row.copy_from_slice(values);
    }
}
