//! Sizes and variants of a ViT.

use crate::fields::Fields;
use crate::{Activation, Error};

/// A model with more numbers than this is refused; the largest published ViTs that fit a GPU have fewer.
const MAX_NUMBERS: f64 = 8e9;

/// Sizes and variants of a ViT.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Heads per block; divides `d_model`.
    pub n_heads: usize,
    /// Width inside the MLP.
    pub d_mlp: usize,
    /// Side of the square image, in pixels.
    pub image_size: usize,
    /// Side of a square patch, in pixels; divides `image_size`.
    pub patch_size: usize,
    /// Colour channels.
    pub channels: usize,
    /// Added to the variance in every norm.
    pub layer_norm_eps: f64,
    /// Between the halves of the MLP.
    pub activation: Activation,
    /// Whether query, key and value have biases.
    pub qkv_bias: bool,
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

/// What of the last block the head sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The class token, after the final norm.
    ClassToken,
    /// The mean of the patch tokens, after the final norm.
    Mean,
    /// The mean of the patch tokens, and the norm after it (timm's `fc_norm`).
    MeanThenNorm,
}

/// Where position embeddings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// Trained with the rest.
    Learned,
    /// Sines and cosines of row and column, never trained (MAE).
    Fixed,
}

impl VitConfig {
    /// The sizes of a published model: ViT-B/16 for 224 pixels, without head.
    pub fn base16() -> Self {
        Self {
            d_model: 768,
            n_layers: 12,
            n_heads: 12,
            d_mlp: 3072,
            image_size: 224,
            patch_size: 16,
            channels: 3,
            layer_norm_eps: 1e-12,
            activation: Activation::Gelu,
            qkv_bias: true,
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

    /// Patches along a side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Patches of an image.
    pub fn n_patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// The sizes must divide as they should; `names` are the fields for heads, patch, image and width.
    pub(super) fn checked(self, fields: &Fields, names: [&'static str; 4]) -> Result<Self, Error> {
        let [heads, patch, image, width] = names;
        if !self.d_model.is_multiple_of(self.n_heads) {
            return Err(fields.wrong(heads, &format!("a divisor of {width} = {}", self.d_model)));
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            return Err(fields.wrong(patch, &format!("a divisor of {image} = {}", self.image_size)));
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
        let block = 4.0 * d_model * d_model + 2.0 * d_model * d_mlp;
        d_model * (self.n_patches() as f64 + patch + self.n_classes as f64) + self.n_layers as f64 * block
    }
}

pub(super) fn numbered_labels(n_classes: usize) -> Vec<String> {
    (0..n_classes).map(|class| format!("LABEL_{class}")).collect()
}
