//! Adapters: one file each, one line each in the [list](AdapterConfig), and one shape of result for all of them.
//!
//! Every adapter is planned on the host from its settings, the sites it is attached to and their weights
//! ([`Method::plan`]), and becomes an [`Update`](crate::Update) of each weight. Merging, saving, freezing and the
//! factored forward are written once, over `Update`.

mod alora;
mod dora;
mod factor;
mod from_weight;
mod list;
mod lora;
mod lora_xs;
mod nola;
mod olora;
mod pc_lora;
mod pissa;
mod pranc;
mod rank_moves;
pub(crate) mod vera;

pub use alora::AloraConfig;
pub use dora::DoraConfig;
pub use factor::{Factor, FrozenMatrix, LinearCombination, Matrices};
pub use from_weight::FromWeightConfig;
pub(crate) use from_weight::Start;
pub use list::AdapterConfig;
pub use lora::{LoraConfig, LoraVariant};
pub use lora_xs::LoraXsConfig;
pub use nola::{CountPer, NolaConfig, Preset, Sharing};
pub use olora::OloraConfig;
pub use pc_lora::{Fade, LayerBias, PcLoraConfig};
pub use pissa::PissaConfig;
pub use pranc::{PrancConfig, PrancMode};
pub use rank_moves::{Moved, RankMoves, moved};
pub use vera::VeraConfig;

use std::collections::BTreeMap;
use std::f64::consts::TAU;

use crate::philox::fnv1a_32;
use crate::quantized::CoefficientBits;
use crate::site::{Site, SiteKind};
use crate::{Error, basis};

/// Largest rank, and largest number of coefficients of a factor; a larger number is a typo or an attack.
pub(crate) const MAX_RANK: usize = 1 << 16;
pub(crate) const MAX_COEFFICIENTS: usize = 1 << 20;

/// Refuses a number that is 0 or beyond `most`.
pub(crate) fn check_number(field: &'static str, value: usize, most: usize) -> Result<(), Error> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    let cure = if value == 0 { "use at least 1" } else { "use less; that is more than any adapter has" };
    Err(Error::BadSetting { field, value: value.to_string(), cure })
}

/// Refuses a numerator of an update's factor with which nothing could be learned.
fn check_alpha(alpha: f64) -> Result<(), Error> {
    if alpha.is_finite() && alpha != 0.0 {
        return Ok(());
    }
    Err(Error::BadSetting { field: "alpha", value: alpha.to_string(), cure: "use any number but 0" })
}

/// How many coefficients of one name there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// So many in each site.
    InEachSite(usize),
    /// In each site as many as its shape says.
    OfItsShape,
    /// So many, which all sites have in common.
    Shared(usize),
}

/// What an adapter is in a folder of PEFT's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PeftForm<'a> {
    /// A LoRA that computes the same.
    Lora,
    /// PEFT's own VeRA, where its modules are sites of ours as a whole; else a LoRA.
    Vera(&'a VeraConfig),
}

/// The frozen factors of an adapter, which others have in common with it over one base, and what it has between them.
#[derive(Debug, Clone, PartialEq)]
pub struct CommonFactors {
    /// What they follow from, beside the base and the sites.
    pub key: String,
    /// Name of the coefficients between them.
    pub cores: &'static str,
    /// What those are multiplied by.
    pub scale: f64,
    /// Name of the coefficients that scale the outputs, if there are such.
    pub gains: Option<&'static str>,
}

/// The weight of a site, `[d_in, d_out]`, row-major; it is read from the model when it is asked for.
pub type Weights<'a> = &'a dyn Fn(&Site) -> Vec<f32>;

/// What an adapter does; its settings are the fields of the type that implements this, and exist nowhere else.
pub trait Method {
    /// Refuses settings that cannot be meant.
    ///
    /// # Errors
    /// [`Error::BadSetting`] with the first of them.
    fn check(&self) -> Result<(), Error>;

    /// Fills in the settings that follow from others, so that they are written down.
    fn resolve(&mut self);

    /// Width of the bottleneck.
    fn rank(&self) -> usize;

    /// Takes another width of the bottleneck.
    fn set_rank(&mut self, rank: usize);

    /// Takes another seed.
    fn set_seed(&mut self, seed: u64);

    /// Learning rate where a recipe gives none: chosen on small models, see "Learning rates" in `benchmarks/README.md`.
    fn learning_rate(&self) -> f64;

    /// What the learning rate of each part of an update is multiplied by.
    fn rate_factors(&self) -> RateFactors {
        RateFactors::ALIKE
    }

    /// The tensors that its folder holds, each with how many numbers there are; none if it is written as PEFT writes it.
    fn coefficients(&self) -> Vec<(&'static str, Count)> {
        Vec::new()
    }

