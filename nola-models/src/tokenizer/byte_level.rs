//! GPT-2's own two files: `vocab.json` with the ids, and `merges.txt` with the merges, one a line, best first.

use std::collections::HashMap;
use std::path::Path;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::TokenizerError;
use super::files::Files;
use super::settings::{Settings, of_gpt2};
use super::vocabulary::{Origin, Vocabulary};

/// Reads the two files; `None` if the folder has neither.
///
/// # Source
/// Hugging Face's `GPT2Converter`: no unknown token, spaces as they are.
pub(super) fn read(files: &mut Files, settings: &Settings) -> Result<Option<Vocabulary>, TokenizerError> {
    let [vocab_name, merges_name] = ["vocab.json", "merges.txt"];
    let file = files.path(vocab_name);
    let (vocab, merges) = match (files.json::<Vocab>(vocab_name)?, files.text(merges_name)?) {
        (None, None) => return Ok(None),
        (Some(vocab), Some(merges)) => (vocab, merges),
        (Some(_), None) => {
            return Err(TokenizerError::MissingFile { file: files.path(merges_name), present: vocab_name });
        }
        (None, Some(_)) => return Err(TokenizerError::MissingFile { file, present: merges_name }),
    };
    check_vocabulary(&file, &vocab)?;
    let merges = parse_merges(&files.path(merges_name), &merges, &vocab)?;
    let unusable = |source| TokenizerError::Unusable { file: file.clone(), source };
    let model = BPE::builder().vocab_and_merges(vocab, merges).build().map_err(unusable)?;
    let mut inner = tokenizers::Tokenizer::new(model);
    let spaced = settings.add_prefix_space.unwrap_or(false);
    inner.with_pre_tokenizer(Some(ByteLevel::new(spaced, true, true)));
    inner.with_decoder(Some(ByteLevel::default()));
    Ok(Some(Vocabulary {
        file,
        inner,
        defaults: of_gpt2(),
        listed: Vec::new(),
        origin: Origin::Parts,
        notes: Vec::new(),
    }))
}

/// Every byte has a token, and no two tokens share an id.
fn check_vocabulary(file: &Path, vocab: &Vocab) -> Result<(), TokenizerError> {
    let lacking = ByteLevel::alphabet().into_iter().filter(|byte| !vocab.contains_key(&byte.to_string()));
    if let Some(character) = lacking.min() {
        return Err(TokenizerError::MissingByte { file: file.to_path_buf(), character });
    }
    let mut owners = HashMap::with_capacity(vocab.len());
    let mut tokens: Vec<_> = vocab.iter().collect();
    tokens.sort_unstable();
    for (token, id) in tokens {
        if let Some(first) = owners.insert(*id, token) {
            let (first, second) = (first.clone(), token.clone());
            return Err(TokenizerError::SharedId { file: file.to_path_buf(), id: *id, first, second });
        }
    }
    Ok(())
}

/// The pairs of `merges.txt`, whose parts and results are all in the vocabulary.
fn parse_merges(file: &Path, text: &str, vocab: &Vocab) -> Result<Merges, TokenizerError> {
    let mut merges = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() || (index == 0 && line.starts_with("#version")) {
            continue;
        }
        let wrong = |absent| TokenizerError::Merge {
            file: file.to_path_buf(),
            line: index + 1,
            found: line.to_string(),
            absent,
        };
        let pair = line.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty());
        let (left, right) = pair.filter(|(_, right)| !right.contains(' ')).ok_or_else(|| wrong(None))?;
        let needed = [left.to_string(), right.to_string(), format!("{left}{right}")];
        if let Some(absent) = needed.into_iter().find(|token| !vocab.contains_key(token)) {
            return Err(wrong(Some(absent)));
        }
        merges.push((left.to_string(), right.to_string()));
    }
    Ok(merges)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vocabulary of the 256 bytes and `more`.
    fn vocabulary(more: &[&str]) -> Vocab {
        let mut bytes: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
        bytes.sort();
        bytes.extend(more.iter().map(|token| token.to_string()));
        bytes.into_iter().zip(0..).collect()
    }

    fn parse(text: &str) -> Result<Merges, TokenizerError> {
        parse_merges(Path::new("merges.txt"), text, &vocabulary(&["ab", "abc"]))
    }

    #[test]
    fn merges_are_read_with_either_line_ending_and_without_the_header() {
        for text in ["#version: 0.2\na b\nab c\n", "#version: 0.2\r\na b\r\nab c\r\n", "a b\nab c"] {
            let pair = |left: &str, right: &str| (left.to_string(), right.to_string());
            assert_eq!(parse(text).unwrap(), [pair("a", "b"), pair("ab", "c")]);
        }
    }

    #[test]
    fn a_merge_into_an_unknown_token_is_named_with_its_line() {
        let wrong = parse("#version: 0.2\na b\nb c\n");
        let Err(TokenizerError::Merge { line, absent, .. }) = wrong else { panic!("{wrong:?}") };
        assert_eq!((line, absent.as_deref()), (3, Some("bc")));
    }

    #[test]
    fn a_line_that_is_not_two_tokens_is_refused() {
        for text in ["a", "a b c", "a ", " a", "a  b"] {
            assert!(matches!(parse(text), Err(TokenizerError::Merge { absent: None, .. })), "{text:?}");
        }
    }

    #[test]
    fn a_vocabulary_without_one_of_the_bytes_is_refused() {
        let mut vocab = vocabulary(&[]);
        assert!(check_vocabulary(Path::new("vocab.json"), &vocab).is_ok());
        vocab.remove("Ġ");
        let wrong = check_vocabulary(Path::new("vocab.json"), &vocab);
        assert!(matches!(wrong, Err(TokenizerError::MissingByte { character: 'Ġ', .. })));
    }

    #[test]
    fn two_tokens_of_one_id_are_refused() {
        let mut vocab = vocabulary(&[]);
        vocab.insert("ab".to_string(), 7);
        let wrong = check_vocabulary(Path::new("vocab.json"), &vocab);
        assert!(matches!(wrong, Err(TokenizerError::SharedId { id: 7, .. })));
    }
}
