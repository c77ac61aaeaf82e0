//! Faults of model folders: weights, shards and configurations.

use std::fs;

use serde_json::{Value, json};

use super::{TRAIN, edit, refused, set_last_weight};
use crate::bad_input::edit_json;
use crate::program::{Workshop, bytes_of};
use crate::text_workshop::text_workshop;

#[test]
fn fault_05_a_config_that_lies_about_the_weights_is_refused() {
    let workshop = Workshop::new();
    edit_json(&workshop.at("base/config.json"), |config| config["hidden_size"] = 48.into());
    refused(&workshop, &TRAIN, 5, &["do not fit config.json", "expected [48"]);
}

#[test]
fn fault_07_a_width_that_the_heads_do_not_divide_is_refused() {
    let workshop = Workshop::new();
    edit_json(&workshop.at("base/config.json"), |config| config["num_attention_heads"] = 7.into());
    refused(&workshop, &TRAIN, 5, &["config.json", "`num_attention_heads` is 7", "a divisor of"]);
}

#[test]
fn fault_07_an_unknown_architecture_is_refused_by_name() {
    let workshop = Workshop::new();
    edit_json(&workshop.at("base/config.json"), |config| config["model_type"] = "bert".into());
    refused(&workshop, &TRAIN, 5, &["config.json", "`model_type` is \"bert\"", "`vit`"]);
}

#[test]
fn fault_06_a_pickle_is_never_opened() {
    let workshop = Workshop::new();
    fs::remove_file(workshop.at("base/model.safetensors")).expect("the weights");
    refused(&workshop, &TRAIN, 5, &["model.safetensors: no such file"]);
    for name in ["pytorch_model.bin", "model.pt", "model.ckpt"] {
        fs::write(workshop.at("base").join(name), b"pickle").expect("a file");
        refused(&workshop, &TRAIN, 5, &[name, "a pickle can run code", "save_pretrained"]);
        fs::remove_file(workshop.at("base").join(name)).expect("the file just written");
    }
}

#[test]
fn fault_01_weights_that_are_cut_short_are_refused() {
    for kept in [0, 7, 100, 20_000] {
        let workshop = Workshop::new();
        edit(&workshop.at("base/model.safetensors"), |bytes| bytes.truncate(kept));
        let what = if kept == 0 { "the file is empty".to_owned() } else { format!("({kept} bytes)") };
        refused(&workshop, &TRAIN, 5, &["base/model.safetensors", &what]);
    }
    let workshop = Workshop::new();
    edit(&workshop.at("base/model.safetensors"), |bytes| bytes.truncate(bytes.len() - 10));
    refused(&workshop, &TRAIN, 5, &["base/model.safetensors", "cut short or corrupt", "fetch it again"]);
}

/// Turns the one file of weights into a shard that an index names as `name`.
fn shard(workshop: &Workshop, name: &str) {
    let file = workshop.at("base/model.safetensors");
    let bytes = bytes_of(&file);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("weights");
    let map: serde_json::Map<String, Value> =
        tensors.names().into_iter().map(|tensor| (tensor.to_owned(), name.into())).collect();
    let index = json!({ "metadata": {}, "weight_map": map });
    fs::write(workshop.at("base/model.safetensors.index.json"), index.to_string()).expect("an index");
    fs::rename(&file, workshop.at("base/shard-1.safetensors")).expect("the weights");
}

#[test]
fn fault_04_shards_are_read_and_a_missing_one_is_named() {
    let workshop = Workshop::new();
    shard(&workshop, "shard-1.safetensors");
    assert_eq!(workshop.run(&TRAIN).code, 0);
    fs::remove_dir_all(workshop.at("runs")).expect("the run");
    fs::remove_file(workshop.at("base/shard-1.safetensors")).expect("the shard");
    refused(&workshop, &TRAIN, 5, &["index.json", "missing shards: shard-1.safetensors"]);
}

#[test]
fn fault_03_a_shard_name_that_leaves_its_folder_is_refused() {
    let names = [
        "../shard-1.safetensors",
        "/etc/passwd",
        "a/../../b",
        "a/shard-1.safetensors",
        "..",
        "",
        "C:shard-1.safetensors",
        "C:\\Windows\\win.ini",
        "\\\\server\\share\\shard-1.safetensors",
        "a\\..\\..\\b",
    ];
    for name in names {
        let workshop = Workshop::new();
        shard(&workshop, name);
        refused(&workshop, &TRAIN, 5, &["index.json", name, "not one plain file name"]);
    }
}

