//! Causal self-attention over tokens, shared by the language models: what a token may look at, and what is kept for it.

mod cache;
mod mask;

use burn::tensor::activation::softmax;
use burn::tensor::{DType, Tensor};

pub(crate) use cache::Cache;
pub use cache::{GROWTH_TOKENS, KeyValueCache};
pub use mask::AttentionMask;

use crate::fused::attention;

/// What becomes of the products of queries and keys before the softmax.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scores {
    /// What they are multiplied by.
    pub(crate) scale: f64,
    /// What they approach as they grow, if they are capped.
    pub(crate) cap: Option<f64>,
}

/// `[batch, tokens, heads · d_head]` as `[batch, heads, tokens, d_head]`.
pub(crate) fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, tokens, width] = x.dims();
    x.reshape([batch, tokens, heads, width / heads]).swap_dims(1, 2)
}

/// Mixes the values that every query may see, those in `cache` first, which takes up the new ones; with the softmax in f32.
///
/// # Shapes
/// - `query`: `[batch, heads, tokens, d_head]`
/// - `key`, `value`: `[batch, kv_heads, tokens, d_head]`
/// - `window`: most tokens that a query sees, itself included; `mask` says it too
/// - output: `[batch, tokens, heads · d_head]`
pub(crate) fn attend_with(
    cache: Cache,
    [query, key, value]: [Tensor<4>; 3],
    scores: Scores,
    mask: &AttentionMask,
    window: Option<usize>,
) -> Tensor<3> {
    match cache {
        Cache::Nothing => attend(query, key, value, scores, mask.additive()),
        Cache::Batch(cache) => {
            let (key, value) = cache.extend(key, value);
            attend(query, key, value, scores, mask.additive())
        }
        Cache::Rows(caches) => {
            let rows = caches.into_iter().enumerate().map(|(row, cache)| {
                let of_row = |tensor: &Tensor<4>| tensor.clone().narrow(0, row, 1);
                let (key, value) = cache.extend(of_row(&key), of_row(&value));
                let tokens = key.dims()[2];
                let seen = window.map_or(tokens, |window| window.min(tokens));
                let last = |tensor: Tensor<4>| tensor.narrow(2, tokens - seen, seen);
                attend(of_row(&query), last(key), last(value), scores, None)
            });
            Tensor::cat(rows.collect(), 0)
        }
    }
}

/// Mixes the values that every query may see, with the softmax in f32.
///
/// With fewer heads in `key` and `value` than in `query`, each serves a group of queries that lie side by side.
///
/// # Shapes
/// - `query`: `[batch, heads, tokens, d_head]`
/// - `key`, `value`: `[batch, kv_heads, keys, d_head]`
/// - `hidden`: added to the scores, `[batch or 1, 1, tokens, keys]`
/// - output: `[batch, tokens, heads · d_head]`
fn attend(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    scores: Scores,
    hidden: Option<Tensor<4>>,
) -> Tensor<3> {
    let [batch, heads, tokens, d_head] = query.dims();
    let mixed = match scores.cap {
        None => attention(query, key, value, hidden, scores.scale),
        Some(cap) => capped_attention([query * scores.scale, key, value], hidden, cap),
    };
    mixed.swap_dims(1, 2).reshape([batch, tokens, heads * d_head])
}

/// The same where scores are capped, in burn's own operations; queries are scaled already.
fn capped_attention([query, key, value]: [Tensor<4>; 3], hidden: Option<Tensor<4>>, cap: f64) -> Tensor<4> {
    let ([batch, heads, tokens, d_head], [_, kv_heads, keys, _]) = (query.dims(), key.dims());
    // The queries of a group are rows of one matrix, so that no key or value is copied.
    let rows = heads / kv_heads * tokens;
    let products = query.reshape([batch, kv_heads, rows, d_head]).matmul(key.transpose()).cast(DType::F32);
    let scores = capped(products.reshape([batch, heads, tokens, keys]), cap);
    let scores = match hidden {
        Some(hidden) => scores + hidden,
        None => scores,
    };
    let weights = softmax(scores, 3).cast(value.dtype()).reshape([batch, kv_heads, rows, keys]);
    weights.matmul(value).reshape([batch, heads, tokens, d_head])
}

/// Numbers that approach `cap` and its opposite as they grow.
pub(crate) fn capped<const D: usize>(x: Tensor<D>, cap: f64) -> Tensor<D> {
    (x / cap).tanh() * cap
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData, Tolerance};

    use super::*;

    #[test]
    fn a_cap_that_no_score_comes_near_changes_nothing() {
        let device = Device::flex();
        let numbers = |shape: [usize; 4], seed: f32| {
            let count = shape.iter().product::<usize>();
            let values: Vec<f32> = (0..count).map(|n| (n as f32 * 0.7 + seed).sin()).collect();
            Tensor::<4>::from_data(TensorData::new(values, shape), &device)
        };
        let ids = Tensor::zeros([2, 3], &device);
        let mask = AttentionMask::causal(&ids).additive();
        let attended = |cap| {
            let [query, key, value] =
                [numbers([2, 4, 3, 5], 0.0), numbers([2, 2, 3, 5], 1.0), numbers([2, 2, 3, 5], 2.0)];
            attend(query, key, value, Scores { scale: 0.3, cap }, mask.clone()).into_data()
        };
        let free = attended(None);
        attended(Some(1e4)).assert_approx_eq::<f32>(&free, Tolerance::absolute(1e-6));
        assert_ne!(attended(Some(0.1)), free);
    }
}
