//! Coefficients that are rounded in training: the rounding itself, a layer, and a model along a curve.

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use nola_core::adapter::{Coefficients, Plan};
use nola_core::folder::CoefficientBits;
use nola_core::{Adapted, adapted};

use super::nola_dora::{check_coefficients, nola};
use super::{Case, ModelCheck, on_cases, on_models, one_layer};
use crate::curves;
use crate::devices::{by_name, device, tensor, transposed, values};
use crate::test_model::{Loaded, TestModel};

/// The widths of a case.
fn widths(case: &Case) -> Vec<(u64, CoefficientBits)> {
    let bits = case.settings["bits"].as_array().expect("a list of widths").iter().filter_map(|n| n.as_u64());
    bits.map(|bits| (bits, CoefficientBits::try_from(bits as u8).expect("a known width"))).collect()
}

#[test]
fn golden_vectors_are_rounded_as_the_reference_rounds_them() {
    on_cases("qat_vectors", |case| {
        for (name, vector) in case.tensors.iter().filter(|(name, _)| !name.starts_with("expected.")) {
            for (bits, width) in widths(case) {
                let rounded = width.rounded(&vector.f32());
                case.check_named("value", &format!("{name}.{bits}.value"), &rounded);
                let golden = case.expected(&format!("{name}.{bits}.q"));
                let scale = case.expected(&format!("{name}.{bits}.scale")).f64()[0];
                let found: Vec<i64> = rounded
                    .iter()
                    .map(|value| if scale == 0.0 { 0 } else { (f64::from(*value) / scale).round() as i64 })
                    .collect();
                assert_eq!(found, golden.i64(), "{name} in {bits} bits");
            }
        }
        Ok(())
    });
}

fn rounding(plan: Plan, rounding: CoefficientBits) -> Plan {
    Plan { coefficients: Coefficients { rounding, ..plan.coefficients }, ..plan }
}

#[test]
fn golden_rounded_coefficients_give_the_values_and_gradients_of_the_reference_in_a_layer() {
    on_cases("qat_layer", |case| {
        widths(case).into_iter().for_each(|(bits, width)| check_layer(case, bits, width, &device()));
        Ok(())
    });
}

fn check_layer(case: &Case, bits: u64, width: CoefficientBits, device: &Device) {
    let (layers, site) = one_layer(case, device);
    let plans = vec![rounding(nola(case, ""), width)];
    let layers = Adapted::attach_plans(layers, vec![site], plans, &[], device).expect("a layer");
    let factors = layers.factors().remove(0);
    let [d_in, d_out] = ["d_in", "d_out"].map(|key| case.number(key) as usize);
    let a = transposed(factors.a.as_ref().expect("a matrix"), d_in, factors.rank);
    case.check_named("a", &format!("{bits}.a"), &a);
    case.check_named("b", &format!("{bits}.b"), &transposed(&factors.b, factors.rank, d_out));
    let x: Tensor<2> = tensor::<2>(case.tensor("x"), device).require_grad();
    let y = adapted(&layers.model[0], x.clone());
    case.check_named("y", &format!("{bits}.y"), &values(y.clone()));
    let loss = (y - tensor(case.tensor("target"), device)).square().mean() * 0.5;
    case.check_named("loss", &format!("{bits}.loss"), &values(loss.clone()));
    let gradients = loss.backward();
    case.check_named("grad", &format!("{bits}.grad.x"), &values(x.grad(&gradients).expect("asked for")));
    let found = by_name(&layers, &layers.project(GradientsParams::from_grads(gradients, &layers)));
    for name in ["alpha", "beta"] {
        case.check_named("grad", &format!("{bits}.grad.{name}"), &found[name]);
        let state = layers.state()[name].clone().try_into_vec::<f32>().expect("f32");
        assert_eq!(state, case.tensor(name).f32(), "{}: the unrounded ones are kept", case.name);
    }
}

struct Rounded;

#[test]
fn golden_rounded_coefficients_give_the_values_gradients_and_curves_of_the_reference_in_a_model() {
    on_models::<Rounded>("qat_model");
}

impl ModelCheck for Rounded {
    fn check<M: TestModel>(case: &Case, Loaded { model, batch, device }: Loaded<M>) {
        let (names, sites): (Vec<_>, Vec<_>) = case.sites(&model).into_iter().unzip();
        let loss = |model: &Adapted<M>| model.model.loss(&batch, 0.0);
        for (bits, width) in widths(case) {
            let plans = names.iter().map(|name| rounding(nola(case, &format!("{name}.")), width)).collect();
            let attached = Adapted::attach_plans(model.clone(), sites.clone(), plans, &[], &device);
            let model = attached.expect("sites that exist");
            case.check_named("loss", &format!("{bits}.loss"), &values(loss(&model)));
            let gradients = GradientsParams::from_grads(loss(&model).backward(), &model);
            let gradients = by_name(&model, &model.project(gradients));
            check_coefficients(case, &format!("{bits}.grad"), &names, |name| gradients[name].clone());
            if case.number("curve_bits") as u64 != bits {
                continue;
            }
            case.check_named("logits", &format!("{bits}.logits"), &model.model.logits_of(&batch));
            let model = curves::follow(&case.curve(), model, loss, |steps, found, golden| {
                case.check(&format!("losses.{steps}"), &[found], &[golden]);
            });
            let state = model.state();
            check_coefficients(case, "after_curve", &names, |name| {
                state[name].clone().try_into_vec().expect("coefficients are f32")
            });
        }
    }
}
