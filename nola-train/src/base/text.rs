//! Causal language models as bases.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_core::Adapted;
use nola_core::folder::{self, BaseIdentity, peft};
use nola_models::AttentionMask;
use nola_models::chat::{ChatError, ChatTemplate, Conversation, Prompt, Rendered};
use nola_models::checkpoint::MappedFiles;
use nola_models::generate::GenerationConfig;
use nola_models::hub::{TOKENIZER_FILES, Wanted};
use nola_models::tokenizer::{Specials, Tokenizer};
use nola_models::{CausalLm, Checkpoint, WeightDtype, checkpoint};

use super::{Base, Origin, attach};
use crate::evaluate::host_rows;
use crate::recipe::{AdapterData, DataFormat, DataRecipe, Init, ModelRecipe};
use crate::terminal::err_line;
use crate::text::{ChatRender, Encode};
use crate::{Error, device};

/// How a model's makers let it generate.
const GENERATION: &str = "generation_config.json";

/// What is one matrix in a base with tied weights.
pub(crate) const TIED: peft::TiedHead = peft::TiedHead { embedding: "tokens", head: "head" };

/// A language model with its tokenizer and what its folder says about generating.
#[derive(Debug, Clone)]
pub struct TextBase {
    /// The model on its device.
    pub model: CausalLm,
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
    /// Where its weights come from.
    pub origin: Origin,
    /// Where it came from.
    pub folder: PathBuf,
    /// The files that it may still compute with where they lie.
    files: MappedFiles,
}

impl Base for TextBase {
    type Model = CausalLm;

    fn open(recipe: &ModelRecipe, seed: u64, device: &Device) -> Result<Self, Error> {
        device::check_dtype(device, recipe.dtype)?;
        let (model, origin, folder, files) = match recipe.init {
            Init::Pretrained => {
                let folder = recipe.folder(Wanted::ModelAndTokenizer)?;
                let checkpoint = Checkpoint::open(&folder)?;
                let model = CausalLm::load_as(&checkpoint, recipe.dtype, device)?;
                let files = checkpoint.files().clone();
                (model, Origin::Stored(Arc::new(checkpoint)), folder, files)
            }
            Init::Random => {
                let folder = recipe.folder(Wanted::Tokenizer)?;
                let (model, identity) = random(&folder, seed, recipe.dtype, device)?;
                (model, Origin::Drawn(identity), folder, MappedFiles::default())
            }
        };
        let tokenizer = Tokenizer::open(&folder)?;
        check_vocabulary(&folder, &tokenizer, &model)?;
        check_end(&folder, &model)?;
        let eos = end_tokens(&folder, &tokenizer, &model)?;
        tell(&tokenizer);
        let chat = ChatTemplate::of_folder(&folder, &tokenizer)?.map(Arc::new);
        let [bos, closing] = around(&tokenizer)?;
        let closing = closing.filter(|&id| (id as usize) < model.info().vocab_size);
        files.check_unchanged()?;
        Ok(Self { model, tokenizer: Arc::new(tokenizer), chat, eos, bos, closing, origin, folder, files })
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        Ok(self.files.check_unchanged()?)
    }

    fn identity(&self) -> &BaseIdentity {
        self.origin.identity()
    }

    fn check_intact(&self) -> Result<(), Error> {
        self.origin.check_intact()
    }

    fn foreign_module(&self, site: &str) -> peft::ForeignModule {
        self.model.peft_module(site)
    }

    fn peft_task(&self) -> peft::Task {
        peft::Task::CausalLanguageModel
    }

    fn with_adapter(self, adapter: &Path, device: &Device) -> Result<Adapted<CausalLm>, Error> {
        let foreign = |site: &str| self.model.peft_module(site);
        let tied = self.model.has_tied_head().then_some(TIED);
        attach(adapter, &self.origin, &foreign, tied, device, |folder| match folder.unties {
            true => {
                tell_untied();
                self.model.clone().untied()
            }
            false => self.model.clone(),
        })
    }

    fn without_adapter(self, device: &Device) -> Result<Adapted<CausalLm>, Error> {
        Ok(Adapted::probe(self.model, &[], device)?)
    }

    fn labels(_model: &CausalLm) -> &[String] {
        &[]
    }

    fn save(&self, model: &CausalLm, folder: &Path, dtype: WeightDtype) -> Result<(), Error> {
        Ok(model.save_with(folder, dtype, &self.companions())?)
    }

    fn check_exportable(&self) -> Result<(), Error> {
        Ok(())
    }

    fn adapter_data(&self, recipe: &DataRecipe) -> Option<AdapterData> {
        let chat = self.chat.as_deref().filter(|_| is_conversation(recipe.format));
        Some(AdapterData::of_recipe(recipe, chat.map(|chat| Template(chat).fingerprint())))
    }

