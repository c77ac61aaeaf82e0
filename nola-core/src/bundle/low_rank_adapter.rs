//! Adapters as what bundles are made of.

use std::collections::BTreeMap;

use burn::module::Module;
use serde_json::Value;

use super::manifest::Member;
use super::name::check_name;
use crate::Error;
use crate::adapted::{Adapted, BASE_GAIN, SiteFactors, TrainedState, floats};
use crate::adapter::BaseGain;
use crate::adapter_params::is_adapter;
use crate::joint::LoraFactors;
use crate::site::Site;

/// What a bundle remembers of an adapter beside its numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    /// What it is called in the bundle.
    pub name: String,
    /// Its kind, for people.
    pub method: String,
    /// Names of the classes, if it has a head of its own.
    pub labels: Vec<String>,
    /// How its samples were written; see [`Description::data`](crate::folder::Description::data).
    pub data: Value,
}

/// An adapter as low-rank updates of its base, with what was trained beside them.
#[derive(Debug, Clone)]
pub struct LowRankAdapter {
    about: About,
    /// By path of the weight.
    updates: BTreeMap<String, Update>,
    beside: TrainedState,
}

#[derive(Debug, Clone)]
struct Update {
    site: Site,
    factors: LoraFactors,
}

impl LowRankAdapter {
    /// What an adapted model does to its base.
    ///
    /// # Errors
    /// If its name cannot be a member's, an update is more than one of low rank, or a number is not finite.
    pub fn of<M: Module>(adapted: &Adapted<M>, mut about: About) -> Result<Self, Error> {
        check_name(&about.name).map_err(|problem| Error::BadName { name: about.name.clone(), problem })?;
        adapted.check_factors()?;
        let mut updates = BTreeMap::new();
        // A weight may have lost all its ranks.
        for factors in adapted.factors().into_iter().filter(|factors| factors.rank > 0) {
            let update = Update::of(&factors, &about.name)?;
            updates.insert(factors.site.weight_path(), update);
        }
        let mut beside = adapted.state();
        beside.retain(|name, _| !is_adapter(name) && !adapted.has_coefficients(name) && name != BASE_GAIN);
        for (name, data) in &beside {
            let count = floats(data.clone()).iter().filter(|value| !value.is_finite()).count();
            if count > 0 {
                return Err(Error::NotFinite { name: name.clone(), count });
            }
        }
        if beside.is_empty() {
            // They are the base's.
            about.labels.clear();
        }
        Ok(Self { about, updates, beside })
    }

    /// Takes its updates at these weights out of it, with nothing where it has none: they are large, and needed once.
    pub(super) fn take_slots(&mut self, sites: &[Site]) -> Vec<LoraFactors> {
        let nothing = |site: &Site| {
            let (a, b) = (vec![0.0; site.d_in], vec![0.0; site.d_out]);
            LoraFactors::new(&a, &b, [site.d_in, site.d_out], 1.0)
        };
        let mut slot = |site: &Site| {
            let update = self.updates.remove(&site.weight_path());
            update.map_or_else(|| nothing(site), |update| update.factors)
        };
        sites.iter().map(&mut slot).collect()
    }

    /// Whether it changes no other weights than these.
    ///
    /// # Errors
    /// With the first that it does.
    pub(super) fn check_sites(&self, sites: &[Site]) -> Result<(), Error> {
        match self.updates.values().find(|update| !sites.contains(&update.site)) {
            Some(Update { site, .. }) => {
                Err(Error::NotInBundle { name: self.about.name.clone(), site: site.path.clone() })
            }
            None => Ok(()),
        }
    }

    /// How the manifest of a bundle names it.
    pub(super) fn member(&self, cluster: usize, lost: f64) -> Member {
        let About { name, method, labels, data } = self.about.clone();
        let beside = self.beside.iter().map(|(name, data)| (name.clone(), data.shape().to_vec())).collect();
        Member { name, method, cluster, lost: rounded_share(lost), labels, data, beside }
    }

    pub(super) fn name(&self) -> &str {
        &self.about.name
    }

    pub(super) fn into_beside(self) -> TrainedState {
        self.beside
    }
}

impl Update {
    fn of(factors: &SiteFactors, name: &str) -> Result<Self, Error> {
        let SiteFactors { site, scale, base, a, b, bias, magnitude, .. } = factors;
        let refused =
            |reason| Err(Error::NotLowRank { name: name.to_owned(), site: site.path.clone(), reason });
        let Some(a) = a else { return refused("its update is of full rank") };
        if magnitude.is_some() {
            return refused("it trains the lengths of the weight's columns, too");
        }
        if *base != BaseGain::WHOLE {
            return refused("it takes the place of the weight");
        }
        if bias.is_some() {
            return refused("it adds a bias");
        }
        // An update that outgrows `f32` would compute nothing, and its bases could not be found.
        let scaled = b.iter().map(|&value| (scale * f64::from(value)) as f32);
        let count = a.iter().copied().chain(scaled).filter(|value| !value.is_finite()).count();
        if count > 0 {
            return Err(Error::NotFinite { name: site.weight_path(), count });
        }
        let factors = LoraFactors::new(a, b, [site.d_in, site.d_out], *scale);
        Ok(Self { site: site.clone(), factors })
    }
}

/// All weights that one of the adapters changes.
///
/// # Errors
/// If there is no adapter that changes one, or two know other sizes of it.
pub(super) fn sites_of(adapters: &[LowRankAdapter]) -> Result<Vec<Site>, Error> {
    let mut sites: BTreeMap<String, Site> = BTreeMap::new();
    for adapter in adapters {
        for (path, update) in &adapter.updates {
            let known = sites.entry(path.clone()).or_insert_with(|| update.site.clone());
            if *known != update.site {
                let [one, other] =
                    [&*known, &update.site].map(|site| format!("{} x {}", site.d_in, site.d_out));
                return Err(Error::OtherSizes {
                    name: adapter.about.name.clone(),
                    path: path.clone(),
                    one,
                    other,
                });
            }
        }
    }
    if sites.is_empty() { Err(Error::NothingToCompress) } else { Ok(sites.into_values().collect()) }
}

/// A share between 0 and 1 with six digits, which JSON gives back as they are.
fn rounded_share(share: f64) -> f64 {
    let share = share.clamp(0.0, 1.0);
    if share < 1e-12 { 0.0 } else { format!("{share:.5e}").parse().expect("a number just written") }
}
