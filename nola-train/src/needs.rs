//! What memory training needs, told from sizes alone: one estimate for `inspect`, `doctor`, and the cases of `bench` that do not
//! fit.
//!
//! Measured peaks of this program on the CPU (`benchmarks/speed/memory.jsonl`) are within a tenth of it.

pub(crate) mod storage;

use nola_core::Site;
use nola_models::Precision;
use nola_models::vit::MlpKind;

use crate::model_with_loss::targets_at_once;
use crate::sizes::Sizes;

/// Bytes of each trained number: itself, its gradient and two moments of the optimizer, in f32.
const TRAINED_BYTES: usize = 4 * size_of::<f32>();
/// Logits of a pass that are in memory at once: themselves, their gradient, and a half while they are multiplied.
const LOGITS: f64 = 2.5;

/// What is trained.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trained<'a> {
    /// Nothing: the forward pass and the loss alone.
    Nothing,
    /// Every weight.
    All,
    /// LoRA's factors at these sites. An adapter whose factors are regenerated from fewer coefficients takes about half of that.
    Adapter { sites: &'a [Site], rank: usize },
}

impl Trained<'_> {
    /// Numbers of an adapter's factors.
    pub(crate) fn factors(self) -> usize {
        match self {
            Self::Nothing | Self::All => 0,
            Self::Adapter { sites, rank } => sites.iter().map(|site| rank * (site.d_in + site.d_out)).sum(),
        }
    }
}

/// What is kept of a pass for the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// The input of each block, the rest of which is recomputed.
    Inputs,
    /// Everything.
    AllBlocks,
}

/// What the memory of a training step depends on.
pub(crate) struct Need<'a> {
    pub(crate) sizes: &'a Sizes,
    pub(crate) precision: Precision,
    pub(crate) trained: Trained<'a>,
    /// Tokens of a pass.
    pub(crate) tokens: usize,
    /// Passes whose batches are held at once.
    pub(crate) passes: usize,
    pub(crate) kept: Kept,
}

/// Bytes that training takes, about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needed {
    /// The weights of the base.
    pub(crate) weights: u64,
    /// What is trained, where it is no weight of the base, and gradients and moments of the optimizer.
    pub(crate) trained: u64,
    /// What a pass keeps and computes with.
    pub(crate) activations: u64,
}

impl Needed {
    /// All together.
    pub(crate) fn bytes(self) -> u64 {
        self.weights + self.trained + self.activations
    }
}

