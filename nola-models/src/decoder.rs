//! What causal language models share: one way through the blocks, for training, caches, recomputation and probing alike.
//!
//! A model says what its parts are, in [`Decoder`]; [`CausalLm`](crate::CausalLm) is the door for everybody else.

use std::iter;
use std::rc::Rc;

use burn::module::Module;
use burn::nn::Embedding;
use burn::tensor::{Int, Tensor};
use nola_core::Linear;

use crate::attention::{AttentionMask, Cache, KeyValueCache};
use crate::checkpoint::{KeyMap, Source};
use crate::fresh::{Distribution, Plan, fresh};
use crate::{Checkpoint, Error, HiddenStates, Precision, Stage, head};

/// A causal language model, part by part.
pub(crate) trait Decoder: Module {
    /// Sizes and the rest of what is no weight.
    type Config: Clone;
    /// One block.
    type Block;
    /// What all blocks need of one pass beside their input.
    type Pass<'a>;

    /// Tensors of old releases that are no weights.
    const IGNORED: &'static [&'static str];

    /// Where a checkpoint keeps the parameter at `path`.
    fn source(config: &Self::Config, path: &str) -> Source;

    /// Standard deviation of the fresh parameter at `path`.
    fn deviation(config: &Self::Config, path: &str) -> f64;

    fn config(&self) -> &Self::Config;

    /// What the first block gets.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`
    /// - output: `[batch, tokens, d_model]`
    fn embeddings(&self, ids: Tensor<2, Int>, mask: &AttentionMask) -> Tensor<3>;

    fn pass<'a>(&self, mask: &'a AttentionMask) -> Self::Pass<'a>;

    /// Whether what it makes of a token may depend on how long the text is that the token stands in.
    fn depends_on_length(&self) -> bool {
        false
    }

    /// Whether it makes something else of the tokens of a text that has grown from `before` tokens to `after`.
    fn changes(&self, _before: usize, _after: usize) -> bool {
        false
    }

    fn blocks(&self) -> &[Self::Block];

    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    fn forward(block: &Self::Block, x: Tensor<3>, pass: &Self::Pass<'_>, cache: Cache) -> Tensor<3>;

    /// The last norm.
    ///
    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    fn normed(&self, x: Tensor<3>) -> Tensor<3>;

    /// Token ids to vectors; the head too, where it is tied.
    fn tokens(&self) -> &Embedding;

    /// States to logits; none where the head is tied.
    fn head(&self) -> Option<&Linear>;

    /// Takes a head of its own, which the configuration then says.
    fn set_head(&mut self, head: Linear);

    /// States after the final norm.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`
    /// - output: `[batch, tokens, d_model]`
    fn hidden(&self, ids: Tensor<2, Int>, mask: &AttentionMask) -> Tensor<3> {
        self.normed(walk(self, self.embeddings(ids, mask), mask, nothing(), |_| ()))
    }

    /// The same for tokens that follow those in `cache`, which takes them up; all of them are read again where one of the texts
    /// outgrows what its beginning was computed for.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`
    /// - output: `[batch, tokens, d_model]`
    fn extend(&self, ids: Tensor<2, Int>, mask: &AttentionMask, cache: &mut KeyValueCache) -> Tensor<3> {
        let [_, tokens] = ids.dims();
        if self.is_outgrown(cache, tokens) {
            let (all, padding) = cache.restart(ids);
            let mask = AttentionMask::behind(0, &all, padding);
            let before = all.dims()[1] - tokens;
            return self.extend(all, &mask, cache).narrow(1, before, tokens);
        }
        if self.depends_on_length() {
            cache.remember(ids.clone());
        }
        let caches = cache.begin(self.blocks().len(), mask.padding()).iter_mut().map(Cache::Batch);
        self.normed(walk(self, self.embeddings(ids, mask), mask, caches, |_| ()))
    }

    /// Whether one of the texts in `cache` outgrows what its beginning was computed for with so many more tokens.
    fn is_outgrown(&self, cache: &KeyValueCache, tokens: usize) -> bool {
        let past = cache.tokens();
        let changes = |padding: usize| self.changes(past - padding, past + tokens - padding);
        let mut paddings = cache.padding().iter().copied();
        past > 0 && if cache.padding().is_empty() { changes(0) } else { paddings.any(changes) }
    }

    /// The same for one token of each of several texts, behind all that its own cache holds.
    ///
    /// # Shapes
    /// - `ids`: `[rows, 1]`
    /// - output: `[rows, 1, d_model]`
    ///
    /// # Panics
    /// If there is not one cache a row, a cache has padding, or a text outgrows what its beginning was computed for.
    fn advance(&self, ids: Tensor<2, Int>, caches: &mut [&mut KeyValueCache]) -> Tensor<3> {
        assert_eq!(ids.dims(), [caches.len(), 1], "one token and one cache a row");
        assert!(caches.iter().all(|cache| cache.padding().is_empty()), "caches without padding");
        assert!(!caches.iter().any(|cache| self.is_outgrown(cache, 1)), "texts that do not change");
        if self.depends_on_length() {
            let rows = caches.iter_mut().enumerate();
            rows.for_each(|(row, cache)| cache.remember(ids.clone().narrow(0, row, 1)));
        }
        let mask = AttentionMask::of_rows(caches.iter().map(|cache| cache.tokens()).collect());
        let n_blocks = self.blocks().len();
        let mut rows: Vec<_> = caches.iter_mut().map(|cache| cache.begin(n_blocks, &[]).iter_mut()).collect();
        let caches = iter::repeat_with(|| Cache::Rows(rows.iter_mut().filter_map(Iterator::next).collect()));
        self.normed(walk(self, self.embeddings(ids, &mask), &mask, caches, |_| ()))
    }

    /// The output of every stage, to compare with another implementation.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`
    fn hidden_states(&self, ids: Tensor<2, Int>, mask: &AttentionMask) -> HiddenStates {
        let (embeddings, mut blocks) = (self.embeddings(ids, mask), Vec::new());
        let last = walk(self, embeddings.clone(), mask, nothing(), |x| blocks.push(x.clone()));
        HiddenStates { embeddings, blocks, final_norm: self.normed(last) }
    }

    /// The blocks, one by one, for who recomputes them.
    fn stages<'a>(&'a self, mask: &'a AttentionMask) -> Vec<Stage<'a>> {
        let pass = Rc::new(self.pass(mask));
        let stage = |block: &'a Self::Block| -> Stage<'a> {
            let pass = Rc::clone(&pass);
            Box::new(move |x| Self::forward(block, x, &pass, Cache::Nothing))
        };
        self.blocks().iter().map(stage).collect()
    }

    /// Scores of the next token, in f32 whatever the weights are.
    ///
    /// # Shapes
    /// - `hidden`: `[.., d_model]`
    /// - output: `[.., vocab_size]`
    fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        head::logits(hidden, self.tokens(), self.head())
    }

    /// The same model with a head of its own; one that has a head stays as it is.
    fn untied(mut self) -> Self {
        if self.head().is_none() {
            self.set_head(head::of_embedding(self.tokens()));
        }
        self
    }

    /// The same model with the weights of a checkpoint, stored in `precision`.
    ///
    /// # Errors
    /// If the tensors do not fit: all of them in one error.
    fn filled(self, checkpoint: &Checkpoint, precision: Precision) -> Result<Self, Error> {
        let config = self.config().clone();
        let map = KeyMap {
            source: &|path| Some(Self::source(&config, path)),
            dtype: &|_| precision.dtype,
            quantization: &|path| precision.quantization_at(path),
            keeps_few_bits: &|path| precision.keeps_few_bits_at(path),
            ignored: Self::IGNORED,
        };
        checkpoint.fill(self, &map)
    }

    /// The same model to train from scratch, stored in `precision`: weights normal, biases zero.
    fn with_fresh_weights(self, seed: u64, precision: Precision) -> Self {
        let config = self.config().clone();
        let plan = Plan {
            deviation: &|path| Self::deviation(&config, path),
            dtype: &|_| precision.dtype,
            quantization: &|path| precision.quantization_at(path),
        };
        fresh(self, seed, Distribution::Normal, &plan)
    }
}

/// The one way through the blocks, with the cache of each; `seen` gets the output of each.
fn walk<'c, M: Decoder>(
    model: &M,
    embeddings: Tensor<3>,
    mask: &AttentionMask,
    caches: impl Iterator<Item = Cache<'c>>,
    mut seen: impl FnMut(&Tensor<3>),
) -> Tensor<3> {
    let pass = model.pass(mask);
    model.blocks().iter().zip(caches).fold(embeddings, |x, (block, cache)| {
        let x = M::forward(block, x, &pass, cache);
        seen(&x);
        x
    })
}

/// No cache of any block.
fn nothing<'c>() -> impl Iterator<Item = Cache<'c>> {
    iter::repeat_with(|| Cache::Nothing)
}
