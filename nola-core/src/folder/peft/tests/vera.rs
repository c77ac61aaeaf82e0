//! VeRA folders: written as PEFT's own where they can be, and what of a folder is refused.

use super::*;
use crate::adapter::VeraConfig;

/// A VeRA on these layers, as if it had been trained.
fn trained(toy: &Toy, config: VeraConfig, targets: &str) -> Adapted<Toy> {
    let targets = Targets::matching(targets);
    let fresh = Adapted::attach(toy.clone(), &config.into(), &targets, &[], &device()).expect("layers");
    let mut state = fresh.state();
    for (number, data) in state.values_mut().enumerate() {
        *data = TensorData::new(numbers(data.shape().num_elements(), number), data.shape());
    }
    fresh.with_state(state).expect("its own names")
}

fn small() -> VeraConfig {
    VeraConfig { rank: 3, projection_prng_key: 5, ..VeraConfig::default() }
}

/// The folder without what this project adds to it, so that it may be edited; its tensors are changed by `edit`.
fn edited(folder: &Path, edit: impl FnOnce(&mut BTreeMap<String, (Vec<usize>, Vec<u8>)>)) {
    let file = folder.join(WEIGHTS);
    let read = std::fs::read(&file).expect("a file");
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> =
        (SafeTensors::deserialize(&read).expect("safetensors").iter())
            .map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), view.data().to_vec())))
            .collect();
    edit(&mut tensors);
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("bytes that fit the shape"))
    });
    std::fs::write(file, safetensors::serialize(views, None).expect("safetensors")).expect("a written file");
}

/// Sets a key of the configuration.
fn set(folder: &Path, key: &str, value: Value) {
    let mut config = config(folder);
    config[key] = value;
    std::fs::write(folder.join(CONFIG), config.to_string()).expect("a written file");
}

fn refused(folder: &Path, toy: Toy) -> String {
    attached(folder, toy).expect_err("it does not fit").to_string()
}

#[test]
fn a_vera_of_whole_modules_is_pefts_own_with_or_without_its_pair() {
    let toy = Toy::new(D_MODEL, 2);
    for save_projection in [false, true] {
        let model = trained(&toy, VeraConfig { save_projection, ..small() }, "output|down");
        let folder = written(&model);
        let config = config(folder.path());
        assert_eq!((&config["peft_type"], &config["r"]), (&json!("VERA"), &json!(3)));
        assert_eq!(config["projection_prng_key"], 5);
        assert_eq!(config["save_projection"], save_projection);
        let tensors = tensors(&folder.path().join(WEIGHTS));
        assert_eq!(tensors.contains_key("base_model.vera_B"), save_projection);
        assert_eq!(tensors["transformer.h.1.mlp.c_proj.vera_lambda_b"].0, [D_MODEL]);
        let again = attached(folder.path(), toy.clone()).expect("it was just written");
        assert_eq!(outputs(&again), outputs(&model), "save_projection {save_projection}");
    }
}

#[test]
fn a_vera_of_parts_of_a_module_is_a_lora_that_computes_the_same() {
    let toy = Toy::new(D_MODEL, 1);
    let model = trained(&toy, small(), "query|value");
    let folder = written(&model);
    assert_eq!(config(folder.path())["peft_type"], "LORA");
    let again = attached(folder.path(), toy).expect("it was just written");
    for (found, expected) in outputs(&again).iter().zip(outputs(&model)) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
}

#[test]
fn the_pair_of_a_folder_must_be_as_wide_as_its_modules() {
    let toy = Toy::new(D_MODEL, 1);
    let folder = written(&trained(&toy, VeraConfig { save_projection: true, ..small() }, "output|down"));
    edited(folder.path(), |tensors| {
        tensors.insert("base_model.vera_A".to_owned(), (vec![3, D_MODEL], bytes(&numbers(3 * D_MODEL, 1))));
    });
    let error = refused(folder.path(), toy);
    assert!(error.contains("`base_model.vera_A` has shape [3, 4], expected [3, 16]"), "{error}");
}

#[test]
fn a_pair_that_is_missing_is_named_with_the_cure() {
    let toy = Toy::new(D_MODEL, 1);
    let folder = written(&trained(&toy, small(), "output"));
    edited(folder.path(), |_| {});
    set(folder.path(), "save_projection", json!(true));
    let error = refused(folder.path(), toy);
    assert!(error.contains("`base_model.vera_A`") && error.contains("projection_prng_key"), "{error}");
}

#[test]
fn vectors_of_another_length_are_named() {
    let toy = Toy::new(D_MODEL, 1);
    let folder = written(&trained(&toy, small(), "output"));
    let name = "base_model.model.transformer.h.0.attn.c_proj.vera_lambda_b";
    edited(folder.path(), |tensors| {
        tensors.insert(name.to_owned(), (vec![3], bytes(&numbers(3, 1))));
    });
    let error = refused(folder.path(), toy);
    assert!(error.contains(&format!("`{name}` has shape [3], expected [4]")), "{error}");
}

#[test]
fn a_key_that_was_edited_after_it_was_written_is_refused() {
    let folder = written(&trained(&Toy::new(D_MODEL, 1), small(), "output"));
    set(folder.path(), "projection_prng_key", json!(6));
    let error = read(folder.path()).expect_err("it was edited").to_string();
    assert!(error.contains("`projection_prng_key` is 6"), "{error}");
}

#[test]
fn what_is_absent_has_peft_s_default() {
    let folder = written(&trained(&Toy::new(D_MODEL, 1), small(), "output"));
    edited(folder.path(), |_| {});
    let config = json!({"peft_type": "VERA", "target_modules": ["attn.c_proj"]});
    std::fs::write(folder.path().join(CONFIG), config.to_string()).expect("a written file");
    let error = refused(folder.path(), Toy::new(D_MODEL, 1));
    assert!(error.contains("`save_projection` is true"), "{error}");
}
