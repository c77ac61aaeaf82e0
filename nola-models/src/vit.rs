//! ViT: pre-norm encoder blocks over square patches of an image, a class token, learned or fixed positions.
//!
//! Source: Dosovitskiy et al. 2021; names and shapes of `ViTForImageClassification`, `ViTModel` (DINO), `ViTMAEModel`
//! and timm's `VisionTransformer`.

mod config;
mod json;
mod keys;
mod positions;
mod timm;

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, LinearConfig};
use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{DType, Device, Tensor, TensorData, assert_shape};
use nola_core::{Linear, adapted, compute_dtype, in_compute_dtype, product};

use crate::checkpoint::KeyMap;
use crate::fresh::{Distribution, Plan, fresh, held_as};
use crate::fused::attention;
use crate::norm::LayerNorm;
use crate::{Activation, Checkpoint, Error, HiddenStates, Precision, Stage, WeightDtype};
pub use config::{Pooling, Positions, Problem, VitConfig};
pub use keys::peft_module;

/// Standard deviation of fresh weights, before they are cut at two of it.
const FRESH_DEVIATION: f64 = 0.02;

/// Multi-head self-attention over all tokens.
#[derive(Module, Debug)]
pub struct Attention {
    /// Tokens to queries.
    pub query: Linear,
    /// Tokens to keys.
    pub key: Linear,
    /// Tokens to values.
    pub value: Linear,
    /// Heads, side by side, back to tokens.
    pub output: Linear,
    n_heads: usize,
}

impl Attention {
    fn uninitialized(config: &VitConfig, device: &Device) -> Self {
        let square = |bias| Linear::from(layer(config.d_model, config.d_model).with_bias(bias).init(device));
        Self {
            query: square(config.qkv_bias),
            key: square(config.qkv_bias),
            value: square(config.qkv_bias),
            output: square(true),
            n_heads: config.n_heads,
        }
    }

    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, d_model] = x.dims();
        let d_head = d_model / self.n_heads;
        let heads = |layer: &Linear| {
            adapted(layer, x.clone()).reshape([batch, tokens, self.n_heads, d_head]).swap_dims(1, 2) // [batch, heads, tokens, d_head]
        };
        let scale = 1.0 / (d_head as f64).sqrt();
        let mixed = attention(heads(&self.query), heads(&self.key), heads(&self.value), None, scale);
        adapted(&self.output, mixed.swap_dims(1, 2).reshape([batch, tokens, d_model]))
    }
}

/// The feed-forward half of a block: wider, an activation, back.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `d_model` to `d_mlp`.
    pub up: Linear,
    /// `d_mlp` to `d_model`.
    pub down: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        adapted(&self.down, self.activation.apply(adapted(&self.up, x)))
    }
}

/// One encoder block; both halves add to the stream they read normalised.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before the attention.
    pub norm_attention: LayerNorm,
    /// Mixes tokens.
    pub attention: Attention,
    /// Norm before the MLP.
    pub norm_mlp: LayerNorm,
    /// Works on each token alone.
    pub mlp: Mlp,
}

impl Block {
    fn uninitialized(config: &VitConfig, device: &Device) -> Self {
        Self {
            norm_attention: norm(config, device),
            attention: Attention::uninitialized(config, device),
            norm_mlp: norm(config, device),
            mlp: Mlp {
                up: Linear::from(layer(config.d_model, config.d_mlp).init(device)),
                down: Linear::from(layer(config.d_mlp, config.d_model).init(device)),
                activation: config.activation,
            },
        }
    }

    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = x.clone() + self.attention.forward(self.norm_attention.forward(x));
        x.clone() + self.mlp.forward(self.norm_mlp.forward(x))
    }
}

/// A vision transformer, with or without a classification head.
#[derive(Module, Debug)]
pub struct Vit {
    /// Patches to tokens; its stride is its kernel size.
    pub patches: Conv2d,
    /// The token that stands for the whole image, `[1, 1, d_model]`.
    pub class_token: Param<Tensor<3>>,
    /// Added to the class token and to each patch, `[1, 1 + patches, d_model]`.
    pub positions: Param<Tensor<3>>,
    /// The encoder.
    pub blocks: Vec<Block>,
    /// The last norm: of all tokens, or with [`Pooling::MeanThenNorm`] of the pooled feature.
    pub norm: LayerNorm,
    /// Pooled feature to logits.
    pub head: Option<Linear>,
    #[module(skip)]
    config: VitConfig,
}

