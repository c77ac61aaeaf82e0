//! `/`: a page for people.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// The page, with its style and its script in it.
const PAGE: &str = include_str!("page.html");

/// What a browser may do with it: ask this server, run this script, show this style, and nothing else.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let [style, script] = ["style", "script"].map(|name| hash(inside(name)));
    format!(
        "default-src 'none'; style-src '{style}'; script-src '{script}'; connect-src 'self'; img-src blob:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    )
});

/// The page.
pub(super) async fn page() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, PAGE)
}

/// What stands in the only element of this name.
fn inside(name: &str) -> &'static str {
    let behind = PAGE.split_once(&format!("<{name}>")).map_or("", |(_, behind)| behind);
    behind.split_once(&format!("</{name}>")).map_or("", |(inside, _)| inside)
}

fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_nobody_else() {
        for foreign in ["http:", "https:", "src=", "@import", "url(", " style=\"", " onclick="] {
            let found = PAGE.match_indices(foreign).count();
            assert_eq!(found, 0, "{foreign}");
        }
        assert!(!inside("style").is_empty() && !inside("script").is_empty());
        assert!(POLICY.contains("default-src 'none'"));
    }
}
