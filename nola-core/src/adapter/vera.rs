//! VeRA: one frozen random pair for the whole model, and two trained vectors in each weight that scale it.
//!
//! `ΔW = A·diag(d)·B·diag(b)`, where A and B are the top left blocks of the pair that fit the weight. The pair has the bits of
//! PEFT's, which PyTorch's generator on the CPU draws.
//!
//! # Source
//! Kopiczko, Blankevoort, Asano: *VeRA: Vector-based Random Matrix Adaptation* (ICLR 2024); PEFT's `VeraModel`.

use std::collections::BTreeMap;
use std::ops::Range;

use rand_mt::Mt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    CommonFactors, Count, Factor, FrozenMatrix, LinearCombination, MAX_RANK, Matrices, Method, PeftForm,
    Plan, Weights, check_number,
};
use crate::Error;
use crate::site::Site;

/// Scales of the bottleneck, and of the outputs.
pub(crate) const LAMBDA_D: &str = "lambda_d";
pub(crate) const LAMBDA_B: &str = "lambda_b";

/// VeRA: two vectors that scale one frozen random pair in every weight, and the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VeraConfig {
    /// Rank of the update, and so the trainable scales of the bottleneck in each weight.
    #[schemars(range(min = 1, max = MAX_RANK), example = 64)]
    pub rank: usize,
    /// First value of the bottleneck's scales; those of the outputs begin at 0.
    #[schemars(example = 0.2, extend("not" = { "enum": [0] }, "x-range" = "any number but 0"))]
    pub d_initial: f64,
    /// Seed of the frozen pair, of which PyTorch's generator uses the lowest 32 bits; part of the adapter.
    #[schemars(example = 1)]
    pub projection_prng_key: u64,
    /// Whether a folder of PEFT's holds the pair too: large, but independent of PyTorch's generator.
    #[schemars(example = true)]
    pub save_projection: bool,
}

impl Default for VeraConfig {
    /// PEFT's defaults, but for the pair, which is not stored.
    fn default() -> Self {
        Self { rank: 256, d_initial: 0.1, projection_prng_key: 0, save_projection: false }
    }
}

/// The frozen pair that all weights of a model take blocks of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct VeraPair {
    /// `[rank, widest d_in]`, row-major, as PyTorch has it.
    pub a: Vec<f32>,
    /// `[widest d_out, rank]`, likewise.
    pub b: Vec<f32>,
    pub rank: usize,
}

impl VeraPair {
    /// The pair that PEFT draws for a model whose widest targets have so many inputs and outputs.
    ///
    /// # Source
    /// PEFT's `_kaiming_init` with PyTorch's `uniform_` on the CPU: of each word of MT19937 the lowest 24 bits.
    pub(crate) fn drawn(key: u64, rank: usize, [d_in, d_out]: [usize; 2]) -> Self {
        // PyTorch takes a seed of 64 bits and uses 32.
        let mut words = Mt::new(key as u32);
        let mut matrix = |count: usize, fan_in: usize| {
            let bound = 3.0_f64.sqrt() * (2.0_f64.sqrt() / (fan_in as f64).sqrt());
            let (from, to) = (-bound as f32, bound as f32);
            let mut entry = |_| {
                let unit = (words.next_u32() & 0x00FF_FFFF) as f32 / 16_777_216.0;
                unit.mul_add(to - from, from)
            };
            (0..count).map(&mut entry).collect::<Vec<f32>>()
        };
        let a = matrix(rank * d_in, d_in);
        Self { a, b: matrix(d_out * rank, rank), rank }
    }

    /// A of a weight with so many inputs, `[d_in, rank]`.
    pub(crate) fn a_of(&self, d_in: usize) -> FrozenMatrix {
        let rows: Vec<&[f32]> = self.a.chunks(self.a.len() / self.rank).collect();
        let values: Vec<f32> = (0..d_in).flat_map(|input| rows.iter().map(move |row| row[input])).collect();
        FrozenMatrix::new(values, [d_in, self.rank])
    }

    /// B of so many outputs, `[rank, outputs]`.
    pub(crate) fn b_of(&self, outputs: Range<usize>) -> FrozenMatrix {
        let rows: Vec<&[f32]> = self.b.chunks(self.rank).skip(outputs.start).take(outputs.len()).collect();
        let values: Vec<f32> = (0..self.rank).flat_map(|r| rows.iter().map(move |row| row[r])).collect();
        FrozenMatrix::new(values, [self.rank, rows.len()])
    }
}

/// The blocks of a pair; weights of one shape have the same in memory.
pub(crate) struct VeraBlocks<'a> {
    pair: &'a VeraPair,
    a: BTreeMap<usize, FrozenMatrix>,
    b: BTreeMap<(usize, usize), FrozenMatrix>,
}

impl<'a> VeraBlocks<'a> {
    pub(crate) fn new(pair: &'a VeraPair) -> Self {
        Self { pair, a: BTreeMap::new(), b: BTreeMap::new() }
    }

