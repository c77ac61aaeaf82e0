//! How a byte-level vocabulary splits a text before it merges: what `tokenizer.ggml.pre` names.

use serde_json::{Value, json};

/// What a name stands for.
///
/// # Source
/// `llama_vocab::impl::load` of llama.cpp, and the `tokenizer.json` of each model; patterns as there.
pub(super) struct PreTokenizer {
    names: &'static [&'static str],
    split: Split,
    /// Whether a part that is a token is not made of its merges.
    pub(super) ignores_merges: bool,
    /// Whether a text begins with the first token, unless the file says otherwise.
    pub(super) adds_bos: bool,
    /// Whether characters are composed first.
    composes: bool,
}

/// How a text is split.
#[derive(Clone, Copy)]
enum Split {
    /// As by GPT-2's tokenizer.
    Gpt2,
    /// The same behind each digit.
    Digits,
    /// By patterns, one after the other.
    Patterns(&'static [&'static str]),
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const PLAIN: PreTokenizer =
    PreTokenizer { names: &[], split: Split::Gpt2, ignores_merges: false, adds_bos: false, composes: false };

/// All of them, in the order in which errors list them.
const ALL: [PreTokenizer; 8] = [
    PreTokenizer {
        names: &["default"],
        split: Split::Patterns(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
        ..PLAIN
    },
    PreTokenizer { names: &["gpt-2", "phi-2", "olmo", "mpt"], ..PLAIN },
    PreTokenizer { names: &["smollm", "starcoder", "refact", "command-r"], split: Split::Digits, ..PLAIN },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3"],
        split: Split::Patterns(&[LLAMA3]),
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    PreTokenizer { names: &["smaug-bpe", "dbrx"], split: Split::Patterns(&[LLAMA3]), ..PLAIN },
    PreTokenizer { names: &["qwen2"], split: Split::Patterns(&[QWEN2]), composes: true, ..PLAIN },
    PreTokenizer { names: &["deepseek-r1-qwen"], split: Split::Patterns(&[QWEN2]), ..PLAIN },
    PreTokenizer {
        names: &["tekken"],
        split: Split::Patterns(&[TEKKEN]),
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
];

impl PreTokenizer {
    /// That of a name, if it is known.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|known| known.names.contains(&name))
    }

    /// All names, for messages.
    pub(super) fn names() -> String {
        let names = ALL.iter().flat_map(|known| known.names);
        names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }

    /// `normalizer` of a `tokenizer.json`.
    pub(super) fn normalizer(&self) -> Value {
        if self.composes { json!({"type": "NFC"}) } else { Value::Null }
    }

    /// `pre_tokenizer` of a `tokenizer.json`.
    pub(super) fn json(&self) -> Value {
        let sequence = |parts: Vec<Value>| json!({"type": "Sequence", "pretokenizers": parts});
        match self.split {
            Split::Gpt2 => byte_level(true),
            Split::Digits => {
                sequence(vec![json!({"type": "Digits", "individual_digits": true}), byte_level(true)])
            }
            Split::Patterns(patterns) => {
                sequence(patterns.iter().map(|pattern| split(pattern)).chain([byte_level(false)]).collect())
            }
        }
    }
}

fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

fn byte_level(regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex})
}
