//! One fit: a base, a method and pictures become a trained model, its scores and its history.

use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Device;
use nola_core::folder::{self, CoefficientBits};
use nola_core::targets::Pattern;
use nola_core::{Adapted, AdapterConfig, Targets, TrainedNumbers, adapter};
use nola_models::{Preprocessor, Vit};

use crate::Error;
use crate::base::Base;
use crate::data::{Batches, Dataset, Images, Order, Split, TrainingPlan};
use crate::evaluate::{Evaluation, evaluate};
use crate::learner::ImageBatch;
use crate::progress::{self, Progress, Style};
use crate::recipe::{self, DataRecipe, MethodRecipe, Recipe, TargetsRecipe};
use crate::report::{History, HistoryPoint};
use crate::train::{Observer, StepReport, train};

/// Name of the head's module in every model of this project.
const HEAD: &str = "head";

/// The pictures of a run.
#[derive(Debug, Clone)]
pub struct Splits {
    /// What is learned from.
    pub train: Arc<Images>,
    /// What scores are made with.
    pub validation: Arc<Images>,
}

impl Splits {
    /// Opens both splits, takes the few shots asked for, and decodes every picture once.
    ///
    /// # Errors
    /// If a split is empty or damaged, or their classes differ.
    pub fn open(recipe: &DataRecipe) -> Result<Self, Error> {
        let (train, validation) =
            (Dataset::open(recipe, Split::Train)?, Dataset::open(recipe, Split::Validation)?);
        Dataset::check_same_classes(&train, &validation)?;
        let train =
            if recipe.shots == 0 { train } else { train.few_shot(recipe.shots, recipe.shots_seed)? };
        Ok(Self { train: load(train, recipe)?, validation: load(validation, recipe)? })
    }

    /// One split, for an evaluation.
    ///
    /// # Errors
    /// If it is empty or damaged.
    pub fn open_one(recipe: &DataRecipe, split: Split) -> Result<Arc<Images>, Error> {
        load(Dataset::open(recipe, split)?, recipe)
    }
}

fn load(dataset: Dataset, recipe: &DataRecipe) -> Result<Arc<Images>, Error> {
    if dataset.links_outside > 0 {
        eprintln!(
            "data: {} links that leave {} were not followed",
            dataset.links_outside,
            dataset.root.display()
        );
    }
    let (images, bad) = Images::load(dataset, recipe.on_bad_image, (recipe.cache_mib as u64) << 20)?;
    for image in bad {
        eprintln!("data: left out: {image}");
    }
    Ok(Arc::new(images))
}

/// A trained model with its scores.
pub struct Fitted {
    /// The model with the best trained values.
    pub best: Adapted<Vit>,
    /// The model as the last step left it.
    pub last: Adapted<Vit>,
    /// Scores of the best.
    pub evaluation: Evaluation,
    /// Loss, rate and scores over the steps.
    pub history: History,
    /// How many numbers were trained.
    pub trained: TrainedNumbers,
    /// Optimizer steps after which the best was found.
    pub best_step: usize,
    /// Optimizer steps made.
    pub steps: usize,
    /// Seconds of training, evaluations included.
    pub seconds: f64,
    /// Whether an interrupt ended the run.
    pub interrupted: bool,
    /// What ended the run before its time, after something worth keeping was learned.
    pub failure: Option<Error>,
}

/// Trains the method of `recipe` on a fresh copy of `base`.
///
/// # Errors
/// If nothing would be trained, training diverges, or a picture has changed.
pub fn fit(
    base: &Base,
    splits: &Splits,
    recipe: &Recipe,
    device: &Device,
    style: Style,
) -> Result<Fitted, Error> {
    let started = Instant::now();
    let on_device = device.clone().autodiff();
    let vit = burn::module::Module::train(base.vit.clone().with_head(splits.train.classes()));
    let model = attach(vit, &recipe.method, &on_device)?;
    let trained = model.trained_numbers();
    if trained.adapter + trained.other == 0 {
        return Err(Error::NothingTrained { method: recipe.method.kind().to_owned() });
    }
    let order = Order { samples: splits.train.len(), batch: recipe.train.batch, seed: recipe.train.seed };
    let plan =
        TrainingPlan { order, augmentation: recipe.data.augment.clone(), steps: 0..recipe.train.steps };
    let batches = Batches::training(Arc::clone(&splits.train), base.preprocessor.clone(), plan);
    let micro_batch = recipe.train.micro_batch();
    let steps = batches.map(|batch| {
        let passes = batch?.split(micro_batch).map(|pass| ImageBatch::new(pass, &on_device)).collect();
        Ok(passes)
    });
    let mut watcher = Watcher::new(recipe, splits, &base.preprocessor, device, style);
    let done = train(model, &recipe.train, steps, &mut watcher)?;
    let mut evaluation = watcher.best.take().expect("a best state comes from an evaluation");
    // Names and shapes are the model's own, so only numbers that are not finite can be refused.
    let diverged = Error::Diverged { step: done.best_step, loss: evaluation.scores.loss };
    let mut best = done.last.clone().with_state(done.best).map_err(|_| diverged)?;
    let bits = CoefficientBits::try_from(recipe.output.coefficient_bits).unwrap_or_default();
    if bits != CoefficientBits::B32 && matches!(recipe.method, MethodRecipe::Nola(_)) {
        // What is reported is what the folder will hold.
        best = folder::as_stored(best, bits)?;
        let vit = burn::module::Module::valid(&best).model;
        evaluation = evaluate(&vit, &splits.validation, &base.preprocessor, device)?;
    }
    watcher.finish(&evaluation);
    Ok(Fitted {
        best: burn::module::Module::valid(&best),
        last: burn::module::Module::valid(&done.last),
        evaluation,
        history: watcher.history,
        trained,
        best_step: done.best_step,
        steps: done.steps,
        seconds: started.elapsed().as_secs_f64(),
        interrupted: done.interrupted,
        failure: done.failure,
    })
}

