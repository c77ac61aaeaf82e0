//! Finds the golden fixtures and reads their tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use crate::shared::shared;

/// Folders of golden fixtures: the one that `NOLA_FIXTURES` names, else the shipped ones in `assets/golden` and, where
/// they are, those in `../shared/fixtures` beside the workspace.
///
/// # Panics
/// If a folder that must be there is gone: that must not turn every golden test into a skipped one.
pub fn roots() -> Vec<PathBuf> {
    let shared = shared("fixtures");
    if std::env::var_os("NOLA_FIXTURES").is_some() {
        return Vec::from_iter(shared);
    }
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/golden");
    assert!(shipped.is_dir(), "{} is gone", shipped.display());
    [Some(shipped), shared].into_iter().flatten().collect()
}

/// The folders inside `root/kind`, in name order; empty if there is no such folder.
pub fn cases(root: &Path, kind: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root.join(kind)) else {
        return Vec::new();
    };
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable fixture folder").path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

/// Runs `check` on every folder of `KIND` in the fixtures, with its name and the root; `check` says what became of
/// the cases in it.
pub fn on_folders(kind: &str, mut check: impl FnMut(&mut Tally, &Path, &str, &Path)) {
    for root in roots() {
        let mut tally = Tally::default();
        for folder in &cases(&root, kind) {
            let name = folder.file_name().expect("a folder has a name").to_string_lossy();
            check(&mut tally, &root, &name, folder);
        }
        tally.finish(kind);
    }
}

/// What became of the cases of one kind; printed case by case.
#[derive(Debug, Default)]
pub struct Tally {
    checked: usize,
    skipped: usize,
}

impl Tally {
    /// A case was checked, or was skipped for a reason.
    pub fn note(&mut self, name: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                println!("checked {name}");
                self.checked += 1;
            }
            Err(reason) => {
                println!("skipped {name}: {reason}");
                self.skipped += 1;
            }
        }
    }

    /// Asserts that something was checked in the project's own fixtures; a folder named by the user may hold
    /// nothing but cases of kinds that are not built yet.
    pub fn finish(self, kind: &str) {
        let named = std::env::var_os("NOLA_FIXTURES").is_some();
        assert!(named || self.checked > 0, "{kind}: no case checked, {} skipped", self.skipped);
    }
}

#[test]
fn golden_every_folder_of_the_fixtures_has_a_test_or_a_reason() {
    let folders = roots().into_iter().flat_map(|root| std::fs::read_dir(root).expect("a readable folder"));
    for path in folders.map(|entry| entry.expect("a readable folder").path()).filter(|path| path.is_dir()) {
        let name = path.file_name().expect("a folder has a name").to_string_lossy().into_owned();
        match name.as_str() {
            "methods" | "models" | "nola" | "peft" | "philox" | "train" => println!("tested: {name}"),
            "metrics" => println!("tested by nola-train: {name}"),
            "adapters" => println!("tested by golden_folders: {name}"),
            "gguf" | "rope" => println!("tested by nola-models: {name}"),
            "quant" => println!("tested by nola-core: {name}"),
            _ => panic!("{name}: no test knows this kind of fixture"),
        }
    }
}

/// Reads a JSON file of the fixtures.
pub fn json(file: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// One tensor of a fixture file; floats of any width are widened to f64, which is exact.
#[derive(Debug, Clone, PartialEq)]
pub struct Golden {
    /// Sizes of the axes; empty for a scalar.
    pub shape: Vec<usize>,
    /// The numbers, row-major.
    pub values: Values,
}

/// The numbers of a [`Golden`].
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Stored as f64, f32, f16 or bf16.
    Float(Vec<f64>),
    /// Stored as i64 or i8.
    Int(Vec<i64>),
    /// Stored as u32.
    Word(Vec<u32>),
}

impl Golden {
    /// The numbers of a float tensor.
    pub fn f64(&self) -> &[f64] {
        match &self.values {
            Values::Float(values) => values,
            Values::Int(_) | Values::Word(_) => {
                panic!("an integer tensor where floats are expected")
            }
        }
    }

    /// The numbers of a float tensor as f32; exact where they were stored as f32 or narrower.
    pub fn f32(&self) -> Vec<f32> {
        self.f64().iter().map(|&value| value as f32).collect()
    }

    /// The numbers of an i64 or i8 tensor.
    pub fn i64(&self) -> &[i64] {
        match &self.values {
            Values::Int(values) => values,
            Values::Float(_) | Values::Word(_) => panic!("no i64 tensor"),
        }
    }

    /// The numbers of a u32 tensor.
    pub fn u32(&self) -> &[u32] {
        match &self.values {
            Values::Word(values) => values,
            Values::Float(_) | Values::Int(_) => panic!("no u32 tensor"),
        }
    }
}

/// Tensors of a fixture file by name.
pub type Tensors = BTreeMap<String, Golden>;

/// Reads every tensor of a safetensors file, and the file's metadata.
pub fn tensors(file: &Path) -> (Tensors, BTreeMap<String, String>) {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let parsed =
        SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("the header was just parsed");
    let tensors = parsed
        .iter()
        .map(|(name, view)| {
            (
                name.to_string(),
                Golden { shape: view.shape().to_vec(), values: values(view.dtype(), view.data()) },
            )
        })
        .collect();
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    (tensors, metadata)
}

fn values(dtype: Dtype, bytes: &[u8]) -> Values {
    fn numbers<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|&chunk| read(chunk)).collect()
    }
    match dtype {
        Dtype::F64 => Values::Float(numbers(bytes, f64::from_le_bytes)),
        Dtype::F32 => Values::Float(numbers(bytes, |chunk| f32::from_le_bytes(chunk).into())),
        Dtype::F16 => Values::Float(numbers(bytes, |chunk| half::f16::from_le_bytes(chunk).into())),
        Dtype::BF16 => Values::Float(numbers(bytes, |chunk| half::bf16::from_le_bytes(chunk).into())),
        Dtype::I8 => Values::Int(numbers(bytes, |chunk| i8::from_le_bytes(chunk).into())),
        Dtype::I64 => Values::Int(numbers(bytes, i64::from_le_bytes)),
        Dtype::U32 => Values::Word(numbers(bytes, u32::from_le_bytes)),
        other => panic!("no reader for {other:?}"),
    }
}

/// Asserts that every number is within `tolerance` of its golden value; prints the largest difference.
pub fn assert_close(what: &str, found: &[f32], golden: &[f64], tolerance: f64) {
    assert_eq!(found.len(), golden.len(), "{what}: number of values");
    let difference = |(&found, &golden): (&f32, &f64)| (f64::from(found) - golden).abs();
    // A NaN must fail: `f64::max` would drop it.
    let largest =
        found.iter().zip(golden).map(difference).fold(0.0, |a, b| if b.is_nan() || b > a { b } else { a });
    assert!(largest <= tolerance, "{what}: off by {largest:e}, allowed {tolerance:e}");
}
