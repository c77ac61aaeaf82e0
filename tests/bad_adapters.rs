//! What a damaged adapter folder gets, whatever its kind: an error that names the file and the tensor, never another answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use nola_core::adapter::{Format, VeraConfig};
use nola_core::folder::peft::{self, Generation};
use nola_core::folder::{self, CoefficientBits};
use nola_core::{Adapted, AdapterConfig, Error, Targets};
use nola_models::Vit;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::bad_input::edit_json;
use crate::devices::device;
use crate::laws::{description, identity};
use crate::test_model::TestModel;
use crate::tiny::{Tiny, every_adapter, tiny_vit};

const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

/// What is done to one tensor of a folder.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// Its first number is NaN.
    Nan,
    /// It ends one row too early.
    Shorter,
    /// It is not there.
    Gone,
}

/// A tensor of a file.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Writes the folder of an adapter in the format of its kind.
fn written(tiny: &Tiny<Vit>, adapter: &AdapterConfig, folder: &Path) {
    let (model, about) = (tiny.perturbed(adapter), description());
    let bytes = match adapter.method().format() {
        Format::Native => folder::write(folder, &model, &about, CoefficientBits::B32),
        Format::Peft => {
            let modules = |path: &str| tiny.base.foreign_module(path);
            peft::write(folder, &model, &modules, Generation::Transformers5, Vit::TASK, &about)
        }
    };
    bytes.unwrap_or_else(|error| panic!("{}: {error}", adapter.kind()));
}

fn opened(tiny: &Tiny<Vit>, format: Format, folder: &Path) -> Result<Adapted<Vit>, Error> {
    let base = tiny.base.clone();
    match format {
        Format::Native => folder::read(folder)?.attach(base, &identity(), &tiny.device),
        Format::Peft => {
            let modules = |path: &str| tiny.base.foreign_module(path);
            peft::read(folder)?.attach(base, &modules, &tiny.device)
        }
    }
}

fn read(file: &Path) -> BTreeMap<String, Stored> {
    let bytes = fs::read(file).expect("an adapter");
    let tensors = SafeTensors::deserialize(&bytes).expect("tensors");
    let stored = |view: &TensorView| Stored {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    tensors.iter().map(|(name, view)| (name.to_owned(), stored(&view))).collect()
}

/// Writes the tensors under a hash that fits, so that it is the tensors themselves that are looked at.
fn write(folder: &Path, tensors: &BTreeMap<String, Stored>, format: Format) {
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
        (name.clone(), view.expect("bytes of its shape"))
    });
    let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).expect("tensors");
    if format == Format::Native {
        let hash = folder::sha256_hex(&bytes);
        edit_json(&folder.join(CONFIG), |config| config["model_sha256"] = hash.into());
    }
    fs::write(folder.join(WEIGHTS), bytes).expect("a file that can be written");
}

/// Whether the damage could be done.
fn damaged(tensors: &mut BTreeMap<String, Stored>, name: &str, damage: Damage) -> bool {
    let tensor = tensors.get_mut(name).expect("it has this tensor");
    match damage {
        Damage::Nan if tensor.dtype == Dtype::F32 => {
            tensor.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        Damage::Nan => return false,
        Damage::Shorter => {
            let rows = tensor.shape[0];
            tensor.bytes.truncate(tensor.bytes.len() / rows * (rows - 1));
            tensor.shape[0] = rows - 1;
        }
        Damage::Gone => drop(tensors.remove(name)),
    }
    true
}

/// One tensor of each kind, whatever block it belongs to.
fn one_of_each_kind(tensors: &BTreeMap<String, Stored>) -> Vec<String> {
    let kind = |name: &str| name.chars().filter(|letter| !letter.is_ascii_digit()).collect::<String>();
    let mut seen = BTreeSet::new();
    tensors.keys().filter(|name| seen.insert(kind(name))).cloned().collect()
}

#[test]
fn fault_12_a_tensor_that_is_nan_or_cut_or_gone_is_refused_in_folders_of_every_kind() {
    let tiny = tiny_vit(&device());
    for (name, adapter) in every_adapter() {
        let format = adapter.method().format();
        let scratch = tempfile::tempdir().expect("a temporary folder");
        written(&tiny, &adapter, scratch.path());
        let file = scratch.path().join(WEIGHTS);
        write(scratch.path(), &read(&file), format);
        opened(&tiny, format, scratch.path()).unwrap_or_else(|error| panic!("{name}, whole: {error}"));
        let bytes = fs::read(&file).expect("the adapter");
        for tensor in one_of_each_kind(&read(&file)) {
            for damage in [Damage::Nan, Damage::Shorter, Damage::Gone] {
                fs::write(&file, &bytes).expect("a file that can be written");
                let mut tensors = read(&file);
                if !damaged(&mut tensors, &tensor, damage) {
                    continue;
                }
                write(scratch.path(), &tensors, format);
                let case = format!("{name}, `{tensor}` {damage:?}");
                let error = match opened(&tiny, format, scratch.path()) {
                    Ok(_) => panic!("{case}: it was taken"),
                    Err(error) => error.to_string(),
                };
                assert!(error.contains(&tensor) && error.contains(WEIGHTS), "{case}: {error}");
            }
        }
    }
}

#[test]
fn fault_12_an_empty_file_of_weights_is_refused_in_folders_of_every_kind() {
    let tiny = tiny_vit(&device());
    for (name, adapter) in every_adapter() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        written(&tiny, &adapter, scratch.path());
        fs::write(scratch.path().join(WEIGHTS), []).expect("a file that can be written");
        let error = opened(&tiny, adapter.method().format(), scratch.path()).expect_err("nothing is there");
        let error = error.to_string();
        assert!(error.contains(WEIGHTS) && error.contains("empty"), "{name}: {error}");
    }
}

#[test]
fn a_vera_whose_targets_share_another_shape_is_refused() {
    let tiny = tiny_vit(&device());
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let vera = AdapterConfig::from(VeraConfig { rank: 3, ..VeraConfig::default() });
    let narrow = Targets::matching("query|value");
    let model = Adapted::attach(tiny.base.clone(), &vera, &narrow, &["head"], &tiny.device).expect("layers");
    folder::write(scratch.path(), &model, &description(), CoefficientBits::B32).expect("a free folder");
    edit_json(&scratch.path().join(CONFIG), |config| config["target_modules"] = "query|value|up".into());
    let error = opened(&tiny, Format::Native, scratch.path()).expect_err("a wider pair").to_string();
    assert!(error.contains(CONFIG) && error.contains("query|value|up"), "{error}");
}
