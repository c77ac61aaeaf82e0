//! The small models in plain loops over f64, written from their papers and from transformers' definitions.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use crate::model_with_loss::{ImageBatch, TextBatch};

/// Tokens, each a vector.
type Rows = Vec<Vec<f64>>;

/// Numbers of a model, by path.
pub(super) struct Weights(pub(super) BTreeMap<String, Vec<f64>>);

/// What a model makes of a batch.
pub(super) struct Computed {
    /// Mean loss, in nats per target.
    pub(super) loss: f64,
    /// The output of the last norm, row-major.
    pub(super) outputs: Vec<f64>,
}

/// A kind of model, and the batch that it sees.
pub(super) enum Oracle {
    Vit { images: Rows, labels: Vec<usize> },
    Gpt2(Texts),
    Llama(Texts),
}

/// Texts of one length, and the tokens to predict in them.
pub(super) struct Texts {
    ids: Vec<Vec<usize>>,
    /// Places, counted over all texts, each with the token that follows.
    targets: Vec<(usize, usize)>,
}

fn integers(data: burn::tensor::TensorData) -> Vec<usize> {
    data.iter::<i64>().map(|value| value as usize).collect()
}

impl Texts {
    fn of(batch: &TextBatch) -> Self {
        let tokens = batch.ids.dims()[1];
        let ids = integers(batch.ids.to_data()).chunks(tokens).map(<[usize]>::to_vec).collect();
        let (places, next) = (integers(batch.places.to_data()), integers(batch.next.to_data()));
        Self { ids, targets: places.into_iter().zip(next).collect() }
    }
}

impl Oracle {
    pub(super) fn of_images(batch: &ImageBatch) -> Self {
        let pixels: Vec<f64> = batch.pixels.to_data().iter::<f32>().map(f64::from).collect();
        let labels = integers(batch.labels.to_data());
        let images = pixels.chunks(pixels.len() / labels.len()).map(<[f64]>::to_vec).collect();
        Self::Vit { images, labels }
    }

    pub(super) fn gpt2(batch: &TextBatch) -> Self {
        Self::Gpt2(Texts::of(batch))
    }

    pub(super) fn llama(batch: &TextBatch) -> Self {
        Self::Llama(Texts::of(batch))
    }

    pub(super) fn computed(&self, weights: &Weights) -> Computed {
        match self {
            Self::Vit { images, labels } => {
                let outputs: Vec<Rows> = images.iter().map(|image| weights.vit(image)).collect();
                let logits = outputs.iter().map(|rows| weights.linear("head", &rows[..1]).remove(0));
                let losses: Vec<f64> =
                    logits.zip(labels).map(|(logits, &label)| loss(&logits, label)).collect();
                Computed { loss: mean(&losses), outputs: outputs.concat().concat() }
            }
            Self::Gpt2(texts) => texts.computed(|ids| weights.gpt2(ids), &weights.head()),
            Self::Llama(texts) => texts.computed(|ids| weights.llama(ids), &weights.head()),
        }
    }
}

impl Texts {
    /// `head` holds a row for each token.
    fn computed(&self, forward: impl Fn(&[usize]) -> Rows, head: &[f64]) -> Computed {
        let outputs: Rows = self.ids.iter().flat_map(|ids| forward(ids)).collect();
        let of_target = |&(place, next): &(usize, usize)| {
            let hidden = &outputs[place];
            let logits: Vec<f64> = head.chunks(hidden.len()).map(|row| dot(row, hidden)).collect();
            loss(&logits, next)
        };
        let losses: Vec<f64> = self.targets.iter().map(of_target).collect();
        Computed { loss: mean(&losses), outputs: outputs.concat() }
    }
}

impl Weights {
    fn get(&self, path: &str) -> &[f64] {
        self.0.get(path).unwrap_or_else(|| panic!("no weight {path} in {:?}", self.0.keys()))
    }

    /// A row for each token: of the head, or of the embedding that is the head too.
    fn head(&self) -> Vec<f64> {
        let Some(matrix) = self.0.get("head.weight") else { return self.get("tokens.weight").to_vec() };
        let d_in = self.get("norm.gamma").len();
        let d_out = matrix.len() / d_in;
        (0..d_out * d_in).map(|n| matrix[n % d_in * d_out + n / d_in]).collect()
    }

