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

/// Takes away what a ready `tokenizer.json` puts around a text, where the class does so.
///
/// # Source
/// GPT-NeoX's class sets it by two flags, which are false unless said; transformers 5 does not even read them beside a
/// `tokenizer.json`, so if one is true, the two differ and `tokenizer.json` is followed.
pub(super) fn clear(inner: &mut tokenizers::Tokenizer, settings: &Settings) -> tokenizers::Result<()> {
    let asks = [settings.add_bos_token, settings.add_eos_token].contains(&Some(true));
    if settings.class == Class::GptNeoX && !asks { set(inner, None, None) } else { Ok(()) }
}

/// What to tell of a ready `tokenizer.json` whose tokens around a text are not those that `add_bos_token` and
/// `add_eos_token` ask for.
///
/// # Source
/// Transformers 5 does not read the two beside a `tokenizer.json`. Transformers 4 reads them for LLaMA's class, where
/// they are true and false unless said, and for no other of the classes told apart here.
pub(super) fn note(
    inner: &tokenizers::Tokenizer,
    settings: &Settings,
    names: &BTreeMap<&'static str, String>,
) -> tokenizers::Result<Option<String>> {
    let obeys = match settings.class {
        Class::Llama | Class::LlamaUnnamed => true,
        Class::Gpt2 | Class::Qwen2 | Class::GptNeoX | Class::Other => false,
    };
    let (has_bos, has_eos) = around(inner, names)?;
    let wants_bos = settings.add_bos_token.unwrap_or(true);
    let wants_eos = settings.add_eos_token.unwrap_or(false);
    if !obeys || (wants_bos, wants_eos) == (has_bos, has_eos) {
        return Ok(None);
    }
    let (flag, wants) = match wants_bos == has_bos {
        true => ("add_eos_token", wants_eos),
        false => ("add_bos_token", wants_bos),
    };
    Ok(Some(format!(
        "{}: `{flag}` is {wants}, but tokenizer.json does otherwise and is followed, as in transformers 5; \
         transformers 4 follows `{flag}`",
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
