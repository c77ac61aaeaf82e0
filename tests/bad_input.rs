//! What bad input gets: an error that names file, field and cure, a documented exit code, and nothing overwritten.

use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::program::Workshop;

const TRAIN: [&str; 2] = ["train", "colours.toml"];

pub fn edit_json(file: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(file).expect("the file")).expect("JSON");
    edit(&mut value);
    fs::write(file, value.to_string()).expect("a file that can be written");
}

/// Writes `bytes` as a training image and returns what `train` says.
fn with_image(name: &str, bytes: &[u8], parts: &[&str]) {
    let workshop = Workshop::new();
    fs::write(workshop.at("train/red").join(name), bytes).expect("a file");
    workshop.run(&TRAIN).assert_refused(4, &[&[name, "on_bad_image"], parts].concat());
    let skipped = workshop.run(&["train", "colours.toml", "--set", "data.on_bad_image=skip", "--json"]);
    assert_eq!(skipped.code, 0, "{}", skipped.stderr);
    assert!(skipped.stderr.contains(&format!("left out: train/red/{name}")), "{}", skipped.stderr);
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 7]));
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("writing into memory");
    bytes.into_inner()
}

#[test]
fn a_corrupt_image() {
    let mut bytes = png(8, 8);
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8].fill(0xEE);
    with_image("corrupt.png", &bytes, &[]);
}

#[test]
fn a_truncated_image() {
    let bytes = png(64, 64);
    with_image("cut.png", &bytes[..bytes.len() / 2], &[]);
}

#[test]
fn an_empty_image() {
    with_image("empty.png", b"", &["the file is empty"]);
}

#[test]
fn a_text_that_is_called_an_image() {
    with_image("text.jpg", b"<html>no such page</html>", &[]);
}

#[test]
fn an_image_that_says_it_is_enormous() {
    let mut bytes = png(8, 8);
    // Width and height of a PNG stand after its signature and the header's length and name; then comes a checksum.
    bytes[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    with_image("bomb.png", &bytes, &["larger than 16384 pixels"]);
}

/// The checksum of PNG chunks (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn an_image_with_another_formats_ending_is_read_all_the_same() {
    let workshop = Workshop::new();
    fs::rename(workshop.at("train/red/0.png"), workshop.at("train/red/0.jpg")).expect("an image");
    assert_eq!(workshop.run(&TRAIN).code, 0);
}

#[test]
fn an_empty_class_folder() {
    let workshop = Workshop::new();
    fs::create_dir(workshop.at("train/yellow")).expect("a folder");
    workshop.run(&TRAIN).assert_refused(4, &["train: no images in yellow", "remove the folder"]);
}

#[test]
fn classes_that_differ() {
    let workshop = Workshop::new();
    fs::rename(workshop.at("val/red"), workshop.at("val/pink")).expect("a class");
    workshop.run(&TRAIN).assert_refused(4, &["classes differ", "red", "pink"]);
}

#[test]
fn images_of_other_classes_than_the_adapters() {
    let workshop = Workshop::new();
    workshop.trained();
    fs::rename(workshop.at("val/red"), workshop.at("val/pink")).expect("a class");
    workshop.run(&["evaluate", "--run", "runs/colours"]).assert_refused(4, &["pink", "red"]);
}

#[test]
fn a_data_folder_that_is_not_there() {
    let workshop = Workshop::new();
    let run = workshop.run(&["train", "colours.toml", "--set", "data.train=nowhere"]);
    run.assert_refused(4, &["nowhere"]);
}

#[test]
fn a_config_that_lies_about_the_weights() {
    let workshop = Workshop::new();
    edit_json(&workshop.at("base/config.json"), |config| config["hidden_size"] = 48.into());
    workshop.run(&TRAIN).assert_refused(5, &["do not fit config.json", "expected [48"]);
}

#[test]
fn a_config_with_an_impossible_number() {
    let workshop = Workshop::new();
    edit_json(&workshop.at("base/config.json"), |config| config["num_attention_heads"] = 7.into());
    workshop.run(&TRAIN).assert_refused(5, &["config.json", "`num_attention_heads` is 7", "a divisor of"]);
}

#[test]
fn a_config_of_another_model() {
    let workshop = Workshop::new();
    edit_json(&workshop.at("base/config.json"), |config| config["model_type"] = "bert".into());
    workshop.run(&TRAIN).assert_refused(5, &["config.json", "`model_type` is \"bert\"", "`vit`"]);
}

