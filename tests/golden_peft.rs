//! LoRA folders of Hugging Face PEFT against PyTorch: every case of `peft/` in the fixtures.

use std::collections::BTreeMap;
use std::path::Path;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor};
use nola_core::folder::peft::{self, Generation, PeftAdapter};
use nola_core::folder::{BaseIdentity, Description};
use nola_core::{Adapted, Error, float_params};
use nola_models::vit::peft_names;
use nola_models::{Checkpoint, Vit};
use serde_json::Value;

use crate::curves;
use crate::devices::{by_path, classes, device, precise, tensor, tolerance, transposed, values};
use crate::fixtures::{self, Golden, Tally, assert_close};

#[test]
fn golden_peft_folders_give_the_values_of_the_reference() {
    let Some(root) = fixtures::root() else {
        println!("skipped: no ../shared/fixtures and no assets/golden");
        return;
    };
    let mut tally = Tally::default();
    for folder in &fixtures::cases(&root, "peft") {
        let name = folder.file_name().expect("a folder has a name").to_string_lossy();
        // The same function as a LoRA, where PEFT could convert the adapter to one.
        let as_lora = folder.join("as_lora");
        let variants = [(name.to_string(), folder.clone()), (format!("{name}/as_lora"), as_lora)];
        for (name, adapter) in variants.iter().filter(|(_, adapter)| adapter.is_dir()) {
            tally.note(name, check_folder(&root, name, folder, adapter));
        }
    }
    tally.finish("peft");
}

/// A model of the fixtures with its inputs and the golden values of one adapter.
struct Case {
    name: String,
    vit: Vit,
    pixels: Tensor<4>,
    labels: Tensor<1, Int>,
    golden: BTreeMap<String, Golden>,
    device: Device,
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
    match checkpoint.config()["model_type"].as_str() {
        Some("vit") => {}
        other => return Err(format!("{} is not built yet", other.unwrap_or("its model"))),
    }
    let device = device();
    let (inputs, _) = fixtures::tensors(&base.join("expected.safetensors"));
    let case = Case {
        name: name.to_owned(),
        vit: Vit::load(&checkpoint, &device).expect("a ViT of the fixtures"),
        pixels: tensor(&inputs["pixel_values"], &device),
        labels: classes(&inputs["labels"], &device),
        golden: fixtures::tensors(&folder.join("expected.safetensors")).0,
        device,
    };
    case.check_all(read, &about, folder == adapter);
    Ok(())
}

impl Case {
    /// `is_trained_form`: whether the golden gradients and curve belong to the adapter's own tensors.
    fn check_all(&self, read: PeftAdapter, about: &Value, is_trained_form: bool) {
        let vit = self.attached(read);
        self.check("logits", self.logits(&vit));
        self.check("loss", values(self.loss(&vit)));
        if is_trained_form {
            self.check_gradients(&vit);
            if about["curve"].is_object() {
                curves::follow(
                    &about["curve"],
                    vit.clone(),
                    |vit| self.loss(vit),
                    |steps, found, golden| {
                        let what = format!("{}: loss after {steps} steps", self.name);
                        assert_close(&what, &[found], &[golden], tolerance());
                    },
                );
            }
        }
        self.check_round_trip(&vit, Generation::Transformers4);
        self.check_round_trip(&vit, Generation::Transformers5);
        self.check_merged(vit);
    }

