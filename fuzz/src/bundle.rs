//! Bundles of adapters.

use std::path::Path;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Device;
use nola_core::bundle::{Bundle, Manifest};

use super::input::{accepted, in_folder, parts};

const MANIFEST: &str = "bundle.json";

/// What members are attached to.
#[derive(Module, Debug)]
struct Base {
    query: Linear,
    head: Linear,
}

impl Base {
    fn new(device: &Device) -> Self {
        Self { query: LinearConfig::new(4, 4).init(device), head: LinearConfig::new(4, 3).init(device) }
    }
}

/// A manifest, then tensors.
pub fn read(bytes: &[u8]) {
    let [manifest, tensors] = parts(bytes);
    in_folder(&[(MANIFEST, manifest)], |folder| drop(accepted(Bundle::read(folder), bytes)));
    let tensors = tensors.unwrap_or_default();
    let Some(sealed) = manifest.and_then(|manifest| sealed(manifest, tensors)) else { return };
    let text = serde_json::to_vec(&sealed).expect("it was read");
    let files = [(MANIFEST, Some(text.as_slice())), (sealed.tensors.as_str(), Some(tensors))];
    in_folder(&files, |folder| read_sealed(folder, bytes));
}

/// The manifest with the hashes that make it valid, if it is one.
fn sealed(manifest: &[u8], tensors: &[u8]) -> Option<Manifest> {
    Some(serde_json::from_slice::<Manifest>(manifest).ok()?.with_tensors(tensors))
}

fn read_sealed(folder: &Path, bytes: &[u8]) {
    let Some(bundle) = accepted(Bundle::read(folder), bytes) else { return };
    let members = bundle.manifest().members.len();
    let own: usize = (0..members).map(|member| bundle.own_numbers(member)).sum();
    assert!(4 * (own + bundle.shared_numbers()) <= bytes.len(), "more numbers than bytes");
    let device = Device::flex();
    let base = bundle.manifest().base.clone();
    for member in 0..members {
        let file = folder.join(MANIFEST);
        accepted(bundle.attach(member, Base::new(&device), &file, &base, &device), bytes);
    }
}
