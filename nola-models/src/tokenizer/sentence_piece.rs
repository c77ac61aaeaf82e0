//! LLaMA's `tokenizer.model`: a SentencePiece vocabulary with scores, turned into merges.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use prost::Message;
use serde_json::json;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper};

use super::files::Files;
use super::settings::{Listed, Named, Settings};
use super::vocabulary::{Origin, Vocabulary};
use super::{TokenizerError, surround};
use crate::sentence_piece::{Model, ModelKind, Normalizer, Piece, PieceKind, Trainer};

const NAME: &str = "tokenizer.model";
/// Stands for a space inside of a piece.
const SPACE: char = '▁';
/// A piece longer than this is refused, in bytes: each piece is tried at every place it can be cut.
const MAX_PIECE_BYTES: usize = 1024;

/// Reads the file; `None` if the folder has none.
///
/// # Source
/// Hugging Face's `LlamaConverter`, so that ids are those of `LlamaTokenizerFast`.
pub(super) fn read(files: &mut Files, settings: &Settings) -> Result<Option<Vocabulary>, TokenizerError> {
    let file = files.path(NAME);
    let Some(bytes) = files.bytes(NAME)? else { return Ok(None) };
    let not_one = |source| TokenizerError::SentencePiece { file: file.clone(), source };
    let Model { pieces, trainer, normalizer } = Model::decode(&bytes[..]).map_err(not_one)?;
    let (trainer, normalizer) = (trainer.unwrap_or_default(), normalizer.unwrap_or_default());
    check_kind(&file, &trainer, &normalizer)?;
    let vocab = vocabulary(&file, &pieces)?;
    let merges = merges(&pieces, &vocab);
    let name = |id: i32| Some(pieces.get(usize::try_from(id).ok()?)?.piece().to_string());
    let mut model =
        BPE::builder().vocab_and_merges(vocab, merges).fuse_unk(true).byte_fallback(trainer.byte_fallback());
    if let Some(unknown) = name(trainer.unk_id()) {
        model = model.unk_token(unknown);
    }
    let unusable = |source| TokenizerError::Unusable { file: file.clone(), source };
    let mut inner = tokenizers::Tokenizer::new(model.build().map_err(unusable)?);
    let spaced = settings.add_prefix_space.unwrap_or(normalizer.add_dummy_prefix());
    set_spaces(&mut inner, spaced, settings.legacy.unwrap_or(true)).map_err(unusable)?;
    let defaults = special_tokens(&trainer, name);
    if let Some((_, bos)) = defaults.iter().find(|(field, _)| *field == "bos_token") {
        surround::set(&mut inner, Some(bos), None).map_err(unusable)?;
    }
    let listed = listed(&file, &pieces);
    Ok(Some(Vocabulary { listed, file, inner, defaults, origin: Origin::Parts, notes: Vec::new() }))
}

/// The special tokens that the file names; `name` gives the piece of an id, if there is one.
fn special_tokens(trainer: &Trainer, name: impl Fn(i32) -> Option<String>) -> Vec<Named> {
    let ids = [
        ("bos_token", trainer.bos_id()),
        ("eos_token", trainer.eos_id()),
        ("unk_token", trainer.unk_id()),
        ("pad_token", trainer.pad_id()),
    ];
    ids.into_iter().filter_map(|(field, id)| Some((field, name(id)?))).collect()
}

/// Refuses kinds of models that would be read wrongly.
fn check_kind(file: &Path, trainer: &Trainer, normalizer: &Normalizer) -> Result<(), TokenizerError> {
    let wrong = |field, found: String, expected| {
        Err(TokenizerError::SentencePieceKind { file: file.to_path_buf(), field, found, expected })
    };
    if trainer.model_type() != ModelKind::Bpe {
        return wrong("model_type", format!("{:?}", trainer.model_type()), "Bpe");
    }
    if !normalizer.precompiled_charsmap().is_empty() {
        return wrong("normalizer rules", "(a table)".to_string(), "text as it is");
    }
    if normalizer.remove_extra_whitespaces() {
        return wrong("remove_extra_whitespaces", "true".to_string(), "false");
    }
    Ok(())
}