#[test]
fn fault_02_a_weight_that_is_nan_is_refused_with_its_tensor() {
    let workshop = Workshop::new();
    set_last_weight(&workshop, "base/model.safetensors", f32::NAN);
    refused(&workshop, &TRAIN, 5, &["base: NaN or infinite: 1 values of"]);
}

#[test]
fn fault_07_a_model_larger_than_any_is_refused() {
    let workshop = Workshop::new();
    edit_json(&workshop.at("base/config.json"), |config| {
        for (key, value) in [("hidden_size", 16384), ("image_size", 16384), ("patch_size", 1)] {
            config[key] = value.into();
        }
        config["num_attention_heads"] = 1.into();
        config["model_type"] = "vit_mae".into();
    });
    refused(&workshop, &TRAIN, 5, &["config.json", "`hidden_size`"]);
}

#[test]
fn fault_07_a_language_model_of_a_kind_that_is_not_computed_is_refused() {
    let workshop = text_workshop();
    edit_json(&workshop.at("base/config.json"), |config| config["model_type"] = "gpt_neo".into());
    let parts = ["base/config.json", "`model_type` is \"gpt_neo\"", "`gpt2`", "`llama`"];
    for command in [
        &["train", "food.toml"][..],
        &["generate", "--model", "base", "Hi"],
        &["evaluate", "--model", "base", "--data", "val.txt"],
    ] {
        refused(&workshop, command, 5, &parts);
    }
}

/// Puts another header in front of the weights of a file, which begin where they did.
fn with_header(bytes: &mut Vec<u8>, change: impl FnOnce(&mut Value)) {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    change(&mut header);
    let header = header.to_string();
    let data = bytes.split_off(8 + length);
    *bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
}

/// Names of the tensors of a header, in the order of their bytes.
fn names_in_order(header: &Value) -> Vec<String> {
    let tensors = header.as_object().expect("a table").iter().filter(|(name, _)| *name != "__metadata__");
    let mut names: Vec<(u64, String)> = tensors
        .map(|(name, tensor)| (tensor["data_offsets"][0].as_u64().expect("an offset"), name.clone()))
        .collect();
    names.sort();
    names.into_iter().map(|(_, name)| name).collect()
}

#[test]
fn fault_01_a_header_that_claims_more_than_the_file_is_refused() {
    for length in [u64::MAX, 1 << 40, 101_000_000] {
        let workshop = Workshop::new();
        edit(&workshop.at("base/model.safetensors"), |bytes| {
            bytes[..8].copy_from_slice(&length.to_le_bytes())
        });
        refused(&workshop, &TRAIN, 5, &["base/model.safetensors", "cut short or corrupt"]);
    }
}

#[test]
fn fault_01_tensors_that_share_bytes_or_leave_some_out_are_refused() {
    for (from, to) in [(0, 1), (1, 0)] {
        let workshop = Workshop::new();
        edit(&workshop.at("base/model.safetensors"), |bytes| {
            with_header(bytes, |header| {
                let names = names_in_order(header);
                header[&names[to]]["data_offsets"] = header[&names[from]]["data_offsets"].clone();
            });
        });
        refused(&workshop, &TRAIN, 5, &["base/model.safetensors", "corrupt"]);
    }
}

#[test]
fn fault_02_a_weight_that_is_infinite_is_refused_by_every_command() {
    let workshop = Workshop::new();
    workshop.trained();
    set_last_weight(&workshop, "base/model.safetensors", f32::INFINITY);
    for command in [
        &["train", "colours.toml", "--set=output.dir=runs/again"][..],
        &["evaluate", "--model", "base", "--data", "val"],
        &["predict", "--model", "base", "val/red/0.png"],
        &["merge", "--model", "base", "--adapter", "runs/colours/adapter", "--out", "merged"],
    ] {
        let workshop = &workshop;
        refused(workshop, command, 5, &["base: NaN or infinite: 1 values of `", "use another"]);
    }
}

