//! `/v1/models`: what can be asked.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::errors::ApiError;
use super::name::Name;
use super::{App, Service};
use crate::serve::{Entry, Missing, Served, ServedAdapter};

/// Lists the base and all adapters, those of bundles too; damaged ones with their problem.
pub(super) async fn list(State(app): State<App>) -> Json<Value> {
    let adapters = app.registry.list();
    let adapters = adapters.iter().flat_map(|(name, entry)| app.listed(name, entry));
    let data: Vec<Value> = std::iter::once(app.base_json()).chain(adapters).collect();
    Json(json!({"object": "list", "data": data}))
}

/// One of them.
pub(super) async fn one(State(app): State<App>, Name(name): Name) -> Result<Json<Value>, ApiError> {
    if name == app.registry.base_name() {
        return Ok(Json(app.base_json()));
    }
    let entry = app.entry(&name).await?;
    match app.registry.get(&name) {
        Err(missing @ Missing::Bundle(_)) => Err(ApiError::no_model(&name, &missing)),
        Ok(_) | Err(Missing::Unknown | Missing::Damaged(_)) => Ok(Json(app.entry_json(&name, &entry).0)),
    }
}

impl App {
    fn base_json(&self) -> Value {
        let mut base = self.model_json(self.registry.base_name());
        base["root"] = self.base_root.clone().into();
        base
    }

    /// The models of a folder.
    fn listed(&self, name: &str, entry: &Entry) -> Vec<Value> {
        match &entry.served {
            Ok(served) => {
                served.adapters().into_iter().map(|adapter| self.adapter_json(adapter, entry)).collect()
            }
            Err(problem) => vec![self.problem_json(name, entry, problem)],
        }
    }

    /// What is known under a name, of a folder or of a member behind it, and its generation.
    pub(super) fn entry_json(&self, name: &str, entry: &Entry) -> (Value, Option<u64>) {
        match &entry.served {
            Err(problem) => (self.problem_json(name, entry, problem), None),
            Ok(served) => match served.adapters().into_iter().find(|adapter| adapter.name == name) {
                Some(adapter) => (self.adapter_json(adapter, entry), Some(adapter.generation)),
                None => (self.bundle_json(name, entry, served), Some(served.generation())),
            },
        }
    }

    fn adapter_json(&self, adapter: &ServedAdapter, entry: &Entry) -> Value {
        let mut description = self.of_base(&adapter.name, entry);
        description["generation"] = adapter.generation.into();
        description["method"] = adapter.content.method().into();
        description["parameters"] = adapter.content.numbers().into();
        description["bytes"] = adapter.bytes().into();
        if let Some((_, member)) = adapter.content.membership() {
            description["bundle"] = adapter.name.split('/').next().into();
            description["lost"] = member.lost.into();
        }
        description
    }

    fn bundle_json(&self, name: &str, entry: &Entry, served: &Served) -> Value {
        let mut description = self.of_base(name, entry);
        let members = served.adapters();
        let bundle = members.first().and_then(|adapter| Some(adapter.content.membership()?.0));
        description["object"] = "bundle".into();
        description["generation"] = served.generation().into();
        description["bytes"] = bundle.map(|bundle| bundle.bundle().shared_numbers() * 4).into();
        description["members"] = members.iter().map(|adapter| adapter.name.clone()).collect();
        description
    }

    fn problem_json(&self, name: &str, entry: &Entry, problem: &str) -> Value {
        let mut description = self.of_base(name, entry);
        description["problem"] = problem.into();
        description
    }

    /// What the descriptions of all that lies in a folder have in common.
    fn of_base(&self, name: &str, entry: &Entry) -> Value {
        let mut description = self.model_json(name);
        description["root"] = entry.folder.to_string_lossy().into();
        description["parent"] = self.registry.base_name().into();
        description
    }

    /// The description of every model.
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
