//! A byte-level vocabulary with merges as a `tokenizer.json`.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::super::GgufError;
use super::super::header::Header;
use super::super::value::shown;
use super::pre_tokenizer::PreTokenizer;
use super::{TOKENS, TokenType, Tokens, adds};

const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";

/// The bytes of a `tokenizer.json`, which Hugging Face's libraries read as it is.
///
/// # Errors
/// If the pre-tokenizer is not known, or tokens and merges do not fit each other.
pub(super) fn json(header: &Header, tokens: &Tokens) -> Result<Vec<u8>, GgufError> {
    // Files from before there was the key are split as llama.cpp does by default.
    let name = header.text(PRE)?.unwrap_or("default");
    let expected = || format!("one of {}: texts would be split otherwise", PreTokenizer::names());
    let pre = PreTokenizer::named(name).ok_or_else(|| header.wrong(PRE, &expected()))?;
    let vocab = vocabulary(header, tokens)?;
    let merges = merges(header, &vocab)?;
    let (bos, eos) = (adds(header, "bos", pre.adds_bos)?, adds(header, "eos", false)?);
    let around = [("bos", bos), ("eos", eos)].map(|(name, adds)| match adds {
        true => tokens.named(header, name),
        false => Ok(None),
    });
    let [bos, eos] = around;
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added(tokens),
        "normalizer": pre.normalizer(),
        "pre_tokenizer": pre.json(),
        "post_processor": around_a_text(bos?, eos?, &vocab),
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre.ignores_merges,
            "vocab": vocab.iter().map(|(token, id)| ((*token).to_owned(), json!(id))).collect::<Map<_, _>>(),
            "merges": merges,
        },
    });
    Ok(tokenizer.to_string().into_bytes())
}

/// The tokens in the order of their ids; what only fills up the rows of the embedding is none.
fn vocabulary<'a>(header: &Header, tokens: &Tokens<'a>) -> Result<Ordered<'a>, GgufError> {
    let mut ordered = Ordered { tokens: Vec::with_capacity(tokens.texts.len()), ids: HashMap::new() };
    for (id, text, kind) in tokens.each() {
        if kind == TokenType::Unused && text == format!("[PAD{id}]") {
            continue;
        }
        if ordered.ids.insert(text, id).is_some() {
            let found = format!("{} twice", shown(text.as_bytes()));
            return Err(header.wrong_value(TOKENS, found, "each token once"));
        }
        ordered.tokens.push((text, id));
    }
    Ok(ordered)
}

/// A vocabulary in the order of its ids.
struct Ordered<'a> {
    tokens: Vec<(&'a str, u32)>,
    ids: HashMap<&'a str, u32>,
}

impl<'a> Ordered<'a> {
    fn iter(&self) -> impl Iterator<Item = &(&'a str, u32)> {
        self.tokens.iter()
    }
}

/// The merges, whose parts and results must be tokens.
fn merges<'a>(header: &Header<'a>, vocab: &Ordered) -> Result<Vec<&'a str>, GgufError> {
    let merges = header.texts(MERGES)?.ok_or_else(|| header.wrong(MERGES, "a list of texts"))?;
    let is_known = |merge: &&str| {
        let pair = merge.split_once(' ').filter(|(_, right)| !right.contains(' '));
        let parts = |(left, right): (&str, &str)| {
            [left, right, &format!("{left}{right}")].iter().all(|part| vocab.ids.contains_key(part))
        };
        pair.is_some_and(parts)
    };
    match merges.iter().find(|merge| !is_known(merge)) {
        None => Ok(merges),
        Some(merge) => {
            let found = format!("a list with {}", shown(merge.as_bytes()));
            Err(header.wrong_value(MERGES, found, "two tokens that make a third, with a space between them"))
        }
    }
}

/// Tokens that are found in a text before it is split.
fn added(tokens: &Tokens) -> Vec<Value> {
    let token = |(id, content, kind): (u32, &str, TokenType)| {
        let special = match kind {
            TokenType::Control | TokenType::Unknown => true,
            TokenType::UserDefined => false,
            TokenType::Normal | TokenType::Unused | TokenType::Byte => return None,
        };
        Some(json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special,
        }))
    };
    tokens.each().filter_map(token).collect()
}

/// `post_processor`: the tokens before and behind each text.
fn around_a_text(bos: Option<&str>, eos: Option<&str>, vocab: &Ordered) -> Value {
    let special = |token: &str, part: u8| json!({"SpecialToken": {"id": token, "type_id": part}});
    let part = |name: &str, number: u8| -> Vec<Value> {
        let text = json!({"Sequence": {"id": name, "type_id": number}});
        let (before, behind) =
            (bos.map(|token| special(token, number)), eos.map(|token| special(token, number)));
        before.into_iter().chain([text]).chain(behind).collect()
    };
    let known = bos.into_iter().chain(eos).filter_map(|token| {
        let id = vocab.ids.get(token)?;
        Some((token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})))
    });
    let pair = [part("A", 0), part("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": part("A", 0),
        "pair": pair,
        "special_tokens": known.collect::<Map<_, _>>(),
    })
}
