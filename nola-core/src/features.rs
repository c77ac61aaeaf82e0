//! Outputs of adapted layers, recorded during a forward pass: what a student is compared with its teacher by.

use std::cell::RefCell;

use burn::tensor::Tensor;

/// Which layers a recorded pass computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// Those with their adapters.
    Adapted,
    /// Those of the base, as if no adapter were attached.
    Base,
}

#[derive(Debug)]
struct Recording {
    layers: Layers,
    outputs: Vec<Tensor<2>>,
}

thread_local! {
    /// The pass that this thread records. Layers are called by models, which know nothing of it, as with PyTorch's hooks.
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// Ends the recording, also if the pass panics.
struct Ended;

impl Drop for Ended {
    fn drop(&mut self) {
        RECORDING.set(None);
    }
}

/// What `forward` gives, and the output of every layer with an adapter in the order in which they were computed,
/// `[rows, d_out]` each.
///
/// # Panics
/// If this thread records a pass already.
pub fn record_outputs<R>(layers: Layers, forward: impl FnOnce() -> R) -> (R, Vec<Tensor<2>>) {
    let before = RECORDING.replace(Some(Recording { layers, outputs: Vec::new() }));
    assert!(before.is_none(), "one recording at a time");
    let _ended = Ended;
    let result = forward();
    let recording = RECORDING.take().expect("only the end of the pass ends it");
    (result, recording.outputs)
}

/// Which layers are to be computed with.
pub(crate) fn layers() -> Layers {
    RECORDING
        .with_borrow(|recording| recording.as_ref().map_or(Layers::Adapted, |recording| recording.layers))
}

/// Takes note of the output of an adapted layer.
pub(crate) fn note(output: &Tensor<2>) {
    RECORDING.with_borrow_mut(|recording| {
        if let Some(recording) = recording {
            recording.outputs.push(output.clone());
        }
    });
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::adapter::LoraConfig;
    use crate::{Adapted, Targets, adapted};

    fn layers_of_a_model() -> (Adapted<Vec<Linear>>, Tensor<2>) {
        let device = Device::flex();
        let base = vec![LinearConfig::new(6, 6).init(&device), LinearConfig::new(6, 4).init(&device)];
        let config = LoraConfig { rank: 2, ..LoraConfig::default() }.into();
        let model =
            Adapted::attach(base, &config, &Targets::matching("all-linear"), &[], &device).expect("layers");
        let mut state = model.state();
        for data in state.values_mut() {
            *data = burn::tensor::TensorData::new(vec![0.5_f32; data.shape().num_elements()], data.shape());
        }
        let model = model.with_state(state).expect("its own names");
        (model, Tensor::random([3, 6], Distribution::Default, &device))
    }

    fn forward(model: &Adapted<Vec<Linear>>, x: Tensor<2>) -> Tensor<2> {
        model.model.iter().fold(x, |x, layer| adapted(layer, x))
    }

    #[test]
    fn every_adapted_output_is_recorded_in_order() {
        let (model, x) = layers_of_a_model();
        let (y, outputs) = record_outputs(Layers::Adapted, || forward(&model, x.clone()));
        let shapes: Vec<[usize; 2]> = outputs.iter().map(Tensor::dims).collect();
        assert_eq!(shapes, [[3, 6], [3, 4]]);
        assert_eq!(outputs[1].to_data(), y.to_data());
        assert_eq!(y.to_data(), forward(&model, x).to_data(), "recording changes nothing");
    }

    #[test]
    fn the_base_is_computed_as_if_no_adapter_were_there() {
        let (model, x) = layers_of_a_model();
        let (of_base, outputs) = record_outputs(Layers::Base, || forward(&model, x.clone()));
        let plain = model.model.iter().fold(x.clone(), |x, layer| {
            x.matmul(layer.weight.base()) + layer.bias.as_ref().expect("a bias").val().unsqueeze_dim(0)
        });
        of_base.to_data().assert_approx_eq::<f32>(&plain.to_data(), burn::tensor::Tolerance::absolute(1e-5));
        assert_eq!(outputs.len(), 2);
        assert_ne!(of_base.to_data(), forward(&model, x).to_data());
    }
}