/// The ids of all pieces: their places in the file.
fn vocabulary(file: &Path, pieces: &[Piece]) -> Result<Vocab, TokenizerError> {
    let mut vocab = Vocab::with_capacity(pieces.len());
    for (piece, id) in pieces.iter().zip(0..) {
        let text = piece.piece();
        let wrong = |found: String, expected| TokenizerError::SentencePieceKind {
            file: file.to_path_buf(),
            field: "piece",
            found,
            expected,
        };
        if text.is_empty() || text.len() > MAX_PIECE_BYTES {
            let found = format!("{id} of {} bytes", text.len());
            return Err(wrong(found, "1 to 1024 bytes"));
        }
        if vocab.insert(text.to_string(), id).is_some() {
            return Err(wrong(format!("`{text}` twice"), "each piece once"));
        }
    }
    Ok(vocab)
}

/// Every way to make a piece of two others; the best scored first.
fn merges(pieces: &[Piece], vocab: &Vocab) -> Merges {
    let mut found = Vec::new();
    for piece in pieces {
        let text = piece.piece();
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let mut known: Vec<_> = cuts
            .filter_map(|(left, right)| Some(((*vocab.get(left)?, *vocab.get(right)?), left, right)))
            .collect();
        known.sort_unstable();
        found.extend(known.into_iter().map(|(_, left, right)| (piece.score(), left, right)));
    }
    let length = |text: &str| text.chars().count();
    // Stable: equals stay in the order of ids, as the ids of `LlamaTokenizerFast` depend on it.
    found.sort_by(|a, b| -> Ordering {
        b.0.total_cmp(&a.0).then(length(b.1).cmp(&length(a.1))).then(length(b.2).cmp(&length(a.2)))
    });
    found.into_iter().map(|(_, left, right)| (left.to_string(), right.to_string())).collect()
}

/// How spaces become `▁` and back; `spaced` puts one in front of the text.
fn set_spaces(inner: &mut tokenizers::Tokenizer, spaced: bool, legacy: bool) -> tokenizers::Result<()> {
    let space = SPACE.to_string();
    if legacy {
        let mut steps = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": space})];
        if spaced {
            steps.insert(0, json!({"type": "Prepend", "prepend": space}));
        }
        let steps = json!({"type": "Sequence", "normalizers": steps});
        inner.with_normalizer(Some(serde_json::from_value::<NormalizerWrapper>(steps)?))?;
    } else {
        let scheme = if spaced { PrependScheme::First } else { PrependScheme::Never };
        inner.with_pre_tokenizer(Some(Metaspace::new(SPACE, scheme, false)));
    }
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": space}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if spaced {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let steps = json!({"type": "Sequence", "decoders": steps});
    inner.with_decoder(Some(serde_json::from_value::<DecoderWrapper>(steps)?));
    Ok(())
}

