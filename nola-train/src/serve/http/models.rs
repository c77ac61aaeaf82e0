//! `/v1/models`: what can be asked.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::errors::ApiError;
use super::name::Name;
use super::{App, Service};
use crate::serve::Entry;

/// Lists the base and all adapters; damaged ones with their problem.
pub(super) async fn list(State(app): State<App>) -> Json<Value> {
    let adapters = app.registry.list();
    let adapters = adapters.iter().map(|(name, entry)| app.adapter_json(name, entry));
    let data: Vec<Value> = std::iter::once(app.base_json()).chain(adapters).collect();
    Json(json!({"object": "list", "data": data}))
}

/// One of them.
pub(super) async fn one(State(app): State<App>, Name(name): Name) -> Result<Json<Value>, ApiError> {
    if name == app.registry.base_name() {
        return Ok(Json(app.base_json()));
    }
    Ok(Json(app.adapter_json(&name, &app.entry(&name).await?)))
}

impl App {
    fn base_json(&self) -> Value {
        let mut base = self.model_json(self.registry.base_name());
        base["root"] = self.base_root.clone().into();
        base
    }

    /// An adapter as it is listed.
    pub(super) fn adapter_json(&self, name: &str, entry: &Entry) -> Value {
        let mut told = self.model_json(name);
        told["root"] = entry.folder.to_string_lossy().into();
        told["parent"] = self.registry.base_name().into();
        match &entry.adapter {
            Ok(adapter) => {
                told["generation"] = adapter.generation.into();
                told["method"] = adapter.content.method().into();
                told["parameters"] = adapter.content.numbers().into();
                told["bytes"] = adapter.bytes().into();
            }
            Err(problem) => told["problem"] = problem.as_str().into(),
        }
        told
    }

    /// What is said of every model.
    ///
    /// # Source
    /// `ModelCard` of vLLM.
    fn model_json(&self, name: &str) -> Value {
        let (modality, context) = match &self.service {
            Service::Text(text) => ("text", Some(text.encoder.info.max_tokens)),
            Service::Images(_) => ("images", None),
        };
        json!({
            "id": name, "object": "model", "created": self.started_at, "owned_by": "nola", "root": null, "parent": null,
            "max_model_len": context, "modality": modality,
        })
    }
}
