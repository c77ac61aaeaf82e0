//! NOLA: both low-rank factors are linear combinations of frozen random matrices; only their coefficients are trained.
//!
//! # Source
//! Koohpayegani, Navaneet, Nooralinejad, Kolouri, Pirsiavash: *NOLA: Compressing LoRA using Linear Combination of
//! Random Basis* (ICLR 2024), and the three settings found in the authors' releases.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Coefficients, Count, Factor, LinearCombination, MAX_COEFFICIENTS, MAX_RANK, Magnitude, Matrices, Method,
    Plan, Weights, check_alpha, check_hashes, check_number, kaiming_uniform,
};
use crate::Error;
use crate::basis::{Basis, Distribution, Generator, Stream};
use crate::philox::fnv1a_32;
use crate::quantized::CoefficientBits;
use crate::site::Site;

/// Which published setting of NOLA: entry scale, offset, initial coefficients and scale of the update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Ours: entries U(±1)/√k, A drawn with LoRA's variance, B zero, nothing stored; scale alpha/rank.
    #[default]
    Default,
    /// The paper's GPT-2 tables: entries U(±1/√(rows·cols)), all coefficients 1/k; scale alpha/rank.
    #[serde(rename = "paper-2023")]
    Paper2023,
    /// The authors' GPT-2 and LLaMA-2 scripts: entries U(±1)/√k, coefficients 0 beside a frozen A₀; scale alpha/rank.
    #[serde(rename = "code-2024")]
    Code2024,
    /// The authors' ViT script: entries U(±1/√(rows·cols)), all coefficients 1/k; scale 1/rank.
    #[serde(rename = "vit-2024")]
    Vit2024,
}

/// Whether sites of one shape combine the same matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Every site has a basis of its own.
    #[default]
    Separate,
    /// One basis for each shape.
    Shared,
}

/// What numbers of coefficients are the same for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "lowercase")]
pub enum CountPer {
    /// Every weight.
    #[default]
    Site,
    /// Every input or output: the widest weight has `k` and `l`, narrower ones in proportion.
    Width,
}

/// Widths of the widest weights, which have the `k` and the `l` of the settings.
#[derive(Debug, Clone, Copy)]
struct Widest {
    d_in: usize,
    d_out: usize,
}

/// Coefficients of the factor A, and of B.
const ALPHA: &str = "alpha";
const BETA: &str = "beta";

/// NOLA: coefficients that combine random matrices into low-rank updates, and the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NolaConfig {
    /// Rank of the update; it costs no trainable parameter.
    #[schemars(range(min = 1, max = MAX_RANK), example = 8)]
    pub rank: usize,
    /// Random matrices that are combined into the factor A, and so the trainable coefficients of A in each weight.
    #[schemars(range(min = 1, max = MAX_COEFFICIENTS), example = 1024, extend("x-unit" = "matrices"))]
    pub k: usize,
    /// Random matrices that are combined into the factor B, and so the trainable coefficients of B in each weight.
    #[schemars(
        range(min = 1, max = MAX_COEFFICIENTS),
        example = 512,
        extend("x-unit" = "matrices", "x-default" = "as `k`")
    )]
    pub l: Option<usize>,
    /// Numerator of the update's factor `alpha / rank`.
    #[schemars(
        example = 4.0,
        extend(
            "not" = { "enum": [0] },
            "x-range" = "any number but 0",
            "x-default" = "as `rank`, for a factor of 1; 1 with the presets paper-2023 and vit-2024"
        )
    )]
    pub alpha: Option<f64>,
    /// Published setting that decides scale, offset and first coefficients.
    #[schemars(example = &"code-2024")]
    pub preset: Preset,
    /// Distribution of the random entries.
    #[schemars(example = &"sign")]
    pub basis: Distribution,
    /// Whether weights of one shape share one basis.
    #[schemars(example = &"shared")]
    pub sharing: Sharing,
    /// Whether `k` and `l` are those of every weight, or follow its width.
    #[schemars(example = &"width")]
    pub k_per: CountPer,
    /// Whether the length of each column of the updated weight is trained beside its direction, as in DoRA.
    #[schemars(example = true)]
    pub use_dora: bool,
    /// Bits that coefficients are rounded to while they are trained; 32 rounds nothing. Store them in as many
    /// (`output.coefficient_bits`), and the adapter that was trained is the one that is stored.
    #[schemars(example = 4, extend("enum" = [32, 8, 4, 3, 2], "x-unit" = "bits"))]
    pub train_bits: u8,
    /// Seed of the basis; part of the adapter.
    #[schemars(example = 1)]
    pub seed: u64,
}