    /// What it is in a folder of PEFT's.
    fn peft_form(&self) -> PeftForm<'_> {
        PeftForm::Lora
    }

    /// The factors that it has in common with other adapters of its kind, if it has.
    fn common_factors(&self) -> Option<CommonFactors> {
        None
    }

    /// The format of its folder.
    fn format(&self) -> Format {
        if self.coefficients().is_empty() { Format::Peft } else { Format::Native }
    }

    /// Why no plain LoRA computes the same, if none does.
    fn unlike_lora(&self) -> Option<&'static str> {
        None
    }

    /// Whether it adapts the tables of embeddings too.
    fn adapts_embeddings(&self) -> bool {
        false
    }

    /// What is left of the base in optimizer step `step` of `steps`, counted from 0; nothing if the plans decide it.
    fn base_gain(&self, _step: usize, _steps: usize) -> Option<BaseGain> {
        None
    }

    /// How much of the loss is that of the task, between 0 and 1; the rest compares the outputs of adapted layers with those
    /// of the base. Nothing if the loss is that of the task alone.
    fn task_share(&self) -> Option<f64> {
        None
    }

    /// When ranks move from some weights to others during training, if they do.
    fn rank_moves(&self) -> Option<RankMoves> {
        None
    }

    /// Refuses a run of `steps` optimizer steps that is too short for what the adapter does in it.
    ///
    /// # Errors
    /// [`Error::BadSetting`] with the cure.
    fn check_run(&self, _steps: usize) -> Result<(), Error> {
        Ok(())
    }

    /// What is attached to each of `sites`; the settings were checked.
    ///
    /// # Errors
    /// If two sites would share random numbers by accident, or the weights are not what the adapter needs.
    fn plan(&self, sites: &[Site], weights: Weights) -> Result<Vec<Plan>, Error>;

    /// Its settings in a line for people.
    fn described(&self) -> String;
}

/// Who else reads an adapter folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// This project alone.
    Native,
    /// PEFT: a plain LoRA.
    Peft,
}

impl AdapterConfig {
    /// Whether its folder holds coefficients, in few bits.
    pub fn has_coefficients(&self) -> bool {
        !self.method().coefficients().is_empty()
    }

    /// What is attached to each of `sites`.
    ///
    /// # Errors
    /// As [`Method::check`] and [`Method::plan`], or if a site is an embedding and the method adapts none.
    pub fn plan(&self, sites: &[Site], weights: Weights) -> Result<Vec<Plan>, Error> {
        self.method().check()?;
        let embedding = sites.iter().find(|site| site.kind == SiteKind::Embedding);
        if let Some(site) = embedding.filter(|_| !self.method().adapts_embeddings()) {
            return Err(Error::EmbeddingSite { site: site.path.clone() });
        }
        self.method().plan(sites, weights)
    }
}

/// What the learning rate is multiplied by, for each part of an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateFactors {
    /// For A.
    pub a: f64,
    /// For B.
    pub b: f64,
    /// For the lengths of columns.
    pub magnitude: f64,
}

impl RateFactors {
    /// One rate for all of it.
    pub const ALIKE: Self = Self { a: 1.0, b: 1.0, magnitude: 1.0 };
}

/// What will be attached to one weight, as the host sees it: `scale · (A·B - A₀·B₀)`, and what else changes the product.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `[d_in, rank]`.
    pub a: Factor,
    /// `[rank, d_out]`.
    pub b: Factor,
    /// Width of the bottleneck; d_in if A is the identity.
    pub rank: usize,
    /// Factor of the whole update.
    pub scale: f64,
    /// A₀ `[d_in, rank]` and B₀ `[rank, d_out]`, frozen, whose product is taken away: an update that starts at them changes
    /// nothing at first.
    pub start: Option<[FrozenMatrix; 2]>,
    /// What is left of the base layer.
    pub base: BaseGain,
    /// A trained bias that is added to the outputs, at first, `[d_out]`.
    pub bias: Option<Vec<f32>>,
    /// Whether each column of the updated weight has a trained length.
    pub magnitude: Magnitude,
    /// Pairs of factors that can be added to A and B during training.
    pub further_pairs: usize,
    /// What of the update's input is dropped in training.
    pub dropout: Option<Dropout>,
    /// What is common to the coefficients of both factors, if they are linear combinations; the same for all sites.
    pub coefficients: Coefficients,
}

/// Entries of an input that are 0 in a pass of training, so that none is relied on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Share of them.
    pub rate: f64,
    /// What decides, with the site and the pass, which ones.
    pub seed: u64,
}

/// How the coefficients of linear combinations are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coefficients {
    /// Whose they are.
    pub owner: Owner,
    /// Bits that they are rounded to before they are used; the optimizer moves the unrounded ones.
    pub rounding: CoefficientBits,
}

/// Who has coefficients of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owner {
    /// Every site.
    #[default]
    Site,
    /// All sites together: they combine their matrices alike.
    AllSites,
}

/// What the parts of a base layer are multiplied by; 0 drops them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BaseGain {
    /// Of the weight.
    pub weight: f64,
    /// Of the bias.
    pub bias: f64,
}

