//! Text as a model reads and writes it: tokenizer, chat template, special tokens and sizes, without the weights.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nola_core::folder;
use nola_models::chat::{ChatError, ChatTemplate, Conversation, Prompt, Rendered};
use nola_models::generate::GenerationConfig;
use nola_models::hub::{TOKENIZER_FILES, Wanted};
use nola_models::tokenizer::{Specials, Tokenizer};
use nola_models::{ModelInfo, checkpoint};
use serde_json::Value;

use super::notice::Notice;
use crate::Error;
use crate::adapter_data::AdapterData;
use crate::settings::{DataFormat, Init};
use crate::text::{ChatRender, Encode, TextSettings};

/// How a model's makers let it generate.
const GENERATION: &str = "generation_config.json";

/// What a model folder says of text: all that is needed to prepare data, before any weight is read.
#[derive(Debug, Clone)]
pub struct TextEncoder {
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// How conversations are written, if the folder says so.
    pub chat: Option<Arc<ChatTemplate>>,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
    /// The token that the tokenizer puts before every text, if it does.
    bos: Option<u32>,
    /// The token that the tokenizer puts behind every text, if it does.
    closing: Option<u32>,
    /// Sizes of the model.
    pub info: ModelInfo,
    /// Where it came from.
    pub folder: PathBuf,
}

impl TextEncoder {
    /// The files of a model folder that it is opened from; where weights are wanted later, they have to be there.
    pub fn wanted(init: Init) -> Wanted {
        match init {
            Init::Pretrained => Wanted::AllButWeights,
            Init::Random => Wanted::Tokenizer,
        }
    }

    /// Reads configuration, tokenizer and chat template of a model folder.
    ///
    /// # Errors
    /// If one of them is absent or damaged, is of no language model this program knows, or they do not fit each other.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let config = checkpoint::read_config(folder)?;
        let info = ModelInfo::of_config(&config, &folder.join("config.json"))?;
        let tokenizer = Tokenizer::open(folder)?;
        check_vocabulary(folder, &tokenizer, &info)?;
        check_end(folder, &config, &info)?;
        let eos = end_tokens(folder, &tokenizer, &info)?;
        let chat = ChatTemplate::of_folder(folder, &tokenizer)?.map(Arc::new);
        let [bos, closing] = around(&tokenizer)?;
        let closing = closing.filter(|&id| (id as usize) < info.vocab_size);
        let (tokenizer, folder) = (Arc::new(tokenizer), folder.to_owned());
        Ok(Self { tokenizer, chat, eos, bos, closing, info, folder })
    }

    /// How the tokenizer's files were read, where libraries differ.
    pub fn notices(&self) -> Vec<Notice> {
        self.tokenizer.notes().iter().cloned().map(Notice::Tokenizer).collect()
    }

    /// What the folder says about generating, in a file of its own or, as older ones do, in `config.json`; only who writes
    /// text needs it.
    ///
    /// # Errors
    /// If the file is damaged, or asks for what this program does not do or the model does not have.
    pub fn generation(&self) -> Result<GenerationConfig, Error> {
        let file = self.generation_file();
        let generation = GenerationConfig::from_json(&file, &checkpoint::read_bounded(&file)?)?;
        check_ids(file, &generation.eos_token_id, &self.info)?;
        Ok(GenerationConfig { eos_token_id: self.eos.clone(), ..generation })
    }

    /// The file that says something about generating.
    pub fn generation_file(&self) -> PathBuf {
        let [own, of_model] = [GENERATION, "config.json"].map(|name| self.folder.join(name));
        if own.exists() { own } else { of_model }
    }

    /// What an adapter has to remember of the text that it is trained on.
    pub fn adapter_data(&self, format: DataFormat, text: &TextSettings) -> AdapterData {
        let chat = self.chat.as_deref().filter(|_| is_conversation(format));
        AdapterData::new(format, text, chat.map(|chat| Template(chat).fingerprint()))
    }

    /// What to say if conversations are written by another template than those that the adapter in `folder` was trained on.
    pub fn other_template(&self, data: Option<&AdapterData>, folder: &Path) -> Option<Notice> {
        let trained = data.and_then(|data| data.chat_template_sha256.as_ref())?;
        let found = self.chat.as_deref().map(|chat| Template(chat).fingerprint());
        (found.as_ref() != Some(trained)).then(|| Notice::OtherTemplate { folder: folder.to_owned() })
    }

    /// Tokenizer, chat template and generation settings, as far as they are there.
    pub(super) fn companions(&self) -> Vec<PathBuf> {
        checkpoint::files(&self.folder, &[&TOKENIZER_FILES[..], &[GENERATION]].concat())
    }
}

fn is_conversation(format: DataFormat) -> bool {
    matches!(format, DataFormat::Text(format) if format.is_conversation())
}

