//! `expand` and `project` for many sites at once: what is generated when, and which thread does it.

use std::sync::atomic::Ordering;

use rayon::prelude::*;

use super::fastest::fastest;
use super::generator::Distribution;
use super::kernel::{BATCH, Entries, Kernel, LANES, SIGN_BATCH, STEPS, Sums, TILE, Tile, Words};
use super::{Basis, Source};

/// Sites that use what was generated before it is generated again; bounds the sums that are kept meanwhile.
const MOST_TOGETHER: usize = 32;
/// Products that a task makes at least, so that starting it costs nothing next to them.
const LEAST_PRODUCTS: usize = 1 << 18;

/// [`Basis::expand`] for many sites, whose bases are generated once if they are the same.
///
/// Each matrix has the bits that the single call gives.
///
/// # Panics
/// If the coefficients of a site are not as many as its basis has matrices.
pub fn expand_all(sites: &[(&Basis, &[f32])]) -> Vec<Vec<f32>> {
    for (basis, coefficients) in sites {
        assert_eq!(coefficients.len(), basis.count, "one coefficient per matrix");
        basis.calls.expand.fetch_add(1, Ordering::Relaxed);
    }
    by_basis(sites, |basis, rows| expand_together(fastest(), basis, rows))
}

/// [`Basis::project`] for many sites, whose bases are generated once if they are the same.
///
/// Each row has the bits that the single call gives.
///
/// # Panics
/// If the gradient of a site has not the size of its matrices.
pub fn project_all(sites: &[(&Basis, &[f32])]) -> Vec<Vec<f32>> {
    for (basis, gradient) in sites {
        assert_eq!(gradient.len(), basis.size(), "one gradient per entry");
        basis.calls.project.fetch_add(1, Ordering::Relaxed);
    }
    by_basis(sites, |basis, gradients| project_together(fastest(), basis, gradients))
}

/// Does `work` for groups of sites with one basis, and puts the results in the order of the sites.
fn by_basis(
    sites: &[(&Basis, &[f32])],
    work: impl Fn(&Basis, &[&[f32]]) -> Vec<Vec<f32>> + Sync,
) -> Vec<Vec<f32>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (site, (basis, _)) in sites.iter().enumerate() {
        let fits = |group: &&mut Vec<usize>| group.len() < MOST_TOGETHER && basis.equals(sites[group[0]].0);
        match groups.iter_mut().find(fits) {
            Some(group) => group.push(site),
            None => groups.push(vec![site]),
        }
    }
    let done: Vec<Vec<Vec<f32>>> = (groups.par_iter())
        .map(|group| {
            let inputs: Vec<&[f32]> = group.iter().map(|&site| sites[site].1).collect();
            work(sites[group[0]].0, &inputs)
        })
        .collect();
    let mut results = vec![Vec::new(); sites.len()];
    for (site, result) in groups.into_iter().flatten().zip(done.into_iter().flatten()) {
        results[site] = result;
    }
    results
}

pub(super) fn expand_together(kernel: &dyn Kernel, basis: &Basis, rows: &[&[f32]]) -> Vec<Vec<f32>> {
    let mut sums = vec![Tile::ZERO; rows.len() * basis.size().div_ceil(TILE)];
    let tiles_per_task = LEAST_PRODUCTS.div_ceil(TILE * basis.count.max(1) * rows.len());
    let at_once = basis.matrices_at_once();
    sums.par_chunks_mut(rows.len()).enumerate().with_min_len(tiles_per_task).for_each_init(
        Batch::default,
        |batch, (tile, sums)| {
            for first in (0..basis.count).step_by(at_once) {
                let indices = first..basis.count.min(first + at_once);
                batch.generate(kernel, basis, tile, first, indices.len());
                for (row, sums) in rows.iter().zip(sums.iter_mut()) {
                    batch.mix(kernel, basis, &row[indices.clone()], sums);
                }
            }
        },
    );
    let matrix = |site: usize| {
        let mut matrix = vec![0.0; basis.size()];
        for (entries, sums) in matrix.chunks_mut(TILE).zip(sums.iter().skip(site).step_by(rows.len())) {
            for (e, entry) in entries.iter_mut().enumerate() {
                let [step, lane] = basis.place(e);
                *entry = sums.0[step][lane] * basis.entry_scale;
            }
        }
        matrix
    };
    (0..rows.len()).map(matrix).collect()
}

