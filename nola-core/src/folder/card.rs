//! The adapter card: what a person who finds the folder wants to know.

use super::Description;
use super::native::Manifest;
use crate::adapter::AdapterConfig;

/// The text of `README.md`; under 1 KiB, since it counts toward the folder's size.
pub(super) fn text(manifest: &Manifest, description: &Description) -> String {
    let method = match manifest.config() {
        Some(AdapterConfig::Nola(nola)) => format!(
            "NOLA (Koohpayegani et al., ICLR 2024): rank {}, k {}, l {}, preset {:?}, seed {}, on {} sites.",
            nola.rank, nola.k, nola.l, nola.preset, nola.seed, manifest.sites
        ),
        Some(AdapterConfig::Lora(lora)) => format!("LoRA, rank {}, on {} sites.", lora.rank, manifest.sites),
        None => "A linear probe: only the head is trained.".to_owned(),
    };
    let mut labels = description.labels.join(", ");
    if labels.len() > 200 {
        labels = format!("{} classes, listed in adapter_config.json", description.labels.len());
    }
    format!(
        "---\nbase_model: {base}\nlibrary_name: nola\ntags: [nola, adapter]\n---\n\n\
         # Adapter for {base}\n\n{method}\n{summary}\n{labels}\n\n\
         The random basis is regenerated from the seed by `{generator}`; only the trained numbers are stored. \
         Read it with `nola-train inspect FOLDER`, use it with `nola-train evaluate` or `predict`, \
         bake it into dense weights with `nola-train merge`, \
         or turn it into a LoRA that PEFT loads with `nola-train export`.\n",
        base = description.base.name,
        summary = description.summary,
        generator = crate::basis::GENERATOR,
    )
}
