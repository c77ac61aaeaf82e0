//! The adapter folder: three files, and coefficients + 4 KiB at most.
//!
//! | file | holds |
//! |---|---|
//! | `adapter_config.json` | PEFT's key names where a key exists; `peft_type` `NOLA`, versions, seed, settings, identity of the base, hashes |
//! | `adapter_model.safetensors` | `alpha` `[sites, k]` and `beta` `[sites, l]`, one check word a site in `check`, and any other trained parameter under its path |
//! | `README.md` | the adapter card, for people |
//!
//! Coefficients are stored as `f32` (32 bits), `f16` (16), or as signed integers of 8, 4, 3 or 2 bits with one `bf16`
//! scale per vector in `alpha_scale` and `beta_scale` (`[sites]`), `f32` where they were trained in so many bits; other
//! parameters as `f32`. Where sites have different numbers of coefficients, the vectors stand one after the other in one row, and
//! their lengths in `NAME_counts`. Reading is strict: every tensor is
//! used, every site is found, settings, check words and hashes are those that were written, or one error lists all that
//! differs. A folder is there whole or not at all.
//! LoRA adapters are written as PEFT writes them; see [`peft`].

mod edited;
mod files;
mod native;
mod partial;
pub mod peft;

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub(crate) use files::read_at_most;
pub use files::{order_metadata, set_metadata, sha256_hex};
pub use native::{FORMAT_VERSION, Manifest, check_base};
pub use partial::{PartialFile, PartialFolder, check_free, create_folders, sync_folder, write_atomically};

use crate::Error;
use crate::adapted::{Adapted, BASE_GAIN, Reading, TrainedState, floats};
use crate::adapter::{AdapterConfig, BaseGain};
use crate::params::{float_params, read_params};
pub use crate::quantized::CoefficientBits;
use crate::row_adapters::SharedFactors;
use crate::targets::Targets;
use crate::weight::Quantization;

/// What identifies the base weights an adapter was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseIdentity {
    /// Name of the base model, for people.
    pub name: String,
    /// SHA-256 of the base's `config.json`, hexadecimal.
    pub config_sha256: String,
    /// SHA-256 over sampled bytes of every tensor, hexadecimal.
    pub weights_sha256: String,
    /// SHA-256 over all bytes of every tensor, hexadecimal; none of a base that was drawn, or in a folder written before
    /// there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensors_sha256: Option<String>,
    /// How its linear layers were quantised while it was loaded, if they were: nothing of its files, but the adapter learned
    /// over these weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
}

impl BaseIdentity {
    /// The identity of a model that is in memory: every name, shape and number of its float parameters counts. To be asked
    /// before adapters are attached.
    pub fn of<M: Module>(name: &str, model: &M) -> Self {
        let params = float_params(model);
        let shapes = params.iter().map(|param| format!("{} {:?}\n", param.path, param.shape));
        let config_sha256 = sha256_hex(shapes.collect::<String>().as_bytes());
        let mut hash = Sha256::new();
        for param in &params {
            // One at a time: a copy of the whole model may not fit beside it.
            let values = read_params(model, &[param.id]);
            values.into_values().for_each(|data| hash.update(data.as_bytes()));
        }
        let tensors: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            name: name.to_owned(),
            config_sha256,
            weights_sha256: tensors.clone(),
            tensors_sha256: Some(tensors),
            quantization: None,
        }
    }
}

/// What an adapter folder says beside the trainable parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// The base it was trained on.
    pub base: BaseIdentity,
    /// Names of the classes, in the order of the head's outputs; empty if the head is the base's own.
    pub labels: Vec<String>,
    /// A line about the result, for the card, such as the accuracy.
    pub summary: String,
    /// What the program that trained it has to know to write samples as they were written then, such as the format of the
    /// data; null if nothing. It is kept as it is.
    pub data: Value,
}

/// An adapter folder that was read and whose hashes fit, not yet attached to a model.
#[derive(Debug, Clone)]
pub struct SavedAdapter {
    /// What the folder says.
    pub manifest: Manifest,
    state: TrainedState,
    check_words: Vec<u32>,
    file: std::path::PathBuf,
}

/// Writes the adapter to `folder`, which must not hold anything yet, and returns the bytes of the whole folder.
///
/// # Errors
/// If the folder is not empty or cannot be written, or a coefficient is not finite.
pub fn write<M: Module>(
    folder: &Path,
    adapted: &Adapted<M>,
    description: &Description,
    bits: CoefficientBits,
) -> Result<u64, Error> {
    let (partial, bytes) = begin(folder, adapted, description, bits)?;
    partial.finish()?;
    Ok(bytes)
}