/// The embedding must have a row for every token but those that were added later, such as one for padding: a text that holds
/// one of them is an error of its own.
fn check_vocabulary(folder: &Path, tokenizer: &Tokenizer, info: &ModelInfo) -> Result<(), Error> {
    if tokenizer.base_vocab_size() <= info.vocab_size {
        return Ok(());
    }
    let found = info.vocab_size.to_string();
    let expected = format!(
        "at least {}, the tokens of {}; the tokenizer is that of another model",
        tokenizer.base_vocab_size(),
        tokenizer.file().display()
    );
    let file = folder.join("config.json");
    Err(nola_models::Error::Field { file, field: "vocab_size", found, expected }.into())
}

/// The tokens that the tokenizer puts before and behind every text.
fn around(tokenizer: &Tokenizer) -> Result<[Option<u32>; 2], Error> {
    let text = "a";
    let with = tokenizer.encode(text, Specials::AsModel)?;
    let without = tokenizer.encode(text, Specials::None)?;
    let Some(before) = (0..with.len()).find(|&start| with[start..].starts_with(&without)) else {
        return Ok([None; 2]);
    };
    Ok([with[..before].first().copied(), with[before + without.len()..].last().copied()])
}

/// End tokens that `config.json` names are the model's.
fn check_end(folder: &Path, config: &Value, info: &ModelInfo) -> Result<(), Error> {
    // What the file does not say is a default, which may be meant for larger vocabularies.
    match config.get("eos_token_id") {
        Some(_) => check_ids(folder.join("config.json"), &info.eos, info),
        None => Ok(()),
    }
}

fn check_ids(file: PathBuf, eos: &[u32], info: &ModelInfo) -> Result<(), Error> {
    let tokens = info.vocab_size;
    match eos.iter().find(|&&id| id as usize >= tokens) {
        None => Ok(()),
        Some(id) => {
            let (found, expected) =
                (id.to_string(), format!("an id below {tokens}, the model's tokens, or null"));
            Err(nola_models::Error::Field { file, field: "eos_token_id", found, expected }.into())
        }
    }
}

/// The tokens that end a text: those of the generation settings, else of the model's configuration, else of the tokenizer.
fn end_tokens(folder: &Path, tokenizer: &Tokenizer, info: &ModelInfo) -> Result<Vec<u32>, Error> {
    let file = folder.join(GENERATION);
    // What is wrong with the file is for those who generate.
    let of_generation = match file.exists() {
        true => GenerationConfig::end_tokens(&file, &checkpoint::read_bounded(&file)?).unwrap_or_default(),
        false => Vec::new(),
    };
    let known = |ids: &Vec<u32>| -> Vec<u32> {
        ids.iter().copied().filter(|&id| (id as usize) < info.vocab_size).collect()
    };
    let named = [of_generation, info.eos.clone(), tokenizer.eos().into_iter().collect()];
    Ok(named.iter().map(known).find(|ids| !ids.is_empty()).unwrap_or_default())
}

impl Encode for TextEncoder {
    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer.encode(text, Specials::None).map_err(|error| error.to_string())
    }

    fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), String> {
        let encoded = self.tokenizer.encode_with_offsets(text, Specials::None);
        encoded.map(|encoded| (encoded.ids, encoded.ranges)).map_err(|error| error.to_string())
    }

    fn bos(&self) -> Option<u32> {
        self.bos
    }

    fn closing(&self) -> Option<u32> {
        self.closing
    }

    fn unknown(&self) -> Option<(u32, String)> {
        let id = self.tokenizer.unknown()?;
        Some((id, self.tokenizer.token(id)?))
    }

    fn ends(&self) -> &[u32] {
        // What generation stops at, so that a trained model knows how to end.
        &self.eos
    }

    fn eos(&self) -> Option<u32> {
        // Of several tokens, the tokenizer's own ends a text.
        let own = self.tokenizer.eos().filter(|id| self.eos.contains(id));
        own.or_else(|| self.eos.first().copied())
    }

    fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    fn fingerprint(&self) -> String {
        format!("{} {:?} {:?} {:?}", self.tokenizer.sha256(), self.bos, self.ends(), self.eos())
    }
}

/// The chat template of a base, as the data set wants it.
pub struct Template<'a>(pub &'a ChatTemplate);

/// An error with all its reasons, which tell what the template itself said.
fn reasons(error: ChatError) -> String {
    let sources = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl ChatRender for Template<'_> {
    fn text(&self, conversation: &Conversation) -> Result<String, String> {
        self.0.render(conversation, Prompt::Complete).map_err(reasons)
    }

    fn render(&self, conversation: &Conversation) -> Result<Rendered, String> {
        self.0.assistant_spans(conversation).map_err(reasons)
    }

    fn mentions(&self, word: &str) -> bool {
        self.0.mentions(word)
    }

    fn unread(&self, conversation: &Conversation, text: &str) -> Vec<String> {
        self.0.unread(conversation, text)
    }

    fn fingerprint(&self) -> String {
        folder::sha256_hex(self.0.sources().as_bytes())
    }
}
