//! The thirty faults that a trustworthy fine-tuner survives, each a test whose name begins with its number.
//!
//! [docs/faults.md](../docs/faults.md) lists them, with what the program does, its exit code, and these tests.

mod adapters;
mod devices;
mod hub;
mod images;
mod models;
mod rows;
mod runs;
mod table;
mod templates;
mod texts;
mod tokenizers;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use crate::program::{Outcome, Workshop, bytes_of};
use crate::text_workshop::{sets, text_workshop, train};

/// Trains the recipe of a [`Workshop`].
const TRAIN: [&str; 2] = ["train", "colours.toml"];

/// Asserts that a command is refused with this exit code and a message that holds every one of `parts`, and that it wrote,
/// changed and removed nothing.
fn refused(workshop: &Workshop, arguments: &[&str], code: i32, parts: &[&str]) {
    let before = files(&workshop.at(""));
    workshop.run(arguments).assert_refused(code, parts);
    assert!(files(&workshop.at("")) == before, "{arguments:?} changed a file");
}

/// Every file in a folder, with what is in it.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let entry = entry.expect("a readable folder");
        let (path, kind) = (entry.path(), entry.file_type().expect("a file or a folder"));
        if kind.is_dir() {
            found.extend(files(&path));
        } else if kind.is_file() {
            found.insert(path.clone(), bytes_of(&path));
        }
    }
    found
}

/// Changes the bytes of a file.
fn edit(file: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = bytes_of(file);
    edit(&mut bytes);
    fs::write(file, bytes).expect("a file that can be written");
}

/// Writes a number in place of the last one of a file of weights in f32.
fn set_last_weight(workshop: &Workshop, file: &str, value: f32) {
    edit(&workshop.at(file), |bytes| {
        let last = bytes.len() - size_of::<f32>();
        bytes[last..].copy_from_slice(&value.to_le_bytes());
    });
}

/// Changes the bytes of one tensor in a file of weights.
pub fn set_tensor(file: &Path, name: &str, change: impl FnOnce(&mut [u8])) {
    edit(file, |bytes| {
        let tensors = SafeTensors::deserialize(bytes).expect("weights");
        let data = tensors.tensor(name).expect("a tensor of this name").data();
        let start = data.as_ptr().addr() - bytes.as_ptr().addr();
        let place = start..start + data.len();
        change(&mut bytes[place]);
    });
}

/// Makes the base one whose file says nothing of its content, as files that others wrote.
pub fn forget_hash(workshop: &Workshop) {
    edit(&workshop.at("base/model.safetensors"), |bytes| {
        let key = b"nola_tensors_sha256";
        let place = bytes.windows(key.len()).position(|text| text == key).expect("the hash of the file");
        bytes[place] = b'x';
    });
}

/// How to train `food.toml` one step on a file of rows in a format.
fn on_rows(file: &str, format: &str) -> [String; 4] {
    let keys = ["data.train", "data.validation", "data.format"];
    let [data, validation, format] =
        std::array::from_fn(|n| format!("{}={}", keys[n], [file, file, format][n]));
    [data, validation, format, "train.steps=1".to_owned()]
}

/// What `train` says of `content` as training data in this format.
fn with_rows(file: &str, format: &str, content: impl AsRef<[u8]>, more: &[&str]) -> Outcome {
    let workshop = text_workshop();
    workshop.write(file, content);
    train(&workshop, &sets(&[&on_rows(file, format).each_ref().map(String::as_str)[..], more].concat()))
}

/// Asserts that `content` is refused as training data in this format, before anything is trained or written.
fn assert_rows_refused(file: &str, format: &str, content: impl AsRef<[u8]>, more: &[&str], parts: &[&str]) {
    let workshop = text_workshop();
    workshop.write(file, content);
    refused_on(&workshop, file, format, more, 4, parts);
}

/// Asserts that a file of the workshop is refused as training data in this format.
pub fn refused_on(workshop: &Workshop, file: &str, format: &str, more: &[&str], code: i32, parts: &[&str]) {
    let on_rows = on_rows(file, format);
    let changes = [&on_rows.each_ref().map(String::as_str)[..], more].concat();
    refused(workshop, &[&["train", "food.toml"], &sets(&changes)[..]].concat(), code, parts);
}