impl Default for NolaConfig {
    fn default() -> Self {
        Self {
            rank: 4,
            k: 64,
            l: None,
            alpha: None,
            preset: Preset::Default,
            basis: Distribution::Uniform,
            sharing: Sharing::Separate,
            k_per: CountPer::Site,
            use_dora: false,
            train_bits: 32,
            seed: 0,
        }
    }
}

impl NolaConfig {
    /// Random matrices that are combined into B, and coefficients of B in each weight.
    pub fn l(&self) -> usize {
        self.l.unwrap_or(self.k)
    }

    /// Numerator of the update's factor: the rank (a factor of 1) where the preset leaves it free, else 1.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(match self.preset {
            Preset::Default | Preset::Code2024 => self.rank as f64,
            Preset::Paper2023 | Preset::Vit2024 => 1.0,
        })
    }

    /// Factor of the update.
    pub fn scale(&self) -> f64 {
        match self.preset {
            Preset::Default | Preset::Paper2023 | Preset::Code2024 => self.alpha() / self.rank as f64,
            Preset::Vit2024 => 1.0 / self.rank as f64,
        }
    }

    /// Numbers of coefficients of a site, of A and of B.
    fn counts(&self, site: &Site, widest: Widest) -> [usize; 2] {
        let of = |count: usize, width: usize, widest: usize| match self.k_per {
            CountPer::Site => count,
            CountPer::Width => ((count * width) as f64 / widest as f64).round().max(1.0) as usize,
        };
        [of(self.k, site.d_in, widest.d_in), of(self.l(), site.d_out, widest.d_out)]
    }

    fn combined_a(&self, site: &Site, k: usize) -> LinearCombination {
        let shape = [site.d_in, self.rank];
        let offset = match self.preset {
            Preset::Code2024 => Some(Arc::from(kaiming_uniform(self.seed, site, self.rank))),
            Preset::Default | Preset::Paper2023 | Preset::Vit2024 => None,
        };
        let initial = match self.preset {
            Preset::Default => self.drawn_coefficients(site, k),
            Preset::Code2024 => vec![0.0; k],
            Preset::Paper2023 | Preset::Vit2024 => vec![1.0 / k as f32; k],
        };
        let matrices = Matrices::Random(self.basis(site, Stream::A, k, shape));
        LinearCombination { name: ALPHA, matrices, offset, initial }
    }

    /// What coefficients are rounded to; the width was checked.
    fn rounding(&self) -> CoefficientBits {
        CoefficientBits::try_from(self.train_bits).unwrap_or_default()
    }

    fn combined_b(&self, site: &Site, l: usize) -> LinearCombination {
        let initial = match self.preset {
            Preset::Default | Preset::Code2024 => 0.0,
            Preset::Paper2023 | Preset::Vit2024 => 1.0 / l as f32,
        };
        LinearCombination {
            name: BETA,
            matrices: Matrices::Random(self.basis(site, Stream::B, l, [self.rank, site.d_out])),
            offset: None,
            initial: vec![initial; l],
        }
    }

    fn basis(&self, site: &Site, stream: Stream, count: usize, shape: [usize; 2]) -> Basis {
        let generator = Generator {
            distribution: self.basis,
            seed: self.seed,
            site: fnv1a_32(&self.basis_name(site, shape)),
            stream,
        };
        Basis::generated(generator, count, shape, self.entry_scale(count, shape))
    }

    /// What a site's basis is named after: the weight, or the shape if sites share.
    fn basis_name(&self, site: &Site, [rows, cols]: [usize; 2]) -> String {
        match self.sharing {
            Sharing::Separate => site.weight_path(),
            Sharing::Shared => format!("{rows}x{cols}"),
        }
    }

    /// Both distributions get the same variance, so that one learning rate serves both.
    fn entry_scale(&self, count: usize, [rows, cols]: [usize; 2]) -> f32 {
        let numbers = match self.preset {
            Preset::Default | Preset::Code2024 => count,
            Preset::Paper2023 | Preset::Vit2024 => rows * cols,
        } as f64;
        let variance_ratio = match self.basis {
            Distribution::Uniform => 1.0,
            Distribution::Sign => 3.0,
        };
        (1.0 / (variance_ratio * numbers).sqrt()) as f32
    }

    /// alpha_i = √(3/d_in)·u_i, so that the entries of A have LoRA's variance, 1/(3·d_in).
    fn drawn_coefficients(&self, site: &Site, k: usize) -> Vec<f32> {
        let generator = Generator {
            distribution: Distribution::Uniform,
            seed: self.seed,
            site: fnv1a_32(&site.weight_path()),
            stream: Stream::Coefficients,
        };
        let scale = (3.0 / site.d_in as f64).sqrt() as f32;
        generator.values(0, k).into_iter().map(|u| scale * u).collect()
    }

    /// What random numbers are named after.
    fn names(&self, sites: &[Site]) -> Vec<String> {
        let shapes = |site: &Site| [[site.d_in, self.rank], [self.rank, site.d_out]];
        let of_bases = (sites.iter()).flat_map(|site| shapes(site).map(|shape| self.basis_name(site, shape)));
        of_bases.chain(sites.iter().map(Site::weight_path)).collect()
    }
}

