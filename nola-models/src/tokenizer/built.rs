//! Classes that transformers 5 builds from parts of its own, without those of a ready `tokenizer.json`.

use serde_json::{Value, json};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};

use super::settings::{Class, Settings};
use super::spaces::{SPACE, is_byte_level};

/// How Qwen2's class of transformers 5 splits a text.
const QWEN2_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What to tell of a ready `tokenizer.json` whose parts are not those that the class has in transformers 5.
///
/// # Source
/// The `__init__` of the classes of transformers 5.24; transformers 4 takes all parts from `tokenizer.json`.
pub(super) fn note(inner: &tokenizers::Tokenizer, settings: &Settings) -> tokenizers::Result<Option<String>> {
    let stored =
        [serde_json::to_value(inner.get_normalizer())?, serde_json::to_value(inner.get_pre_tokenizer())?];
    let is_same = match settings.class {
        Class::LlamaUnnamed | Class::Other => true,
        Class::Llama if is_byte_level(inner)? => true,
        Class::Built => false,
        class @ (Class::Gpt2
        | Class::CodeGen
        | Class::Qwen2
        | Class::GptNeoX
        | Class::Llama
        | Class::CodeLlama) => stored.map(without_offsets) == own(class, settings)?.map(without_offsets),
    };
    if is_same {
        return Ok(None);
    }
    let class = settings.class_name.as_deref().unwrap_or("GPT2Tokenizer");
    Ok(Some(format!(
        "{}: transformers 5 builds a `{class}` from parts of its own, which give other tokens for some texts; tokenizer.json is \
         followed, as in transformers 4",
        settings.file.display()
    )))
}

/// Normalizer and pre-tokenizer of a class.
fn own(class: Class, settings: &Settings) -> tokenizers::Result<[Value; 2]> {
    let byte_level = |regex: bool| {
        let spaced = settings.add_prefix_space.unwrap_or(false);
        json!({"type": "ByteLevel", "add_prefix_space": spaced, "trim_offsets": true, "use_regex": regex})
    };
    let spaced = settings.add_prefix_space.unwrap_or(true);
    let scheme = match (class, settings.legacy) {
        _ if !spaced => PrependScheme::Never,
        (Class::Llama, Some(true)) => PrependScheme::Always,
        _ => PrependScheme::First,
    };
    let nfc = || json!({"type": "NFC"});
    Ok(match class {
        Class::GptNeoX => [nfc(), byte_level(true)],
        Class::Qwen2 => {
            let split = json!({
                "type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": false,
            });
            [nfc(), json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})]
        }
        Class::Llama | Class::CodeLlama | Class::LlamaUnnamed => {
            [Value::Null, serde_json::to_value(Metaspace::new(SPACE, scheme, false))?]
        }
        Class::Gpt2 | Class::CodeGen | Class::Built | Class::Other => [Value::Null, byte_level(true)],
    })
}

/// The part without what changes no tokens.
fn without_offsets(mut part: Value) -> Value {
    match &mut part {
        Value::Object(fields) => {
            fields.remove("trim_offsets");
            for (_, field) in fields.iter_mut() {
                *field = without_offsets(field.take());
            }
        }
        Value::Array(steps) => steps.iter_mut().for_each(|step| *step = without_offsets(step.take())),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    part
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{opened, small};
    use super::*;

    /// Whether a user is told that transformers 5 builds such a tokenizer otherwise.
    fn tells(class: &str, normalizer: Value, pre_tokenizer: Value, more: Value) -> bool {
        let mut tokenizer = small();
        tokenizer["normalizer"] = normalizer;
        tokenizer["pre_tokenizer"] = pre_tokenizer;
        let mut config = json!({"tokenizer_class": class});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let tokenizer =
            opened(&[("tokenizer.json", &tokenizer), ("tokenizer_config.json", &config)]).unwrap();
        tokenizer.notes().iter().any(|note| note.contains(&format!("builds a `{class}`")))
    }

    fn bytes(spaced: bool, regex: bool) -> Value {
        json!({"type": "ByteLevel", "add_prefix_space": spaced, "trim_offsets": false, "use_regex": regex})
    }

    fn qwen2() -> Value {
        let split = json!({
            "type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": false,
        });
        json!({"type": "Sequence", "pretokenizers": [split, bytes(false, false)]})
    }

    #[test]
    fn a_tokenizer_that_its_class_would_build_just_so_needs_no_word() {
        let nfc = || json!({"type": "NFC"});
        let metaspace = |scheme| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        for (class, normalizer, pre_tokenizer, more) in [
            ("GPT2Tokenizer", Value::Null, bytes(false, true), json!({})),
            ("CodeGenTokenizerFast", Value::Null, bytes(true, true), json!({"add_prefix_space": true})),
            ("GPTNeoXTokenizerFast", nfc(), bytes(false, true), json!({})),
            ("Qwen2TokenizerFast", nfc(), qwen2(), json!({})),
            ("LlamaTokenizer", Value::Null, metaspace("first"), json!({})),
            ("LlamaTokenizerFast", Value::Null, metaspace("always"), json!({"legacy": true})),
            ("LlamaTokenizer", json!({"type": "NFC"}), qwen2(), json!({})),
            ("CodeLlamaTokenizer", Value::Null, metaspace("first"), json!({})),
            ("PreTrainedTokenizerFast", nfc(), metaspace("never"), json!({})),
            ("BloomTokenizerFast", Value::Null, qwen2(), json!({})),
        ] {
            assert!(!tells(class, normalizer, pre_tokenizer, more.clone()), "{class} {more}");
        }
    }

    #[test]
    fn other_parts_than_those_of_its_class_are_told() {
        let prepend = || json!({"type": "Prepend", "prepend": "▁"});
        for (class, normalizer, pre_tokenizer) in [
            ("LlamaTokenizer", prepend(), Value::Null),
            ("CodeLlamaTokenizerFast", prepend(), Value::Null),
            ("GPT2TokenizerFast", Value::Null, qwen2()),
            ("CodeGenTokenizer", json!({"type": "NFC"}), bytes(false, true)),
            ("GPTNeoXTokenizerFast", Value::Null, bytes(false, true)),
            ("Qwen2Tokenizer", Value::Null, bytes(false, true)),
            ("GemmaTokenizerFast", prepend(), Value::Null),
        ] {
            assert!(tells(class, normalizer, pre_tokenizer, json!({})), "{class}");
        }
    }
}
