//! A causal language model as decoding sees it, with the keys and values of all that was read kept on the device.

use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_core::on_compute_thread;

use super::{GenerateError, NextToken};
use crate::{AttentionMask, CausalLm, KeyValueCache};

/// Fills rows that are shorter than others; no token ever looks at it.
const PADDING: i64 = 0;

/// Reads prompts once, and after that only each new token.
pub struct Cached<'m> {
    model: &'m CausalLm,
    cache: KeyValueCache,
    device: Device,
}

impl<'m> Cached<'m> {
    /// A decoder that has read nothing.
    pub fn new(model: &'m CausalLm, device: &Device) -> Self {
        Self { model, cache: KeyValueCache::new(), device: device.clone() }
    }

    /// Logits after the last token of each row.
    fn read(&mut self, ids: Tensor<2, Int>, mask: &AttentionMask) -> Vec<Vec<f32>> {
        let (model, cache) = (self.model, &mut self.cache);
        let logits = on_compute_thread(&self.device, || {
            let hidden = model.extend(ids, mask, cache);
            let [_, tokens, _] = hidden.dims();
            model.logits(hidden.narrow(1, tokens - 1, 1))
        });
        let [_, _, vocabulary] = logits.dims();
        let values: Vec<f32> = logits.into_data_as::<f32>().try_into_vec().expect("the type was asked for");
        values.chunks(vocabulary).map(<[f32]>::to_vec).collect()
    }

    /// # Shapes
    /// - output: `[rows, tokens]`, row-major from `ids`
    fn tensor(&self, ids: Vec<i64>, rows: usize) -> Tensor<2, Int> {
        let tokens = ids.len() / rows;
        Tensor::from_data(TensorData::new(ids, [rows, tokens]), &self.device)
    }
}

impl NextToken for Cached<'_> {
    fn start(&mut self, prompts: &[&[u32]]) -> Result<Vec<Vec<f32>>, GenerateError> {
        self.cache = KeyValueCache::new();
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let row = |prompt: &&[u32]| {
            let padding = std::iter::repeat_n(PADDING, longest - prompt.len());
            padding.chain(prompt.iter().map(|&token| token.into())).collect::<Vec<i64>>()
        };
        let ids = self.tensor(prompts.iter().flat_map(row).collect(), prompts.len());
        let mask = AttentionMask::padded_left(&ids, &lengths);
        Ok(self.read(ids, &mask))
    }

    fn advance(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, GenerateError> {
        let ids = self.tensor(tokens.iter().map(|&token| token.into()).collect(), tokens.len());
        let mask = AttentionMask::following(&ids, &self.cache);
        Ok(self.read(ids, &mask))
    }

    fn reorder(&mut self, from: &[usize]) {
        self.cache.reorder(from);
    }

    fn max_tokens(&self) -> usize {
        self.model.info().max_tokens
    }

    fn vocabulary(&self) -> usize {
        self.model.info().vocab_size
    }
}
