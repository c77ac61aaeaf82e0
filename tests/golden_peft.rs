//! LoRA folders of Hugging Face PEFT against PyTorch: every case of `peft/` in the fixtures.

use std::collections::BTreeMap;
use std::path::Path;

use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use nola_core::adapter::{FromWeightConfig, LoraVariant, OloraConfig, PissaConfig, VeraConfig};
use nola_core::folder::peft::{self, Generation, Layout, Part, PeftAdapter};
use nola_core::folder::{BaseIdentity, Description};
use nola_core::{Adapted, AdapterConfig, Error, Site, Targets, float_params, read_params};
use nola_models::{CausalLm, Checkpoint, Vit};
use serde_json::Value;

use crate::curves;
use crate::devices::{by_name, by_path, precise, tolerance, transposed, values};
use crate::fixtures::{self, Golden, Tally, Tensors, assert_close};
use crate::test_model::{Kind, Loaded, TestModel, kind};

#[test]
fn golden_peft_folders_give_the_values_of_the_reference() {
    fixtures::on_folders("peft", |tally, root, name, folder| {
        // The same function as a LoRA, where PEFT could convert the adapter to one.
        let as_lora = (format!("{name}/as_lora"), folder.join("as_lora"));
        let variants = [(name.to_owned(), folder.to_owned()), as_lora];
        for (name, adapter) in variants.iter().filter(|(_, adapter)| adapter.is_dir()) {
            tally.note(name, check_folder(root, name, folder, adapter));
        }
    });
}

/// Checks the adapter in `adapter` against the values in `folder`, or returns why it cannot.
fn check_folder(root: &Path, name: &str, folder: &Path, adapter: &Path) -> Result<(), String> {
    let read = match peft::read(adapter) {
        Ok(read) => read,
        // Whatever else a reader may say of a folder that PEFT wrote is a fault of the reader.
        Err(error @ Error::Unsupported { .. }) => return Err(error.to_string()),
        Err(error) => panic!("{name}: {error}"),
    };
    let about = fixtures::json(&folder.join("expected.json"));
    let base = root.join("models").join(about["base"].as_str().expect("a base"));
    let checkpoint = Checkpoint::open(&base).map_err(|error| error.to_string())?;
    let golden = fixtures::tensors(&folder.join("expected.safetensors")).0;
    let form = if folder == adapter { Form::Trained } else { Form::Converted };
    let name = name.to_owned();
    match kind(&checkpoint) {
        Kind::Vit => {
            Case { name, base: Loaded::<Vit>::open(&base, &checkpoint), golden }
                .check_all(read, &about, form);
        }
        Kind::Language => {
            let base = Loaded::<CausalLm>::open(&base, &checkpoint);
            Case { name, base, golden }.check_all(read, &about, form);
        }
        Kind::Unsupported(reason) => return Err(reason),
    }
    Ok(())
}

#[test]
fn golden_olora_and_pissa_start_where_pefts_do() {
    let with_start =
        |root: &Path| fixtures::cases(root, "peft").into_iter().filter(|folder| folder.join("init").is_dir());
    for root in fixtures::roots() {
        let mut tally = Tally::default();
        for folder in with_start(&root) {
            let name = folder.file_name().expect("a folder has a name").to_string_lossy().into_owned();
            tally.note(&name, check_start(&root, &name, &folder, &folder.join("init")));
        }
        if with_start(&root).next().is_some() {
            tally.finish("peft");
        }
    }
}

/// Checks the factors of a fresh adapter of ours against those that PEFT saved before training.
fn check_start(root: &Path, name: &str, folder: &Path, init: &Path) -> Result<(), String> {
    let about = fixtures::json(&folder.join("expected.json"));
    let base = root.join("models").join(about["base"].as_str().expect("a base"));
    let checkpoint = Checkpoint::open(&base).map_err(|error| error.to_string())?;
    match kind(&checkpoint) {
        Kind::Vit => check_start_of(name, folder, init, &Loaded::<Vit>::open(&base, &checkpoint)),
        Kind::Language => check_start_of(name, folder, init, &Loaded::<CausalLm>::open(&base, &checkpoint)),
        Kind::Unsupported(reason) => return Err(reason),
    }
    Ok(())
}

