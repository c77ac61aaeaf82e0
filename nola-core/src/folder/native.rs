//! The native format: coefficients, check words and hashes.

mod card;
mod check_word;
mod leaves;
mod manifest;
mod settings;
mod tensors;

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use safetensors::SafeTensors;
use serde_json::Value;

use check_word::{check_word, problems_of_check_words};
pub use manifest::{FORMAT_VERSION, Manifest};
use manifest::{read_manifest, written_manifest};
use tensors::{by_site, check_finite, read_tensors, serialized, stored_tensors};

use super::{BaseIdentity, CoefficientBits, Description, PartialFolder, SavedAdapter, files};
use crate::Error;
use crate::adapted::{Adapted, Reading};
use crate::adapter::Format;
use crate::plain_words::plain_words;
use crate::site::Site;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const CARD: &str = "README.md";

pub(super) fn begin<M: Module>(
    folder: &Path,
    adapted: &Adapted<M>,
    description: &Description,
    bits: CoefficientBits,
) -> Result<(PartialFolder, u64), Error> {
    if adapted.config().is_some_and(|config| config.method().format() == Format::Peft)
        || adapted.config().is_none() && !adapted.sites().is_empty()
    {
        return Err(Error::Unsupported {
            file: folder.join(CONFIG),
            field: "peft_type",
            found: "LORA".to_owned(),
            supported: "NOLA and linear probes; `folder::peft::write` writes LoRA",
        });
    }
    let state = adapted.state();
    check_finite(&state)?;
    adapted.check_factors()?;
    let partial = PartialFolder::beside(folder)?;
    let weights = serialized(folder, &stored_tensors(adapted, &state, bits))?;
    let manifest = written_manifest(adapted, &state, description, bits, &weights);
    // Not indented: in a folder of a few kilobytes the blanks would be a tenth. `inspect` shows it readably.
    let config = serde_json::to_vec(&manifest.to_json()).map_err(|error| invalid(folder, error))?;
    let card = card::text(&manifest, description);
    let mut bytes = 0;
    for (name, content) in [(WEIGHTS, &weights[..]), (CARD, card.as_bytes()), (CONFIG, &config)] {
        partial.write(name, content)?;
        bytes += content.len() as u64;
    }
    Ok((partial, bytes))
}

pub(super) fn read(folder: &Path) -> Result<SavedAdapter, Error> {
    let (config_file, weights_file) = (folder.join(CONFIG), folder.join(WEIGHTS));
    let manifest = read_manifest(&config_file)?;
    let bytes = files::read_weights(&weights_file)?;
    let sha256 = files::sha256_hex(&bytes);
    if sha256 != manifest.model_sha256 {
        let problem = format!(
            "SHA-256 is {sha256}, but {CONFIG} says {}: the file is damaged or belongs to another adapter",
            manifest.model_sha256
        );
        return Err(Error::Invalid { file: weights_file, problems: vec![problem] });
    }
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| invalid(&weights_file, error))?;
    let (state, check_words) = read_tensors(&tensors, &manifest)
        .map_err(|problems| Error::Invalid { file: weights_file, problems })?;
    Ok(SavedAdapter { manifest, state, check_words, file: config_file })
}

pub(super) fn read_data(folder: &Path) -> Result<Value, Error> {
    Ok(read_manifest(&folder.join(CONFIG))?.data)
}

pub(super) fn attach<M: Module>(
    saved: SavedAdapter,
    model: M,
    base: &BaseIdentity,
    device: &Device,
    reading: Reading,
) -> Result<Adapted<M>, Error> {
    check_base(&saved.file, &saved.manifest.base(), base)?;
    let others: Vec<&str> = saved.manifest.modules_to_save.iter().map(String::as_str).collect();
    let adapted = match saved.config() {
        Some(config) => Adapted::attach_observed(model, &config, &saved.targets(), &others, device, reading)?,
        None => Adapted::probe(model, &others, device)?,
    };
    let mut problems = Vec::new();
    if adapted.sites().len() != saved.manifest.sites
        || sites_sha256(adapted.sites()) != saved.manifest.sites_sha256
    {
        problems.push(format!(
            "made for {} sites, but the model has {} that match {}, or their shapes differ",
            saved.manifest.sites,
            adapted.sites().len(),
            saved.targets()
        ));
    } else {
        problems.extend(problems_of_check_words(&adapted, &saved.check_words));
    }
    let invalid = |problems| Error::Invalid { file: saved.file.clone(), problems };
    if !problems.is_empty() {
        return Err(invalid(problems));
    }
    let file = saved.file.with_file_name(WEIGHTS);
    let invalid = |problems| Error::Invalid { file: file.clone(), problems };
    let state = by_site(saved.state.clone(), &adapted.state()).map_err(invalid)?;
    adapted.with_state(state).map_err(invalid)
}

/// Whether an adapter that was made for the base `expected` may be attached to `found`.
///
/// # Errors
/// [`Error::WrongBase`], naming `file`, if a hash differs.
pub fn check_base(file: &Path, expected: &BaseIdentity, found: &BaseIdentity) -> Result<(), Error> {
    let difference = if expected.config_sha256 != found.config_sha256 {
        "the hash of config.json"
    } else if expected.weights_sha256 != found.weights_sha256
        || (expected.tensors_sha256.is_some() && expected.tensors_sha256 != found.tensors_sha256)
    {
        "the hash of the weights"
    } else {
        return Ok(());
    };
    Err(Error::WrongBase {
        file: file.to_owned(),
        expected: expected.name.clone(),
        found: found.name.clone(),
        difference,
    })
}

fn sites_sha256(sites: &[Site]) -> String {
    let lines = sites.iter().map(|site| format!("{} {} {}\n", site.path, site.d_in, site.d_out));
    files::sha256_hex(lines.collect::<String>().as_bytes())
}

fn invalid(file: &Path, error: impl std::fmt::Display) -> Error {
    Error::Invalid { file: PathBuf::from(file), problems: vec![plain_words(&error.to_string())] }
}
