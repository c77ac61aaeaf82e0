//! Errors in the shape of OpenAI's interface, with codes that stay.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use nola_models::generate::GenerateError;
use serde_json::{Value, json};

use crate::Error;
use crate::serve::Missing;
use crate::serve::Rejection;

/// The code of a server that ends.
const SHUTTING_DOWN: &str = "shutting_down";

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    param: Option<String>,
    message: String,
    retry_seconds: Option<u64>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, param: None, message: message.into(), retry_seconds: None }
    }

    /// A field that cannot be so.
    pub(super) fn field(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(StatusCode::BAD_REQUEST, code, message) }
    }

    /// A field that names what is not there.
    pub(super) fn missing(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, ..Self::field(param, code, message) }
    }

    /// A field with a value that cannot be.
    pub(super) fn value(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::field(param, "invalid_value", message)
    }

    /// Something broke here.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "generation_failed", message)
    }

    /// The server ends before the answer does.
    pub(super) fn cut() -> Self {
        let message = "the server is shutting down, and the text was not done in time";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, SHUTTING_DOWN, message)
    }

    /// Whether it is one of the whole server, after which no part of an answer comes.
    pub(super) fn ends_all(&self) -> bool {
        self.code == SHUTTING_DOWN
    }

    pub(super) fn no_model(name: &str, missing: &Missing) -> Self {
        let (code, message) = match missing {
            Missing::Unknown => {
                ("model_not_found", format!("there is no model `{name}`; GET /v1/models lists them"))
            }
            Missing::Bundle(member) => (
                "model_not_found",
                format!("`{name}` is a bundle of adapters; ask for one of them, such as `{member}`"),
            ),
            Missing::Damaged(problem) => ("model_damaged", format!("`{name}` cannot be served: {problem}")),
        };
        Self::missing("model", code, message)
    }

    /// A prompt that cannot be turned into tokens.
    pub(super) fn of_prompt(param: &str, error: &Error) -> Self {
        Self::field(param, "invalid_prompt", error.with_sources())
    }

    /// The kind of error, as OpenAI's clients know it.
    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body of the answer.
    pub(super) fn to_json(&self) -> Value {
        let Self { code, param, message, .. } = self;
        json!({"error": {"message": message, "type": self.kind(), "param": param, "code": code}})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.to_json())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        let message = rejection.to_string();
        match rejection {
            Rejection::Busy { seconds, .. } => {
                let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message);
                Self { retry_seconds: Some(seconds), ..error }
            }
            Rejection::TooLong { .. } => Self::field("max_tokens", "context_length_exceeded", message),
            Rejection::Unusable(error) => Self::from(error),
            Rejection::Closing => Self::new(StatusCode::SERVICE_UNAVAILABLE, SHUTTING_DOWN, message),
            Rejection::Broken(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "engine_failed", message),
        }
    }
}

impl From<GenerateError> for ApiError {
    fn from(error: GenerateError) -> Self {
        let message = error.to_string();
        match error {
            GenerateError::LongPrompt { tokens, limit, .. } => {
                let message = format!(
                    "the prompt has {tokens} tokens, but prompt and new text together have at most {limit}; shorten it"
                );
                Self::field("prompt", "context_length_exceeded", message)
            }
            GenerateError::EmptyPrompt { .. } => {
                Self::field("prompt", "invalid_prompt", "the prompt is empty; give at least one token")
            }
            GenerateError::UnknownToken { token, place, vocabulary, .. } => {
                let message = format!("token {token} at place {place} is none of the model's {vocabulary}");
                Self::field("prompt", "invalid_prompt", message)
            }
            GenerateError::OutOfRange { field: "max_new_tokens", .. } => Self::value("max_tokens", message),
            GenerateError::OutOfRange { field, .. } => Self::value(field, message),
            error if error.is_usage() => Self::new(StatusCode::BAD_REQUEST, "invalid_value", message),
            _ => Self::failed(message),
        }
    }
}

/// Nothing is there.
pub(super) async fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path; see /openapi.json")
}

/// Something is there, but not for this method.
pub(super) async fn wrong_method() -> ApiError {
    let message = "this path does not take this method; see /openapi.json";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_openais_shape() {
        let error = ApiError::value("n", "`n` is 0; it must be 1 to 128");
        let expected = json!({"error": {
            "message": "`n` is 0; it must be 1 to 128", "type": "invalid_request_error", "param": "n", "code": "invalid_value",
        }});
        assert_eq!(error.to_json(), expected);
    }

    #[test]
    fn a_full_queue_says_when_to_come_back() {
        let response = ApiError::from(Rejection::Busy { waiting: 7, seconds: 3 }).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
    }

    #[test]
    fn a_prompt_that_is_too_long_has_a_code_of_its_own() {
        let long = GenerateError::LongPrompt { row: 0, tokens: 9, limit: 8 };
        let error = ApiError::from(Rejection::Unusable(long)).to_json();
        assert_eq!(
            (&error["error"]["code"], &error["error"]["param"]),
            (&"context_length_exceeded".into(), &"prompt".into())
        );
    }
}
