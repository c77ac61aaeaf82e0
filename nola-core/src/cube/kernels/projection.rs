//! Gradients of factors become gradients of coefficients.

use cubecl::prelude::*;

use super::numbers::{philox, signed, uniform};
use super::{CHUNK, Four, OWNED, Terms, UNIFORM_BLOCK, UNITS, part, rows, sum_of_lanes};
use crate::basis::Distribution;

/// Where a chunk of the gradients and its numbers are.
#[derive(CubeType)]
struct Chunk {
    /// Hash of the site.
    hash: u32,
    /// Which chunk of its matrix.
    number: u32,
    /// First coefficient of the unit; the others follow `width` apart.
    index: u32,
    /// Where the chunk begins in the gradients of the first site, in fours.
    begin: u32,
    /// From one site to the next, in fours.
    pitch: u32,
}

/// A unit owns [`OWNED`] coefficients of `together` sites that have one basis, and takes every `lanes`th chunk.
///
/// `sites` holds the hash and the row of each site. A site begins every `chunks · CHUNK` elements of `gradients`, and
/// what lies behind its matrix there is zero; both go on to whole groups of `together` sites.
#[cube(launch_unchecked)]
pub(crate) fn project(
    gradients: &[Four],
    sites: &[u32],
    projected: &mut [f32],
    terms: Terms,
    #[comptime] distribution: Distribution,
    #[comptime] lanes: u32,
    #[comptime] together: u32,
) {
    let mut shared = Shared::<[Four]>::new_slice(comptime!(UNITS as usize));
    let width = comptime!(UNITS / lanes);
    let part = part(&terms, lanes, together);
    if part.site < terms.sites {
        let rows = rows(sites, part.site, &terms, together);
        let hash = sites[(2u32 * part.site) as usize];
        let pitch = terms.chunks * comptime!(CHUNK / 4);
        // The columns of a cube are `width` coefficients apart, `OWNED` times.
        let index = (part.column / width) * comptime!(OWNED * width) + part.column % width;
        let mut sums = Array::<Four>::new(comptime!((OWNED * together) as usize));
        let mut number = part.lane;
        while number < terms.chunks {
            let begin = part.site * pitch + number * comptime!(CHUNK / 4);
            let chunk = Chunk { hash, number, index, begin, pitch };
            match comptime!(distribution) {
                Distribution::Uniform => add_products(&mut sums, gradients, &chunk, &terms, width, together),
                Distribution::Sign => add_signed(&mut sums, gradients, &chunk, &terms, width),
            }
            number += lanes;
        }
        #[unroll]
        for n in 0..OWNED * together {
            let mut sum = sums[comptime!(n as usize)];
            if comptime!(lanes > 1) {
                sum = sum_of_lanes(sum, &mut shared, lanes);
            }
            let index = index + comptime!((n / together) * width);
            let is_there = index < terms.count && part.site + comptime!(n % together) < terms.sites;
            if part.lane == 0u32 && is_there {
                let left = sum.extract(0usize) + sum.extract(1usize);
                let right = sum.extract(2usize) + sum.extract(3usize);
                let row = rows[comptime!((n % together) as usize)];
                projected[(row + index) as usize] = (left + right) * terms.entry_scale;
            }
        }
    }
}

/// Adds the products of a chunk with sixteen blocks of the uniform distribution, in four columns.
///
/// A chunk is summed by itself first, so that the error of a long sum stays that of a short one.
#[cube]
fn add_products(
    sums: &mut Array<Four>,
    gradients: &[Four],
    chunk: &Chunk,
    terms: &Terms,
    #[comptime] width: u32,
    #[comptime] together: u32,
) {
    let mut of_chunk = zeros(comptime!(OWNED * together));
    for call in 0..comptime!(CHUNK / UNIFORM_BLOCK) {
        let block = chunk.number * comptime!(CHUNK / UNIFORM_BLOCK) + call;
        #[unroll]
        for own in 0..OWNED {
            let words = philox(block, chunk.index + comptime!(own * width), chunk.hash, terms);
            let left = uniform(words.extract(0usize), words.extract(1usize));
            let right = uniform(words.extract(2usize), words.extract(3usize));
            #[unroll]
            for member in 0..together {
                let at = comptime!((own * together + member) as usize);
                let first = (chunk.begin + member * chunk.pitch + 2u32 * call) as usize;
                of_chunk[at] += gradients[first] * left + gradients[first + 1usize] * right;
            }
        }
    }
    add_all(sums, &of_chunk, comptime!(OWNED * together));
}

/// Adds a chunk with the signs of one block of the sign distribution, in four columns; it too is summed by itself first.
#[cube]
fn add_signed(
    sums: &mut Array<Four>,
    gradients: &[Four],
    chunk: &Chunk,
    terms: &Terms,
    #[comptime] width: u32,
) {
    let mut of_chunk = zeros(OWNED);
    let mut words = Array::<Vector<u32, Const<4>>>::new(comptime!(OWNED as usize));
    #[unroll]
    for own in 0..OWNED {
        let index = chunk.index + comptime!(own * width);
        words[comptime!(own as usize)] = philox(chunk.number, index, chunk.hash, terms);
    }
    #[unroll]
    for four in 0..comptime!(CHUNK / 4) {
        let gradient = gradients[(chunk.begin + four) as usize];
        #[unroll]
        for own in 0..OWNED {
            let at = comptime!(own as usize);
            let word = words[at].extract(comptime!((four / 8) as usize));
            of_chunk[at] += signed(gradient, word, comptime!(four % 8));
        }
    }
    add_all(sums, &of_chunk, OWNED);
}

#[cube]
fn zeros(#[comptime] count: u32) -> Array<Four> {
    let mut sums = Array::<Four>::new(comptime!(count as usize));
    #[unroll]
    for n in 0..count {
        sums[comptime!(n as usize)] = Four::new(0.0f32);
    }
    sums
}

#[cube]
fn add_all(sums: &mut Array<Four>, more: &Array<Four>, #[comptime] count: u32) {
    #[unroll]
    for n in 0..count {
        let at = comptime!(n as usize);
        sums[at] += more[at];
    }
}
