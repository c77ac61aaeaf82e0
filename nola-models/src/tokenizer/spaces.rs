//! The space before a text, where the class of transformers decides on it beside a ready `tokenizer.json`.

use serde_json::{Value, json};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper};

use super::settings::{Class, Settings};

/// How SentencePiece writes a space.
pub(super) const SPACE: char = '▁';

/// Makes `add_prefix_space` true as the class does that reads the folder; what it returns is a note for the user.
///
/// # Source
/// Tried with transformers 4.57 and 5.24. Where `tokenizer.json` splits into bytes at once, transformers 4 takes
/// `add_prefix_space` from `tokenizer_config.json`, absent as false, for every class; transformers 5 does so for some, and
/// leaves `tokenizer.json` as it is for others. Where they differ, `tokenizer.json` is followed. LLaMA's class takes it where
/// it is said, unless the text is split into bytes.
pub(super) fn apply(
    inner: &mut tokenizers::Tokenizer,
    settings: &Settings,
) -> tokenizers::Result<Option<String>> {
    let Some(PreTokenizerWrapper::ByteLevel(part)) = inner.get_pre_tokenizer() else {
        if let (Class::Llama, Some(spaced)) = (settings.class, settings.add_prefix_space) {
            set_sentence_piece(inner, spaced, settings.legacy.unwrap_or(false))?;
        }
        return Ok(None);
    };
    let part = *part;
    let asked = match (settings.class, settings.add_prefix_space) {
        (Class::Llama | Class::LlamaUnnamed, None) => part.add_prefix_space,
        (_, asked) => asked.unwrap_or(false),
    };
    let agreed = match settings.class {
        Class::Gpt2 | Class::CodeGen | Class::GptNeoX => true,
        Class::Qwen2 => !asked,
        Class::Llama | Class::LlamaUnnamed | Class::CodeLlama | Class::Built | Class::Other => {
            part.add_prefix_space == asked
        }
    };
    if agreed {
        inner.with_pre_tokenizer(Some(part.add_prefix_space(asked)));
        return Ok(None);
    }
    let value = settings.add_prefix_space.map_or("absent".to_owned(), |asked| asked.to_string());
    let [four, here] = [asked, part.add_prefix_space].map(|spaced| if spaced { "a" } else { "no" });
    Ok(Some(format!(
        "{}: `add_prefix_space` is {value}, so that transformers 4 puts {four} space before a text; tokenizer.json is \
         followed, which puts {here} space there, as in transformers 5",
        settings.file.display()
    )))
}

/// Whether a part splits into bytes, or joins them.
pub(super) fn is_byte_level(inner: &tokenizers::Tokenizer) -> tokenizers::Result<bool> {
    let parts =
        [serde_json::to_value(inner.get_pre_tokenizer())?, serde_json::to_value(inner.get_decoder())?];
    Ok(parts.iter().any(|part| part.to_string().contains("\"ByteLevel\"")))
}

fn set_sentence_piece(
    inner: &mut tokenizers::Tokenizer,
    spaced: bool,
    legacy: bool,
) -> tokenizers::Result<()> {
    // LLaMA 3 names this class in some folders; transformers then leaves everything as it is.
    if is_byte_level(inner)? {
        return Ok(());
    }
    let normalizer = serde_json::to_value(inner.get_normalizer())?;
    let decoder = serde_json::to_value(inner.get_decoder())?;
    let prepend = json!({"type": "Prepend", "prepend": SPACE});
    let scheme = match inner.get_pre_tokenizer() {
        Some(PreTokenizerWrapper::Metaspace(part)) => Some(part.get_prepend_scheme()),
        Some(_) | None => None,
    };
    let was_spaced =
        holds(&normalizer, &prepend) || scheme.is_some_and(|scheme| scheme != PrependScheme::Never);
    if was_spaced == spaced {
        return Ok(());
    }
    if spaced || scheme.is_some() {
        let scheme = match (spaced, legacy) {
            (false, _) => PrependScheme::Never,
            (true, false) => PrependScheme::First,
            (true, true) => PrependScheme::Always,
        };
        inner.with_pre_tokenizer(Some(Metaspace::new(SPACE, scheme, false)));
    }
    let normalizer = without(normalizer, "normalizers", &prepend);
    inner.with_normalizer(serde_json::from_value::<Option<NormalizerWrapper>>(normalizer)?)?;
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let mut decoder = without(decoder, "decoders", &strip);
    if spaced && let Some(steps) = decoder.get_mut("decoders").and_then(Value::as_array_mut) {
        steps.push(strip);
    }
    inner.with_decoder(serde_json::from_value::<Option<DecoderWrapper>>(decoder)?);
    Ok(())
}

