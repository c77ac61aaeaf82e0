//! Batches in host memory, made ahead of the training thread.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use nola_models::image::{Augmentation, Preprocessor};
use rayon::prelude::*;

use super::{DataError, Images, Order, Purpose, random};

/// Batches that wait for the training thread; one more may be in the making.
const AHEAD: usize = 2;

/// Pictures as the model takes them, with their labels.
#[derive(Debug, Clone, PartialEq)]
pub struct HostBatch {
    /// `[samples, 3, size, size]`, row-major.
    pub pixels: Vec<f32>,
    /// Class of each sample.
    pub labels: Vec<i64>,
    /// Which picture of [`Images`] each sample is.
    pub samples: Vec<usize>,
    /// Pixels of a side.
    pub size: usize,
}

impl HostBatch {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The same samples in passes of at most `micro_batch`.
    pub fn split(&self, micro_batch: usize) -> impl Iterator<Item = Self> + '_ {
        let pixels = self.pixels.chunks(micro_batch * 3 * self.size * self.size);
        let parts = pixels
            .zip(self.labels.chunks(micro_batch))
            .zip(self.samples.chunks(micro_batch));
        parts.map(|((pixels, labels), samples)| Self {
            pixels: pixels.to_vec(),
            labels: labels.to_vec(),
            samples: samples.to_vec(),
            size: self.size,
        })
    }
}

/// Which samples a training run sees, and how they are changed.
#[derive(Debug, Clone)]
pub struct TrainingPlan {
    /// Order of the samples.
    pub order: Order,
    /// Random changes; drawn anew in every step.
    pub augmentation: Augmentation,
    /// Optimizer steps, counted from 0; a resumed run starts in the middle.
    pub steps: Range<usize>,
}

/// An iterator over batches; they are decoded and preprocessed on rayon's threads while the model works.
#[derive(Debug)]
pub struct Batches {
    ready: Option<Receiver<Result<HostBatch, DataError>>>,
    worker: Option<JoinHandle<()>>,
}

impl Batches {
    /// One batch for each step of the plan. What it holds depends on the plan and the step alone.
    pub fn training(images: Arc<Images>, preprocessor: Preprocessor, plan: TrainingPlan) -> Self {
        let TrainingPlan {
            order,
            augmentation,
            steps,
        } = plan;
        Self::spawn(steps, move |step| {
            make(
                order.step(step),
                &images,
                &preprocessor,
                |position, image| {
                    let mut random = random(
                        order.seed,
                        Purpose::Augmentation,
                        step as u64,
                        position as u64,
                    );
                    preprocessor.train(image, &augmentation, &mut random)
                },
            )
        })
    }

    /// Every picture once and in order, in batches of `batch`; the last may be smaller.
    pub fn evaluation(images: Arc<Images>, preprocessor: Preprocessor, batch: usize) -> Self {
        let count = images.len();
        Self::spawn(0..count.div_ceil(batch), move |index| {
            let samples = (index * batch..count.min((index + 1) * batch)).collect();
            make(samples, &images, &preprocessor, |_, image| {
                preprocessor.evaluate(image)
            })
        })
    }

    fn spawn(
        steps: Range<usize>,
        make: impl Fn(usize) -> Result<HostBatch, DataError> + Send + 'static,
    ) -> Self {
        let (sender, ready) = sync_channel(AHEAD);
        let worker = std::thread::spawn(move || {
            for step in steps {
                // Sending fails once nobody wants more.
                if sender.send(make(step)).is_err() {
                    break;
                }
            }
        });
        Self {
            ready: Some(ready),
            worker: Some(worker),
        }
    }
}

impl Iterator for Batches {
    type Item = Result<HostBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.ready.as_ref()?.recv().ok();
        if next.is_none() {
            let ended = self.worker.take().map(JoinHandle::join);
            if let Some(Err(panic)) = ended {
                std::panic::resume_unwind(panic);
            }
        }
        next
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.ready = None;
        // The worker is at most one batch away from its end; a panic of it has no one left to reach.
        let _ = self.worker.take().map(JoinHandle::join);
    }
}

/// Puts samples together; `prepare` gets a sample's position in the batch and its picture.
fn make(
    samples: Vec<usize>,
    images: &Images,
    preprocessor: &Preprocessor,
    prepare: impl Fn(usize, &nola_models::image::RgbImage) -> Vec<f32> + Sync,
) -> Result<HostBatch, DataError> {
    let pictures: Vec<Vec<f32>> = samples
        .par_iter()
        .enumerate()
        .map(|(position, &sample)| Ok(prepare(position, images.image(sample)?.as_ref())))
        .collect::<Result<_, DataError>>()?;
    let labels = samples
        .iter()
        .map(|&sample| images.label(sample) as i64)
        .collect();
    Ok(HostBatch {
        pixels: pictures.concat(),
        labels,
        samples,
        size: preprocessor.size,
    })
}
