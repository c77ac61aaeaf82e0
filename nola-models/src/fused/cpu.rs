//! The fused operations on the CPU: vectorised for the instructions of the machine, and shared by rayon's threads.

mod attention;
mod curves;
mod math;
mod rows;
mod turns;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Shape, TensorData};

use super::{FusedActivation, Inputs, Kernels, Norm, Rotation, plain};
use attention::{Heads, Mask};
use nola_core::filled::zeros;

/// Whether all are f32; other types take the plain way.
fn are_f32<'a>(tensors: impl IntoIterator<Item = &'a FlexTensor>) -> bool {
    tensors.into_iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// The numbers of a contiguous tensor, or of a copy that is.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

fn numbers(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("it was made contiguous")
}

fn whole_numbers(tensor: FlexTensor) -> Vec<usize> {
    tensor.into_data().iter::<i64>().map(|number| number as usize).collect()
}

fn tensor_of(numbers: Vec<f32>, shape: &Shape) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(numbers, shape.clone()))
}

impl Kernels for Flex {
    fn activation(x: FlexTensor, activation: FusedActivation) -> FlexTensor {
        if !are_f32([&x]) {
            return plain::activation::<Self>(x, activation);
        }
        let x = contiguous(x);
        tensor_of(curves::forward(numbers(&x), activation), x.layout().shape())
    }

    fn activation_backward(x: FlexTensor, gradient: FlexTensor, activation: FusedActivation) -> FlexTensor {
        if !are_f32([&x, &gradient]) {
            return plain::activation_backward::<Self>(x, gradient, activation);
        }
        let (x, gradient) = (contiguous(x), contiguous(gradient));
        tensor_of(curves::backward(numbers(&x), numbers(&gradient), activation), x.layout().shape())
    }

    fn gated(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        if !are_f32([&gate, &up]) {
            return plain::gated::<Self>(gate, up);
        }
        let (gate, up) = (contiguous(gate), contiguous(up));
        tensor_of(curves::gated(numbers(&gate), numbers(&up)), gate.layout().shape())
    }

    fn gated_backward(gate: FlexTensor, up: FlexTensor, gradient: FlexTensor) -> [FlexTensor; 2] {
        if !are_f32([&gate, &up, &gradient]) {
            return plain::gated_backward::<Self>(gate, up, gradient);
        }
        let (gate, up, gradient) = (contiguous(gate), contiguous(up), contiguous(gradient));
        let found = curves::gated_backward([&gate, &up, &gradient].map(numbers));
        found.map(|numbers| tensor_of(numbers, gate.layout().shape()))
    }

    fn rotated(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, rotation: Rotation) -> FlexTensor {
        if !are_f32([&x, &cos, &sin]) {
            return plain::rotated::<Self>(x, cos, sin, rotation);
        }
        let (x, cos, sin) = (rows_together(&x), contiguous(cos), contiguous(sin));
        let mut result = Mixed::new(x.layout().shape());
        turns::rotated(heads_of(&x), numbers(&cos), numbers(&sin), rotation, result.values());
        result.finish()
    }

    fn norm(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: Option<FlexTensor>,
        norm: Norm,
        epsilon: f64,
    ) -> FlexTensor {
        if !are_f32([&x, &gamma].into_iter().chain(&beta)) {
            return plain::norm::<Self>(x, gamma, beta, norm, epsilon);
        }
        let (x, gamma, beta) = (contiguous(x), contiguous(gamma), beta.map(contiguous));
        let beta = beta.as_ref().map(numbers);
        let found = rows::forward(numbers(&x), numbers(&gamma), beta, norm, epsilon as f32);
        tensor_of(found, x.layout().shape())
    }

    fn norm_backward(
        x: FlexTensor,
        gamma: FlexTensor,
        gradient: FlexTensor,
        norm: Norm,
        epsilon: f64,
    ) -> FlexTensor {
        if !are_f32([&x, &gamma, &gradient]) {
            return plain::norm_backward::<Self>(x, gamma, gradient, norm, epsilon);
        }
        let (x, gamma, gradient) = (contiguous(x), contiguous(gamma), contiguous(gradient));
        let inputs = [numbers(&x), numbers(&gradient)];
        let found = rows::backward(inputs, numbers(&gamma), norm, epsilon as f32);
        tensor_of(found, x.layout().shape())
    }

