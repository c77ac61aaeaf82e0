//! ViT and what differs from it by configuration: pre-norm encoder blocks over square patches of an image, tokens for the whole
//! image before them, learned or fixed positions.
//!
//! Source: Dosovitskiy et al. 2021; names and shapes of `ViTForImageClassification`, `ViTModel` (DINO), `ViTMAEModel`, of the
//! classes that the table of families names, and of timm's `VisionTransformer`.

mod config;
mod dialect;
mod families;
pub mod family;
mod json;
mod keys;
mod pooling;
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
use crate::fused::{attention, gated};
use crate::norm::LayerNorm;
use crate::{Activation, Checkpoint, Error, HiddenStates, Precision, Stage, WeightDtype};
pub use config::{Format, MlpKind, Problem, VitConfig};
pub use families::model_types;
pub use family::{Family, Interpolation, Pooling, Positions};
pub use pooling::PoolingHead;

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
    /// `d_model` to `d_mlp`; opens and closes `up` in place of an activation.
    pub gate: Option<Linear>,
    /// `d_model` to `d_mlp`.
    pub up: Linear,
    /// `d_mlp` to `d_model`.
    pub down: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    fn uninitialized(config: &VitConfig, device: &Device) -> Self {
        let layer = |d_in, d_out| Linear::from(layer(d_in, d_out).init(device));
        Self {
            gate: (config.mlp == MlpKind::Gated).then(|| layer(config.d_model, config.d_mlp)),
            up: layer(config.d_model, config.d_mlp),
            down: layer(config.d_mlp, config.d_model),
            activation: config.activation,
        }
    }

    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let inside = match &self.gate {
            Some(gate) => gated(adapted(gate, x.clone()), adapted(&self.up, x)),
            None => self.activation.apply(adapted(&self.up, x)),
        };
        adapted(&self.down, inside)
    }
}

/// A factor for each channel.
#[derive(Module, Debug)]
pub struct LayerScale {
    /// The factors, `[d_model]`.
    pub lambda1: Param<Tensor<1>>,
}

impl LayerScale {
    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let factors = self.lambda1.val().cast(x.dtype());
        x * factors.unsqueeze()
    }
}

/// One encoder block; both halves add to the stream they read normalised.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before the attention.
    pub norm_attention: LayerNorm,
    /// Mixes tokens.
    pub attention: Attention,
    /// Scales what the attention adds.
    pub scale_attention: Option<LayerScale>,
    /// Norm before the MLP.
    pub norm_mlp: LayerNorm,
    /// Works on each token alone.
    pub mlp: Mlp,
    /// Scales what the MLP adds.
    pub scale_mlp: Option<LayerScale>,
}

impl Block {
    fn uninitialized(config: &VitConfig, device: &Device) -> Self {
        let scale = || {
            let value = config.layer_scale?;
            Some(LayerScale { lambda1: Initializer::Constant { value }.init([config.d_model], device) })
        };
        Self {
            norm_attention: norm(config, device),
            attention: Attention::uninitialized(config, device),
            scale_attention: scale(),
            norm_mlp: norm(config, device),
            mlp: Mlp::uninitialized(config, device),
            scale_mlp: scale(),
        }
    }

    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let mixed = self.attention.forward(self.norm_attention.forward(x.clone()));
        let x = x + scaled(self.scale_attention.as_ref(), mixed);
        let alone = self.mlp.forward(self.norm_mlp.forward(x.clone()));
        x + scaled(self.scale_mlp.as_ref(), alone)
    }
}

fn scaled(scale: Option<&LayerScale>, x: Tensor<3>) -> Tensor<3> {
    match scale {
        Some(scale) => scale.forward(x),
        None => x,
    }
}

/// A vision transformer, with or without a classification head.
#[derive(Module, Debug)]
pub struct Vit {
    /// Patches to tokens; its stride is its kernel size.
    pub patches: Conv2d,
    /// The token that stands for the whole image, `[1, 1, d_model]`.
    pub class_token: Option<Param<Tensor<3>>>,
    /// The token that was trained to say what a teacher says, `[1, 1, d_model]`.
    pub distillation_token: Option<Param<Tensor<3>>>,
    /// Tokens that hold what belongs to no patch, `[1, registers, d_model]`.
    pub register_tokens: Option<Param<Tensor<3>>>,
    /// Added to the first tokens and to each patch, `[1, n_positioned + patches, d_model]`.
    pub positions: Param<Tensor<3>>,
    /// The norm before the first block.
    pub embedding_norm: Option<LayerNorm>,
    /// The encoder.
    pub blocks: Vec<Block>,
    /// The last norm: of all tokens, or with [`Pooling::MeanThenNorm`] of the pooled feature.
    pub norm: LayerNorm,
    /// What pools, if it is more than a choice or a mean.
    pub pooling_head: Option<PoolingHead>,
    /// Pooled feature to logits.
    pub head: Option<Linear>,
    /// The same for the distillation token.
    pub distillation_head: Option<Linear>,
    #[module(skip)]
    config: VitConfig,
}