    /// `x·weight + bias`, the weight `[d_in, d_out]`.
    fn linear(&self, path: &str, x: &[Vec<f64>]) -> Rows {
        let weight = self.get(&format!("{path}.weight"));
        let d_out = weight.len() / x[0].len();
        let bias = self.0.get(&format!("{path}.bias"));
        let of_row = |row: &Vec<f64>| {
            let mut sums = bias.cloned().unwrap_or_else(|| vec![0.0; d_out]);
            for (x, weights) in row.iter().zip(weight.chunks(d_out)) {
                sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += x * weight);
            }
            sums
        };
        x.iter().map(of_row).collect()
    }

    fn layer_norm(&self, path: &str, x: &[Vec<f64>], epsilon: f64) -> Rows {
        let (gamma, beta) = (self.get(&format!("{path}.gamma")), self.get(&format!("{path}.beta")));
        let of_row = |row: &Vec<f64>| {
            let centre = mean(row);
            let variance = mean(&row.iter().map(|value| (value - centre).powi(2)).collect::<Vec<f64>>());
            let scaled = row.iter().map(|value| (value - centre) / (variance + epsilon).sqrt());
            scaled.zip(gamma).zip(beta).map(|((value, gamma), beta)| value * gamma + beta).collect()
        };
        x.iter().map(of_row).collect()
    }

    fn rms_norm(&self, path: &str, x: &[Vec<f64>], epsilon: f64) -> Rows {
        let gamma = self.get(&format!("{path}.gamma"));
        let of_row = |row: &Vec<f64>| {
            let scale = (dot(row, row) / row.len() as f64 + epsilon).sqrt().recip();
            row.iter().zip(gamma).map(|(value, gamma)| value * scale * gamma).collect()
        };
        x.iter().map(of_row).collect()
    }

    fn vit(&self, image: &[f64]) -> Rows {
        let (side, patch, channels) = (8, 4, 3);
        let (kernel, bias) = (self.get("patches.weight"), self.get("patches.bias"));
        let positions = self.get("positions").chunks(bias.len());
        let size = channels * patch * patch;
        let pixel = |row: usize, column: usize, n: usize| {
            let (channel, within) = (n / (patch * patch), n % (patch * patch));
            image[channel * side * side + (row + within / patch) * side + column + within % patch]
        };
        let of_patch = |row: usize, column: usize| -> Vec<f64> {
            let of_output = |(output, bias): (usize, &f64)| {
                let kernel = &kernel[output * size..(output + 1) * size];
                bias + kernel
                    .iter()
                    .enumerate()
                    .map(|(n, weight)| weight * pixel(row, column, n))
                    .sum::<f64>()
            };
            bias.iter().enumerate().map(of_output).collect()
        };
        let corners =
            (0..side).step_by(patch).flat_map(|row| (0..side).step_by(patch).map(move |c| (row, c)));
        let patches = corners.map(|(row, column)| of_patch(row, column));
        let tokens = std::iter::once(self.get("class_token").to_vec()).chain(patches);
        let mut x: Rows = tokens.zip(positions).map(|(token, position)| plus(&token, position)).collect();
        x = self.block(x, &|path, x| self.layer_norm(path, x, 1e-6), &gelu, |q, k, v| {
            attention(q, k, v, 3, false)
        });
        self.layer_norm("norm", &x, 1e-6)
    }

    fn gpt2(&self, ids: &[usize]) -> Rows {
        let (tokens, positions) = (self.get("tokens.weight"), self.get("positions.weight"));
        let width = self.get("norm.gamma").len();
        let row = |table: &[f64], n: usize| table[n * width..(n + 1) * width].to_vec();
        let embedded = ids.iter().enumerate().map(|(n, &id)| plus(&row(tokens, id), &row(positions, n)));
        let x = self.block(
            embedded.collect(),
            &|path, x| self.layer_norm(path, x, 1e-5),
            &gelu_tanh,
            |q, k, v| attention(q, k, v, 2, true),
        );
        self.layer_norm("norm", &x, 1e-5)
    }

    /// Attention, then an MLP of two layers; both add to what they read normalised.
    fn block(
        &self,
        x: Rows,
        norm: &dyn Fn(&str, &[Vec<f64>]) -> Rows,
        activation: &dyn Fn(f64) -> f64,
        attend: impl Fn(&Rows, &Rows, &Rows) -> Rows,
    ) -> Rows {
        let at = |name: &str| format!("blocks.0.{name}");
        let normed = norm(&at("norm_attention"), &x);
        let [q, k, v] =
            ["query", "key", "value"].map(|name| self.linear(&at(&format!("attention.{name}")), &normed));
        let x = sum(&x, &self.linear(&at("attention.output"), &attend(&q, &k, &v)));
        let mut inner = self.linear(&at("mlp.up"), &norm(&at("norm_mlp"), &x));
        inner.iter_mut().flatten().for_each(|value| *value = activation(*value));
        sum(&x, &self.linear(&at("mlp.down"), &inner))
    }

    fn llama(&self, ids: &[usize]) -> Rows {
        let (width, heads, kv_heads, epsilon) = (self.get("norm.gamma").len(), 4, 2, 1e-6);
        let at = |name: &str| format!("blocks.0.{name}");
        let tokens = self.get("tokens.weight");
        let x: Rows = ids.iter().map(|&id| tokens[id * width..(id + 1) * width].to_vec()).collect();
        let normed = self.rms_norm(&at("norm_attention"), &x, epsilon);
        let q = rotated(self.linear(&at("attention.query"), &normed), width / heads);
        let k = rotated(self.linear(&at("attention.key"), &normed), width / heads);
        let v = self.linear(&at("attention.value"), &normed);
        // Several heads of queries share one of keys and values.
        let shared = |rows: &Rows| -> Rows {
            let d_head = width / heads;
            let spread = |row: &Vec<f64>| {
                let head = |n: usize| row[n * kv_heads / heads * d_head..][..d_head].to_vec();
                (0..heads).flat_map(head).collect()
            };
            rows.iter().map(spread).collect()
        };
        let mixed = attention(&q, &shared(&k), &shared(&v), heads, true);
        let x = sum(&x, &self.linear(&at("attention.output"), &mixed));
        let normed = self.rms_norm(&at("norm_mlp"), &x, epsilon);
        let (gate, mut up) = (self.linear(&at("mlp.gate"), &normed), self.linear(&at("mlp.up"), &normed));
        let gated = up.iter_mut().flatten().zip(gate.iter().flatten());
        gated.for_each(|(up, gate)| *up *= gate / (1.0 + (-gate).exp()));
        let x = sum(&x, &self.linear(&at("mlp.down"), &up));
        self.rms_norm("norm", &x, epsilon)
    }
}

