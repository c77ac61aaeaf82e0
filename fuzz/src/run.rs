//! The folder of a run that goes on.

use std::fs;
use std::path::Path;

use nola_core::folder::sha256_hex;
use nola_train::run::{InterruptedRun, METRICS, RESULT, held_out};
use nola_train::train::Checkpoint;
use serde_json::{Map, Value, json};

use super::input::{accepted, new_folder, parts};

const FILES: [&str; 5] =
    ["state.json", "trained.safetensors", "best.safetensors", "moments.safetensors", "history.safetensors"];

/// The files of a checkpoint, then recipe, result, lines of steps, and the manifest of the checkpoint; without it, the
/// hashes are those of the files.
pub fn interrupted(bytes: &[u8]) {
    let files: [Option<&[u8]>; 9] = parts(bytes);
    let [.., recipe, result, metrics, manifest] = files;
    let scratch = new_folder();
    let run = scratch.path().join("run");
    let checkpoint = run.join("checkpoints").join("step-000001");
    fs::create_dir_all(&checkpoint).expect("a folder in memory");
    let write = |folder: &Path, name: &str, bytes: Option<&[u8]>| {
        if let Some(bytes) = bytes {
            fs::write(folder.join(name), bytes).expect("a file in memory");
        }
    };
    FILES.iter().zip(files).for_each(|(name, bytes)| write(&checkpoint, name, bytes));
    let own = own_manifest(&files);
    write(&checkpoint, "checkpoint.json", Some(manifest.unwrap_or(&own)));
    for (name, file) in [("recipe.toml", recipe), (RESULT, result), (METRICS, metrics)] {
        write(&run, name, file);
    }
    held_out(&run);
    let Some(read) = accepted(Checkpoint::read(&checkpoint), bytes) else { return };
    let place = scratch.path().join("again");
    read.write(&place).expect("a folder in memory");
    let again = Checkpoint::read(&place).expect("it was written just now");
    assert_eq!(format!("{again:?}"), format!("{read:?}"));
    accepted(InterruptedRun::open(&run, &[]).map(drop), bytes);
}

/// A manifest with the hashes of the files.
fn own_manifest(files: &[Option<&[u8]>]) -> Vec<u8> {
    let hash = |file: &Option<&[u8]>| Value::from(sha256_hex(file.unwrap_or_default()));
    let hashes: Map<String, Value> =
        FILES.iter().zip(files).map(|(name, file)| ((*name).to_owned(), hash(file))).collect();
    json!({"format": 1, "files": hashes}).to_string().into_bytes()
}
