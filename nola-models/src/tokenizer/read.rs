//! From the files of a folder to a tokenizer with its special tokens.

use std::collections::{BTreeMap, BTreeSet};

use tokenizers::ModelWrapper;

use super::files::Files;
use super::settings::{Listed, Settings};
use super::vocabulary::{Origin, Vocabulary};
use super::{TokenizerError, built, byte_level, files, sentence_piece, settings, spaces, surround};

/// A tokenizer with everything that files say about it.
pub(super) struct Finished {
    pub(super) inner: tokenizers::Tokenizer,
    pub(super) names: BTreeMap<&'static str, String>,
    pub(super) special_ids: BTreeSet<u32>,
    pub(super) notes: Vec<String>,
}

/// Reads the vocabulary of whichever kind the folder holds.
pub(super) fn vocabulary(files: &mut Files, settings: &Settings) -> Result<Vocabulary, TokenizerError> {
    if let Some(vocabulary) = read_json(files, settings)? {
        return Ok(vocabulary);
    }
    if let Some(vocabulary) = byte_level::read(files, settings)? {
        return Ok(vocabulary);
    }
    let read = sentence_piece::read(files, settings)?;
    read.ok_or_else(|| TokenizerError::Absent { folder: files.folder().to_path_buf() })
}

/// Reads `tokenizer.json`; `None` if the folder has none.
fn read_json(files: &mut Files, settings: &Settings) -> Result<Option<Vocabulary>, TokenizerError> {
    let name = "tokenizer.json";
    let file = files.path(name);
    let Some(bytes) = files.bytes(name)? else { return Ok(None) };
    let listed = settings::listed_in(&file, &bytes)?;
    let mut inner: tokenizers::Tokenizer = files::parse_json(&file, &bytes)?;
    // Cutting and filling up are up to the caller; as stored they could also ask for any amount of memory.
    inner.with_padding(None);
    let unusable = |source| TokenizerError::Unusable { file: file.clone(), source };
    inner.with_truncation(None).map_err(unusable)?;
    if let ModelWrapper::BPE(model) = inner.get_model()
        && let Some(dropout) = model.dropout.filter(|dropout| *dropout != 0.0)
    {
        return Err(TokenizerError::Dropout { file, dropout });
    }
    let unusable = |source| TokenizerError::Unusable { file: file.clone(), source };
    let space = spaces::apply(&mut inner, settings).map_err(unusable)?;
    let built = built::note(&inner, settings).map_err(unusable)?;
    let notes = space.into_iter().chain(built).collect();
    let defaults = settings.class.special_tokens();
    Ok(Some(Vocabulary { file, inner, defaults, listed, origin: Origin::Ready, notes }))
}

