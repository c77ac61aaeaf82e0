//! One case, in a process of its own: so its peak of memory is that of the case alone.

use std::time::Instant;

use burn::tensor::Device;
use nola_core::basis::instruction_set;
use nola_core::weight::Quantization;
use nola_models::WeightDtype;

use super::case::{Case, CaseInfo, Measured, Outcome, Samples};
use super::cases::{self, Method};
use super::machine;
use super::needs::too_large;
use super::statistics::rounded;
use super::steps_args::StepsArgs;
use crate::Error;
use crate::attach::attach;
use crate::device::{self, DeviceChoice, OpenDevice};
use crate::model_with_loss::ModelWithLoss;
use crate::recipe::MethodRecipe;
use crate::settings::{OptimizerKind, ScheduleKind, TrainSettings};
use crate::sizes::Sizes;
use crate::train::{Optimizer, measured_gradients, updated};

/// Learning rate of the steps: small, so that nothing diverges however many are made.
const LEARNING_RATE: f64 = 1e-4;

/// Measures a case in this process.
///
/// # Errors
/// If the device cannot be used, or a loss is not finite.
pub(super) fn case(case: Case, args: &StepsArgs, choice: DeviceChoice) -> Result<Outcome, Error> {
    let open = device::open(choice)?;
    device::check_dtype(&open.device, case.dtype)?;
    if let Some(skipped) = too_large(&case, args, &open.device) {
        return Ok(Outcome::Skipped { skipped });
    }
    let started = Instant::now();
    let device = &open.device;
    // As in training: the weights are loaded without a graph, and batches are on the device that has one.
    let of_batch = if case.method == Method::Frozen { device.clone() } else { device.clone().autodiff() };
    match case.preset.sizes() {
        Sizes::Vit(config) => {
            let batch = || cases::images(&config, case.batch, &of_batch);
            Run { case, args, open: &open, started }
                .measure(cases::vit(&config, case.precision(), device), batch)
        }
        Sizes::Gpt2(config) => {
            let batch = || cases::texts(config.vocab_size, case.batch, case.seq, &of_batch);
            Run { case, args, open: &open, started }
                .measure(cases::gpt2(&config, case.precision(), device), batch)
        }
        Sizes::Llama(config) => {
            let batch = || cases::texts(config.vocab_size, case.batch, case.seq, &of_batch);
            Run { case, args, open: &open, started }
                .measure(cases::llama(&config, case.precision(), device), batch)
        }
    }
}

/// What one step says of itself.
struct Done {
    loss: f32,
    /// Seconds of `project` and `expand`, where something is trained.
    between: Option<[f64; 2]>,
}

struct Run<'a> {
    case: Case,
    args: &'a StepsArgs,
    open: &'a OpenDevice,
    started: Instant,
}