impl Need<'_> {
    /// Bytes of weights, optimizer state and activations; about.
    pub(crate) fn needed(&self) -> Needed {
        let weights = self.sizes.weights().into_iter();
        let weights: usize = weights.map(|weight| storage::bytes(self.precision, weight)).sum();
        let trained = match self.trained {
            Trained::Nothing => 0,
            Trained::All => 3 * weights,
            Trained::Adapter { .. } => TRAINED_BYTES * self.trained.factors(),
        };
        // Activations are f32 on the CPU whatever the weights are, and of other devices nobody asks.
        let activations = size_of::<f32>() as f64 * self.activations();
        Needed { weights: weights as u64, trained: trained as u64, activations: activations as u64 }
    }

    /// Numbers that lie beside weights and optimizer state when there are the most.
    fn activations(&self) -> f64 {
        let widths = Widths::of(self.sizes);
        let tokens = self.tokens as f64;
        let blocks: Vec<f64> = (0..widths.n_layers).map(|block| self.of_block(&widths, block)).collect();
        let block = tokens * blocks.iter().copied().fold(0.0, f64::max);
        let (kept, of_block) = match (self.trained, self.kept) {
            (Trained::Nothing, _) => (0.0, block),
            (_, Kept::AllBlocks) => (tokens * blocks.iter().sum::<f64>(), 0.0),
            (_, Kept::Inputs) => (tokens * widths.n_layers as f64 * widths.d_model, block),
        };
        // What flows in a block beside what is kept: gradients inside the MLP, and a few tensors as wide as the stream.
        let flowing = tokens * ((widths.n_up + 1.0) * widths.d_mlp + 3.0 * widths.d_model);
        let batches = self.passes as f64 * tokens * widths.input;
        // The head is done when the blocks begin.
        kept + (of_block + flowing).max(self.logits(&widths)) + batches
    }

    /// Numbers of the logits that are in memory at a time.
    fn logits(&self, widths: &Widths) -> f64 {
        let Some(vocab_size) = widths.vocab_size else { return 0.0 };
        let all = self.tokens.max(1);
        let chunk = all.div_ceil(all.div_ceil(targets_at_once(vocab_size)));
        let (targets, copies) = match self.trained {
            Trained::Nothing => (chunk, 1.0),
            Trained::Adapter { .. } => (chunk, LOGITS),
            // A head that is trained gets its gradient from all targets at once.
            Trained::All => (all, LOGITS),
        };
        copies * targets as f64 * vocab_size as f64
    }

    /// Numbers that are kept of a token in a block for the backward pass: norms keep their inputs, attention and activation
    /// theirs, and a layer its own where it has an adapter. Below the first adapter nothing is kept.
    fn of_block(&self, widths: &Widths, block: usize) -> f64 {
        let Widths { d_model, query, key_value, d_mlp, n_up, .. } = *widths;
        let always = 2.0 * d_model + query + key_value + n_up * d_mlp;
        let inputs = [
            (&["query", "key", "value"][..], d_model),
            (&["output"], query),
            (&["gate", "up"], d_model),
            (&["down"], d_mlp),
        ];
        match self.trained {
            Trained::Nothing => 0.0,
            Trained::All => always + inputs.iter().map(|(_, width)| width).sum::<f64>(),
            Trained::Adapter { sites, .. } => {
                let first = sites.iter().map(|site| site.layer().unwrap_or(0)).min();
                if first.is_none_or(|first| block < first) {
                    return 0.0;
                }
                let here = |site: &&Site| site.layer() == Some(block);
                let is_adapted =
                    |names: &[&str]| sites.iter().filter(here).any(|site| names.contains(&site.name()));
                let adapted = inputs.iter().filter(|(names, _)| is_adapted(names));
                always + adapted.map(|(_, width)| width).sum::<f64>()
            }
        }
    }
}

/// Sizes that memory depends on.
struct Widths {
    d_model: f64,
    /// Of all heads of queries together.
    query: f64,
    /// Of all heads of keys and values together.
    key_value: f64,
    d_mlp: f64,
    /// Ways up in an MLP: two where one is a gate.
    n_up: f64,
    n_layers: usize,
    /// Of a language model.
    vocab_size: Option<usize>,
    /// Numbers of the input for each token.
    input: f64,
}