impl Vit {
    /// A model of these sizes that takes no memory until it is used or loaded; its weights are zero.
    pub fn uninitialized(config: &VitConfig, device: &Device) -> Self {
        let VitConfig { d_model, channels, patch_size, .. } = *config;
        let patches = Conv2dConfig::new([channels, d_model], [patch_size; 2])
            .with_stride([patch_size; 2])
            .with_initializer(Initializer::Zeros);
        let mut vit = Self {
            patches: patches.init(device),
            class_token: Initializer::Zeros.init([1, 1, d_model], device),
            positions: Initializer::Zeros.init([1, 1 + config.n_patches(), d_model], device),
            blocks: (0..config.n_layers).map(|_| Block::uninitialized(config, device)).collect(),
            norm: norm(config, device),
            head: (config.n_classes > 0).then(|| Linear::from(layer(d_model, config.n_classes).init(device))),
            config: config.clone(),
        };
        vit.positions = vit.positions.set_require_grad(config.positions == Positions::Learned);
        vit
    }

    /// A model to train from scratch: weights normal with deviation 0.02, cut at two deviations; biases zero.
    ///
    /// The numbers are drawn on the host, one stream of `seed` a parameter, so every device gets the same ones.
    pub fn init(config: &VitConfig, seed: u64, device: &Device) -> Self {
        Self::init_as(config, seed, WeightDtype::F32, device)
    }

    /// The same, its weights stored in `precision`, but for the head, which stays f32.
    pub fn init_as(config: &VitConfig, seed: u64, precision: impl Into<Precision>, device: &Device) -> Self {
        let precision = precision.into();
        let dtype = precision.dtype;
        let plan = Plan {
            deviation: &|_| FRESH_DEVIATION,
            dtype: &dtype_at(dtype),
            quantization: &|path| precision.quantization_at(path),
        };
        let mut vit = fresh(Self::uninitialized(config, device), seed, Distribution::CutNormal, &plan);
        if config.positions == Positions::Fixed {
            vit.positions = held_as(fixed_positions(config, device), dtype);
        }
        vit
    }

    /// Loads a checkpoint whose names are those of Hugging Face or of timm.
    ///
    /// # Errors
    /// If the configuration is no ViT's or cannot be true, or if the tensors do not fit it: all of them in one error.
    pub fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Self, Error> {
        Self::load_as(checkpoint, WeightDtype::F32, device)
    }

    /// The same, its weights stored in `precision`, but for the head, which stays f32: it is small, and often trained.
    ///
    /// # Errors
    /// As [`Vit::load`], or if a weight is larger than its dtype can be.
    pub fn load_as(
        checkpoint: &Checkpoint,
        precision: impl Into<Precision>,
        device: &Device,
    ) -> Result<Self, Error> {
        let precision = precision.into();
        let dtype = precision.dtype;
        let config = VitConfig::from_checkpoint(checkpoint)?;
        let mut vit = Self::uninitialized(&config, device);
        if config.positions == Positions::Fixed {
            // A file may leave them out, since they are a formula; where it has them, they are loaded over these.
            vit.positions = held_as(fixed_positions(&config, device), dtype);
        }
        let source = keys::source_in(checkpoint, &config);
        let map = KeyMap {
            source: &source,
            dtype: &dtype_at(dtype),
            quantization: &|path| precision.quantization_at(path),
            ignored: keys::IGNORED,
        };
        vit = checkpoint.fill(vit, &map)?;
        vit.positions = vit.positions.set_require_grad(config.positions == Positions::Learned);
        Ok(vit)
    }

    /// Sizes, labels and the rest of what is no weight.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// The same encoder with a new head for `labels`, all zero: at first every class is equally likely.
    pub fn with_head(mut self, labels: &[String]) -> Self {
        let device = self.class_token.lazy_device();
        self.head = (!labels.is_empty())
            .then(|| Linear::from(layer(self.config.d_model, labels.len()).init(&device)));
        self.config.n_classes = labels.len();
        self.config.labels = labels.to_vec();
        self
    }

