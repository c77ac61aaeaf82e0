//! What the loop asks of a language model: the loss of each next token, without the logits of a whole batch at once.

use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use nola_core::folder::peft::TiedHead;
use nola_models::{AttentionMask, CausalLm, Stage};

use super::recompute::plus_zero;
use super::{ModelWithLoss, cross_entropy};
use crate::text::TokenBatch;

/// Logits that are in memory at a time, in bytes; a vocabulary of 50,257 then takes 667 targets at once. With fewer, more
/// of the time goes into reading the head again than into multiplying with it.
const CHUNK_BYTES: usize = 128 << 20;

/// What is one matrix in a base with tied weights.
pub(crate) const TIED: TiedHead = TiedHead { embedding: "tokens", head: "head" };

/// Texts on the device, and the positions of which the next token is predicted.
#[derive(Debug, Clone)]
pub struct TextBatch {
    /// `[rows, tokens]`.
    pub ids: Tensor<2, Int>,
    /// What each token may look at.
    pub mask: AttentionMask,
    /// Places that have a target, counted over all rows, `[targets]`.
    pub places: Tensor<1, Int>,
    /// The token that follows each of these places, `[targets]`.
    pub next: Tensor<1, Int>,
}

impl TextBatch {
    /// Moves a batch to `device`.
    pub fn new(batch: &TokenBatch, device: &Device) -> Self {
        let with_target = batch.targets.iter().enumerate().filter(|(_, target)| **target >= 0);
        let (places, next): (Vec<i64>, Vec<i64>) =
            with_target.map(|(place, &target)| (place as i64, target)).unzip();
        let line = |values: Vec<i64>| {
            let count = values.len();
            Tensor::<1, Int>::from_data(TensorData::new(values, [count]), device)
        };
        let shape = [batch.rows, batch.tokens];
        let ids = Tensor::from_data(TensorData::new(batch.ids.clone(), shape), device);
        let is_packed = batch.segments.iter().any(|&segment| segment > 1);
        let mask = if is_packed {
            AttentionMask::packed(&ids, &batch.positions, &batch.segments)
        } else {
            AttentionMask::padded_right(&ids, &lengths(batch))
        };
        Self { ids, mask, places: line(places), next: line(next) }
    }

    /// The hidden state at every place that has a target.
    ///
    /// # Shapes
    /// - output: `[targets, d_model]`
    pub fn hidden(&self, model: &CausalLm) -> Tensor<2> {
        self.of_targets(model.hidden(self.ids.clone(), &self.mask))
    }

    /// The rows of `hidden`, `[rows, tokens, d_model]`, at every place that has a target.
    fn of_targets(&self, hidden: Tensor<3>) -> Tensor<2> {
        let [rows, tokens, d_model] = hidden.dims();
        hidden.reshape([rows * tokens, d_model]).select(0, self.places.clone())
    }
}

/// Tokens of each row before its padding, which is no part of a segment.
fn lengths(batch: &TokenBatch) -> Vec<usize> {
    let rows = batch.segments.chunks(batch.tokens.max(1));
    rows.map(|row| row.iter().filter(|&&segment| segment > 0).count()).collect()
}

impl ModelWithLoss for CausalLm {
    type Batch = TextBatch;

    fn embeddings(&self, batch: &TextBatch) -> Tensor<3> {
        self.embeddings(batch.ids.clone(), &batch.mask)
    }

    fn stages<'a>(&'a self, batch: &'a TextBatch) -> Vec<Stage<'a>> {
        self.stages(&batch.mask)
    }

    fn normed(&self, tokens: Tensor<3>) -> Tensor<3> {
        self.normed(tokens)
    }

    fn loss_of(&self, tokens: Tensor<3>, batch: &TextBatch, label_smoothing: f64) -> Tensor<1> {
        let hidden = batch.of_targets(self.normed(tokens));
        if self.head_is_trained() {
            return cross_entropy(self.logits(hidden), batch.next.clone(), label_smoothing);
        }
        let chunk = targets_at_once(self.info().vocab_size);
        chunked_loss(|hidden| self.logits(hidden), hidden, &batch.next, label_smoothing, chunk)
    }

    fn tied_module(&self) -> Option<&'static str> {
        self.has_tied_head().then_some(TIED.embedding)
    }

    fn targets(batch: &TextBatch) -> usize {
        batch.next.dims()[0]
    }
}

/// Targets whose logits are in memory at a time.
pub fn targets_at_once(vocab_size: usize) -> usize {
    (CHUNK_BYTES / size_of::<f32>() / vocab_size).max(1)
}

/// Sum of the log-probabilities of the next tokens, and how many of them are the most probable ones.
///
/// # Shapes
/// - `hidden`: `[targets, d_model]`
/// - `next`: `[targets]`
pub fn scored(model: &CausalLm, hidden: Tensor<2>, next: &Tensor<1, Int>) -> (f64, usize) {
    let (mut sum, mut right) = (0.0, 0);
    for (start, length) in chunks(next.dims()[0], targets_at_once(model.info().vocab_size)) {
        let logits = model.logits(hidden.clone().narrow(0, start, length));
        let next = next.clone().narrow(0, start, length).unsqueeze_dim::<2>(1);
        let hits = logits.clone().argmax(1).equal(next.clone()).int().sum();
        sum += f64::from(log_softmax(logits, 1).gather(1, next).sum().into_scalar::<f32>());
        right += hits.into_scalar::<i64>() as usize;
    }
    (sum, right)
}

