//! What memory a case needs, so that one that does not fit is told beforehand.

use burn::tensor::Device;
use nola_models::WeightDtype;

use super::case::Case;
use super::cases::{self, Method, Sizes};
use super::steps_args::StepsArgs;
use crate::memory;

/// Bytes of a GiB.
const GIB: f64 = 1_073_741_824.0;

/// Why the case does not fit the memory that is free, if it does not; of a GPU nobody says how much that is.
pub(super) fn too_large(case: &Case, args: &StepsArgs, device: &Device) -> Option<String> {
    if device.memory_pool_usage().is_some() {
        return None;
    }
    let (needed, free) = (
        needed_bytes(case, args.accumulate, args.gradient_checkpointing) / GIB,
        memory::free_bytes()? as f64 / GIB,
    );
    (needed > free).then(|| format!("needs about {needed:.1} GiB, {free:.1} GiB free"))
}

fn needed_bytes(case: &Case, accumulate: usize, recomputes: bool) -> f64 {
    let kept = match case.method {
        Method::Frozen => Kept::OneBlock,
        Method::Full | Method::Nola(..) | Method::Adapter(_) if recomputes => Kept::Inputs,
        Method::Full | Method::Nola(..) | Method::Adapter(_) => Kept::AllBlocks,
    };
    let copies = if case.method == Method::Full { 4 } else { 1 };
    let (tokens, dtype) = (case.batch * case.seq, case.dtype);
    Need { sizes: &case.preset.sizes(), dtype, copies, tokens, passes: accumulate, kept }.bytes()
}

/// What is kept of a pass for the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Nothing but what a block works with.
    OneBlock,
    /// The input of each block, the rest of which is recomputed.
    Inputs,
    /// Everything.
    AllBlocks,
}

/// What the memory of a training step depends on.
pub(crate) struct Need<'a> {
    pub(crate) sizes: &'a Sizes,
    /// The storage dtype of the weights.
    pub(crate) dtype: WeightDtype,
    /// Numbers of the size of the model: the weights, and where all of them are trained their gradients and moments.
    pub(crate) copies: usize,
    /// Tokens of a pass.
    pub(crate) tokens: usize,
    /// Passes whose batches are held at once.
    pub(crate) passes: usize,
    pub(crate) kept: Kept,
}

impl Need<'_> {
    /// Bytes of weights, optimizer state and activations; about.
    pub(crate) fn bytes(&self) -> f64 {
        let shape = Shape::of(self.sizes);
        let (number, held) = (size_of::<f32>() as f64, self.dtype.bytes() as f64);
        let tokens = self.tokens as f64;
        // Kept in a block: eight tensors as wide as the stream, and two as wide as the MLP.
        let of_block = tokens * (8.0 * shape.d_model + 2.0 * shape.d_mlp);
        let blocks = match self.kept {
            Kept::OneBlock => of_block,
            Kept::Inputs => of_block + shape.n_layers * tokens * shape.d_model,
            Kept::AllBlocks => shape.n_layers * of_block,
        };
        let batches = self.passes as f64 * tokens * shape.input;
        // Activations are f32 on the CPU whatever the weights are, and of other devices nobody asks.
        held * self.copies as f64 * shape.numbers + number * (blocks + batches)
    }
}

/// Sizes that memory depends on.
struct Shape {
    numbers: f64,
    d_model: f64,
    d_mlp: f64,
    n_layers: f64,
    /// Numbers of the input for each token.
    input: f64,
}

impl Shape {
    fn of(sizes: &Sizes) -> Self {
        let numbers = cases::numbers(sizes) as f64;
        let of = |widths: [usize; 3], input: usize| {
            let [d_model, d_mlp, n_layers] = widths.map(|width| width as f64);
            Self { numbers, d_model, d_mlp, n_layers, input: input as f64 }
        };
        match sizes {
            Sizes::Vit(c) => of([c.d_model, c.d_mlp, c.n_layers], c.channels * c.patch_size * c.patch_size),
            Sizes::Gpt2(c) => of([c.d_model, c.d_mlp, c.n_layers], 4),
            Sizes::Llama(c) => of([c.d_model, c.d_mlp, c.n_layers], 4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cases::{AdapterSizes, Preset};
    use nola_core::adapter::Sharing;
    use nola_core::basis::Distribution;

    use super::*;

    fn gib(preset: Preset, method: Method, dtype: WeightDtype) -> f64 {
        let defaults = preset.defaults();
        let adapter = AdapterSizes { lora_rank: 8, rank: 8, k: 512, l: 512 };
        let case =
            Case { preset, method, batch: defaults.batch, seq: defaults.seq, dtype, quantize: None, adapter };
        needed_bytes(&case, 1, false) / GIB
    }

    #[test]
    fn a_seven_billion_model_needs_its_weights_and_more() {
        let gib = |method| gib(Preset::Llama7b, method, WeightDtype::F32);
        assert!((25.0..30.0).contains(&gib(Method::Frozen)));
        assert!(gib(Method::Adapter("lora")) > 30.0);
        assert!(gib(Method::Full) > 100.0);
    }

    #[test]
    fn half_precision_halves_the_weights() {
        let gib = |dtype| gib(Preset::Llama7b, Method::Adapter("lora"), dtype);
        let half_of_weights = 6_738_415_616.0 * 2.0 / GIB;
        assert!((gib(WeightDtype::F32) - gib(WeightDtype::Bf16) - half_of_weights).abs() < 0.01);
    }

    #[test]
    fn a_small_one_fits_a_laptop() {
        let gib = gib(Preset::Gpt2, Method::Nola(Sharing::Separate, Distribution::Uniform), WeightDtype::F32);
        assert!((1.0..4.0).contains(&gib), "{gib}");
    }
}
