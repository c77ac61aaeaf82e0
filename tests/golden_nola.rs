//! NOLA with given bases against PyTorch: every case of `nola/` in the fixtures.

use std::path::Path;
use std::sync::Arc;

use burn::module::{Module, Param, Reparameterization};
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use nola_core::adapter::{Factor, LinearCombination, Matrices, Plan};
use nola_core::basis::Basis;
use nola_core::folder::peft::Part;
use nola_core::{Adapted, Site, Targets, Update, adapted};
use nola_models::{CausalLm, Checkpoint, Vit};
use serde_json::Value;

use crate::curves;
use crate::devices::{by_name, by_path, device, precise, tensor, tolerance, transposed, values};
use crate::fixtures::{self, Golden, Tally, Tensors, assert_close};
use crate::test_model::{Kind, Loaded, TestModel, kind};

/// Runs `check` on every case that `cases.json` of `nola/KIND` lists; `check` returns why it skipped one.
fn on_cases(kind: &str, check: impl Fn(&Case) -> Result<(), String>) {
    for root in fixtures::roots() {
        let folder = root.join("nola").join(kind);
        if !folder.is_dir() {
            println!("skipped: no {}", folder.display());
            continue;
        }
        let cases = fixtures::json(&folder.join("cases.json"));
        let mut tally = Tally::default();
        for (name, settings) in cases["cases"].as_object().expect("cases by name") {
            let (tensors, metadata) = fixtures::tensors(&folder.join(format!("{name}.safetensors")));
            let scale = metadata["scale"].parse().expect("the scale is a number");
            let case = Case { name, settings, root: &root, tensors, scale };
            tally.note(name, check(&case));
        }
        tally.finish(kind);
    }
}

/// One file of the fixtures.
struct Case<'a> {
    name: &'a str,
    settings: &'a Value,
    root: &'a Path,
    tensors: Tensors,
    scale: f64,
}

impl Case<'_> {
    /// The plan whose tensors begin with `prefix`; `bases` is where its bases are.
    ///
    /// The fixtures hold A as `[rank, d_in]` and B as `[d_out, rank]`: both are transposed.
    fn plan(&self, prefix: &str, bases: &str) -> Plan {
        let mixed = |basis: &str, offset: &str, coefficients: &'static str| {
            let golden = &self.tensors[&format!("{bases}{basis}")];
            let [_, rows, cols] = golden.shape[..] else { panic!("{}: {basis}", self.name) };
            let offset = self.tensors.get(&format!("{prefix}{offset}"));
            Factor::Combined(LinearCombination {
                name: coefficients,
                matrices: Matrices::Random(Basis::given(transposed(&golden.f32(), rows, cols), [cols, rows])),
                offset: offset.map(|offset| Arc::from(transposed(&offset.f32(), rows, cols))),
                initial: self.tensors[&format!("{prefix}{coefficients}")].f32(),
            })
        };
        let rank = self.tensors[&format!("{bases}basis_a")].shape[1];
        Plan::low_rank(mixed("basis_a", "a0", "alpha"), mixed("basis_b", "b0", "beta"), rank, self.scale)
    }

    /// Absolute, but relative to the largest number where PyTorch's own float32 run came near the tolerance.
    fn tolerance(&self, golden: &[f64]) -> f64 {
        let worst = largest_number(&self.settings["max_abs_f32_vs_f64"]);
        if worst > tolerance() / 10.0 {
            tolerance() * golden.iter().fold(1.0, |largest, value| value.abs().max(largest))
        } else {
            tolerance()
        }
    }

    fn check(&self, what: &str, found: &[f32], golden: &[f64]) {
        let what = format!("{}: {what}", self.name);
        assert_close(&what, found, golden, self.tolerance(golden));
    }

    /// Compares with the golden tensor `expected.WHAT`.
    fn check_expected(&self, what: &str, found: &[f32]) {
        self.check(what, found, self.expected(what).f64());
    }

    /// The same, of a matrix that the fixtures hold transposed.
    fn check_transposed(&self, what: &str, found: &[f32]) {
        let golden = self.expected(what);
        let turned = transposed(golden.f64(), golden.shape[0], golden.shape[1]);
        self.check(what, found, &turned);
    }

    fn expected(&self, what: &str) -> &Golden {
        let golden = precise(&self.tensors, &format!("expected.{what}"));
        golden.unwrap_or_else(|| panic!("{}: no golden `{what}`", self.name))
    }
}

/// The difference that the fixtures observed: one number for a whole model, one by tensor for a single layer.
fn largest_number(observed: &Value) -> f64 {
    let of_tensors = observed.as_object().into_iter().flat_map(|tensors| tensors.values());
    of_tensors.chain([observed]).filter_map(Value::as_f64).fold(0.0, f64::max)
}

