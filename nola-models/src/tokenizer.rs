//! Text to ids and back, with the tokenizer that a model folder brings along.
//!
//! `tokenizer.json` is read as it is; a folder without one may hold GPT-2's `vocab.json` with `merges.txt`, or LLaMA's
//! SentencePiece `tokenizer.model`. Ids are those of Hugging Face's fast tokenizers. As there, a special token that is
//! spelled out in a text becomes that token.

mod byte_level;
mod charsmap;
mod error;
pub(crate) mod files;
mod sentence_piece;
mod settings;
mod spaces;
mod stream;
mod surround;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tokenizers::{Decoder, ModelWrapper};

pub use error::TokenizerError;
use files::Files;
use settings::{Listed, Named, Settings};
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
    vocab_size: usize,
    base_vocab_size: usize,
    longest_token: usize,
    note: Option<String>,
    sha256: String,
}

/// What a reader of a vocabulary gives.
struct Vocabulary {
    file: PathBuf,
    inner: tokenizers::Tokenizer,
    /// Special tokens where no file names them.
    defaults: Vec<Named>,
    listed: Vec<Listed>,
    origin: Origin,
}

/// What a tokenizer was made from.
#[derive(Clone, Copy)]
enum Origin {
    /// A `tokenizer.json`, which says everything.
    Ready,
    /// Files of a vocabulary, which settings complete.
    Parts,
}

/// A tokenizer with everything that files say about it.
struct Finished {
    inner: tokenizers::Tokenizer,
    names: BTreeMap<&'static str, String>,
    special_ids: BTreeSet<u32>,
    note: Option<String>,
}

