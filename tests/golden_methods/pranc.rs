//! PRANC with given matrices: one vector of coefficients for all weights, added to the base's or in their place.

use burn::optim::GradientsParams;
use nola_core::Adapted;
use nola_core::adapter::{BaseGain, Coefficients, Factor, LinearCombination, Matrices, Owner, Plan};
use nola_core::basis::Basis;

use super::{Case, ModelCheck, on_models};
use crate::curves;
use crate::devices::{by_name, transposed, values};
use crate::test_model::{Loaded, TestModel};

struct GivenMatrices;

#[test]
fn golden_pranc_gives_the_values_gradients_and_curves_of_the_reference() {
    on_models::<GivenMatrices>("pranc");
}

/// The fixtures hold the matrices as `[d_out, d_in]`.
fn plan(case: &Case, name: &str) -> Plan {
    let basis = case.tensor(&format!("{name}.basis"));
    let [_, d_out, d_in] = basis.shape[..] else { panic!("{}: {name}", case.name) };
    let combined = LinearCombination {
        name: "alpha",
        matrices: Matrices::Random(Basis::given(transposed(&basis.f32(), d_out, d_in), [d_in, d_out])),
        offset: None,
        initial: case.tensor("alpha").f32(),
    };
    let base = match case.settings["form"].as_str() {
        Some("delta") => BaseGain::WHOLE,
        Some("replace") => BaseGain { weight: 0.0, bias: 1.0 },
        other => panic!("{}: {other:?}", case.name),
    };
    let coefficients = Coefficients { owner: Owner::AllSites, ..Coefficients::default() };
    let whole = Plan::low_rank(Factor::Identity, Factor::Combined(combined), d_in, 1.0);
    Plan { base, coefficients, ..whole }
}

impl ModelCheck for GivenMatrices {
    fn check<M: TestModel>(case: &Case, Loaded { model, batch, device }: Loaded<M>) {
        let (names, sites): (Vec<_>, Vec<_>) = case.sites(&model).into_iter().unzip();
        let plans = names.iter().map(|name| plan(case, name)).collect();
        let model = Adapted::attach_plans(model, sites, plans, &[], &device).expect("sites that exist");
        assert_eq!(model.trainable_parameters().adapter, case.number("k") as usize, "{}", case.name);
        let loss = |model: &Adapted<M>| model.model.loss(&batch, 0.0);
        case.check_expected("logits", &model.model.logits_of(&batch));
        case.check_expected("loss", &values(loss(&model)));
        let gradients = GradientsParams::from_grads(loss(&model).backward(), &model);
        let gradients = by_name(&model, &model.project(gradients));
        assert_eq!(gradients.keys().collect::<Vec<_>>(), ["alpha"], "{}: nothing else is trained", case.name);
        case.check_expected("grad.alpha", &gradients["alpha"]);
        for (name, factors) in names.iter().zip(model.factors()) {
            if case.tensors.contains_key(&format!("expected.combination.{name}")) {
                case.check_transposed(&format!("combination.{name}"), &factors.b);
            }
        }
        let merged = model.clone().merge().expect("finite weights");
        case.check_expected("logits", &merged.logits_of(&batch));
        let model = curves::follow(&case.curve(), model, loss, |steps, found, golden| {
            case.check(&format!("losses.{steps}"), &[found], &[golden]);
        });
        let alpha = model.state()["alpha"].clone();
        case.check_expected("after_curve.alpha", &alpha.try_into_vec::<f32>().expect("f32"));
    }
}
