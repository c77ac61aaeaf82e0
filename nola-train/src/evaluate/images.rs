//! Scores of a model on labelled images.

use std::sync::Arc;

use burn::tensor::Device;
use burn::tensor::activation::softmax;
use nola_models::{Preprocessor, Vit};
use serde::{Deserialize, Serialize};

use crate::data::{HostBatch, Images, Prefetch, evaluation_batches};
use crate::model_with_loss::{ImageBatch, cross_entropy};
use crate::progress::{Scores, Target};
use crate::ranks::{Ranks, Topic};
use crate::session::host_rows;
use crate::{Error, exact};

/// Images per pass of an evaluation.
const BATCH: usize = 64;

/// What a model said about every image of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy in nats, and the share of right answers.
    pub scores: Scores,
    /// Answers by class: a row per true class, a column per predicted one.
    pub confusion: Vec<Vec<u32>>,
    /// One per image, in the order of the data set.
    pub predictions: Vec<Prediction>,
}

/// What a model said about one image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// True class.
    pub label: usize,
    /// Class with the largest probability.
    pub predicted: usize,
    /// That probability.
    #[serde(with = "exact")]
    pub probability: f32,
}

/// What a model said about a batch.
#[derive(Serialize, Deserialize)]
struct OfBatch {
    /// Mean cross-entropy in nats.
    #[serde(with = "exact")]
    loss: f32,
    predictions: Vec<Prediction>,
}

/// Runs `vit` on every image once, without augmentation.
///
/// # Errors
/// If an image has changed since it was checked.
pub fn evaluate(
    vit: &Vit,
    images: &Arc<Images>,
    preprocessor: &Preprocessor,
    device: &Device,
) -> Result<Evaluation, Error> {
    evaluate_across(&Ranks::default(), vit, images, preprocessor, device)
}

/// The same, where ranks share the batches; every one gets the whole, with the same bits for any number of them.
///
/// # Errors
/// As [`evaluate`], or if a rank ended.
pub fn evaluate_across(
    ranks: &Ranks,
    vit: &Vit,
    images: &Arc<Images>,
    preprocessor: &Preprocessor,
    device: &Device,
) -> Result<Evaluation, Error> {
    let own = |wanted: Vec<usize>| {
        let batches = evaluation_batches(Arc::clone(images), preprocessor.clone(), BATCH, wanted);
        Prefetch::of(batches).map(|batch| Ok::<_, Error>(of_batch(vit, batch?, device))).collect()
    };
    let batches: Vec<OfBatch> = ranks.share(Topic::Evaluation, images.len().div_ceil(BATCH), own)?;
    let classes = images.classes().len();
    let (mut confusion, mut predictions) = (vec![vec![0; classes]; classes], Vec::new());
    let mut loss = 0.0;
    for batch in batches {
        loss += f64::from(batch.loss) * batch.predictions.len() as f64;
        for prediction in batch.predictions {
            confusion[prediction.label][prediction.predicted] += 1;
            predictions.push(prediction);
        }
    }
    let right = predictions.iter().filter(|p| p.label == p.predicted).count();
    let answers = predictions.len();
    let count = answers.max(1) as f64;
    let (loss, accuracy) = ((loss / count) as f32, right as f64 / count);
    let scores = Scores { target: Target::Image, loss, accuracy, answers };
    Ok(Evaluation { scores, confusion, predictions })
}

fn of_batch(vit: &Vit, batch: HostBatch, device: &Device) -> OfBatch {
    let labels = batch.labels.clone();
    let on_device = ImageBatch::new(batch, device);
    let logits = vit.forward(on_device.pixels);
    let loss = cross_entropy(logits.clone(), on_device.labels, 0.0).into_scalar::<f32>();
    let probabilities = host_rows(softmax(logits, 1));
    let prediction = |(label, row): (&i64, Vec<f32>)| {
        let (predicted, probability) = largest(&row);
        Prediction { label: *label as usize, predicted, probability }
    };
    OfBatch { loss, predictions: labels.iter().zip(probabilities).map(prediction).collect() }
}

impl Evaluation {
    /// Requires an answer to every image.
    ///
    /// # Errors
    /// With the first image for which the model gives what is not finite.
    pub fn check_finite(&self, images: &Images) -> Result<(), Error> {
        if self.scores.loss.is_finite() {
            return Ok(());
        }
        let first = self.predictions.iter().position(|prediction| !prediction.probability.is_finite());
        let what = first.map_or("the right class of an image".to_owned(), |index| images.name(index));
        Err(Error::NonFiniteAnswer { value: self.scores.loss, what })
    }
}

/// Index and value of the largest number.
pub fn largest(row: &[f32]) -> (usize, f32) {
    let start = (0, f32::NEG_INFINITY);
    row.iter()
        .enumerate()
        .fold(start, |best, (index, &value)| if value > best.1 { (index, value) } else { best })
}