#[test]
fn a_model_folder_without_weights() {
    let workshop = Workshop::new();
    fs::remove_file(workshop.at("base/model.safetensors")).expect("the weights");
    workshop.run(&TRAIN).assert_refused(5, &["model.safetensors: no such file"]);
    fs::write(workshop.at("base/pytorch_model.bin"), b"pickle").expect("a file");
    workshop
        .run(&TRAIN)
        .assert_refused(5, &["pytorch_model.bin", "a pickle can run code", "save_pretrained"]);
}

#[test]
fn weights_that_are_cut_short() {
    let workshop = Workshop::new();
    let file = workshop.at("base/model.safetensors");
    let bytes = fs::read(&file).expect("the weights");
    fs::write(&file, &bytes[..bytes.len() - 10]).expect("a file");
    workshop.run(&TRAIN).assert_refused(5, &["model.safetensors", "cut short or corrupt"]);
}

/// Turns the one file of weights into a shard that an index names as `name`.
fn shard(workshop: &Workshop, name: &str) {
    let file = workshop.at("base/model.safetensors");
    let bytes = fs::read(&file).expect("the weights");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("weights");
    let map: serde_json::Map<String, Value> =
        tensors.names().into_iter().map(|tensor| (tensor.to_owned(), name.into())).collect();
    let index = json!({ "metadata": {}, "weight_map": map });
    fs::write(workshop.at("base/model.safetensors.index.json"), index.to_string()).expect("an index");
    fs::rename(&file, workshop.at("base/shard-1.safetensors")).expect("the weights");
}

#[test]
fn shards_are_read_and_a_missing_one_is_named() {
    let workshop = Workshop::new();
    shard(&workshop, "shard-1.safetensors");
    assert_eq!(workshop.run(&TRAIN).code, 0);
    fs::remove_dir_all(workshop.at("runs")).expect("the run");
    fs::remove_file(workshop.at("base/shard-1.safetensors")).expect("the shard");
    workshop.run(&TRAIN).assert_refused(5, &["index.json", "missing shards: shard-1.safetensors"]);
}

#[test]
fn a_shard_name_that_leads_out_of_the_folder() {
    for name in ["../shard-1.safetensors", "/etc/passwd", "a/../../b"] {
        let workshop = Workshop::new();
        shard(&workshop, name);
        workshop.run(&TRAIN).assert_refused(5, &["index.json", name, "not one plain file name"]);
    }
}

#[test]
fn weights_that_are_no_numbers() {
    let workshop = Workshop::new();
    let file = workshop.at("base/model.safetensors");
    let mut bytes = fs::read(&file).expect("the weights");
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).expect("a file");
    workshop.run(&TRAIN).assert_refused(5, &["base: NaN or infinite: 1 values of"]);
}

#[test]
fn an_adapter_for_another_base() {
    let workshop = Workshop::new();
    workshop.trained();
    let file = workshop.at("base/model.safetensors");
    let mut bytes = fs::read(&file).expect("the weights");
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&0.125_f32.to_le_bytes());
    fs::write(&file, bytes).expect("a file");
    let run = workshop.run(&["evaluate", "--run", "runs/colours"]);
    run.assert_refused(
        6,
        &["adapter_config.json", "made for the base `base`", "the hash of the weights differs"],
    );
}

#[test]
fn an_adapter_that_was_changed() {
    let workshop = Workshop::new();
    workshop.trained();
    let file = workshop.at("runs/colours/adapter/adapter_model.safetensors");
    let mut bytes = fs::read(&file).expect("the adapter");
    let end = bytes.len();
    bytes[end - 1] ^= 1;
    fs::write(&file, bytes).expect("a file");
    let run = workshop.run(&["evaluate", "--run", "runs/colours"]);
    run.assert_refused(6, &["adapter_model.safetensors", "SHA-256", "damaged"]);
}

#[test]
fn an_adapter_of_another_generator_or_version() {
    for (field, value) in [("generator", json!("nola-philox-9")), ("format_version", json!(99))] {
        let workshop = Workshop::new();
        workshop.trained();
        edit_json(&workshop.at("runs/colours/adapter/adapter_config.json"), |config| config[field] = value);
        let run = workshop.run(&["inspect", "runs/colours/adapter"]);
        run.assert_refused(6, &["adapter_config.json", field]);
    }
}

