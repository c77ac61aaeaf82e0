//! ImageTask to classes.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use nola_models::Vit;

use super::{LargestPass, Task, spread};
use crate::Error;
use crate::baseline::Baseline;
use crate::completion::Completion;
use crate::data::{
    Dataset, HostBatch, Images, Order, Prefetch, TrainingPlan, WeightedSamples, bad_images, evaluation_batch,
    training_batches,
};
use crate::data_counts::DataCounts;
use crate::data_files::HubData;
use crate::data_hash::DataHash;
use crate::evaluate::{Evaluation, TextScores, evaluate_across};
use crate::model_with_loss::ImageBatch;
use crate::notices;
use crate::portion::Drawn;
use crate::printable::path_name;
use crate::problems::Limits;
use crate::progress::{Downloads, Scores, Style, Target};
use crate::ranks::Ranks;
use crate::recipe::{DataRecipe, Recipe, SamplesRecipe, TrainingPaths, WeightedPath};
use crate::recipe_files::{located, located_model};
use crate::report::{self, Misclassified, ReportSections};
use crate::session::{Base, ImageBase};
use crate::terminal::err_line;
use crate::train::{Shard, StepPasses, StepSamples};

/// A vision transformer and labelled images.
#[derive(Debug, Clone)]
pub struct ImageTask {
    /// The base.
    pub base: ImageBase,
    /// The images.
    pub splits: Splits,
    /// The training images of each part of the recipe.
    parts: Vec<WeightedSamples>,
    counts: DataCounts,
}

/// The images of a run.
#[derive(Debug, Clone)]
pub struct Splits {
    /// What is learned from.
    pub train: Arc<Images>,
    /// What scores are made with.
    pub validation: Arc<Images>,
}

impl Splits {
    /// Opens both splits, takes the few shots asked for, and decodes every image once.
    ///
    /// # Errors
    /// If a split is empty or damaged, or their classes differ.
    pub fn open(recipe: &DataRecipe, seed: u64, style: Style) -> Result<(Self, Option<Drawn>), Error> {
        let (train, validation, held_out) = Dataset::splits(&recipe.images(seed)?)?;
        let train = train.few_shot(recipe.shots, recipe.shots_seed)?;
        let splits = Self { train: load(train, recipe)?, validation: load(validation, recipe)? };
        say_held_out(held_out, style);
        Ok((splits, held_out))
    }

    /// The training images of each part of the recipe, with its weight.
    fn weighted(&self, paths: &TrainingPaths) -> Vec<WeightedSamples> {
        let of_part = |(place, part): (usize, &WeightedPath)| {
            let samples = (0..self.train.len()).filter(|&index| self.train.part(index) == place).collect();
            WeightedSamples { samples, weight: part.weight }
        };
        paths.parts().iter().enumerate().map(of_part).collect()
    }
}

/// Says on stderr how much is held out.
pub fn say_held_out(held_out: Option<Drawn>, style: Style) {
    if let Some(drawn) = held_out {
        style.info(&format!("data: {drawn} are held out for validation"));
    }
}

/// Decodes every image of a split once, and says on stderr what was left out.
///
/// # Errors
/// If an image is damaged and is not to be skipped.
pub fn load(dataset: Dataset, recipe: &DataRecipe) -> Result<Arc<Images>, Error> {
    dataset.notes.iter().for_each(|note| err_line(&format!("data: {note}")));
    if dataset.links_outside > 0 {
        err_line(&format!(
            "data: {} links that leave {} were not followed",
            dataset.links_outside,
            path_name(&dataset.root)
        ));
    }
    let (images, bad) = Images::load(dataset, recipe.on_bad_image, (recipe.cache_mib as u64) << 20)?;
    // All of them: nobody else knows which they were.
    for line in bad_images(&bad, Limits { problems: usize::MAX, places: usize::MAX }) {
        err_line(&format!("data: left out: {line}"));
    }
    Ok(Arc::new(images))
}

impl Task for ImageTask {
    type Base = ImageBase;
    type Evaluation = Evaluation;

    const TARGET: Target = Target::Image;

    fn open(recipe: &Recipe, device: &Device, style: Style) -> Result<Self, Error> {
        let (splits, held_out) = Splits::open(&located(&recipe.data)?, recipe.train.seed, style)?;
        let parts = splits.weighted(&recipe.data.train);
        let rows: Vec<usize> = parts.iter().map(|part| part.samples.len()).collect();
        let counts = DataCounts::new(&recipe.data.train, &rows, &parts, held_out)?;
        counts.mixture().iter().for_each(|mixture| style.info(&format!("data: {mixture}")));
        let model = located_model(&recipe.model)?;
        let base = ImageBase::open(&model, recipe.train.seed, device, &Downloads::default())?;
        notices::print(&base.notices());
        base.check_one_class_each(&base.vit.clone().with_head(splits.train.classes()))?;
        Ok(Self { base, splits, parts, counts })
    }

    fn counts(&self) -> &DataCounts {
        &self.counts
    }

    fn data_hashes(&self, recipe: &Recipe) -> Vec<DataHash> {
        let hash = |key: &str, name: String, sha256| DataHash { key: key.to_owned(), name, sha256 };
        let of_part = |(part, path): (usize, &Path)| {
            let sha256 = self.splits.train.sha256(|of| of == part);
            hash("data.train", path.display().to_string(), sha256)
        };
        let validation = self.splits.validation.sha256(|_| true);
        let scored_on = hash("data.validation", recipe.data.scored_on_name(), validation);
        recipe.data.train.paths().enumerate().map(of_part).chain([scored_on]).collect()
    }

