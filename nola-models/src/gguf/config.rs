//! The `config.json` that the metadata of a GGUF file means.

mod rope;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use super::GgufError;
use super::header::Header;
use super::names::{Heads, ModelKind, TOKENS};

/// Settings that change a model and that none of the architectures here computes; a value of 0 switches each of them off.
const NOT_COMPUTED: [&str; 13] = [
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.scale",
    "attention.temperature_scale",
    "attn_logit_softcapping",
    "embedding_scale",
    "expert_count",
    "final_logit_softcapping",
    "logit_scale",
    "pooling_type",
    "residual_scale",
    "rope.dimension_sections",
    "use_parallel_residual",
];

/// The metadata of one architecture.
pub(super) struct Settings<'h, 'a> {
    pub(super) header: &'h Header<'a>,
    pub(super) kind: ModelKind,
}

impl Settings<'_, '_> {
    /// A key as the file has it.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.kind.name())
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, GgufError> {
        self.header.number(&self.key(name))
    }

    pub(super) fn float(&self, name: &str) -> Result<Option<f64>, GgufError> {
        self.header.float(&self.key(name))
    }

    pub(super) fn wrong(&self, name: &str, expected: &str) -> GgufError {
        self.header.wrong(&self.key(name), expected)
    }

    fn required(&self, name: &str) -> Result<u64, GgufError> {
        self.number(name)?.filter(|&number| number > 0).ok_or_else(|| self.wrong(name, "a number above 0"))
    }

    /// Numbers of heads in a block.
    pub(super) fn heads(&self) -> Result<Heads, GgufError> {
        let queries = self.required("attention.head_count")?;
        let keys = self.number("attention.head_count_kv")?.unwrap_or(queries);
        let divides = |heads: u64| heads > 0 && queries.is_multiple_of(heads);
        match (usize::try_from(queries), usize::try_from(keys)) {
            (Ok(queries), Ok(keys)) if divides(keys as u64) => Ok(Heads { queries, keys }),
            _ => Err(self
                .wrong("attention.head_count_kv", &format!("a divisor of the {queries} heads of queries"))),
        }
    }

    /// Width of a head, for keys and values alike, all of which is rotated.
    pub(super) fn d_head(&self) -> Result<u64, GgufError> {
        let (d_model, heads) = (self.required("embedding_length")?, self.required("attention.head_count")?);
        let shared = d_model.is_multiple_of(heads).then_some(d_model / heads);
        let d_head = match (self.number("attention.key_length")?, shared) {
            (Some(0), _) => return Err(self.wrong("attention.key_length", "a number above 0")),
            (Some(d_head), _) | (None, Some(d_head)) => d_head,
            (None, None) => {
                return Err(self.wrong("attention.head_count", &format!("a divisor of {d_model}, the width")));
            }
        };
        for name in ["attention.value_length", "rope.dimension_count"] {
            if self.number(name)?.is_some_and(|width| width != d_head) {
                let expected = format!("{d_head}, the width of a head: this program computes no other");
                return Err(self.wrong(name, &expected));
            }
        }
        Ok(d_head)
    }

    /// Refuses what would be computed wrongly.
    fn check_computed(&self) -> Result<(), GgufError> {
        for name in NOT_COMPUTED {
            let key = self.key(name);
            let is_off = || {
                Ok::<_, GgufError>(match self.header.float(&key) {
                    Ok(number) => number.is_none_or(|number| number == 0.0),
                    Err(_) => self.header.flag(&key)? == Some(false),
                })
            };
            if self.header.has(&key) && !is_off().unwrap_or(false) {
                return Err(self.wrong(name, "0 or nothing: this program does not compute it"));
            }
        }
        match self.header.flag(&self.key("attention.causal"))? {
            Some(false) => Err(self.wrong("attention.causal", "true")),
            Some(true) | None => Ok(()),
        }
    }
}

/// What the file says beside its metadata.
pub(super) struct Tensors<'f> {
    /// The numbers of a small tensor, dense.
    pub(super) numbers: &'f dyn Fn(&str) -> Result<Vec<f32>, GgufError>,
    /// Whether the head is the token embedding.
    pub(super) tied: bool,
}

