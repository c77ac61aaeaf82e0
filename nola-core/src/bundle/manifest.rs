//! `bundle.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::name::check_name;
use crate::Error;
use crate::adapter::MAX_RANK;
use crate::folder::{BaseIdentity, sha256_hex};
use crate::joint::{Kind, Options};
use crate::plain_words::plain_words;
use crate::site::{Site, SiteKind};

/// Version of the format.
pub const FORMAT_VERSION: u32 = 1;

/// Longest side of a weight; a larger one is a typo or an attack.
const MOST_SIDE: usize = 1 << 28;

/// Digits of the hash in the name of the file of tensors.
const NAME_DIGITS: usize = 16;

/// What `bundle.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The base of all members.
    pub base: BaseIdentity,
    /// The form of the cores.
    pub method: CoreKind,
    /// Columns of the bases; a weight with a shorter side has fewer.
    pub rank: usize,
    /// Number of clusters.
    pub clusters: usize,
    /// The weights that members change, in the order of their paths.
    pub sites: Vec<BundleSite>,
    /// The members, in their order.
    pub members: Vec<Member>,
    /// Name of the file of tensors.
    pub tensors: String,
    /// SHA-256 of that file.
    pub tensors_sha256: String,
    /// SHA-256 of all that is above.
    pub check: String,
}

/// A weight that members change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleSite {
    /// Path of the layer.
    pub path: String,
    /// What the layer does with it.
    #[serde(with = "SiteKindName")]
    pub kind: SiteKind,
    /// Input width.
    pub d_in: usize,
    /// Output width.
    pub d_out: usize,
}

/// How [`SiteKind`] is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "SiteKind", rename_all = "kebab-case")]
enum SiteKindName {
    Linear,
    Embedding,
}

/// An adapter in a bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// What it is called.
    pub name: String,
    /// The kind of adapter that it was, for people.
    pub method: String,
    /// Which cluster it is in.
    pub cluster: usize,
    /// The share of its update's squared length that is lost, from 0 to 1.
    pub lost: f64,
    /// Names of the classes, if it has a head of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// How its samples were written.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
    /// Parameters that were trained beside its updates, with their shapes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub beside: BTreeMap<String, Vec<usize>>,
}

/// The form of the cores of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CoreKind {
    /// All entries.
    #[serde(rename = "jd-full")]
    JdFull,
    /// The diagonal alone.
    #[serde(rename = "jd-diag")]
    JdDiag,
}

impl CoreKind {
    /// What the fit calls it.
    pub fn kind(self) -> Kind {
        match self {
            Self::JdFull => Kind::Full,
            Self::JdDiag => Kind::Diagonal,
        }
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::JdFull => "jd-full",
            Self::JdDiag => "jd-diag",
        }
    }

    /// Numbers of a core of this rank.
    pub(super) fn numbers(self, rank: usize) -> usize {
        match self {
            Self::JdFull => rank * rank,
            Self::JdDiag => rank,
        }
    }
}

impl From<Kind> for CoreKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Full => Self::JdFull,
            Kind::Diagonal => Self::JdDiag,
        }
    }
}

impl From<&Site> for BundleSite {
    fn from(site: &Site) -> Self {
        Self { path: site.path.clone(), kind: site.kind, d_in: site.d_in, d_out: site.d_out }
    }
}

impl BundleSite {
    pub(super) fn site(&self) -> Site {
        Site { path: self.path.clone(), d_in: self.d_in, d_out: self.d_out, kind: self.kind }
    }
}

