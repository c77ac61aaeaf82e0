//! Who may ask, and who may change what is served.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::App;
use super::errors::ApiError;

/// Paths that need no key: they say nothing of what is served.
const PUBLIC: [&str; 3] = ["/", "/health", "/openapi.json"];

/// A key that is compared in the same time whatever differs; its length does not tell, either.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of this text.
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    fn is(&self, presented: &Self) -> Choice {
        self.0.ct_eq(&presented.0)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// The keys of a server.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// Whoever asks anything needs it, or the other one.
    pub api: Option<Key>,
    /// Whoever changes what is served needs it; absent: nobody may.
    pub admin: Option<Key>,
}

impl Keys {
    /// Whether somebody with these headers may ask.
    fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(api) = &self.api else { return Ok(()) };
        let is_one = |presented: &Key| {
            let admin = self.admin.as_ref().map_or(Choice::from(0), |admin| admin.is(presented));
            (api.is(presented) | admin).into()
        };
        if presented(headers).as_ref().is_some_and(is_one) { Ok(()) } else { Err(wrong_key()) }
    }

    /// Whether somebody with these headers may change what is served.
    pub(super) fn check_admin(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(admin) = &self.admin else {
            let message = "adapters are not changed over HTTP: the server was started without --admin-key";
            return Err(ApiError::new(StatusCode::FORBIDDEN, "admin_disabled", message));
        };
        let is_it = |presented: &Key| bool::from(admin.is(presented));
        if presented(headers).as_ref().is_some_and(is_it) { Ok(()) } else { Err(wrong_key()) }
    }
}

fn presented(headers: &HeaderMap) -> Option<Key> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Key::new(key.trim()))
}

fn wrong_key() -> ApiError {
    let message = "the key is missing or wrong; send it as `Authorization: Bearer KEY`";
    ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
}

/// Lets through who may ask, and counts how all were answered.
pub(super) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let is_public = PUBLIC.contains(&request.uri().path());
    let checked = match is_public {
        true => Ok(()),
        false => app.keys.check(request.headers()),
    };
    let checked = match app.keys.api {
        Some(_) => checked,
        // Nothing but the address keeps others out, and a page of another site must not use the browser as its hands.
        None => checked.and_then(|()| check_origin(request.headers(), request.uri(), app.is_local)),
    };
    let response = match checked {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    app.answered.count(response.status());
    response
}

/// A page that a browser shows may only be one of ours: the host is this machine, and the origin is the host.
fn check_origin(headers: &HeaderMap, uri: &Uri, is_local: bool) -> Result<(), ApiError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = uri.authority().map(|authority| authority.as_str()).or(text(header::HOST)).unwrap_or_default();
    if is_local && !is_this_machine(host) {
        let message =
            "without --api-key, the server answers only under the names of this machine, such as localhost";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden_host", message));
    }
    let origin = text(header::ORIGIN).map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
    if origin.is_some_and(|origin| origin != host) {
        let message = "without --api-key, pages of other sites are not answered";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden_origin", message));
    }
    Ok(())
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    let name = name.unwrap_or_default();
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().expect("a value"))).collect()
    }

    fn bearer(key: &str) -> HeaderMap {
        headers(&[(header::AUTHORIZATION, &format!("Bearer {key}"))])
    }

    #[test]
    fn either_key_asks_and_one_changes() {
        let keys = Keys { api: Some(Key::new("api-key-1")), admin: Some(Key::new("admin-key")) };
        let asks = |headers: &HeaderMap| keys.check(headers).is_ok();
        assert!(asks(&bearer("api-key-1")) && asks(&bearer("admin-key")));
        assert!(!asks(&bearer("api-key-2")) && !asks(&bearer("")) && !asks(&HeaderMap::new()));
        assert!(!asks(&headers(&[(header::AUTHORIZATION, "Basic api-key-1")])));
        let changes = |headers: &HeaderMap| keys.check_admin(headers).is_ok();
        assert!(
            changes(&bearer("admin-key")) && !changes(&bearer("api-key-1")) && !changes(&HeaderMap::new())
        );
    }

    #[test]
    fn without_keys_anybody_asks_and_nobody_changes() {
        let keys = Keys::default();
        assert!(keys.check(&HeaderMap::new()).is_ok());
        assert!(keys.check_admin(&bearer("any")).is_err());
    }

    #[test]
    fn a_page_of_another_site_is_not_answered() {
        let asks = |pairs: &[(header::HeaderName, &str)]| {
            check_origin(&headers(pairs), &Uri::from_static("/"), true).is_ok()
        };
        assert!(asks(&[(header::HOST, "127.0.0.1:8000")]));
        assert!(asks(&[(header::HOST, "[::1]:8000"), (header::ORIGIN, "http://[::1]:8000")]));
        assert!(asks(&[(header::HOST, "localhost:8000"), (header::ORIGIN, "http://localhost:8000")]));
        assert!(!asks(&[(header::HOST, "localhost:8000"), (header::ORIGIN, "https://example.org")]));
        assert!(!asks(&[(header::HOST, "localhost:8000"), (header::ORIGIN, "null")]));
        assert!(!asks(&[(header::HOST, "example.org:8000")]));
        assert!(!asks(&[]));
    }
}