/// Whether `step` is this part or one of its steps.
fn holds(part: &Value, step: &Value) -> bool {
    let steps = part.as_object().into_iter().flat_map(|part| part.values()).filter_map(Value::as_array);
    part == step || steps.flatten().any(|inner| holds(inner, step))
}

/// The part without `step`; `Null` if nothing else is left.
fn without(mut part: Value, steps: &str, step: &Value) -> Value {
    if part == *step {
        return Value::Null;
    }
    if let Some(list) = part.get_mut(steps).and_then(Value::as_array_mut) {
        let kept = list.drain(..).map(|inner| without(inner, steps, step)).filter(|inner| !inner.is_null());
        *list = kept.collect();
    }
    part
}

#[cfg(test)]
mod tests {
    use super::super::{DecodeSpecials, Specials, Tokenizer};
    use super::*;

    fn opened(tokenizer: &Value, config: &Value, model_type: &str) -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let model = json!({"model_type": model_type});
        for (name, json) in
            [("tokenizer.json", tokenizer), ("tokenizer_config.json", config), ("config.json", &model)]
        {
            std::fs::write(folder.path().join(name), json.to_string()).unwrap();
        }
        Tokenizer::open(folder.path()).unwrap()
    }

    /// A byte-level tokenizer of the tokens `a`, `Ġ` and `Ġa`.
    fn byte_level(spaced: bool) -> Value {
        json!({
            "version": "1.0",
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": spaced, "trim_offsets": true, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": {"a": 0, "Ġ": 1, "Ġa": 2}, "merges": ["Ġ a"]},
        })
    }

    #[test]
    fn byte_level_classes_take_the_space_from_their_configuration_and_others_from_the_tokenizer() {
        let class = |name: &str| json!({"tokenizer_class": name});
        let with = |name: &str, spaced: bool| json!({"tokenizer_class": name, "add_prefix_space": spaced});
        let cases = [
            (with("GPT2Tokenizer", true), "gpt2", false, true),
            (with("GPT2TokenizerFast", true), "llama", false, true),
            (with("GPT2Tokenizer", false), "gpt2", true, false),
            (class("GPT2Tokenizer"), "gpt2", true, false),
            (json!({"add_prefix_space": true}), "gpt2", false, true),
            (json!({}), "gpt2", true, false),
            (with("CodeGenTokenizer", true), "llama", false, true),
            (with("CodeGenTokenizerFast", true), "gpt2", false, true),
            (class("CodeGenTokenizerFast"), "llama", true, false),
            (with("CodeGenTokenizer", false), "llama", true, false),
            (with("GPTNeoXTokenizer", true), "llama", false, true),
            (class("GPTNeoXTokenizerFast"), "llama", true, false),
            (class("Qwen2Tokenizer"), "llama", true, false),
            (with("Qwen2TokenizerFast", false), "llama", true, false),
            (class("LlamaTokenizer"), "llama", true, true),
            (json!({}), "llama", false, false),
        ];
        for (config, model_type, stored, expected) in cases {
            let tokenizer = opened(&byte_level(stored), &config, model_type);
            let ids = tokenizer.encode("a a", Specials::AsModel).unwrap();
            assert_eq!(ids, if expected { [2, 2] } else { [0, 2] }, "{config} {model_type} {stored}");
            assert!(!tells(&tokenizer), "{config} {model_type} {stored}");
        }
    }

    #[test]
    fn where_the_generations_differ_the_tokenizer_is_followed_and_the_user_told() {
        let class = |name: &str| json!({"tokenizer_class": name});
        let with = |name: &str, spaced: bool| json!({"tokenizer_class": name, "add_prefix_space": spaced});
        for (config, stored) in [
            (with("PreTrainedTokenizerFast", true), false),
            (with("PreTrainedTokenizerFast", false), true),
            (class("PreTrainedTokenizerFast"), true),
            (class("BloomTokenizerFast"), true),
            (with("Qwen2Tokenizer", true), false),
            (with("LlamaTokenizer", true), false),
            (with("LlamaTokenizer", false), true),
        ] {
            let tokenizer = opened(&byte_level(stored), &config, "llama");
            let ids = tokenizer.encode("a a", Specials::AsModel).unwrap();
            assert_eq!(ids, if stored { [2, 2] } else { [0, 2] }, "{config} {stored}");
            assert!(tells(&tokenizer), "{config} {stored}");
        }
    }

    /// Whether there is something to tell of the space.
    fn tells(tokenizer: &Tokenizer) -> bool {
        tokenizer.notes().iter().any(|note| note.contains("`add_prefix_space`"))
    }

    #[test]
    fn a_byte_level_step_among_others_is_left_as_it_is() {
        let mut json = byte_level(false);
        json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [json["pre_tokenizer"].take()]});
        let config = json!({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true});
        assert_eq!(opened(&json, &config, "gpt2").encode("a", Specials::AsModel).unwrap(), [0]);
    }

    /// Every way in which LLaMA's tokenizers write spaces, and whether it puts one before the text.
    fn sentence_pieces() -> [(Value, bool); 6] {
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
        let prepend = json!({"type": "Prepend", "prepend": SPACE});
        let steps = |steps: &[&Value]| json!({"type": "Sequence", "normalizers": steps});
        let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false});
        let of = |normalizer: Value, pre_tokenizer: Value| {
            json!({
                "version": "1.0",
                "normalizer": normalizer,
                "pre_tokenizer": pre_tokenizer,
                "decoder": {"type": "Sequence", "decoders": [
                    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                    {"type": "Fuse"},
                    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
                ]},
                "model": {"type": "BPE", "vocab": {SPACE: 0, "a": 1, "▁a": 2, "b": 3, "▁b": 4}, "merges": ["▁ a", "▁ b"]},
            })
        };
        [
            (of(steps(&[&prepend, &replace]), Value::Null), true),
            (of(steps(&[&replace]), Value::Null), false),
            (of(replace, Value::Null), false),
            (of(Value::Null, metaspace("first")), true),
            (of(Value::Null, metaspace("always")), true),
            (of(Value::Null, metaspace("never")), false),
        ]
    }

    #[test]
    fn llamas_class_takes_the_space_from_its_configuration_where_it_is_said() {
        for (json, stored) in sentence_pieces() {
            for (config, expected) in [
                (json!({"tokenizer_class": "LlamaTokenizer"}), stored),
                (json!({"tokenizer_class": "LlamaTokenizer", "add_prefix_space": true}), true),
                (json!({"tokenizer_class": "LlamaTokenizerFast", "add_prefix_space": false}), false),
                (
                    json!({"tokenizer_class": "LlamaTokenizer", "add_prefix_space": true, "legacy": false}),
                    true,
                ),
                (json!({"add_prefix_space": !stored}), stored),
                (json!({"tokenizer_class": "CodeLlamaTokenizer", "add_prefix_space": !stored}), stored),
                (json!({"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": !stored}), stored),
            ] {
                let tokenizer = opened(&json, &config, "llama");
                let ids = tokenizer.encode("a b", Specials::AsModel).unwrap();
                assert_eq!(ids, if expected { [2, 4] } else { [1, 4] }, "{config} of {json}");
                let text = tokenizer.decode(&ids, DecodeSpecials::Keep).unwrap();
                assert_eq!(text.trim_start(), "a b", "{config} of {json}");
            }
        }
    }
}