#[test]
fn the_observed_difference_is_one_number_or_one_by_tensor() {
    assert_eq!(largest_number(&serde_json::json!(3e-5)), 3e-5);
    assert_eq!(largest_number(&serde_json::json!({ "y": 1e-6, "grad.a": 2e-3 })), 2e-3);
    assert_eq!(largest_number(&Value::Null), 0.0);
}

/// Linear layers that read one input and put their outputs side by side, as GPT-2's fused projection does.
#[derive(Module, Debug)]
struct Fused {
    layers: Vec<Linear>,
}

impl Fused {
    /// `weight` is `[d_in, layers · d_out]`, row-major.
    fn new(weight: &[f32], bias: Option<&[f32]>, [count, d_in, d_out]: [usize; 3], device: &Device) -> Self {
        let layer = |index: usize| {
            let columns = index * d_out..(index + 1) * d_out;
            let part: Vec<f32> =
                (weight.chunks(count * d_out)).flat_map(|row| row[columns.clone()].iter().copied()).collect();
            let mut layer = LinearConfig::new(d_in, d_out).with_bias(bias.is_some()).init(device);
            layer.weight = Param::from_data(TensorData::new(part, [d_in, d_out]), device);
            layer.bias =
                bias.map(|bias| Param::from_data(TensorData::new(bias[columns].to_vec(), [d_out]), device));
            layer
        };
        Self { layers: (0..count).map(layer).collect() }
    }

    fn forward<const D: usize>(&self, x: &Tensor<D>, route: Route<D>) -> Tensor<D> {
        let outputs = self.layers.iter().map(|layer| route(layer, x.clone())).collect();
        Tensor::cat(outputs, D - 1)
    }
}

/// How an adapted layer computes.
type Route<const D: usize> = fn(&Linear, Tensor<D>) -> Tensor<D>;

/// Every layer computes with its effective weight `W + ΔW`.
fn dense<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    layer.forward(x)
}

#[test]
fn golden_nola_layers_give_the_values_and_gradients_of_the_reference() {
    on_cases("layers", |case| match case.tensors["x"].shape.len() {
        2 => {
            check_layer::<2>(case, adapted);
            check_layer::<2>(case, dense);
            Ok(())
        }
        3 => {
            check_layer::<3>(case, adapted);
            check_layer::<3>(case, dense);
            Ok(())
        }
        axes => Err(format!("an input of {axes} axes")),
    });
}