/// Mean cross-entropy whose gradient is ready: each chunk of logits is made, differentiated and forgotten in turn.
///
/// The result is a number plus zero, where the zero is `Σ hidden·g − Σ hidden·g` with the second half cut off the graph: so
/// `backward` hands `g`, the gradient that the chunks gave, to `hidden`. `head` must hold nothing that is trained.
///
/// # Shapes
/// - `hidden`: `[targets, d_model]`
/// - `next`: `[targets]`
/// - output: `[1]`, f32
fn chunked_loss(
    head: impl Fn(Tensor<2>) -> Tensor<2>,
    hidden: Tensor<2>,
    next: &Tensor<1, Int>,
    label_smoothing: f64,
    chunk: usize,
) -> Tensor<1> {
    let targets = next.dims()[0];
    let mut total = Tensor::<1>::zeros([1], (&hidden.device(), DType::F32));
    let mut gradients = Vec::new();
    for (start, length) in chunks(targets, chunk) {
        let part = hidden.clone().narrow(0, start, length).detach();
        let part = if hidden.device().is_autodiff() { part.require_grad() } else { part };
        let logits = head(part.clone());
        let mean = cross_entropy(logits, next.clone().narrow(0, start, length), label_smoothing);
        let loss = mean.mul_scalar(length as f64 / targets as f64);
        if part.is_require_grad() {
            let of_chunk = loss.backward();
            gradients.extend(part.grad(&of_chunk));
        }
        total = total + loss.detach();
    }
    if gradients.is_empty() {
        return total;
    }
    plus_zero(total, hidden, Tensor::cat(gradients, 0))
}

/// Start and length of consecutive parts of `0..count` that are about equally long, each at most `longest`.
fn chunks(count: usize, longest: usize) -> impl Iterator<Item = (usize, usize)> {
    let length = count.div_ceil(count.div_ceil(longest).max(1)).max(1);
    (0..count).step_by(length).map(move |start| (start, length.min(count - start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, cols: usize, seed: f32, device: &Device) -> Tensor<2> {
        let values: Vec<f32> = (0..rows * cols).map(|n| (n as f32 * 0.7 + seed).sin()).collect();
        Tensor::from_data(TensorData::new(values, [rows, cols]), device)
    }

    /// Loss and gradient of 7 targets over 11 tokens, with so many targets at a time.
    fn loss_and_gradient(chunk: usize, smoothing: f64) -> (f32, Vec<f32>) {
        let device = Device::flex().autodiff();
        let (hidden, head) = (matrix(7, 5, 0.3, &device).require_grad(), matrix(5, 11, 1.0, &device));
        let next = Tensor::<1, Int>::from_data([1, 0, 10, 3, 3, 7, 2], &device);
        // Something below the head must get the chunks' gradient too.
        let below = hidden.clone().mul_scalar(2.0);
        let loss = chunked_loss(|x| x.matmul(head.clone()), below, &next, smoothing, chunk);
        let gradients = loss.clone().mul_scalar(0.5).backward();
        let gradient = hidden.grad(&gradients).expect("it was asked for");
        (loss.into_scalar(), gradient.into_data().try_into_vec().expect("f32"))
    }

    #[test]
    fn chunks_have_the_loss_and_gradient_of_the_whole() {
        for smoothing in [0.0, 0.1] {
            let (loss, gradient) = loss_and_gradient(7, smoothing);
            for chunk in [1, 2, 3, 100] {
                let (in_chunks, chunked) = loss_and_gradient(chunk, smoothing);
                assert!((loss - in_chunks).abs() < 1e-6, "{loss} and {in_chunks}");
                let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
                assert!(gradient.iter().zip(&chunked).all(close), "{gradient:?} and {chunked:?}");
            }
        }
    }

    #[test]
    fn the_gradient_is_that_of_the_plain_loss() {
        let device = Device::flex().autodiff();
        let (hidden, head) = (matrix(7, 5, 0.3, &device).require_grad(), matrix(5, 11, 1.0, &device));
        let next = Tensor::<1, Int>::from_data([1, 0, 10, 3, 3, 7, 2], &device);
        let plain = cross_entropy(hidden.clone().mul_scalar(2.0).matmul(head), next, 0.1);
        let gradients = plain.clone().mul_scalar(0.5).backward();
        let expected: Vec<f32> =
            hidden.grad(&gradients).expect("it was asked for").into_data().try_into_vec().expect("f32");
        let (loss, gradient) = loss_and_gradient(3, 0.1);
        assert!((loss - plain.into_scalar::<f32>()).abs() < 1e-6);
        assert!(gradient.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{gradient:?}");
    }

    #[test]
    fn without_a_graph_it_is_a_number() {
        let device = Device::flex();
        let next = Tensor::<1, Int>::from_data([1, 0, 10], &device);
        let head = matrix(5, 11, 1.0, &device);
        let loss =
            |chunk| chunked_loss(|x| x.matmul(head.clone()), matrix(3, 5, 0.3, &device), &next, 0.0, chunk);
        let (whole, parts) = (loss(3).into_scalar::<f32>(), loss(2).into_scalar::<f32>());
        assert!((whole - parts).abs() < 1e-6);
    }

    #[test]
    fn a_large_vocabulary_takes_few_targets_at_once() {
        assert_eq!(targets_at_once(50_257), 667);
        assert_eq!(targets_at_once(usize::MAX), 1);
    }
}
