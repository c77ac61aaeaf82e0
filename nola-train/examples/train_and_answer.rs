//! A library user's own program: opens a language model part by part, trains an adapter on a file of text, and completes a
//! prompt with it. It reads no recipe, and nothing is printed but what it prints itself.
//!
//! `cargo run --release -p nola-train --example train_and_answer`

use std::error::Error;
use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use nola_core::adapter::NolaConfig;
use nola_core::{Adapted, Targets};
use nola_models::CausalLm;
use nola_models::generate::GenerationConfig;
use nola_train::data::{Order, WeightedSamples};
use nola_train::evaluate::{Decoding, evaluate_text, write_all};
use nola_train::model_with_loss::TextBatch;
use nola_train::portion::DataSource;
use nola_train::session::{TextBase, TextEncoder};
use nola_train::settings::{ModelSettings, Period, TrainSettings};
use nola_train::text::{Pair, TextData, TextFormat, TextSettings, TextSource, prompt_ids};
use nola_train::train::{Observer, StepReport, train};

const PROMPT: &str =
    "museum | thing : shield | colour : black | made of : iron | year : 1850 | from : Lower Marsh";

/// Reads and tokenises a file of rows; of the model no more than sizes and tokenizer is known.
fn prepared(file: &Path, encoder: &TextEncoder) -> Result<TextData, Box<dyn Error>> {
    let source = TextSource {
        data: &DataSource::whole(file),
        format: TextFormat::E2e,
        settings: &TextSettings { max_tokens: 128, limit: 64, ..TextSettings::default() },
        tokenizer: encoder,
        chat: None,
        embeddings: encoder.info.vocab_size,
        context: encoder.info.max_tokens,
    };
    Ok(source.prepare()?)
}

/// Scores the model where the loop asks for it, and keeps what steps did.
struct Watching<'a> {
    validation: &'a TextData,
    device: &'a Device,
    losses: Vec<f32>,
}

impl Observer<CausalLm> for Watching<'_> {
    fn stepped(&mut self, report: StepReport) {
        self.losses.push(report.loss);
    }

    fn evaluate(&mut self, _step: usize, model: &CausalLm) -> Result<f64, nola_train::Error> {
        Ok(evaluate_text(model, self.validation, self.device, |_| ()).scores.rank())
    }
}

/// The losses of the steps, and how the trained model completes the prompt.
fn trained_and_answered() -> Result<(Vec<f32>, String), Box<dyn Error>> {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let device = Device::flex();

    // Data first: what is wrong with it is known before a weight is read.
    let encoder = TextEncoder::open(&assets.join("llama-micro"))?;
    let training = prepared(&assets.join("text/museum-train.txt"), &encoder)?;
    let validation = prepared(&assets.join("text/museum-val.txt"), &encoder)?;
    let prompt = prompt_ids(&Pair::question(TextFormat::E2e, PROMPT), &encoder)?;

    let base = TextBase::load(encoder, &ModelSettings::default(), 0, &device)?;
    let training_device = device.clone().autodiff();
    let adapter = NolaConfig { rank: 2, k: 64, ..NolaConfig::default() }.into();
    let targets = Targets::matching("query|value");
    let model = Adapted::attach(base.model.clone().train(), &adapter, &targets, &[], &training_device)?;

    let settings = TrainSettings {
        steps: 6,
        batch: 4,
        learning_rate: 2e-2,
        evaluate_every: Period(3),
        ..TrainSettings::default()
    };
    let mut order = Order::new(vec![WeightedSamples::once(training.len())], settings.batch, settings.seed);
    let steps = (0..settings.steps)
        .map(|step| vec![TextBatch::new(&training.batch(&order.step(step)), &training_device)])
        .map(Ok);
    let mut watching = Watching { validation: &validation, device: &device, losses: Vec::new() };
    let trained = train(model, &settings, steps, &mut watching)?;

    let model = trained.last.valid().model;
    let generation = GenerationConfig {
        eos_token_id: base.encoder.eos.clone(),
        max_new_tokens: 16,
        ..GenerationConfig::default()
    };
    let decoding = Decoding { generation, batch: 1 };
    let answers = write_all(&model, &base.encoder, &[prompt], &decoding, &device, |_| ())?;
    Ok((watching.losses, answers[0][0].text.clone()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (losses, answer) = trained_and_answered()?;
    println!("losses {losses:?}\n{PROMPT} =>{answer}");
    Ok(())
}

#[test]
fn a_program_without_recipe_trains_and_answers() {
    let (losses, answer) = trained_and_answered().expect("the shipped model and text");
    assert_eq!(losses.len(), 6);
    assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
    assert!(!answer.trim().is_empty());
}