/// The pieces that are found in a text before it is split.
fn listed(file: &Path, pieces: &[Piece]) -> Vec<Listed> {
    let file: PathBuf = file.to_path_buf();
    let token = |(piece, id): (&Piece, u32)| {
        let special = match piece.kind() {
            PieceKind::Unknown | PieceKind::Control => true,
            PieceKind::UserDefined => false,
            PieceKind::Normal | PieceKind::Unused | PieceKind::Byte => return None,
        };
        let token = AddedToken::from(piece.piece(), special).normalized(false);
        Some(Listed { file: file.clone(), id, token })
    };
    pieces.iter().zip(0..).filter_map(token).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{DecodeSpecials, Specials, Tokenizer};
    use super::*;

    /// A model of `<unk>`, `<s>`, `</s>`, and the pieces `▁`, `a`, `b`, `ab`, `▁a` and `<user>`.
    fn small() -> Model {
        let piece = |(text, kind, score): (&str, PieceKind, f32)| Piece {
            piece: Some(text.to_string()),
            score: Some(score),
            kind: Some(kind as i32),
        };
        let pieces = [
            ("<unk>", PieceKind::Unknown, 0.0),
            ("<s>", PieceKind::Control, 0.0),
            ("</s>", PieceKind::Control, 0.0),
            ("▁", PieceKind::Normal, -3.0),
            ("a", PieceKind::Normal, -4.0),
            ("b", PieceKind::Normal, -5.0),
            ("ab", PieceKind::Normal, -1.0),
            ("▁a", PieceKind::Normal, -2.0),
            ("<user>", PieceKind::UserDefined, 0.0),
        ];
        let trainer = Trainer { model_type: Some(ModelKind::Bpe as i32), ..Default::default() };
        let normalizer = Normalizer { remove_extra_whitespaces: Some(false), ..Default::default() };
        Model { pieces: pieces.map(piece).into(), trainer: Some(trainer), normalizer: Some(normalizer) }
    }

    fn opened(model: &[u8], config: &str) -> Result<Tokenizer, TokenizerError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(NAME), model).unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        Tokenizer::open(folder.path())
    }

    fn ids(model: &Model, config: &str, text: &str) -> Vec<u32> {
        opened(&model.encode_to_vec(), config).unwrap().encode(text, Specials::AsModel).unwrap()
    }

    #[test]
    fn the_best_scored_merge_comes_first() {
        // `ab` is better than `▁a`, so the space stays alone.
        assert_eq!(ids(&small(), "{}", "ab a"), [1, 3, 6, 7]);
    }

    #[test]
    fn a_defined_piece_is_found_before_the_text_is_split() {
        assert_eq!(ids(&small(), "{}", "a<user>b"), [1, 7, 8, 3, 5]);
    }

    #[test]
    fn the_space_in_front_is_left_out_where_a_file_says_so() {
        let mut model = small();
        assert_eq!(ids(&model, r#"{"add_prefix_space": false}"#, "ab a"), [1, 6, 7]);
        model.normalizer.as_mut().unwrap().add_dummy_prefix = Some(false);
        assert_eq!(ids(&model, "{}", "ab a"), [1, 6, 7]);
        let tokenizer = opened(&model.encode_to_vec(), "{}").unwrap();
        assert_eq!(tokenizer.decode(&[7, 6], DecodeSpecials::Skip).unwrap(), " aab");
    }

    #[test]
    fn only_the_first_release_puts_a_space_behind_a_special_token() {
        assert_eq!(ids(&small(), "{}", "a</s>b"), [1, 7, 2, 3, 5]);
        assert_eq!(ids(&small(), r#"{"legacy": false}"#, "a</s>b"), [1, 7, 2, 5]);
    }

    #[test]
    fn what_no_piece_covers_is_unknown_or_bytes() {
        let mut model = small();
        assert_eq!(ids(&model, "{}", "aé"), [1, 7, 0]);
        model.trainer.as_mut().unwrap().byte_fallback = Some(true);
        for byte in [0xc3, 0xa9] {
            let text = format!("<0x{byte:02X}>");
            model.pieces.push(Piece {
                piece: Some(text),
                score: Some(0.0),
                kind: Some(PieceKind::Byte as i32),
            });
        }
        assert_eq!(ids(&model, "{}", "aé"), [1, 7, 9, 10]);
    }

    #[test]
    fn kinds_that_would_be_read_wrongly_are_refused() {
        type Change = fn(&mut Model);
        let changes: [(&str, Change); 5] = [
            ("model_type", |model| model.trainer.as_mut().unwrap().model_type = None),
            ("normalizer rules", |model| {
                model.normalizer.as_mut().unwrap().precompiled_charsmap = Some(vec![1]);
            }),
            ("remove_extra_whitespaces", |model| {
                model.normalizer.as_mut().unwrap().remove_extra_whitespaces = None;
            }),
            ("piece", |model| model.pieces[4].piece = Some("x".repeat(MAX_PIECE_BYTES + 1))),
            ("piece", |model| model.pieces[4].piece = Some("b".to_string())),
        ];
        for (named, change) in changes {
            let mut model = small();
            change(&mut model);
            let wrong = opened(&model.encode_to_vec(), "{}");
            let Err(TokenizerError::SentencePieceKind { field, .. }) = wrong else { panic!("{wrong:?}") };
            assert_eq!(field, named);
        }
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_no_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut bytes = small().encode_to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
            if let Ok(tokenizer) = opened(&bytes, "{}") {
                let _ = tokenizer.encode("ab a<user>é", Specials::AsModel);
            }
        }
    }
}
