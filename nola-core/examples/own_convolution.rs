//! A convolutional model of one's own: adapters on its linear layers, its convolution trained beside them or left alone.
//!
//! `cargo run --example own_convolution`

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use nola_core::adapter::LoraConfig;
use nola_core::{Adapted, AdapterConfig, Targets, adapted, unadaptable_weights};

#[derive(Module, Debug)]
struct Classifier {
    convolution: Conv2d,
    hidden: Linear,
    head: Linear,
}

impl Classifier {
    fn new(device: &Device) -> Self {
        Self {
            convolution: Conv2dConfig::new([1, 4], [3, 3]).init(device),
            hidden: LinearConfig::new(4 * 6 * 6, 16).init(device),
            head: LinearConfig::new(16, 2).init(device),
        }
    }

    /// # Shapes
    /// - `images`: `[samples, 1, 8, 8]`
    /// - output: `[samples, 2]`
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = relu(self.convolution.forward(images)).flatten(1, 3);
        adapted(&self.head, relu(adapted(&self.hidden, x)))
    }
}

/// The mean squared error; the targets are the means of the upper and of the lower half of an image.
fn loss(model: &Classifier, images: &Tensor<4>) -> Tensor<1> {
    let half = |start| images.clone().narrow(2, start, 4).flatten::<2>(1, 3).mean_dim(1);
    let targets = Tensor::cat(vec![half(0), half(4)], 1);
    (model.forward(images.clone()) - targets).square().mean()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex().autodiff();
    let base = Classifier::new(&device);
    // An adapter is a low-rank update of a matrix: convolutions are named, not adapted in silence.
    assert_eq!(unadaptable_weights(&base), ["convolution.weight"]);

    let lora = AdapterConfig::from(LoraConfig { rank: 2, ..LoraConfig::default() });
    let beside = ["convolution", "head"];
    let mut model = Adapted::attach(base, &lora, &Targets::matching("hidden"), &beside, &device)?;
    let images = Tensor::<4>::random([32, 1, 8, 8], burn::tensor::Distribution::Default, &device);
    let before = loss(&model.model, &images).into_scalar::<f32>();
    let mut optimizer = AdamWConfig::new().init();
    for _ in 0..50 {
        let gradients = GradientsParams::from_grads(loss(&model.model, &images).backward(), &model);
        model = model.step(&mut optimizer, 1e-2, gradients);
    }
    let after = loss(&model.model, &images).into_scalar::<f32>();
    let trained = model.trainable_parameters();
    println!(
        "{} trained in the adapter, {} beside it, loss {before} to {after}",
        trained.adapter, trained.other
    );
    assert!(after < 0.5 * before);
    Ok(())
}

#[test]
fn it_runs() {
    main().expect("an example that works");
}