    fn attached(&self, read: PeftAdapter) -> Adapted<Vit> {
        let attached = read.attach(self.vit.clone(), &peft_names, &self.device);
        attached.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    fn logits(&self, vit: &Adapted<Vit>) -> Vec<f32> {
        values(vit.model.forward(self.pixels.clone()))
    }

    fn loss(&self, vit: &Adapted<Vit>) -> Tensor<1> {
        let logits = vit.model.forward(self.pixels.clone());
        CrossEntropyLossConfig::new().init(&self.device).forward(logits, self.labels.clone())
    }

    fn check(&self, what: &str, found: Vec<f32>) {
        let golden = precise(&self.golden, what).or_else(|| self.golden.get(&format!("{what}.f32")));
        let golden = golden.unwrap_or_else(|| panic!("{}: no golden `{what}`", self.name));
        assert_close(&format!("{}: {what}", self.name), &found, golden.f64(), tolerance());
    }

    fn check_gradients(&self, vit: &Adapted<Vit>) {
        let gradients = GradientsParams::from_grads(self.loss(vit).backward(), vit);
        let found = by_path(&vit.model, &gradients);
        let golden: Vec<_> = (self.golden.iter())
            .filter_map(|(name, golden)| Some((name.strip_prefix("grad.")?, golden)))
            .collect();
        for (name, golden) in &golden {
            let path = self.our_path(vit, name);
            let found = found.get(&path).unwrap_or_else(|| panic!("{}: no gradient of {path}", self.name));
            let what = format!("{}: gradient of {name}", self.name);
            assert_close(&what, found, &turned(golden), tolerance());
        }
        assert_eq!(found.len(), golden.len(), "{}: tensors that are trained", self.name);
    }

    /// Path of the parameter that PEFT calls `name`.
    fn our_path(&self, vit: &Adapted<Vit>, name: &str) -> String {
        let (rest, leaf) = name.rsplit_once('.').expect("a module and a leaf");
        let (module, leaf) = match rest.rsplit_once('.') {
            Some((module, "lora_A")) => (module, "weight.adapter.a"),
            Some((module, "lora_B")) => (module, "weight.adapter.b"),
            Some((module, "modules_to_save" | "base_layer")) => (module, leaf),
            Some(_) | None => (rest, leaf),
        };
        (float_params(&vit.model).into_iter())
            .filter_map(|param| Some(param.path.strip_suffix(&format!(".{leaf}"))?.to_owned()))
            .find(|path| peft_names(path).iter().any(|name| name == module))
            .map(|path| format!("{path}.{leaf}"))
            .unwrap_or_else(|| panic!("{}: no parameter for `{name}`", self.name))
    }

    fn check_round_trip(&self, vit: &Adapted<Vit>, generation: Generation) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let base = BaseIdentity {
            name: "base".to_owned(),
            config_sha256: "c".to_owned(),
            weights_sha256: "w".to_owned(),
        };
        let description = Description { base, labels: Vec::new(), summary: String::new() };
        let written = peft::write(folder.path(), vit, &peft_names, generation, &description);
        written.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let read = peft::read(folder.path()).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let again = self.attached(read);
        let what = format!("{}: logits after a round trip through {generation:?}", self.name);
        assert_eq!(self.logits(vit), self.logits(&again), "{what}");
    }

    fn check_merged(&self, vit: Adapted<Vit>) {
        let paths: Vec<(&str, String)> = (self.golden.keys())
            .filter_map(|name| name.strip_prefix("merged_weight."))
            .map(|name| (name, self.our_path(&vit, name)))
            .collect();
        let merged = vit.merge().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        self.check("merged_logits", values(merged.forward(self.pixels.clone())));
        let params = float_params(&merged);
        for (name, path) in paths {
            let id = params.iter().find(|param| param.path == path).expect("it was there").id;
            let weight = nola_core::read_params(&merged, &[id]).remove(&id).expect("its value");
            let what = format!("{}: merged_weight.{name}", self.name);
            let golden = &self.golden[&format!("merged_weight.{name}")];
            let found: Vec<f32> = weight.try_into_vec().expect("read as f32");
            assert_close(&what, &found, &turned(golden), tolerance());
        }
    }
}

/// The numbers of a tensor of PyTorch's in our order: a matrix is transposed.
fn turned(golden: &Golden) -> Vec<f64> {
    match golden.shape[..] {
        [rows, cols] => transposed(golden.f64(), rows, cols),
        _ => golden.f64().to_vec(),
    }
}
