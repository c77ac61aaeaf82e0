//! What is listed under a name.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::change::{Change, Missing};
use super::roots::{Found, Stamp};
use crate::serve::ServedAdapter;

/// A folder as it is listed.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The folder.
    pub folder: PathBuf,
    /// What it is, or why it is not served.
    pub served: Result<Served, String>,
    /// Unlike that of every other entry: which reading of the folder it is.
    pub(super) reading: u64,
    /// None if the folder lies where it may not, or could not be read.
    pub(super) stamp: Option<Stamp>,
}

/// What a folder holds.
#[derive(Debug, Clone)]
pub enum Served {
    /// An adapter.
    Adapter(Arc<ServedAdapter>),
    /// A bundle.
    Bundle {
        /// The generation of its first member; the others follow.
        generation: u64,
        /// Its members by their own names.
        members: BTreeMap<String, Arc<ServedAdapter>>,
    },
}

impl Served {
    /// Which reading it is, as others are told.
    pub fn generation(&self) -> u64 {
        match self {
            Self::Adapter(adapter) => adapter.generation,
            Self::Bundle { generation, .. } => *generation,
        }
    }

    /// The adapters in it, each as requests call it.
    pub fn adapters(&self) -> Vec<&Arc<ServedAdapter>> {
        match self {
            Self::Adapter(adapter) => vec![adapter],
            Self::Bundle { members, .. } => members.values().collect(),
        }
    }
}

impl Entry {
    /// The adapter that requests mean by the name of the folder, or by a member's name behind it.
    pub(super) fn adapter(&self, member: Option<&str>) -> Result<Arc<ServedAdapter>, Missing> {
        match (&self.served, member) {
            (Err(problem), _) => Err(Missing::Damaged(problem.clone())),
            (Ok(Served::Adapter(adapter)), None) => Ok(Arc::clone(adapter)),
            (Ok(Served::Adapter(_)), Some(_)) => Err(Missing::Unknown),
            (Ok(Served::Bundle { members, .. }), None) => {
                let first = members.values().next().map(|adapter| adapter.name.clone());
                Err(first.map_or(Missing::Unknown, Missing::Bundle))
            }
            (Ok(Served::Bundle { members, .. }), Some(name)) => {
                members.get(name).cloned().ok_or(Missing::Unknown)
            }
        }
    }

    /// Whether it need not be read again for what requests mean by the name of the folder, or by a member's name behind it: a member
    /// may have been added since. What a scan could not read whole, or found in a wrong place, only another scan reads again.
    pub(super) fn is_current(&self, member: Option<&str>) -> bool {
        let found = Found { folder: self.folder.clone(), problem: None };
        member.is_none() || self.stamp.is_none() || self.adapter(member).is_ok() || !self.is_stale(&found)
    }

    /// Whether it has to be read again to be what was found.
    pub(super) fn is_stale(&self, found: &Found) -> bool {
        if self.folder != found.folder || found.problem.is_some() {
            return self.folder != found.folder || self.served.as_ref().err() != found.problem.as_ref();
        }
        self.stamp.is_none() || Stamp::of(&found.folder).ok() != self.stamp
    }

    /// What is new with it, given what was known before.
    pub(super) fn news(&self, name: &str, before: Option<&Self>) -> Option<Change> {
        let known = before.and_then(|before| before.served.as_ref().err());
        match &self.served {
            Ok(served) => Some(Change::Served(name.to_owned(), served.generation())),
            Err(problem) if known == Some(problem) => None,
            Err(problem) => Some(Change::Damaged(name.to_owned(), problem.clone())),
        }
    }
}

/// The name of a folder and, behind a slash, of a member of it.
pub(super) fn parts(name: &str) -> (&str, Option<&str>) {
    match name.split_once('/') {
        Some((folder, member)) => (folder, Some(member)),
        None => (name, None),
    }
}
