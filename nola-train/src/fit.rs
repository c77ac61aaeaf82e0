//! One fit: a task and a method become a trained model, its scores and its history.

use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use nola_core::folder::{self, CoefficientBits};
use nola_core::targets::Pattern;
use nola_core::{Adapted, AdapterConfig, Targets, TrainedNumbers, adapter};

use crate::learner::Learner;
use crate::progress::{self, Progress, Style};
use crate::recipe::{self, MethodRecipe, Recipe, TargetsRecipe, TrainRecipe};
use crate::report::{History, HistoryPoint};
use crate::task::{LargestPass, Model, Task};
use crate::train::{Observer, StepReport, pass_loss, train};
use crate::{Error, memory};

/// Name of the head's module in every model of this project.
const HEAD: &str = "head";

/// A trained model with its scores.
pub struct Fitted<T: Task> {
    /// The model with the best trained values.
    pub best: Adapted<Model<T>>,
    /// The model as the last step left it.
    pub last: Adapted<Model<T>>,
    /// What the best found.
    pub evaluation: T::Evaluation,
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

/// Trains the method of `recipe` on a fresh copy of the task's base.
///
/// # Errors
/// If nothing would be trained, training diverges, or the data has changed.
pub fn fit<T: Task>(task: &T, recipe: &Recipe, device: &Device, style: Style) -> Result<Fitted<T>, Error> {
    let started = Instant::now();
    let on_device = device.clone().autodiff();
    let model = attach(task.model().train(), &recipe.method, task.trained_beside(), &on_device)?;
    let trained = model.trained_numbers();
    if trained.adapter + trained.other == 0 {
        return Err(Error::NothingTrained { method: recipe.method.kind().to_owned() });
    }
    let largest = task.largest_pass(recipe);
    if largest.step > 0 {
        let passes = task.steps(recipe, largest.step..largest.step + 1, &on_device).next();
        rehearse(&model.model, &passes.transpose()?.unwrap_or_default(), &recipe.train, &largest, device);
    }
    let mut watcher = Watcher::new(task, recipe, &largest, device, style);
    let steps = task.steps(recipe, 0..recipe.train.steps, &on_device);
    let done = train(model, &recipe.train, steps, &mut watcher)?;
    let mut evaluation = watcher.best.take().expect("a best state comes from an evaluation");
    // Names and shapes are the model's own, so only numbers that are not finite can be refused.
    let diverged = Error::Diverged { step: done.best_step, loss: T::scores(&evaluation).loss };
    let mut best = done.last.clone().with_state(done.best).map_err(|_| diverged)?;
    let bits = CoefficientBits::try_from(recipe.output.coefficient_bits).unwrap_or_default();
    if bits != CoefficientBits::B32 && matches!(recipe.method, MethodRecipe::Nola(_)) {
        // What is reported is what the folder will hold.
        best = folder::as_stored(best, bits)?;
        evaluation = task.evaluate(&Module::valid(&best).model, device)?;
    }
    watcher.finish(&evaluation);
    Ok(Fitted {
        best: Module::valid(&best),
        last: Module::valid(&done.last),
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

/// Makes the largest pass, the first one of its step, once before the first step, so that a run for which memory is short
/// ends at once; needless where that pass is one of the first step itself.
fn rehearse<M: Learner>(
    model: &M,
    passes: &[M::Batch],
    recipe: &TrainRecipe,
    largest: &LargestPass,
    device: &Device,
) {
    let Some(pass) = passes.first() else { return };
    // Reading the loss waits until a device that works behind has done the pass.
    let loss = pass_loss(model, pass, recipe);
    let gradients = loss.backward();
    loss.into_scalar::<f32>();
    drop(gradients);
    eprintln!("{}", memory_line(largest, device));
}

/// What memory the largest pass took, and what is left.
fn memory_line(largest: &LargestPass, device: &Device) -> String {
    format!("memory: {}", memory::after_largest_pass(&largest.size, device))
}

/// Hangs the method's adapters on `model` and trains the modules `beside` too.
pub(crate) fn attach<M: Module>(
    model: M,
    method: &MethodRecipe,
    beside: &[&str],
    device: &Device,
) -> Result<Adapted<M>, Error> {
    let adapted = match method {
        MethodRecipe::Nola(nola) => {
            let targets = targets(&nola.targets, &nola.exclude, &nola.layers);
            Adapted::attach(model, &AdapterConfig::Nola(nola_config(nola)), &targets, beside, device)?
        }
        MethodRecipe::Lora(lora) => {
            let targets = targets(&lora.targets, &lora.exclude, &lora.layers);
            Adapted::attach(model, &AdapterConfig::Lora(lora_config(lora)), &targets, beside, device)?
        }
        MethodRecipe::Linear {} => Adapted::probe(model, beside, device)?,
        MethodRecipe::Full {} => Adapted::full(model),
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
struct Watcher<'a, T: Task> {
    task: &'a T,
    device: &'a Device,
    largest: &'a LargestPass,
    progress: Progress,
    history: History,
    targets: usize,
    best: Option<T::Evaluation>,
}

impl<'a, T: Task> Watcher<'a, T> {
    fn new(task: &'a T, recipe: &Recipe, largest: &'a LargestPass, device: &'a Device, style: Style) -> Self {
        let name = recipe.method.kind().to_owned();
        Self {
            task,
            device,
            largest,
            progress: Progress::start(name.clone(), 0..recipe.train.steps, T::TARGET, style),
            history: History { name, points: Vec::new() },
            targets: 0,
            best: None,
        }
    }

    fn finish(&self, evaluation: &T::Evaluation) {
        self.progress.busy(&format!("best {}", T::scores(evaluation)));
    }
}

impl<T: Task> Observer<Model<T>> for Watcher<'_, T> {
    fn stepped(&mut self, report: StepReport) {
        let StepReport { step, loss, learning_rate, targets, .. } = report;
        self.targets += targets;
        if step == 1 && self.largest.step == 0 {
            self.progress.note(&memory_line(self.largest, self.device));
        }
        self.progress.step(&progress::StepReport { step, targets: self.targets, loss, learning_rate });
        self.history.points.push(HistoryPoint { step, train_loss: loss, learning_rate, validation: None });
    }

    fn evaluate(&mut self, step: usize, model: &Model<T>) -> Result<f64, Error> {
        let evaluation = self.task.evaluate(model, self.device)?;
        let scores = T::scores(&evaluation);
        self.progress.evaluated(step, &scores);
        if let Some(point) = self.history.points.last_mut() {
            point.validation = Some(scores);
        }
        if self.best.as_ref().is_none_or(|best| scores.rank() > T::scores(best).rank()) {
            self.best = Some(evaluation);
        }
        Ok(scores.rank())
    }
}
