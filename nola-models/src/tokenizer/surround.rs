//! The tokens that a tokenizer puts around each text.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tokenizers::PostProcessorWrapper;

use super::TokenizerError;
use super::settings::{Class, Settings};

/// Makes `add_bos_token` and `add_eos_token` of a folder without `tokenizer.json` true, where they are said; else leaves
/// what the vocabulary's file does.
pub(super) fn apply(
    inner: &mut tokenizers::Tokenizer,
    settings: &Settings,
    names: &BTreeMap<&'static str, String>,
) -> Result<(), TokenizerError> {
    let unusable = |source| TokenizerError::Unusable { file: settings.file.clone(), source };
    let (has_bos, has_eos) = around(inner, names).map_err(unusable)?;
    let wants_bos = settings.add_bos_token.unwrap_or(has_bos);
    let wants_eos = settings.add_eos_token.unwrap_or(has_eos);
    if (wants_bos, wants_eos) == (has_bos, has_eos) {
        return Ok(());
    }
    let token = |wanted: bool, flag, field: &'static str| match names.get(field) {
        _ if !wanted => Ok(None),
        None => Err(TokenizerError::Unnamed { file: settings.file.clone(), flag, token: field }),
        Some(token) => Ok(Some(token.as_str())),
    };
    let bos = token(wants_bos, "add_bos_token", "bos_token")?;
    let eos = token(wants_eos, "add_eos_token", "eos_token")?;
    set(inner, bos, eos).map_err(unusable)
}

/// Puts around a text of a ready `tokenizer.json` what both generations of transformers put there; what it returns is to be
/// told.
///
/// # Source
/// Transformers 5 does not read `add_bos_token` and `add_eos_token` beside a `tokenizer.json`, and GPT-NeoX's class then puts
/// nothing around a text. Transformers 4 reads them for the classes of LLaMA and CodeLLaMA, where they are true and false
/// unless said, and for that of GPT-NeoX, where both are false. Where they differ, `tokenizer.json` is followed.
pub(super) fn settle(
    inner: &mut tokenizers::Tokenizer,
    settings: &Settings,
    names: &BTreeMap<&'static str, String>,
) -> tokenizers::Result<Option<String>> {
    let stored = around(inner, names)?;
    let asked = |bos| (settings.add_bos_token.unwrap_or(bos), settings.add_eos_token.unwrap_or(false));
    let (four, five) = match settings.class {
        Class::Llama | Class::LlamaUnnamed | Class::CodeLlama => (asked(true), stored),
        Class::GptNeoX => (asked(false), (false, false)),
        Class::Gpt2 | Class::CodeGen | Class::Qwen2 | Class::Built | Class::Other => (stored, stored),
    };
    if four == five {
        if settings.class == Class::GptNeoX {
            set(inner, None, None)?;
        }
        return Ok(None);
    }
    let (flag, value, wants) = match four.0 == five.0 {
        true => ("add_eos_token", settings.add_eos_token, four.1),
        false => ("add_bos_token", settings.add_bos_token, four.0),
    };
    let value = value.map_or("absent".to_owned(), |value| value.to_string());
    let generation = if five == stored { ", as in transformers 5" } else { "" };
    Ok(Some(format!(
        "{}: `{flag}` is {value}, which transformers 4 takes for {wants}; tokenizer.json is followed, which does \
         otherwise{generation}",
        settings.file.display()
    )))
}

/// Whether a text gets the first token before it and the last one behind it.
fn around(
    inner: &tokenizers::Tokenizer,
    names: &BTreeMap<&'static str, String>,
) -> tokenizers::Result<(bool, bool)> {
    let around = inner.encode_fast("", true)?;
    let id = |field| inner.token_to_id(names.get(field)?);
    let (bos, eos) = (id("bos_token"), id("eos_token"));
    let ids = around.get_ids();
    let has_bos = bos.is_some() && ids.first().copied() == bos;
    let has_eos = eos.is_some() && ids.last().copied() == eos && ids.len() > usize::from(has_bos);
    Ok((has_bos, has_eos))
}

