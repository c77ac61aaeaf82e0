//! The settings of adapters that were written before a hash covered them, as they were when this machine first read them.
//!
//! Nothing in such a folder tells whether its `adapter_config.json` was edited. So the first sight of one is kept in the
//! user's cache, under the hash of its weights, and a later one must be the same. Where there is no cache to write to,
//! such folders are read as they are.

use std::env;
use std::path::{Path, PathBuf};

use nola_core::Error as AdapterError;
use nola_core::folder::{Manifest, write_atomically};

use crate::Error;

/// Refuses the adapter in `folder` if its settings are others than at first sight; a folder whose settings are covered by
/// a hash was checked when it was read.
///
/// # Errors
/// Each setting that was edited, in one error.
pub fn check(folder: &Path, manifest: &Manifest) -> Result<(), Error> {
    match (manifest.settings_check.is_some(), cache()) {
        (false, Some(cache)) => check_in(&cache, folder, manifest),
        (true, _) | (false, None) => Ok(()),
    }
}

fn check_in(cache: &Path, folder: &Path, manifest: &Manifest) -> Result<(), Error> {
    let file = cache.join(format!("{}.json", manifest.model_sha256));
    let seen = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Manifest>(&text).ok());
    let Some(seen) = seen else {
        keep(&file, manifest);
        return Ok(());
    };
    let mut problems = manifest.settings_unlike(&seen);
    if problems.is_empty() {
        return Ok(());
    }
    problems
        .push(format!("(or, if the edit is meant, delete {}, which keeps the first sight)", file.display()));
    Err(AdapterError::Invalid { file: folder.join("adapter_config.json"), problems }.into())
}

/// A cache that cannot be written to is no reason to refuse an adapter.
fn keep(file: &Path, manifest: &Manifest) {
    let text = serde_json::to_vec(manifest).unwrap_or_default();
    let folder = file.parent().unwrap_or(Path::new("."));
    let _ = std::fs::create_dir_all(folder).map(|()| write_atomically(file, &text));
}

fn cache() -> Option<PathBuf> {
    let of_user = || Some(env::home_dir()?.join(".cache"));
    let caches =
        env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from).or_else(of_user)?;
    Some(caches.join("nola-train").join("adapters"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn manifest(edit: impl FnOnce(&mut Value)) -> Manifest {
        let mut value = json!({
            "peft_type": "NOLA", "format_version": 1, "generator": "nola-philox-1", "base_model_name_or_path": "base",
            "base_config_sha256": "c", "base_weights_sha256": "w",
            "nola": {
                "r": 2, "k": 32, "l": 32, "lora_alpha": 2.0, "preset": "default", "basis": "uniform",
                "sharing": "separate", "seed": "0",
            },
            "target_modules": "all-linear", "exclude_modules": ["head"], "layers_to_transform": [], "sites": 36,
            "sites_sha256": "s", "coefficient_bits": 32, "modules_to_save": [], "labels": [], "model_sha256": "m",
        });
        edit(&mut value);
        serde_json::from_value(value).expect("every key is known")
    }

    #[test]
    fn settings_that_differ_from_the_first_sight_are_named() {
        let cache = tempfile::tempdir().expect("a temporary folder");
        let folder = Path::new("adapter");
        check_in(cache.path(), folder, &manifest(|_| ())).expect("the first sight");
        check_in(cache.path(), folder, &manifest(|_| ())).expect("the same");
        for (key, value) in [
            ("lora_alpha", json!(4.0)),
            ("basis", json!("sign")),
            ("preset", json!("vit-2024")),
            ("seed", json!("1")),
        ] {
            let edited = manifest(|config| config["nola"][key] = value.clone());
            let error = check_in(cache.path(), folder, &edited).expect_err("it was edited");
            assert_eq!(error.exit_code(), 6);
            assert!(error.to_string().contains(&format!("`nola.{key}` is {value}")), "{error}");
        }
        let renamed = manifest(|config| config["base_model_name_or_path"] = json!("elsewhere"));
        check_in(cache.path(), folder, &renamed).expect("the name is for people");
    }

    #[test]
    fn other_weights_are_another_adapter() {
        let cache = tempfile::tempdir().expect("a temporary folder");
        let folder = Path::new("adapter");
        check_in(cache.path(), folder, &manifest(|_| ())).expect("the first sight");
        let other = manifest(|config| {
            config["model_sha256"] = json!("n");
            config["nola"]["lora_alpha"] = json!(4.0);
        });
        check_in(cache.path(), folder, &other).expect("the first sight of these weights");
    }

    #[test]
    fn a_cache_that_cannot_be_written_to_stops_nothing() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        check_in(&file.path().join("cache"), Path::new("adapter"), &manifest(|_| ()))
            .expect("it is read as it is");
    }
}
