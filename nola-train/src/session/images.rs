//! Vision transformers as bases.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use nola_core::folder::{self, BaseIdentity, peft};
use nola_core::weight::Quantization;
use nola_core::{Adapted, Error as AdapterError, Reading};
use nola_models::checkpoint::MappedFiles;
use nola_models::hub::{self, Wanted};
use nola_models::vit::{Format, Problem};
use nola_models::{Checkpoint, Precision, Preprocessor, Vit, VitConfig, WeightDtype};
use serde::Serialize;

use super::attach::{AdapterFolder, Attached, Attaching, Origin, ReadAdapter, attach};
use super::notice::Notice;
use super::{Base, host_rows, model_folder};
use crate::adapter_data::AdapterData;
use crate::memory::give_back_freed;
use crate::settings::{DataFormat, Init, ModelSettings};
use crate::text::TextSettings;
use crate::{Error, device};

/// A vision transformer with what its folder says about images.
#[derive(Debug, Clone)]
pub struct ImageBase {
    /// The model on its device.
    pub vit: Vit,
    /// How images become its input.
    pub preprocessor: Preprocessor,
    /// Where its weights come from.
    pub origin: Origin,
    /// Where it lies.
    pub folder: PathBuf,
    /// How its linear layers were quantised.
    quantization: Option<Quantization>,
    /// The files that it may still compute with where they lie.
    files: MappedFiles,
}

/// A class of images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Class {
    /// What it is called.
    pub name: String,
    /// How sure the model is of it, from 0 to 1.
    pub probability: f32,
}

impl Base for ImageBase {
    type Model = Vit;

    fn open(
        settings: &ModelSettings,
        seed: u64,
        device: &Device,
        fetching: &dyn hub::Progress,
    ) -> Result<Self, Error> {
        device::check_dtype(device, settings.dtype)?;
        let folder = model_folder(&settings.path, Self::wanted(settings.init), fetching)?;
        let mut base = match settings.init {
            Init::Pretrained => Self::load(&folder, settings.precision(), device)?,
            Init::Random => Self::random(&folder, seed, settings.precision(), device)?,
        };
        base = base.resized(settings.image_size)?;
        base.check_input()?;
        base.check_unchanged()?;
        Ok(base)
    }

    fn wanted(_init: Init) -> Wanted {
        Wanted::Model
    }

    fn notices(&self) -> Vec<Notice> {
        let Origin::Stored(checkpoint) = &self.origin else { return Vec::new() };
        let left_out = self.vit.config().left_out_of(checkpoint);
        if left_out.is_empty() { Vec::new() } else { vec![Notice::VisionTower { left_out }] }
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
        self.vit.peft_module(site)
    }

    fn peft_task(&self) -> peft::Task {
        peft::Task::ImageClassification
    }

    fn with_adapter(
        self,
        adapter: ReadAdapter,
        device: &Device,
        reading: Reading,
    ) -> Result<Attached<Vit>, Error> {
        let origin = &self.origin;
        let foreign = |site: &str| self.vit.peft_module(site);
        let quantization = self.quantization;
        let attaching = Attaching { origin, quantization, foreign: &foreign, tied: None, device, reading };
        attach(adapter, &attaching, |folder, notices| with_outputs(self.vit.clone(), folder, notices))
    }

    fn without_adapter(self, device: &Device) -> Result<Adapted<Vit>, Error> {
        if self.vit.config().n_classes == 0 {
            let problem = "the model has no classification head; name an adapter with --adapter";
            return Err(needs_adapter(&self.folder, problem));
        }
        Ok(Adapted::probe(self.vit, &["head"], device)?)
    }

    fn labels(vit: &Vit) -> &[String] {
        &vit.config().labels
    }

    fn save(&self, vit: &Vit, folder: &Path, dtype: WeightDtype) -> Result<(), Error> {
        Ok(vit.save(folder, &self.preprocessor, dtype)?)
    }

    fn check_exportable(&self) -> Result<(), Error> {
        match self.vit.config().format() {
            Format::HuggingFace => Ok(()),
            Format::Timm => Err(Error::NotExportable {
                problem: "the base is one of timm's that no class of transformers computes, so PEFT cannot hold it",
            }),
        }
    }

    fn adapter_data(&self, _format: DataFormat, _text: &TextSettings) -> Option<AdapterData> {
        None
    }

    fn fixed_logits(&self, vit: &Vit, device: &Device) -> Vec<f32> {
        let side = vit.config().image_size;
        let pixels: Vec<f32> = (0..2 * 3 * side * side).map(|n| (n as f32 * 0.7).sin()).collect();
        let pixels = Tensor::<4>::from_data(TensorData::new(pixels, [2, 3, side, side]), device);
        host_rows(vit.forward(pixels)).concat()
    }
}

impl ImageBase {
    /// A released model on `device`.
    fn load(folder: &Path, precision: Precision, device: &Device) -> Result<Self, Error> {
        let checkpoint = Checkpoint::open(folder)?;
        let vit = Vit::load_as(&checkpoint, precision, device)?;
        let preprocessor = Preprocessor::of_checkpoint(&checkpoint, vit.config().image_size)?;
        let files = checkpoint.files().clone();
        give_back_freed();
        let origin = Origin::Stored(Arc::new(checkpoint));
        let (folder, quantization) = (folder.to_owned(), precision.quantization);
        Ok(Self { vit, preprocessor, origin, folder, quantization, files })
    }

