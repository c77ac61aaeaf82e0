//! The training loop against PyTorch: every variant of every case of `train/` in the fixtures.
#![expect(clippy::result_large_err, reason = "an error of the program ends it, so none is moved about")]

use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_core::adapter::{Factor, Plan};
use nola_core::folder::peft::Part;
use nola_core::{Adapted, Site, Targets, float_params, read_params};
use nola_models::{CausalLm, Checkpoint, Vit};
use nola_train::Error;
use nola_train::model_with_loss::{ImageBatch, ModelWithLoss, TextBatch};
use nola_train::settings::{OptimizerKind, Period, ScheduleKind, TrainSettings};
use nola_train::text::Sample;
use nola_train::train::{Observer, StepReport, train};
use serde_json::Value;

use crate::devices::{tensor, tolerance, transposed, values};
use crate::fixtures::{self, Golden, Tensors, assert_close};
use crate::test_model::{Kind, Loaded, TestModel, kind, rows_of, text_batch};

/// Largest difference of a weight after ten steps, which may be one step of Adam apart where a gradient is near 0.
const WEIGHT_TOLERANCE: f64 = 1e-3;

/// A model whose batches are rows of a pool of samples.
trait Pooled: TestModel {
    fn pooled(pool: &Tensors, rows: &[usize], device: &Device) -> Self::Batch;
}

impl Pooled for Vit {
    fn pooled(pool: &Tensors, rows: &[usize], device: &Device) -> ImageBatch {
        let pixels: Tensor<4> = tensor(&pool["pool.pixel_values"], device);
        let labels: Vec<i32> = rows.iter().map(|&row| pool["pool.labels"].i64()[row] as i32).collect();
        let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let index: Tensor<1, Int> = Tensor::from_data(TensorData::new(rows.clone(), [rows.len()]), device);
        ImageBatch {
            pixels: pixels.select(0, index),
            labels: Tensor::from_data(TensorData::new(labels, [rows.len()]), device),
        }
    }
}

impl Pooled for CausalLm {
    fn pooled(pool: &Tensors, rows: &[usize], device: &Device) -> TextBatch {
        let (ids, mask) = (rows_of(&pool["pool.input_ids"]), rows_of(&pool["pool.attention_mask"]));
        let width = pool["pool.labels"].shape[1];
        let sample = |&row: &usize| {
            let tokens = mask[row].iter().filter(|&&seen| seen == 1).count();
            let labels = &pool["pool.labels"].i64()[row * width..row * width + tokens];
            let learned = (1..tokens).filter(|&position| labels[position] >= 0);
            Sample {
                ids: ids[row][..tokens].to_vec(),
                trained: learned.map(|position| position..position + 1).collect(),
            }
        };
        text_batch(&rows.iter().map(sample).collect::<Vec<_>>(), device)
    }
}

#[test]
fn golden_train_gives_the_losses_norms_rates_and_weights_of_the_reference() {
    for root in fixtures::roots() {
        let folder = root.join("train");
        if !folder.is_dir() {
            println!("skipped: no {}", folder.display());
            continue;
        }
        let cases = fixtures::json(&folder.join("cases.json"));
        for (name, settings) in cases["cases"].as_object().expect("cases by name") {
            let model = root.join("models").join(settings["model"].as_str().expect("a model"));
            let checkpoint = Checkpoint::open(&model).expect("a model of the fixtures");
            let golden = fixtures::tensors(&folder.join(format!("{name}.safetensors"))).0;
            match kind(&checkpoint) {
                Kind::Vit => {
                    Case { name, settings, golden, base: Loaded::<Vit>::open(&model, &checkpoint) }.check()
                }
                Kind::Language => {
                    Case { name, settings, golden, base: Loaded::<CausalLm>::open(&model, &checkpoint) }
                        .check();
                }
                Kind::Unsupported(reason) => println!("skipped {name}: {reason}"),
            }
        }
    }
}

/// A model with the adapters, the samples and the golden courses of its training.
struct Case<'a, M: Pooled> {
    name: &'a str,
    settings: &'a Value,
    golden: Tensors,
    base: Loaded<M>,
}

/// Remembers the steps; there is nothing to evaluate.
#[derive(Default)]
struct Reports(Vec<StepReport>);

impl<M: ModelWithLoss> Observer<M> for Reports {
    fn stepped(&mut self, report: StepReport) {
        self.0.push(report);
    }

    fn evaluate(&mut self, _step: usize, _model: &M) -> Result<f64, Error> {
        Ok(0.0)
    }
}

