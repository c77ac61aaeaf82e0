//! LoRA-XS with given frozen factors: outputs, gradients of the core, and the curve.

use burn::optim::GradientsParams;
use nola_core::Adapted;
use nola_core::adapter::{Factor, FrozenMatrix, LinearCombination, Matrices, Plan};

use super::{Case, ModelCheck, on_models};
use crate::curves;
use crate::devices::{by_name, transposed, values};
use crate::test_model::{Loaded, TestModel};

/// The given factors, so that nothing depends on how well singular vectors are determined.
struct GivenFactors;

#[test]
fn golden_lora_xs_gives_the_values_gradients_and_curves_of_the_reference() {
    on_models::<GivenFactors>("loraxs");
}

impl ModelCheck for GivenFactors {
    fn check<M: TestModel>(case: &Case, Loaded { model, batch, device }: Loaded<M>) {
        let (names, sites): (Vec<_>, Vec<_>) = case.sites(&model).into_iter().unzip();
        let plans = names.iter().map(|name| plan(case, name)).collect();
        let model = Adapted::attach_plans(model, sites, plans, &[], &device).expect("sites that exist");
        let loss = |model: &Adapted<M>| model.model.loss(&batch, 0.0);
        case.check_expected("logits", &model.model.logits_of(&batch));
        case.check_expected("loss", &values(loss(&model)));
        let gradients = GradientsParams::from_grads(loss(&model).backward(), &model);
        let gradients = by_name(&model, &model.project(gradients));
        assert_eq!(gradients.keys().collect::<Vec<_>>(), ["core"], "{}: nothing else is trained", case.name);
        check_cores(case, "grad", &names, &gradients["core"]);
        let model = curves::follow(&case.curve(), model, loss, |steps, found, golden| {
            case.check(&format!("losses.{steps}"), &[found], &[golden]);
        });
        let state = model.state()["core"].clone();
        check_cores(case, "after_curve", &names, &state.try_into_vec::<f32>().expect("coefficients are f32"));
    }
}

/// The fixtures hold A as `[rank, d_in]`, B as `[d_out, rank]` and R between them: all are transposed.
fn plan(case: &Case, name: &str) -> Plan {
    let turned = |leaf: &str| {
        let golden = case.tensor(&format!("{name}.{leaf}"));
        let [rows, cols] = golden.shape[..] else { panic!("{}: {name}.{leaf}", case.name) };
        (transposed(&golden.f32(), rows, cols), [cols, rows])
    };
    let ((a, a_shape), (b, b_shape), (core, _)) = (turned("A"), turned("B"), turned("R"));
    let rank = b_shape[0];
    let b = LinearCombination {
        name: "core",
        matrices: Matrices::Rows { rows: rank, frozen: FrozenMatrix::new(b, b_shape) },
        offset: None,
        initial: core,
    };
    let a = Factor::Frozen(FrozenMatrix::new(a, a_shape));
    Plan::low_rank(a, Factor::Combined(b), rank, case.number("scale"))
}

fn check_cores(case: &Case, what: &str, names: &[String], found: &[f32]) {
    let count = found.len() / names.len();
    for (name, core) in names.iter().zip(found.chunks(count)) {
        case.check_transposed(&format!("{what}.{name}.R"), core);
    }
}
