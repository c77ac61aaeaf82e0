//! Causal language models as bases.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_core::Adapted;
use nola_core::folder::{self, BaseIdentity, peft};
use nola_models::Sight;
use nola_models::chat::{ChatTemplate, Message};
use nola_models::checkpoint::MappedFiles;
use nola_models::generate::GenerationConfig;
use nola_models::hub::{TOKENIZER_FILES, Wanted};
use nola_models::tokenizer::{Specials, Tokenizer};
use nola_models::{CausalLm, Checkpoint, WeightDtype, checkpoint};

use super::{Base, Origin, attach};
use crate::evaluate::host_rows;
use crate::recipe::{Init, ModelRecipe};
use crate::text::{self, ChatRender, Encode};
use crate::{Error, device};

/// How a model's makers let it generate.
const GENERATION: &str = "generation_config.json";

/// What is one matrix in a base with tied weights.
const TIED: peft::TiedHead = peft::TiedHead { embedding: "tokens", head: "head" };

/// A language model with its tokenizer and what its folder says about generating.
#[derive(Debug, Clone)]
pub struct TextBase {
    /// The model on its device.
    pub model: CausalLm,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// How conversations are written, if the folder says so.
    pub chat: Option<Arc<ChatTemplate>>,
    /// What the folder says about generating.
    pub generation: GenerationConfig,
    /// The token that the tokenizer puts before every text, if it does.
    bos: Option<u32>,
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
        let generation = generation(&folder, &tokenizer, &model)?;
        let chat = ChatTemplate::of_folder(&folder, &tokenizer)?.map(Arc::new);
        let first = tokenizer.encode("", Specials::AsModel)?.first().copied();
        let bos = first.filter(|first| tokenizer.bos() == Some(*first));
        files.check_unchanged()?;
        Ok(Self { model, tokenizer: Arc::new(tokenizer), chat, generation, bos, origin, folder, files })
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
            true => self.model.clone().untied(),
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

    fn fixed_logits(&self, model: &CausalLm, device: &Device) -> Vec<f32> {
        let tokens = model.facts().max_tokens.min(16);
        let ids: Vec<i64> =
            (0..2 * tokens).map(|n| ((n * 7919 + 13) % model.facts().vocab_size) as i64).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [2, tokens]), device);
        let hidden = model.hidden(ids.clone(), &Sight::causal(&ids));
        let [rows, tokens, d_model] = hidden.dims();
        host_rows(model.logits(hidden.reshape([rows * tokens, d_model]))).concat()
    }
}

impl TextBase {
    /// Tokenizer, chat template and generation settings, as far as they are there.
    fn companions(&self) -> Vec<PathBuf> {
        let files = TOKENIZER_FILES.iter().chain(&[GENERATION]).map(|name| self.folder.join(name));
        files.filter(|file| file.is_file()).collect()
    }
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

/// A token that the embedding has no row for would only panic in the forward pass.
fn check_vocabulary(folder: &Path, tokenizer: &Tokenizer, model: &CausalLm) -> Result<(), Error> {
    if tokenizer.vocab_size() <= model.facts().vocab_size {
        return Ok(());
    }
    let found = model.facts().vocab_size.to_string();
    let expected = format!(
        "at least {}, the tokens of {}; the tokenizer is that of another model",
        tokenizer.vocab_size(),
        tokenizer.file().display()
    );
    let file = folder.join("config.json");
    Err(nola_models::Error::Field { file, field: "vocab_size", found, expected }.into())
}

/// The folder's generation settings; the end tokens come from there, else from the model's configuration, else from the tokenizer.
///
/// An end token outside the vocabulary, which some folders name, ends nothing and is left out.
fn generation(folder: &Path, tokenizer: &Tokenizer, model: &CausalLm) -> Result<GenerationConfig, Error> {
    let file = folder.join(GENERATION);
    let mut generation = match std::fs::read(&file) {
        Ok(text) => GenerationConfig::from_json(&file, &text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => GenerationConfig::default(),
        Err(source) => return Err(nola_models::Error::Io { file, source }.into()),
    };
    let known = |ids: &[u32]| -> Vec<u32> {
        ids.iter().copied().filter(|&id| (id as usize) < model.facts().vocab_size).collect()
    };
    let named = [generation.eos_token_id.clone(), model.facts().eos, tokenizer.eos().into_iter().collect()];
    generation.eos_token_id =
        named.iter().map(|ids| known(ids)).find(|ids| !ids.is_empty()).unwrap_or_default();
    Ok(generation)
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

    fn eos(&self) -> Option<u32> {
        // What generation stops at, so that a trained model knows how to end.
        self.generation.eos_token_id.first().copied()
    }

    fn vocab_size(&self) -> usize {
        self.model.facts().vocab_size
    }

    fn fingerprint(&self) -> String {
        format!("{} {:?} {:?}", self.tokenizer.sha256(), self.bos, Encode::eos(self))
    }
}

/// The chat template of a base, as the data set wants it.
pub struct Template<'a>(pub &'a ChatTemplate);

impl ChatRender for Template<'_> {
    fn render(&self, messages: &[text::Message]) -> Result<(String, Vec<Range<usize>>), String> {
        let messages: Vec<Message> =
            messages.iter().map(|of| Message::new(of.role.name(), &of.content)).collect();
        let rendered = self.0.assistant_spans(&messages).map_err(|error| error.to_string())?;
        Ok((rendered.text, rendered.assistant))
    }

    fn fingerprint(&self) -> String {
        std::fs::read(self.0.file()).map_or(String::new(), |bytes| folder::sha256_hex(&bytes))
    }
}
