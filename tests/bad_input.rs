//! What bad recipes, options and output folders get: an error that names file, field and cure, a documented exit code, and
//! nothing overwritten. `faults` holds the thirty that have a number.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::program::Workshop;

const TRAIN: [&str; 2] = ["train", "colours.toml"];

pub fn edit_json(file: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(file).expect("the file")).expect("JSON");
    edit(&mut value);
    fs::write(file, value.to_string()).expect("a file that can be written");
}

#[test]
fn a_data_folder_that_is_not_there() {
    let workshop = Workshop::new();
    let run = workshop.run(&["train", "colours.toml", "--set", "data.train=nowhere"]);
    run.assert_refused(4, &["nowhere"]);
}

#[test]
fn a_recipe_with_a_typo() {
    let workshop = Workshop::new();
    let file = workshop.at("colours.toml");
    let text = fs::read_to_string(&file).expect("the recipe").replace("steps", "stpes");
    fs::write(&file, text).expect("a file");
    let run = workshop.run(&TRAIN);
    run.assert_refused(3, &["colours.toml:11: unknown key `train.stpes`; did you mean `steps`?"]);
}

#[test]
fn recipe_numbers_that_cannot_be_meant() {
    let workshop = Workshop::new();
    for (set, key) in [
        ("data.augment.flip_probability=1.5", "`data.augment.flip_probability` is 1.5"),
        ("data.shots=10000000000", "`data.shots`"),
        ("train.batch=10000000000", "`train.batch`"),
        ("method.rank=10000000000", "`method.rank`"),
        ("method.k=10000000000", "`method.k`"),
    ] {
        workshop.run(&["train", "colours.toml", "--set", set]).assert_refused(3, &[key, set]);
    }
}

#[test]
fn a_preprocessor_of_another_size_than_the_model() {
    let workshop = Workshop::new();
    edit_json(&workshop.at("base/preprocessor_config.json"), |config| {
        config["size"] = json!({ "height": 224, "width": 224 });
    });
    workshop.run(&TRAIN).assert_refused(5, &["preprocessor_config.json", "`size`", "8 x 8 pixels"]);
}

#[test]
fn a_head_alone_cannot_be_exported_as_a_lora() {
    let workshop = Workshop::new();
    let trained = workshop.run(&["train", "colours.toml", "--set", "method.kind=linear"]);
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    let run = workshop.run(&["export", "--run", "runs/colours", "--out", "peft"]);
    run.assert_refused(6, &["no adapter to export", "nola-train merge"]);
    assert!(!workshop.at("peft").exists());
}

#[test]
fn a_place_where_a_merged_model_cannot_be_written() {
    let workshop = Workshop::new();
    workshop.trained();
    fs::write(workshop.at("file"), "a file").expect("a file");
    for verb in ["merge", "export"] {
        workshop.run(&[verb, "--run", "runs/colours", "--out", "file/out"]).assert_refused(9, &["file"]);
    }
}

#[test]
fn a_recipe_that_is_not_there() {
    let workshop = Workshop::new();
    workshop.run(&["train", "nowhere.toml"]).assert_refused(3, &["nowhere.toml"]);
}

#[test]
fn targets_that_match_nothing() {
    let workshop = Workshop::new();
    let run = workshop.run(&["train", "colours.toml", "--set", "method.targets=[\"q_proj\"]"]);
    run.assert_refused(6, &["`q_proj`", "match no linear weight", "blocks.*.attention.query"]);
}

#[test]
fn a_wrong_option() {
    let workshop = Workshop::new();
    let run = workshop.run(&["train", "colours.toml", "--stes", "3"]);
    assert_eq!(run.code, 2, "{}", run.stderr);
}

#[test]
fn a_merged_model_does_not_overwrite_a_folder() {
    let workshop = Workshop::new();
    workshop.trained();
    let before = fs::read(workshop.at("base/config.json")).expect("the config");
    for verb in ["merge", "export"] {
        let run = workshop.run(&[verb, "--run", "runs/colours", "--out", "base"]);
        run.assert_refused(9, &["base", "not empty"]);
    }
    assert_eq!(fs::read(workshop.at("base/config.json")).expect("the config"), before);
}
