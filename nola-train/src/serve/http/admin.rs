//! Adapters are loaded, replaced and unloaded; only with the key for that.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::errors::ApiError;
use super::fields::Fields;
use super::name::Name;
use super::{App, blocking};
use crate::serve::{ChangeError, Entry, Expected, Missing};

/// Bytes of a request here.
const MOST_BYTES: usize = 64 << 10;

/// `/v1/load_lora_adapter`, as vLLM has it.
pub(super) async fn load(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    app.keys.check_admin(request.headers())?;
    let mut fields = Fields::parse(&app.room.json(request, MOST_BYTES).await?.bytes)?;
    let name = Fields::required("lora_name", fields.take_text("lora_name")?)?;
    let path = Fields::required("lora_path", fields.take_text("lora_path")?)?;
    let is_replaced = fields.take_flag("load_inplace")?.unwrap_or(false);
    fields.finish()?;
    let (registry, asked) = (app.registry.clone(), name.clone());
    let expected = if is_replaced { Expected::Anything } else { Expected::Nothing };
    let done = blocking(move || registry.load(&asked, std::path::Path::new(&path), expected).map(drop));
    match done.await? {
        Ok(()) => Ok(format!("Success: LoRA adapter '{name}' added successfully.").into_response()),
        Err(ChangeError::Conflict { .. }) => {
            let message = format!(
                "`{name}` has already been loaded; to read it again in its place, set `load_inplace` to true"
            );
            Err(ApiError::field("lora_name", "adapter_already_loaded", message))
        }
        Err(error) => Err(of_change(&name, &error, ["lora_name", "lora_path"])),
    }
}

/// `/v1/unload_lora_adapter`, as vLLM has it.
pub(super) async fn unload(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    app.keys.check_admin(request.headers())?;
    let mut fields = Fields::parse(&app.room.json(request, MOST_BYTES).await?.bytes)?;
    let name = Fields::required("lora_name", fields.take_text("lora_name")?)?;
    // vLLM numbers them; here the name is enough.
    fields.take("lora_int_id");
    fields.finish()?;
    let (registry, adapter) = (app.registry.clone(), name.clone());
    let done = blocking(move || registry.unload(&name, Expected::Anything)).await?;
    done.map_err(|error| of_change(&adapter, &error, ["lora_name", "lora_path"]))?;
    Ok(format!("Success: LoRA adapter '{adapter}' removed successfully.").into_response())
}

/// `GET /v1/adapters/{name}`: an adapter with its generation.
pub(super) async fn get(State(app): State<App>, Name(name): Name) -> Result<Response, ApiError> {
    Ok(described(&app, &name, &app.entry(&name).await?, StatusCode::OK))
}

/// `PUT /v1/adapters/{name}`: an adapter is read as a new generation, from its folder or another.
pub(super) async fn put(
    State(app): State<App>,
    Name(name): Name,
    request: Request,
) -> Result<Response, ApiError> {
    app.keys.check_admin(request.headers())?;
    let expected = expected(request.headers())?;
    let has_type = request.headers().contains_key(header::CONTENT_TYPE);
    let body = if has_type { app.room.json(request, MOST_BYTES).await?.bytes } else { Bytes::new() };
    let path = match body.is_empty() {
        // Some clients name a type whatever they send.
        true => None,
        false => {
            let mut fields = Fields::parse(&body)?;
            let path = fields.take_text("path")?;
            fields.finish()?;
            path
        }
    };
    let path = path.unwrap_or_else(|| name.clone());
    let (registry, asked) = (app.registry.clone(), name.clone());
    let done = blocking(move || {
        let is_new = registry.entry(&asked).is_none();
        registry.load(&asked, std::path::Path::new(&path), expected).map(|_| is_new)
    });
    let is_new = done.await?.map_err(|error| of_change(&name, &error, ["name", "path"]))?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(described(&app, &name, &app.entry(&name).await?, status))
}