impl Vit {
    /// A model of these sizes that takes no memory until it is used or loaded; its weights are zero.
    pub fn uninitialized(config: &VitConfig, device: &Device) -> Self {
        let VitConfig { d_model, channels, patch_size, .. } = *config;
        let patches = Conv2dConfig::new([channels, d_model], [patch_size; 2])
            .with_stride([patch_size; 2])
            .with_bias(config.patch_bias)
            .with_initializer(Initializer::Zeros);
        let tokens =
            |count: usize| (count > 0).then(|| Initializer::Zeros.init::<3, _>([1, count, d_model], device));
        let head = |exists: bool| {
            exists.then(|| Linear::from(layer(config.d_head_in(), config.n_classes).init(device)))
        };
        let has_two_heads = config.pooling == Pooling::ClassAndDistillation;
        let mut vit = Self {
            patches: patches.init(device),
            class_token: tokens(config.class_token.into()),
            distillation_token: tokens(config.distillation_token.into()),
            register_tokens: tokens(config.n_registers),
            positions: Initializer::Zeros
                .init([1, config.n_positioned + config.n_patches(), d_model], device),
            embedding_norm: config.embedding_norm.then(|| norm(config, device)),
            blocks: (0..config.n_layers).map(|_| Block::uninitialized(config, device)).collect(),
            norm: norm(config, device),
            pooling_head: (config.pooling == Pooling::Attention)
                .then(|| PoolingHead::uninitialized(config, device)),
            head: head(config.n_classes > 0),
            distillation_head: head(config.n_classes > 0 && has_two_heads),
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
            keeps_few_bits: &|path| precision.keeps_few_bits_at(path),
            ignored: &[config.family.ignored, config.family.left_out].concat(),
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
    ///
    /// Where there were two heads, it reads the class token; the distillation token keeps none.
    pub fn with_head(mut self, labels: &[String]) -> Self {
        let device = self.positions.lazy_device();
        if self.config.pooling == Pooling::ClassAndDistillation {
            self.config.pooling = Pooling::ClassToken;
        }
        self.distillation_head = None;
        self.head = (!labels.is_empty())
            .then(|| Linear::from(layer(self.config.d_head_in(), labels.len()).init(&device)));
        self.config.n_classes = labels.len();
        self.config.labels = labels.to_vec();
        self
    }

    /// The same model for square images of `image_size` pixels a side, its positions interpolated bicubically.
    ///
    /// # Errors
    /// If the patches do not divide the size.
    ///
    /// # Source
    /// `interpolate_pos_encoding` of Hugging Face's classes.
    pub fn resized(mut self, image_size: usize) -> Result<Self, Error> {
        let patch_size = self.config.patch_size;
        if image_size == 0 || !image_size.is_multiple_of(patch_size) {
            return Err(Error::ImageSize { image_size, patch_size });
        }
        let (from, to) = (self.config.grid(), image_size / patch_size);
        self.config.image_size = image_size;
        if from != to {
            let (n_positioned, interpolation) = (self.config.n_positioned, self.config.family.interpolation);
            self.positions = self
                .positions
                .map(|positions| positions::interpolated(positions, n_positioned, [from, to], interpolation));
        }
        Ok(self)
    }

    /// Logits; of a model without head, the pooled features; in f32 whatever the weights are.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, channels, image_size, image_size]`
    /// - output: `[batch, n_classes]` or `[batch, d_features]`
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<2> {
        self.classified(self.features(pixels))
    }

    /// Logits of features; of a model without head, the features; in f32 whatever the weights are.
    ///
    /// # Shapes
    /// - `features`: `[batch, d_features]`, of which the distillation token has the second half where it has a head
    /// - output: `[batch, n_classes]` or `[batch, d_features]`
    pub fn classified(&self, features: Tensor<2>) -> Tensor<2> {
        let scores = |head: &Linear, features: Tensor<2>| {
            let dtype = compute_dtype(&features.device(), head.weight.base().dtype());
            adapted(head, features.cast(dtype)).cast(DType::F32)
        };
        match (&self.head, &self.distillation_head) {
            (Some(head), None) => scores(head, features),
            (Some(head), Some(of_distillation)) => {
                let [of_class, rest] = halves(features);
                (scores(head, of_class) + scores(of_distillation, rest)) / 2.0
            }
            (None, _) => features.cast(DType::F32),
        }
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
    /// - output: `[batch, d_features]`: the width of the model, twice where two features stand side by side
    pub fn features(&self, pixels: Tensor<4>) -> Tensor<2> {
        self.pooled(self.blocks.iter().fold(self.embeddings(pixels), |x, block| block.forward(x)))
    }

    /// The blocks, one by one.
    pub fn stages<'a>(&'a self) -> Vec<Stage<'a>> {
        let stage = |block: &'a Block| -> Stage<'a> { Box::new(move |x| block.forward(x)) };
        self.blocks.iter().map(stage).collect()
    }

    /// The output of every stage, class token first, to compare with another implementation.
    ///
    /// `final_norm` is what [`Vit::normed`] says.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, channels, image_size, image_size]`
    pub fn hidden_states(&self, pixels: Tensor<4>) -> HiddenStates {
        HiddenStates::trace(self.embeddings(pixels), &self.blocks, Block::forward, |last| self.normed(last))
    }

    /// What the first block gets.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, channels, image_size, image_size]`
    /// - output: `[batch, tokens, d_model]`
    pub fn embeddings(&self, pixels: Tensor<4>) -> Tensor<3> {
        let VitConfig { channels, image_size, .. } = self.config;
        assert_shape!(pixels, [_, channels, image_size, image_size]);
        let patches = self.embedded_patches(pixels);
        let batch = patches.dims()[0];
        let of_image = [&self.class_token, &self.distillation_token, &self.register_tokens];
        let before = of_image.into_iter().flatten().map(|token| {
            let [_, count, d_model] = token.lazy_shape().dims();
            in_compute_dtype(token.val()).expand([batch, count, d_model])
        });
        let tokens = Tensor::cat(before.chain([patches]).collect(), 1) + self.positions_of_all();
        match &self.embedding_norm {
            Some(norm) => norm.forward(tokens),
            None => tokens,
        }
    }

    /// # Shapes
    /// - output: `[batch, patches, d_model]`
    fn embedded_patches(&self, pixels: Tensor<4>) -> Tensor<3> {
        let VitConfig { d_model, channels, image_size, patch_size, .. } = self.config;
        let [batch, ..] = pixels.dims();
        let (grid, area) = (self.config.grid(), channels * patch_size * patch_size);
        let seen = grid * patch_size;
        let pixels = if seen < image_size { pixels.narrow(2, 0, seen).narrow(3, 0, seen) } else { pixels };
        let weight = self.patches.weight.val().reshape([d_model, area]).transpose();
        let dtype = compute_dtype(&weight.device(), weight.dtype());
        let patches = pixels
            .cast(dtype)
            .reshape([batch, channels, grid, patch_size, grid, patch_size])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch * grid * grid, area]);
        // Stride equals kernel size, so the convolution is one matrix product, which every backend does well.
        let tokens = product(patches, weight, self.patches.bias.as_ref().map(|bias| bias.val()));
        tokens.reshape([batch, grid * grid, d_model])
    }

    /// Positions of all tokens, zero for those that have none.
    ///
    /// # Shapes
    /// - output: `[1, tokens, d_model]`
    fn positions_of_all(&self) -> Tensor<3> {
        let VitConfig { d_model, n_positioned, .. } = self.config;
        let positions = in_compute_dtype(self.positions.val());
        let n_without = self.config.n_prefix() - n_positioned;
        if n_without == 0 {
            return positions;
        }
        let none = Tensor::zeros([1, n_without, d_model], (&positions.device(), positions.dtype()));
        let of_patches = positions.clone().narrow(1, n_positioned, self.config.n_patches());
        let before = (n_positioned > 0).then(|| positions.narrow(1, 0, n_positioned));
        Tensor::cat(before.into_iter().chain([none, of_patches]).collect(), 1)
    }
}

/// The number type of the parameter at a path: `dtype`, but for the head's.
fn dtype_at(dtype: WeightDtype) -> impl Fn(&str) -> WeightDtype {
    let is_of_head = |path: &str| path.starts_with("head.") || path.starts_with("distillation_head.");
    move |path| if is_of_head(path) { WeightDtype::F32 } else { dtype }
}

/// The two halves of each row.
fn halves(features: Tensor<2>) -> [Tensor<2>; 2] {
    let half = features.dims()[1] / 2;
    [0, half].map(|start| features.clone().narrow(1, start, half))
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