/// Adds the special tokens of the small files to a vocabulary, and names them.
pub(super) fn finished(vocabulary: Vocabulary, settings: &Settings) -> Result<Finished, TokenizerError> {
    let Vocabulary { mut inner, defaults, listed, file, origin, mut notes } = vocabulary;
    let unusable = |source| TokenizerError::Unusable { file: file.clone(), source };
    let mut later: Vec<&Listed> = listed.iter().chain(&settings.listed).collect();
    later.sort_by_key(|listed| listed.id);
    inner.add_tokens(later.iter().map(|listed| listed.token.clone())).map_err(unusable)?;
    for Listed { file, id, token } in later {
        let actual = inner.token_to_id(&token.content).unwrap_or(*id);
        if actual != *id {
            let (file, token) = (file.clone(), token.content.clone());
            return Err(TokenizerError::TokenId { file, token, listed: *id, actual });
        }
    }
    let names = settings.names(&defaults, |token| inner.token_to_id(token).is_some());
    let known = inner.get_added_vocabulary().get_vocab();
    let special = settings.special().cloned();
    let named = names.values().map(|token| tokenizers::AddedToken::from(token, true));
    let unknown = special.chain(named).filter(|token| !known.contains_key(&token.content));
    let unknown: Vec<_> = unknown.collect();
    inner.add_tokens(unknown).map_err(unusable)?;
    let special = settings.special().map(|token| &token.content).chain(names.values());
    let special_ids = special.filter_map(|token| inner.token_to_id(token)).collect();
    match origin {
        Origin::Ready => notes.extend(surround::settle(&mut inner, settings, &names).map_err(unusable)?),
        Origin::Parts => surround::apply(&mut inner, settings, &names)?,
    }
    Ok(Finished { inner, names, special_ids, notes })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::json;

    use super::super::fixtures::{opened, small};
    use super::super::{Specials, Tokenizer};
    use super::*;

    #[test]
    fn class_defaults_name_the_tokens_that_the_folder_does_not() {
        let model = json!({"model_type": "llama"});
        let tokenizer = opened(&[("tokenizer.json", &small()), ("config.json", &model)]).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, Some(3)));
    }

    #[test]
    fn a_token_that_is_null_or_not_named_is_absent() {
        assert_eq!(opened(&[("tokenizer.json", &small())]).unwrap().eos(), None);
        let config = json!({"tokenizer_class": "LlamaTokenizerFast", "eos_token": null});
        let tokenizer = opened(&[("tokenizer.json", &small()), ("tokenizer_config.json", &config)]).unwrap();
        assert_eq!(tokenizer.eos(), None);
    }

    #[test]
    fn a_named_token_that_the_vocabulary_lacks_gets_the_next_id() {
        let config = json!({"eos_token": {"__type": "AddedToken", "content": "</s>"}, "pad_token": "[PAD]"});
        let tokenizer = opened(&[("tokenizer.json", &small()), ("tokenizer_config.json", &config)]).unwrap();
        assert_eq!((tokenizer.eos(), tokenizer.pad()), (Some(3), Some(4)));
        assert_eq!(tokenizer.vocab_size(), 5);
        assert_eq!(tokenizer.special_tokens()["pad_token"], "[PAD]");
    }

    #[test]
    fn the_special_tokens_map_is_read_where_the_configuration_is_silent() {
        let map = json!({"eos_token": "</s>"});
        let tokenizer = opened(&[("tokenizer.json", &small()), ("special_tokens_map.json", &map)]).unwrap();
        assert_eq!(tokenizer.eos(), Some(3));
    }

    #[test]
    fn tokens_that_were_added_later_are_not_counted_to_the_base() {
        let config = json!({"eos_token": "</s>", "pad_token": "[PAD]"});
        let tokenizer = opened(&[("tokenizer.json", &small()), ("tokenizer_config.json", &config)]).unwrap();
        assert_eq!((tokenizer.vocab_size(), tokenizer.base_vocab_size()), (5, 3));
        assert_eq!(tokenizer.most_bytes(10), 50);
    }

    #[test]
    fn added_tokens_have_the_ids_of_their_list() {
        let added = json!({"<user>": 4, "<bot>": 5});
        let tokenizer = opened(&[("tokenizer.json", &small()), ("added_tokens.json", &added)]).unwrap();
        assert_eq!(tokenizer.encode("ab<bot>a<user>", Specials::None).unwrap(), [2, 5, 0, 4]);
        let elsewhere = json!({"<user>": 40});
        let wrong = opened(&[("tokenizer.json", &small()), ("added_tokens.json", &elsewhere)]);
        let Err(TokenizerError::TokenId { listed, actual, .. }) = wrong else { panic!("{wrong:?}") };
        assert_eq!((listed, actual), (40, 4));
    }

    #[test]
    fn an_added_token_of_tokenizer_json_with_another_id_is_an_error() {
        let mut json = small();
        json["added_tokens"][0]["id"] = json!(7);
        assert!(matches!(
            opened(&[("tokenizer.json", &json)]),
            Err(TokenizerError::TokenId { listed: 7, .. })
        ));
    }

    #[test]
    fn stored_padding_and_truncation_are_left_to_the_caller() {
        let mut json = small();
        json["padding"] = json!({"strategy": {"Fixed": 1_000_000_000_000_u64}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"});
        json["truncation"] =
            json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0});
        let tokenizer = opened(&[("tokenizer.json", &json)]).unwrap();
        assert_eq!(tokenizer.encode("abab", Specials::AsModel).unwrap(), [2, 2]);
    }

    #[test]
    fn a_panic_of_the_library_while_reading_is_an_error() {
        let mut json = small();
        json["model"]["merges"] = json!([["a", "b"], ["ab", "ab"]]);
        let wrong = opened(&[("tokenizer.json", &json)]);
        assert!(matches!(wrong, Err(TokenizerError::Broke { .. })), "{wrong:?}");
    }

    #[test]
    fn a_folder_without_a_tokenizer_says_what_it_should_hold() {
        let wrong = opened(&[]).unwrap_err();
        assert!(matches!(wrong, TokenizerError::Absent { .. }));
        assert!(wrong.to_string().contains("tokenizer.model"));
        assert!(matches!(Tokenizer::open(Path::new("no/such")), Err(TokenizerError::Io { .. })));
    }

    #[test]
    fn a_vocabulary_without_merges_names_the_absent_file() {
        let wrong = opened(&[("vocab.json", &json!({"a": 0}))]);
        let Err(TokenizerError::MissingFile { file, .. }) = wrong else { panic!("{wrong:?}") };
        assert!(file.ends_with("merges.txt"));
    }

    #[test]
    fn a_file_that_is_no_json_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for broken in ["{", "version 1", "\u{feff}{}", &"[".repeat(10_000)] {
            fs::write(folder.path().join("tokenizer.json"), broken).unwrap();
            let wrong = Tokenizer::open(folder.path());
            let Err(TokenizerError::Json { file, .. }) = wrong else { panic!("{wrong:?}") };
            assert!(file.ends_with("tokenizer.json"));
        }
    }

    #[test]
    fn an_unknown_kind_of_model_is_named() {
        let mut json = small();
        json["model"]["type"] = json!("Tiktoken");
        let wrong = opened(&[("tokenizer.json", &json)]);
        let Err(TokenizerError::UnknownModel { found, .. }) = wrong else { panic!("{wrong:?}") };
        assert_eq!(found, "\"Tiktoken\"");
    }

    #[test]
    fn a_tokenizer_that_draws_by_chance_is_refused() {
        let mut json = small();
        json["model"]["dropout"] = json!(0.1);
        assert!(matches!(opened(&[("tokenizer.json", &json)]), Err(TokenizerError::Dropout { .. })));
    }

    #[test]
    fn a_sentencepiece_file_of_other_bytes_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for bytes in [&b"not a protobuf"[..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]] {
            fs::write(folder.path().join("tokenizer.model"), bytes).unwrap();
            let wrong = Tokenizer::open(folder.path()).unwrap_err();
            use TokenizerError::{SentencePiece, SentencePieceKind};
            assert!(matches!(wrong, SentencePiece { .. } | SentencePieceKind { .. }), "{wrong:?}");
        }
    }

    #[test]
    fn the_hash_changes_with_every_file_that_matters() {
        let plain = opened(&[("tokenizer.json", &small())]).unwrap();
        let again = opened(&[("tokenizer.json", &small())]).unwrap();
        let config = json!({"eos_token": "</s>"});
        let other = opened(&[("tokenizer.json", &small()), ("tokenizer_config.json", &config)]).unwrap();
        assert_eq!(plain.sha256(), again.sha256());
        assert_ne!(plain.sha256(), other.sha256());
        assert_eq!(plain.sha256().len(), 64);
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_no_panic(at in any::<prop::sample::Index>(), byte in 0x20u8..0x7f) {
            let mut json = small().to_string().into_bytes();
            let at = at.index(json.len());
            json[at] = byte;
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("tokenizer.json"), json).unwrap();
            if let Ok(tokenizer) = Tokenizer::open(folder.path()) {
                let _ = tokenizer.encode("ab a</s>", Specials::AsModel);
            }
        }
    }
}