impl Tokenizer {
    /// Reads the tokenizer of a model folder.
    ///
    /// # Errors
    /// If the folder has none, if a file is corrupt or too large, or if files contradict each other.
    pub fn open(folder: &Path) -> Result<Self, TokenizerError> {
        let mut files = Files::open(folder)?;
        let settings = Settings::read(&mut files)?;
        let vocabulary = caught(folder, || read_vocabulary(&mut files, &settings))?;
        let file = vocabulary.file.clone();
        let Finished { inner, names, special_ids, note } = caught(&file, || finish(vocabulary, &settings))?;
        let id = |field| names.get(field).and_then(|token| inner.token_to_id(token));
        let vocab = inner.get_vocab(true);
        let added = inner.get_added_vocabulary().get_added_tokens_decoder();
        let size = |highest: Option<u32>| highest.map_or(0, |id| id as usize + 1);
        Ok(Self {
            bos: id("bos_token"),
            eos: id("eos_token"),
            pad: id("pad_token"),
            vocab_size: size(vocab.values().copied().max()),
            base_vocab_size: size(vocab.values().copied().filter(|id| !added.contains_key(id)).max()),
            longest_token: vocab.keys().map(String::len).max().unwrap_or_default(),
            note,
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
    pub fn stream(&self, shown: &[u32], specials: DecodeSpecials) -> TextStream<'_> {
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
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
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

/// Reads the vocabulary of whichever kind the folder holds.
fn read_vocabulary(files: &mut Files, settings: &Settings) -> Result<Vocabulary, TokenizerError> {
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
    spaces::apply(&mut inner, settings)
        .map_err(|source| TokenizerError::Unusable { file: file.clone(), source })?;
    let defaults = settings.class.special_tokens();
    Ok(Some(Vocabulary { file, inner, defaults, listed, origin: Origin::Ready }))
}

/// Adds the special tokens of the small files to a vocabulary, and names them.
fn finish(vocabulary: Vocabulary, settings: &Settings) -> Result<Finished, TokenizerError> {
    let Vocabulary { mut inner, defaults, listed, file, origin } = vocabulary;
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
    let note = match origin {
        Origin::Ready => {
            surround::clear(&mut inner, settings).map_err(unusable)?;
            surround::note(&inner, settings, &names).map_err(unusable)?
        }
        Origin::Parts => {
            surround::apply(&mut inner, settings, &names)?;
            None
        }
    };
    Ok(Finished { inner, names, special_ids, note })
}

/// Runs the tokenizers library, which panics on some crafted files; `file` is what the error names.
fn caught<T>(file: &Path, work: impl FnOnce() -> Result<T, TokenizerError>) -> Result<T, TokenizerError> {
    // Nothing of a half-finished work is seen again: `work` only reads, or its owner is dropped with the error.
    crate::caught(work)
        .unwrap_or_else(|message| Err(TokenizerError::Broke { file: file.to_path_buf(), message }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;

    /// A folder of the shared assets; `None`, said aloud, where there are none.
    fn assets(folder: &str) -> Option<PathBuf> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/assets").join(folder);
        if !path.is_dir() {
            println!("skipped: no ../shared");
            return None;
        }
        Some(path)
    }

    /// A copy of some files of a folder.
    fn copied(from: &Path, names: &[&str]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), fs::read(from.join(name)).unwrap()).unwrap();
        }
        folder
    }

    /// A folder with these JSON files.
    fn folder_of(files: &[(&str, &Value)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, json) in files {
            fs::write(folder.path().join(name), json.to_string()).unwrap();
        }
        folder
    }

    fn opened(files: &[(&str, &Value)]) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::open(folder_of(files).path())
    }

    /// A `tokenizer.json` of the tokens `a`, `b`, `ab` and `</s>`.
    fn small() -> Value {
        json!({
            "version": "1.0",
            "added_tokens": [{"id": 3, "content": "</s>", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
        })
    }

    /// Texts and ids as the reference implementation has them.
    fn expected(file: &Path) -> Vec<(String, Vec<u32>)> {
        let json: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let case = |case: &Value| {
            let ids = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            (case["text"].as_str().unwrap().to_string(), ids)
        };
        json["cases"].as_array().unwrap().iter().map(case).collect()
    }

    fn assert_golden(tokenizer: &Tokenizer, file: &Path) {
        let cases = expected(file);
        assert!(cases.len() >= 18);
        for (text, ids) in cases {
            assert_eq!(tokenizer.encode(&text, Specials::AsModel).unwrap(), ids, "{text:?}");
            assert_eq!(tokenizer.decode(&ids, DecodeSpecials::Skip).unwrap(), text);
        }
    }

    #[test]
    fn ids_from_tokenizer_json_are_those_of_the_reference() {
        for (folder, file) in [
            ("tokenizers/gpt2", "expected.json"),
            ("tokenizers/llama2", "expected.json"),
            ("models/gpt2-micro-shakespeare", "tokenizer_expected.json"),
            ("models/llama-stories260k", "tokenizer_expected.json"),
        ] {
            let Some(folder) = assets(folder) else { return };
            assert_golden(&Tokenizer::open(&folder).unwrap(), &folder.join(file));
        }
    }

    #[test]
    fn ids_from_vocabulary_and_merges_are_those_of_the_reference() {
        for (folder, file) in [
            ("tokenizers/gpt2", "expected.json"),
            ("models/gpt2-micro-shakespeare", "tokenizer_expected.json"),
        ] {
            let Some(folder) = assets(folder) else { return };
            let copy = copied(&folder, &["vocab.json", "merges.txt"]);
            let tokenizer = Tokenizer::open(copy.path()).unwrap();
            assert_golden(&tokenizer, &folder.join(file));
            assert_eq!(tokenizer.eos(), tokenizer.id("<|endoftext|>"));
            assert_eq!(tokenizer.bos(), Some(tokenizer.vocab_size() as u32 - 1));
        }
    }

    #[test]
    fn ids_from_a_sentencepiece_model_are_those_of_the_reference() {
        let Some(folder) = assets("tokenizers/llama2") else { return };
        let copy = copied(&folder, &["tokenizer.model"]);
        let tokenizer = Tokenizer::open(copy.path()).unwrap();
        assert_golden(&tokenizer, &folder.join("expected.json"));
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(1), Some(2), None));
        assert_eq!(tokenizer.vocab_size(), 32_000);
    }

    #[test]
    fn a_sentencepiece_model_becomes_the_tokenizer_json_of_the_reference() {
        let Some(folder) = assets("tokenizers/llama2") else { return };
        let read = Tokenizer::open(copied(&folder, &["tokenizer.model"]).path()).unwrap();
        let reference = Tokenizer::open(&folder).unwrap();
        let parts = |tokenizer: &Tokenizer| -> (Vec<String>, Value) {
            let mut json = serde_json::to_value(&tokenizer.inner).unwrap();
            // The order among merges of equal score is another one, which no text shows: see the next test.
            let merges = json["model"]["merges"].take();
            let mut merges: Vec<String> = merges.as_array().unwrap().iter().map(Value::to_string).collect();
            merges.sort_unstable();
            (merges, json)
        };
        // Not `assert_eq`: 60,000 merges would be unreadable.
        assert!(parts(&read) == parts(&reference));
    }

    #[test]
    fn a_sentencepiece_model_splits_long_real_texts_as_the_reference_does() {
        let Some(folder) = assets("tokenizers/llama2") else { return };
        let read = Tokenizer::open(copied(&folder, &["tokenizer.model"]).path()).unwrap();
        let reference = Tokenizer::open(&folder).unwrap();
        for name in ["text/tinystories/tinystories.txt", "text/alpaca/alpaca_tiny.json", "text/e2e/test.txt"]
        {
            let text = fs::read_to_string(folder.join("../..").join(name)).unwrap();
            let text = &text[..text.floor_char_boundary(200_000)];
            let ids = read.encode(text, Specials::AsModel).unwrap();
            assert!(ids.len() > 20_000);
            assert!(ids == reference.encode(text, Specials::AsModel).unwrap(), "{name}");
        }
    }

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
            tokenizer.unwrap().note().map(str::to_owned)
        };
        let told = note("LlamaTokenizer", Some(true)).unwrap();
        assert!(told.contains("tokenizer_config.json: `add_bos_token` is true"), "{told}");
        assert!(note("LlamaTokenizerFast", None).is_some());
        assert_eq!(note("LlamaTokenizer", Some(false)), None);
        assert_eq!(note("PreTrainedTokenizerFast", Some(true)), None);
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
    fn tokens_that_were_added_later_are_not_counted_to_the_base() {
        let config = json!({"eos_token": "</s>", "pad_token": "[PAD]"});
        let tokenizer = opened(&[("tokenizer.json", &small()), ("tokenizer_config.json", &config)]).unwrap();
        assert_eq!((tokenizer.vocab_size(), tokenizer.base_vocab_size()), (5, 3));
        assert_eq!(tokenizer.most_bytes(10), 50);
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
    fn a_panic_of_the_library_while_encoding_is_an_error() {
        let mut json = small();
        json["pre_tokenizer"] = json!({"type": "FixedLength", "length": 0});
        let tokenizer = opened(&[("tokenizer.json", &json)]).unwrap();
        let wrong = tokenizer.encode("abab", Specials::None);
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
        for broken in
            ["", "{", "version https://git-lfs.github.com/spec/v1", "\u{feff}{}", &"[".repeat(10_000)]
        {
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
        for bytes in [&b"not a protobuf"[..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], &[]] {
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

    #[test]
    fn an_id_that_no_token_has_is_an_error() {
        let tokenizer = opened(&[("tokenizer.json", &small())]).unwrap();
        let wrong = tokenizer.decode(&[0, 9], DecodeSpecials::Keep);
        assert!(matches!(wrong, Err(TokenizerError::UnknownId { id: 9, vocab_size: 4, .. })));
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