impl Method for NolaConfig {
    fn check(&self) -> Result<(), Error> {
        check_number("rank", self.rank, MAX_RANK)?;
        check_alpha(self.alpha())?;
        check_number("k", self.k, MAX_COEFFICIENTS)?;
        check_number("l", self.l(), MAX_COEFFICIENTS)?;
        if ![32, 8, 4, 3, 2].contains(&self.train_bits) {
            let cure = "use 32, 8, 4, 3 or 2";
            return Err(Error::BadSetting { field: "train_bits", value: self.train_bits.to_string(), cure });
        }
        if self.preset == Preset::Vit2024 && self.alpha() != 1.0 {
            let cure = "the preset vit-2024 has a factor of 1 / rank: leave it out";
            return Err(Error::BadSetting { field: "alpha", value: self.alpha().to_string(), cure });
        }
        Ok(())
    }

    fn resolve(&mut self) {
        self.l = Some(self.l());
        self.alpha = Some(self.alpha());
    }

    fn rank(&self) -> usize {
        self.rank
    }

    fn set_rank(&mut self, rank: usize) {
        self.rank = rank;
    }

    fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    fn learning_rate(&self) -> f64 {
        2e-2
    }

    fn coefficients(&self) -> Vec<(&'static str, Count)> {
        let count = |count| match self.k_per {
            CountPer::Site => Count::InEachSite(count),
            CountPer::Width => Count::OfItsShape,
        };
        vec![(ALPHA, count(self.k)), (BETA, count(self.l()))]
    }

    fn plan(&self, sites: &[Site], _weights: Weights) -> Result<Vec<Plan>, Error> {
        check_hashes(self.names(sites))?;
        let width = |of: fn(&Site) -> usize| sites.iter().map(of).max().unwrap_or(1);
        let widest = Widest { d_in: width(|site| site.d_in), d_out: width(|site| site.d_out) };
        let magnitude = if self.use_dora { Magnitude::OfBase } else { Magnitude::Free };
        let coefficients = Coefficients { rounding: self.rounding(), ..Coefficients::default() };
        let plan = |site: &Site| {
            let [k, l] = self.counts(site, widest);
            let [a, b] = [self.combined_a(site, k), self.combined_b(site, l)].map(Factor::Combined);
            let low_rank = Plan::low_rank(a, b, self.rank, self.scale());
            Plan { magnitude: magnitude.clone(), coefficients, ..low_rank }
        };
        Ok(sites.iter().map(plan).collect())
    }