fn check_start_of<M: TestModel>(name: &str, folder: &Path, init: &Path, loaded: &Loaded<M>) {
    // That of `init` no longer says how the adapter started.
    let settings = fixtures::json(&folder.join("adapter_config.json"));
    let from_weight = FromWeightConfig {
        rank: settings["r"].as_u64().expect("a rank") as usize,
        alpha: settings["lora_alpha"].as_f64(),
        variant: if settings["use_rslora"] == true { LoraVariant::RsLora } else { LoraVariant::Plain },
    };
    let adapter: AdapterConfig = match settings["init_lora_weights"].as_str() {
        Some("olora") => OloraConfig(from_weight).into(),
        Some("pissa") => PissaConfig(from_weight).into(),
        other => panic!("{name}: no adapter starts as {other:?}"),
    };
    let golden = fixtures::tensors(&init.join("adapter_model.safetensors")).0;
    let targets = Targets::matching("query|value");
    let fresh =
        Adapted::attach(loaded.model.clone(), &adapter, &targets, &[], &loaded.device).expect("query, value");
    assert_eq!(2 * fresh.sites().len(), golden.len(), "{name}: sites");
    for factors in fresh.factors() {
        let module = loaded.model.foreign_module(&factors.site.path).names[0].clone();
        let rank = factors.rank / 2;
        let a: Vec<f32> = factors
            .a
            .as_deref()
            .expect("no identity")
            .chunks(2 * rank)
            .flat_map(|row| row[..rank].to_vec())
            .collect();
        let [golden_a, golden_b] = ["lora_A", "lora_B"].map(|leaf| {
            let golden = &golden[&format!("base_model.model.{module}.{leaf}.weight")];
            transposed(golden.f64(), golden.shape[0], golden.shape[1])
        });
        // A singular vector has either sign, as long as its partner has the same.
        let sign = |n: usize| {
            let dot: f64 =
                a.iter().zip(&golden_a).skip(n).step_by(rank).map(|(a, g)| f64::from(*a) * g).sum();
            dot.signum()
        };
        let signs: Vec<f64> = (0..rank).map(sign).collect();
        let d_out = factors.site.d_out;
        let golden_a: Vec<f64> = golden_a.iter().enumerate().map(|(n, g)| signs[n % rank] * g).collect();
        let golden_b: Vec<f64> = golden_b.iter().enumerate().map(|(n, g)| signs[n / d_out] * g).collect();
        // PEFT decomposes in float32, and so is off by some 1e-5 itself.
        assert_close(&format!("{name}: A of {module}"), &a, &golden_a, tolerance());
        assert_close(&format!("{name}: B of {module}"), &factors.b[..rank * d_out], &golden_b, tolerance());
    }
}

/// A model of the fixtures with the golden values of one adapter.
struct Case<M: TestModel> {
    name: String,
    base: Loaded<M>,
    golden: Tensors,
}

/// Whether the golden gradients and curve belong to the adapter's own tensors.
enum Form {
    Trained,
    Converted,
}

/// The parameters of ours that one tensor of PEFT's holds.
struct Holders {
    /// In the order in which they lie in the tensor.
    paths: Vec<String>,
    /// How the tensor is to be read.
    layout: Layout,
    /// How they make up the tensor.
    joint: Joint,
}

/// How several parameters of ours make up one tensor of PEFT's.
enum Joint {
    /// Every one of them is a copy of it, so its gradient is the sum of theirs.
    Copies,
    /// Their columns stand side by side.
    Beside,
}

impl<M: TestModel> Case<M> {
    fn check_all(&self, read: PeftAdapter, about: &Value, form: Form) {
        let model = self.attached(read);
        self.check("logits", model.model.logits_of(&self.base.batch));
        self.check("loss", values(self.loss(&model)));
        match form {
            Form::Trained => {
                self.check_gradients(&model);
                self.check_curve(&about["curve"], &model);
            }
            Form::Converted => {}
        }
        self.check_round_trip(&model, Generation::Transformers4);
        self.check_round_trip(&model, Generation::Transformers5);
        self.check_merged(model);
    }

