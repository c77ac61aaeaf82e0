//! Keys and values of the tokens that were read, so that the next one needs no second pass over them.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Room is made for this many tokens at a time.
pub const GROWTH_TOKENS: usize = 256;

/// Keys and values of all tokens read so far, for every block of one model.
#[derive(Debug, Clone, Default)]
pub struct KeyValueCache {
    blocks: Vec<BlockCache>,
    /// Tokens of padding before each row; empty for none.
    padding: Vec<usize>,
    /// The tokens themselves, `[rows, tokens]`, where all of them may have to be read again.
    ids: Option<Tensor<2, Int>>,
}

/// Keys and values of one block.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlockCache {
    keys: Kept,
    values: Kept,
}

/// What one block keeps of each token.
#[derive(Debug, Clone, Default)]
struct Kept {
    /// `[rows, kv_heads, room, d_head]`; none before the first token.
    stored: Option<Tensor<4>>,
    tokens: usize,
}

/// Where a block finds the keys and values of the tokens that were read before.
pub(crate) enum Cache<'a> {
    /// Nowhere: all tokens are in the pass.
    Nothing,
    /// All rows began together.
    Batch(&'a mut BlockCache),
    /// Each row for itself; the pass has one token of each.
    Rows(Vec<&'a mut BlockCache>),
}

impl KeyValueCache {
    /// A cache that holds nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tokens it holds of each row, padding included.
    pub fn tokens(&self) -> usize {
        self.blocks.first().map_or(0, |block| block.keys.tokens)
    }

    /// Bytes that it takes, with the room for tokens to come.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.keys.bytes() + block.values.bytes()).sum()
    }

    /// Row `n` becomes what row `from[n]` was; rows may be left out or repeated.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn reorder(&mut self, from: &[usize]) {
        self.blocks.iter_mut().for_each(|block| block.reorder(from));
        if !self.padding.is_empty() {
            self.padding = from.iter().map(|&row| self.padding[row]).collect();
        }
        self.ids = self.ids.take().map(|ids| rows_of(ids, from));
    }

    /// Keeps the tokens of a pass, for [`KeyValueCache::restart`].
    pub(crate) fn remember(&mut self, ids: Tensor<2, Int>) {
        self.ids = Some(match self.ids.take() {
            Some(before) => Tensor::cat(vec![before, ids], 1),
            None => ids,
        });
    }

    /// Forgets everything, and returns all tokens that it held with `ids` behind them, and the padding before
    /// each row.
    ///
    /// # Shapes
    /// - `ids`: `[rows, tokens]`
    ///
    /// # Panics
    /// If its tokens were not kept.
    pub(crate) fn restart(&mut self, ids: Tensor<2, Int>) -> (Tensor<2, Int>, Vec<usize>) {
        let before = self.ids.take().expect("the model keeps its tokens");
        let padding = std::mem::take(self).padding;
        (Tensor::cat(vec![before, ids], 1), padding)
    }

    /// Tokens of padding before each row; empty for none.
    pub(crate) fn padding(&self) -> &[usize] {
        &self.padding
    }

    /// Gets ready for a pass of `n_blocks` blocks; `padding` is that of each row.
    pub(crate) fn begin(&mut self, n_blocks: usize, padding: &[usize]) -> &mut [BlockCache] {
        if self.tokens() == 0 {
            self.padding = padding.to_vec();
        }
        self.blocks.resize_with(n_blocks, BlockCache::default);
        &mut self.blocks
    }
}

impl BlockCache {
    /// Adds the keys and values of further tokens and returns those of all tokens.
    ///
    /// # Shapes
    /// - all: `[rows, kv_heads, tokens, d_head]`
    pub(crate) fn extend(&mut self, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        (self.keys.extend(keys), self.values.extend(values))
    }

    fn reorder(&mut self, from: &[usize]) {
        self.keys.reorder(from);
        self.values.reorder(from);
    }
}