#[test]
fn a_peft_adapter_with_a_tensor_too_many() {
    let workshop = Workshop::new();
    workshop.trained();
    assert_eq!(workshop.run(&["export", "--run", "runs/colours", "--out", "peft"]).code, 0);
    let file = workshop.at("peft/adapter_model.safetensors");
    let bytes = fs::read(&file).expect("the adapter");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("an adapter");
    let extra = [0_u8; 4];
    let mut views: Vec<(String, TensorView)> = tensors.tensors();
    let name = "base_model.model.vit.layers.9.attention.q_proj.lora_A.weight";
    views.push((name.to_owned(), TensorView::new(Dtype::F32, vec![1, 1], &extra).expect("a tensor")));
    let changed = safetensors::serialize(views, None).expect("an adapter");
    fs::write(&file, changed).expect("a file");
    let arguments = ["evaluate", "--model", "base", "--adapter", "peft", "--data", "val"];
    workshop.run(&arguments).assert_refused(6, &[name, "belongs to nothing in this model"]);
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
fn a_config_of_a_model_larger_than_any() {
    let workshop = Workshop::new();
    edit_json(&workshop.at("base/config.json"), |config| {
        for (key, value) in [("hidden_size", 16384), ("image_size", 16384), ("patch_size", 1)] {
            config[key] = value.into();
        }
        config["num_attention_heads"] = 1.into();
        config["model_type"] = "vit_mae".into();
    });
    workshop.run(&TRAIN).assert_refused(5, &["config.json", "`hidden_size`"]);
}

#[test]
fn an_adapter_config_with_numbers_beyond_reason() {
    for (key, value) in [("k", 1_000_000_000_000_u64), ("r", 1_000_000_000_000), ("l", 0)] {
        let workshop = Workshop::new();
        workshop.trained();
        edit_json(&workshop.at("runs/colours/adapter/adapter_config.json"), |config| {
            config["nola"][key] = value.into();
        });
        workshop.run(&["inspect", "runs/colours/adapter"]).assert_refused(6, &["adapter_config.json"]);
    }
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
fn a_learning_rate_that_diverges() {
    let workshop = Workshop::new();
    let sets =
        ["--set", "train.learning_rate=1e30", "--set", "train.optimizer=sgd", "--set", "method.kind=full"];
    let run = workshop.run(&[&TRAIN[..], &sets].concat());
    run.assert_refused(8, &["training diverged", "at step", "train.learning_rate"]);
}

#[test]
fn no_such_device() {
    let workshop = Workshop::new();
    let typo = workshop.run_on("gpu", &TRAIN);
    assert_eq!(typo.code, 2, "{}", typo.stderr);
    assert!(typo.stderr.contains("use auto, cpu, wgpu"), "{}", typo.stderr);
    workshop.run_on("wgpu:99", &TRAIN).assert_refused(7, &["wgpu:99", "such devices found"]);
    workshop.run_on("cuda:99", &TRAIN).assert_refused(7, &["cuda:99"]);
}

#[test]
fn a_wrong_option() {
    let workshop = Workshop::new();
    let run = workshop.run(&["train", "colours.toml", "--stes", "3"]);
    assert_eq!(run.code, 2, "{}", run.stderr);
}

#[test]
fn an_output_folder_that_holds_something() {
    let workshop = Workshop::new();
    fs::create_dir_all(workshop.at("runs/colours")).expect("a folder");
    fs::write(workshop.at("runs/colours/mine.txt"), "mine").expect("a file");
    workshop.run(&TRAIN).assert_refused(9, &["runs/colours", "not empty"]);
    assert_eq!(fs::read_to_string(workshop.at("runs/colours/mine.txt")).expect("the file"), "mine");
    assert_eq!(fs::read_dir(workshop.at("runs/colours")).expect("the folder").count(), 1);
}

#[test]
fn an_output_folder_that_cannot_be_made() {
    let workshop = Workshop::new();
    fs::write(workshop.at("runs"), "a file").expect("a file");
    workshop.run(&TRAIN).assert_refused(9, &["runs/colours"]);
}

#[cfg(unix)]
#[test]
fn an_output_folder_that_is_read_only() {
    use std::os::unix::fs::PermissionsExt;
    let workshop = Workshop::new();
    fs::create_dir_all(workshop.at("runs/colours")).expect("a folder");
    fs::set_permissions(workshop.at("runs/colours"), fs::Permissions::from_mode(0o555)).expect("permissions");
    if fs::write(workshop.at("runs/colours/probe"), "").is_ok() {
        println!("skipped: this user may write everywhere");
        return;
    }
    workshop.run(&TRAIN).assert_refused(9, &["runs/colours"]);
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
