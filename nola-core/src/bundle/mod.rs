//! Bundles: many adapters of one base in shared bases ([`crate::joint`]), as one folder.
//!
//! | file | holds |
//! |---|---|
//! | `bundle.json` | version, identity of the base, method and rank, the weights and their sizes, the members with their clusters and what is lost of each, hashes |
//! | `bundle-HASH.safetensors` | `v.C.W` (V, `[d_in, rank]`) and `u.C.W` (Uᵀ, `[rank, d_out]`) of each cluster C at each weight W, `cores.C` `[members, numbers]` in the order of the cluster's members, and `beside.M.NAME`, what member M trained beside its updates; all in `f32` |
//!
//! The update of a member is `V·C·Uᵀ`, as inputs meet it that are rows: C is `[rank, rank]`, row-major, or its diagonal, and the
//! numbers of a member are the cores of all weights, one after the other. A weight with a side shorter than the rank has as many
//! columns as that side.
//!
//! Reading is strict: every tensor is used and has its shape, every number is finite, and hashes are those that were written, or
//! one error lists all that differs. A folder is there whole or not at all. A member that is added later is in a new file of
//! tensors, which the manifest names from one moment to the next.

mod attach;
mod low_rank_adapter;
mod manifest;
mod name;
mod numbers;
mod store;
mod tensors;
#[cfg(all(test, feature = "cpu"))]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use numbers::Numbers;

pub use low_rank_adapter::{About, LowRankAdapter};
pub use manifest::{BundleSite, CoreKind, FORMAT_VERSION, Manifest, Member};
pub use name::check_name;

use crate::Error;
use crate::adapted::TrainedState;
use crate::adapter::{MAX_RANK, check_number};
use crate::folder::BaseIdentity;
use crate::joint::{self, Options, SharedBasis};

/// The file that makes a folder a bundle.
const MANIFEST: &str = "bundle.json";

/// Many adapters of one base in shared bases.
#[derive(Debug, Clone)]
pub struct Bundle {
    manifest: Manifest,
    /// By cluster, and by weight.
    bases: Vec<Vec<Basis>>,
    /// By member: the cores of all weights, one after the other.
    cores: Vec<Numbers>,
    /// By member.
    beside: Vec<TrainedState>,
}

/// What the members of a cluster share at one weight.
#[derive(Debug, Clone)]
struct Basis {
    /// V, `[d_in, rank]`.
    v: Numbers,
    /// Uᵀ, `[rank, d_out]`.
    u: Numbers,
}

/// Whether `folder` holds a bundle.
pub fn is_bundle(folder: &Path) -> bool {
    folder.join(MANIFEST).is_file()
}

/// The bundle and the name of its member that a path such as `BUNDLE/NAME` means, whether or not there is such a member.
pub fn member_at(path: &Path) -> Option<(PathBuf, String)> {
    let folder = path.parent().filter(|folder| !path.is_dir() && is_bundle(folder))?;
    Some((folder.to_owned(), path.file_name()?.to_string_lossy().into_owned()))
}

impl Bundle {
    /// Compresses adapters of the base `base`; `progress` is called with the share of all updates that is lost so far, which
    /// never rises but by rounding.
    ///
    /// # Errors
    /// If there is none, the rank is beyond any adapter's, two have one name or other sizes at one weight, or numbers would not be
    /// finite.
    pub fn compressed(
        mut adapters: Vec<LowRankAdapter>,
        base: BaseIdentity,
        options: Options,
        mut progress: impl FnMut(f64),
    ) -> Result<Self, Error> {
        check_number("rank", options.rank, MAX_RANK)?;
        let mut names = BTreeSet::new();
        if let Some(twice) = adapters.iter().find(|adapter| !names.insert(adapter.name())) {
            return Err(Error::NameTaken { name: twice.name().to_owned() });
        }
        let sites = low_rank_adapter::sites_of(&adapters)?;
        let mut manifest = Manifest::new(base, options, &sites);
        let slots: Vec<Vec<_>> = adapters.iter_mut().map(|adapter| adapter.take_slots(&sites)).collect();
        let count = adapters.len() as f64;
        let found = joint::compress(slots, options, |error| progress((error / count).max(0.0)));
        manifest.clusters = found.bases.len();
        let bases = found.bases.iter().map(|of_cluster| of_cluster.iter().map(Basis::of).collect()).collect();
        let (mut cores, mut beside) = (Vec::new(), Vec::new());
        for (place, adapter) in adapters.into_iter().enumerate() {
            cores.push(numbers_of(&found.cores[place], found.norms[place], adapter.name())?);
            let member = adapter.member(found.assignments[place], found.errors[place]);
            manifest.add(member)?;
            beside.push(adapter.into_beside());
        }
        Ok(Self { manifest, bases, cores, beside })
    }

