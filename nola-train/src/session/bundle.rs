//! Bundles: many adapters in one folder, of which each is an adapter like any other.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use burn::tensor::Device;
use nola_core::bundle::Bundle;
use nola_core::{SharedFactors, Updates};

use crate::Error;

/// A bundle that was read; what its members share is in memory once, whoever uses them.
#[derive(Debug)]
pub struct ReadBundle {
    folder: PathBuf,
    bundle: Bundle,
    /// By cluster, made when they are first used.
    factors: Vec<OnceLock<Arc<SharedFactors>>>,
}

impl ReadBundle {
    /// Reads a bundle.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn open(folder: &Path) -> Result<Arc<Self>, Error> {
        Ok(Self::of(folder, Bundle::read(folder)?))
    }

    /// A bundle that was read from `folder`, or made to be written there.
    pub fn of(folder: &Path, bundle: Bundle) -> Arc<Self> {
        let factors = (0..bundle.manifest().clusters).map(|_| OnceLock::new()).collect();
        Arc::new(Self { folder: folder.to_owned(), bundle, factors })
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was read.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// What a member does to the rows of a batch, on `device`, which is the same every time.
    pub(super) fn updates(&self, member: usize, device: &Device) -> Updates {
        let cluster = self.bundle.cluster(member);
        let make = || Arc::new(self.bundle.shared_factors(cluster, device));
        let factors = Arc::clone(self.factors[cluster].get_or_init(make));
        Updates::between(factors, self.bundle.core(member), device)
    }
}
