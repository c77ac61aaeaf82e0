//! From the tokens of the last block to what the head sees.

use burn::tensor::Tensor;

use super::{Pooling, Vit};

impl Vit {
    /// What [`Vit::features`] makes of the output of the last block.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, tokens, d_model]`
    /// - output: `[batch, d_features]`
    pub fn pooled(&self, tokens: Tensor<3>) -> Tensor<2> {
        let normed = |tokens| self.norm.forward(tokens);
        match self.config.pooling {
            Pooling::ClassToken => token(normed(tokens), 0),
            Pooling::ClassAndDistillation => {
                let tokens = normed(tokens);
                Tensor::cat(vec![token(tokens.clone(), 0), token(tokens, 1)], 1)
            }
            Pooling::ClassAndMean => {
                let tokens = normed(tokens);
                Tensor::cat(vec![token(tokens.clone(), 0), self.mean_of_patches(tokens)], 1)
            }
            Pooling::Mean => self.mean_of_patches(normed(tokens)),
            Pooling::MeanThenNorm => self.norm.forward(self.mean_of_patches(tokens)),
            Pooling::MeanWithoutNorm => self.mean_of_patches(tokens),
        }
    }

    /// The output of the last norm over all tokens, given that of the last block; that of the last block itself where the norm
    /// comes later ([`Pooling::MeanThenNorm`]) or the head does without it ([`Pooling::MeanWithoutNorm`]).
    ///
    /// # Shapes
    /// - `tokens`, output: `[batch, tokens, d_model]`
    pub fn normed(&self, tokens: Tensor<3>) -> Tensor<3> {
        match self.config.pooling {
            Pooling::ClassToken | Pooling::ClassAndDistillation | Pooling::ClassAndMean | Pooling::Mean => {
                self.norm.forward(tokens)
            }
            Pooling::MeanThenNorm | Pooling::MeanWithoutNorm => tokens,
        }
    }

    fn mean_of_patches(&self, tokens: Tensor<3>) -> Tensor<2> {
        let [_, count, _] = tokens.dims();
        let n_prefix = self.config.n_prefix();
        tokens.narrow(1, n_prefix, count - n_prefix).mean_dim(1).squeeze_dim(1)
    }
}

fn token(tokens: Tensor<3>, index: usize) -> Tensor<2> {
    tokens.narrow(1, index, 1).squeeze_dim(1)
}