    fn sources(&self) -> &[HubData] {
        &[]
    }

    fn choices(&self) -> usize {
        self.splits.train.classes().len()
    }

    fn base(&self) -> &ImageBase {
        &self.base
    }

    fn model(&self) -> Vit {
        self.base.vit.clone().with_head(self.splits.train.classes())
    }

    fn trained_beside(&self) -> &'static [&'static str] {
        &["head"]
    }

    fn steps(
        &self,
        recipe: &Recipe,
        steps: Range<usize>,
        shards: Range<usize>,
        device: &Device,
    ) -> impl Iterator<Item = Result<StepPasses<ImageBatch>, Error>> {
        let (train, device) = (&recipe.train, device.clone());
        let plan = TrainingPlan {
            order: self.order(recipe),
            augmentation: recipe.data.augment.clone(),
            steps,
            parts: shards.clone().map(|shard| train.samples_of_shard(shard)).collect(),
        };
        let images = Arc::clone(&self.splits.train);
        let micro_batch = train.micro_batch();
        let batches = training_batches(images, self.base.preprocessor.clone(), plan);
        let split = move |parts: Vec<HostBatch>| {
            parts.into_iter().map(|part| part.split(micro_batch)).collect::<Vec<_>>()
        };
        let moved = move |(index, passes): (usize, Vec<HostBatch>)| Shard {
            index,
            passes: passes.into_iter().map(|pass| ImageBatch::new(pass, &device)).collect(),
        };
        let step = move |parts: Vec<_>| StepPasses(shards.clone().zip(parts).map(&moved).collect());
        Prefetch::of(batches.map(move |parts| parts.map(split))).map(move |parts| Ok(step(parts?)))
    }

    fn samples_of_step(&self, recipe: &Recipe, step: usize) -> StepSamples {
        let samples = self.order(recipe).step(step);
        StepSamples(samples.into_iter().map(|sample| self.splits.train.name(sample)).collect())
    }

    fn largest_pass(&self, recipe: &Recipe) -> LargestPass {
        LargestPass { step: 0, size: format!("{} images", recipe.train.largest_pass()) }
    }

    fn baseline(
        &self,
        _recipe: &Recipe,
        _vit: &Vit,
        _device: &Device,
        _ranks: &Ranks,
    ) -> Result<Baseline, Error> {
        let validation = &self.splits.validation;
        Ok(Baseline::most_frequent((0..validation.len()).map(|index| validation.label(index))))
    }

    fn evaluate(&self, vit: &Vit, device: &Device, ranks: &Ranks) -> Result<Evaluation, Error> {
        evaluate_across(ranks, vit, &self.splits.validation, &self.base.preprocessor, device)
    }

    fn few_samples(&self, device: &Device) -> Result<ImageBatch, Error> {
        let images = &self.splits.validation;
        let samples = spread(images.len()).collect();
        Ok(ImageBatch::new(evaluation_batch(samples, images, &self.base.preprocessor)?, device))
    }

    fn scores(evaluation: &Evaluation) -> Scores {
        evaluation.scores
    }

    fn score_writing(&self, _vit: &Vit, _file: &Path, _recipe: &Recipe) -> Result<Option<TextScores>, Error> {
        Ok(None)
    }

    fn completed(
        &self,
        _vit: &Vit,
        _samples: &SamplesRecipe,
        _device: &Device,
    ) -> Result<Vec<Completion>, Error> {
        Ok(Vec::new())
    }

    fn details(&self, _vit: &Vit, evaluation: &Evaluation) -> Result<ReportSections, Error> {
        let classes = self.splits.validation.classes().to_vec();
        let facts = [
            ("training images", self.splits.train.len().to_string()),
            ("validation images", self.splits.validation.len().to_string()),
        ];
        Ok(ReportSections {
            about: format!("{} classes", classes.len()),
            facts: facts.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            classes,
            confusion: evaluation.confusion.clone(),
            misclassified: self.misclassified(evaluation)?,
            continuations: Vec::new(),
        })
    }
}

impl ImageTask {
    /// The order in which a run sees the training images.
    fn order(&self, recipe: &Recipe) -> Order {
        Order::new(self.parts.clone(), recipe.train.batch, recipe.train.seed)
    }

    /// The most confident mistakes, as many as the report shows: images can be large.
    fn misclassified(&self, evaluation: &Evaluation) -> Result<Vec<Misclassified>, Error> {
        let predictions = evaluation.predictions.iter().enumerate();
        let mut wrong: Vec<_> = predictions.filter(|(_, p)| p.label != p.predicted).collect();
        wrong.sort_by(|(_, a), (_, b)| b.probability.total_cmp(&a.probability));
        wrong.truncate(report::MISTAKES);
        let validation = &self.splits.validation;
        (wrong.into_iter())
            .map(|(index, prediction)| {
                Ok(Misclassified {
                    image: validation.image(index)?,
                    label: prediction.label,
                    predicted: prediction.predicted,
                    probability: prediction.probability,
                    name: validation.name(index),
                })
            })
            .collect()
    }
}
