//! `/metrics`: numbers for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

use super::{App, Service};
use crate::serve::{Counts, Served};

/// How requests were answered.
#[derive(Debug, Default)]
pub(super) struct Answered(Mutex<BTreeMap<u16, u64>>);

impl Answered {
    pub(super) fn count(&self, status: StatusCode) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(status.as_u16()).or_default() += 1;
    }

    fn counts(&self) -> BTreeMap<u16, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All numbers, in Prometheus' text format.
pub(super) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let mut page = Page::default();
    let folders = app.registry.list();
    let served: Vec<&Served> = folders.iter().filter_map(|(_, entry)| entry.served.as_ref().ok()).collect();
    let adapters: Vec<_> = served.iter().flat_map(|served| served.adapters()).collect();
    let bytes: u64 = adapters.iter().map(|adapter| adapter.bytes()).sum();
    page.gauge("nola_adapters", "Adapters that are served.", adapters.len() as u64);
    let damaged = folders.len() - served.len();
    page.gauge(
        "nola_adapters_damaged",
        "Folders of adapters and bundles that are not served.",
        damaged as u64,
    );
    let bases = served.iter().map(|served| bytes_of_bases(served)).sum();
    page.gauge("nola_bundle_bases_bytes", "Bytes of the bases of all bundles in memory.", bases);
    page.gauge("nola_adapters_bytes", "Bytes of the trainable parameters of all adapters in memory.", bytes);
    if let Service::Text(text) = &app.service {
        page.engine(&text.engine.counts());
    }
    page.head("nola_http_requests_total", "Requests that were answered.", "counter");
    for (status, count) in app.answered.counts() {
        page.line(&format!("nola_http_requests_total{{code=\"{status}\"}}"), count);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.0)
}

/// Bytes of what the members of a bundle share.
fn bytes_of_bases(served: &Served) -> u64 {
    let first = served.adapters().into_iter().next();
    let bundle = first.and_then(|adapter| Some(adapter.content.membership()?.0));
    bundle.map_or(0, |bundle| bundle.bundle().shared_numbers() as u64 * 4)
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn engine(&mut self, counts: &Counts) {
        let Counts { waiting, running, finished, cancelled, failed, .. } = *counts;
        self.gauge("nola_texts_waiting", "Texts that wait for a place in the batch.", waiting as u64);
        self.gauge("nola_texts_running", "Texts in the batch.", running as u64);
        self.counter("nola_texts_finished_total", "Texts that ended by themselves.", finished);
        self.counter(
            "nola_texts_cancelled_total",
            "Texts that ended early: at a stop text, or since nobody waited.",
            cancelled,
        );
        self.counter("nola_texts_failed_total", "Texts that failed.", failed);
        self.counter("nola_prompt_tokens_total", "Tokens of prompts that were read.", counts.prompt_tokens);
        self.counter("nola_new_tokens_total", "Tokens that were made.", counts.new_tokens);
        self.counter("nola_steps_total", "Passes of the whole batch.", counts.steps);
        self.gauge(
            "nola_adapter_matrices",
            "Adapters whose matrices are in the cache.",
            counts.adapters_ready as u64,
        );
        self.gauge("nola_adapter_matrices_bytes", "Bytes of these matrices.", counts.adapter_bytes);
        self.counter(
            "nola_adapter_matrices_made_total",
            "How often matrices had to be made.",
            counts.adapters_made,
        );
        self.counter(
            "nola_adapter_matrices_found_total",
            "How often matrices were there when a text began.",
            counts.adapters_found,
        );
        self.gauge(
            "nola_cache_tokens",
            "Tokens of the key-value cache in use or kept free.",
            counts.cache_tokens as u64,
        );
        self.gauge("nola_cache_limit_tokens", "Tokens that it can hold.", counts.cache_limit_tokens as u64);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "gauge");
        self.line(name, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "counter");
        self.line(name, value);
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n").expect("text grows");
    }

    fn line(&mut self, name: &str, value: u64) {
        writeln!(self.0, "{name} {value}").expect("text grows");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_its_help_and_its_kind() {
        let mut page = Page::default();
        page.gauge("nola_adapters", "Adapters.", 3);
        assert_eq!(page.0, "# HELP nola_adapters Adapters.\n# TYPE nola_adapters gauge\nnola_adapters 3\n");
    }

    #[test]
    fn answers_are_counted_by_their_status() {
        let answered = Answered::default();
        [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::OK]
            .into_iter()
            .for_each(|status| answered.count(status));
        assert_eq!(answered.counts(), BTreeMap::from([(200, 2), (404, 1)]));
    }
}