    /// The update of a weight with so many inputs and these outputs of its module, scaled by d and b.
    pub(crate) fn plan(&mut self, d_in: usize, outputs: Range<usize>, d: Vec<f32>, b: Vec<f32>) -> Plan {
        let of_a = self.a.entry(d_in).or_insert_with(|| self.pair.a_of(d_in)).clone();
        let of_b = self.b.entry((outputs.start, outputs.end));
        let of_b = of_b.or_insert_with(|| self.pair.b_of(outputs)).clone();
        let scaled = |name, frozen, initial| {
            let matrices = Matrices::Columns(frozen);
            Factor::Combined(LinearCombination { name, matrices, offset: None, initial })
        };
        Plan::low_rank(scaled(LAMBDA_D, of_a, d), scaled(LAMBDA_B, of_b, b), self.pair.rank, 1.0)
    }
}

impl Method for VeraConfig {
    fn check(&self) -> Result<(), Error> {
        check_number("rank", self.rank, MAX_RANK)?;
        if self.d_initial == 0.0 || !self.d_initial.is_finite() {
            let cure = "use another number than 0, such as 0.1, or nothing would ever get a gradient";
            return Err(Error::BadSetting { field: "d_initial", value: self.d_initial.to_string(), cure });
        }
        Ok(())
    }

    fn resolve(&mut self) {}

    fn rank(&self) -> usize {
        self.rank
    }

    fn set_rank(&mut self, rank: usize) {
        self.rank = rank;
    }

    fn set_seed(&mut self, seed: u64) {
        self.projection_prng_key = seed;
    }

    fn learning_rate(&self) -> f64 {
        2e-2
    }

    fn coefficients(&self) -> Vec<(&'static str, Count)> {
        vec![(LAMBDA_D, Count::InEachSite(self.rank)), (LAMBDA_B, Count::OfItsShape)]
    }

    fn peft_form(&self) -> PeftForm<'_> {
        PeftForm::Vera(self)
    }

    /// The blocks of the pair.
    fn common_factors(&self) -> Option<CommonFactors> {
        let key = format!("vera of rank {}, key {}", self.rank, self.projection_prng_key);
        Some(CommonFactors { key, cores: LAMBDA_D, scale: 1.0, gains: Some(LAMBDA_B) })
    }

    /// The pair is as wide as the widest site: another choice of sites may have another pair.
    fn plan(&self, sites: &[Site], _weights: Weights) -> Result<Vec<Plan>, Error> {
        let widest = |width: fn(&Site) -> usize| sites.iter().map(width).max().unwrap_or_default();
        let widths = [widest(|site| site.d_in), widest(|site| site.d_out)];
        let pair = VeraPair::drawn(self.projection_prng_key, self.rank, widths);
        let mut blocks = VeraBlocks::new(&pair);
        let plan = |site: &Site| {
            let (d, b) = (vec![self.d_initial as f32; self.rank], vec![0.0; site.d_out]);
            blocks.plan(site.d_in, 0..site.d_out, d, b)
        };
        Ok(sites.iter().map(plan).collect())
    }

    fn described(&self) -> String {
        format!("VeRA, rank {}", self.rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(d_in: usize, d_out: usize) -> Site {
        Site::linear(format!("of{d_in}x{d_out}"), d_in, d_out)
    }

    fn frozen(factor: &Factor) -> &FrozenMatrix {
        let Factor::Combined(combined) = factor else { panic!("VeRA combines") };
        combined.matrices.frozen().expect("frozen matrices")
    }

    fn planned(sites: &[Site]) -> Vec<Plan> {
        let config = VeraConfig { rank: 3, ..VeraConfig::default() };
        config.plan(sites, &|_| Vec::new()).expect("a valid plan")
    }

    #[test]
    fn a_site_trains_its_rank_and_its_outputs() {
        assert_eq!(planned(&[site(24, 40)])[0].trainable_parameters(40), 3 + 40);
    }

    #[test]
    fn a_narrow_site_has_the_corner_of_a_wide_ones_matrices() {
        let plans = planned(&[site(4, 5), site(2, 3)]);
        let [wide, narrow] = [&plans[0], &plans[1]];
        assert_eq!(frozen(&narrow.a).values(), &frozen(&wide.a).values()[..2 * 3]);
        let corner: Vec<f32> =
            frozen(&wide.b).values().chunks(5).flat_map(|row| &row[..3]).copied().collect();
        assert_eq!(frozen(&narrow.b).values(), corner);
    }

    #[test]
    fn sites_of_one_shape_share_the_memory_of_their_matrices() {
        let plans = planned(&[site(4, 5), site(4, 5)]);
        assert!(frozen(&plans[0].a).is_shared_with(frozen(&plans[1].a)));
        assert!(frozen(&plans[0].b).is_shared_with(frozen(&plans[1].b)));
    }

    #[test]
    fn entries_have_the_variance_of_a_kaiming_draw() {
        let pair = VeraPair::drawn(7, 64, [96, 40]);
        let variance =
            |values: &[f32]| values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64;
        assert!((0.9..1.1).contains(&(variance(&pair.a) * 96.0 / 2.0)));
        assert!((0.9..1.1).contains(&(variance(&pair.b) * 64.0 / 2.0)));
    }

    #[test]
    fn a_start_at_zero_is_refused_by_name() {
        let error = VeraConfig { d_initial: 0.0, ..VeraConfig::default() }.check().expect_err("dead");
        assert!(error.to_string().contains("`d_initial` is 0"), "{error}");
    }
}
