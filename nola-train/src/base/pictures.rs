//! The base model of a run, and the adapter somebody trained on it.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use nola_core::folder::{self, BaseIdentity, peft};
use nola_core::{Adapted, Error as AdapterError};
use nola_models::vit::peft_names;
use nola_models::{Checkpoint, Preprocessor, Vit, VitConfig};

use crate::Error;
use crate::recipe::{Init, ModelRecipe};

/// A loaded base model with what its folder says about pictures.
#[derive(Debug, Clone)]
pub struct Base {
    /// The model on its device.
    pub vit: Vit,
    /// How pictures become its input.
    pub preprocessor: Preprocessor,
    /// What an adapter remembers of it.
    pub identity: BaseIdentity,
    /// Where it came from.
    pub folder: PathBuf,
}

impl Base {
    /// Loads or initialises the base of a recipe on `device`.
    ///
    /// # Errors
    /// If the folder is no ViT this program reads, or the image size does not fit its patches.
    pub fn open(recipe: &ModelRecipe, seed: u64, device: &Device) -> Result<Self, Error> {
        let mut base = match recipe.init {
            Init::Pretrained => Self::load(&recipe.path, device)?,
            Init::Random => Self::random(&recipe.path, seed, device)?,
        };
        if let Some(image_size) = recipe.image_size {
            base.vit = base.vit.resized(image_size)?;
            base.preprocessor = base.preprocessor.resized(image_size);
        }
        base.check_input()?;
        Ok(base)
    }

    /// Loads a released model on `device`.
    ///
    /// # Errors
    /// If the folder is no ViT this program reads.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, Error> {
        let checkpoint = Checkpoint::open(folder)?;
        let vit = Vit::load(&checkpoint, device)?;
        let preprocessor = Preprocessor::of_checkpoint(&checkpoint, vit.config().image_size)?;
        Ok(Self { vit, preprocessor, identity: checkpoint.identity(), folder: folder.to_owned() })
    }

    fn random(folder: &Path, seed: u64, device: &Device) -> Result<Self, Error> {
        let config = VitConfig::read(folder)?;
        let preprocessor = Preprocessor::standard(config.image_size);
        let text = serde_json::to_vec(&config.to_json()).unwrap_or_default();
        let identity = BaseIdentity {
            name: format!("random weights, seed {seed}"),
            config_sha256: folder::sha256_hex(&text),
            weights_sha256: folder::sha256_hex(format!("seed {seed}").as_bytes()),
        };
        Ok(Self { vit: Vit::init(&config, seed, device), preprocessor, identity, folder: folder.to_owned() })
    }

    /// What the preprocessor puts out must be what the model takes: a forward pass would only panic.
    fn check_input(&self) -> Result<(), Error> {
        let (config, [height, width]) = (self.vit.config(), self.preprocessor.output_size());
        let wrong = |name: &str, field, found, expected| {
            let file = self.folder.join(name);
            Err(nola_models::Error::Field { file, field, found, expected }.into())
        };
        if config.channels != 3 {
            let expected = "3: pictures are read as red, green and blue".to_owned();
            return wrong("config.json", "num_channels", config.channels.to_string(), expected);
        }
        if [height, width] != [config.image_size; 2] {
            let expected = format!("{0} x {0} pixels, the model's `image_size`", config.image_size);
            let found = format!("{height} x {width} pixels (after cropping)");
            return wrong("preprocessor_config.json", "size", found, expected);
        }
        Ok(())
    }

    /// The base with an adapter from a folder: ours, or a LoRA of PEFT's.
    ///
    /// # Errors
    /// If the adapter is damaged, of another base, or does not fit.
    pub fn with_adapter(self, adapter_folder: &Path, device: &Device) -> Result<Adapted<Vit>, Error> {
        if peft::is_peft(adapter_folder) {
            let adapter = peft::read(adapter_folder)?;
            if let Some(expected) = adapter.base() {
                folder::check_base(&adapter_folder.join("adapter_config.json"), expected, &self.identity)?;
            }
            let labels = adapter.labels().to_vec();
            let outputs = adapter.head_outputs(&peft_names);
            let vit = match outputs {
                Some(outputs) => with_outputs(self.vit, &labels, outputs),
                None => self.vit,
            };
            return Ok(adapter.attach(vit, &peft_names, device)?);
        }
        let saved = folder::read(adapter_folder)?;
        let labels = saved.manifest.labels.clone();
        let vit = if labels.is_empty() { self.vit } else { self.vit.with_head(&labels) };
        Ok(saved.attach(vit, &self.identity, device)?)
    }

    /// The base without an adapter: nothing is trained in it, only its own head is used.
    ///
    /// # Errors
    /// If it has no head.
    pub fn without_adapter(self, device: &Device) -> Result<Adapted<Vit>, Error> {
        if self.vit.config().n_classes == 0 {
            let problem = "the model has no classification head; name an adapter with --adapter".to_owned();
            return Err(AdapterError::Invalid { file: self.folder, problems: vec![problem] }.into());
        }
        Ok(Adapted::probe(self.vit, &["head"], device)?)
    }
}

/// A head of the adapter's size: with its labels, else with those of the base if their number fits.
fn with_outputs(vit: Vit, labels: &[String], outputs: usize) -> Vit {
    let of_base = &vit.config().labels;
    if labels.len() == outputs {
        return vit.with_head(labels);
    }
    if of_base.len() == outputs {
        return vit;
    }
    let numbered: Vec<String> = (0..outputs).map(|class| format!("LABEL_{class}")).collect();
    vit.with_head(&numbered)
}
