//! LoRA+: gradients, and a curve in which B learns faster than A.

use burn::optim::GradientsParams;
use burn::tensor::TensorData;
use nola_core::adapter::LoraConfig;
use nola_core::{Adapted, Site, Targets};

use super::{Case, ModelCheck, on_models};
use crate::curves;
use crate::devices::{by_path, transposed};
use crate::test_model::{Loaded, TestModel};

struct TwoRates;

#[test]
fn golden_lora_plus_gives_the_gradients_and_the_curve_of_the_reference() {
    on_models::<TwoRates>("loraplus");
}

impl ModelCheck for TwoRates {
    fn check<M: TestModel>(case: &Case, Loaded { model, batch, device }: Loaded<M>) {
        let sites = case.sites(&model);
        let config = LoraConfig {
            rank: case.number("r") as usize,
            alpha: Some(case.number("alpha")),
            lora_plus_ratio: case.number("lr_ratio"),
            ..LoraConfig::default()
        };
        let model = Adapted::attach(model, &config.into(), &targets(&sites), &[], &device);
        let model = with_given_pairs(case, model.expect("sites that exist"), &sites);
        let loss = |model: &Adapted<M>| model.model.loss(&batch, 0.0);
        let gradients = GradientsParams::from_grads(loss(&model).backward(), &model);
        let gradients = by_path(&model.model, &gradients);
        check_pairs(case, "grad", &sites, |path| gradients[path].clone());
        let model = curves::follow(&case.curve(), model, loss, |steps, found, golden| {
            case.check_loss(steps, found, golden);
        });
        let state = model.state();
        check_pairs(case, "after_curve", &sites, |path| {
            state[path].clone().try_into_vec().expect("factors are f32")
        });
    }
}

/// Sites with the names that their tensors begin with.
pub(super) type Sites = [(String, Site)];

/// These sites alone.
pub(super) fn targets(sites: &Sites) -> Targets {
    Targets::matching(&sites.iter().map(|(_, site)| site.path.as_str()).collect::<Vec<_>>().join("|"))
}

/// The model with A and B of the case; the fixtures hold both transposed.
pub(super) fn with_given_pairs<M: TestModel>(case: &Case, model: Adapted<M>, sites: &Sites) -> Adapted<M> {
    let mut state = model.state();
    for (name, site) in sites {
        for (golden, leaf) in [("A", "a"), ("B", "b")] {
            let golden = case.tensor(&format!("{name}.{golden}"));
            let [rows, cols] = golden.shape[..] else { panic!("{}: {name}", case.name) };
            let data = TensorData::new(transposed(&golden.f32(), rows, cols), [cols, rows]);
            state.insert(format!("{}.adapter.{leaf}", site.weight_path()), data);
        }
    }
    model.with_state(state).expect("names and shapes of its own")
}

fn check_pairs(case: &Case, what: &str, sites: &Sites, found: impl Fn(&str) -> Vec<f32>) {
    for (name, site) in sites {
        for (golden, leaf) in [("A", "a"), ("B", "b")] {
            let path = format!("{}.adapter.{leaf}", site.weight_path());
            case.check_transposed(&format!("{what}.{name}.{golden}"), &found(&path));
        }
    }
}