/// Hangs the method's adapters on `vit`; the head is always trained.
fn attach(vit: Vit, method: &MethodRecipe, device: &Device) -> Result<Adapted<Vit>, Error> {
    let adapted = match method {
        MethodRecipe::Nola(nola) => {
            let targets = targets(&nola.targets, &nola.exclude, &nola.layers);
            Adapted::attach(vit, &AdapterConfig::Nola(nola_config(nola)), &targets, &[HEAD], device)?
        }
        MethodRecipe::Lora(lora) => {
            let targets = targets(&lora.targets, &lora.exclude, &lora.layers);
            Adapted::attach(vit, &AdapterConfig::Lora(lora_config(lora)), &targets, &[HEAD], device)?
        }
        MethodRecipe::Linear {} => Adapted::probe(vit, &[HEAD], device)?,
        MethodRecipe::Full {} => Adapted::full(vit),
    };
    Ok(adapted)
}

fn targets(modules: &TargetsRecipe, exclude: &[String], layers: &[usize]) -> Targets {
    let modules = match modules {
        TargetsRecipe::Names(names) => Pattern::Names(names.clone()),
        TargetsRecipe::Pattern(pattern) => Pattern::Regex(pattern.clone()),
    };
    // The head is trained itself, so `all-linear` leaves it out, as PEFT does.
    let exclude = exclude.iter().cloned().chain([HEAD.to_owned()]).collect();
    Targets { modules, exclude: Pattern::Names(exclude), layers: layers.to_vec() }
}

fn nola_config(nola: &recipe::NolaRecipe) -> adapter::NolaConfig {
    adapter::NolaConfig {
        rank: nola.rank,
        k: nola.k,
        l: nola.l(),
        alpha: nola.alpha(),
        preset: nola.preset,
        basis: nola.basis,
        sharing: nola.sharing,
        seed: nola.seed,
    }
}

fn lora_config(lora: &recipe::LoraRecipe) -> adapter::LoraConfig {
    adapter::LoraConfig { rank: lora.rank, alpha: lora.alpha(), variant: lora.variant, seed: lora.seed }
}

/// Shows the loop, keeps its history and scores the model.
struct Watcher<'a> {
    validation: &'a Arc<Images>,
    preprocessor: &'a Preprocessor,
    device: &'a Device,
    progress: Progress,
    history: History,
    samples: usize,
    best: Option<Evaluation>,
}

impl<'a> Watcher<'a> {
    fn new(
        recipe: &Recipe,
        splits: &'a Splits,
        preprocessor: &'a Preprocessor,
        device: &'a Device,
        style: Style,
    ) -> Self {
        let name = recipe.method.kind().to_owned();
        Self {
            validation: &splits.validation,
            preprocessor,
            device,
            progress: Progress::start(name.clone(), 0..recipe.train.steps, style),
            history: History { name, points: Vec::new() },
            samples: 0,
            best: None,
        }
    }

    fn finish(&self, evaluation: &Evaluation) {
        self.progress.busy(&format!("best {}", evaluation.scores));
    }
}

impl Observer<Vit> for Watcher<'_> {
    fn stepped(&mut self, report: StepReport) {
        let StepReport { step, loss, learning_rate, samples, .. } = report;
        self.samples += samples;
        self.progress.step(&progress::StepReport { step, samples: self.samples, loss, learning_rate });
        self.history.points.push(HistoryPoint { step, train_loss: loss, learning_rate, validation: None });
    }

    fn evaluate(&mut self, step: usize, vit: &Vit) -> Result<f64, Error> {
        let evaluation = evaluate(vit, self.validation, self.preprocessor, self.device)?;
        let scores = evaluation.scores;
        self.progress.evaluated(step, &scores);
        if let Some(point) = self.history.points.last_mut() {
            point.validation = Some(scores);
        }
        if self.best.as_ref().is_none_or(|best| scores.accuracy > best.scores.accuracy) {
            self.best = Some(evaluation);
        }
        Ok(scores.accuracy)
    }
}
