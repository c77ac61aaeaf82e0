//! A state in a folder: JSON and safetensors, with a hash of each file.
//!
//! | name | holds |
//! |---|---|
//! | `state.json` | step, best score, counts of the optimizer, and what the run adds: recipe, hashes, evaluations |
//! | `trained.safetensors`, `best.safetensors` | trained values now and at the best evaluation, by path |
//! | `moments.safetensors` | what the optimizer remembers, by path and burn's name |
//! | `history.safetensors` | loss and learning rate of every step |
//! | `checkpoint.json` | version of the format, and SHA-256 of each of these files |

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{DType, TensorData};
use nola_core::TrainedState;
use nola_core::folder::{PartialFolder, sha256_hex};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::optimizer::{Moments, ParamMoments};
use super::{Best, BestEvaluation, Between, ResumeError, TrainingState};
use crate::exact;

/// Changes whenever a checkpoint could be read as another one.
const FORMAT: u32 = 1;
/// Names the other files with their hashes.
const MANIFEST: &str = "checkpoint.json";
const STATE: &str = "state.json";
const TRAINED: &str = "trained.safetensors";
const BEST: &str = "best.safetensors";
const MOMENTS: &str = "moments.safetensors";
const HISTORY: &str = "history.safetensors";
const FILES: [&str; 5] = [STATE, TRAINED, BEST, MOMENTS, HISTORY];
/// Between the path of a parameter and what the optimizer calls a tensor.
const OF: char = '/';

/// A state, and what a run adds to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Where training stands.
    pub state: TrainingState,
    /// What else the run has to know.
    pub run: Value,
    /// Numbers of every step.
    pub history: TrainedState,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    files: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct StoredState {
    step: usize,
    between: Between,
    best: Option<StoredBest>,
    evaluations_since_best: usize,
    #[serde(default)]
    skipped: usize,
    moments: BTreeMap<String, BTreeMap<String, Value>>,
    run: Value,
}

#[derive(Serialize, Deserialize)]
struct StoredBest {
    step: usize,
    #[serde(with = "exact")]
    score: f64,
    #[serde(with = "exact")]
    base_left: f64,
}