/// The layers of a case and the prefixes of the adapted ones' tensors, by index of the layer.
fn fused_layers(case: &Case, device: &Device) -> (Fused, Vec<(usize, &'static str)>) {
    let (weight, bias) = (&case.tensors["weight"], case.tensors.get("bias").map(Golden::f32));
    let [rows, cols] = weight.shape[..] else { panic!("{}: weight", case.name) };
    if case.settings["fused"] == true {
        let layers = Fused::new(&weight.f32(), bias.as_deref(), [3, rows, cols / 3], device);
        (layers, vec![(0, "q."), (2, "v.")])
    } else {
        let weight = transposed(&weight.f32(), rows, cols);
        let layers = Fused::new(&weight, bias.as_deref(), [1, cols, rows], device);
        (layers, vec![(0, "")])
    }
}

fn check_layer<const D: usize>(case: &Case, route: Route<D>) {
    let device = device();
    let (layers, adapters) = fused_layers(case, &device);
    let site = |&(index, _): &(usize, &str)| {
        let [d_in, d_out] = layers.layers[index].weight.dims();
        Site::linear(format!("layers.{index}"), d_in, d_out)
    };
    let sites = adapters.iter().map(site).collect();
    let plans = adapters.iter().map(|(_, prefix)| case.plan(prefix, prefix)).collect();
    let layers = Adapted::attach_plans(layers, sites, plans, &[], &device).expect("sites that exist");

    let x: Tensor<D> = tensor::<D>(&case.tensors["x"], &device).require_grad();
    let y = layers.model.forward(&x, route);
    case.check_expected("y", &values(y.clone()));
    let difference = y - tensor(&case.tensors["target"], &device);
    let loss = difference.square().mean() * 0.5;
    case.check_expected("loss", &values(loss.clone()));

    let gradients = loss.backward();
    let of_x = x.grad(&gradients).expect("the input was asked for its gradient");
    case.check_expected("grad.x", &values(of_x));
    let gradients = GradientsParams::from_grads(gradients, &layers);
    let of_factors = by_path(&layers, &gradients);
    let of_coefficients = by_name(&layers, &layers.project(gradients));
    for (row, (index, prefix)) in adapters.iter().enumerate() {
        check_factors(case, prefix, &layers.model.layers[*index]);
        for factor in ["a", "b"] {
            let path = format!("model.layers.{index}.weight.adapter.{factor}");
            case.check_transposed(&format!("grad.{prefix}{factor}"), &of_factors[&path]);
        }
        for coefficients in ["alpha", "beta"] {
            let what = format!("grad.{prefix}{coefficients}");
            let count = case.expected(&what).f64().len();
            let found = &of_coefficients[coefficients][row * count..(row + 1) * count];
            case.check_expected(&what, found);
        }
    }
    assert_eq!(of_coefficients.len(), 2, "{}: nothing else is trained", case.name);
}

fn check_factors(case: &Case, prefix: &str, layer: &Linear) {
    let adapter = layer.weight.reparameterization::<Update>().expect("it was attached there");
    case.check_transposed(&format!("{prefix}a"), &values(adapter.a.as_ref().expect("a matrix").val()));
    case.check_transposed(&format!("{prefix}b"), &values(adapter.b.val()));
    let delta = adapter.apply(layer.weight.base().zeros_like());
    case.check_transposed(&format!("{prefix}delta_weight"), &values(delta));
}

#[test]
fn golden_nola_models_give_the_values_gradients_and_curves_of_the_reference() {
    on_cases("models", |case| {
        let folder = case.root.join("models").join(case.settings["model"].as_str().expect("a model"));
        let checkpoint = Checkpoint::open(&folder).map_err(|error| error.to_string())?;
        match kind(&checkpoint) {
            Kind::Vit => check_model(case, Loaded::<Vit>::open(&folder, &checkpoint)),
            Kind::Language => check_model(case, Loaded::<CausalLm>::open(&folder, &checkpoint)),
            Kind::Unsupported(reason) => return Err(reason),
        }
        Ok(())
    });
}

fn check_model<M: TestModel>(case: &Case, Loaded { model, batch, device }: Loaded<M>) {
    let modules = adapted_modules(case, &model);
    let model = with_given_bases(case, &modules, model, &device);
    let loss = |model: &Adapted<M>| model.model.loss(&batch, 0.0);
    case.check_expected("logits", &model.model.logits_of(&batch));
    case.check_expected("loss", &values(loss(&model)));
    let gradients = GradientsParams::from_grads(loss(&model).backward(), &model);
    let gradients = by_name(&model, &model.project(gradients));
    check_coefficients(case, "grad", &modules, |name| gradients[name].clone());
    let model = curves::follow(&case.settings["curve"], model, loss, |steps, found, golden| {
        case.check(&format!("loss after {steps} steps"), &[found], &[golden]);
    });
    let state = model.state();
    check_coefficients(case, "after_curve", &modules, |name| {
        state[name].clone().try_into_vec().expect("coefficients are f32")
    });
}

/// A site, and what the names of its tensors in the fixture begin with.
type AdaptedModule = (String, Site);

/// The adapted sites, in the order of the fixture: whole modules of transformers, or the parts of one it calls `q.`
/// and `v.`.
fn adapted_modules<M: TestModel>(case: &Case, model: &M) -> Vec<AdaptedModule> {
    let all = Targets::matching("all-linear").choose(model).expect("a model has linear layers");
    let parts = |module: &Value| {
        let module = module.as_str().expect("a name");
        let named = |site: &Site| {
            let foreign = model.foreign_module(&site.path);
            let part = match foreign.part {
                Part::Whole => "",
                Part::Outputs(shares) => ["q.", "k.", "v."][shares.from],
            };
            let prefix = format!("{module}.{part}");
            let is_adapted = foreign.names.iter().any(|name| name == module)
                && case.tensors.contains_key(&format!("{prefix}alpha"));
            is_adapted.then(|| (prefix, site.clone()))
        };
        let parts: Vec<AdaptedModule> = all.iter().filter_map(named).collect();
        assert!(!parts.is_empty(), "{}: no module {module}", case.name);
        parts
    };
    case.settings["sites"].as_array().expect("a list of sites").iter().flat_map(parts).collect()
}

fn with_given_bases<M: TestModel>(
    case: &Case,
    modules: &[AdaptedModule],
    model: M,
    device: &Device,
) -> Adapted<M> {
    let plan = |(prefix, site): &AdaptedModule| {
        if case.settings["shared_basis"] == true {
            case.plan(prefix, &format!("shared.{}x{}.", site.d_in, site.d_out))
        } else {
            case.plan(prefix, prefix)
        }
    };
    let sites = modules.iter().map(|(_, site)| site.clone()).collect();
    Adapted::attach_plans(model, sites, modules.iter().map(plan).collect(), &[], device)
        .expect("sites that exist")
}

/// Compares `expected.WHAT.MODULE.alpha` and `.beta` of every site with rows of the tensors that `found` returns.
fn check_coefficients(case: &Case, what: &str, modules: &[AdaptedModule], found: impl Fn(&str) -> Vec<f32>) {
    let trained = case.tensors.keys().filter(|name| name.starts_with(&format!("expected.{what}.")));
    assert_eq!(trained.count(), 2 * modules.len(), "{}: golden {what}", case.name);
    for name in ["alpha", "beta"] {
        let all = found(name);
        let count = all.len() / modules.len();
        for ((prefix, _), row) in modules.iter().zip(all.chunks(count)) {
            case.check_expected(&format!("{what}.{prefix}{name}"), row);
        }
    }
}
