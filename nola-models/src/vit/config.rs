//! Sizes and variants of a ViT.

use super::family::{Family, Pooling, Positions};
use crate::fields::Fields;
use crate::{Activation, Error, Preprocessor};

/// A model with more numbers than this is refused; the largest published ViTs that fit a GPU have fewer.
const MAX_NUMBERS: f64 = 8e9;

/// Sizes and variants of a ViT.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Whose files it is written to, unless only timm's can hold it.
    pub family: &'static Family,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Heads per block; divides `d_model`.
    pub n_heads: usize,
    /// Width inside the MLP.
    pub d_mlp: usize,
    /// How the MLP is built.
    pub mlp: MlpKind,
    /// Side of the square image, in pixels.
    pub image_size: usize,
    /// Side of a square patch, in pixels; what it leaves of an image to the right and below is not seen.
    pub patch_size: usize,
    /// Colour channels.
    pub channels: usize,
    /// Added to the variance in every norm.
    pub layer_norm_eps: f64,
    /// Between the halves of the MLP.
    pub activation: Activation,
    /// Whether query, key and value have biases.
    pub qkv_bias: bool,
    /// Whether the patches have a bias.
    pub patch_bias: bool,
    /// Whether there is a class token, before the patches.
    pub class_token: bool,
    /// Whether a distillation token comes after it.
    pub distillation_token: bool,
    /// Register tokens that come after these.
    pub n_registers: usize,
    /// How many of these tokens, from the first, have a position.
    pub n_positioned: usize,
    /// Whether there is a norm before the first block.
    pub embedding_norm: bool,
    /// What the halves of a block are scaled by at first, before they are added; none where they are not scaled.
    pub layer_scale: Option<f64>,
    /// Classes of the head; 0 for a model without one.
    pub n_classes: usize,
    /// What of the last block the head sees.
    pub pooling: Pooling,
    /// Where position embeddings come from.
    pub positions: Positions,
    /// Name of each class.
    pub labels: Vec<String>,
    /// How the head's outputs answer.
    pub problem: Problem,
}

/// How the outputs of a head answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// One of the classes is right: a softmax over all of them, or a sigmoid of the only one.
    SingleLabel,
    /// Each class is right or not, whatever the others are: a sigmoid of each.
    MultiLabel,
}

/// How the MLP is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpKind {
    /// Up, the activation, down.
    Plain,
    /// Two ways up, one of them a gate through SiLU whatever the activation is.
    Gated,
}

/// Whose files can hold a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Hugging Face's, as a model of [`VitConfig::family`].
    HuggingFace,
    /// timm's alone.
    Timm,
}

impl VitConfig {
    /// The sizes of a published model: ViT-B/16 for 224 pixels, without head.
    pub fn base16() -> Self {
        Self {
            family: &Family::VIT,
            d_model: 768,
            n_layers: 12,
            n_heads: 12,
            d_mlp: 3072,
            mlp: MlpKind::Plain,
            image_size: 224,
            patch_size: 16,
            channels: 3,
            layer_norm_eps: 1e-12,
            activation: Activation::Gelu,
            qkv_bias: true,
            patch_bias: true,
            class_token: true,
            distillation_token: false,
            n_registers: 0,
            n_positioned: 1,
            embedding_norm: false,
            layer_scale: None,
            n_classes: 0,
            pooling: Pooling::ClassToken,
            positions: Positions::Learned,
            labels: Vec::new(),
            problem: Problem::SingleLabel,
        }
    }

    /// The sizes of a published model: ViT-L/16 for 224 pixels, without head.
    pub fn large16() -> Self {
        Self { d_model: 1024, n_layers: 24, n_heads: 16, d_mlp: 4096, ..Self::base16() }
    }

    /// The side of images that the model is used with where transformers fits its positions to every image: what `preprocessor`
    /// puts out. None where the model has one size.
    pub fn followed_size(&self, preprocessor: &Preprocessor) -> Option<usize> {
        let [height, width] = preprocessor.output_size();
        (self.family.follows_image_size && height == width).then_some(height)
    }

    /// Patches along a side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Patches of an image.
    pub fn n_patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Tokens before the patches.
    pub fn n_prefix(&self) -> usize {
        usize::from(self.class_token) + usize::from(self.distillation_token) + self.n_registers
    }

    /// Tokens of an image.
    pub fn n_tokens(&self) -> usize {
        self.n_prefix() + self.n_patches()
    }

    /// Width of what a head sees.
    pub fn d_head_in(&self) -> usize {
        match self.pooling {
            Pooling::ClassAndMean => 2 * self.d_model,
            Pooling::ClassToken
            | Pooling::ClassAndDistillation
            | Pooling::Mean
            | Pooling::MeanThenNorm
            | Pooling::MeanWithoutNorm
            | Pooling::Attention => self.d_model,
        }
    }

    /// Whose files can hold it.
    pub fn format(&self) -> Format {
        let family = self.family;
        let pools_alike = self.pooling == family.pooling
            || (family.distillation_token && self.pooling == Pooling::ClassAndDistillation);
        let positioned = usize::from(self.class_token) + usize::from(self.distillation_token);
        let is_alike = self.class_token == family.class_token
            && self.distillation_token == family.distillation_token
            && (self.n_registers > 0) == family.registers
            && self.n_positioned == positioned
            && self.layer_scale.is_some() == family.layer_scale
            && self.embedding_norm == family.embedding_norm
            && self.patch_bias == family.patch_bias;
        let has_mlp = self.mlp == MlpKind::Plain || family.says_gate();
        if pools_alike && is_alike && has_mlp { Format::HuggingFace } else { Format::Timm }
    }

    /// The sizes must divide as they should; `names` are the fields for heads, patch, image and width.
    pub(super) fn checked(self, fields: &Fields, names: [&'static str; 4]) -> Result<Self, Error> {
        let [heads, patch, image, width] = names;
        if !self.d_model.is_multiple_of(self.n_heads) {
            return Err(fields.wrong(heads, &format!("a divisor of {width} = {}", self.d_model)));
        }
        if self.image_size < self.patch_size {
            return Err(fields.wrong(patch, &format!("at most {image} = {}", self.image_size)));
        }
        if self.numbers() > MAX_NUMBERS {
            return Err(fields.wrong(width, "sizes of a model of less than eight thousand million numbers"));
        }
        if self.positions == Positions::Fixed && !self.d_model.is_multiple_of(4) {
            return Err(fields.wrong(width, "a multiple of 4, for sine-cosine positions"));
        }
        Ok(self)
    }

    /// About how many numbers a model of these sizes has; in floats, since lies overflow integers.
    fn numbers(&self) -> f64 {
        let [d_model, d_mlp] = [self.d_model, self.d_mlp].map(|size| size as f64);
        let patch = self.channels as f64 * (self.patch_size as f64).powi(2);
        let n_mlp = match self.mlp {
            MlpKind::Plain => 2.0,
            MlpKind::Gated => 3.0,
        };
        let block = 4.0 * d_model * d_model + n_mlp * d_model * d_mlp;
        d_model * (self.n_patches() as f64 + patch + self.n_classes as f64) + self.n_layers as f64 * block
    }
}

pub(super) fn numbered_labels(n_classes: usize) -> Vec<String> {
    (0..n_classes).map(|class| format!("LABEL_{class}")).collect()
}