/// The configuration, in the words of Hugging Face.
///
/// # Errors
/// If a key is absent or wrong, or asks for what this program does not compute.
pub(super) fn config(header: &Header, tensors: &Tensors) -> Result<Value, GgufError> {
    let kind = ModelKind::of(header)?;
    let settings = Settings { header, kind };
    settings.check_computed()?;
    let mut config = match kind {
        ModelKind::Gpt2 => of_gpt2(&settings)?,
        ModelKind::Llama | ModelKind::Phi3 | ModelKind::Qwen2 | ModelKind::Qwen3 | ModelKind::SmolLm3 => {
            of_llama(&settings, tensors)?
        }
    };
    let token = |name: &str| header.number(&format!("tokenizer.ggml.{name}_token_id")).map(id);
    config.insert("vocab_size".to_owned(), vocabulary(&settings)?.into());
    config.insert("tie_word_embeddings".to_owned(), tensors.tied.into());
    config.insert("bos_token_id".to_owned(), token("bos")?.into());
    let ends: Vec<u64> = [token("eos")?, token("eot")?].into_iter().flatten().collect();
    let end = match ends[..] {
        [] => Value::Null,
        [end] => end.into(),
        [one, other] if one == other => one.into(),
        _ => ends.into(),
    };
    config.insert("eos_token_id".to_owned(), end);
    config.insert("pad_token_id".to_owned(), token("padding")?.into());
    Ok(config.into())
}

/// A token's id, if it is one: files write the largest number for none.
pub(super) fn id(number: Option<u64>) -> Option<u64> {
    number.filter(|&id| id < u64::from(u32::MAX))
}

/// Rows of the token embedding.
fn vocabulary(settings: &Settings) -> Result<usize, GgufError> {
    let Some([rows, _]) = settings.header.tensor(TOKENS).map(|tokens| &tokens.shape[..]) else {
        let expected = "a matrix, the embedding of the tokens";
        let found =
            settings.header.tensor(TOKENS).map_or("absent".to_owned(), |it| format!("{:?}", it.shape));
        return Err(settings.header.wrong_value(TOKENS, found, expected));
    };
    match settings.number("vocab_size")? {
        Some(size) if size != *rows as u64 => {
            Err(settings.wrong("vocab_size", &format!("{rows}, the rows of {TOKENS}")))
        }
        Some(_) | None => Ok(*rows),
    }
}

fn of_gpt2(settings: &Settings) -> Result<Map<String, Value>, GgufError> {
    let name = "attention.layer_norm_epsilon";
    let eps = settings.float(name)?.ok_or_else(|| settings.wrong(name, "a number above 0"))?;
    Ok(object(json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_positions": settings.required("context_length")?,
        "n_ctx": settings.required("context_length")?,
        "n_embd": settings.required("embedding_length")?,
        "n_layer": settings.required("block_count")?,
        "n_head": settings.required("attention.head_count")?,
        "n_inner": settings.required("feed_forward_length")?,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": eps,
    })))
}

fn of_llama(settings: &Settings, tensors: &Tensors) -> Result<Map<String, Value>, GgufError> {
    let name = "attention.layer_norm_rms_epsilon";
    let eps = settings.float(name)?.ok_or_else(|| settings.wrong(name, "a number above 0"))?;
    let window = settings.number("attention.sliding_window")?.filter(|&tokens| tokens > 0);
    let (model_type, class) = match settings.kind {
        // llama.cpp has no name of its own for it.
        ModelKind::Llama if window.is_some() => ("mistral", "MistralForCausalLM"),
        ModelKind::Llama => ("llama", "LlamaForCausalLM"),
        ModelKind::Phi3 => ("phi3", "Phi3ForCausalLM"),
        ModelKind::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
        ModelKind::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
        ModelKind::SmolLm3 => ("smollm3", "SmolLM3ForCausalLM"),
        ModelKind::Gpt2 => unreachable!("it has a configuration of its own"),
    };
    let heads = settings.heads()?;
    let mut config = object(json!({
        "architectures": [class],
        "model_type": model_type,
        "max_position_embeddings": settings.required("context_length")?,
        "hidden_size": settings.required("embedding_length")?,
        "num_hidden_layers": settings.required("block_count")?,
        "num_attention_heads": heads.queries,
        "num_key_value_heads": heads.keys,
        "head_dim": settings.d_head()?,
        "intermediate_size": settings.required("feed_forward_length")?,
        "hidden_act": "silu",
        "rms_norm_eps": eps,
        "rope_theta": rope::theta(settings)?,
        "rope_scaling": rope::scaling(settings, tensors)?,
    }));
    let mut set = |field: &str, value: Value| config.insert(field.to_owned(), value);
    if let Some(original) = rope::original(settings)? {
        set("original_max_position_embeddings", original);
    }
    let has_bias = |name: &str| settings.header.tensor(&format!("blk.0.{name}.bias")).is_some();
    if model_type == "mistral" || settings.kind == ModelKind::Phi3 {
        set("sliding_window", json!(window));
    }
    if matches!(model_type, "llama" | "qwen3" | "smollm3") {
        set("attention_bias", has_bias("attn_q").into());
    }
    if matches!(model_type, "llama" | "smollm3") {
        set("mlp_bias", has_bias("ffn_up").into());
    }
    if settings.kind == ModelKind::SmolLm3 {
        set("no_rope_layer_interval", 4.into());
    }
    Ok(config)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
