//! Scores of a model on labelled images.

use std::sync::Arc;

use burn::tensor::Device;
use burn::tensor::activation::softmax;
use nola_models::{Preprocessor, Vit};

use crate::Error;
use crate::data::{Images, Prefetch, evaluation_batches};
use crate::model_with_loss::{ImageBatch, cross_entropy};
use crate::progress::{Scores, Target};
use crate::session::host_rows;

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
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// True class.
    pub label: usize,
    /// Class with the largest probability.
    pub predicted: usize,
    /// That probability.
    pub probability: f32,
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
    let classes = images.classes().len();
    let (mut confusion, mut predictions) = (vec![vec![0; classes]; classes], Vec::new());
    let mut loss = 0.0;
    for batch in Prefetch::of(evaluation_batches(Arc::clone(images), preprocessor.clone(), BATCH)) {
        let batch = batch?;
        let labels = batch.labels.clone();
        let on_device = ImageBatch::new(batch, device);
        let logits = vit.forward(on_device.pixels);
        let mean = cross_entropy(logits.clone(), on_device.labels, 0.0).into_scalar::<f32>();
        loss += f64::from(mean) * labels.len() as f64;
        let probabilities = host_rows(softmax(logits, 1));
        for (label, row) in labels.iter().zip(probabilities) {
            let (predicted, probability) = largest(&row);
            let label = *label as usize;
            confusion[label][predicted] += 1;
            predictions.push(Prediction { label, predicted, probability });
        }
    }
    let right = predictions.iter().filter(|p| p.label == p.predicted).count();
    let answers = predictions.len();
    let count = answers.max(1) as f64;
    let (loss, accuracy) = ((loss / count) as f32, right as f64 / count);
    let scores = Scores { target: Target::Image, loss, accuracy, answers };
    Ok(Evaluation { scores, confusion, predictions })
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
