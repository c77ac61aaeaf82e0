//! What the families of LLaMA's kind do not share: which fields their `config.json` has, and what an absent one means.

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
    /// Which layers have a sliding window.
    pub windows: Windows,
    /// Layers whose number, counted from 1, this divides are not rotated, unless `no_rope_layers` says otherwise; none where
    /// all are.
    pub rope_interval: Option<usize>,
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
        windows: Windows::Never,
        rope_interval: None,
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
            tied_head: false,
            eos: &[2],
        },
    };
}
