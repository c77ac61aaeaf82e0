//! PC-LoRA: the fade, a single layer, and whole models at its start, in its middle, at its end and along a curve.

use std::cell::Cell;

use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use nola_core::adapter::{BaseGain, Factor, Fade, Plan};
use nola_core::{Adapted, adapted};
use nola_train::model_with_loss::distilled_loss;

use super::{Case, ModelCheck, on_cases, on_models, one_layer};
use crate::curves;
use crate::devices::{by_path, device, tensor, transposed, values};
use crate::test_model::{Loaded, TestModel};

const FADES: [(&str, Fade); 4] =
    [("linear", Fade::Linear), ("early", Fade::Early), ("late", Fade::Late), ("step", Fade::Step)];

#[test]
fn golden_pc_lora_fades_a_layer_as_the_reference_does() {
    on_cases("pclora_layer", |case| {
        check_layer(case);
        Ok(())
    });
}

#[test]
fn golden_pc_lora_gives_the_values_gradients_and_curves_of_the_reference() {
    on_models::<Faded>("pclora_model");
}

fn gain(left: f64) -> BaseGain {
    BaseGain { weight: left, bias: left }
}

/// The plan of the site whose tensors begin with `prefix`; the fixtures hold A as `[rank, d_in]` and B as `[d_out, rank]`.
fn plan(case: &Case, prefix: &str) -> Plan {
    let turned = |leaf: &str| {
        let golden = case.tensor(&format!("{prefix}{leaf}"));
        Factor::Learned(transposed(&golden.f32(), golden.shape[0], golden.shape[1]))
    };
    let rank = case.tensor(&format!("{prefix}A")).shape[0];
    let low_rank = Plan::low_rank(turned("A"), turned("B"), rank, case.number("scale"));
    Plan { bias: Some(case.tensor(&format!("{prefix}c")).f32()), ..low_rank }
}

fn check_layer(case: &Case) {
    let device = device();
    let (layers, site) = one_layer(case, &device);
    let layers =
        Adapted::attach_plans(layers, vec![site], vec![plan(case, "")], &[], &device).expect("a layer");
    let x: Tensor<3> = tensor(case.tensor("x"), &device);
    let end = case.number("q") as usize;
    for (name, fade) in FADES {
        let golden = case.expected(&format!("lambda.{name}")).f64();
        for (step, golden) in golden.iter().enumerate() {
            assert!((fade.left(step, end) - golden).abs() < 1e-15, "{name} {step}");
        }
        for step in case.settings["at"].as_array().expect("steps").iter().filter_map(|step| step.as_u64()) {
            layers.set_base_gain(gain(fade.left(step as usize, end)));
            let y = values(adapted(&layers.model[0], x.clone()));
            case.check("y", &y, case.expected(&format!("y.{name}.{step}")).f64());
        }
    }
}

struct Faded;

impl ModelCheck for Faded {
    fn check<M: TestModel>(case: &Case, Loaded { model, batch, device }: Loaded<M>) {
        let (names, sites): (Vec<_>, Vec<_>) = case.sites(&model).into_iter().unzip();
        let plans = names.iter().map(|name| plan(case, &format!("{name}."))).collect();
        let model = Adapted::attach_plans(model, sites, plans, &[], &device).expect("sites that exist");
        let loss = |model: &Adapted<M>, share| distilled_loss(&model.model, &batch, 0.0, share);
        let share = case.number("task_weight");
        let lambdas: Vec<f64> =
            case.settings["lambdas"].as_array().expect("a list").iter().filter_map(|l| l.as_f64()).collect();
        let fade = FADES.iter().find(|(name, _)| *name == case.settings["shape"]).expect("a fade").1;
        let end = case.number("q") as usize;
        for (step, lambda) in lambdas.iter().enumerate() {
            assert!((fade.left(step, end) - lambda).abs() < 1e-15, "{}: {step}", case.name);
        }
        for (when, step) in [("start", 0), ("mid", end / 2), ("end", end)] {
            model.set_base_gain(gain(fade.left(step, end)));
            for (what, share, gradient) in
                [("loss", share, "grad"), ("feat", 0.0, "grad_feat"), ("task", 1.0, "grad_task")]
            {
                let loss = loss(&model, share);
                case.check_expected(&format!("{when}.{what}"), &values(loss.clone()));
                let gradients = GradientsParams::from_grads(loss.backward(), &model);
                check_gradients(case, &format!("{when}.{gradient}"), &names, &model, &gradients);
            }
        }
        case.check_expected("end.logits", &model.model.logits_of(&batch));
        check_curve(case, model, &batch, &lambdas, loss);
    }
}

/// Compares the gradients that the case has under `what`; some it has for one layer alone, or not at all.
fn check_gradients<M: TestModel>(
    case: &Case,
    what: &str,
    names: &[String],
    model: &Adapted<M>,
    gradients: &GradientsParams,
) {
    let found = by_path(&model.model, gradients);
    for (name, site) in names.iter().zip(model.sites()) {
        let of = |leaf: &str| &found[&format!("{}.adapter.{leaf}", site.weight_path())];
        if case.tensors.contains_key(&format!("expected.{what}.{name}.A")) {
            case.check_transposed(&format!("{what}.{name}.A"), of("a"));
            case.check_transposed(&format!("{what}.{name}.B"), of("b"));
            case.check_expected(&format!("{what}.{name}.c"), of("bias"));
        }
    }
}

fn check_curve<M: TestModel>(
    case: &Case,
    model: Adapted<M>,
    batch: &M::Batch,
    lambdas: &[f64],
    loss: impl Fn(&Adapted<M>, f64) -> Tensor<1>,
) {
    let (step, share) = (Cell::new(0), case.number("task_weight"));
    let of_step = |model: &Adapted<M>| {
        model.set_base_gain(gain(lambdas[step.get()]));
        step.set(step.get() + 1);
        loss(model, share)
    };
    let model = curves::follow(&case.curve(), model, of_step, |steps, found, golden| {
        case.check_loss(steps, found, golden);
    });
    case.check_expected("after_curve.logits", &model.model.logits_of(batch));
}