impl Kept {
    fn extend(&mut self, new: Tensor<4>) -> Tensor<4> {
        let [rows, heads, tokens, d_head] = new.dims();
        let (past, all) = (self.tokens, self.tokens + tokens);
        // Taken out, not cloned: a tensor with one owner is written in place.
        let stored = self.stored.take().unwrap_or_else(|| room(&new, GROWTH_TOKENS));
        let missing = all.saturating_sub(stored.dims()[2]).next_multiple_of(GROWTH_TOKENS);
        let stored = if missing == 0 { stored } else { Tensor::cat(vec![stored, room(&new, missing)], 2) };
        let stored = stored.slice_assign([0..rows, 0..heads, past..all, 0..d_head], new);
        self.tokens = all;
        self.stored = Some(stored.clone());
        stored.narrow(2, 0, all)
    }

    fn bytes(&self) -> usize {
        self.stored.as_ref().map_or(0, |stored| stored.shape().num_elements() * stored.dtype().size())
    }

    fn reorder(&mut self, from: &[usize]) {
        let Some(stored) = self.stored.take() else { return };
        let rows = row_numbers(from, &stored.device());
        self.stored = Some(stored.select(0, rows));
    }
}

fn rows_of(ids: Tensor<2, Int>, from: &[usize]) -> Tensor<2, Int> {
    let rows = row_numbers(from, &ids.device());
    ids.select(0, rows)
}

fn row_numbers(from: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i32> = from.iter().map(|&row| row as i32).collect();
    Tensor::from_data(TensorData::new(rows, [from.len()]), device)
}

/// Room for `tokens` tokens like `like`'s.
fn room(like: &Tensor<4>, tokens: usize) -> Tensor<4> {
    let [rows, heads, _, d_head] = like.dims();
    Tensor::zeros([rows, heads, tokens, d_head], (&like.device(), like.dtype()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tokens` tokens of two rows, numbered from `from`.
    fn numbered(from: usize, tokens: usize) -> Tensor<4> {
        let values: Vec<f32> =
            (0..2).flat_map(|row| (from..from + tokens).map(move |n| (1000 * row + n) as f32)).collect();
        Tensor::from_data(TensorData::new(values, [2, 1, tokens, 1]), &Device::flex())
    }

    fn values(tensor: Tensor<4>) -> Vec<f32> {
        tensor.into_data_as::<f32>().try_into_vec().expect("the type was asked for")
    }

    #[test]
    fn all_tokens_come_back_however_they_were_added() {
        let mut kept = Kept::default();
        let mut from = 0;
        for tokens in [3, 1, 1, 2 * GROWTH_TOKENS, 1, GROWTH_TOKENS - 4] {
            let all = kept.extend(numbered(from, tokens));
            from += tokens;
            assert_eq!(values(all), values(numbered(0, from)), "after {from} tokens");
        }
    }

    #[test]
    fn all_tokens_are_read_again_from_where_their_rows_begin() {
        let mut cache = KeyValueCache::new();
        let ids = |rows: [[i32; 2]; 2]| Tensor::<2, Int>::from_data(rows, &Device::flex());
        cache.begin(1, &[0, 1])[0].extend(numbered(0, 2), numbered(0, 2));
        cache.remember(ids([[1, 2], [0, 3]]));
        cache.reorder(&[1, 0]);
        let (all, padding) = cache.restart(ids([[4, 5], [6, 7]]));
        assert_eq!(
            all.into_data(),
            Tensor::<2, Int>::from_data([[0, 3, 4, 5], [1, 2, 6, 7]], &Device::flex()).into_data()
        );
        assert_eq!(padding, [1, 0]);
        assert_eq!(cache.tokens(), 0);
    }

    #[test]
    fn rows_may_be_repeated_and_left_out() {
        let mut kept = Kept::default();
        kept.extend(numbered(0, 2));
        kept.reorder(&[1, 1, 1]);
        let new = Tensor::full([3, 1, 1, 1], 5.0, &Device::flex());
        assert_eq!(values(kept.extend(new)), [1000.0, 1001.0, 5.0, 1000.0, 1001.0, 5.0, 1000.0, 1001.0, 5.0]);
    }
}