    fn attached(&self, read: PeftAdapter) -> Adapted<M> {
        let Loaded { model, device, .. } = &self.base;
        let attached = read.attach(model.clone(), &|path| model.foreign_module(path), device);
        attached.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    fn loss(&self, model: &Adapted<M>) -> Tensor<1> {
        model.model.loss(&self.base.batch, 0.0)
    }

    fn check(&self, what: &str, found: Vec<f32>) {
        let golden = precise(&self.golden, what).or_else(|| self.golden.get(&format!("{what}.f32")));
        let golden = golden.unwrap_or_else(|| panic!("{}: no golden `{what}`", self.name));
        assert_close(&format!("{}: {what}", self.name), &found, golden.f64(), tolerance());
    }

    /// The golden tensors whose names begin with `prefix`, by the rest of their names.
    fn golden_of<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Golden)> {
        self.golden.iter().filter_map(move |(name, golden)| Some((name.strip_prefix(prefix)?, golden)))
    }

    fn check_gradients(&self, model: &Adapted<M>) {
        let gradients = GradientsParams::from_grads(self.loss(model).backward(), model);
        let gradients = model.project(gradients);
        let mut found = by_path(&model.model, &gradients);
        let of_coefficients = by_name(model, &gradients);
        for (name, golden) in self.golden_of("grad.") {
            if let Some(gradient) = self.of_vectors(model, name, &of_coefficients) {
                assert_close(
                    &format!("{}: gradient of {name}", self.name),
                    &gradient,
                    golden.f64(),
                    tolerance(),
                );
                continue;
            }
            let holders = self.holders(model, name);
            let gradient = holders.joined(golden, |path| {
                found.remove(path).unwrap_or_else(|| panic!("{}: no gradient of {path}", self.name))
            });
            let what = format!("{}: gradient of {name}", self.name);
            assert_close(&what, &gradient, &holders.turned(golden), tolerance());
        }
        assert!(found.is_empty(), "{}: trained beside what PEFT trains: {:?}", self.name, found.keys());
    }

    /// The gradient of one of VeRA's vectors: the scales of the bottleneck are copies in each part of a module, and those of the
    /// outputs stand side by side.
    fn of_vectors(
        &self,
        model: &Adapted<M>,
        name: &str,
        gradients: &BTreeMap<String, Vec<f32>>,
    ) -> Option<Vec<f32>> {
        let (module, vector) = name.rsplit_once(".vera_")?;
        let lengths = |rank: usize, site: &Site| if vector == "lambda_d" { rank } else { site.d_out };
        let mut rest = gradients[vector].as_slice();
        let mut parts = BTreeMap::new();
        for factors in model.factors() {
            let (own, behind) = rest.split_at(lengths(factors.rank, &factors.site));
            rest = behind;
            let foreign = self.base.model.foreign_module(&factors.site.path);
            if foreign.names.iter().any(|known| known == module) {
                parts.insert(part_index(foreign.part), own.to_vec());
            }
        }
        let sum = |sum: Vec<f32>, part: Vec<f32>| sum.iter().zip(part).map(|(s, p)| s + p).collect();
        if vector == "lambda_d" {
            parts.into_values().reduce(sum)
        } else {
            Some(parts.into_values().flatten().collect())
        }
    }

    /// Follows the golden curve, but for fused modules: there PEFT trains one A for all parts, and we one for each.
    fn check_curve(&self, curve: &Value, model: &Adapted<M>) {
        let parts = |site: &Site| self.base.model.foreign_module(&site.path).part;
        let is_fused = model.sites().iter().any(|site| parts(site) != Part::Whole);
        if !curve.is_object() {
            return;
        }
        if is_fused {
            println!("skipped the curve of {}: its module is fused", self.name);
            return;
        }
        curves::follow(
            curve,
            model.clone(),
            |model| self.loss(model),
            |steps, found, golden| {
                let what = format!("{}: loss after {steps} steps", self.name);
                assert_close(&what, &[found], &[golden], tolerance());
            },
        );
    }

    /// Where the numbers of the tensor that PEFT calls `name` are in `model`.
    fn holders(&self, model: &Adapted<M>, name: &str) -> Holders {
        let (module, leaf, joint) = place(name);
        let mut parts = BTreeMap::new();
        let mut layout = Layout::Linear;
        for param in float_params(&model.model) {
            let Some(path) = param.path.strip_suffix(&format!(".{leaf}")) else { continue };
            let foreign = self.base.model.foreign_module(path);
            if !foreign.names.iter().any(|name| name == module) {
                continue;
            }
            // PEFT's own factors are stored alike in both layouts.
            if leaf == "weight" {
                layout = foreign.layout;
            }
            parts.insert(part_index(foreign.part), param.path);
        }
        assert!(!parts.is_empty(), "{}: no parameter for `{name}`", self.name);
        Holders { paths: parts.into_values().collect(), layout, joint }
    }

