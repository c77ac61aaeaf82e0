//! Causal self-attention over tokens, shared by the language models: what a token may look at, and what is kept for it.

mod cache;
mod mask;

use burn::tensor::Tensor;

pub(crate) use cache::Cache;
pub use cache::{GROWTH_TOKENS, KeyValueCache};
pub use mask::AttentionMask;

use crate::fused::attention;

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
    scale: f64,
    mask: &AttentionMask,
    window: Option<usize>,
) -> Tensor<3> {
    match cache {
        Cache::Nothing => attend(query, key, value, scale, mask.additive()),
        Cache::Batch(cache) => {
            let (key, value) = cache.extend(key, value);
            attend(query, key, value, scale, mask.additive())
        }
        Cache::Rows(caches) => {
            let rows = caches.into_iter().enumerate().map(|(row, cache)| {
                let of_row = |tensor: &Tensor<4>| tensor.clone().narrow(0, row, 1);
                let (key, value) = cache.extend(of_row(&key), of_row(&value));
                let tokens = key.dims()[2];
                let seen = window.map_or(tokens, |window| window.min(tokens));
                let last = |tensor: Tensor<4>| tensor.narrow(2, tokens - seen, seen);
                attend(of_row(&query), last(key), last(value), scale, None)
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
    scale: f64,
    hidden: Option<Tensor<4>>,
) -> Tensor<3> {
    let [batch, heads, tokens, d_head] = query.dims();
    let mixed = attention(query, key, value, hidden, scale);
    mixed.swap_dims(1, 2).reshape([batch, tokens, heads * d_head])
}