    fn random(folder: &Path, seed: u64, precision: Precision, device: &Device) -> Result<Self, Error> {
        let config = VitConfig::read(folder)?;
        let preprocessor = Preprocessor::standard(config.image_size);
        let text = serde_json::to_vec(&config.to_json()).unwrap_or_default();
        let identity = BaseIdentity {
            name: format!("random weights, seed {seed}"),
            config_sha256: folder::sha256_hex(&text),
            weights_sha256: folder::sha256_hex(format!("seed {seed}").as_bytes()),
            tensors_sha256: None,
            quantization: None,
        };
        let vit = Vit::init_as(&config, seed, precision, device);
        let (origin, files) = (Origin::Drawn(identity), MappedFiles::default());
        let (folder, quantization) = (folder.to_owned(), precision.quantization);
        Ok(Self { vit, preprocessor, origin, folder, quantization, files })
    }

    /// How sure `vit`, which came from this base, is of each class, from 0 to 1: one list for each input that the
    /// preprocessor made.
    pub fn classify(&self, vit: &Vit, inputs: &[&[f32]], device: &Device) -> Vec<Vec<f32>> {
        let [height, width] = self.preprocessor.output_size();
        let shape = [inputs.len(), 3, height, width];
        let pixels = Tensor::from_data(TensorData::new(inputs.concat(), shape), device);
        host_rows(vit.probabilities(vit.forward(pixels)))
    }

    /// The `top` classes of `vit` that are most probable, the likeliest first.
    ///
    /// # Errors
    /// With the first probability that is not finite.
    pub fn most_probable(vit: &Vit, probabilities: Vec<f32>, top: usize) -> Result<Vec<Class>, f32> {
        if let Some(&value) = probabilities.iter().find(|probability| !probability.is_finite()) {
            return Err(value);
        }
        let labels = &vit.config().labels;
        let class = |(index, probability)| {
            let name = labels.get(index).cloned().unwrap_or_else(|| format!("class {index}"));
            Class { name, probability }
        };
        let mut classes: Vec<Class> = probabilities.into_iter().enumerate().map(class).collect();
        classes.sort_by(|left, right| right.probability.total_cmp(&left.probability));
        classes.truncate(top);
        Ok(classes)
    }

    /// Requires a model that gives an image one of several classes, as data in folders does.
    ///
    /// # Errors
    /// If each class of `vit` stands for itself.
    pub fn check_one_class_each(&self, vit: &Vit) -> Result<(), Error> {
        let wrong = |field, found: &str, expected: &str| {
            let (found, expected) = (found.to_owned(), expected.to_owned());
            Err(nola_models::Error::Field { file: self.folder.join("config.json"), field, found, expected }
                .into())
        };
        if vit.config().problem == Problem::MultiLabel {
            let expected = "`single_label_classification`, since images here have one class each; `predict` scores every class";
            return wrong("problem_type", "`multi_label_classification`", expected);
        }
        if vit.config().n_classes == 1 {
            let expected =
                "two classes or more, since an image here has one of several; `predict` scores a single one";
            return wrong("id2label", "one class", expected);
        }
        Ok(())
    }

    /// For images of another size, if one is asked for; else, where transformers fits the positions to every image, for those that
    /// the preprocessor puts out.
    fn resized(mut self, image_size: Option<usize>) -> Result<Self, Error> {
        if let Some(image_size) = image_size {
            self.vit = self.vit.resized(image_size)?;
            self.preprocessor = self.preprocessor.resized(image_size);
            return Ok(self);
        }
        if let Some(side) = self.vit.config().followed_size(&self.preprocessor) {
            self.vit = self.vit.resized(side)?;
        }
        Ok(self)
    }

    /// What the preprocessor puts out must be what the model takes: a forward pass would only panic.
    fn check_input(&self) -> Result<(), Error> {
        let (config, [height, width]) = (self.vit.config(), self.preprocessor.output_size());
        let wrong = |name: &str, field, found, expected| {
            let file = self.folder.join(name);
            Err(nola_models::Error::Field { file, field, found, expected }.into())
        };
        if config.channels != 3 {
            let expected = "3: images are read as red, green and blue".to_owned();
            return wrong("config.json", "num_channels", config.channels.to_string(), expected);
        }
        if [height, width] != [config.image_size; 2] {
            let expected = format!("{0} x {0} pixels, the model's `image_size`", config.image_size);
            let found = format!("{height} x {width} pixels (after cropping)");
            return wrong("preprocessor_config.json", "size", found, expected);
        }
        Ok(())
    }
}

/// The model with a head of the adapter's size: with its labels, else with those of the base if their number fits.
fn with_outputs(vit: Vit, adapter: &AdapterFolder, notices: &mut Vec<Notice>) -> Vit {
    let Some(outputs) = adapter.head_outputs else { return vit };
    let of_base = &vit.config().labels;
    if adapter.labels.len() == outputs {
        return vit.with_head(&adapter.labels);
    }
    if of_base.len() == outputs {
        return vit;
    }
    notices.push(Notice::UnnamedClasses { outputs });
    let numbered: Vec<String> = (0..outputs).map(|class| format!("LABEL_{class}")).collect();
    vit.with_head(&numbered)
}

/// The error of a base that needs an adapter to answer.
fn needs_adapter(folder: &Path, problem: &str) -> Error {
    AdapterError::Invalid { file: folder.to_owned(), problems: vec![problem.to_owned()] }.into()
}
