//! What differs between a run on images and a run on text; [`fit`](crate::fit) and [`run`](crate::run) know no more.

mod images;
mod text;

use std::ops::Range;
use std::path::Path;

use burn::tensor::Device;

pub use images::{ImageTask, Splits, load, say_held_out};
pub use text::{OpenedText, Text, all_references, open_texts, text_format};

use crate::Error;
use crate::baseline::Baseline;
use crate::completion::Completion;
use crate::data_counts::DataCounts;
use crate::data_files::HubData;
use crate::data_hash::DataHash;
use crate::evaluate::TextScores;
use crate::model_with_loss::ModelWithLoss;
use crate::progress::{Scores, Style, Target};
use crate::ranks::Ranks;
use crate::recipe::{Recipe, SamplesRecipe};
use crate::report::ReportSections;
use crate::session::Base;
use crate::train::{StepPasses, StepSamples};

/// The model of a task.
pub type Model<T> = <<T as Task>::Base as Base>::Model;

/// What one pass of a task sees.
pub type Batch<T> = <Model<T> as ModelWithLoss>::Batch;

/// Most samples of [`Task::few_samples`], as in ALoRA's paper.
const FEW: usize = 32;

/// Places of [`FEW`] samples that are spread over `count`.
fn spread(count: usize) -> impl Iterator<Item = usize> {
    let few = count.min(FEW);
    (0..few).map(move |place| place * count / few)
}

/// The pass of a run that takes the most memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LargestPass {
    /// The first optimizer step that makes it, counted from 0.
    pub step: usize,
    /// Its size, for people.
    pub size: String,
}

/// A base model with the data of a run.
pub trait Task: Sized {
    /// The base.
    type Base: Base;
    /// What an evaluation finds.
    type Evaluation;

    /// What the model answers.
    const TARGET: Target;

    /// Checks the data of a recipe, then loads its base on `device`; `style` is how what there is of the data shows.
    ///
    /// # Errors
    /// If data or base are absent, damaged, or do not fit each other.
    fn open(recipe: &Recipe, device: &Device, style: Style) -> Result<Self, Error>;

    /// How much data there is, and what an epoch is made of.
    fn counts(&self) -> &DataCounts;

    /// Hashes of the training data, one for each part, and of the validation data.
    fn data_hashes(&self, recipe: &Recipe) -> Vec<DataHash>;

    /// What of its data came from the hub.
    fn sources(&self) -> &[HubData];

    /// What of the data a user should hear before it is learned from.
    fn data_warnings(&self) -> &[String] {
        &[]
    }

    /// Answers that the model chooses from: classes, or tokens.
    fn choices(&self) -> usize;

    /// The base.
    fn base(&self) -> &Self::Base;

    /// A fresh copy of the base's model, ready to take adapters.
    fn model(&self) -> Model<Self>;

    /// Modules that are trained beside the adapters: the head of a classifier, nothing of a language model.
    fn trained_beside(&self) -> &'static [&'static str];

    /// The passes of some shards of each of these optimizer steps, both counted from 0; what a shard of a step sees depends on
    /// it and the recipe alone.
    ///
    /// They are made ahead on the host, in a thread of their own, and moved by the thread that asks for them: it does not
    /// wait for its device, which takes them up while it still works on the step before.
    fn steps(
        &self,
        recipe: &Recipe,
        steps: Range<usize>,
        shards: Range<usize>,
        device: &Device,
    ) -> impl Iterator<Item = Result<StepPasses<Batch<Self>>, Error>>;

    /// What an optimizer step, counted from 0, is made of.
    fn samples_of_step(&self, recipe: &Recipe, step: usize) -> StepSamples;

    /// The pass that takes the most memory.
    fn largest_pass(&self, recipe: &Recipe) -> LargestPass;

    /// What a trained model has to be better than, given the `model` before the first step.
    ///
    /// # Errors
    /// If that model answers the validation data with what is not finite.
    fn baseline(
        &self,
        recipe: &Recipe,
        model: &Model<Self>,
        device: &Device,
        ranks: &Ranks,
    ) -> Result<Baseline, Error>;

    /// Runs `model` on the validation data, which the ranks share; every one gets the whole.
    ///
    /// # Errors
    /// If the data has changed since it was checked, or a rank ended.
    fn evaluate(
        &self,
        model: &Model<Self>,
        device: &Device,
        ranks: &Ranks,
    ) -> Result<Self::Evaluation, Error>;

    /// A few samples of the validation data, spread over all of it: always the same.
    ///
    /// # Errors
    /// As [`Task::evaluate`].
    fn few_samples(&self, device: &Device) -> Result<Batch<Self>, Error>;

    /// The numbers of an evaluation that the loop compares and shows.
    fn scores(evaluation: &Self::Evaluation) -> Scores;

    /// Scores of what `model` writes after the prompts of a file; none of a task that writes nothing.
    ///
    /// # Errors
    /// If the file cannot be used.
    fn score_writing(
        &self,
        model: &Model<Self>,
        file: &Path,
        recipe: &Recipe,
    ) -> Result<Option<TextScores>, Error>;

    /// Each of the prompts with what `model` writes after it, greedily; none of a task that writes nothing.
    ///
    /// # Errors
    /// If a prompt cannot be used, which opening the task finds too, or the model gives NaN.
    fn completed(
        &self,
        model: &Model<Self>,
        samples: &SamplesRecipe,
        device: &Device,
    ) -> Result<Vec<Completion>, Error>;

    /// What a report shows beside curves and tables.
    ///
    /// # Errors
    /// If the data has changed since it was checked.
    fn details(&self, model: &Model<Self>, evaluation: &Self::Evaluation) -> Result<ReportSections, Error>;
}
