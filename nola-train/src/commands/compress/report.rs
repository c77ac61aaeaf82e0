//! What was compressed, for people and programs.

use std::path::PathBuf;

use nola_core::bundle::CoreKind;
use serde::Serialize;

use super::quality::Quality;
use crate::amounts::{bytes, percent};
use crate::printable::name;
use crate::session::ReadBundle;
use crate::terminal::{StdoutError, print_line};

/// The JSON object of `compress --json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub bundle: PathBuf,
    pub method: CoreKind,
    pub rank: usize,
    pub clusters: usize,
    /// Weights that the adapters change.
    pub sites: usize,
    /// Bytes of the whole bundle, and of the folders of the adapters that were compressed.
    pub bytes: u64,
    pub adapter_bytes: u64,
    /// The mean of the shares of their updates' squared lengths.
    pub lost: f64,
    /// Those that were compressed now.
    pub members: Vec<MemberReport>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct MemberReport {
    pub name: String,
    /// The method that it was trained with.
    pub method: String,
    pub cluster: usize,
    pub lost: f64,
    /// Bytes of its own in the bundle, and of its folder.
    pub bytes: u64,
    pub adapter_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
}

impl Report {
    pub(super) fn new(bundle: &ReadBundle, bytes: u64, members: Vec<MemberReport>, seconds: f64) -> Self {
        let manifest = bundle.bundle().manifest();
        let lost = members.iter().map(|member| member.lost).sum::<f64>() / members.len().max(1) as f64;
        Self {
            bundle: bundle.folder().to_owned(),
            method: manifest.method,
            rank: manifest.rank,
            clusters: manifest.clusters,
            sites: manifest.sites.len(),
            bytes,
            adapter_bytes: members.iter().map(|member| member.adapter_bytes).sum(),
            lost,
            members,
            seconds,
        }
    }

    /// The lines for people.
    pub(super) fn show(&self) -> Result<(), StdoutError> {
        for member in &self.members {
            let MemberReport { name: called, method, cluster, lost, quality, .. } = member;
            let quality = quality.map_or(String::new(), |quality| {
                let Quality { loss_before, loss, accuracy_before, accuracy } = quality;
                let (from, to) = (percent(accuracy_before), percent(accuracy));
                format!("; loss {loss_before:.4} to {loss:.4}, accuracy {from} to {to}")
            });
            let lost = percent(*lost);
            print_line(&format!(
                "{} ({method}): cluster {cluster}, {lost} of its update lost{quality}",
                name(called)
            ))?;
        }
        let Report { bundle, method, rank, clusters, bytes: all, adapter_bytes, lost, members, .. } = self;
        print_line(&format!(
            "compressed into {} ({} of rank {rank}, clusters: {clusters}): {} adapters, {} instead of {}, {} of the updates lost",
            bundle.display(),
            method.name(),
            members.len(),
            bytes(*all),
            bytes(*adapter_bytes),
            percent(*lost),
        ))?;
        Ok(())
    }
}
