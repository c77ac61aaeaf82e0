//! A member of a bundle on its base.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;

use super::manifest::CoreKind;
use super::{Bundle, BundleSite};
use crate::Error;
use crate::adapted::Adapted;
use crate::adapter::{Factor, Plan};
use crate::folder::{BaseIdentity, check_base};
use crate::params::sites;
use crate::row_adapters::{CoreForm, SharedFactors, SharedSite};

impl Bundle {
    /// Attaches a member to a freshly loaded `model`, as a LoRA; `file` is named where something is wrong.
    ///
    /// # Errors
    /// If the base is another one, or has not the weights that the member changes.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn attach<M: Module>(
        &self,
        member: usize,
        model: M,
        file: &Path,
        base: &BaseIdentity,
        device: &Device,
    ) -> Result<Adapted<M>, Error> {
        check_base(file, &self.manifest.base, base)?;
        self.check_fits(&model, file)?;
        let (wanted, plans) = (self.manifest.all_sites(), self.plans(member));
        // Where another member alone changes something, this one has no adapter.
        let (sites, plans) =
            wanted.into_iter().zip(plans).filter_map(|(site, plan)| Some((site, plan?))).unzip();
        let beside = &self.beside[member];
        let names: Vec<&str> = beside.keys().map(String::as_str).collect();
        let adapted = Adapted::attach_plans(model, sites, plans, &names, device)?;
        let mut state = adapted.state();
        state.extend(beside.clone());
        adapted.with_state(state).map_err(|problems| Error::Invalid { file: file.to_owned(), problems })
    }

    /// Checks that `model` has the weights that members change, in their sizes; `file` is named if it has not.
    ///
    /// # Errors
    /// With all weights that it has not.
    pub fn check_fits<M: Module>(&self, model: &M, file: &Path) -> Result<(), Error> {
        let (there, wanted) = (sites(model), self.manifest.all_sites());
        let absent = wanted.iter().filter(|site| !there.contains(site));
        let absent = absent
            .map(|site| format!("`{}` of {} x {} is not in the model", site.path, site.d_in, site.d_out));
        let problems: Vec<String> = absent.collect();
        if problems.is_empty() { Ok(()) } else { Err(Error::Invalid { file: file.to_owned(), problems }) }
    }

    /// What a member does to each weight; none where that is nothing.
    fn plans(&self, member: usize) -> Vec<Option<Plan>> {
        let bases = &self.bases[self.manifest.members[member].cluster];
        let mut rest = self.cores[member].values();
        let of_site = |(site, basis): (&BundleSite, &super::Basis)| {
            let rank = self.manifest.rank_at(site);
            let (core, behind) = rest.split_at(self.manifest.method.numbers(rank));
            rest = behind;
            if core.iter().all(|&number| number == 0.0) {
                return None;
            }
            let b = times(core, self.manifest.method, basis.u.values(), [rank, site.d_out]);
            let a = Factor::Learned(basis.v.values().to_vec());
            Some(Plan::low_rank(a, Factor::Learned(b), rank, 1.0))
        };
        self.manifest.sites.iter().zip(bases).map(of_site).collect()
    }

    /// What all members of a cluster have in common, for rows of a batch; of no bytes beside those of the bundle.
    ///
    /// # Panics
    /// If there is no such cluster.
    pub fn shared_factors(&self, cluster: usize, device: &Device) -> SharedFactors {
        let core = match self.manifest.method {
            CoreKind::JdFull => CoreForm::Full,
            CoreKind::JdDiag => CoreForm::Diagonal,
        };
        let of_site = |(site, basis): (&BundleSite, &super::Basis)| SharedSite {
            path: site.site().weight_path(),
            a: basis.v.on(device),
            b: basis.u.on(device),
            core,
            has_gains: false,
        };
        let sites = self.manifest.sites.iter().zip(&self.bases[cluster]).map(of_site).collect();
        // They are in memory as long as the bundle is, whoever uses them.
        SharedFactors::new(sites, 0)
    }

    /// The numbers of a member that stand between them.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn core(&self, member: usize) -> &[f32] {
        self.cores[member].values()
    }

    /// Which cluster a member is in.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn cluster(&self, member: usize) -> usize {
        self.manifest.members[member].cluster
    }
}

/// The core times Uᵀ, summed in `f64` and rounded once.
fn times(core: &[f32], kind: CoreKind, u: &[f32], [rank, d_out]: [usize; 2]) -> Vec<f32> {
    let row = |row: usize| {
        let mut sums = vec![0.0_f64; d_out];
        let mut add = |factor: f32, from: usize| {
            let terms = u[from * d_out..(from + 1) * d_out].iter();
            sums.iter_mut().zip(terms).for_each(|(sum, &entry)| *sum += f64::from(factor) * f64::from(entry));
        };
        match kind {
            CoreKind::JdFull => (0..rank).for_each(|inner| add(core[row * rank + inner], inner)),
            CoreKind::JdDiag => add(core[row], row),
        }
        sums.into_iter().map(|sum| sum as f32).collect::<Vec<f32>>()
    };
    (0..rank).flat_map(row).collect()
}
