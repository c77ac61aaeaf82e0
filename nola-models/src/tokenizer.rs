//! Text to ids and back, with the tokenizer that a model folder brings along.
//!
//! `tokenizer.json` is read as it is; a folder without one may hold GPT-2's `vocab.json` with `merges.txt`, or LLaMA's
//! SentencePiece `tokenizer.model`. Ids are those of Hugging Face's fast tokenizers. As there, a special token that is
//! spelled out in a text becomes that token.

mod built;
mod byte_level;
mod charsmap;
mod error;
pub(crate) mod files;
#[cfg(test)]
mod fixtures;
mod read;
#[cfg(test)]
mod reference_tests;
mod sentence_piece;
mod settings;
mod spaces;
mod stream;
mod surround;
mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tokenizers::{Decoder, Model, ModelWrapper};

pub use error::TokenizerError;
use files::Files;
use read::Finished;
use settings::Settings;
pub use stream::TextStream;

/// Whether ids get the tokens that the model wants around a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// With the tokens that the tokenizer adds: for LLaMA the first one, for GPT-2 none.
    AsModel,
    /// The text alone: for its second half, or where a chat template already wrote them.
    None,
}

/// What becomes of special tokens when ids are turned into text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeSpecials {
    /// They are left out.
    Skip,
    /// They are spelled out, such as `</s>`.
    Keep,
}

/// Ids, and where in the text each comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The ids.
    pub ids: Vec<u32>,
    /// Bytes of the text that each id stands for, between whole characters; empty for a token that was added around
    /// the text. The ids of one character share its range.
    pub ranges: Vec<Range<usize>>,
}

/// A tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: PathBuf,
    names: BTreeMap<&'static str, String>,
    /// Tokens that the files name as special, whatever the vocabulary says of them.
    special_ids: BTreeSet<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    unknown: Option<u32>,
    vocab_size: usize,
    base_vocab_size: usize,
    longest_token: usize,
    notes: Vec<String>,
    sha256: String,
}

impl Tokenizer {
    /// Reads the tokenizer of a model folder.
    ///
    /// # Errors
    /// If the folder has none, if a file is corrupt or too large, or if files contradict each other.
    pub fn open(folder: &Path) -> Result<Self, TokenizerError> {
        let mut files = Files::open(folder)?;
        let settings = Settings::read(&mut files)?;
        let vocabulary = caught(folder, || read::vocabulary(&mut files, &settings))?;
        let file = vocabulary.file.clone();
        let Finished { inner, names, special_ids, notes } =
            caught(&file, || read::finished(vocabulary, &settings))?;
        let id = |field| names.get(field).and_then(|token| inner.token_to_id(token));
        let (bos, eos) = (id("bos_token"), id("eos_token"));
        let vocab = inner.get_vocab(true);
        let added = inner.get_added_vocabulary().get_added_tokens_decoder();
        let size = |highest: Option<u32>| highest.map_or(0, |id| id as usize + 1);
        Ok(Self {
            bos,
            eos,
            pad: id("pad_token"),
            unknown: unknown(&inner).filter(|id| ![bos, eos].contains(&Some(*id))),
            vocab_size: size(vocab.values().copied().max()),
            base_vocab_size: size(vocab.values().copied().filter(|id| !added.contains_key(id)).max()),
            longest_token: vocab.keys().map(String::len).max().unwrap_or_default(),
            notes,
            sha256: files.sha256(),
            file,
            names,
            special_ids,
            inner,
        })
    }

