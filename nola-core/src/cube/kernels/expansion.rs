//! Coefficients become factors.

use cubecl::prelude::*;

use super::numbers::{philox, signed, uniform};
use super::{CHUNK, Four, SIGNS_OF_A_WORD, Terms, UNIFORM_BLOCK, UNITS, part, rows, sum_of_lanes};
use crate::basis::Distribution;

/// Calls that four units make for each other under the sign distribution, and words of a call.
const QUAD: u32 = 4;
/// Distance of a call's words in shared memory: odd, so that the units of a quad meet no bank twice.
const WORD_STRIDE: u32 = UNITS + 1;

/// Mixes bases; `lanes` units share a sum, and `together` sites have one basis.
///
/// `sites` holds the hash and the row of each site, and a site begins every `chunks · CHUNK` elements of `factors`;
/// `sites` goes on to whole groups of `together` sites.
#[cube(launch_unchecked)]
pub(crate) fn expand(
    coefficients: &[f32],
    sites: &[u32],
    factors: &mut [Four],
    terms: Terms,
    #[comptime] distribution: Distribution,
    #[comptime] lanes: u32,
    #[comptime] together: u32,
) {
    match comptime!(distribution) {
        Distribution::Uniform => expand_uniform(coefficients, sites, factors, &terms, lanes, together),
        Distribution::Sign => expand_sign(coefficients, sites, factors, &terms, lanes),
    }
}

/// A unit owns a block of eight elements and takes every `lanes`th coefficient.
#[cube]
fn expand_uniform(
    coefficients: &[f32],
    sites: &[u32],
    factors: &mut [Four],
    terms: &Terms,
    #[comptime] lanes: u32,
    #[comptime] together: u32,
) {
    let mut shared = Shared::<[Four]>::new_slice(comptime!(UNITS as usize));
    let part = part(terms, lanes, together);
    if part.site < terms.sites {
        let hash = sites[(2u32 * part.site) as usize];
        let rows = rows(sites, part.site, terms, together);
        let mut sums = Array::<Four>::new(comptime!(2 * together as usize));
        let mut index = part.lane;
        while index < terms.count {
            let words = philox(part.column, index, hash, terms);
            let left = uniform(words.extract(0usize), words.extract(1usize));
            let right = uniform(words.extract(2usize), words.extract(3usize));
            #[unroll]
            for member in 0..together {
                let at = comptime!(2 * member as usize);
                let row = rows[comptime!(member as usize)];
                let coefficient = Four::new(coefficients[(row + index) as usize]);
                sums[at] += coefficient * left;
                sums[comptime!(at + 1)] += coefficient * right;
            }
            index += lanes;
        }
        let blocks = terms.chunks * comptime!(CHUNK / UNIFORM_BLOCK);
        #[unroll]
        for n in 0..2 * together {
            let mut sum = sums[comptime!(n as usize)];
            if comptime!(lanes > 1) {
                sum = sum_of_lanes(sum, &mut shared, lanes);
            }
            let site = part.site + comptime!(n / 2);
            if part.lane == 0u32 && part.column < blocks && site < terms.sites {
                let at = (site * blocks + part.column) * 2u32 + comptime!(n % 2);
                factors[at as usize] = sum * Four::new(terms.entry_scale);
            }
        }
    }
}

/// A unit owns the 32 elements of a word and takes four coefficients of every `4·lanes`; the four units of a block make
/// one call each, and each finds its word of all four in shared memory.
#[cube]
fn expand_sign(
    coefficients: &[f32],
    sites: &[u32],
    factors: &mut [Four],
    terms: &Terms,
    #[comptime] lanes: u32,
) {
    let mut shared = Shared::<[Four]>::new_slice(comptime!(UNITS as usize));
    let mut calls = Shared::<[u32]>::new_slice(comptime!((QUAD * WORD_STRIDE) as usize));
    let part = part(terms, lanes, 1u32);
    if part.site < terms.sites {
        let word = part.column % QUAD;
        let hash = sites[(2u32 * part.site) as usize];
        let row = sites[(2u32 * part.site + 1u32) as usize] * terms.count;
        let mut sums = Array::<Four>::new(comptime!(SIGNS_OF_A_WORD as usize / 4));
        for round in 0..terms.count.div_ceil(comptime!(QUAD * lanes)) {
            let index = (round * lanes + part.lane) * QUAD;
            let words = philox(part.column / QUAD, index + word, hash, terms);
            #[unroll]
            for w in 0..QUAD {
                calls[(comptime!(w * WORD_STRIDE) + UNIT_POS) as usize] =
                    words.extract(comptime!(w as usize));
            }
            sync_cube();
            #[unroll]
            for call in 0..QUAD {
                let mut coefficient = Four::new(0.0f32);
                if index + call < terms.count {
                    coefficient = Four::new(coefficients[(row + index + call) as usize]);
                }
                let signs = calls[(word * WORD_STRIDE + UNIT_POS - word + call) as usize];
                #[unroll]
                for four in 0..SIGNS_OF_A_WORD / 4 {
                    let at = comptime!(four as usize);
                    sums[at] += signed(coefficient, signs, four);
                }
            }
            sync_cube();
        }
        #[unroll]
        for four in 0..SIGNS_OF_A_WORD / 4 {
            let mut sum = sums[comptime!(four as usize)];
            if comptime!(lanes > 1) {
                sum = sum_of_lanes(sum, &mut shared, lanes);
            }
            if part.lane == 0u32 && part.column < terms.chunks * QUAD {
                let at =
                    (part.site * terms.chunks * QUAD + part.column) * comptime!(SIGNS_OF_A_WORD / 4) + four;
                factors[at as usize] = sum * Four::new(terms.entry_scale);
            }
        }
    }
}
