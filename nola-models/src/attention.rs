//! Causal self-attention over tokens, shared by the language models: what a token may look at, and what is kept for it.

mod cache;
mod mask;

use burn::tensor::Tensor;

pub(crate) use cache::BlockCache;
pub use cache::KeyValueCache;
pub use mask::AttentionMask;

use crate::fused::attention;

/// `[batch, tokens, heads · d_head]` as `[batch, heads, tokens, d_head]`.
pub(crate) fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, tokens, width] = x.dims();
    x.reshape([batch, tokens, heads, width / heads]).swap_dims(1, 2)
}

/// Mixes the values that every query may see, with the softmax in f32.
///
/// With fewer heads in `key` and `value` than in `query`, each serves a group of queries that lie side by side.
///
/// # Shapes
/// - `query`: `[batch, heads, tokens, d_head]`
/// - `key`, `value`: `[batch, kv_heads, keys, d_head]`
/// - output: `[batch, tokens, heads · d_head]`
pub(crate) fn attend(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    scale: f64,
    mask: &AttentionMask,
) -> Tensor<3> {
    let [batch, heads, tokens, d_head] = query.dims();
    let mixed = attention(query, key, value, mask.additive(), scale);
    mixed.swap_dims(1, 2).reshape([batch, tokens, heads * d_head])
}