    /// The ids of a text.
    ///
    /// # Errors
    /// If the tokenizer's files are damaged in a way that only shows now.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, TokenizerError> {
        let encode = || self.inner.encode_fast(text, specials == Specials::AsModel);
        let encoding = caught(&self.file, || encode().map_err(|source| self.not_encoded(text, source)))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of many texts, made in parallel; in the order of the texts.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        specials: Specials,
    ) -> Result<Vec<Vec<u32>>, TokenizerError> {
        texts.par_iter().map(|text| self.encode(text.as_ref(), specials)).collect()
    }

    /// The ids of a text, and where in it each comes from.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_offsets(&self, text: &str, specials: Specials) -> Result<Encoded, TokenizerError> {
        let encode = || self.inner.encode(text, specials == Specials::AsModel);
        let encoding = caught(&self.file, || encode().map_err(|source| self.not_encoded(text, source)))?;
        // A token may be one byte of a character; a range of text must not be.
        let whole =
            |(start, end): &(usize, usize)| text.floor_char_boundary(*start)..text.ceil_char_boundary(*end);
        let ranges = encoding.get_offsets().iter().map(whole).collect();
        Ok(Encoded { ids: encoding.get_ids().to_vec(), ranges })
    }

    /// The text of ids. Bytes that are no text become U+FFFD.
    ///
    /// Special tokens are spelled as they are named, and left out by their ids: the library spells those that are marked
    /// `normalized` as its normalizer would, and then does not know them as special.
    ///
    /// # Errors
    /// If there is no token of some id.
    pub fn decode(&self, ids: &[u32], specials: DecodeSpecials) -> Result<String, TokenizerError> {
        let unknown =
            |id| TokenizerError::UnknownId { file: self.file.clone(), id, vocab_size: self.vocab_size };
        let mut tokens = Vec::with_capacity(ids.len());
        for &id in ids {
            let token = self.token(id).ok_or_else(|| unknown(id))?;
            if specials == DecodeSpecials::Keep || !self.is_special(id, &token) {
                tokens.push(token);
            }
        }
        caught(&self.file, || {
            let Some(decoder) = self.inner.get_decoder() else { return Ok(tokens.join(" ")) };
            let file = self.file.clone();
            decoder.decode(tokens).map_err(|source| TokenizerError::Decode { file, ids: ids.len(), source })
        })
    }

    fn is_special(&self, id: u32, token: &str) -> bool {
        let added = self.inner.get_added_vocabulary();
        self.special_ids.contains(&id)
            || added.get_added_tokens_decoder().get(&id).is_some_and(|added| added.special)
            || added.is_special_token(token)
    }

    /// Starts to turn ids into text one by one; `shown` are ids whose text is already out, such as a prompt's.
    pub fn stream(&self, shown: &[u32], specials: DecodeSpecials) -> TextStream<&Self> {
        TextStream::new(self, shown, specials)
    }

    /// Highest id plus one: the rows that an embedding must have at least.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The same without tokens that were added to the vocabulary: what the model was made with.
    pub fn base_vocab_size(&self) -> usize {
        self.base_vocab_size
    }

    /// Bytes of text that `tokens` tokens can hold; what is longer has more tokens.
    pub fn most_bytes(&self, tokens: usize) -> usize {
        tokens.saturating_mul(self.longest_token)
    }

    /// What a user should be told, once, about how the files were read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The token that starts a text, if this tokenizer names one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text, if this tokenizer names one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token that fills up short rows, if this tokenizer names one.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// The token that stands for what the vocabulary lacks, if there is one; none if it is also the one that starts or ends
    /// a text.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// The special tokens by the names that chat templates use for them, such as `bos_token`.
    pub fn special_tokens(&self) -> &BTreeMap<&'static str, String> {
        &self.names
    }

    /// A token as it stands in the vocabulary, such as `Ġthe`, if there is one of this id.
    pub fn token(&self, id: u32) -> Option<String> {
        match self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id) {
            Some(added) if added.special || self.special_ids.contains(&id) => Some(added.content.clone()),
            Some(_) | None => self.inner.id_to_token(id),
        }
    }

    /// The id of a token as it stands in the vocabulary, if there is one.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// SHA-256 of the files this was read from, in hexadecimal: equal ones give equal ids.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The main file this was read from, for error messages.
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn not_encoded(&self, text: &str, source: tokenizers::Error) -> TokenizerError {
        TokenizerError::Encode { file: self.file.clone(), bytes: text.len(), source }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, vocab_size, names, sha256, .. } = self;
        let mut shown = f.debug_struct("Tokenizer");
        shown.field("file", file).field("vocab_size", vocab_size).field("names", names);
        shown.field("sha256", sha256).finish_non_exhaustive()
    }
}