impl Manifest {
    /// That of a bundle without members and files.
    pub(super) fn new(base: BaseIdentity, options: Options, sites: &[Site]) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            base,
            method: options.kind.into(),
            rank: options.rank,
            clusters: 0,
            sites: sites.iter().map(BundleSite::from).collect(),
            members: Vec::new(),
            tensors: String::new(),
            tensors_sha256: String::new(),
            check: String::new(),
        }
    }

    /// Takes one more member.
    pub(super) fn add(&mut self, member: Member) -> Result<(), Error> {
        if self.members.iter().any(|known| known.name == member.name) {
            return Err(Error::NameTaken { name: member.name });
        }
        self.members.push(member);
        Ok(())
    }

    /// Rank of the bases at a weight.
    pub(super) fn rank_at(&self, site: &BundleSite) -> usize {
        self.rank.min(site.d_in).min(site.d_out)
    }

    /// Numbers of the cores of a member.
    pub(super) fn core_numbers(&self) -> usize {
        self.sites.iter().map(|site| self.method.numbers(self.rank_at(site))).sum()
    }

    pub(super) fn all_sites(&self) -> Vec<Site> {
        self.sites.iter().map(BundleSite::site).collect()
    }

    /// The members of each cluster, in their order.
    pub(super) fn by_cluster(&self) -> Vec<Vec<usize>> {
        let mut clusters = vec![Vec::new(); self.clusters];
        self.members.iter().enumerate().for_each(|(place, member)| clusters[member.cluster].push(place));
        clusters
    }

    /// How many tensors its file holds.
    pub(super) fn tensor_count(&self) -> usize {
        let beside = self.members.iter().map(|member| member.beside.len());
        beside.sum::<usize>() + self.clusters * (2 * self.sites.len() + 1)
    }

    /// The same with the hashes of itself and of the file of tensors that it belongs to.
    pub fn with_tensors(&self, bytes: &[u8]) -> Self {
        let tensors_sha256 = sha256_hex(bytes);
        let tensors = file_of(&tensors_sha256);
        let manifest = Self { tensors, tensors_sha256, check: String::new(), ..self.clone() };
        Self { check: manifest.hash(), ..manifest }
    }

    /// SHA-256 of all of it but this hash.
    fn hash(&self) -> String {
        let unchecked = Self { check: String::new(), ..self.clone() };
        sha256_hex(&serde_json::to_vec(&unchecked).expect("text and numbers"))
    }

    /// Reads what a file holds.
    ///
    /// # Errors
    /// With all that is wrong with it.
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let invalid = |problems| Error::Invalid { file: file.to_owned(), problems };
        let parse_error = |error: serde_json::Error| invalid(vec![plain_words(&error.to_string())]);
        let value: Value = serde_json::from_slice(bytes).map_err(parse_error)?;
        if value["format_version"] != FORMAT_VERSION {
            let found = value.get("format_version").map_or("absent".to_owned(), Value::to_string);
            let supported = "version 1; update nola-train for newer ones";
            let file = file.to_owned();
            return Err(Error::Unsupported { file, field: "format_version", found, supported });
        }
        let manifest: Self = serde_json::from_value(value).map_err(parse_error)?;
        let problems = manifest.problems();
        if problems.is_empty() { Ok(manifest) } else { Err(invalid(problems)) }
    }

    /// What cannot be so, in words.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.check != self.hash() {
            problems.push(
                "`check` is not the hash of the rest: the file was edited or is damaged; restore it"
                    .to_owned(),
            );
        }
        if self.tensors != file_of(&self.tensors_sha256) || !is_tensors_file(&self.tensors) {
            problems.push("`tensors` is no name that follows from `tensors_sha256`".to_owned());
        }
        if !(1..=MAX_RANK).contains(&self.rank) {
            problems.push(format!("`rank` is {}; it must be 1 to {MAX_RANK}", self.rank));
        }
        if self.members.is_empty() || self.sites.is_empty() {
            problems.push("`members` and `sites` must not be empty".to_owned());
        } else if !(1..=self.members.len()).contains(&self.clusters) {
            let (clusters, members) = (self.clusters, self.members.len());
            problems.push(format!("`clusters` is {clusters}, with {members} members"));
        }
        problems.extend(self.sites.iter().filter_map(BundleSite::problem));
        problems.extend(self.members.iter().filter_map(|member| member.problem(self.clusters)));
        problems.extend(twice("sites", self.sites.iter().map(|site| site.path.as_str())));
        problems.extend(twice("members", self.members.iter().map(|member| member.name.as_str())));
        problems
    }
}

impl BundleSite {
    fn problem(&self) -> Option<String> {
        let is_side = |side: usize| (1..=MOST_SIDE).contains(&side);
        let Self { path, d_in, d_out, .. } = self;
        let is_good = is_side(*d_in) && is_side(*d_out);
        (!is_good).then(|| format!("site `{path}` is {d_in} x {d_out}; sides are 1 to {MOST_SIDE}"))
    }
}

impl Member {
    fn problem(&self, clusters: usize) -> Option<String> {
        let Self { name, cluster, lost, .. } = self;
        if let Err(problem) = check_name(name) {
            return Some(format!("member `{}`: {problem}", name.escape_debug()));
        }
        if *cluster >= clusters {
            return Some(format!("member `{name}` is in cluster {cluster}, of {clusters}"));
        }
        (!(0.0..=1.0).contains(lost)).then(|| format!("member `{name}`: `lost` is {lost}; it must be 0 to 1"))
    }
}

/// The first that is there more than once.
fn twice<'a>(field: &str, all: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut seen = BTreeSet::new();
    let twice = all.into_iter().find(|one| !seen.insert(*one))?;
    Some(format!("`{field}` names `{twice}` twice"))
}

/// The file of tensors with this hash.
fn file_of(sha256: &str) -> String {
    format!("bundle-{}.safetensors", sha256.get(..NAME_DIGITS).unwrap_or(sha256))
}

/// Whether this is the name of a file of tensors.
pub(super) fn is_tensors_file(name: &str) -> bool {
    let digits = name.strip_prefix("bundle-").and_then(|rest| rest.strip_suffix(".safetensors"));
    let is_hash =
        |digits: &str| digits.len() == NAME_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.is_some_and(is_hash)
}
