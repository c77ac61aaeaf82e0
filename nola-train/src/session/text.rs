//! Causal language models as bases.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_core::folder::{self, BaseIdentity, peft};
use nola_core::weight::Quantization;
use nola_core::{Adapted, Reading};
use nola_models::checkpoint::MappedFiles;
use nola_models::hub::{self, Wanted};
use nola_models::{AttentionMask, CausalLm, Checkpoint, Precision, WeightDtype, checkpoint};

use super::attach::{Attached, Attaching, Origin, ReadAdapter, attach};
use super::encoder::TextEncoder;
use super::notice::Notice;
use super::{Base, host_rows, model_folder};
use crate::adapter_data::AdapterData;
use crate::memory::give_back_freed;
use crate::model_with_loss::TIED;
use crate::settings::{DataFormat, Init, ModelSettings};
use crate::text::TextSettings;
use crate::{Error, device};

/// A language model with its tokenizer and what its folder says about generating.
#[derive(Debug, Clone)]
pub struct TextBase {
    /// The model on its device.
    pub model: CausalLm,
    /// Text to its tokens and back.
    pub encoder: TextEncoder,
    /// Where its weights come from.
    pub origin: Origin,
    /// How its linear layers were quantised.
    quantization: Option<Quantization>,
    /// The files that it may still compute with where they lie.
    files: MappedFiles,
}

impl TextBase {
    /// Loads or initialises the weights that belong to `encoder`.
    ///
    /// # Errors
    /// If they are absent or damaged, or the device does not compute in their number type.
    pub fn load(
        encoder: TextEncoder,
        settings: &ModelSettings,
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        device::check_dtype(device, settings.dtype)?;
        let folder = &encoder.folder;
        let (model, origin, files) = match settings.init {
            Init::Pretrained => {
                let checkpoint = Checkpoint::open(folder)?;
                let model = CausalLm::load_as(&checkpoint, settings.precision(), device)?;
                let files = checkpoint.files().clone();
                (model, Origin::Stored(Arc::new(checkpoint)), files)
            }
            Init::Random => {
                let (model, identity) = random(folder, seed, settings.precision(), device)?;
                (model, Origin::Drawn(identity), MappedFiles::default())
            }
        };
        files.check_unchanged()?;
        give_back_freed();
        let quantization = settings.quantize.quantization();
        Ok(Self { model, encoder, origin, quantization, files })
    }
}

impl Base for TextBase {
    type Model = CausalLm;

    fn open(
        settings: &ModelSettings,
        seed: u64,
        device: &Device,
        fetching: &dyn hub::Progress,
    ) -> Result<Self, Error> {
        device::check_dtype(device, settings.dtype)?;
        let folder = model_folder(&settings.path, Self::wanted(settings.init), fetching)?;
        Self::load(TextEncoder::open(&folder)?, settings, seed, device)
    }

    fn wanted(init: Init) -> Wanted {
        match init {
            Init::Pretrained => Wanted::ModelAndTokenizer,
            Init::Random => Wanted::Tokenizer,
        }
    }

    fn notices(&self) -> Vec<Notice> {
        self.encoder.notices()
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

    fn with_adapter(
        self,
        adapter: ReadAdapter,
        device: &Device,
        reading: Reading,
    ) -> Result<Attached<CausalLm>, Error> {
        let foreign = |site: &str| self.model.peft_module(site);
        let tied = self.model.has_tied_head().then_some(TIED);
        let attaching = Attaching {
            origin: &self.origin,
            quantization: self.quantization,
            foreign: &foreign,
            tied,
            device,
            reading,
        };
        attach(adapter, &attaching, |folder, notices| match folder.unties {
            true => {
                notices.push(Notice::Untied);
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
        Ok(model.save_with(folder, dtype, &self.encoder.companions())?)
    }

    fn check_exportable(&self) -> Result<(), Error> {
        Ok(())
    }

    fn adapter_data(&self, format: DataFormat, text: &TextSettings) -> Option<AdapterData> {
        Some(self.encoder.adapter_data(format, text))
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

fn random(
    folder: &Path,
    seed: u64,
    precision: Precision,
    device: &Device,
) -> Result<(CausalLm, BaseIdentity), Error> {
    let config = checkpoint::read_config(folder)?;
    let identity = BaseIdentity {
        name: format!("random weights, seed {seed}"),
        config_sha256: folder::sha256_hex(config.to_string().as_bytes()),
        weights_sha256: folder::sha256_hex(format!("seed {seed}").as_bytes()),
        tensors_sha256: None,
        quantization: None,
    };
    Ok((CausalLm::init_as(folder, seed, precision, device)?, identity))
}
