//! What the stages of a model put out, to compare with another implementation.

use burn::tensor::Tensor;

/// One block of a model in one pass, `[batch, tokens, d_model]` to the same.
pub type Stage<'a> = Box<dyn Fn(Tensor<3>) -> Tensor<3> + 'a>;

/// The output of every stage of a transformer, each `[batch, tokens, d_model]`.
#[derive(Debug, Clone)]
pub struct HiddenStates {
    /// What goes into the first block.
    pub embeddings: Tensor<3>,
    /// The output of each block.
    pub blocks: Vec<Tensor<3>>,
    /// After the final norm.
    pub final_norm: Tensor<3>,
}

impl HiddenStates {
    /// Runs `blocks` one after the other and keeps what each puts out.
    pub(crate) fn trace<B>(
        embeddings: Tensor<3>,
        blocks: &[B],
        forward: impl Fn(&B, Tensor<3>) -> Tensor<3>,
        norm: impl FnOnce(Tensor<3>) -> Tensor<3>,
    ) -> Self {
        let mut outputs: Vec<Tensor<3>> = Vec::with_capacity(blocks.len());
        for block in blocks {
            let x = outputs.last().unwrap_or(&embeddings).clone();
            outputs.push(forward(block, x));
        }
        let last = outputs.last().unwrap_or(&embeddings).clone();
        Self { embeddings, blocks: outputs, final_norm: norm(last) }
    }
}
