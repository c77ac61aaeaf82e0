//! DoRA over NOLA: lengths of columns are trained beside the coefficients, with given bases.

use std::sync::Arc;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use nola_core::adapter::{Factor, LinearCombination, Magnitude, Matrices, Plan};
use nola_core::basis::Basis;
use nola_core::{Adapted, adapted};

use super::{Case, ModelCheck, on_cases, on_models, one_layer};
use crate::curves;
use crate::devices::{by_name, device, tensor, transposed, values};
use crate::test_model::{Loaded, TestModel};

/// The plan of the site whose tensors begin with `prefix`; the fixtures hold A as `[rank, d_in]` and B as `[d_out, rank]`.
pub(super) fn nola(case: &Case, prefix: &str) -> Plan {
    let combined = |basis: &str, offset: &str, name: &'static str| {
        let golden = case.tensor(&format!("{prefix}{basis}"));
        let [_, rows, cols] = golden.shape[..] else { panic!("{}: {basis}", case.name) };
        let offset = case.tensors.get(&format!("{prefix}{offset}"));
        Factor::Combined(LinearCombination {
            name,
            matrices: Matrices::Random(Basis::given(transposed(&golden.f32(), rows, cols), [cols, rows])),
            offset: offset.map(|offset| Arc::from(transposed(&offset.f32(), rows, cols))),
            initial: case.tensor(&format!("{prefix}{name}")).f32(),
        })
    };
    let rank = case.number("r") as usize;
    let (a, b) = (combined("basis_a", "a0", "alpha"), combined("basis_b", "b0", "beta"));
    Plan::low_rank(a, b, rank, case.number("scale"))
}

fn plan(case: &Case, prefix: &str) -> Plan {
    let magnitude = Magnitude::Given(case.tensor(&format!("{prefix}magnitude")).f32());
    Plan { magnitude, ..nola(case, prefix) }
}

#[test]
fn golden_nola_dora_gives_the_values_and_gradients_of_the_reference_in_a_layer() {
    on_cases("nola_dora_layer", |case| {
        check_layer(case, &device());
        Ok(())
    });
}

fn check_layer(case: &Case, device: &Device) {
    let (layers, site) = one_layer(case, device);
    let layers =
        Adapted::attach_plans(layers, vec![site], vec![plan(case, "")], &[], device).expect("a layer");
    let x: Tensor<2> = tensor::<2>(case.tensor("x"), device).require_grad();
    let y = adapted(&layers.model[0], x.clone());
    case.check_expected("y", &values(y.clone()));
    let loss = (y - tensor(case.tensor("target"), device)).square().mean() * 0.5;
    case.check_expected("loss", &values(loss.clone()));
    let gradients = loss.backward();
    case.check_expected("grad.x", &values(x.grad(&gradients).expect("it was asked for")));
    let found = by_name(&layers, &layers.project(GradientsParams::from_grads(gradients, &layers)));
    case.check_expected("grad.alpha", &found["alpha"]);
    case.check_expected("grad.beta", &found["beta"]);
    case.check_expected("grad.magnitude", &found["model.0.weight.adapter.magnitude"]);
    assert_eq!(found.len(), 3, "{}: nothing else is trained", case.name);
    let merged = layers.merge().expect("finite weights");
    case.check_transposed("merged_weight", &values(merged[0].weight.val()));
}

struct WithLengths;

#[test]
fn golden_nola_dora_gives_the_values_gradients_and_curves_of_the_reference_in_models() {
    on_models::<WithLengths>("nola_dora_model");
}

impl ModelCheck for WithLengths {
    fn check<M: TestModel>(case: &Case, Loaded { model, batch, device }: Loaded<M>) {
        let (names, sites): (Vec<_>, Vec<_>) = case.sites(&model).into_iter().unzip();
        let plans = names.iter().map(|name| plan(case, &format!("{name}."))).collect();
        let model = Adapted::attach_plans(model, sites, plans, &[], &device).expect("sites that exist");
        let loss = |model: &Adapted<M>| model.model.loss(&batch, 0.0);
        case.check_expected("logits", &model.model.logits_of(&batch));
        case.check_expected("loss", &values(loss(&model)));
        let gradients = GradientsParams::from_grads(loss(&model).backward(), &model);
        let gradients = by_name(&model, &model.project(gradients));
        let paths: Vec<String> =
            model.sites().iter().map(|site| format!("{}.adapter.magnitude", site.weight_path())).collect();
        check_all(case, "grad", &names, &paths, |name| {
            gradients.get(name).or_else(|| gradients.get(&format!("model.{name}"))).expect("trained").clone()
        });
        let model = curves::follow(&case.curve(), model, loss, |steps, found, golden| {
            case.check(&format!("losses.{steps}"), &[found], &[golden]);
        });
        let state = model.state();
        check_all(case, "after_curve", &names, &paths, |name| {
            state[name].clone().try_into_vec().expect("trained values are f32")
        });
    }
}

fn check_all(case: &Case, what: &str, names: &[String], paths: &[String], found: impl Fn(&str) -> Vec<f32>) {
    check_coefficients(case, what, names, &found);
    for (name, path) in names.iter().zip(paths) {
        case.check_expected(&format!("{what}.{name}.magnitude"), &found(path));
    }
}

/// Compares `expected.WHAT.SITE.alpha` and `.beta` of every site with rows of the tensors that `found` returns.
pub(super) fn check_coefficients(
    case: &Case,
    what: &str,
    names: &[String],
    found: impl Fn(&str) -> Vec<f32>,
) {
    for coefficients in ["alpha", "beta"] {
        let all = found(coefficients);
        for (name, row) in names.iter().zip(all.chunks(all.len() / names.len())) {
            case.check_expected(&format!("{what}.{name}.{coefficients}"), row);
        }
    }
}