impl Run<'_> {
    fn measure<M: ModelWithLoss>(self, model: M, batch: impl Fn() -> M::Batch) -> Result<Outcome, Error> {
        let passes: Vec<M::Batch> = (0..self.args.accumulate).map(|_| batch()).collect();
        match self.case.method.recipe(self.case.adapter) {
            None => {
                let step = || {
                    let losses = passes.iter().map(|pass| model.loss(pass, 0.0).into_scalar::<f32>());
                    let loss = losses.sum::<f32>() / passes.len() as f32;
                    Ok(Done { loss, between: None })
                };
                self.sampled(0, step)
            }
            Some(method) => self.trained(model, &method, &passes),
        }
    }

    /// Steps of the training loop's own code.
    fn trained<M: ModelWithLoss>(
        self,
        model: M,
        method: &MethodRecipe,
        passes: &[M::Batch],
    ) -> Result<Outcome, Error> {
        let on_device = self.open.device.clone().autodiff();
        let adapted = attach(model.train(), method, &[], &on_device)?;
        let recipe = self.recipe();
        let numbers = adapted.trainable_parameters();
        let mut optimizer = Optimizer::new(&recipe, &adapted);
        let (mut model, mut steps) = (Some(adapted), 0);
        let step = || {
            let before = model.take().expect("every step puts one back");
            let (gradients, mut measured) = measured_gradients(&before, passes, &recipe, steps);
            model = Some(updated(before, gradients, &mut measured, &recipe, &mut optimizer));
            steps += 1;
            let between = Some([measured.project_seconds, measured.expand_seconds]);
            match measured.loss.into_scalar::<f32>() {
                loss if loss.is_finite() => Ok(Done { loss, between }),
                loss => Err(Error::diverged(steps, loss)),
            }
        };
        self.sampled(numbers.adapter + numbers.other, step)
    }

    fn recipe(&self) -> TrainSettings {
        TrainSettings {
            steps: self.args.warmup + self.args.steps,
            optimizer: OptimizerKind::AdamW,
            learning_rate: LEARNING_RATE,
            schedule: ScheduleKind::Constant,
            gradient_checkpointing: self.args.gradient_checkpointing,
            ..TrainSettings::default()
        }
    }

    /// Repeats `step` as the options output.
    fn sampled(
        self,
        trainable: usize,
        mut step: impl FnMut() -> Result<Done, Error>,
    ) -> Result<Outcome, Error> {
        let (args, device) = (self.args, &self.open.device);
        let build_s = rounded(self.started.elapsed().as_secs_f64(), 2);
        let rss_after_build_mb = machine::resident_mib().map(|mib| rounded(mib, 1));
        let peak_reset = machine::reset_peak();
        let (mut samples, mut losses, mut first_step_s) = (Samples::default(), Vec::new(), 0.0);
        for number in 0..args.warmup + args.steps {
            synchronize(device);
            let (wall, cpu) = (Instant::now(), machine::cpu_seconds());
            let done = step()?;
            synchronize(device);
            let (wall, after) = (wall.elapsed().as_secs_f64(), machine::cpu_seconds());
            losses.push(done.loss);
            if number == 0 {
                first_step_s = rounded(wall, 4);
            }
            if number < args.warmup {
                continue;
            }
            samples.walls.push(wall);
            samples.cpus.extend(after.zip(cpu).map(|(after, before)| after - before));
            samples.projects.extend(done.between.map(|[project, _]| project));
            samples.expands.extend(done.between.map(|[_, expand]| expand));
            let enough = samples.walls.len() >= args.min_steps;
            if enough && samples.walls.iter().sum::<f64>() > args.max_seconds {
                break;
            }
        }
        let memory = Memory { rss_after_build_mb, peak_reset };
        let info = self.info(trainable, [build_s, first_step_s], memory, &losses);
        Ok(Outcome::Measured(Box::new(Measured { info, samples })))
    }

    fn info(
        &self,
        trainable: usize,
        [build_s, first_step_s]: [f64; 2],
        memory: Memory,
        losses: &[f32],
    ) -> CaseInfo {
        let (case, open) = (&self.case, self.open);
        let (device, part) = open.name.split_once(' ').unwrap_or((&open.name, ""));
        let device_name = if part.is_empty() { machine::cpu_name() } else { part.to_owned() };
        let nola = case.method.is_nola();
        let of_lora = matches!(case.method, Method::Adapter(_)).then_some(case.adapter.lora_rank);
        let peak_device = open.device.memory_pool_usage();
        CaseInfo {
            model: case.preset.name(),
            method: case.method.name(),
            batch: case.batch,
            seq: case.seq,
            accumulate: self.args.accumulate,
            gradient_checkpointing: self.args.gradient_checkpointing,
            dtype: torch_name(case.dtype).to_owned(),
            param_dtype: case.quantize.map_or(torch_name(case.dtype), Quantization::name).to_owned(),
            device: device.to_owned(),
            device_name,
            threads: rayon::current_num_threads(),
            instructions: instruction_set().to_owned(),
            burn: machine::BURN.to_owned(),
            trainable,
            rank: if nola { Some(case.adapter.rank) } else { of_lora },
            k: nola.then_some(case.adapter.k),
            l: nola.then_some(case.adapter.l),
            build_s,
            first_step_s,
            peak_rss_mb: machine::peak_mib().map(|mib| rounded(mib, 1)),
            rss_after_build_mb: memory.rss_after_build_mb,
            peak_reset: memory.peak_reset,
            peak_device_mb: peak_device.map(|usage| rounded(usage.bytes_reserved as f64 / machine::MIB, 1)),
            loss_first: losses[0],
            loss_last: losses[losses.len() - 1],
        }
    }
}

/// What the PyTorch script calls a number type.
fn torch_name(dtype: WeightDtype) -> &'static str {
    match dtype {
        WeightDtype::F32 => "fp32",
        WeightDtype::Bf16 => "bf16",
        WeightDtype::F16 => "fp16",
    }
}

/// Memory as the steps began.
struct Memory {
    rss_after_build_mb: Option<f64>,
    peak_reset: bool,
}

/// Waits for a device that works behind.
pub(super) fn synchronize(device: &Device) {
    // One that fails here fails in the next step too, and says more.
    let _ = device.sync();
}
