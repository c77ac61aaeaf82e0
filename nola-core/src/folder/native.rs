//! The native format: coefficients, check words and hashes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use half::bf16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::quantized::Packed;
use super::{BaseIdentity, CoefficientBits, Description, SavedAdapter, card, files};
use crate::Error;
use crate::adapted::{Adapted, TrainedState, floats};
use crate::adapter::{AdapterConfig, Factor, LoraConfig, NolaConfig, Plan, Preset, Sharing};
use crate::basis::{GENERATOR, Law};
use crate::philox::fnv1a_32;
use crate::targets::{Pattern, Site, Targets};

/// Version of the folder's layout.
pub const FORMAT_VERSION: u32 = 1;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const CARD: &str = "README.md";
/// A configuration larger than this is not ours; 1,000 class names fit many times.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// `adapter_config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `NOLA`, or `LINEAR_PROBE` for a trained head alone.
    pub peft_type: String,
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// See [`GENERATOR`].
    pub generator: String,
    /// Name of the base.
    pub base_model_name_or_path: String,
    /// SHA-256 of the base's `config.json`.
    pub base_config_sha256: String,
    /// SHA-256 over sampled bytes of the base's tensors.
    pub base_weights_sha256: String,
    /// Settings of NOLA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nola: Option<NolaKeys>,
    /// Chosen layers.
    pub target_modules: Pattern,
    /// Layers left out of them.
    pub exclude_modules: Pattern,
    /// Blocks to adapt; empty for all.
    pub layers_to_transform: Vec<usize>,
    /// Number of sites.
    pub sites: usize,
    /// SHA-256 of the ordered list of sites and their shapes.
    pub sites_sha256: String,
    /// Bits per stored coefficient.
    pub coefficient_bits: CoefficientBits,
    /// Parameters that were trained beside the adapters.
    pub modules_to_save: Vec<String>,
    /// Names of the classes, if the head is new.
    pub labels: Vec<String>,
    /// SHA-256 of `adapter_model.safetensors`.
    pub model_sha256: String,
}

/// NOLA's settings under PEFT's names where there are any.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NolaKeys {
    /// Width of the bottleneck.
    pub r: usize,
    /// Coefficients of A per site.
    pub k: usize,
    /// Coefficients of B per site.
    pub l: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Published setting.
    pub preset: Preset,
    /// Distribution of the entries.
    pub basis: Law,
    /// Whether sites of one shape mix the same matrices.
    pub sharing: Sharing,
    /// In decimal digits: JSON readers round large numbers.
    pub seed: String,
}

impl Manifest {
    pub(super) fn config(&self) -> Option<AdapterConfig> {
        let keys = self.nola.as_ref()?;
        Some(AdapterConfig::Nola(NolaConfig {
            rank: keys.r,
            k: keys.k,
            l: keys.l,
            alpha: keys.lora_alpha,
            preset: keys.preset,
            basis: keys.basis,
            sharing: keys.sharing,
            seed: keys.seed.parse().ok()?,
        }))
    }

    /// The base it was trained on.
    pub fn base(&self) -> BaseIdentity {
        BaseIdentity {
            name: self.base_model_name_or_path.clone(),
            config_sha256: self.base_config_sha256.clone(),
            weights_sha256: self.base_weights_sha256.clone(),
        }
    }

    pub(super) fn targets(&self) -> Targets {
        Targets {
            modules: self.target_modules.clone(),
            exclude: self.exclude_modules.clone(),
            layers: self.layers_to_transform.clone(),
        }
    }
}

/// One tensor on its way to the file.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

