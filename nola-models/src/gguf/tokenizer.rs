//! The tokenizer in the metadata of a GGUF file, as the files of a model folder: `tokenizer.json` of a byte-level
//! vocabulary, `tokenizer.model` of a SentencePiece one, and `tokenizer_config.json` with special tokens and chat template.

mod byte_level;
mod pre_tokenizer;
mod sentence_piece;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use super::GgufError;
use super::config::id;
use super::header::Header;
use super::names::ModelKind;
use super::value::Value as Stored;

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const TEMPLATE: &str = "tokenizer.chat_template";

/// What `tokenizer.ggml.model` names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vocabulary {
    /// Merges of bytes.
    ByteLevel,
    /// Pieces with scores.
    SentencePiece,
}

impl Vocabulary {
    fn of(header: &Header) -> Result<Self, GgufError> {
        match header.text(MODEL)? {
            Some("gpt2") => Ok(Self::ByteLevel),
            Some("llama") => Ok(Self::SentencePiece),
            Some(_) | None => {
                let expected =
                    "`gpt2` (byte-level BPE) or `llama` (SentencePiece): this program reads no other";
                Err(header.wrong(MODEL, expected))
            }
        }
    }
}

/// What a token is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The tokens, in the order of their ids.
struct Tokens<'a> {
    texts: Vec<&'a str>,
    types: Vec<TokenType>,
}

impl<'a> Tokens<'a> {
    fn of(header: &Header<'a>) -> Result<Self, GgufError> {
        let texts = header.texts(TOKENS)?.filter(|texts| !texts.is_empty());
        let texts = texts.ok_or_else(|| header.wrong(TOKENS, "a list of texts"))?;
        let types = match header.array(TYPES)? {
            None => vec![TokenType::Normal; texts.len()],
            Some(types) if types.len() == texts.len() => {
                let numbers = types.values().ok_or_else(|| header.wrong(TYPES, "a list of numbers"))?;
                numbers.map(|number| token_type(header, number)).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(header.wrong(TYPES, &format!("{} numbers, one a token", texts.len()))),
        };
        Ok(Self { texts, types })
    }

    fn each(&self) -> impl Iterator<Item = (u32, &'a str, TokenType)> {
        (0..).zip(self.texts.iter().zip(&self.types)).map(|(id, (text, kind))| (id, *text, *kind))
    }

    /// The token that a key of the metadata names by its id, if it does.
    fn named(&self, header: &Header, name: &str) -> Result<Option<&'a str>, GgufError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(id) = id(header.number(&key)?) else { return Ok(None) };
        let token = usize::try_from(id).ok().and_then(|id| self.texts.get(id)).copied();
        let expected = || format!("an id below {}, the number of {TOKENS}", self.texts.len());
        token.map(Some).ok_or_else(|| header.wrong(&key, &expected()))
    }
}

fn token_type(header: &Header, number: Stored) -> Result<TokenType, GgufError> {
    Ok(match number {
        Stored::Whole(1) => TokenType::Normal,
        Stored::Whole(2) => TokenType::Unknown,
        Stored::Whole(3) => TokenType::Control,
        Stored::Whole(4) => TokenType::UserDefined,
        Stored::Whole(5) => TokenType::Unused,
        Stored::Whole(6) => TokenType::Byte,
        other => {
            let found = format!("a list with {}", other.shown());
            return Err(header.wrong_value(TYPES, found, "numbers from 1 to 6"));
        }
    })
}

/// `tokenizer.json`; none if the vocabulary is of another kind.
///
/// # Errors
/// If the metadata holds no tokenizer that is read.
pub(super) fn json(header: &Header) -> Result<Option<Vec<u8>>, GgufError> {
    match Vocabulary::of(header)? {
        Vocabulary::ByteLevel => byte_level::json(header, &Tokens::of(header)?).map(Some),
        Vocabulary::SentencePiece => Ok(None),
    }
}

/// `tokenizer.model`; none if the vocabulary is of another kind.
///
/// # Errors
/// As [`json()`].
pub(super) fn model(header: &Header) -> Result<Option<Vec<u8>>, GgufError> {
    match Vocabulary::of(header)? {
        Vocabulary::ByteLevel => Ok(None),
        Vocabulary::SentencePiece => sentence_piece::model(header, &Tokens::of(header)?).map(Some),
    }
}

/// `tokenizer_config.json`.
///
/// # Errors
/// As [`json()`].
pub(super) fn settings(header: &Header) -> Result<Value, GgufError> {
    let (vocabulary, tokens) = (Vocabulary::of(header)?, Tokens::of(header)?);
    let mut settings = Map::new();
    let mut set = |field: &str, value: Value| settings.insert(field.to_owned(), value);
    set("clean_up_tokenization_spaces", false.into());
    match vocabulary {
        Vocabulary::ByteLevel => drop(set("tokenizer_class", "PreTrainedTokenizerFast".into())),
        Vocabulary::SentencePiece => {
            set("tokenizer_class", "LlamaTokenizer".into());
            // A text behind a special token begins with a space, as llama.cpp has it.
            set("legacy", true.into());
            set("add_bos_token", adds(header, "bos", true)?.into());
            set("add_eos_token", adds(header, "eos", false)?.into());
            if let Some(decoder) = sentence_piece::stripping(header, &tokens)? {
                set("added_tokens_decoder", decoder);
            }
        }
    }
    for (field, name) in
        [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")]
    {
        set(field, json!(tokens.named(header, name)?));
    }
    if let Some(tokens) = header.number(&format!("{}.context_length", ModelKind::of(header)?.name()))? {
        set("model_max_length", tokens.into());
    }
    if let Some(template) = template(header)? {
        set("chat_template", template);
    }
    Ok(settings.into())
}

/// Whether a text gets the first or last token, as `absent` says where the file does not; never where no such token is named.
fn adds(header: &Header, name: &str, absent: bool) -> Result<bool, GgufError> {
    let is_named = id(header.number(&format!("tokenizer.ggml.{name}_token_id"))?).is_some();
    Ok(is_named && header.flag(&format!("tokenizer.ggml.add_{name}_token"))?.unwrap_or(absent))
}

/// The chat template, or several with their names.
fn template(header: &Header) -> Result<Option<Value>, GgufError> {
    let Some(default) = header.text(TEMPLATE)? else { return Ok(None) };
    let prefix = format!("{TEMPLATE}.");
    let mut several = vec![json!({"name": "default", "template": default})];
    for key in header.keys() {
        if let (Some(name), Some(template)) = (key.strip_prefix(&prefix), header.text(key).ok().flatten()) {
            several.push(json!({"name": name, "template": template}));
        }
    }
    Ok(Some(if several.len() == 1 { default.into() } else { several.into() }))
}
