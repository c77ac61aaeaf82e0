//! Requests to a hub: signed, redirected and repeated as its protocol asks.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

use super::digest::Digest;
use super::name::{RepositoryName, is_commit};
use super::pace::Paced;
use super::{Credentials, HubConfig, HubError, Note, Progress};

/// Redirects that are followed for one request.
const MAX_REDIRECTS: usize = 10;
/// A longer description of a repository is refused, in bytes.
const MAX_JSON_BYTES: u64 = 64 << 20;
/// Letters that stay as they are inside one part of an address.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// One conversation about one repository.
pub(super) struct Client<'a> {
    pub config: &'a HubConfig,
    pub name: &'a RepositoryName,
    pub progress: &'a dyn Progress,
    agent: Agent,
}

/// A request, and what it is about.
pub(super) struct Ask<'a> {
    pub verb: Verb,
    pub url: String,
    /// First byte wanted.
    pub from_byte: u64,
    pub about: About<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Head,
}

#[derive(Clone, Copy)]
pub(super) enum About<'a> {
    Revision,
    File(&'a str),
}

/// What a revision stands for.
pub(super) struct Listing {
    pub commit: String,
    pub files: BTreeSet<String>,
}

/// What the hub promises about a file.
pub(super) struct Promise {
    pub digest: Digest,
    pub bytes: u64,
}

#[derive(Deserialize)]
struct RevisionAnswer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl<'a> Client<'a> {
    pub fn new(config: &'a HubConfig, name: &'a RepositoryName, progress: &'a dyn Progress) -> Self {
        let timeout = Some(config.patience.timeout);
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("nola/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(timeout)
            .timeout_connect(timeout)
            .timeout_recv_response(timeout)
            .timeout_per_read(timeout)
            .timeout_per_write(timeout)
            .build()
            .new_agent();
        Self { config, name, progress, agent }
    }

    /// Asks which commit the revision stands for, and which files it has.
    pub fn listing(&self) -> Result<Listing, HubError> {
        let Self { config: HubConfig { endpoint, .. }, name, .. } = self;
        let revision = utf8_percent_encode(&name.revision, PLAIN);
        let url = format!("{endpoint}/api/{}/revision/{revision}", name.api());
        let ask = Ask { verb: Verb::Get, url, from_byte: 0, about: About::Revision };
        let mut response = self.answer(&ask)?;
        let text = self.text(&mut response);
        let text = text.map_err(|source| self.unreachable(endpoint.clone(), source.into()))?;
        let answer: RevisionAnswer = serde_json::from_slice(&text)
            .map_err(|source| HubError::NotAHub { url: ask.url.clone(), source })?;
        if !is_commit(&answer.sha) {
            return Err(HubError::BadAnswer { url: ask.url, field: "the commit", value: answer.sha });
        }
        let files = answer.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        Ok(Listing { commit: answer.sha, files })
    }

    /// The body of a short answer.
    fn text(&self, response: &mut Response<Body>) -> io::Result<Vec<u8>> {
        let body = response.body_mut().with_config().limit(MAX_JSON_BYTES).reader();
        let mut text = Vec::new();
        Paced::new(body, self.config.patience.window()).read_to_end(&mut text)?;
        Ok(text)
    }

    /// Asks for size and hash of a file.
    pub fn promise(&self, commit: &str, file: &str) -> Result<Promise, HubError> {
        let url = self.file_url(commit, file);
        let ask = Ask { verb: Verb::Head, url, from_byte: 0, about: About::File(file) };
        let response = self.answer(&ask)?;
        let bad = |field, value: Option<&str>| HubError::BadAnswer {
            url: ask.url.clone(),
            field,
            value: value.unwrap_or_default().to_string(),
        };
        let etag = header(&response, "x-linked-etag").or_else(|| header(&response, "etag"));
        let digest =
            etag.and_then(Digest::from_etag).ok_or_else(|| bad("the hash of the file (ETag)", etag))?;
        let size = header(&response, "x-linked-size").or_else(|| header(&response, "content-length"));
        let bytes =
            size.and_then(|size| size.parse().ok()).ok_or_else(|| bad("its size (Content-Length)", size))?;
        Ok(Promise { digest, bytes })
    }

    /// Where the content of a file is asked for.
    pub fn file_url(&self, commit: &str, file: &str) -> String {
        let parts: Vec<_> =
            file.split('/').map(|part| utf8_percent_encode(part, PLAIN).to_string()).collect();
        format!("{}/{}/resolve/{commit}/{}", self.config.endpoint, self.name.page(), parts.join("/"))
    }

    /// Asks until the hub answers with something that is not "later".
    pub fn answer(&self, ask: &Ask) -> Result<Response<Body>, HubError> {
        let patience = &self.config.patience;
        let mut failures = 0;
        loop {
            let response = self.follow(ask)?;
            if response.status().is_success() || is_promise(ask.verb, &response) {
                return Ok(response);
            }
            failures += 1;
            let wait = retry_after(&response).unwrap_or_else(|| patience.wait(failures));
            let passing = matches!(response.status().as_u16(), 408 | 429 | 500 | 502 | 503 | 504);
            if !passing || failures >= patience.attempts || wait > patience.longest_wait {
                return Err(self.refusal(ask, &response, failures));
            }
            self.progress.note(&Note::Busy { url: &ask.url, status: response.status().as_u16(), wait });
            thread::sleep(wait);
        }
    }

    /// Sends the request where the redirects lead; the token goes to the hub alone.
    fn follow(&self, ask: &Ask) -> Result<Response<Body>, HubError> {
        let refused =
            |location: &str| HubError::Redirect { url: ask.url.clone(), location: location.to_string() };
        let mut uri: Uri = ask.url.parse().map_err(|_| refused(&ask.url))?;
        let hub = origin(&uri);
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(ask, &uri, &hub)?;
            if !is_redirect(response.status()) || is_promise(ask.verb, &response) {
                return Ok(response);
            }
            let location = header(&response, "location").unwrap_or_default();
            uri = redirected(&uri, location).ok_or_else(|| refused(location))?;
        }
        Err(refused(&uri.to_string()))
    }

