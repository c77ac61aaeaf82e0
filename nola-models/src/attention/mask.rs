//! Where the tokens of a pass stand, and what each of them may look at.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::KeyValueCache;

/// Added to the score of what must not be seen. Finite, so that a token that sees nothing, as padding, stays a number;
/// several of them still add up to a number.
const MASKED: f32 = f32::MIN / 8.0;

/// Where the tokens of one pass stand in their sequences, and what each may look at; made once for all blocks.
#[derive(Debug, Clone)]
pub struct AttentionMask {
    /// Of each token in its sequence, counted from 0: `[rows, tokens]`, or `[1, tokens]` where all rows agree.
    positions: Vec<usize>,
    tokens: usize,
    /// Tokens that were read before those of the pass, padding included.
    past: usize,
    /// Tokens of padding before each row; empty for none.
    padding: Vec<usize>,
    /// Tokens of each row before padding on the right; empty where that is not known.
    lengths: Vec<usize>,
    /// Added to the scores, `[rows or 1, 1, tokens, keys]`; none where everything may be seen.
    additive: Option<Tensor<4>>,
}

impl AttentionMask {
    /// Every token sees itself and those before it. This is also right for rows that are padded on the right: no token
    /// sees the padding, and what the padding puts out means nothing.
    ///
    /// # Shapes
    /// - `ids`: `[rows, tokens]`, of the pass
    pub fn causal(ids: &Tensor<2, Int>) -> Self {
        let [_, tokens] = ids.dims();
        let additive = (tokens > 1).then(|| later(0, tokens, &ids.device()));
        Self::of_one(0, tokens, additive)
    }

    /// The same for rows of which it is known that they have so many tokens before their padding on the right: rotary positions may
    /// depend on it.
    ///
    /// # Shapes
    /// - `ids`: `[rows, tokens]`, of the pass
    ///
    /// # Panics
    /// If there is not one length for each row.
    pub fn padded_right(ids: &Tensor<2, Int>, lengths: &[usize]) -> Self {
        assert_eq!(lengths.len(), ids.dims()[0], "one length for each row");
        Self { lengths: lengths.to_vec(), ..Self::causal(ids) }
    }

    /// Several samples in one row: every token sees those before it that have its own segment number.
    ///
    /// `positions` count from 0 in each sample; both are row-major, one for each token.
    ///
    /// # Shapes
    /// - `ids`: `[rows, tokens]`, of the pass
    ///
    /// # Panics
    /// If there is not one position and one segment for each token, or a position is below 0.
    pub fn packed(ids: &Tensor<2, Int>, positions: &[i64], segments: &[i32]) -> Self {
        let ([rows, tokens], device) = (ids.dims(), ids.device());
        assert_eq!([positions.len(), segments.len()], [rows * tokens; 2], "one for each token");
        let segments =
            Tensor::<1, Int>::from_data(TensorData::new(segments.to_vec(), [rows * tokens]), &device);
        let of_keys = segments.clone().reshape([rows, 1, 1, tokens]);
        let other = segments.reshape([rows, 1, tokens, 1]).not_equal(of_keys);
        let additive = later(0, tokens, &device) + hidden(other);
        let counted = |&position: &i64| usize::try_from(position).expect("positions count from 0");
        let positions = positions.iter().map(counted).collect();
        Self { positions, ..Self::of_one(0, tokens, Some(additive)) }
    }

    /// Prompts of different lengths that all end at the last token: what stands before a row's own tokens is not seen.
    ///
    /// # Shapes
    /// - `ids`: `[rows, tokens]`, of the pass
    /// - `lengths`: one for each row, in tokens
    ///
    /// # Panics
    /// If there is not one length for each row, or one is longer than a row.
    pub fn padded_left(ids: &Tensor<2, Int>, lengths: &[usize]) -> Self {
        let [rows, tokens] = ids.dims();
        assert_eq!(lengths.len(), rows, "one length for each row");
        let padding =
            |&length: &usize| tokens.checked_sub(length).expect("a prompt is as long as its row at most");
        Self::behind(0, ids, lengths.iter().map(padding).collect())
    }