impl<M: Pooled> Case<'_, M> {
    fn check(&self) {
        for (variant, settings) in self.settings["variants"].as_object().expect("variants by name") {
            self.check_variant(variant, settings);
            println!("checked {} {variant}", self.name);
        }
    }

    fn check_variant(&self, variant: &str, settings: &Value) {
        let recipe = recipe(settings, self.settings["steps"].as_u64().expect("a number") as usize);
        let passes = self.passes(&format!("order.{}", settings["batches"].as_str().expect("a name")));
        let batches = |rows: &Vec<Vec<usize>>| rows.iter().map(|rows| self.batch(rows)).collect();
        let mut reports = Reports::default();
        let steps = passes.iter().map(|rows| Ok(batches(rows)));
        let trained = train(self.adapted(), &recipe, steps, &mut reports).expect("finite losses").last;
        let course = |what: &str, found: &dyn Fn(&StepReport) -> f32| {
            let found: Vec<f32> = reports.0.iter().map(found).collect();
            self.close(variant, what, &found, &self.golden[&format!("expected.{variant}.{what}")]);
        };
        course("losses", &|report| report.loss);
        course("grad_norms", &|report| report.gradient_norm as f32);
        course("learning_rates", &|report| report.learning_rate as f32);
        let first: Vec<usize> = passes[0].concat();
        let after = values(trained.model.loss(&self.batch(&first), 0.0));
        self.close(variant, "loss_after", &after, &self.golden[&format!("expected.{variant}.loss_after")]);
        self.check_weights(variant, &trained);
    }

    fn check_weights(&self, variant: &str, trained: &Adapted<M>) {
        let params = float_params(&trained.model);
        for (foreign, site) in self.sites() {
            for (factor, leaf) in [("A", "a"), ("B", "b")] {
                let golden = &self.golden[&format!("expected.{variant}.after.{foreign}.{factor}")];
                let path = format!("{}.weight.adapter.{leaf}", site.path);
                let id = params.iter().find(|param| param.path == path).expect("an adapted site").id;
                let found = read_params(&trained.model, &[id]).remove(&id).expect("its value");
                let found: Vec<f32> = found.try_into_vec().expect("read as f32");
                let what = format!("{} {variant}: {foreign}.{factor}", self.name);
                let golden = transposed(golden.f64(), golden.shape[0], golden.shape[1]);
                assert_close(&what, &found, &golden, WEIGHT_TOLERANCE);
            }
        }
    }

    fn close(&self, variant: &str, what: &str, found: &[f32], golden: &Golden) {
        // Norms of gradients are as large as 40, so the tolerance is relative to the largest number.
        let largest = golden.f64().iter().fold(1.0, |largest: f64, value| largest.max(value.abs()));
        let what = format!("{} {variant}: {what}", self.name);
        assert_close(&what, found, golden.f64(), tolerance() * largest);
    }

    fn batch(&self, rows: &[usize]) -> M::Batch {
        M::pooled(&self.golden, rows, &self.base.device)
    }

    /// Rows of the pool for each pass of each step.
    fn passes(&self, order: &str) -> Vec<Vec<Vec<usize>>> {
        let order = &self.golden[order];
        let [_, passes, rows] = order.shape[..] else { panic!("{}: an order of three axes", self.name) };
        let pass = |rows: &[i64]| rows.iter().filter_map(|&row| usize::try_from(row).ok()).collect();
        let step = |step: &[i64]| step.chunks(rows).map(pass).collect();
        order.i64().chunks(passes * rows).map(step).collect()
    }

    /// The names of the fixture beside our sites, in the fixture's order.
    fn sites(&self) -> Vec<(String, Site)> {
        let all =
            Targets::matching("all-linear").choose(&self.base.model).expect("a model has linear layers");
        let named = |name: &Value| {
            let name = name.as_str().expect("a name");
            let is_meant = |site: &&Site| {
                let foreign = self.base.model.foreign_module(&site.path);
                let part = match foreign.part {
                    Part::Whole => "",
                    Part::Outputs(shares) => [".q", ".k", ".v"][shares.from],
                };
                foreign.names.iter().any(|module| format!("{module}{part}") == name)
            };
            let site = all.iter().find(is_meant).unwrap_or_else(|| panic!("{}: no site {name}", self.name));
            (name.to_owned(), site.clone())
        };
        self.settings["sites"].as_array().expect("a list of sites").iter().map(named).collect()
    }

    fn adapted(&self) -> Adapted<M> {
        let factor = |foreign: &str, factor: &str| {
            let golden = &self.golden[&format!("{foreign}.{factor}")];
            Factor::Learned(transposed(&golden.f32(), golden.shape[0], golden.shape[1]))
        };
        let rank = self.settings["r"].as_u64().expect("a rank") as usize;
        let scale = self.settings["scale"].as_f64().expect("a scale");
        let plan = |(foreign, _): &(String, Site)| {
            Plan::low_rank(factor(foreign, "A"), factor(foreign, "B"), rank, scale)
        };
        let sites = self.sites();
        let plans = sites.iter().map(plan).collect();
        let sites = sites.into_iter().map(|(_, site)| site).collect();
        Adapted::attach_plans(self.base.model.clone(), sites, plans, &[], &self.base.device)
            .expect("sites that exist")
    }
}

/// What differs from AdamW without decay at a constant rate.
fn recipe(settings: &Value, steps: usize) -> TrainSettings {
    let number = |key: &str| settings[key].as_f64();
    TrainSettings {
        steps,
        optimizer: match settings["optimizer"].as_str().expect("an optimizer") {
            "adamw" => OptimizerKind::AdamW,
            "adam" => OptimizerKind::Adam,
            "sgd" => OptimizerKind::Sgd,
            other => panic!("no optimizer {other}"),
        },
        learning_rate: number("lr").expect("a rate"),
        schedule: match settings["schedule"].as_str() {
            Some("cosine") => ScheduleKind::Cosine,
            Some("linear") => ScheduleKind::Linear,
            Some(other) => panic!("no schedule {other}"),
            None => ScheduleKind::Constant,
        },
        warmup: number("warmup").unwrap_or(0.0) as usize,
        weight_decay: Some(number("weight_decay").unwrap_or(0.0)),
        betas: [0, 1].map(|index| settings["betas"][index].as_f64().unwrap_or([0.9, 0.999][index])),
        eps: number("eps").unwrap_or(1e-8),
        momentum: number("momentum").unwrap_or(0.0),
        clip_norm: number("clip"),
        label_smoothing: number("label_smoothing").unwrap_or(0.0),
        evaluate_every: Period::NEVER,
        ..TrainSettings::default()
    }
}