    /// The same with one more member, in the bases that are there: nothing is fitted again.
    ///
    /// # Errors
    /// If a member has its name, it changes a weight that no member changes, or its numbers would not be finite.
    pub fn with_added(mut self, mut adapter: LowRankAdapter) -> Result<Self, Error> {
        let sites = self.manifest.all_sites();
        adapter.check_sites(&sites)?;
        let bases: Vec<Vec<SharedBasis>> = self.bases.iter().map(|bases| self.shared_bases(bases)).collect();
        let found = joint::project(&bases, adapter.take_slots(&sites), self.manifest.method.kind());
        let numbers = numbers_of(&found.cores, found.norm, adapter.name())?;
        self.manifest.add(adapter.member(found.cluster, found.error))?;
        self.cores.push(numbers);
        self.beside.push(adapter.into_beside());
        Ok(self)
    }

    /// A bundle of so many members, which are copies of its own under numbers from 0, each with cores of its own in memory: to
    /// measure with.
    pub fn repeated(&self, count: usize) -> Self {
        let places = || (0..count).map(|number| number % self.cores.len());
        let member = |(number, place): (usize, usize)| Member {
            name: number.to_string(),
            ..self.manifest.members[place].clone()
        };
        let members = places().enumerate().map(member).collect();
        Self {
            manifest: Manifest { members, ..self.manifest.clone() },
            bases: self.bases.clone(),
            cores: places().map(|place| Numbers::row(self.cores[place].values().to_vec())).collect(),
            beside: places().map(|place| self.beside[place].clone()).collect(),
        }
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The place of the member of this name.
    pub fn place(&self, name: &str) -> Option<usize> {
        self.manifest.members.iter().position(|member| member.name == name)
    }

    /// Numbers of a member alone: its cores, and what was trained beside them.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn own_numbers(&self, member: usize) -> usize {
        let beside = self.beside[member].values().map(|data| data.shape().num_elements());
        self.cores[member].len() + beside.sum::<usize>()
    }

    /// Numbers of the bases, which all members share.
    pub fn shared_numbers(&self) -> usize {
        self.bases.iter().flatten().map(|basis| basis.v.len() + basis.u.len()).sum()
    }

    fn shared_bases(&self, bases: &[Basis]) -> Vec<SharedBasis> {
        let of_site = |(basis, site): (&Basis, &BundleSite)| {
            SharedBasis::of_factors(basis.v.values(), basis.u.values(), [site.d_in, site.d_out])
        };
        bases.iter().zip(&self.manifest.sites).map(of_site).collect()
    }
}

impl Basis {
    fn of(shared: &SharedBasis) -> Self {
        let [v, u] = shared.factors();
        let rank = shared.v.ncols();
        Self { v: Numbers::new(v, [shared.v.nrows(), rank]), u: Numbers::new(u, [rank, shared.u.nrows()]) }
    }
}

/// The numbers of the member `name`, whose update has this length.
///
/// # Errors
/// If one is too large for its type: such a bundle could not be read.
fn numbers_of(cores: &[joint::Core], norm: f64, name: &str) -> Result<Numbers, Error> {
    let numbers: Vec<f32> = cores.iter().flat_map(|core| core.of_rows(norm)).collect();
    match numbers.iter().filter(|number| !number.is_finite()).count() {
        0 => Ok(Numbers::row(numbers)),
        count => Err(Error::NotFinite { name: name.to_owned(), count }),
    }
}