/// Rotary positions in halves: entry `n` of a head turns with entry `n + d_head/2`.
fn rotated(mut rows: Rows, d_head: usize) -> Rows {
    for (position, row) in rows.iter_mut().enumerate() {
        for head in row.chunks_mut(d_head) {
            for n in 0..d_head / 2 {
                let angle = position as f64 * 10_000_f64.powf(-2.0 * n as f64 / d_head as f64);
                let (a, b) = (head[n], head[n + d_head / 2]);
                head[n] = a * angle.cos() - b * angle.sin();
                head[n + d_head / 2] = b * angle.cos() + a * angle.sin();
            }
        }
    }
    rows
}

fn attention(q: &Rows, k: &Rows, v: &Rows, heads: usize, is_causal: bool) -> Rows {
    let d_head = q[0].len() / heads;
    let of_token = |(token, q): (usize, &Vec<f64>)| {
        let seen = if is_causal { token + 1 } else { k.len() };
        let of_head = |head: usize| {
            let part = head * d_head..(head + 1) * d_head;
            let scores: Vec<f64> = k[..seen]
                .iter()
                .map(|k| dot(&q[part.clone()], &k[part.clone()]) / (d_head as f64).sqrt())
                .collect();
            let shares = softmax(&scores);
            let mut mixed = vec![0.0; d_head];
            for (share, v) in shares.iter().zip(v) {
                mixed.iter_mut().zip(&v[part.clone()]).for_each(|(sum, v)| *sum += share * v);
            }
            mixed
        };
        (0..heads).flat_map(of_head).collect()
    };
    q.iter().enumerate().map(of_token).collect()
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
    let powers: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

fn loss(logits: &[f64], label: usize) -> f64 {
    -softmax(logits)[label].ln()
}

/// The exact one: `x · Φ(x)`.
fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / 2_f64.sqrt()))
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

/// Its Taylor series, which is precise where small models are.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    2.0 / PI.sqrt() * sum
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn plus(left: &[f64], right: &[f64]) -> Vec<f64> {
    left.iter().zip(right).map(|(left, right)| left + right).collect()
}

fn sum(left: &Rows, right: &Rows) -> Rows {
    left.iter().zip(right).map(|(left, right)| plus(left, right)).collect()
}
