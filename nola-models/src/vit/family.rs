//! What the families of vision transformers do not share: which fields their `config.json` has, what an absent one means, and what
//! they compute.

use super::dialect::{self, Dialect};
use crate::Activation;

/// Vision transformers that differ from ViT by configuration alone, under one `model_type`.
#[derive(Debug, PartialEq)]
pub struct Family {
    /// `model_type` in a `config.json`.
    pub model_type: &'static str,
    /// `model_type` of a model with a text tower too, whose `vision_config` holds the sizes; classifiers are written under it.
    /// None where classifiers have the other one.
    pub whole: Option<&'static str>,
    /// Class of transformers without head, which `architectures` names.
    pub bare_class: &'static str,
    /// Class of transformers with a head.
    pub classifier_class: &'static str,
    /// How its files call the modules.
    pub(super) dialect: &'static Dialect,
    /// Before every name but the head's in a file of a classifier.
    pub(super) prefix: &'static str,
    /// The same in a file without head, as every release reads it.
    pub(super) bare_prefix: &'static str,
    /// Stored tensors that no classifier has: poolers, mask tokens, decoders, buffers.
    pub(super) ignored: &'static [&'static str],
    /// The same of which a user should hear: a text tower, projections, a pooling head.
    pub(super) left_out: &'static [&'static str],
    /// Name of a mask token that transformers misses where a file has none.
    pub(super) written_mask_token: Option<&'static str>,
    /// How wide the MLP is said to be.
    pub(super) mlp_width: MlpWidth,
    /// Where position embeddings come from.
    pub positions: Positions,
    /// How positions are made for other sizes of images.
    pub interpolation: Interpolation,
    /// Whether transformers makes them for the size of each image unasked.
    pub follows_image_size: bool,
    /// What of the last block the head sees.
    pub pooling: Pooling,
    /// Whether there is a class token.
    pub class_token: bool,
    /// Whether a distillation token comes after it.
    pub distillation_token: bool,
    /// Whether register tokens come after these.
    pub registers: bool,
    /// Whether the halves of a block are scaled before they are added.
    pub layer_scale: bool,
    /// Whether the patches have a bias.
    pub patch_bias: bool,
    /// Whether there is a norm before the first block.
    pub embedding_norm: bool,
    /// Whether `qkv_bias` says if query, key and value have biases; else they have.
    pub(super) states_qkv_bias: bool,
    /// What absent fields mean.
    pub(super) absent: Absent,
}

/// What of the last block the head sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The class token, after the final norm.
    ClassToken,
    /// The class token and the distillation token, after the final norm, each for a head of its own (DeiT with teacher).
    ClassAndDistillation,
    /// The class token, and behind it the mean of the patch tokens, after the final norm (DINOv2).
    ClassAndMean,
    /// The mean of the patch tokens, after the final norm.
    Mean,
    /// The mean of the patch tokens, and the norm after it (timm's `fc_norm`).
    MeanThenNorm,
    /// The mean of the patch tokens, without the final norm (CLIP).
    MeanWithoutNorm,
    /// What a learned query finds in the patch tokens, after the final norm (SigLIP as timm has it).
    Attention,
}

/// Where position embeddings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// Trained with the rest.
    Learned,
    /// Sines and cosines of row and column, never trained (MAE).
    Fixed,
}

/// How positions are made for other sizes of images: bicubically, corners not aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// Between the four nearest ones on each axis.
    Plain,
    /// With a kernel that widens where there are fewer in the end.
    Antialiased,
}

/// How wide the MLP is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MlpWidth {
    /// By `intermediate_size`.
    Stated,
    /// By `mlp_ratio`, and `use_swiglu_ffn`, which gives it a gate.
    Ratio,
}

/// What fields mean that a `config.json` leaves out; others are those of ViT-B.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Absent {
    /// `patch_size`.
    pub(super) patch_size: usize,
    /// `layer_norm_eps`.
    pub(super) layer_norm_eps: f64,
    /// `hidden_act`.
    pub(super) activation: Activation,
}

impl Family {
    /// ViT itself; the others are described by what they have in place of it.
    ///
    /// # Source
    /// `ViTConfig` of transformers.
    pub const VIT: Self = Self {
        model_type: "vit",
        whole: None,
        bare_class: "ViTModel",
        classifier_class: "ViTForImageClassification",
        dialect: &dialect::VIT,
        prefix: "vit.",
        bare_prefix: "",
        ignored: &[
            "pooler.",
            "vit.pooler.",
            "embeddings.mask_token",
            "vit.embeddings.mask_token",
            "decoder.",
        ],
        left_out: &[],
        written_mask_token: None,
        mlp_width: MlpWidth::Stated,
        positions: Positions::Learned,
        interpolation: Interpolation::Plain,
        follows_image_size: false,
        pooling: Pooling::ClassToken,
        class_token: true,
        distillation_token: false,
        registers: false,
        layer_scale: false,
        patch_bias: true,
        embedding_norm: false,
        states_qkv_bias: true,
        absent: Absent { patch_size: 16, layer_norm_eps: 1e-12, activation: Activation::Gelu },
    };

    /// Whether its files can say that the MLP has a gate.
    pub(super) fn says_gate(&self) -> bool {
        self.mlp_width == MlpWidth::Ratio
    }
}