    /// The same weights under another pooling; [`Pooling::MeanThenNorm`] uses the final norm after the mean.
    pub fn with_pooling(mut self, pooling: Pooling) -> Self {
        self.config.pooling = pooling;
        self
    }

    /// The same model for square images of `image_size` pixels a side, its positions interpolated bicubically.
    ///
    /// # Errors
    /// If the patches do not divide the size.
    ///
    /// # Source
    /// `interpolate_pos_encoding` of Hugging Face's ViT: corners not aligned, no antialias.
    pub fn resized(mut self, image_size: usize) -> Result<Self, Error> {
        let patch_size = self.config.patch_size;
        if image_size == 0 || !image_size.is_multiple_of(patch_size) {
            return Err(Error::ImageSize { image_size, patch_size });
        }
        let (from, to) = (self.config.grid(), image_size / patch_size);
        self.config.image_size = image_size;
        if from != to {
            self.positions = self.positions.map(|positions| positions::interpolated(positions, from, to));
        }
        Ok(self)
    }

    /// Logits; of a model without head, the pooled features; in f32 whatever the weights are.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, channels, image_size, image_size]`
    /// - output: `[batch, n_classes]` or `[batch, d_model]`
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<2> {
        self.classified(self.features(pixels))
    }

    /// Logits of features; of a model without head, the features; in f32 whatever the weights are.
    ///
    /// # Shapes
    /// - `features`: `[batch, d_model]`
    /// - output: `[batch, n_classes]` or `[batch, d_model]`
    pub fn classified(&self, features: Tensor<2>) -> Tensor<2> {
        let outputs = match &self.head {
            Some(head) => {
                let dtype = compute_dtype(&features.device(), head.weight.base().dtype());
                adapted(head, features.cast(dtype))
            }
            None => features,
        };
        outputs.cast(DType::F32)
    }

    /// How sure the model is of each class, from 0 to 1: see [`Problem`].
    ///
    /// # Shapes
    /// - `logits` and output: `[batch, n_classes]`
    pub fn probabilities(&self, logits: Tensor<2>) -> Tensor<2> {
        match self.config.problem {
            Problem::SingleLabel if self.config.n_classes > 1 => softmax(logits, 1),
            Problem::SingleLabel | Problem::MultiLabel => sigmoid(logits),
        }
    }

    /// What the head sees of an image.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, channels, image_size, image_size]`
    /// - output: `[batch, d_model]`
    pub fn features(&self, pixels: Tensor<4>) -> Tensor<2> {
        self.pooled(self.blocks.iter().fold(self.embeddings(pixels), |x, block| block.forward(x)))
    }

    /// The blocks, one by one.
    pub fn stages<'a>(&'a self) -> Vec<Stage<'a>> {
        let stage = |block: &'a Block| -> Stage<'a> { Box::new(move |x| block.forward(x)) };
        self.blocks.iter().map(stage).collect()
    }

    /// What [`Vit::features`] makes of the output of the last block.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, 1 + patches, d_model]`
    /// - output: `[batch, d_model]`
    pub fn pooled(&self, tokens: Tensor<3>) -> Tensor<2> {
        match self.config.pooling {
            Pooling::ClassToken => class_token(self.norm.forward(tokens)),
            Pooling::Mean => mean_of_patches(self.norm.forward(tokens)),
            Pooling::MeanThenNorm => self.norm.forward(mean_of_patches(tokens)),
        }
    }

    /// The output of the last norm over all tokens, given that of the last block; with [`Pooling::MeanThenNorm`], which norms
    /// later, that of the last block itself.
    ///
    /// # Shapes
    /// - `tokens`, output: `[batch, tokens, d_model]`
    pub fn normed(&self, tokens: Tensor<3>) -> Tensor<3> {
        match self.config.pooling {
            Pooling::ClassToken | Pooling::Mean => self.norm.forward(tokens),
            Pooling::MeanThenNorm => tokens,
        }
    }

    /// The output of every stage, class token first, to compare with another implementation.
    ///
    /// With [`Pooling::MeanThenNorm`], which norms later, `final_norm` is the output of the last block.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, channels, image_size, image_size]`
    pub fn hidden_states(&self, pixels: Tensor<4>) -> HiddenStates {
        HiddenStates::trace(self.embeddings(pixels), &self.blocks, Block::forward, |last| {
            match self.config.pooling {
                Pooling::ClassToken | Pooling::Mean => self.norm.forward(last),
                Pooling::MeanThenNorm => last,
            }
        })
    }

    /// What the first block gets.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, channels, image_size, image_size]`
    /// - output: `[batch, 1 + patches, d_model]`
    pub fn embeddings(&self, pixels: Tensor<4>) -> Tensor<3> {
        let VitConfig { d_model, channels, image_size, patch_size, .. } = self.config;
        assert_shape!(pixels, [_, channels, image_size, image_size]);
        let [batch, ..] = pixels.dims();
        let (grid, area) = (self.config.grid(), channels * patch_size * patch_size);
        let weight = self.patches.weight.val().reshape([d_model, area]).transpose();
        let dtype = compute_dtype(&weight.device(), weight.dtype());
        let patches = pixels
            .cast(dtype)
            .reshape([batch, channels, grid, patch_size, grid, patch_size])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch * grid * grid, area]);
        // Stride equals kernel size, so the convolution is one matrix product, which every backend does well.
        let tokens = product(patches, weight, self.patches.bias.as_ref().map(|bias| bias.val()));
        let tokens = tokens.reshape([batch, grid * grid, d_model]);
        let class_token = in_compute_dtype(self.class_token.val()).expand([batch, 1, d_model]);
        Tensor::cat(vec![class_token, tokens], 1) + in_compute_dtype(self.positions.val())
    }
}

