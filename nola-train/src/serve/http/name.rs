//! The name of a model or adapter in a path.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::App;
use super::errors::ApiError;

/// The last part of a path.
pub(super) struct Name(pub String);

impl FromRequestParts<App> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let name = Path::<String>::from_request_parts(parts, app).await;
        name.map(|Path(name)| Self(name))
            .map_err(|_| ApiError::value("name", "the name in the path is no text in UTF-8"))
    }
}