    fn check_round_trip(&self, model: &Adapted<M>, generation: Generation) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let modules = |path: &str| self.base.model.foreign_module(path);
        let written = peft::write(folder.path(), model, &modules, generation, M::TASK, &description());
        written.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let read = peft::read(folder.path()).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let logits = |model: &Adapted<M>| model.model.logits_of(&self.base.batch);
        let what = format!("{}: logits after a round trip through {generation:?}", self.name);
        let (before, after) = (logits(model), logits(&self.attached(read)));
        if float_params(&model.model).iter().any(|param| param.path.ends_with(".adapter.start_b")) {
            // Two products have become one, whose sums have another order.
            let before: Vec<f64> = before.into_iter().map(f64::from).collect();
            assert_close(&what, &after, &before, tolerance());
        } else {
            assert_eq!(before, after, "{what}");
        }
    }

    fn check_merged(&self, model: Adapted<M>) {
        let held: Vec<_> = (self.golden_of("merged_weight."))
            .map(|(name, golden)| (name, golden, self.holders(&model, name)))
            .collect();
        let merged = model.merge().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        self.check("merged_logits", merged.logits_of(&self.base.batch));
        let params = float_params(&merged);
        for (name, golden, holders) in held {
            let weight = holders.joined(golden, |path| {
                let id = params.iter().find(|param| param.path == path).expect("it was there").id;
                let weight = read_params(&merged, &[id]).remove(&id).expect("its value");
                weight.try_into_vec().expect("read as f32")
            });
            let what = format!("{}: merged_weight.{name}", self.name);
            assert_close(&what, &weight, &holders.turned(golden), tolerance());
        }
    }
}

fn part_index(part: Part) -> usize {
    match part {
        Part::Whole => 0,
        Part::Outputs(shares) => shares.from,
    }
}

/// Module and parameter of ours that the name of one of PEFT's tensors means, and how several make it up.
fn place(name: &str) -> (&str, &str, Joint) {
    let (rest, leaf) = name.rsplit_once('.').expect("a module and a leaf");
    match rest.rsplit_once('.') {
        Some((module, "lora_A")) => (module, "weight.adapter.a", Joint::Copies),
        Some((module, "lora_B")) => (module, "weight.adapter.b", Joint::Beside),
        Some((module, "lora_magnitude_vector")) => (module, "weight.adapter.magnitude", Joint::Beside),
        Some((module, "modules_to_save" | "base_layer")) => (module, leaf, Joint::Beside),
        Some(_) | None => (rest, leaf, Joint::Beside),
    }
}

impl Holders {
    /// What `values` gives for every parameter, made one tensor as large as `golden`, in our order.
    fn joined(&self, golden: &Golden, values: impl FnMut(&str) -> Vec<f32>) -> Vec<f32> {
        let parts: Vec<Vec<f32>> = self.paths.iter().map(String::as_str).map(values).collect();
        match self.joint {
            Joint::Copies => (parts.into_iter())
                .reduce(|sum, part| sum.iter().zip(part).map(|(sum, value)| sum + value).collect())
                .expect("a tensor has a holder"),
            Joint::Beside => {
                let rows = self.rows(golden);
                let row = |row| parts.iter().flat_map(move |part| part.chunks(part.len() / rows).nth(row));
                (0..rows).flat_map(row).flatten().copied().collect()
            }
        }
    }

    /// Rows of the tensor in our order; a vector is one.
    fn rows(&self, golden: &Golden) -> usize {
        match (&golden.shape[..], self.layout) {
            (&[_, rows], Layout::Linear) | (&[rows, _], Layout::Conv1d) => rows,
            (_, Layout::Linear | Layout::Conv1d) => 1,
        }
    }

    /// The numbers of the tensor in our order.
    fn turned(&self, golden: &Golden) -> Vec<f64> {
        match (&golden.shape[..], self.layout) {
            (&[rows, cols], Layout::Linear) => transposed(golden.f64(), rows, cols),
            (_, Layout::Linear | Layout::Conv1d) => golden.f64().to_vec(),
        }
    }
}