pub(super) fn project_together(kernel: &dyn Kernel, basis: &Basis, gradients: &[&[f32]]) -> Vec<Vec<f32>> {
    let sites = gradients.len();
    let tiles: Vec<Vec<Tile>> = gradients.iter().map(|gradient| basis.tiles(gradient)).collect();
    let plain_sums: Vec<f64> = gradients.iter().map(|g| g.iter().map(|&g| f64::from(g)).sum()).collect();
    let at_once = basis.matrices_at_once();
    let batches_per_task = LEAST_PRODUCTS.div_ceil(at_once * basis.size().max(1) * sites);
    let sums: Vec<Vec<Sums>> = ((0..basis.count.div_ceil(at_once)).into_par_iter())
        .with_min_len(batches_per_task)
        .map_init(Batch::default, |batch, number| {
            let first = number * at_once;
            let count = at_once.min(basis.count - first);
            let mut sums = vec![Sums::ZERO; count * sites];
            for tile in 0..basis.size().div_ceil(TILE) {
                batch.generate(kernel, basis, tile, first, count);
                for (gradient, sums) in tiles.iter().zip(sums.chunks_mut(count)) {
                    batch.dot(kernel, basis, &gradient[tile], sums);
                }
            }
            sums
        })
        .collect();
    let row = |site: usize| {
        let of_site = |batch: &Vec<Sums>| batch.chunks(batch.len() / sites).nth(site).map(<[Sums]>::to_vec);
        let sums = sums.iter().filter_map(of_site).flatten();
        sums.map(|sums| basis.product_of(&sums, plain_sums[site])).collect()
    };
    (0..sites).map(row).collect()
}

/// Entries or signs of one tile in some matrices.
struct Batch {
    entries: Entries,
    words: Words,
    count: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self { entries: [Tile::ZERO; BATCH], words: Words([[0; SIGN_BATCH]; 4]), count: 0 }
    }
}

impl Batch {
    fn generate(&mut self, kernel: &dyn Kernel, basis: &Basis, tile: usize, first: usize, count: usize) {
        self.count = count;
        match &basis.source {
            Source::Generated(generator) => match generator.distribution {
                Distribution::Uniform => {
                    kernel.uniform(generator, tile as u32, first as u32, count, &mut self.entries);
                }
                Distribution::Sign => {
                    kernel.sign_words(generator, tile as u32, first as u32, count, &mut self.words);
                }
            },
            Source::Given(values) => {
                let matrices = values.chunks(basis.size()).skip(first);
                for (entries, matrix) in self.entries[..count].iter_mut().zip(matrices) {
                    *entries = basis.tile(matrix.chunks(TILE).nth(tile).unwrap_or_default());
                }
            }
        }
    }

    fn mix(&self, kernel: &dyn Kernel, basis: &Basis, coefficients: &[f32], sums: &mut Tile) {
        if basis.is_signs() {
            kernel.mix_signs(&self.words, coefficients, sums);
        } else {
            kernel.mix_entries(&self.entries[..self.count], coefficients, sums);
        }
    }

    fn dot(&self, kernel: &dyn Kernel, basis: &Basis, gradient: &Tile, sums: &mut [Sums]) {
        if basis.is_signs() {
            kernel.dot_signs(&self.words, gradient, sums);
        } else {
            kernel.dot_entries(&self.entries[..self.count], gradient, sums);
        }
    }
}

/// The order of a tile.
impl Basis {
    fn is_signs(&self) -> bool {
        matches!(&self.source, Source::Generated(generator) if generator.distribution == Distribution::Sign)
    }

    /// Matrices of which a tile is generated before it is used.
    fn matrices_at_once(&self) -> usize {
        if self.is_signs() { SIGN_BATCH } else { BATCH }
    }

    /// Step and lane of an entry of a tile: the uniform distribution has a block of eight entries in each lane.
    fn place(&self, entry: usize) -> [usize; 2] {
        match &self.source {
            Source::Generated(generator) if generator.distribution == Distribution::Uniform => {
                [entry % STEPS, entry / STEPS]
            }
            Source::Generated(_) | Source::Given(_) => [entry / LANES, entry % LANES],
        }
    }

    fn tile(&self, entries: &[f32]) -> Tile {
        let mut tile = Tile::ZERO;
        for (e, &entry) in entries.iter().enumerate() {
            let [step, lane] = self.place(e);
            tile.0[step][lane] = entry;
        }
        tile
    }

    fn tiles(&self, matrix: &[f32]) -> Vec<Tile> {
        matrix.chunks(TILE).map(|entries| self.tile(entries)).collect()
    }

    fn product_of(&self, sums: &Sums, plain_sum: f64) -> f32 {
        let product = if self.is_signs() { plain_sum - 2.0 * sums.total() } else { sums.total() };
        (product * f64::from(self.entry_scale)) as f32
    }
}