    /// The tokens that come next after all that `cache` holds; its padding stays masked.
    ///
    /// # Shapes
    /// - `ids`: `[rows, tokens]`, of the pass; `rows` as in the cache
    pub fn following(ids: &Tensor<2, Int>, cache: &KeyValueCache) -> Self {
        Self::behind(cache.tokens(), ids, cache.padding().to_vec())
    }

    /// One token of each row, at its own position behind all that is kept of the row.
    pub(crate) fn of_rows(positions: Vec<usize>) -> Self {
        Self { positions, ..Self::of_one(0, 1, None) }
    }

    /// Tokens after `past` others, in rows that begin with `padding`.
    pub(crate) fn behind(past: usize, ids: &Tensor<2, Int>, padding: Vec<usize>) -> Self {
        let ([rows, tokens], device) = (ids.dims(), ids.device());
        if padding.iter().all(|&tokens| tokens == 0) {
            let additive = (tokens > 1).then(|| later(past, tokens, &device));
            return Self::of_one(past, tokens, additive);
        }
        let of_row = |padding: usize| (past..past + tokens).map(move |n| n.saturating_sub(padding));
        let first: Vec<i32> = padding.iter().map(|&tokens| tokens as i32).collect();
        let first = Tensor::<1, Int>::from_data(TensorData::new(first, [rows]), &device);
        let before = counted(0, past + tokens, &device).reshape([1, 1, 1, past + tokens]);
        let additive = hidden(before.lower(first.reshape([rows, 1, 1, 1]))) + later(past, tokens, &device);
        let positions = padding.iter().copied().flat_map(of_row).collect();
        Self { positions, padding, ..Self::of_one(past, tokens, Some(additive)) }
    }

    /// Tokens after `past` others, alike in all rows.
    fn of_one(past: usize, tokens: usize, additive: Option<Tensor<4>>) -> Self {
        let positions = (past..past + tokens).collect();
        let [padding, lengths] = [const { Vec::new() }; 2];
        Self { positions, tokens, past, padding, lengths, additive }
    }

    /// The same, but a token sees only the last `window` of what it saw, itself included.
    ///
    /// Tokens are counted as they lie in the row: padding on the left moves all of a row alike, and samples in one row do not see
    /// each other.
    pub(crate) fn within(&self, window: usize, device: &Device) -> Self {
        let keys = self.past + self.tokens;
        if keys <= window {
            return self.clone();
        }
        let additive = match self.additive.clone() {
            Some(additive) => {
                let device = additive.device();
                additive + earlier(self.past, self.tokens, window, &device)
            }
            None => earlier(self.past, self.tokens, window, device),
        };
        Self { additive: Some(additive), ..self.clone() }
    }

    /// Tokens of padding before each row; empty for none.
    pub(crate) fn padding(&self) -> &[usize] {
        &self.padding
    }

    /// Position of each token in its sequence, `[rows, tokens]` or, where all rows agree, `[1, tokens]`; row-major,
    /// with the number of rows.
    pub(crate) fn positions(&self) -> (&[usize], usize) {
        (&self.positions, self.positions.len() / self.tokens)
    }

    /// Tokens of each row before padding on the right; empty where that is not known.
    pub(crate) fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// What to add to the scores, `[rows or 1, 1, tokens, keys]`, f32; none where everything may be seen.
    pub(super) fn additive(&self) -> Option<Tensor<4>> {
        self.additive.clone()
    }
}

/// What `tokens` tokens after `past` others must not see: those after them. `[1, 1, tokens, past + tokens]`.
fn later(past: usize, tokens: usize, device: &Device) -> Tensor<4> {
    let queries = counted(past, tokens, device).reshape([1, 1, tokens, 1]);
    let keys = counted(0, past + tokens, device).reshape([1, 1, 1, past + tokens]);
    hidden(keys.greater(queries))
}

