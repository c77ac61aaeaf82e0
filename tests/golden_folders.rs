//! Adapter folders as they were written by earlier versions, byte for byte: they load, and give the probabilities they gave.

use std::path::{Path, PathBuf};

use nola_core::AdapterConfig;
use serde_json::Value;

use crate::fixtures;
use crate::program::Workshop;

/// Kinds of runs that leave an adapter folder without an adapter.
const WITHOUT_ADAPTER: &str = "linear";

/// Largest difference of a probability: exponentials of other processors end in other bits.
const TOLERANCE: f64 = 1e-5;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/golden/adapters")
}

#[test]
fn golden_folders_of_every_kind_are_kept() {
    for kind in AdapterConfig::KINDS.iter().chain([&WITHOUT_ADAPTER]) {
        for name in [format!("{kind}/adapter_config.json"), format!("{kind}.json")] {
            assert!(
                folder().join(&name).is_file(),
                "assets/golden/adapters/{name}: a new kind keeps one of its folders"
            );
        }
    }
}

#[test]
fn golden_folders_give_the_probabilities_that_they_gave() {
    for kind in AdapterConfig::KINDS.iter().chain([&WITHOUT_ADAPTER]) {
        let golden = fixtures::json(&folder().join(format!("{kind}.json")));
        for (image, probabilities) in golden.as_object().expect("probabilities by image") {
            check(kind, image, probabilities);
        }
    }
}

/// Compares the probability of every class of `image`, a path in `assets`.
fn check(kind: &str, image: &str, golden: &Value) {
    let workshop = Workshop::empty();
    let adapter = folder().join(kind).display().to_string();
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(image).display().to_string();
    let arguments =
        ["predict", "--model", "assets/vit-micro", "--adapter", &adapter, "--top", "10", "--json", &image];
    let predicted = workshop.run_on("cpu", &arguments).json();
    let classes = predicted["predictions"][0]["classes"].as_array().expect("a list").clone();
    assert_eq!(classes.len(), golden.as_object().expect("classes").len(), "{kind}");
    for class in classes {
        let name = class["name"].as_str().expect("a name");
        let (found, expected) = (class["probability"].as_f64(), golden[name].as_f64());
        let difference = (found.expect("a number") - expected.expect("a class of the golden ones")).abs();
        assert!(difference <= TOLERANCE, "{kind}: {image}: {name} is {found:?}, and was {expected:?}");
    }
}
