//! Batches of images in host memory, decoded and preprocessed on rayon's threads.

use std::ops::Range;
use std::sync::Arc;

use image::RgbImage;
use nola_models::Preprocessor;
use rayon::prelude::*;

use super::{Augmentation, DataError, Images, Order};
use crate::random::{Purpose, random};

/// Images as the model takes them, with their labels.
#[derive(Debug, Clone, PartialEq)]
pub struct HostBatch {
    /// `[samples, 3, height, width]`, row-major.
    pub pixels: Vec<f32>,
    /// Class of each sample.
    pub labels: Vec<i64>,
    /// Which image of [`Images`] each sample is.
    pub samples: Vec<usize>,
    /// Height and width, in pixels.
    pub size: [usize; 2],
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
    pub fn split(self, micro_batch: usize) -> Vec<Self> {
        if self.len() <= micro_batch {
            return vec![self];
        }
        let pixels = self.pixels.chunks(micro_batch * 3 * self.size[0] * self.size[1]);
        let parts = pixels.zip(self.labels.chunks(micro_batch)).zip(self.samples.chunks(micro_batch));
        let pass = |((pixels, labels), samples): ((&[f32], &[i64]), &[usize])| Self {
            pixels: pixels.to_vec(),
            labels: labels.to_vec(),
            samples: samples.to_vec(),
            size: self.size,
        };
        parts.map(pass).collect()
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
    /// Which samples of a step become batches, one for each range.
    pub parts: Vec<Range<usize>>,
}

/// One batch for each part of each step of the plan. What it holds depends on the plan and the step alone.
pub fn training_batches(
    images: Arc<Images>,
    preprocessor: Preprocessor,
    plan: TrainingPlan,
) -> impl Iterator<Item = Result<Vec<HostBatch>, DataError>> + Send + 'static {
    let TrainingPlan { mut order, augmentation, steps, parts } = plan;
    steps.map(move |step| {
        let (samples, seed) = (order.step(step), order.seed());
        let batch = |part: &Range<usize>| {
            make(samples[part.clone()].to_vec(), &images, &preprocessor, |position, image| {
                let position = (part.start + position) as u64;
                let mut random = random(seed, Purpose::Augmentation, step as u64, position);
                augmentation.input(image, &preprocessor, &mut random)
            })
        };
        parts.iter().map(batch).collect()
    })
}

/// Some of the batches that all images make in their order, `batch` each; the last of all may be smaller.
pub fn evaluation_batches(
    images: Arc<Images>,
    preprocessor: Preprocessor,
    batch: usize,
    wanted: Vec<usize>,
) -> impl Iterator<Item = Result<HostBatch, DataError>> + Send + 'static {
    let count = images.len();
    wanted.into_iter().map(move |index| {
        let first = index * batch;
        evaluation_batch((first..count.min(first + batch)).collect(), &images, &preprocessor)
    })
}

/// The batch of these images, without augmentation.
///
/// # Errors
/// If one has changed since it was checked.
pub fn evaluation_batch(
    samples: Vec<usize>,
    images: &Images,
    preprocessor: &Preprocessor,
) -> Result<HostBatch, DataError> {
    make(samples, images, preprocessor, |_, image| preprocessor.evaluate(image))
}

