//! The adapter card: what a person who finds the folder wants to know.

use super::Manifest;
use crate::folder::Description;

/// The text of `README.md`; short, since it counts toward the folder's size.
pub(super) fn text(manifest: &Manifest, description: &Description) -> String {
    let method = match manifest.config() {
        Some(adapter) => format!("{}, on {} sites.", adapter.method().described(), manifest.sites),
        None => "A linear probe: only the head is trained.".to_owned(),
    };
    let mut labels = description.labels.join(", ");
    if labels.len() > 200 {
        labels = format!("{} classes, listed in adapter_config.json", description.labels.len());
    }
    format!(
        "---\nbase_model: {base}\nlibrary_name: nola\n---\n\n# Adapter for {base}\n\n{method}\n{summary}\n{labels}\n\n\
         The basis is regenerated from the seed by `{generator}`. `nola-train inspect FOLDER` shows the rest; `merge` \
         and `export` make dense weights or a LoRA for PEFT.\n",
        base = description.base.name,
        summary = description.summary,
        generator = crate::basis::GENERATOR,
    )
}