impl Widths {
    fn of(sizes: &Sizes) -> Self {
        let alike = |d_model: usize, d_mlp: usize, n_layers: usize| Self {
            d_model: d_model as f64,
            query: d_model as f64,
            key_value: 2.0 * d_model as f64,
            d_mlp: d_mlp as f64,
            n_up: 1.0,
            n_layers,
            vocab_size: None,
            // Ids, positions and places of targets.
            input: 4.0,
        };
        match sizes {
            Sizes::Vit(c) => {
                let input = (c.channels * c.patch_size * c.patch_size) as f64;
                let n_up = match c.mlp {
                    MlpKind::Plain => 1.0,
                    MlpKind::Gated => 2.0,
                };
                Self { input, n_up, ..alike(c.d_model, c.d_mlp, c.n_layers) }
            }
            Sizes::Gpt2(c) => {
                Self { vocab_size: Some(c.vocab_size), ..alike(c.d_model, c.d_mlp, c.n_layers) }
            }
            Sizes::Llama(c) => Self {
                query: (c.n_heads * c.d_head) as f64,
                key_value: (2 * c.n_kv_heads * c.d_head) as f64,
                n_up: 2.0,
                vocab_size: Some(c.vocab_size),
                ..alike(c.d_model, c.d_mlp, c.n_layers)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use nola_core::Targets;
    use nola_models::{LlamaConfig, WeightDtype};

    use super::*;

    fn seven() -> Sizes {
        Sizes::Llama(LlamaConfig::llama2_7b())
    }

    /// What a LoRA of rank 8 on `targets` needs.
    fn with_lora(precision: Precision, targets: &Targets, kept: Kept) -> Needed {
        let sizes = seven();
        let sites = sizes.sites(targets).expect("layers of these names");
        let trained = Trained::Adapter { sites: &sites, rank: 8 };
        Need { sizes: &sizes, precision, trained, tokens: 512, passes: 1, kept }.needed()
    }

    #[test]
    fn a_model_of_seven_billion_in_each_storage_takes_what_it_is_known_to() {
        let gib = |precision| {
            with_lora(precision, &Targets::default(), Kept::AllBlocks).weights as f64 / 1_073_741_824.0
        };
        let found = Precision::ALL.map(|precision| (100.0 * gib(precision)).round() / 100.0);
        assert_eq!(found, [25.1, 12.55, 12.55, 6.9, 3.88, 3.6]);
    }

    #[test]
    fn optimizer_state_is_that_of_the_factors() {
        let needed = with_lora(Precision::ALL[4], &Targets::default(), Kept::AllBlocks);
        assert_eq!(needed.trained, 16 * 4_194_304);
    }

    #[test]
    fn more_adapters_keep_more_and_recomputed_blocks_less() {
        let activations =
            |targets: &Targets, kept| with_lora(WeightDtype::Bf16.into(), targets, kept).activations;
        let all = Targets::matching(r"blocks\..*");
        let few = Targets { layers: vec![31], ..Targets::default() };
        let kept = [&all, &Targets::default(), &few].map(|targets| activations(targets, Kept::AllBlocks));
        assert!(kept.is_sorted_by(|more, less| more > less), "{kept:?}");
        assert!(activations(&all, Kept::Inputs) < kept[0] / 4);
    }

    /// Peaks of `nola-train train` on two cores of an AMD EPYC, with what the program takes by itself.
    #[test]
    fn what_is_kept_for_adapters_of_other_layers_is_as_measured() {
        let sizes = Sizes::Llama(LlamaConfig {
            vocab_size: 1024,
            d_model: 768,
            n_layers: 8,
            n_heads: 12,
            n_kv_heads: 4,
            d_head: 64,
            d_mlp: 2048,
            tied_head: true,
            ..LlamaConfig::llama2_7b()
        });
        for (targets, measured) in [(r"blocks\..*", 623.9), (".*(query|value)", 512.1), (".*down", 518.5)] {
            let sites = sizes.sites(&Targets::matching(targets)).expect("layers of these names");
            let trained = Trained::Adapter { sites: &sites, rank: 8 };
            let (precision, kept) = (Precision::default(), Kept::AllBlocks);
            let need = Need { sizes: &sizes, precision, trained, tokens: 4 * 256, passes: 1, kept };
            let ratio = (need.needed().bytes() as f64 / 1_048_576.0 + 25.0) / measured;
            assert!((0.95..1.05).contains(&ratio), "{targets}: {ratio:.3}");
        }
    }

    #[test]
    fn training_every_weight_needs_gradients_and_moments_of_all() {
        let sizes = seven();
        let need = |trained| {
            let precision = Precision::default();
            Need { sizes: &sizes, precision, trained, tokens: 2048, passes: 1, kept: Kept::AllBlocks }
                .needed()
        };
        let (all, nothing) = (need(Trained::All), need(Trained::Nothing));
        assert_eq!((all.trained, nothing.trained), (3 * all.weights, 0));
        assert!(nothing.activations < all.activations / 10);
    }
}