/// The number type of the parameter at a path: `dtype`, but for the head's.
fn dtype_at(dtype: WeightDtype) -> impl Fn(&str) -> WeightDtype {
    move |path| if path.starts_with("head.") { WeightDtype::F32 } else { dtype }
}

fn class_token(tokens: Tensor<3>) -> Tensor<2> {
    tokens.narrow(1, 0, 1).squeeze_dim(1)
}

fn mean_of_patches(tokens: Tensor<3>) -> Tensor<2> {
    let [_, count, _] = tokens.dims();
    tokens.narrow(1, 1, count - 1).mean_dim(1).squeeze_dim(1)
}

fn layer(d_in: usize, d_out: usize) -> LinearConfig {
    LinearConfig::new(d_in, d_out).with_initializer(Initializer::Zeros)
}

fn norm(config: &VitConfig, device: &Device) -> LayerNorm {
    LayerNorm::new(config.d_model, config.layer_norm_eps, device)
}

fn fixed_positions(config: &VitConfig, device: &Device) -> Param<Tensor<3>> {
    let shape = [1, 1 + config.n_patches(), config.d_model];
    let table = positions::sine_cosine(config.d_model, config.grid());
    Param::from_data(TensorData::new(table, shape), device).set_require_grad(false)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tolerance;

    use super::*;

    fn probabilities(problem: Problem, logits: &[f32]) -> TensorData {
        let sizes = VitConfig { d_model: 8, n_layers: 1, n_heads: 2, d_mlp: 8, ..VitConfig::base16() };
        let config = VitConfig { problem, n_classes: logits.len(), image_size: 4, patch_size: 4, ..sizes };
        let device = Device::flex();
        let logits = Tensor::from_data(TensorData::new(logits.to_vec(), [1, logits.len()]), &device);
        Vit::uninitialized(&config, &device).probabilities(logits).into_data()
    }

    #[test]
    fn the_problem_decides_how_outputs_become_probabilities() {
        // Golden: `pipeline("image-classification")` of transformers 5.24, by its formulas.
        for (problem, logits, expected) in [
            (Problem::SingleLabel, vec![0.0, 1.0, 2.0], vec![0.090_030_6, 0.244_728_5, 0.665_240_9]),
            (Problem::MultiLabel, vec![0.0, 1.0, -2.0], vec![0.5, 0.731_058_6, 0.119_202_9]),
            (Problem::MultiLabel, vec![3.0], vec![0.952_574_1]),
            (Problem::SingleLabel, vec![-1.5], vec![0.182_425_5]),
        ] {
            let expected = TensorData::new(expected, [1, logits.len()]);
            probabilities(problem, &logits).assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-6));
        }
    }
}
