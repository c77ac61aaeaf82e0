//! What the families of LLaMA's kind do not share: which fields their `config.json` has, and what an absent one means.

pub use crate::norm::Gain;

/// Decoders that differ from LLaMA by configuration alone, under one `model_type`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Family {
    /// `model_type` in a `config.json`.
    pub model_type: &'static str,
    /// Class of transformers, which `architectures` names.
    pub class: &'static str,
    /// Which linear layers have biases.
    pub biases: Biases,
    /// Whether each head of the queries and keys is normalised before it is rotated.
    pub qk_norm: bool,
    /// Where norms stand in a block.
    pub norms: Norms,
    /// What a norm multiplies by.
    pub gain: Gain,
    /// What the gate of the MLP is.
    pub gate: Gate,
    /// Whether token embeddings are multiplied by the root of their width.
    pub scales_embeddings: bool,
    /// What is capped.
    pub caps: Caps,
    /// What attention scores are divided by the root of; the number of a field is the one where it is absent.
    pub score_divisor: ScoreDivisor,
    /// Which layers have a sliding window.
    pub windows: Windows,
    /// Layers whose number, counted from 1, this divides are not rotated, unless `no_rope_layers` says otherwise; none where
    /// all are.
    pub rope_interval: Option<usize>,
    /// How a `config.json` says rotary positions.
    pub rope: RopeSettings,
    /// How files hold the projections.
    pub projections: Projections,
    /// What absent fields mean.
    pub absent: Absent,
}

/// Which linear layers have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Biases {
    /// None.
    Never,
    /// Those of query, key and value.
    QueryKeyValue,
    /// Those of the attention, if `attention_bias` says so.
    OfAttention,
    /// The same, and those of the MLP if `mlp_bias` says so.
    OfAttentionAndMlp,
}

/// Where norms stand in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// Before the attention and before the MLP.
    Before,
    /// Before them and behind them.
    BeforeAndBehind,
}

/// What the gate of the MLP is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// SiLU, under `hidden_act`.
    Silu,
    /// GELU by its tanh formula, under `hidden_act` or `hidden_activation`.
    GeluTanh,
}

/// What is capped: it approaches a number as it grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caps {
    /// Nothing.
    Never,
    /// Logits, by `final_logit_softcapping`.
    Logits,
    /// Logits, and attention scores by `attn_logit_softcapping`.
    LogitsAndScores,
}

/// What attention scores are divided by the root of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreDivisor {
    /// The width of a head.
    HeadWidth,
    /// The number under `query_pre_attn_scalar`.
    Field(usize),
}

impl ScoreDivisor {
    /// What scores are multiplied by.
    pub(crate) fn score_scale(self, d_head: usize) -> f64 {
        let divisor = match self {
            Self::HeadWidth => d_head,
            Self::Field(divisor) => divisor,
        };
        1.0 / (divisor as f64).sqrt()
    }
}

/// How a `config.json` says rotary positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeSettings {
    /// One block for all layers.
    Shared,
    /// The same; `yarn` is another word for `longrope`, and the original context stands beside the block alone.
    OfPhi3 {
        /// `original_max_position_embeddings` where it is absent.
        original_max_tokens: usize,
    },
    /// One block for layers that see all tokens, and one for those with a sliding window.
    ByLayerType {
        /// Base of the waves of layers with a sliding window where it is absent.
        sliding_theta: f64,
    },
}

/// Which layers have a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// None.
    Never,
    /// All, if there is a `sliding_window`.
    Everywhere,
    /// With `use_sliding_window` those that `layer_types` names, or else those from `max_window_layers` on.
    LateLayers,
    /// With `use_sliding_window` those that `layer_types` names, or else those that are not rotated.
    UnrotatedLayers,
    /// Those that `layer_types` names, or else all but those whose number, counted from 1, `sliding_window_pattern` divides.
    Pattern {
        /// `sliding_window_pattern` where it is absent.
        absent: usize,
    },
}

/// How files hold the projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projections {
    /// One tensor each.
    Apart,
    /// Query, key and value as one tensor, and gate and up as one.
    Fused,
}

/// What fields mean that a `config.json` leaves out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Absent {
    /// `vocab_size`.
    pub vocab_size: usize,
    /// `max_position_embeddings`.
    pub max_tokens: usize,
    /// `hidden_size`.
    pub d_model: usize,
    /// `num_hidden_layers`.
    pub n_layers: usize,
    /// `num_attention_heads`.
    pub n_heads: usize,
    /// `num_key_value_heads`; none for as many as there are of queries.
    pub n_kv_heads: Option<usize>,
    /// `head_dim`; none for the share of a head of `hidden_size`.
    pub d_head: Option<usize>,
    /// `intermediate_size`.
    pub d_mlp: usize,
    /// `rms_norm_eps`.
    pub rms_norm_eps: f64,
    /// `rope_theta`.
    pub theta: f64,
    /// `sliding_window`; none for no window.
    pub window: Option<usize>,
    /// `final_logit_softcapping`; none for no cap.
    pub logit_cap: Option<f64>,
    /// `attn_logit_softcapping`; none for no cap.
    pub score_cap: Option<f64>,
    /// `tie_word_embeddings`.
    pub tied_head: bool,
    /// `eos_token_id`.
    pub eos: &'static [u32],
}

impl Family {
    /// LLaMA itself, of every generation; the others are described by what they have in place of it.
    ///
    /// # Source
    /// `LlamaConfig` of transformers.
    pub const LLAMA: Self = Self {
        model_type: "llama",
        class: "LlamaForCausalLM",
        biases: Biases::OfAttentionAndMlp,
        qk_norm: false,
        norms: Norms::Before,
        gain: Gain::Weight,
        gate: Gate::Silu,
        scales_embeddings: false,
        caps: Caps::Never,
        score_divisor: ScoreDivisor::HeadWidth,
        windows: Windows::Never,
        rope_interval: None,
        rope: RopeSettings::Shared,
        projections: Projections::Apart,
        absent: Absent {
            vocab_size: 32000,
            max_tokens: 2048,
            d_model: 4096,
            n_layers: 32,
            n_heads: 32,
            n_kv_heads: None,
            d_head: None,
            d_mlp: 11008,
            rms_norm_eps: 1e-6,
            theta: 10_000.0,
            window: None,
            logit_cap: None,
            score_cap: None,
            tied_head: false,
            eos: &[2],
        },
    };
}
