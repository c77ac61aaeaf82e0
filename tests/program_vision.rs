//! Vision transformers beside ViT, as a user meets them.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use nola_models::{Preprocessor, Vit, VitConfig, WeightDtype};
use serde_json::Value;

use crate::bad_input::edit_json;
use crate::program::Workshop;
use crate::tiny::{dinov2_json, vision_jsons, with};

/// A workshop whose base is a model of this configuration without a head; images have 8 pixels a side.
fn workshop(json: &Value) -> Workshop {
    let workshop = Workshop::new();
    fs::remove_dir_all(workshop.at("base")).expect("a ViT");
    let config = VitConfig::from_json(json, Path::new("config.json")).expect("a small model");
    let base = Vit::init(&config, 3, &Device::flex()).with_head(&[]);
    base.save(&workshop.at("base"), &Preprocessor::standard(8), WeightDtype::F32).expect("a free folder");
    workshop
}

fn loss(scores: &Value) -> f64 {
    scores["loss"].as_f64().expect("a loss")
}

#[test]
fn a_run_on_every_family_scores_the_same_merged_and_exported() {
    for json in vision_jsons() {
        let workshop = workshop(&json);
        workshop.trained();
        let of_run = loss(&workshop.run(&["evaluate", "--run", "runs/colours", "--json"]).json());
        workshop.run(&["merge", "--run", "runs/colours", "--out", "merged", "--json"]).json();
        workshop.run(&["export", "--run", "runs/colours", "--out", "exported", "--json"]).json();
        for what in [&["--model", "merged"][..], &["--model", "base", "--adapter", "exported"]] {
            let arguments = [&["evaluate", "--data", "val", "--json"], what].concat();
            let found = loss(&workshop.run(&arguments).json());
            assert!((found - of_run).abs() < 1e-5, "{json}: {what:?}: {found} is not {of_run}");
        }
    }
}

#[test]
fn positions_of_a_dinov2_are_made_for_the_images_that_its_preprocessor_puts_out() {
    let workshop = workshop(&with(dinov2_json(), "image_size", 16));
    workshop.trained();
    workshop.run(&["merge", "--run", "runs/colours", "--out", "merged", "--json"]).json();
    let config = fs::read_to_string(workshop.at("merged/config.json")).expect("a configuration");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(config["image_size"], 8);
}

#[test]
fn what_is_left_out_of_a_model_of_images_and_texts_is_said_once() {
    let [.., clip, _] = vision_jsons();
    let workshop = workshop(&clip);
    // A projection beside the tower.
    let file = workshop.at("base/model.safetensors");
    let bytes = fs::read(&file).expect("weights");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("weights");
    let names = tensors.names();
    let first = tensors.tensor(names[0]).expect("a tensor");
    let more = [("visual_projection.weight".to_owned(), first)];
    let all = tensors.tensors().into_iter().chain(more);
    let bytes = safetensors::serialize(all, None).expect("tensors");
    fs::write(&file, bytes).expect("a file that can be written");
    edit_json(&workshop.at("base/config.json"), |config| {
        config["architectures"] = vec!["CLIPVisionModelWithProjection"].into();
    });
    let run = workshop.run(&["train", "colours.toml"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.stderr.matches("left out: `visual_projection.`").count(), 1, "{}", run.stderr);
}
