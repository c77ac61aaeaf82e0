//! A SentencePiece vocabulary as a `tokenizer.model`.

use prost::Message;
use serde_json::{Map, Value, json};

use super::super::GgufError;
use super::super::config::id;
use super::super::header::Header;
use super::super::names::ModelKind;
use super::super::value::Value as Stored;
use super::{TokenType, Tokens};
use crate::sentence_piece::{Model, ModelKind as Kind, Normalizer, Piece, PieceKind, Trainer};

const SCORES: &str = "tokenizer.ggml.scores";
/// Special tokens of Phi-3 that do not take the space behind them with them.
const NOT_STRIPPING: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// The bytes of a `tokenizer.model`.
///
/// # Errors
/// If scores and tokens do not fit each other.
pub(super) fn model(header: &Header, tokens: &Tokens) -> Result<Vec<u8>, GgufError> {
    let scores = scores(header, tokens.texts.len())?;
    let pieces = tokens.each().zip(scores).map(|((_, text, kind), score)| Piece {
        piece: Some(text.to_owned()),
        score: Some(score),
        kind: Some(piece_kind(kind) as i32),
    });
    let token = |name: &str| -> Result<Option<i32>, GgufError> {
        let id = id(header.number(&format!("tokenizer.ggml.{name}_token_id"))?);
        Ok(Some(id.and_then(|id| i32::try_from(id).ok()).unwrap_or(-1)))
    };
    let trainer = Trainer {
        model_type: Some(Kind::Bpe as i32),
        byte_fallback: Some(tokens.types.contains(&TokenType::Byte)),
        unk_id: token("unknown")?,
        bos_id: token("bos")?,
        eos_id: token("eos")?,
        pad_id: token("padding")?,
    };
    let flag = |name: &str| header.flag(&format!("tokenizer.ggml.{name}"));
    let normalizer = Normalizer {
        precompiled_charsmap: None,
        add_dummy_prefix: Some(flag("add_space_prefix")?.unwrap_or(true)),
        remove_extra_whitespaces: Some(flag("remove_extra_whitespaces")?.unwrap_or(false)),
    };
    let model = Model { pieces: pieces.collect(), trainer: Some(trainer), normalizer: Some(normalizer) };
    Ok(model.encode_to_vec())
}

fn piece_kind(kind: TokenType) -> PieceKind {
    match kind {
        TokenType::Normal => PieceKind::Normal,
        TokenType::Unknown => PieceKind::Unknown,
        TokenType::Control => PieceKind::Control,
        TokenType::UserDefined => PieceKind::UserDefined,
        TokenType::Unused => PieceKind::Unused,
        TokenType::Byte => PieceKind::Byte,
    }
}

fn scores(header: &Header, tokens: usize) -> Result<Vec<f32>, GgufError> {
    let wrong = || header.wrong(SCORES, &format!("{tokens} numbers, one a token"));
    let array = header.array(SCORES)?.filter(|scores| scores.len() == tokens).ok_or_else(wrong)?;
    let score = |value| match value {
        Stored::Single(score) => Ok(score),
        Stored::Whole(_) | Stored::Double(_) | Stored::Flag(_) | Stored::Text(_) | Stored::Array(_) => {
            Err(wrong())
        }
    };
    array.values().ok_or_else(wrong)?.map(score).collect()
}

/// `added_tokens_decoder` for the special tokens of Phi-3, which take the space behind them with them; a GGUF file does not say
/// so, and llama.cpp too knows it by the model's name.
///
/// # Errors
/// If the name is no text.
pub(super) fn stripping(header: &Header, tokens: &Tokens) -> Result<Option<Value>, GgufError> {
    let name = header.text("general.name")?.unwrap_or_default().to_lowercase();
    if ModelKind::of(header)? != ModelKind::Phi3
        || !["phi-3", "phi3"].iter().any(|known| name.contains(known))
    {
        return Ok(None);
    }
    let token = |(id, content, kind): (u32, &str, TokenType)| {
        let is_special = matches!(kind, TokenType::Control | TokenType::UserDefined) || content == "</s>";
        let strips = is_special && !NOT_STRIPPING.contains(&content);
        let entry = json!({
            "content": content, "single_word": false, "lstrip": false, "rstrip": true,
            "normalized": false, "special": kind == TokenType::Control,
        });
        strips.then(|| (id.to_string(), entry))
    };
    Ok(Some(tokens.each().filter_map(token).collect::<Map<_, _>>().into()))
}