/// Puts samples together; `prepare` gets a sample's position in the batch and its image.
fn make(
    samples: Vec<usize>,
    images: &Images,
    preprocessor: &Preprocessor,
    prepare: impl Fn(usize, &RgbImage) -> Vec<f32> + Sync,
) -> Result<HostBatch, DataError> {
    let pixels: Vec<Vec<f32>> = samples
        .par_iter()
        .enumerate()
        .map(|(position, &sample)| Ok(prepare(position, images.image(sample)?.as_ref())))
        .collect::<Result<_, DataError>>()?;
    let labels = samples.iter().map(|&sample| images.label(sample) as i64).collect();
    Ok(HostBatch { pixels: pixels.concat(), labels, samples, size: preprocessor.output_size() })
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::data::{Colours, Dataset, OnBadImage, Records, WeightedSamples, samples_of};

    /// Grey images of 4 x 4 pixels, whose values are 0, 10, 20, ...
    fn images(count: u8) -> Arc<Images> {
        let bytes = (0..count).flat_map(|index| [10 * index; 16]).collect();
        let colours = Colours::Grey;
        let records = Records { file: "r".into(), bytes, start: 0, stride: 16, width: 4, height: 4, colours };
        let labels: Vec<u8> = (0..count).map(|index| index % 2).collect();
        let dataset = Dataset {
            root: "r".into(),
            classes: vec!["even".to_owned(), "odd".to_owned()],
            samples: samples_of(Arc::new(records), &labels),
            links_outside: 0,
            notes: Vec::new(),
        };
        Arc::new(Images::load(dataset, OnBadImage::Fail, 0).unwrap().0)
    }

    fn plan(steps: Range<usize>) -> TrainingPlan {
        let augmentation = Augmentation { flip_probability: 0.5, ..Augmentation::small_images() };
        let order = Order::new(vec![WeightedSamples::once(7)], 4, 3);
        TrainingPlan { order, augmentation, steps, parts: std::iter::once(0..4).collect() }
    }

    fn training(steps: Range<usize>) -> Vec<HostBatch> {
        parts_of(plan(steps)).into_iter().flatten().collect()
    }

    fn parts_of(plan: TrainingPlan) -> Vec<Vec<HostBatch>> {
        training_batches(images(7), Preprocessor::standard(4), plan).map(Result::unwrap).collect()
    }

    #[test]
    fn parts_of_a_step_hold_the_samples_of_the_whole_changed_alike() {
        let whole = training(0..3);
        for parts in [vec![0..1, 1..4], vec![0..2, 2..4]] {
            let found = parts_of(TrainingPlan { parts: parts.clone(), ..plan(0..3) });
            for (step, batches) in whole.iter().zip(found) {
                for (part, batch) in parts.iter().zip(batches) {
                    assert_eq!(batch.samples, step.samples[part.clone()]);
                    assert_eq!(batch.pixels, step.pixels[48 * part.start..48 * part.end]);
                }
            }
        }
    }

    #[test]
    fn a_resumed_run_sees_the_batches_of_one_that_never_stopped() {
        let whole = training(0..6);
        assert_eq!(whole.len(), 6);
        assert_eq!(training(3..6), whole[3..]);
    }

    #[test]
    fn batches_do_not_depend_on_the_number_of_threads() {
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let images = images(7);
        let preprocessor = Preprocessor::standard(4);
        let TrainingPlan { mut order, augmentation, .. } = plan(0..1);
        let batch = || {
            make(order.step(2), &images, &preprocessor, |position, image| {
                let mut random = random(order.seed(), Purpose::Augmentation, 2, position as u64);
                augmentation.input(image, &preprocessor, &mut random)
            })
        };
        assert_eq!(one.install(batch).unwrap(), training(2..3)[0]);
    }

    #[test]
    fn evaluation_sees_every_image_once_and_in_order() {
        let batches: Vec<HostBatch> =
            evaluation_batches(images(7), Preprocessor::standard(4), 3, vec![0, 1, 2])
                .map(Result::unwrap)
                .collect();
        assert_eq!(batches.iter().map(HostBatch::len).collect::<Vec<_>>(), [3, 3, 1]);
        assert_eq!(
            batches.iter().flat_map(|batch| batch.samples.clone()).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 5, 6]
        );
        assert_eq!(batches[1].labels, [1, 0, 1]);
        let expected = Preprocessor::standard(4).evaluate(&RgbImage::from_pixel(4, 4, Rgb([40; 3])));
        assert_eq!(batches[1].pixels[48..96], expected);
    }

    #[test]
    fn passes_together_are_the_step() {
        let batch = training(0..1).remove(0);
        let passes = batch.clone().split(3);
        assert_eq!(passes.iter().map(HostBatch::len).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(passes.iter().flat_map(|pass| pass.pixels.clone()).collect::<Vec<_>>(), batch.pixels);
        assert_eq!(passes.iter().flat_map(|pass| pass.samples.clone()).collect::<Vec<_>>(), batch.samples);
    }
}