    fn send(&self, ask: &Ask, uri: &Uri, hub: &str) -> Result<Response<Body>, HubError> {
        let mut request = match ask.verb {
            Verb::Get => self.agent.get(uri),
            Verb::Head => self.agent.head(uri),
        };
        if let Some(token) = self.config.token.as_ref().filter(|_| origin(uri) == hub) {
            request = request.header("authorization", token.header());
        }
        if ask.from_byte > 0 {
            request = request.header("range", format!("bytes={}-", ask.from_byte));
        }
        request.call().map_err(|source| self.unreachable(origin(uri), source))
    }

    fn unreachable(&self, host: String, source: ureq::Error) -> HubError {
        HubError::Unreachable { name: self.name.id.clone(), host, source: Box::new(source) }
    }

    /// What an answer that is none means.
    fn refusal(&self, ask: &Ask, response: &Response<Body>, attempts: u32) -> HubError {
        let RepositoryName { id, revision, .. } = self.name.clone();
        let page = format!("{}/{}", self.config.endpoint, self.name.page());
        let credentials = match self.config.token {
            Some(_) => Credentials::Token,
            None => Credentials::Anonymous,
        };
        let (status, url) = (response.status().as_u16(), ask.url.clone());
        let code = header(response, "x-error-code").unwrap_or_default();
        match (status, code, ask.about) {
            (401 | 403, "GatedRepo", _) => HubError::Gated { name: id, page, status, credentials },
            (401 | 403, _, _) => HubError::Denied { name: id, page, status, credentials },
            (404, "RevisionNotFound", _) => HubError::NoRevision { name: id, revision },
            (404, _, About::File(file)) => HubError::NoFile { name: id, revision, file: file.to_string() },
            (404, _, About::Revision) => HubError::NoRepository { name: id, page },
            (429, _, _) => HubError::TooManyRequests { url, attempts, wait: retry_after(response) },
            _ => HubError::Status { url, status, attempts },
        }
    }
}

/// A header whose value is text.
pub(super) fn header<'r>(response: &'r Response<Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

/// The wait that the hub asks for in seconds; a date, which it may also send, leaves the wait to us.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    header(response, "retry-after")?.trim().parse().ok().map(Duration::from_secs)
}

/// A redirect that carries the hash of its target; the target itself, a store of bytes, would give another.
fn is_promise(verb: Verb, response: &Response<Body>) -> bool {
    verb == Verb::Head && is_redirect(response.status()) && response.headers().contains_key("x-linked-etag")
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Scheme, host and port: what a token is meant for.
fn origin(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    match (scheme, uri.port_u16()) {
        (_, None) | ("https", Some(443)) | ("http", Some(80)) => format!("{scheme}://{host}"),
        (_, Some(port)) => format!("{scheme}://{host}:{port}"),
    }
}

/// The target of a redirect; `None` if there is none, or if it gives up encryption.
fn redirected(from: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let target = if location.contains("://") {
        location.to_string()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let uri: Uri = target.parse().ok().filter(|_| !location.is_empty())?;
    match (scheme, uri.scheme_str()?) {
        (_, "https") | ("http", "http") => Some(uri),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(from: &str, location: &str) -> Option<String> {
        redirected(&from.parse().unwrap(), location).map(|uri| uri.to_string())
    }

    #[test]
    fn a_redirect_counts_from_the_address_that_gave_it() {
        let from = "https://hub.example/ada/small/resolve/main/a?x=1";
        for (location, expected) in [
            ("/ada/big", "https://hub.example/ada/big"),
            ("b", "https://hub.example/ada/small/resolve/main/b"),
            ("//cdn.example/b", "https://cdn.example/b"),
            ("https://cdn.example/b?sig=1%2F2", "https://cdn.example/b?sig=1%2F2"),
        ] {
            assert_eq!(target(from, location).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_redirect_to_nowhere_or_out_of_encryption_is_not_followed() {
        for location in ["", "http://cdn.example/b", "file:///etc/passwd", "https://"] {
            assert_eq!(target("https://hub.example/a", location), None, "{location}");
        }
    }

    #[test]
    fn another_port_is_another_origin() {
        let of = |text: &str| origin(&text.parse().unwrap());
        assert_eq!(of("https://Hub.example:443/a"), of("https://hub.example/b"));
        assert_ne!(of("http://hub.example:8080/"), of("http://hub.example/"));
        assert_ne!(of("http://hub.example/"), of("https://hub.example/"));
    }
}
