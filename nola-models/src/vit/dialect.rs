//! How files call the modules of a vision transformer: one table for each way.

use crate::checkpoint::Shares;

/// How files call the modules of a model.
#[derive(Debug, PartialEq)]
pub struct Dialect {
    /// What the blocks are called.
    pub(super) blocks: Names,
    /// Modules of a block.
    pub(super) in_block: &'static [Name],
    /// Those that are called otherwise where the MLP has a gate.
    pub(super) gated: &'static [Name],
    /// All other modules.
    pub(super) outside: &'static [Name],
}

/// What files of every release call something, and what it is called in memory since transformers 5.
pub(super) type Names = [&'static str; 2];

/// One module, or parameter, of ours with its names there.
#[derive(Debug, PartialEq)]
pub(super) struct Name {
    pub(super) ours: &'static str,
    pub(super) theirs: Names,
    pub(super) kind: Kind,
}

/// How it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A linear layer: `[d_out, d_in]` there, `[d_in, d_out]` here.
    Linear,
    /// The same, as some rows of a fused one.
    Rows(Shares),
    /// A module that is stored as we have it.
    Module,
    /// A layer scale, with what it calls its numbers.
    Scale(&'static str),
    /// A parameter that is stored as we have it, under a name of its own.
    Parameter,
    /// The same with its last axes alone.
    LastAxes(usize),
}

const fn name(ours: &'static str, theirs: &'static str, kind: Kind) -> Name {
    Name { ours, theirs: [theirs, theirs], kind }
}

const fn renamed(ours: &'static str, files: &'static str, in_memory: &'static str, kind: Kind) -> Name {
    Name { ours, theirs: [files, in_memory], kind }
}

const fn fused(ours: &'static str, theirs: &'static str, index: usize, of: usize) -> Name {
    name(ours, theirs, Kind::Rows(Shares::nth(index, of)))
}

/// ViT and DeiT.
///
/// Those of `class_head` are the head where another one reads the distillation token.
pub(super) const VIT: Dialect = Dialect {
    blocks: ["encoder.layer", "layers"],
    in_block: &[
        name("norm_attention", "layernorm_before", Kind::Module),
        renamed("attention.query", "attention.attention.query", "attention.q_proj", Kind::Linear),
        renamed("attention.key", "attention.attention.key", "attention.k_proj", Kind::Linear),
        renamed("attention.value", "attention.attention.value", "attention.v_proj", Kind::Linear),
        renamed("attention.output", "attention.output.dense", "attention.o_proj", Kind::Linear),
        name("norm_mlp", "layernorm_after", Kind::Module),
        renamed("mlp.up", "intermediate.dense", "mlp.fc1", Kind::Linear),
        renamed("mlp.down", "output.dense", "mlp.fc2", Kind::Linear),
    ],
    gated: &[],
    outside: &[
        name("class_token", "embeddings.cls_token", Kind::Parameter),
        name("distillation_token", "embeddings.distillation_token", Kind::Parameter),
        name("positions", "embeddings.position_embeddings", Kind::Parameter),
        name("patches", "embeddings.patch_embeddings.projection", Kind::Module),
        name("norm", "layernorm", Kind::Module),
        name("head", "classifier", Kind::Linear),
        name("class_head", "cls_classifier", Kind::Linear),
        name("distillation_head", "distillation_classifier", Kind::Linear),
    ],
};

/// DINOv2, with and without registers.
pub(super) const DINO: Dialect = Dialect {
    blocks: ["encoder.layer", "encoder.layer"],
    in_block: &[
        name("norm_attention", "norm1", Kind::Module),
        renamed("attention.query", "attention.attention.query", "attention.q_proj", Kind::Linear),
        renamed("attention.key", "attention.attention.key", "attention.k_proj", Kind::Linear),
        renamed("attention.value", "attention.attention.value", "attention.v_proj", Kind::Linear),
        renamed("attention.output", "attention.output.dense", "attention.o_proj", Kind::Linear),
        name("scale_attention", "layer_scale1", Kind::Scale(".lambda1")),
        name("norm_mlp", "norm2", Kind::Module),
        name("mlp.up", "mlp.fc1", Kind::Linear),
        name("mlp.down", "mlp.fc2", Kind::Linear),
        name("scale_mlp", "layer_scale2", Kind::Scale(".lambda1")),
    ],
    gated: &[
        renamed("mlp.gate", "mlp.weights_in", "mlp.gate_proj", Kind::Rows(Shares::nth(0, 2))),
        renamed("mlp.up", "mlp.weights_in", "mlp.up_proj", Kind::Rows(Shares::nth(1, 2))),
        renamed("mlp.down", "mlp.weights_out", "mlp.down_proj", Kind::Linear),
    ],
    outside: &[
        name("class_token", "embeddings.cls_token", Kind::Parameter),
        name("register_tokens", "embeddings.register_tokens", Kind::Parameter),
        name("positions", "embeddings.position_embeddings", Kind::Parameter),
        name("patches", "embeddings.patch_embeddings.projection", Kind::Module),
        name("norm", "layernorm", Kind::Module),
        name("head", "classifier", Kind::Linear),
    ],
};

/// The vision towers of CLIP and SigLIP.
pub(super) const CLIP: Dialect = Dialect {
    blocks: ["encoder.layers", "encoder.layers"],
    in_block: &[
        name("norm_attention", "layer_norm1", Kind::Module),
        name("attention.query", "self_attn.q_proj", Kind::Linear),
        name("attention.key", "self_attn.k_proj", Kind::Linear),
        name("attention.value", "self_attn.v_proj", Kind::Linear),
        name("attention.output", "self_attn.out_proj", Kind::Linear),
        name("norm_mlp", "layer_norm2", Kind::Module),
        name("mlp.up", "mlp.fc1", Kind::Linear),
        name("mlp.down", "mlp.fc2", Kind::Linear),
    ],
    gated: &[],
    outside: &[
        name("class_token", "embeddings.class_embedding", Kind::LastAxes(1)),
        name("positions", "embeddings.position_embedding.weight", Kind::LastAxes(2)),
        name("patches", "embeddings.patch_embedding", Kind::Module),
        // So misspelt there.
        name("embedding_norm", "pre_layrnorm", Kind::Module),
        name("norm", "post_layernorm", Kind::Module),
        name("head", "classifier", Kind::Linear),
    ],
};

/// timm's `VisionTransformer` of every kind; `feature_norm` is the last norm where it comes after the mean.
pub(super) const TIMM: Dialect = Dialect {
    blocks: ["blocks", "blocks"],
    in_block: &[
        name("norm_attention", "norm1", Kind::Module),
        fused("attention.query", "attn.qkv", 0, 3),
        fused("attention.key", "attn.qkv", 1, 3),
        fused("attention.value", "attn.qkv", 2, 3),
        name("attention.output", "attn.proj", Kind::Linear),
        name("scale_attention", "ls1", Kind::Scale(".gamma")),
        name("norm_mlp", "norm2", Kind::Module),
        name("mlp.up", "mlp.fc1", Kind::Linear),
        name("mlp.down", "mlp.fc2", Kind::Linear),
        name("scale_mlp", "ls2", Kind::Scale(".gamma")),
    ],
    gated: &[fused("mlp.gate", "mlp.fc1", 0, 2), fused("mlp.up", "mlp.fc1", 1, 2)],
    outside: &[
        name("class_token", "cls_token", Kind::Parameter),
        name("distillation_token", "dist_token", Kind::Parameter),
        name("register_tokens", "reg_token", Kind::Parameter),
        name("positions", "pos_embed", Kind::Parameter),
        name("patches", "patch_embed.proj", Kind::Module),
        name("embedding_norm", "norm_pre", Kind::Module),
        name("norm", "norm", Kind::Module),
        name("feature_norm", "fc_norm", Kind::Module),
        name("pooling_head.latent", "attn_pool.latent", Kind::Parameter),
        name("pooling_head.query", "attn_pool.q", Kind::Linear),
        fused("pooling_head.key", "attn_pool.kv", 0, 2),
        fused("pooling_head.value", "attn_pool.kv", 1, 2),
        name("pooling_head.output", "attn_pool.proj", Kind::Linear),
        name("pooling_head.norm", "attn_pool.norm", Kind::Module),
        name("pooling_head.mlp.up", "attn_pool.mlp.fc1", Kind::Linear),
        name("pooling_head.mlp.down", "attn_pool.mlp.fc2", Kind::Linear),
        name("head", "head", Kind::Linear),
        name("class_head", "head", Kind::Linear),
        name("distillation_head", "head_dist", Kind::Linear),
    ],
};