pub(super) fn write<M: Module>(
    folder: &Path,
    adapted: &Adapted<M>,
    description: &Description,
    bits: CoefficientBits,
) -> Result<u64, Error> {
    if adapted.config().is_some_and(|config| config.kind() != "nola")
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
    for (name, data) in &state {
        let count = floats(data.clone()).iter().filter(|value| !value.is_finite()).count();
        if count > 0 {
            return Err(Error::NotFinite { name: name.clone(), count });
        }
    }
    files::new_folder(folder)?;
    let weights = serialized(folder, &stored_tensors(adapted, &state, bits))?;
    let manifest = manifest(adapted, &state, description, bits, &weights);
    // Not indented: in a folder of a few kilobytes the blanks would be a tenth. `inspect` shows it readably.
    let config = serde_json::to_vec(&manifest).map_err(|error| invalid(folder, error))?;
    let card = card::text(&manifest, description);
    let mut bytes = 0;
    for (name, content) in [(WEIGHTS, &weights[..]), (CARD, card.as_bytes()), (CONFIG, &config)] {
        files::write_atomically(&folder.join(name), content)?;
        bytes += content.len() as u64;
    }
    Ok(bytes)
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

pub(super) fn attach<M: Module>(
    saved: SavedAdapter,
    model: M,
    base: &BaseIdentity,
    device: &Device,
) -> Result<Adapted<M>, Error> {
    check_base(&saved.file, &saved.manifest.base(), base)?;
    let others: Vec<&str> = saved.manifest.modules_to_save.iter().map(String::as_str).collect();
    let adapted = match saved.config() {
        Some(config) => Adapted::attach(model, &config, &saved.targets(), &others, device)?,
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
        problems.extend(check_word_problems(&adapted, &saved.check_words));
    }
    let invalid = |problems| Error::Invalid { file: saved.file.clone(), problems };
    if !problems.is_empty() {
        return Err(invalid(problems));
    }
    adapted.with_state(saved.state.clone()).map_err(invalid)
}

/// Whether an adapter that was made for the base `expected` may hang on `found`.
///
/// # Errors
/// [`Error::WrongBase`], naming `file`, if a hash differs.
pub fn check_base(file: &Path, expected: &BaseIdentity, found: &BaseIdentity) -> Result<(), Error> {
    let difference = if expected.config_sha256 != found.config_sha256 {
        "the hash of config.json"
    } else if expected.weights_sha256 != found.weights_sha256 {
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

fn check_word_problems<M: Module>(adapted: &Adapted<M>, stored: &[u32]) -> Vec<String> {
    let problem = |((site, plan), stored): ((&Site, &Plan), &u32)| {
        let word = check_word(plan);
        let differs = word != *stored;
        differs.then(|| {
            format!(
                "site `{}`: check word {stored:08x}, but the basis regenerated here has {word:08x}",
                site.path
            )
        })
    };
    adapted.sites().iter().zip(adapted.plans()).zip(stored).filter_map(problem).collect()
}

/// One word that changes when the basis of a site does.
fn check_word(plan: &Plan) -> u32 {
    let text = |factor: &Factor| match factor {
        Factor::Mixed(mixed) => mixed.basis.check_text(),
        Factor::Learned(values) => values.len().to_string(),
    };
    fnv1a_32(&format!("{}/{}", text(&plan.a), text(&plan.b)))
}

fn sites_sha256(sites: &[Site]) -> String {
    let lines = sites.iter().map(|site| format!("{} {} {}\n", site.path, site.d_in, site.d_out));
    files::sha256_hex(lines.collect::<String>().as_bytes())
}

fn manifest<M: Module>(
    adapted: &Adapted<M>,
    state: &TrainedState,
    description: &Description,
    bits: CoefficientBits,
    weights: &[u8],
) -> Manifest {
    let nola = match adapted.config() {
        Some(AdapterConfig::Nola(nola)) => Some(NolaKeys {
            r: nola.rank,
            k: nola.k,
            l: nola.l,
            lora_alpha: nola.alpha,
            preset: nola.preset,
            basis: nola.basis,
            sharing: nola.sharing,
            seed: nola.seed.to_string(),
        }),
        Some(AdapterConfig::Lora(LoraConfig { .. })) | None => None,
    };
    let targets = adapted.targets();
    Manifest {
        peft_type: if nola.is_some() { "NOLA" } else { "LINEAR_PROBE" }.to_owned(),
        format_version: FORMAT_VERSION,
        generator: GENERATOR.to_owned(),
        base_model_name_or_path: description.base.name.clone(),
        base_config_sha256: description.base.config_sha256.clone(),
        base_weights_sha256: description.base.weights_sha256.clone(),
        nola,
        target_modules: targets.modules.clone(),
        exclude_modules: targets.exclude.clone(),
        layers_to_transform: targets.layers.clone(),
        sites: adapted.sites().len(),
        sites_sha256: sites_sha256(adapted.sites()),
        coefficient_bits: bits,
        modules_to_save: (state.keys()).filter(|name| !is_coefficients(name)).cloned().collect(),
        labels: description.labels.clone(),
        model_sha256: files::sha256_hex(weights),
    }
}

fn is_coefficients(name: &str) -> bool {
    ["alpha", "beta"].contains(&name)
}

fn stored_tensors<M: Module>(
    adapted: &Adapted<M>,
    state: &TrainedState,
    bits: CoefficientBits,
) -> BTreeMap<String, Stored> {
    let le_bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut tensors = BTreeMap::new();
    for (name, data) in state {
        let (shape, values) = (data.shape().to_vec(), floats(data.clone()));
        if !is_coefficients(name) {
            tensors.insert(name.clone(), Stored { dtype: Dtype::F32, shape, bytes: le_bytes(&values) });
            continue;
        }
        let Packed { bytes, scales } = bits.pack(&values, shape[1]);
        let (dtype, cols) = stored_form(bits, shape[1]);
        tensors.insert(name.clone(), Stored { dtype, shape: vec![shape[0], cols], bytes });
        if !scales.is_empty() {
            let bytes = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
            let scale = Stored { dtype: Dtype::BF16, shape: vec![shape[0]], bytes };
            tensors.insert(format!("{name}_scale"), scale);
        }
    }
    if !adapted.sites().is_empty() {
        let words: Vec<u32> = adapted.plans().iter().map(check_word).collect();
        let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let check = Stored { dtype: Dtype::U32, shape: vec![words.len()], bytes };
        tensors.insert("check".to_owned(), check);
    }
    tensors
}

/// Type and columns of a stored coefficient tensor.
fn stored_form(bits: CoefficientBits, count: usize) -> (Dtype, usize) {
    match bits {
        CoefficientBits::B32 => (Dtype::F32, count),
        CoefficientBits::B16 => (Dtype::F16, count),
        CoefficientBits::B8 => (Dtype::I8, count),
        CoefficientBits::B4 => (Dtype::U8, bits.row_bytes(count)),
    }
}

fn serialized(folder: &Path, tensors: &BTreeMap<String, Stored>) -> Result<Vec<u8>, Error> {
    let views: Result<Vec<_>, _> = (tensors.iter())
        .map(|(name, t)| Ok((name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes)?)))
        .collect();
    views
        .and_then(|views| safetensors::serialize(views, None))
        .map_err(|error: safetensors::SafeTensorError| invalid(&folder.join(WEIGHTS), error))
}

fn read_manifest(file: &Path) -> Result<Manifest, Error> {
    let io = |source| Error::Io { file: file.to_owned(), action: "read", source };
    if std::fs::metadata(file).map_err(io)?.len() > MAX_CONFIG_BYTES {
        let problem = format!("larger than {MAX_CONFIG_BYTES} bytes, which no adapter configuration is");
        return Err(Error::Invalid { file: file.to_owned(), problems: vec![problem] });
    }
    let value: serde_json::Value =
        serde_json::from_slice(&files::read(file)?).map_err(|error| invalid(file, error))?;
    let text = |key: &str| value.get(key).map_or("absent".to_owned(), |v| v.to_string().replace('"', ""));
    let unsupported = |field, supported| {
        Err(Error::Unsupported { file: file.to_owned(), field, found: text(field), supported })
    };
    match text("peft_type").as_str() {
        "NOLA" | "LINEAR_PROBE" => {}
        "LORA" => return unsupported("peft_type", "LORA through the PEFT reader; use `folder::peft::read`"),
        _ => {
            return unsupported(
                "peft_type",
                "NOLA, LINEAR_PROBE and LORA; PEFT can merge others into their base (`merge_and_unload`)",
            );
        }
    }
    if text("format_version") != FORMAT_VERSION.to_string() {
        return unsupported("format_version", "version 1; update nola-train for newer ones");
    }
    if text("generator") != GENERATOR {
        return unsupported("generator", GENERATOR);
    }
    let manifest: Manifest = serde_json::from_value(value).map_err(|error| invalid(file, error))?;
    let seed_is_wrong = manifest.nola.as_ref().is_some_and(|nola| nola.seed.parse::<u64>().is_err());
    if seed_is_wrong || (manifest.peft_type == "NOLA") != manifest.nola.is_some() {
        let problem = "`nola` must hold the settings, `seed` among them in decimal digits".to_owned();
        return Err(Error::Invalid { file: file.to_owned(), problems: vec![problem] });
    }
    if let Some(AdapterConfig::Nola(nola)) = manifest.config() {
        nola.check().map_err(|error| invalid(file, error))?;
    }
    Ok(manifest)
}

/// The trained state and the check words, with shapes checked against the manifest.
fn read_tensors(tensors: &SafeTensors, manifest: &Manifest) -> Result<(TrainedState, Vec<u32>), Vec<String>> {
    let mut reader = Reader { tensors, used: Vec::new(), problems: Vec::new() };
    let mut state = TrainedState::new();
    let sites = manifest.sites;
    if let Some(nola) = &manifest.nola {
        for (name, count) in [("alpha", nola.k), ("beta", nola.l)] {
            if let Some(values) = reader.coefficients(name, sites, count, manifest.coefficient_bits) {
                state.insert(name.to_owned(), TensorData::new(values, [sites, count]));
            }
        }
    }
    for name in &manifest.modules_to_save {
        if let Some((shape, bytes)) = reader.take(name, Dtype::F32, None) {
            state.insert(name.clone(), TensorData::new(f32s(&bytes), shape));
        }
    }
    let mut words = Vec::new();
    if manifest.nola.is_some()
        && let Some((_, bytes)) = reader.take("check", Dtype::U32, Some(&[sites]))
    {
        words = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    }
    let surplus = tensors.names().into_iter().filter(|name| !reader.used.contains(&(*name).to_owned()));
    let surplus: Vec<String> = surplus.map(|name| format!("`{name}` is not expected")).collect();
    reader.problems.extend(surplus);
    if reader.problems.is_empty() { Ok((state, words)) } else { Err(reader.problems) }
}

struct Reader<'a> {
    tensors: &'a SafeTensors<'a>,
    used: Vec<String>,
    problems: Vec<String>,
}

impl Reader<'_> {
    /// Shape and bytes of a tensor, or a problem.
    fn take(&mut self, name: &str, dtype: Dtype, shape: Option<&[usize]>) -> Option<(Vec<usize>, Vec<u8>)> {
        self.used.push(name.to_owned());
        let Ok(view) = self.tensors.tensor(name) else {
            self.problems.push(format!("`{name}` is missing"));
            return None;
        };
        if view.dtype() != dtype || shape.is_some_and(|shape| shape != view.shape()) {
            let expected = shape.map_or(String::new(), |shape| format!(" {shape:?}"));
            self.problems.push(format!(
                "`{name}` is {:?} {:?}, expected {dtype:?}{expected}",
                view.dtype(),
                view.shape()
            ));
            return None;
        }
        Some((view.shape().to_vec(), view.data().to_vec()))
    }

    fn coefficients(
        &mut self,
        name: &str,
        sites: usize,
        count: usize,
        bits: CoefficientBits,
    ) -> Option<Vec<f32>> {
        let (dtype, cols) = stored_form(bits, count);
        let bytes = self.take(name, dtype, Some(&[sites, cols]));
        let scales = match bits {
            CoefficientBits::B32 | CoefficientBits::B16 => Vec::new(),
            CoefficientBits::B8 | CoefficientBits::B4 => {
                let scales = self.take(&format!("{name}_scale"), Dtype::BF16, Some(&[sites]));
                let bytes = scales.map_or(Vec::new(), |(_, bytes)| bytes);
                bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b)).collect()
            }
        };
        let (_, bytes) = bytes?;
        Some(bits.unpack(&Packed { bytes, scales }, count))
    }
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn invalid(file: &Path, error: impl std::fmt::Display) -> Error {
    Error::Invalid { file: PathBuf::from(file), problems: vec![error.to_string()] }
}