/// What they must not see with a sliding window: those before its last `window`. `[1, 1, tokens, past + tokens]`.
fn earlier(past: usize, tokens: usize, window: usize, device: &Device) -> Tensor<4> {
    let first = (counted(past, tokens, device) - (window as i64 - 1)).reshape([1, 1, tokens, 1]);
    let keys = counted(0, past + tokens, device).reshape([1, 1, 1, past + tokens]);
    hidden(keys.lower(first))
}

fn counted(from: usize, count: usize, device: &Device) -> Tensor<1, Int> {
    Tensor::arange(from as i64..(from + count) as i64, device)
}

/// [`MASKED`] where `mask` is true, else 0; f32.
fn hidden(mask: Tensor<4, burn::tensor::Bool>) -> Tensor<4> {
    mask.float().cast(DType::F32) * MASKED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(rows: usize, tokens: usize) -> Tensor<2, Int> {
        Tensor::zeros([rows, tokens], &Device::flex())
    }

    /// One string a row and query: `x` for what is seen, `.` for what is not.
    fn drawn(mask: &AttentionMask) -> Vec<String> {
        let additive = mask.additive.clone().expect("something is hidden");
        let [.., keys] = additive.dims();
        let values: Vec<f32> = additive.into_data_as::<f32>().try_into_vec().expect("the type was asked for");
        let mark = |&value: &f32| if value == 0.0 { 'x' } else { '.' };
        values.chunks(keys).map(|row| row.iter().map(mark).collect()).collect()
    }

    #[test]
    fn a_token_sees_itself_and_those_before_it() {
        let mask = AttentionMask::causal(&ids(2, 3));
        assert_eq!(drawn(&mask), ["x..", "xx.", "xxx"]);
        assert_eq!(mask.positions(), ([0, 1, 2].as_slice(), 1));
    }

    #[test]
    fn packed_samples_do_not_see_each_other() {
        let mask = AttentionMask::packed(&ids(1, 4), &[0, 1, 0, 1], &[7, 7, 8, 8]);
        assert_eq!(drawn(&mask), ["x...", "xx..", "..x.", "..xx"]);
    }

    #[test]
    fn padding_on_the_left_is_not_seen_and_not_counted() {
        let mask = AttentionMask::padded_left(&ids(2, 3), &[3, 2]);
        assert_eq!(drawn(&mask), ["x..", "xx.", "xxx", "...", ".x.", ".xx"]);
        assert_eq!(mask.positions(), ([0, 1, 2, 0, 0, 1].as_slice(), 2));
    }

    #[test]
    fn a_single_token_without_padding_hides_nothing() {
        assert!(AttentionMask::following(&ids(4, 1), &KeyValueCache::new()).additive.is_none());
    }

    #[test]
    fn a_window_hides_what_lies_further_back() {
        let device = Device::flex();
        let mask = AttentionMask::causal(&ids(1, 4)).within(2, &device);
        assert_eq!(drawn(&mask), ["x...", "xx..", ".xx.", "..xx"]);
        let padded = AttentionMask::padded_left(&ids(2, 3), &[3, 2]).within(2, &device);
        assert_eq!(drawn(&padded), ["x..", "xx.", ".xx", "...", ".x.", ".xx"]);
        let packed = AttentionMask::packed(&ids(1, 4), &[0, 1, 2, 0], &[0, 0, 0, 1]).within(2, &device);
        assert_eq!(drawn(&packed), ["x...", "xx..", ".xx.", "...x"]);
    }

    #[test]
    fn a_window_moves_on_with_what_was_read() {
        let device = Device::flex();
        for (past, tokens, expected) in [(3, 1, vec!["..xx"]), (2, 2, vec![".xx.", "..xx"])] {
            let mask = AttentionMask::behind(past, &ids(1, tokens), Vec::new()).within(2, &device);
            assert_eq!(drawn(&mask), expected);
        }
        let short = AttentionMask::behind(1, &ids(1, 1), Vec::new()).within(2, &device);
        assert!(short.additive.is_none(), "all of two tokens are seen");
    }

    #[test]
    fn twice_hidden_is_still_a_number() {
        assert!((MASKED * 4.0).is_finite());
    }
}
