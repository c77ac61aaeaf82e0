//! Methods that PEFT does not have against PyTorch: every case of `methods/` in the fixtures, one file a family.
//!
//! A family is what `cases.json` calls `case`. To add one, write its file, move its line from [`NOT_YET`] to [`TESTED`], and
//! walk its cases by [`on_cases`], or by [`on_models`] if all of them are whole models.

mod alora;
mod loraplus;
mod loraxs;
mod nola_dora;
mod pclora;
mod pranc;
mod qat;

use std::path::{Path, PathBuf};

use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, TensorData};
use nola_core::folder::peft::Part;
use nola_core::{Site, Targets, float_params, write_params};
use nola_models::{CausalLm, Checkpoint, Vit};
use serde_json::Value;

use crate::devices::{self, precise};
use crate::fixtures::{self, Golden, Tally, Tensors, assert_close};
use crate::test_model::{Kind, Loaded, TestModel, kind};

/// Families with a file here.
const TESTED: &[&str] = &[
    "alora",
    "loraplus",
    "loraxs",
    "pclora_layer",
    "pclora_model",
    "nola_dora_layer",
    "nola_dora_model",
    "pranc",
    "qat_layer",
    "qat_model",
    "qat_vectors",
];

/// Families without one, and why.
const NOT_YET: &[(&str, &str)] = &[
    ("jd", "compressed collections of adapters are not built yet"),
    ("jd_exact", "compressed collections of adapters are not built yet"),
];

/// The folders `methods` of the fixtures; one that is not there is named.
fn folders() -> impl Iterator<Item = (PathBuf, PathBuf)> {
    let folders = fixtures::roots().into_iter().map(|root| (root.join("methods"), root));
    folders.filter(|(folder, _)| {
        let is_there = folder.is_dir();
        if !is_there {
            println!("skipped: no {}", folder.display());
        }
        is_there
    })
}

#[test]
fn golden_every_case_of_the_methods_has_a_test_or_a_reason() {
    for (folder, _) in folders() {
        let cases = fixtures::json(&folder.join("cases.json"));
        for (name, settings) in cases["cases"].as_object().expect("cases by name") {
            let family = settings["case"].as_str().expect("the family of a case");
            match NOT_YET.iter().find(|(known, _)| *known == family) {
                Some((_, reason)) => println!("skipped {name}: {reason}"),
                None => assert!(TESTED.contains(&family), "{name}: no test knows the family `{family}`"),
            }
        }
    }
}

/// Runs `check` on every case of `family`; `check` returns why it skipped one.
fn on_cases(family: &str, check: impl Fn(&Case) -> Result<(), String>) {
    assert!(TESTED.contains(&family), "`{family}` stands in no list");
    for (folder, root) in folders() {
        let cases = fixtures::json(&folder.join("cases.json"));
        let mut tally = Tally::default();
        for (name, settings) in cases["cases"].as_object().expect("cases by name") {
            if settings["case"] == family {
                let (tensors, _) = fixtures::tensors(&folder.join(format!("{name}.safetensors")));
                tally.note(name, check(&Case { name, settings, root: &root, tensors }));
            }
        }
        tally.finish(family);
    }
}

/// What is checked of every case of a family of whole models.
trait ModelCheck {
    /// Compares the case with what `loaded`, its model without an adapter, makes of it.
    fn check<M: TestModel>(case: &Case, loaded: Loaded<M>);
}

/// Runs `C` on every case of `family` with its model.
fn on_models<C: ModelCheck>(family: &str) {
    on_cases(family, |case| {
        let folder = case.root.join("models").join(case.settings["model"].as_str().expect("a model"));
        let checkpoint = Checkpoint::open(&folder).map_err(|error| error.to_string())?;
        match kind(&checkpoint) {
            Kind::Vit => C::check(case, Loaded::<Vit>::open(&folder, &checkpoint)),
            Kind::Language => C::check(case, Loaded::<CausalLm>::open(&folder, &checkpoint)),
            Kind::Unsupported(reason) => return Err(reason),
        }
        Ok(())
    });
}

/// One file of the fixtures.
struct Case<'a> {
    name: &'a str,
    settings: &'a Value,
    root: &'a Path,
    tensors: Tensors,
}