impl BaseGain {
    /// The layer as it is.
    pub const WHOLE: Self = Self { weight: 1.0, bias: 1.0 };
}

/// Whether the columns of a weight have lengths of their own.
///
/// # Source
/// DoRA (Liu et al., ICML 2024): the weight's directions and lengths are trained apart.
#[derive(Debug, Clone, PartialEq)]
pub enum Magnitude {
    /// They are as long as the update makes them.
    Free,
    /// They have trained lengths, those of the base at first.
    OfBase,
    /// They have trained lengths, these at first, `[d_out]`.
    Given(Vec<f32>),
}

impl Magnitude {
    /// Whether the columns have lengths of their own.
    pub fn is_trained(&self) -> bool {
        match self {
            Self::Free => false,
            Self::OfBase | Self::Given(_) => true,
        }
    }
}

impl Plan {
    /// `scale · A·B` and nothing else.
    pub fn low_rank(a: Factor, b: Factor, rank: usize, scale: f64) -> Self {
        Self {
            a,
            b,
            rank,
            scale,
            start: None,
            base: BaseGain::WHOLE,
            bias: None,
            magnitude: Magnitude::Free,
            further_pairs: 0,
            dropout: None,
            coefficients: Coefficients::default(),
        }
    }

    /// Whether it is `scale · A·B` and nothing else.
    pub(crate) fn is_low_rank_alone(&self) -> bool {
        let changes_outputs =
            self.base != BaseGain::WHOLE || self.bias.is_some() || self.magnitude.is_trained();
        let has_more_pairs = self.start.is_some() || self.further_pairs > 0;
        !matches!(self.a, Factor::Identity) && !changes_outputs && !has_more_pairs && self.dropout.is_none()
    }

    /// Trainable parameters of a site with `d_out` outputs, without those that all sites share.
    pub fn trainable_parameters(&self, d_out: usize) -> usize {
        let lengths = if self.magnitude.is_trained() { d_out } else { 0 };
        let bias = self.bias.as_ref().map_or(0, Vec::len);
        let of_factor = |factor: &Factor| match (factor, self.coefficients.owner) {
            (Factor::Combined(_), Owner::AllSites) => 0,
            (_, Owner::Site | Owner::AllSites) => factor.trainable_parameters(),
        };
        of_factor(&self.a) + of_factor(&self.b) + bias + lengths
    }
}

/// Two names with one hash would silently share their random numbers.
fn check_hashes(names: Vec<String>) -> Result<(), Error> {
    let mut known: BTreeMap<u32, String> = BTreeMap::new();
    for name in names {
        match known.get(&fnv1a_32(&name)) {
            Some(first) if *first != name => {
                return Err(Error::HashCollision { first: first.clone(), second: name });
            }
            Some(_) => {}
            None => drop(known.insert(fnv1a_32(&name), name)),
        }
    }
    Ok(())
}

/// Entries of LoRA's initial A and of `code-2024`'s offset: uniform in ±1/√d_in.
///
/// # Source
/// `kaiming_uniform_(a = √5)` of the reference implementations: bound √(6 / ((1 + 5)·fan_in)).
pub(crate) fn kaiming_uniform(seed: u64, site: &Site, rank: usize) -> Vec<f32> {
    let generator = basis::Generator {
        distribution: basis::Distribution::Uniform,
        seed,
        site: fnv1a_32(&site.weight_path()),
        stream: basis::Stream::OffsetA,
    };
    let bound = 1.0 / (site.d_in as f32).sqrt();
    let values = generator.values(0, site.d_in * rank);
    values.into_iter().map(|value| bound * value).collect()
}

/// Normal entries around zero, by Box's and Muller's transform of uniform numbers.
pub(crate) fn normal(
    seed: u64,
    site: &Site,
    stream: basis::Stream,
    deviation: f64,
    count: usize,
) -> Vec<f32> {
    let site = fnv1a_32(&site.weight_path());
    let generator = basis::Generator { distribution: basis::Distribution::Uniform, seed, site, stream };
    let uniform = |word: u32| (f64::from(word) + 0.5) / 2.0_f64.powi(32);
    let number = |n: usize| {
        let [first, second, ..] = generator.words(n as u32, 0);
        let (length, angle) = ((-2.0 * uniform(first).ln()).sqrt(), TAU * uniform(second));
        (deviation * length * angle.cos()) as f32
    };
    (0..count).map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weight of the one site of [`planned`].
    pub(super) fn weight([d_in, d_out]: [usize; 2]) -> Vec<f32> {
        (0..d_in * d_out).map(|n| (n as f32 * 1.7 + 0.3).sin()).collect()
    }

    /// What a method attaches to a weight of this shape.
    pub(super) fn planned(method: &impl Method, [d_in, d_out]: [usize; 2]) -> Result<Plan, Error> {
        let site = Site::linear("blocks.0.mlp.up", d_in, d_out);
        let mut plans = method.plan(&[site], &|site| weight([site.d_in, site.d_out]))?;
        Ok(plans.remove(0))
    }
}