    fn described(&self) -> String {
        let Self { rank, k, preset, seed, .. } = self;
        let l = self.l();
        format!(
            "NOLA (Koohpayegani et al., ICLR 2024): rank {rank}, k {k}, l {l}, preset {preset:?}, seed {seed}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AdapterConfig;

    fn site(path: &str) -> Site {
        Site::linear(path, 96, 40)
    }

    fn planned(config: &NolaConfig, sites: &[Site]) -> Result<Vec<Plan>, Error> {
        AdapterConfig::from(config.clone()).plan(sites, &|_| Vec::new())
    }

    fn variance(values: &[f32]) -> f64 {
        values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64
    }

    fn initial_a(config: &NolaConfig) -> Vec<f32> {
        let plans = planned(config, &[site("blocks.0.mlp.up")]).expect("a valid plan");
        plans[0].a.initial().expect("a matrix")
    }

    #[test]
    fn the_default_a_has_the_variance_of_loras() {
        for basis in [Distribution::Uniform, Distribution::Sign] {
            let config = NolaConfig { rank: 64, k: 64, l: Some(64), basis, ..NolaConfig::default() };
            let ratio = variance(&initial_a(&config)) * 3.0 * 96.0;
            assert!((0.6..1.5).contains(&ratio), "{basis:?}: {ratio}");
        }
    }

    #[test]
    fn the_papers_a_has_the_published_spread() {
        let config = NolaConfig { rank: 8, k: 1000, preset: Preset::Paper2023, ..NolaConfig::default() };
        let plans = planned(&config, &[Site::linear("x", 1024, 1024)]);
        let a = plans.expect("a valid plan")[0].a.initial().expect("a matrix");
        let spread = variance(&a).sqrt();
        assert!((spread / 2.0e-4 - 1.0).abs() < 0.05, "{spread}");
    }

    #[test]
    fn code_2024_starts_at_its_offset() {
        let config = NolaConfig { preset: Preset::Code2024, ..NolaConfig::default() };
        assert_eq!(initial_a(&config), kaiming_uniform(0, &site("blocks.0.mlp.up"), config.rank));
    }

    #[test]
    fn a_site_trains_its_coefficients_whatever_its_shape_and_rank() {
        let config = NolaConfig { rank: 50, k: 8, l: Some(3), ..NolaConfig::default() };
        let plans = planned(&config, &[site("a.up")]).expect("a valid plan");
        assert_eq!(plans[0].trainable_parameters(40), 8 + 3);
    }

    #[test]
    fn sites_of_one_shape_share_a_basis_but_not_their_coefficients() {
        let config = NolaConfig { k: 8, l: Some(8), sharing: Sharing::Shared, ..NolaConfig::default() };
        let plans = planned(&config, &[site("a.up"), site("b.up")]).expect("a valid plan");
        let [Factor::Combined(first), Factor::Combined(second)] = [&plans[0].a, &plans[1].a] else {
            panic!("NOLA combines")
        };
        assert_eq!(first.expand(&[1.0; 8]), second.expand(&[1.0; 8]));
        assert_ne!(first.initial, second.initial);
    }

    #[test]
    fn a_rank_of_zero_is_refused_by_name() {
        let config = NolaConfig { rank: 0, ..NolaConfig::default() };
        let error = planned(&config, &[site("x")]).expect_err("rank 0");
        assert!(error.to_string().contains("`rank` is 0"), "{error}");
    }

    #[test]
    fn two_paths_with_one_hash_are_refused() {
        // Found by searching: both hash to the same 32 bits.
        let (first, second) = colliding_paths();
        let error = planned(&NolaConfig::default(), &[site(&first), site(&second)]);
        assert!(matches!(error, Err(Error::HashCollision { .. })));
    }

    /// A birthday search over short paths: some 100,000 of them hold a collision with near certainty.
    fn colliding_paths() -> (String, String) {
        let mut seen = std::collections::HashMap::new();
        for number in 0_u32.. {
            let path = format!("m{number}");
            let hash = fnv1a_32(&site(&path).weight_path());
            if let Some(first) = seen.insert(hash, path.clone()) {
                return (first, path);
            }
        }
        unreachable!("there are more numbers than hashes")
    }
}
