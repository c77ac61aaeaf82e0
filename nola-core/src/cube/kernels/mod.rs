//! `expand` and `project` on a GPU: every number is regenerated in registers, and no sum uses atomics.
//!
//! Sums run in one order, which the shapes alone decide: a device gives the same bits every time.

mod expansion;
mod numbers;
pub(super) mod packed;
mod projection;

use cubecl::prelude::*;

pub(super) use self::expansion::expand;
pub(super) use self::projection::project;

/// Units of a cube in every kernel.
pub(super) const UNITS: u32 = 256;
/// Elements of a chunk: one block of the sign distribution, sixteen of the uniform distribution.
pub(super) const CHUNK: u32 = 128;
/// Elements of a block under the uniform distribution.
pub(super) const UNIFORM_BLOCK: u32 = 8;
/// Elements of one word under the sign distribution.
pub(super) const SIGNS_OF_A_WORD: u32 = 32;
/// Sites with one basis that a unit of the uniform distribution computes together: the numbers are drawn once for all of them.
pub(super) const TOGETHER: u32 = 4;
/// Coefficients of a unit in `project`: the gradient is read once for all of them.
pub(super) const OWNED: u32 = 2;

/// Four numbers, which are read and written at once.
type Four = Vector<f32, Const<4>>;

/// What a launch computes, and how it is cut into cubes.
#[derive(CubeLaunch, CubeType)]
pub(super) struct Terms {
    /// Lower half of the seed.
    pub seed_low: u32,
    /// Upper half of the seed.
    pub seed_high: u32,
    /// Last word of the counter.
    pub stream: u32,
    /// Matrices of the basis, which is the number of coefficients of a site.
    pub count: u32,
    /// Chunks of one site's matrix, the last one filled up.
    pub chunks: u32,
    /// Sites of the launch.
    pub sites: u32,
    /// Cubes of one site, or of those that are computed together.
    pub cubes: u32,
    /// What every entry is multiplied with.
    pub entry_scale: f32,
}

/// What a unit does: its part of a sum, for some sites.
#[derive(CubeType)]
struct Part {
    /// First of the sites.
    site: u32,
    /// What the sum is for, counted over all cubes of the sites.
    column: u32,
    /// Which of the lanes that share the sum.
    lane: u32,
}

/// The part of this unit; lane `l` are the units `l·UNITS/lanes..` of a cube.
#[cube]
fn part(terms: &Terms, #[comptime] lanes: u32, #[comptime] together: u32) -> Part {
    let width = comptime!(UNITS / lanes);
    let cube = CUBE_POS as u32;
    Part {
        site: (cube / terms.cubes) * together,
        column: (cube % terms.cubes) * width + UNIT_POS % width,
        lane: UNIT_POS / width,
    }
}

/// Where the coefficients of `together` sites begin.
#[cube]
fn rows(sites: &[u32], first: u32, terms: &Terms, #[comptime] together: u32) -> Array<u32> {
    let mut rows = Array::<u32>::new(comptime!(together as usize));
    #[unroll]
    for member in 0..together {
        let row = sites[(2u32 * (first + member) + 1u32) as usize];
        rows[comptime!(member as usize)] = row * terms.count;
    }
    rows
}

/// The sum of `value` over the lanes of a cube, in a fixed order.
#[cube]
fn sum_of_lanes(value: Four, shared: &mut Shared<[Four]>, #[comptime] lanes: u32) -> Four {
    let unit = UNIT_POS as usize;
    shared[unit] = value;
    sync_cube();
    #[unroll]
    for step in 0..lanes.ilog2() {
        let reach = comptime!(((UNITS / lanes) * (lanes >> (step + 1))) as usize);
        if unit < reach {
            shared[unit] = shared[unit] + shared[unit + reach];
        }
        sync_cube();
    }
    let total = shared[unit % comptime!((UNITS / lanes) as usize)];
    sync_cube();
    total
}