impl Case<'_> {
    /// A number of the settings.
    fn number(&self, key: &str) -> f64 {
        self.settings[key].as_f64().unwrap_or_else(|| panic!("{}: `{key}` is not a number", self.name))
    }

    /// The tensor `name`.
    fn tensor(&self, name: &str) -> &Golden {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: no tensor `{name}`", self.name))
    }

    /// The golden tensor `expected.WHAT`.
    fn expected(&self, what: &str) -> &Golden {
        let golden = precise(&self.tensors, &format!("expected.{what}"));
        golden.unwrap_or_else(|| panic!("{}: no golden `{what}`", self.name))
    }

    /// Settings of the curve as [`crate::curves::follow`] reads them.
    fn curve(&self) -> Value {
        let mut curve = self.settings["curve"].clone();
        curve["losses"] = self.settings["losses"].clone();
        curve
    }

    /// The adapted sites in the order of the fixture, each with the name that its tensors begin with.
    fn sites<M: TestModel>(&self, model: &M) -> Vec<(String, Site)> {
        let all = Targets::matching("all-linear").choose(model).expect("a model has linear layers");
        let name_of = |site: &Site| {
            let foreign = model.foreign_module(&site.path);
            match foreign.part {
                Part::Whole => foreign.names[0].clone(),
                Part::Outputs(shares) => format!("{}.{}", foreign.names[0], ["q", "k", "v"][shares.from]),
            }
        };
        let named = |name: &Value| {
            let name = name.as_str().expect("a name");
            let site = all.iter().find(|site| name_of(site) == name);
            (name.to_owned(), site.unwrap_or_else(|| panic!("{}: no site {name}", self.name)).clone())
        };
        self.settings["sites"].as_array().expect("a list of sites").iter().map(named).collect()
    }

    /// Ten times what float32 was off by in PyTorch, of the kind of value that `what` begins with; on other devices than the
    /// CPU, and where nothing was observed, what holds for all fixtures.
    fn tolerance(&self, what: &str) -> f64 {
        let observed = &self.settings["max_abs_f32_vs_f64"];
        let of = |key: &str| observed[key].as_f64().filter(|difference| *difference > 0.0);
        match of(what).or_else(|| of(what.split('.').next()?)) {
            Some(difference) if std::env::var("NOLA_TEST_DEVICE").as_deref() != Ok("wgpu") => {
                10.0 * difference
            }
            Some(_) | None => devices::tolerance(),
        }
    }

    /// Compares with golden values; `what` names them.
    fn check(&self, what: &str, found: &[f32], golden: &[f64]) {
        assert_close(&format!("{}: {what}", self.name), found, golden, self.tolerance(what));
    }

    /// Compares the loss after some steps, to 1e-5 where PyTorch's own float32 run came nearer: what the fixtures' README says
    /// of curves in float32, which Adam makes sensitive to rounding.
    fn check_loss(&self, steps: usize, found: f32, golden: f64) {
        let allowed = self.tolerance("losses").max(1e-5);
        assert_close(&format!("{}: loss after {steps} steps", self.name), &[found], &[golden], allowed);
    }

    /// Compares with the golden tensor `expected.WHAT`.
    fn check_expected(&self, what: &str, found: &[f32]) {
        self.check(what, found, self.expected(what).f64());
    }

    /// Compares with the golden tensor `expected.NAME`, a value of the kind `kind`.
    fn check_named(&self, kind: &str, name: &str, found: &[f32]) {
        let golden = self.expected(name).f64();
        assert_close(&format!("{}: {name}", self.name), found, golden, self.tolerance(kind));
    }

    /// The same, of a matrix that the fixtures hold transposed.
    fn check_transposed(&self, what: &str, found: &[f32]) {
        let golden = self.expected(what);
        let [rows, cols] = golden.shape[..] else { panic!("{}: `{what}` is no matrix", self.name) };
        self.check(what, found, &devices::transposed(golden.f64(), rows, cols));
    }
}

/// The layer of a case that has one, and its site.
fn one_layer(case: &Case, device: &Device) -> (Vec<Linear>, Site) {
    let [d_in, d_out] = ["d_in", "d_out"].map(|key| case.number(key) as usize);
    let layers: Vec<Linear> = vec![LinearConfig::new(d_in, d_out).init(device)];
    let weight = devices::transposed(&case.tensor("weight").f32(), d_out, d_in);
    let values =
        [TensorData::new(weight, [d_in, d_out]), TensorData::new(case.tensor("bias").f32(), [d_out])];
    let ids = float_params(&layers).into_iter().map(|param| param.id);
    let layers = write_params(layers, ids.zip(values).collect());
    (layers, Site::linear("0", d_in, d_out))
}