/// `DELETE /v1/adapters/{name}`: an adapter is served no more.
pub(super) async fn delete(
    State(app): State<App>,
    Name(name): Name,
    request: Request,
) -> Result<StatusCode, ApiError> {
    app.keys.check_admin(request.headers())?;
    let expected = expected(request.headers())?;
    let (registry, asked) = (app.registry.clone(), name.clone());
    let done = blocking(move || registry.unload(&asked, expected)).await?;
    done.map_err(|error| of_change(&name, &error, ["name", "path"]))?;
    Ok(StatusCode::NO_CONTENT)
}

/// An adapter as it is listed, or a bundle, with its generation as its tag.
fn described(app: &App, name: &str, entry: &Entry, status: StatusCode) -> Response {
    let (description, generation) = app.entry_json(name, entry);
    let mut response = (status, Json(description)).into_response();
    let tag = generation.map(|generation| HeaderValue::from_str(&format!("\"{generation}\"")));
    if let Some(Ok(tag)) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// What `If-Match` and `If-None-Match` ask to be there.
fn expected(headers: &HeaderMap) -> Result<Expected, ApiError> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim().to_owned());
    let wrong = |name: &str, allowed: &str| Err(ApiError::value(name, format!("`{name}` must be {allowed}")));
    match (text(header::IF_MATCH).as_deref(), text(header::IF_NONE_MATCH).as_deref()) {
        (None, None) => Ok(Expected::Anything),
        (Some("*"), None) => Ok(Expected::Something),
        (Some(tag), None) => match tag.trim_matches('"').parse() {
            Ok(generation) => Ok(Expected::Generation(generation)),
            Err(_) => wrong("If-Match", "a generation, such as \"3\", or *"),
        },
        (None, Some("*")) => Ok(Expected::Nothing),
        (Some(_), Some("*")) => {
            let message = "`If-Match` and `If-None-Match: *` are never both so";
            Err(ApiError::new(StatusCode::CONFLICT, "generation_conflict", message))
        }
        (_, Some(_)) => wrong("If-None-Match", "*"),
    }
}

/// The error of a change that was not made; `names` are those of the fields of name and folder.
fn of_change(name: &str, error: &ChangeError, [name_field, folder_field]: [&str; 2]) -> ApiError {
    match error {
        ChangeError::Unknown => ApiError::no_model(name, &Missing::Unknown),
        ChangeError::Conflict { found } => {
            let found =
                found.map_or("none is served".to_owned(), |found| format!("generation {found} is served"));
            let code = "generation_conflict";
            ApiError::new(StatusCode::CONFLICT, code, format!("`{name}` is not as expected: {found}"))
        }
        ChangeError::Name(problem) => ApiError::value(name_field, problem),
        ChangeError::NoFolder(problem) => ApiError::missing(folder_field, "adapter_not_found", problem),
        ChangeError::Folder(problem) => ApiError::field(folder_field, "invalid_adapter", problem),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(pairs: &[(header::HeaderName, &str)]) -> Result<Expected, ApiError> {
        let headers =
            pairs.iter().map(|(name, value)| (name.clone(), value.parse().expect("a value"))).collect();
        expected(&headers)
    }

    #[test]
    fn a_tag_is_a_generation() {
        assert_eq!(of(&[]), Ok(Expected::Anything));
        for tag in ["3", "\"3\""] {
            assert_eq!(of(&[(header::IF_MATCH, tag)]), Ok(Expected::Generation(3)));
        }
        assert_eq!(of(&[(header::IF_MATCH, "*")]), Ok(Expected::Something));
        assert_eq!(of(&[(header::IF_NONE_MATCH, "*")]), Ok(Expected::Nothing));
        for wrong in [
            &[(header::IF_MATCH, "x")][..],
            &[(header::IF_NONE_MATCH, "3")],
            &[(header::IF_MATCH, "3"), (header::IF_NONE_MATCH, "*")],
        ] {
            assert!(of(wrong).is_err());
        }
    }

    #[test]
    fn a_conflict_says_what_is_there() {
        let error = of_change("a", &ChangeError::Conflict { found: Some(4) }, ["name", "path"]);
        assert_eq!(error.clone().into_response().status(), StatusCode::CONFLICT);
        assert_eq!(
            error.to_json()["error"]["message"],
            json!("`a` is not as expected: generation 4 is served")
        );
    }
}
