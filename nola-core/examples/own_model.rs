//! A model of one's own with NOLA: attach, train, save, load, merge.
//!
//! `cargo run --example own_model`

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::gelu;
use burn::tensor::{Device, Tensor};
use nola_core::adapter::NolaConfig;
use nola_core::folder::{self, BaseIdentity, CoefficientBits, Description};
use nola_core::{Adapted, AdapterConfig, Targets, adapted};

/// The layers call [`adapted`] where they would call `forward`: nothing of a weight's size is made for an adapter.
#[derive(Module, Debug)]
struct Mlp {
    up: Linear,
    down: Linear,
}

impl Mlp {
    fn new(device: &Device) -> Self {
        Self { up: LinearConfig::new(8, 32).init(device), down: LinearConfig::new(32, 1).init(device) }
    }

    /// # Shapes
    /// - `x`: `[samples, 8]`
    /// - output: `[samples, 1]`
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        adapted(&self.down, gelu(adapted(&self.up, x)))
    }
}

/// The mean squared error; the target is the sum of the inputs.
fn loss(model: &Mlp, x: &Tensor<2>) -> Tensor<1> {
    (model.forward(x.clone()) - x.clone().sum_dim(1)).square().mean()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex().autodiff();
    let base = Mlp::new(&device);
    let identity = BaseIdentity::of("own-model", &base);
    let x = Tensor::<2>::random([64, 8], burn::tensor::Distribution::Default, &device);

    let nola = AdapterConfig::from(NolaConfig { rank: 4, k: 64, ..NolaConfig::default() });
    let mut model = Adapted::attach(base.clone(), &nola, &Targets::matching("up|down"), &[], &device)?;
    let before = loss(&model.model, &x).into_scalar::<f32>();
    let mut optimizer = AdamWConfig::new().init();
    for _ in 0..100 {
        let gradients = GradientsParams::from_grads(loss(&model.model, &x).backward(), &model);
        model = model.step(&mut optimizer, 2e-2, gradients);
    }
    let after = loss(&model.model, &x).into_scalar::<f32>();
    println!("{} trainable parameters, loss {before} to {after}", model.trainable_parameters().adapter);
    assert!(after < 0.5 * before);

    let scratch = tempfile::tempdir()?;
    let path = scratch.path().join("adapter");
    let summary = format!("Mean squared error {after}.");
    let about =
        Description { base: identity.clone(), labels: Vec::new(), summary, data: serde_json::Value::Null };
    let bytes = folder::write(&path, &model, &about, CoefficientBits::B32)?;
    println!("{bytes} bytes in its folder");
    let again = folder::read(&path)?.attach(base, &identity, &device)?;
    assert_eq!(loss(&again.model, &x).into_scalar::<f32>(), after);

    let merged: Mlp = again.merge()?;
    assert!((loss(&merged, &x).into_scalar::<f32>() - after).abs() < 1e-4);
    Ok(())
}

#[test]
fn it_runs() {
    main().expect("an example that works");
}