/// The same up to the moment in which the folder gets its name, so that what was written can be looked at before.
///
/// # Errors
/// As [`write()`].
pub fn begin<M: Module>(
    folder: &Path,
    adapted: &Adapted<M>,
    description: &Description,
    bits: CoefficientBits,
) -> Result<(PartialFolder, u64), Error> {
    native::begin(folder, adapted, description, bits)
}

/// The adapter as it comes back from a folder with so many bits per coefficient.
///
/// # Errors
/// If a coefficient is beyond what so many bits can hold.
pub fn as_stored<M: Module>(adapted: Adapted<M>, bits: CoefficientBits) -> Result<Adapted<M>, Error> {
    let mut state = adapted.state();
    for (name, data) in &mut state {
        let Some(vectors) = adapted.vectors(name) else { continue };
        let values = vectors.to_store(&floats(data.clone()), bits);
        let packed = bits.pack(&values, &vectors.counts, vectors.scale_type(bits));
        *data = TensorData::new(bits.unpack(&packed, &vectors.counts), data.shape());
    }
    let name = format!("coefficients in {} bits", u8::from(bits));
    adapted.with_state(state).map_err(|problems| Error::NotFinite { name, count: problems.len() })
}

/// Reads an adapter folder without a model: its hashes must fit.
///
/// # Errors
/// If a file is missing, damaged, or of another method or version.
pub fn read(folder: &Path) -> Result<SavedAdapter, Error> {
    native::read(folder)
}

/// What an adapter folder says of the data that it was trained on ([`Description::data`]), without reading its weights; null
/// if it says nothing.
///
/// # Errors
/// If its configuration is missing or damaged.
pub fn read_data(folder: &Path) -> Result<Value, Error> {
    if peft::is_peft(folder) { Ok(peft::read_data(folder)) } else { native::read_data(folder) }
}

impl SavedAdapter {
    /// Settings of the adapters; none for a linear probe.
    pub fn config(&self) -> Option<AdapterConfig> {
        self.manifest.config()
    }

    /// The choice of sites.
    pub fn targets(&self) -> Targets {
        self.manifest.targets()
    }

    /// Trainable parameters in the folder, by tensor name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Vec<usize>)> {
        self.state.iter().map(|(name, data)| (name.as_str(), data.shape().to_vec()))
    }

    /// What is the same for all adapters that have its frozen factors over one base; nothing if its factors are its own.
    pub fn factors_key(&self) -> Option<String> {
        let common = self.config()?.method().common_factors()?;
        let Manifest { sites_sha256, base_config_sha256, base_weights_sha256, .. } = &self.manifest;
        let (key, words) = (common.key, &self.check_words);
        let text =
            format!("{key}\n{sites_sha256}\n{base_config_sha256}\n{base_weights_sha256}\n{words:08x?}");
        Some(sha256_hex(text.as_bytes()))
    }

    /// Its numbers between the `factors` of an adapter with the same key, which was attached to the base; nothing if they do not
    /// fit.
    pub fn numbers_between(&self, factors: &SharedFactors) -> Option<Vec<f32>> {
        let common = self.config()?.method().common_factors()?;
        let values = |name: &str| Some(floats(self.state.get(name)?.clone()));
        let cores: Vec<f32> =
            values(common.cores)?.iter().map(|&value| (common.scale * f64::from(value)) as f32).collect();
        let gains = common.gains.map_or(Some(Vec::new()), values)?;
        let row = factors.row(&cores, &gains)?;
        row.iter().all(|value| value.is_finite()).then_some(row)
    }

    /// What is left of the base, if the adapter is of a kind that takes its place.
    pub fn base_gain(&self) -> Option<BaseGain> {
        let gain = floats(self.state.get(BASE_GAIN)?.clone());
        let [weight, bias] = gain[..] else { return None };
        Some(BaseGain { weight: f64::from(weight), bias: f64::from(bias) })
    }

    /// Attaches the adapter to a freshly loaded `model` and sets its trainable parameters.
    ///
    /// # Errors
    /// If the base is another one, or sites, check words or tensors differ: all differences in one error.
    pub fn attach<M: Module>(
        self,
        model: M,
        base: &BaseIdentity,
        device: &Device,
    ) -> Result<Adapted<M>, Error> {
        self.attach_observed(model, base, device, &|_| {})
    }

    /// The same; `reading` is called before each weight that the adapter is made of.
    ///
    /// # Errors
    /// As [`SavedAdapter::attach`].
    pub fn attach_observed<M: Module>(
        self,
        model: M,
        base: &BaseIdentity,
        device: &Device,
        reading: Reading,
    ) -> Result<Adapted<M>, Error> {
        native::attach(self, model, base, device, reading)
    }
}