/// Puts `bos` before and `eos` behind each text.
pub(super) fn set(
    inner: &mut tokenizers::Tokenizer,
    bos: Option<&str>,
    eos: Option<&str>,
) -> tokenizers::Result<()> {
    let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let sequence = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let around = |name: &str| -> Vec<Value> {
        bos.map(special).into_iter().chain([sequence(name)]).chain(eos.map(special)).collect()
    };
    let mut tokens = Map::new();
    for token in bos.into_iter().chain(eos) {
        let id = inner.token_to_id(token).ok_or_else(|| format!("no token `{token}`"))?;
        tokens.insert(token.to_string(), json!({"id": token, "ids": [id], "tokens": [token]}));
    }
    let pair = [around("A"), around("B")].concat();
    let template = json!({
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": pair,
        "special_tokens": tokens,
    });
    inner.with_post_processor(Some(serde_json::from_value::<PostProcessorWrapper>(template)?));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::fixtures::{assets, copied, opened, small};
    use super::super::{Specials, Tokenizer};
    use super::*;

    #[test]
    fn a_ready_tokenizer_decides_alone_which_tokens_are_put_around_a_text() {
        let template = json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [3], "tokens": ["</s>"]}}});
        for class in ["PreTrainedTokenizerFast", "GPT2Tokenizer", "LlamaTokenizer", "Qwen2Tokenizer"] {
            for flags in [[None, None], [Some(false), None], [Some(true), None], [Some(false), Some(true)]] {
                let config = json!({"tokenizer_class": class, "bos_token": "</s>", "eos_token": "</s>",
                    "add_bos_token": flags[0], "add_eos_token": flags[1]});
                for (post_processor, ids) in [(Value::Null, vec![2]), (template.clone(), vec![3, 2])] {
                    let mut json = small();
                    json["post_processor"] = post_processor;
                    let files = [("tokenizer.json", &json), ("tokenizer_config.json", &config)];
                    let tokenizer = opened(&files).unwrap();
                    assert_eq!(tokenizer.encode("ab", Specials::AsModel).unwrap(), ids, "{config}");
                    assert_eq!(tokenizer.encode("ab", Specials::None).unwrap(), [2]);
                }
            }
        }
    }

    #[test]
    fn the_class_of_gpt_neox_puts_nothing_around_a_text() {
        let mut json = small();
        json["post_processor"] = json!({"type": "BertProcessing", "sep": ["</s>", 3], "cls": ["</s>", 3]});
        for (class, expected) in
            [("GPTNeoXTokenizerFast", vec![2]), ("PreTrainedTokenizerFast", vec![3, 2, 3])]
        {
            let config = json!({"tokenizer_class": class});
            let tokenizer = opened(&[("tokenizer.json", &json), ("tokenizer_config.json", &config)]).unwrap();
            assert_eq!(tokenizer.encode("ab", Specials::AsModel).unwrap(), expected);
        }
    }

    #[test]
    fn where_transformers_4_puts_other_tokens_around_a_text_the_user_is_told() {
        let note = |class: &str, bos: Option<bool>| {
            let config = json!({"tokenizer_class": class, "bos_token": "</s>", "eos_token": "</s>",
                "add_bos_token": bos});
            let tokenizer = opened(&[("tokenizer.json", &small()), ("tokenizer_config.json", &config)]);
            tokenizer.unwrap().notes().iter().find(|note| note.contains("_token`")).cloned()
        };
        let text = note("LlamaTokenizer", Some(true)).unwrap();
        assert!(text.contains("tokenizer_config.json: `add_bos_token` is true"), "{text}");
        assert!(note("LlamaTokenizerFast", None).is_some_and(|text| text.contains("is absent, which")));
        assert!(note("CodeLlamaTokenizer", None).is_some());
        assert_eq!(note("LlamaTokenizer", Some(false)), None);
        for class in ["PreTrainedTokenizerFast", "GPT2Tokenizer", "Qwen2Tokenizer", "CodeGenTokenizer"] {
            assert_eq!(note(class, Some(true)), None, "{class}");
        }
        assert!(note("GPTNeoXTokenizerFast", Some(true)).is_some());
        assert_eq!(note("GPTNeoXTokenizerFast", Some(false)), None);
    }

    #[test]
    fn the_configuration_decides_which_tokens_are_put_around_a_text_where_there_is_no_ready_tokenizer() {
        for (folder, file, bos, flags, expected) in [
            ("tokenizers/llama2", "tokenizer.model", "<s>", json!({}), [true, false]),
            ("tokenizers/llama2", "tokenizer.model", "<s>", json!({"add_bos_token": false}), [false, false]),
            ("tokenizers/llama2", "tokenizer.model", "<s>", json!({"add_eos_token": true}), [true, true]),
            ("models/gpt2-micro-shakespeare", "vocab.json", "<|endoftext|>", json!({}), [false, false]),
            (
                "models/gpt2-micro-shakespeare",
                "vocab.json",
                "<|endoftext|>",
                json!({"add_bos_token": true}),
                [true, false],
            ),
        ] {
            let Some(folder) = assets(folder) else { return };
            let names: &[&str] = if file == "vocab.json" { &[file, "merges.txt"] } else { &[file] };
            let copy = copied(&folder, names);
            fs::write(copy.path().join("tokenizer_config.json"), flags.to_string()).unwrap();
            let tokenizer = Tokenizer::open(copy.path()).unwrap();
            let ids = tokenizer.encode("", Specials::AsModel).unwrap();
            let expected: Vec<u32> = [(expected[0], tokenizer.id(bos)), (expected[1], tokenizer.eos())]
                .into_iter()
                .filter_map(|(is_there, id)| id.filter(|_| is_there))
                .collect();
            assert_eq!(ids, expected, "{file} {flags}");
        }
    }

    #[test]
    fn a_token_to_be_added_that_has_no_name_is_an_error() {
        let Some(folder) = assets("models/gpt2-micro-shakespeare") else { return };
        let copy = copied(&folder, &["vocab.json", "merges.txt"]);
        let flags = json!({"add_bos_token": true, "bos_token": null});
        fs::write(copy.path().join("tokenizer_config.json"), flags.to_string()).unwrap();
        let wrong = Tokenizer::open(copy.path());
        assert!(matches!(wrong, Err(TokenizerError::Unnamed { flag: "add_bos_token", .. })), "{wrong:?}");
    }
}