impl Checkpoint {
    /// Writes it as a folder that is there whole or not at all, and reads its bytes back.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), crate::Error> {
        let partial = PartialFolder::beside(folder)?;
        let mut files = BTreeMap::new();
        for name in FILES {
            let bytes = self.file(name);
            files.insert(name.to_owned(), sha256_hex(&bytes));
            partial.write(name, &bytes)?;
        }
        partial.write(MANIFEST, &json(&Manifest { format: FORMAT, files }))?;
        partial.finish()?;
        Self::check(folder)?;
        Ok(())
    }

    /// Checks that every file is as it was written.
    ///
    /// # Errors
    /// With the first that is not.
    pub fn check(folder: &Path) -> Result<(), ResumeError> {
        let manifest = manifest(folder)?;
        FILES.iter().try_for_each(|name| checked(folder, name, &manifest).map(drop))
    }

    /// Reads it, and checks every file.
    ///
    /// # Errors
    /// If a file is not as it was written, or was written by a version with another format.
    pub fn read(folder: &Path) -> Result<Self, ResumeError> {
        let manifest = manifest(folder)?;
        Self::of_files(folder, |name| checked(folder, name, &manifest))
    }

    /// Its files as one list of bytes, for another process.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let file = |name| {
            let bytes = self.file(name);
            [&(bytes.len() as u64).to_le_bytes()[..], &bytes].concat()
        };
        FILES.into_iter().flat_map(file).collect()
    }

    /// What [`Checkpoint::to_bytes`] made; `from` says where the bytes come from.
    ///
    /// # Errors
    /// If it is something else.
    pub(crate) fn from_bytes(mut bytes: &[u8], from: &Path) -> Result<Self, ResumeError> {
        let mut files = BTreeMap::new();
        for name in FILES {
            let cut = || damaged(from, name, "is cut off");
            let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut)?;
            let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| cut())?;
            let (file, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
            files.insert(name, file.to_vec());
            bytes = rest;
        }
        Self::of_files(from, |name| Ok(files[name].clone()))
    }

    /// The checkpoint out of its files; `folder` says where they are.
    fn of_files(
        folder: &Path,
        file: impl Fn(&'static str) -> Result<Vec<u8>, ResumeError>,
    ) -> Result<Self, ResumeError> {
        let tensors = |name| tensors(&file(name)?).ok_or_else(|| damaged(folder, name, "cannot be read"));
        let stored: StoredState = serde_json::from_slice(&file(STATE)?)
            .map_err(|error| damaged(folder, STATE, &error.to_string()))?;
        let trained_at_best = Arc::new(tensors(BEST)?);
        let found = stored.best.map(|StoredBest { step, score, base_left }| BestEvaluation {
            base_left,
            score,
            step,
            trained: trained_at_best,
        });
        let state = TrainingState {
            step: stored.step,
            between: stored.between,
            trained: tensors(TRAINED)?,
            moments: moments(stored.moments, tensors(MOMENTS)?),
            best: Best { found, since: stored.evaluations_since_best },
            skipped: stored.skipped,
        };
        Ok(Self { state, run: stored.run, history: tensors(HISTORY)? })
    }

    fn file(&self, name: &str) -> Vec<u8> {
        let state = &self.state;
        match name {
            TRAINED => bytes(state.trained.iter().map(|(name, data)| (name.clone(), data))),
            BEST => {
                let best = state.best.found.iter().flat_map(|best| best.trained.iter());
                bytes(best.map(|(name, data)| (name.clone(), data)))
            }
            MOMENTS => bytes(state.moments.iter().flat_map(|(path, moments)| {
                moments.tensors.iter().map(move |(name, data)| (format!("{path}{OF}{name}"), data))
            })),
            HISTORY => bytes(self.history.iter().map(|(name, data)| (name.clone(), data))),
            _ => json(&self.stored()),
        }
    }

    fn stored(&self) -> StoredState {
        let state = &self.state;
        let best = state.best.found.as_ref().map(|best| StoredBest {
            step: best.step,
            score: best.score,
            base_left: best.base_left,
        });
        StoredState {
            step: state.step,
            between: state.between,
            best,
            evaluations_since_best: state.best.since,
            skipped: state.skipped,
            moments: state.moments.iter().map(|(path, of)| (path.clone(), of.numbers.clone())).collect(),
            run: self.run.clone(),
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("numbers and text")
}

fn damaged(folder: &Path, file: &str, problem: &str) -> ResumeError {
    ResumeError::Damaged { checkpoint: folder.to_owned(), problem: format!("{file}: {problem}") }
}

fn manifest(folder: &Path) -> Result<Manifest, ResumeError> {
    let bytes =
        fs::read(folder.join(MANIFEST)).map_err(|error| damaged(folder, MANIFEST, &error.to_string()))?;
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|error| damaged(folder, MANIFEST, &error.to_string()))?;
    if manifest.format != FORMAT {
        let problem = format!(
            "it has format {}, and this version reads format {FORMAT}; resume with the version that wrote it",
            manifest.format
        );
        return Err(damaged(folder, MANIFEST, &problem));
    }
    Ok(manifest)
}

/// The bytes of a file, if they are those that were written.
fn checked(folder: &Path, name: &str, manifest: &Manifest) -> Result<Vec<u8>, ResumeError> {
    let bytes = fs::read(folder.join(name)).map_err(|error| damaged(folder, name, &error.to_string()))?;
    match manifest.files.get(name) {
        Some(hash) if *hash == sha256_hex(&bytes) => Ok(bytes),
        Some(_) | None => Err(damaged(folder, name, "its bytes are not those that were written")),
    }
}

/// A safetensors file.
fn bytes<'a>(tensors: impl Iterator<Item = (String, &'a TensorData)>) -> Vec<u8> {
    let views = tensors.map(|(name, data)| {
        let dtype = match data.dtype() {
            DType::F32 => Dtype::F32,
            DType::F64 => Dtype::F64,
            other => panic!("a state holds no {other:?}"),
        };
        let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes());
        (name, view.expect("as many bytes as numbers"))
    });
    safetensors::serialize(views, None).expect("a header of names and shapes")
}

