//! From the tokens of the last block to what the head sees.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};
use nola_core::{Linear, adapted, in_compute_dtype};

use super::{Mlp, Pooling, Vit, VitConfig, layer, norm};
use crate::fused::attention;
use crate::norm::LayerNorm;

/// A learned query that attends to the patch tokens.
#[derive(Module, Debug)]
pub struct PoolingHead {
    /// What becomes the query, `[1, 1, d_model]`.
    pub latent: Param<Tensor<3>>,
    /// The latent to the query.
    pub query: Linear,
    /// Tokens to keys.
    pub key: Linear,
    /// Tokens to values.
    pub value: Linear,
    /// Heads, side by side, back to a token.
    pub output: Linear,
    /// Norm before the MLP.
    pub norm: LayerNorm,
    /// Works on what was found.
    pub mlp: Mlp,
    n_heads: usize,
}

impl PoolingHead {
    pub(super) fn uninitialized(config: &VitConfig, device: &Device) -> Self {
        let square = || Linear::from(layer(config.d_model, config.d_model).init(device));
        Self {
            latent: Initializer::Zeros.init([1, 1, config.d_model], device),
            query: square(),
            key: square(),
            value: square(),
            output: square(),
            norm: norm(config, device),
            mlp: Mlp::uninitialized(config, device),
            n_heads: config.n_heads,
        }
    }

    /// # Shapes
    /// - `patches`: `[batch, patches, d_model]`
    /// - output: `[batch, d_model]`
    fn forward(&self, patches: Tensor<3>) -> Tensor<2> {
        let [batch, _, d_model] = patches.dims();
        let d_head = d_model / self.n_heads;
        let heads = |x: Tensor<3>| {
            let [rows, tokens, _] = x.dims();
            x.reshape([rows, tokens, self.n_heads, d_head]).swap_dims(1, 2)
        };
        let query = heads(adapted(&self.query, in_compute_dtype(self.latent.val())));
        let query = query.expand([batch, self.n_heads, 1, d_head]);
        let [key, value] = [&self.key, &self.value].map(|layer| heads(adapted(layer, patches.clone())));
        let found = attention(query, key, value, None, 1.0 / (d_head as f64).sqrt());
        let x = adapted(&self.output, found.swap_dims(1, 2).reshape([batch, 1, d_model]));
        (x.clone() + self.mlp.forward(self.norm.forward(x))).squeeze_dim(1)
    }
}

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
            Pooling::Attention => {
                let head = self.pooling_head.as_ref().expect("the configuration says that there is one");
                head.forward(self.patches_of(normed(tokens)))
            }
        }
    }

    /// The output of the last norm over all tokens, given that of the last block; that of the last block itself where the norm
    /// comes later ([`Pooling::MeanThenNorm`]) or the head does without it ([`Pooling::MeanWithoutNorm`]).
    ///
    /// # Shapes
    /// - `tokens`, output: `[batch, tokens, d_model]`
    pub fn normed(&self, tokens: Tensor<3>) -> Tensor<3> {
        match self.config.pooling {
            Pooling::ClassToken
            | Pooling::ClassAndDistillation
            | Pooling::ClassAndMean
            | Pooling::Mean
            | Pooling::Attention => self.norm.forward(tokens),
            Pooling::MeanThenNorm | Pooling::MeanWithoutNorm => tokens,
        }
    }

    fn mean_of_patches(&self, tokens: Tensor<3>) -> Tensor<2> {
        self.patches_of(tokens).mean_dim(1).squeeze_dim(1)
    }

    fn patches_of(&self, tokens: Tensor<3>) -> Tensor<3> {
        let [_, count, _] = tokens.dims();
        let n_prefix = self.config.n_prefix();
        tokens.narrow(1, n_prefix, count - n_prefix)
    }
}

fn token(tokens: Tensor<3>, index: usize) -> Tensor<2> {
    tokens.narrow(1, index, 1).squeeze_dim(1)
}
