//! Models as tests over several kinds of them see them, and the inputs that golden values were computed from.

use std::path::Path;

use burn::tensor::Device;
use nola_core::folder::peft::{ForeignModule, Task};
use nola_models::{CausalLm, Checkpoint, Vit, VitConfig};
use nola_train::model_with_loss::{ImageBatch, ModelWithLoss, TextBatch};
use nola_train::text::{Sample, TokenBatch};

use crate::devices::{classes, device, tensor, values};
use crate::fixtures::{self, Golden, Tensors};

/// A model that tests over several kinds of models can load, feed and name.
pub trait TestModel: ModelWithLoss<Batch: Clone> {
    /// What PEFT calls its task.
    const TASK: Task;

    /// The model of a checkpoint of the fixtures.
    ///
    /// # Panics
    /// If it does not load.
    fn load(checkpoint: &Checkpoint, device: &Device) -> Self;

    /// The model for inputs of the size of `batch`, where it takes others too.
    fn fitted(self, _batch: &Self::Batch) -> Self {
        self
    }

    /// What the golden values of a model were computed from.
    fn golden_batch(inputs: &Tensors, device: &Device) -> Self::Batch;

    /// Every logit of a batch, row-major.
    fn logits_of(&self, batch: &Self::Batch) -> Vec<f32>;

    /// Where transformers keeps the module that we call `path`.
    fn foreign_module(&self, path: &str) -> ForeignModule;
}

impl TestModel for Vit {
    const TASK: Task = Task::ImageClassification;

    fn load(checkpoint: &Checkpoint, device: &Device) -> Self {
        Vit::load(checkpoint, device).expect("a ViT of the fixtures")
    }

    fn fitted(self, batch: &ImageBatch) -> Self {
        let [_, _, side, _] = batch.pixels.dims();
        self.resized(side).expect("whole patches")
    }

    fn golden_batch(inputs: &Tensors, device: &Device) -> ImageBatch {
        ImageBatch {
            pixels: tensor(&inputs["pixel_values"], device),
            labels: classes(&inputs["labels"], device),
        }
    }

    fn logits_of(&self, batch: &ImageBatch) -> Vec<f32> {
        values(self.forward(batch.pixels.clone()))
    }

    fn foreign_module(&self, path: &str) -> ForeignModule {
        self.peft_module(path)
    }
}

impl TestModel for CausalLm {
    const TASK: Task = Task::CausalLanguageModel;

    fn load(checkpoint: &Checkpoint, device: &Device) -> Self {
        CausalLm::load(checkpoint, device).expect("a language model of the fixtures")
    }

    fn golden_batch(inputs: &Tensors, device: &Device) -> TextBatch {
        // The last token of a sample is only predicted; golden logits are there for all, so one more comes behind.
        let sample = |row: Vec<u32>| Sample {
            trained: std::iter::once(1..row.len()).collect(),
            ids: [row, vec![0]].concat(),
        };
        let samples: Vec<Sample> = rows_of(&inputs["input_ids"]).into_iter().map(sample).collect();
        text_batch(&samples, device)
    }

    fn logits_of(&self, batch: &TextBatch) -> Vec<f32> {
        values(self.logits(self.hidden(batch.ids.clone(), &batch.mask)))
    }

    fn foreign_module(&self, path: &str) -> ForeignModule {
        self.peft_module(path)
    }
}

/// One sample a row.
pub fn text_batch(samples: &[Sample], device: &Device) -> TextBatch {
    let rows: Vec<Vec<&Sample>> = samples.iter().map(|sample| vec![sample]).collect();
    TextBatch::new(&TokenBatch::of(&rows), device)
}

/// The rows of a golden matrix of token ids.
pub fn rows_of(golden: &Golden) -> Vec<Vec<u32>> {
    let ids: Vec<u32> = golden.i64().iter().map(|&id| id as u32).collect();
    ids.chunks(golden.shape[1]).map(<[u32]>::to_vec).collect()
}

/// A model of the fixtures on the device under test, with its inputs.
pub struct Loaded<M: TestModel> {
    pub model: M,
    pub batch: M::Batch,
    pub device: Device,
}

impl<M: TestModel> Loaded<M> {
    /// Loads the model of `folder`.
    pub fn open(folder: &Path, checkpoint: &Checkpoint) -> Self {
        let device = device();
        let (inputs, _) = fixtures::tensors(&folder.join("expected.safetensors"));
        let batch = M::golden_batch(&inputs, &device);
        Self { model: M::load(checkpoint, &device).fitted(&batch), batch, device }
    }
}

/// What a case's `config.json` says it is.
pub enum Kind {
    Vit,
    Language,
    /// Why the project does not read it.
    Unsupported(String),
}

/// What `checkpoint` holds.
pub fn kind(checkpoint: &Checkpoint) -> Kind {
    let config = checkpoint.config();
    match (config["model_type"].as_str(), config["architecture"].as_str()) {
        _ if VitConfig::is_named_by(config) => Kind::Vit,
        _ if CausalLm::is_named_by(config) => Kind::Language,
        (Some(other), _) | (None, Some(other)) => {
            Kind::Unsupported(format!("models of type `{other}` are not supported yet"))
        }
        (None, None) => Kind::Unsupported("its config.json has no model_type".to_owned()),
    }
}