/// The token that the model gives for what its vocabulary lacks.
fn unknown(inner: &tokenizers::Tokenizer) -> Option<u32> {
    let name = match inner.get_model() {
        ModelWrapper::BPE(model) => model.get_unk_token().as_ref()?,
        ModelWrapper::WordPiece(model) => &model.unk_token,
        ModelWrapper::WordLevel(model) => &model.unk_token,
        // It does not tell, but gives it for a letter that no script has; a model that falls back to bytes gives four.
        ModelWrapper::Unigram(model) => {
            let tokens = model.tokenize("\u{10FFFF}").ok()?;
            return if let [token] = &tokens[..] { Some(token.id) } else { None };
        }
    };
    inner.token_to_id(name)
}

/// Runs the tokenizers library, which panics on some crafted files; `file` is what the error names.
fn caught<T>(file: &Path, work: impl FnOnce() -> Result<T, TokenizerError>) -> Result<T, TokenizerError> {
    // Nothing of a half-finished work is seen again: `work` only reads, or its owner is dropped with the error.
    crate::caught(work)
        .unwrap_or_else(|message| Err(TokenizerError::Broke { file: file.to_path_buf(), message }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::fixtures::{assets, copied, opened, small};
    use super::*;

    #[test]
    fn a_special_token_in_the_text_is_that_token() {
        for kept in [&["tokenizer.model"][..], &["tokenizer.json", "tokenizer_config.json"]] {
            let Some(folder) = assets("tokenizers/llama2") else { return };
            let tokenizer = Tokenizer::open(copied(&folder, kept).path()).unwrap();
            let ids = tokenizer.encode("a</s>", Specials::AsModel).unwrap();
            assert_eq!((ids.first(), ids.last()), (Some(&1), Some(&2)));
            assert_eq!(tokenizer.decode(&ids, DecodeSpecials::Skip).unwrap(), "a");
            assert_eq!(tokenizer.decode(&ids, DecodeSpecials::Keep).unwrap(), "<s> a</s>");
        }
    }

    #[test]
    fn without_specials_only_the_text_is_encoded() {
        let Some(folder) = assets("tokenizers/llama2") else { return };
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let with = tokenizer.encode("Hello", Specials::AsModel).unwrap();
        assert_eq!(tokenizer.encode("Hello", Specials::None).unwrap(), with[1..]);
    }

    #[test]
    fn a_batch_is_its_texts_one_by_one() {
        let Some(folder) = assets("models/gpt2-micro-shakespeare") else { return };
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let texts: Vec<String> = (0..100).map(|i| format!("line {i}, said he")).collect();
        let single: Vec<_> =
            texts.iter().map(|text| tokenizer.encode(text, Specials::AsModel).unwrap()).collect();
        assert_eq!(tokenizer.encode_batch(&texts, Specials::AsModel).unwrap(), single);
    }

    #[test]
    fn ranges_cover_the_text_in_order() {
        let text = " two  spaces, Café 日本語 🙂👍🏽 end";
        for folder in ["models/gpt2-micro-shakespeare", "models/llama-stories260k"] {
            let Some(folder) = assets(folder) else { return };
            let tokenizer = Tokenizer::open(&folder).unwrap();
            let Encoded { ids, ranges } = tokenizer.encode_with_offsets(text, Specials::AsModel).unwrap();
            assert_eq!(ids, tokenizer.encode(text, Specials::AsModel).unwrap());
            assert_eq!(ids.len(), ranges.len());
            let mut end = 0;
            for range in ranges {
                assert!(text.get(range.clone()).is_some(), "{range:?} cuts a character");
                assert!(range.start <= end && range.end >= end, "{range:?} after {end}");
                end = range.end;
            }
            assert_eq!(end, text.len());
        }
    }

    #[test]
    fn a_range_holds_the_text_of_its_token() {
        let Some(folder) = assets("tokenizers/llama2") else { return };
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let text = "Name: Café Adriatic";
        let Encoded { ids, ranges } = tokenizer.encode_with_offsets(text, Specials::AsModel).unwrap();
        let pieces: Vec<_> =
            ids.iter().zip(ranges).map(|(id, range)| (tokenizer.token(*id).unwrap(), range)).collect();
        assert_eq!(pieces[0], ("<s>".to_string(), 0..0));
        for (token, range) in &pieces[1..] {
            assert_eq!(token.replace('▁', " ").trim_start(), text[range.clone()].trim_start());
        }
    }

    #[test]
    fn many_spaces_are_split_as_few_are() {
        let Some(folder) = assets("tokenizers/gpt2") else { return };
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let text = format!("{}end of it", " ".repeat(2_000_000));
        let ids = tokenizer.encode(&text, Specials::None).unwrap();
        assert_eq!(ids[ids.len() - 3..], tokenizer.encode(" end of it", Specials::None).unwrap());
    }

    /// A `tokenizer.json` with a normalizer that puts `▁` before every text, and special tokens it spells with it.
    fn normalized_specials() -> Value {
        let special = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": true, "special": true})
        };
        json!({
            "version": "1.0",
            "added_tokens": [special(0, "<unk>"), special(1, "</s>"), special(2, "<tool>")],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ]},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]},
            "model": {"type": "BPE", "vocab": {"<unk>": 0, "</s>": 1, "<tool>": 2, "▁b": 3, "▁c": 4}, "merges": []},
        })
    }

    #[test]
    fn special_tokens_that_are_normalized_are_left_out_or_spelled_as_they_are_named() {
        for class in ["LlamaTokenizer", "PreTrainedTokenizerFast"] {
            let config = json!({"tokenizer_class": class, "eos_token": "</s>"});
            let files = [("tokenizer.json", &normalized_specials()), ("tokenizer_config.json", &config)];
            let tokenizer = opened(&files).unwrap();
            for (ids, skipped, kept) in [
                (&[3, 2, 4, 0, 3, 1][..], "b c b", "b<tool> c<unk> b</s>"),
                (&[2, 3], "b", "<tool> b"),
                (&[1], "", "</s>"),
            ] {
                assert_eq!(tokenizer.decode(ids, DecodeSpecials::Skip).unwrap(), skipped);
                assert_eq!(tokenizer.decode(ids, DecodeSpecials::Keep).unwrap(), kept);
            }
            assert_eq!(tokenizer.token(2).as_deref(), Some("<tool>"));
        }
    }

    #[test]
    fn tokens_that_the_settings_name_are_special_whatever_their_marks() {
        let mut vocabulary = normalized_specials();
        for token in vocabulary["added_tokens"].as_array_mut().unwrap() {
            token["special"] = false.into();
        }
        for extra in [json!(["<tool>"]), json!({"tool_token": "<tool>"})] {
            let config = json!({"eos_token": "</s>", "unk_token": "<unk>", "extra_special_tokens": extra});
            let files = [("tokenizer.json", &vocabulary), ("tokenizer_config.json", &config)];
            let tokenizer = opened(&files).unwrap();
            assert_eq!(tokenizer.decode(&[3, 2, 4, 0, 3, 1], DecodeSpecials::Skip).unwrap(), "b c b");
        }
    }

    #[test]
    fn a_panic_of_the_library_while_encoding_is_an_error() {
        let mut json = small();
        json["pre_tokenizer"] = json!({"type": "FixedLength", "length": 0});
        let tokenizer = opened(&[("tokenizer.json", &json)]).unwrap();
        let wrong = tokenizer.encode("abab", Specials::None);
        assert!(matches!(wrong, Err(TokenizerError::Broke { .. })), "{wrong:?}");
    }

    #[test]
    fn an_id_that_no_token_has_is_an_error() {
        let tokenizer = opened(&[("tokenizer.json", &small())]).unwrap();
        let wrong = tokenizer.decode(&[0, 9], DecodeSpecials::Keep);
        assert!(matches!(wrong, Err(TokenizerError::UnknownId { id: 9, vocab_size: 4, .. })));
    }

    proptest! {
        #[test]
        fn byte_level_text_comes_back_unchanged(text in any::<String>()) {
            let Some(folder) = assets("models/gpt2-micro-shakespeare") else { return Ok(()) };
            thread_local!(static GPT2: std::cell::OnceCell<Tokenizer> = const { std::cell::OnceCell::new() });
            GPT2.with(|gpt2| {
                let gpt2 = gpt2.get_or_init(|| Tokenizer::open(&folder).unwrap());
                let ids = gpt2.encode(&text, Specials::AsModel).unwrap();
                prop_assert_eq!(gpt2.decode(&ids, DecodeSpecials::Keep).unwrap(), text);
                Ok(())
            })?;
        }
    }
}