/// The VeRA of the fixtures is the one that our own settings give: its pair to the bit, and its folder tensor by tensor.
#[test]
fn golden_a_vera_of_our_settings_is_written_as_the_one_of_peft() {
    on_veras(|root, name, folder| match name {
        "llama_vera" => check_own_vera::<CausalLm>(root, name, folder),
        "vit_vera" => check_own_vera::<Vit>(root, name, folder),
        other => println!("skipped {other}: its modules are parts of ours"),
    });
}

/// Runs `check` on every VeRA of the fixtures, with its name and the root.
fn on_veras(check: impl Fn(&Path, &str, &Path)) {
    for root in fixtures::roots() {
        for name in ["gpt2_vera", "llama_vera", "vit_vera"] {
            let folder = root.join("peft").join(name);
            if folder.is_dir() {
                check(&root, name, &folder);
            } else {
                println!("skipped: no {}", folder.display());
            }
        }
    }
}

fn check_own_vera<M: TestModel>(root: &Path, name: &str, folder: &Path) {
    let about = fixtures::json(&folder.join("expected.json"));
    let base = root.join("models").join(about["base"].as_str().expect("a base"));
    let base = Loaded::<M>::open(&base, &Checkpoint::open(&base).expect("a model of the fixtures"));
    let config = VeraConfig { rank: 12, save_projection: true, ..VeraConfig::default() };
    let targets = Targets::matching("query|value");
    let own = Adapted::attach(base.model.clone(), &config.into(), &targets, &[], &base.device);
    let golden = Case { name: name.to_owned(), base, golden: Tensors::new() };
    let theirs = golden.attached(peft::read(folder).expect("a VeRA"));
    let own = own.expect("it has such layers").with_state(theirs.state()).expect("the same vectors");
    let written = tempfile::tempdir().expect("a temporary folder");
    let modules = |path: &str| golden.base.model.foreign_module(path);
    let generation = Generation::Transformers5;
    peft::write(written.path(), &own, &modules, generation, M::TASK, &description()).expect("a free folder");
    let tensors = |folder: &Path| fixtures::tensors(&folder.join("adapter_model.safetensors")).0;
    assert_eq!(tensors(written.path()), tensors(folder), "{name}");
}

/// Without its pair, the folder is that of the pair that the key gives.
#[test]
fn golden_a_vera_without_its_pair_is_read_as_with_it() {
    on_veras(|root, name, folder| match name {
        "vit_vera" => check_without_pair::<Vit>(root, name, folder),
        _ => check_without_pair::<CausalLm>(root, name, folder),
    });
}

fn check_without_pair<M: TestModel>(root: &Path, name: &str, folder: &Path) {
    let mut config = fixtures::json(&folder.join("adapter_config.json"));
    let base = root.join("models").join(config["base_model_name_or_path"].as_str().expect("a base"));
    let base = Loaded::<M>::open(&base, &Checkpoint::open(&base).expect("a model of the fixtures"));
    config["save_projection"] = false.into();
    let copy = tempfile::tempdir().expect("a temporary folder");
    let bytes = std::fs::read(folder.join("adapter_model.safetensors")).expect("a file");
    let all = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let vectors = all.iter().filter(|(name, _)| name.contains("vera_lambda"));
    let without = safetensors::serialize(vectors, None).expect("safetensors");
    std::fs::write(copy.path().join("adapter_model.safetensors"), without).expect("a written file");
    std::fs::write(copy.path().join("adapter_config.json"), config.to_string()).expect("a written file");
    let case = Case { name: name.to_owned(), base, golden: Tensors::new() };
    let logits =
        |folder: &Path| case.attached(peft::read(folder).expect("a VeRA")).model.logits_of(&case.base.batch);
    assert_eq!(logits(copy.path()), logits(folder), "{name}");
}

fn description() -> Description {
    let base = BaseIdentity {
        name: "base".to_owned(),
        config_sha256: "c".to_owned(),
        weights_sha256: "w".to_owned(),
        tensors_sha256: None,
        quantization: None,
    };
    Description { base, labels: Vec::new(), summary: String::new(), data: Value::Null }
}