fn tensors(bytes: &[u8]) -> Option<TrainedState> {
    let file = SafeTensors::deserialize(bytes).ok()?;
    let tensor = |(name, view): (String, TensorView)| {
        let (shape, data) = (view.shape().to_vec(), view.data());
        let data = match view.dtype() {
            Dtype::F32 => TensorData::new(numbers(data, f32::from_le_bytes), shape),
            Dtype::F64 => TensorData::new(numbers(data, f64::from_le_bytes), shape),
            _ => return None,
        };
        Some((name, data))
    };
    file.tensors().into_iter().map(tensor).collect()
}

fn numbers<T, const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|bytes| number(*bytes)).collect()
}

fn moments(numbers: BTreeMap<String, BTreeMap<String, Value>>, tensors: TrainedState) -> Moments {
    let of_param = |(path, numbers)| (path, ParamMoments { tensors: BTreeMap::new(), numbers });
    let mut moments: Moments = numbers.into_iter().map(of_param).collect();
    for (name, data) in tensors {
        let (path, leaf) = name.split_once(OF).unwrap_or((&name, ""));
        let of_param = moments.entry(path.to_owned()).or_default();
        of_param.tensors.insert(leaf.to_owned(), data);
    }
    moments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let data = |values: &[f32]| TensorData::new(values.to_vec(), [values.len()]);
        let trained = TrainedState::from([("head.weight".to_owned(), data(&[1.0, -2.5]))]);
        let of_param = ParamMoments {
            tensors: BTreeMap::from([("momentum.moment_1".to_owned(), data(&[0.1, 0.2]))]),
            numbers: BTreeMap::from([("momentum.time".to_owned(), serde_json::json!({"UInt": 7}))]),
        };
        let best = BestEvaluation {
            base_left: 0.1 + 0.2,
            score: -1.0 / 3.0,
            step: 4,
            trained: Arc::new(trained.clone()),
        };
        let state = TrainingState {
            step: 7,
            between: Between::Due,
            trained,
            moments: Moments::from([("model.head.weight".to_owned(), of_param)]),
            best: Best { found: Some(best), since: 2 },
            skipped: 3,
        };
        let history = TrainedState::from([("rate".to_owned(), TensorData::new(vec![1e-3_f64], [1]))]);
        Checkpoint { state, run: serde_json::json!({"recipe": "a = 1"}), history }
    }

    fn written() -> (tempfile::TempDir, std::path::PathBuf) {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let folder = scratch.path().join("step-7");
        checkpoint().write(&folder).expect("a free disk");
        (scratch, folder)
    }

    #[test]
    fn a_checkpoint_comes_back_as_it_was() {
        let (_scratch, folder) = written();
        assert_eq!(Checkpoint::read(&folder).expect("it is whole"), checkpoint());
    }

    #[test]
    fn a_checkpoint_comes_back_from_its_bytes_and_from_no_part_of_them() {
        let (bytes, from) = (checkpoint().to_bytes(), Path::new("rank 0"));
        assert_eq!(Checkpoint::from_bytes(&bytes, from).expect("all of them"), checkpoint());
        for length in [0, 7, 8, bytes.len() / 2, bytes.len() - 1] {
            assert!(Checkpoint::from_bytes(&bytes[..length], from).is_err(), "{length}");
        }
    }

    #[test]
    fn a_state_without_an_evaluation_comes_back_too() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let mut early = checkpoint();
        early.state.best = Best::default();
        early.state.moments = Moments::new();
        early.write(&scratch.path().join("a")).expect("a free disk");
        assert_eq!(Checkpoint::read(&scratch.path().join("a")).expect("it is whole"), early);
    }

    #[test]
    fn a_file_that_is_cut_changed_or_gone_is_found() {
        for name in FILES.into_iter().chain([MANIFEST]) {
            let (_scratch, folder) = written();
            let whole = fs::read(folder.join(name)).expect("a file");
            let mut changed = whole.clone();
            let last = changed.len() - 1;
            changed[last] ^= 1;
            for bytes in [&whole[..whole.len() / 2], &changed, &[]] {
                fs::write(folder.join(name), bytes).expect("a file");
                let error = Checkpoint::read(&folder).expect_err("it is damaged").to_string();
                assert!(error.contains("step-7") && error.contains(name), "{error}");
            }
            fs::remove_file(folder.join(name)).expect("a file");
            assert!(Checkpoint::read(&folder).is_err() && Checkpoint::check(&folder).is_err());
        }
    }
}
