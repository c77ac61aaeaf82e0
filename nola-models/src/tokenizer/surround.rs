//! The tokens that a tokenizer puts around each text.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tokenizers::PostProcessorWrapper;

use super::TokenizerError;
use super::settings::Settings;

/// Makes `add_bos_token` and `add_eos_token` true, where they are said; else leaves what the vocabulary's file does.
pub(super) fn apply(
    inner: &mut tokenizers::Tokenizer,
    settings: &Settings,
    names: &BTreeMap<&'static str, String>,
) -> Result<(), TokenizerError> {
    let unusable = |source| TokenizerError::Unusable { file: settings.file.clone(), source };
    let around = inner.encode_fast("", true).map_err(unusable)?;
    let id = |field| inner.token_to_id(names.get(field)?);
    let (bos, eos) = (id("bos_token"), id("eos_token"));
    let ids = around.get_ids();
    let has_bos = bos.is_some() && ids.first().copied() == bos;
    let has_eos = eos.is_some() && ids.last().copied() == eos && ids.len() > usize::from(has_bos);
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