/// Folders of a hub's cache hold links to their files, which lie elsewhere.
#[cfg(unix)]
#[test]
fn fault_03_a_file_that_is_a_link_is_read() {
    let workshop = Workshop::new();
    shard(&workshop, "shard-1.safetensors");
    fs::create_dir(workshop.at("blobs")).expect("a folder");
    fs::rename(workshop.at("base/shard-1.safetensors"), workshop.at("blobs/0123")).expect("the weights");
    std::os::unix::fs::symlink("../blobs/0123", workshop.at("base/shard-1.safetensors")).expect("a link");
    assert_eq!(workshop.run(&["train", "colours.toml"]).code, 0);
}

#[test]
fn fault_04_everything_in_which_index_and_shards_differ_is_listed_at_once() {
    let workshop = Workshop::new();
    shard(&workshop, "shard-1.safetensors");
    fs::copy(workshop.at("base/shard-1.safetensors"), workshop.at("base/shard-2.safetensors"))
        .expect("a copy");
    edit_json(&workshop.at("base/model.safetensors.index.json"), |index| {
        let map = index["weight_map"].as_object_mut().expect("a table");
        let unnamed = map.keys().next().expect("a tensor").clone();
        map.remove(&unnamed);
        map.insert("not.there".to_owned(), "shard-1.safetensors".into());
        map.insert("also.not.there".to_owned(), "shard-2.safetensors".into());
        map.insert("gone".to_owned(), "shard-3.safetensors".into());
    });
    let parts = [
        "base/model.safetensors.index.json: does not fit its shards",
        "missing shards: shard-3.safetensors",
        "tensors absent from their shard: not.there, also.not.there",
        "tensors in two shards: ",
        "tensors that the index does not name: ",
        "fetch the checkpoint again",
    ];
    refused(&workshop, &TRAIN, 5, &parts);
}

#[test]
fn fault_05_tensors_that_are_missing_renamed_or_too_many_are_listed_at_once() {
    let workshop = Workshop::new();
    let mut renamed = String::new();
    edit(&workshop.at("base/model.safetensors"), |bytes| {
        with_header(bytes, |header| {
            renamed = names_in_order(header)[0].clone();
            let tensors = header.as_object_mut().expect("a table");
            let tensor = tensors.remove(&renamed).expect("it was just found");
            tensors.insert("another.name".to_owned(), tensor);
        });
    });
    let missing = format!("missing: {renamed}");
    let parts =
        ["base: the weights do not fit config.json", &missing, "not used by this model: another.name"];
    refused(&workshop, &TRAIN, 5, &parts);
}

#[test]
fn fault_05_a_tensor_of_another_type_is_refused_with_both() {
    let workshop = Workshop::new();
    edit(&workshop.at("base/model.safetensors"), |bytes| {
        with_header(bytes, |header| {
            let name = names_in_order(header)[0].clone();
            header[&name]["dtype"] = "I32".into();
        });
    });
    refused(
        &workshop,
        &TRAIN,
        5,
        &["base: the weights do not fit config.json", "of another shape or type: ", "I32"],
    );
}

#[test]
fn fault_07_a_config_that_is_no_json_or_of_wrong_types_is_refused_at_its_field() {
    let cases: [(&str, &[&str]); 4] = [
        ("{\"model_type\": \"vit\", ", &["base/config.json", "restore the file from its source"]),
        ("[1, 2]", &["base/config.json"]),
        ("", &["base/config.json", "empty"]),
        ("{\"model_type\": \"vit\", \"hidden_size\": \"wide\"}", &["base/config.json", "hidden_size"]),
    ];
    for (text, parts) in cases {
        let workshop = Workshop::new();
        workshop.write("base/config.json", text);
        refused(&workshop, &TRAIN, 5, parts);
    }
}

#[test]
fn fault_07_sizes_that_no_model_has_are_refused_by_their_field() {
    for (field, value) in
        [("num_hidden_layers", 1_000_000_000_000_u64), ("num_hidden_layers", 0), ("hidden_size", u64::MAX)]
    {
        let workshop = Workshop::new();
        edit_json(&workshop.at("base/config.json"), |config| config[field] = value.into());
        refused(&workshop, &TRAIN, 5, &["base/config.json", &format!("`{field}` is {value}"), "expected"]);
    }
}