    fn fixed_logits(&self, model: &CausalLm, device: &Device) -> Vec<f32> {
        let tokens = model.info().max_tokens.min(16);
        let ids: Vec<i64> =
            (0..2 * tokens).map(|n| ((n * 7919 + 13) % model.info().vocab_size) as i64).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [2, tokens]), device);
        let hidden = model.hidden(ids.clone(), &AttentionMask::causal(&ids));
        let [rows, tokens, d_model] = hidden.dims();
        host_rows(model.logits(hidden.reshape([rows * tokens, d_model]))).concat()
    }
}

impl TextBase {
    /// What the folder says about generating, in a file of its own or, as older ones do, in `config.json`; only who writes
    /// text needs it.
    ///
    /// # Errors
    /// If the file is damaged, or asks for what this program does not do or the model does not have.
    pub fn generation(&self) -> Result<GenerationConfig, Error> {
        let file = self.generation_file();
        let generation = GenerationConfig::from_json(&file, &checkpoint::read_bounded(&file)?)?;
        check_ids(file, &generation.eos_token_id, &self.model)?;
        Ok(GenerationConfig { eos_token_id: self.eos.clone(), ..generation })
    }

    /// The file that says something about generating.
    pub fn generation_file(&self) -> PathBuf {
        let [own, of_model] = [GENERATION, "config.json"].map(|name| self.folder.join(name));
        if own.exists() { own } else { of_model }
    }

    /// Says so if conversations are written by another template than those that the adapter `name` was trained on.
    pub fn warn_of_template(&self, data: Option<&AdapterData>, name: &Path) {
        let Some(trained) = data.and_then(|data| data.chat_template_sha256.as_ref()) else { return };
        let found = self.chat.as_deref().map(|chat| Template(chat).fingerprint());
        if found.as_ref() != Some(trained) {
            err_line(&format!(
                "warning: {}: trained with another chat template than the model has now; restore the model's template",
                name.display()
            ));
        }
    }

    /// Tokenizer, chat template and generation settings, as far as they are there.
    fn companions(&self) -> Vec<PathBuf> {
        let files = TOKENIZER_FILES.iter().chain(&[GENERATION]).map(|name| self.folder.join(name));
        files.filter(|file| file.is_file()).collect()
    }
}

fn is_conversation(format: DataFormat) -> bool {
    matches!(format, DataFormat::Text(format) if format.is_conversation())
}

fn random(
    folder: &Path,
    seed: u64,
    dtype: WeightDtype,
    device: &Device,
) -> Result<(CausalLm, BaseIdentity), Error> {
    let config = checkpoint::read_config(folder)?;
    let identity = BaseIdentity {
        name: format!("random weights, seed {seed}"),
        config_sha256: folder::sha256_hex(config.to_string().as_bytes()),
        weights_sha256: folder::sha256_hex(format!("seed {seed}").as_bytes()),
        tensors_sha256: None,
    };
    Ok((CausalLm::init_as(folder, seed, dtype, device)?, identity))
}

/// The embedding must have a row for every token but those that were added later, such as one for padding: a text that holds
/// one of them is an error of its own.
fn check_vocabulary(folder: &Path, tokenizer: &Tokenizer, model: &CausalLm) -> Result<(), Error> {
    if tokenizer.base_vocab_size() <= model.info().vocab_size {
        return Ok(());
    }
    let found = model.info().vocab_size.to_string();
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
fn check_end(folder: &Path, model: &CausalLm) -> Result<(), Error> {
    // What the file does not say is a default, which may be meant for larger vocabularies.
    match model.json().get("eos_token_id") {
        Some(_) => check_ids(folder.join("config.json"), &model.info().eos, model),
        None => Ok(()),
    }
}

fn check_ids(file: PathBuf, eos: &[u32], model: &CausalLm) -> Result<(), Error> {
    let tokens = model.info().vocab_size;
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
fn end_tokens(folder: &Path, tokenizer: &Tokenizer, model: &CausalLm) -> Result<Vec<u32>, Error> {
    let file = folder.join(GENERATION);
    // What is wrong with the file is for those who generate.
    let of_generation = match file.exists() {
        true => GenerationConfig::end_tokens(&file, &checkpoint::read_bounded(&file)?).unwrap_or_default(),
        false => Vec::new(),
    };
    let known = |ids: &Vec<u32>| -> Vec<u32> {
        ids.iter().copied().filter(|&id| (id as usize) < model.info().vocab_size).collect()
    };
    let named = [of_generation, model.info().eos, tokenizer.eos().into_iter().collect()];
    Ok(named.iter().map(known).find(|ids| !ids.is_empty()).unwrap_or_default())
}

/// Says once that an adapter changes the head or the token embedding of a base where they are one matrix.
pub(crate) fn tell_untied() {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        err_line(
            "tied embedding: it is the head of the base too; the adapter changes them apart, as in PEFT, and a merged model has both",
        );
    });
}

/// Says once how the tokenizer's files were read, where libraries differ.
fn tell(tokenizer: &Tokenizer) {
    static TOLD: Once = Once::new();
    let notes = tokenizer.notes();
    if !notes.is_empty() {
        TOLD.call_once(|| notes.iter().for_each(|note| err_line(&format!("tokenizer: {note}"))));
    }
}

impl Encode for TextBase {
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