    fn cross_entropy(logits: FlexTensor, labels: FlexTensor, smoothing: f64) -> FlexTensor {
        if !are_f32([&logits]) {
            return plain::cross_entropy::<Self>(logits, labels, smoothing);
        }
        let (logits, labels) = (contiguous(logits), whole_numbers(labels));
        let found = rows::cross_entropy(numbers(&logits), &labels, smoothing as f32);
        tensor_of(found, &Shape::new([labels.len()]))
    }

    fn cross_entropy_backward(
        logits: FlexTensor,
        labels: FlexTensor,
        gradient: FlexTensor,
        smoothing: f64,
    ) -> FlexTensor {
        if !are_f32([&logits, &gradient]) {
            return plain::cross_entropy_backward::<Self>(logits, labels, gradient, smoothing);
        }
        let (logits, labels) = (contiguous(logits), whole_numbers(labels));
        let gradient = contiguous(gradient);
        let of_rows = labels.iter().copied().zip(numbers(&gradient).iter().copied()).collect::<Vec<_>>();
        let found = rows::cross_entropy_backward(numbers(&logits), &of_rows, smoothing as f32);
        tensor_of(found, logits.layout().shape())
    }

    fn attend(inputs: Inputs<Self>, scale: f64) -> FlexTensor {
        let Inputs { query, key, value, mask } = &inputs;
        if !are_f32([query, key, value].into_iter().chain(mask)) {
            return plain::attention::<Self>(inputs, scale);
        }
        let [query, key, value] = [query, key, value].map(rows_together);
        let mask = mask.clone().map(contiguous);
        let mask = mask.as_ref().map(|mask| mask_of(mask));
        let heads = [&query, &key, &value].map(heads_of);
        let mut mixed = Mixed::new(query.layout().shape());
        attention::forward(heads, mask, scale as f32, mixed.values());
        mixed.finish()
    }

    fn attend_backward(inputs: Inputs<Self>, scale: f64, gradient: FlexTensor) -> [FlexTensor; 3] {
        let Inputs { query, key, value, mask } = &inputs;
        if !are_f32([query, key, value, &gradient].into_iter().chain(mask)) {
            return plain::attention_backward::<Self>(inputs, scale, gradient);
        }
        let [query, key, value, gradient] = [query, key, value, &gradient].map(rows_together);
        let mask = mask.clone().map(contiguous);
        let mask = mask.as_ref().map(|mask| mask_of(mask));
        let heads = [&query, &key, &value].map(heads_of);
        let [mut of_query, mut of_key, mut of_value] =
            [&query, &key, &value].map(|tensor| Mixed::new(tensor.layout().shape()));
        let results = [of_query.values(), of_key.values(), of_value.values()];
        attention::backward(heads, heads_of(&gradient), mask, scale as f32, results);
        [of_query, of_key, of_value].map(Mixed::finish)
    }
}

/// A tensor `[batch, heads, tokens, d_head]` in which the numbers of one row lie side by side.
fn rows_together(tensor: &FlexTensor) -> FlexTensor {
    let strides = tensor.layout().strides();
    if strides[3] == 1 && strides.iter().all(|&stride| stride >= 0) {
        tensor.clone()
    } else {
        tensor.to_contiguous()
    }
}

fn heads_of(tensor: &FlexTensor) -> Heads<'_> {
    let (shape, strides) = (tensor.layout().shape(), tensor.layout().strides());
    Heads {
        values: &tensor.storage()[tensor.layout().start_offset()..],
        sizes: [shape[0], shape[1], shape[2], shape[3]],
        strides: [strides[0], strides[1], strides[2]].map(isize::unsigned_abs),
    }
}

fn mask_of(mask: &FlexTensor) -> Mask<'_> {
    let shape = mask.layout().shape();
    Mask { values: numbers(mask), tokens: shape[2], keys: shape[3] }
}

/// A result `[batch, heads, tokens, d_head]`, in memory as `[batch, tokens, heads, d_head]`: what follows in the model
/// lays the heads side by side, and then has nothing to move.
struct Mixed {
    tensor: FlexTensor,
}

impl Mixed {
    fn new(shape: &Shape) -> Self {
        let shape = Shape::new([shape[0], shape[2], shape[1], shape[3]]);
        Self { tensor: tensor_of(zeros(shape.num_elements()), &shape) }
    }

    fn values(&mut self) -> &mut [f32] {
        self.tensor.storage_mut()
    }

    fn finish(self) -> FlexTensor {
        self.tensor.permute(&[0, 2, 1, 3])
    }
}
