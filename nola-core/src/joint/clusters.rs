//! Clusters of adapters that share bases, found by how well each fits into each.

use faer::Mat;
use rayon::prelude::*;

use super::k_means::k_means;
use super::{Core, Kind, LoraFactors, SharedBasis, diagonal, full, orthonormal, smallest};
use crate::basis::{Distribution, Generator, Stream};

/// Rounds after which adapters are no longer moved between clusters, whatever they would gain.
const MOST_ROUNDS: usize = 50;

/// How adapters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The form of the cores.
    pub kind: Kind,
    /// Columns of the bases; a weight with a shorter side has fewer.
    pub rank: usize,
    /// Clusters at most.
    pub clusters: usize,
    /// Iterations of each fit; at least one is made.
    pub iterations: usize,
}

/// Adapters in shared bases.
#[derive(Debug, Clone)]
pub struct Compression {
    /// By cluster, and by weight.
    pub bases: Vec<Vec<SharedBasis>>,
    /// Which cluster each adapter is in.
    pub assignments: Vec<usize>,
    /// The length of each adapter's update over all weights.
    pub norms: Vec<f64>,
    /// By adapter, and by weight; of updates of length 1.
    pub cores: Vec<Vec<Core>>,
    /// The share of each adapter's squared length that is lost, from 0 to 1.
    pub errors: Vec<f64>,
}

/// Compresses adapters: `adapters[i][w]` is adapter `i` at weight `w`; `progress` is called with the sum of all errors after
/// each iteration, which never rises but by rounding.
///
/// # Panics
/// If there is no adapter, or they do not have the same weights.
pub fn compress(
    adapters: Vec<Vec<LoraFactors>>,
    options: Options,
    mut progress: impl FnMut(f64),
) -> Compression {
    let norms: Vec<f64> = adapters.iter().map(|slots| norm(slots)).collect();
    let unit: Vec<Vec<LoraFactors>> =
        adapters.into_iter().zip(&norms).map(|(slots, &norm)| normalized(slots, norm)).collect();
    let mut assignments = vec![0; unit.len()];
    let mut bases = vec![started(&unit, options)];
    iterate(&unit, &assignments, &mut bases, options, &mut progress);
    if options.clusters > 1 {
        let rows: Vec<Vec<f64>> =
            unit.par_iter().map(|slots| features(&bases[0], slots, options.kind)).collect();
        assignments = k_means(&rows, options.clusters.min(rows.len()));
        // Each begins with the bases of all, so that nothing that was reached is lost.
        bases = vec![bases.remove(0); options.clusters];
        (bases, assignments) = settled(&unit, assignments, bases, options, &mut progress);
    }
    let of_members = unit.par_iter().zip(&assignments);
    let (cores, errors) = of_members
        .map(|(slots, &cluster)| {
            let cores = cores(&bases[cluster], slots, options.kind);
            let error = error(&bases[cluster], &cores, slots);
            (cores, error)
        })
        .unzip();
    Compression { bases, assignments, norms, cores, errors }
}

/// An adapter in shared bases that were fitted without it.
#[derive(Debug, Clone)]
pub struct Projection {
    /// Which cluster loses the least of it.
    pub cluster: usize,
    /// The length of its update over all weights.
    pub norm: f64,
    /// By weight; of an update of length 1.
    pub cores: Vec<Core>,
    /// The share of its squared length that is lost, from 0 to 1.
    pub error: f64,
}

/// One more adapter in the bases of the cluster that loses the least of it, without a new fit; `bases` are by cluster, and by
/// weight.
///
/// # Panics
/// If there is no cluster, or it does not have the adapter's weights.
pub fn project(bases: &[Vec<SharedBasis>], slots: Vec<LoraFactors>, kind: Kind) -> Projection {
    let norm = norm(&slots);
    let unit = normalized(slots, norm);
    let costs = costs(bases, &unit, kind);
    let cluster = smallest(&costs);
    Projection { cluster, norm, cores: cores(&bases[cluster], &unit, kind), error: costs[cluster] }
}

/// The length of an update over all weights.
fn norm(slots: &[LoraFactors]) -> f64 {
    slots.iter().map(LoraFactors::square).sum::<f64>().sqrt()
}

fn normalized(slots: Vec<LoraFactors>, norm: f64) -> Vec<LoraFactors> {
    let factor = if norm > 0.0 { 1.0 / norm } else { 0.0 };
    slots.into_iter().map(|factors| factors.scaled(factor)).collect()
}

/// Fits the bases of each cluster, from those given on, and moves each adapter to the cluster that loses the least of it, until
/// nobody moves.
pub(super) fn settled(
    unit: &[Vec<LoraFactors>],
    mut assignments: Vec<usize>,
    mut bases: Vec<Vec<SharedBasis>>,
    options: Options,
    progress: &mut impl FnMut(f64),
) -> (Vec<Vec<SharedBasis>>, Vec<usize>) {
    for _ in 0..MOST_ROUNDS {
        bases = compacted(bases, &mut assignments);
        match options.kind {
            Kind::Full => {}
            Kind::Diagonal => {
                each_basis(unit, &assignments, &mut bases, |basis, updates| {
                    *basis = from_full_cores(basis, updates, options.iterations);
                });
            }
        }
        iterate(unit, &assignments, &mut bases, options, progress);
        let of_members = unit.par_iter().zip(&assignments);
        let moved: Vec<usize> =
            of_members.map(|(slots, &now)| nearest(&costs(&bases, slots, options.kind), now)).collect();
        if moved == assignments {
            break;
        }
        assignments = moved;
    }
    // Of the last move, or of none.
    bases = compacted(bases, &mut assignments);
    (bases, assignments)
}

/// The cluster with the smallest cost; another one than `now` only if it is better.
fn nearest(costs: &[f64], now: usize) -> usize {
    let best = smallest(costs);
    if costs[best] < costs[now] { best } else { now }
}

/// The clusters that have a member, which are numbered anew.
fn compacted(bases: Vec<Vec<SharedBasis>>, assignments: &mut [usize]) -> Vec<Vec<SharedBasis>> {
    let mut used: Vec<usize> = assignments.to_vec();
    used.sort_unstable();
    used.dedup();
    for assignment in assignments.iter_mut() {
        *assignment = used.binary_search(assignment).expect("it is one of them");
    }
    let of_cluster = bases.into_iter().enumerate();
    of_cluster.filter(|(cluster, _)| used.binary_search(cluster).is_ok()).map(|(_, bases)| bases).collect()
}

/// The first bases of one cluster that has all adapters, by weight.
pub(super) fn started(unit: &[Vec<LoraFactors>], options: Options) -> Vec<SharedBasis> {
    let of_slot = |slot: usize| {
        let updates: Vec<&LoraFactors> = unit.iter().map(|slots| &slots[slot]).collect();
        let [d_in, d_out] = updates[0].sizes();
        let rank = options.rank.min(d_in).min(d_out);
        let start = orthonormal(random(d_in, rank, slot).as_ref());
        let iterations = match options.kind {
            Kind::Full => 1,
            // Least squares from random columns would take far longer than from full cores.
            Kind::Diagonal => options.iterations,
        };
        full::fit(&updates, start, iterations, |_| ())
    };
    (0..unit[0].len()).into_par_iter().map(of_slot).collect()
}

/// Improves the bases of each cluster so many times; reports the sum of all errors after each time.
fn iterate(
    unit: &[Vec<LoraFactors>],
    assignments: &[usize],
    bases: &mut [Vec<SharedBasis>],
    options: Options,
    progress: &mut impl FnMut(f64),
) {
    for _ in 0..options.iterations.max(1) {
        let lost = each_basis(unit, assignments, bases, |basis, updates| {
            *basis = improved(basis, updates, options.kind);
            lost(basis, updates, options.kind)
        });
        // Summed in one order, whatever the threads.
        progress(lost.iter().sum());
    }
}

/// Calls `work` with each basis, with the updates of its members at its weight.
fn each_basis<T: Send>(
    unit: &[Vec<LoraFactors>],
    assignments: &[usize],
    bases: &mut [Vec<SharedBasis>],
    work: impl Fn(&mut SharedBasis, &[&LoraFactors]) -> T + Sync,
) -> Vec<T> {
    let members = |cluster: usize| -> Vec<&Vec<LoraFactors>> {
        unit.iter().zip(assignments).filter(|(_, of)| **of == cluster).map(|(slots, _)| slots).collect()
    };
    let members: Vec<Vec<&Vec<LoraFactors>>> = (0..bases.len()).map(members).collect();
    let all = bases.iter_mut().zip(&members).flat_map(|(bases, members)| {
        bases.iter_mut().enumerate().map(move |(slot, basis)| (slot, basis, members))
    });
    let all: Vec<(usize, &mut SharedBasis, &Vec<&Vec<LoraFactors>>)> = all.collect();
    let done = all.into_par_iter().map(|(slot, basis, members)| {
        let updates: Vec<&LoraFactors> = members.iter().map(|slots| &slots[slot]).collect();
        work(basis, &updates)
    });
    done.collect()
}

/// The sum of what is lost of updates, as it is reported.
fn lost(basis: &SharedBasis, updates: &[&LoraFactors], kind: Kind) -> f64 {
    updates.iter().map(|update| basis.loss(kind, update)).sum()
}

/// Where least squares go on: at full cores of the same updates, if that is nearer to them.
fn from_full_cores(basis: &SharedBasis, updates: &[&LoraFactors], iterations: usize) -> SharedBasis {
    let full = full::fit(updates, basis.v.clone(), iterations, |_| ());
    let is_nearer = lost(&full, updates, Kind::Diagonal) < lost(basis, updates, Kind::Diagonal);
    if is_nearer { full } else { basis.clone() }
}

fn improved(basis: &SharedBasis, updates: &[&LoraFactors], kind: Kind) -> SharedBasis {
    match kind {
        Kind::Full => full::fit(updates, basis.v.clone(), 1, |_| ()),
        Kind::Diagonal => diagonal::fit(updates, basis.clone(), 1, |_| ()),
    }
}

/// The fixed start of a fit.
fn random(rows: usize, columns: usize, slot: usize) -> Mat<f64> {
    let generator = Generator {
        distribution: Distribution::Uniform,
        seed: 0,
        site: slot as u32,
        stream: Stream::OffsetA,
    };
    let columns: Vec<Vec<f32>> = (0..columns as u32).map(|index| generator.values(index, rows)).collect();
    Mat::from_fn(rows, columns.len(), |row, column| columns[column][row].into())
}

fn cores(bases: &[SharedBasis], slots: &[LoraFactors], kind: Kind) -> Vec<Core> {
    bases.iter().zip(slots).map(|(basis, factors)| basis.core(kind, factors)).collect()
}

/// What of an adapter is lost in these bases with these cores.
fn error(bases: &[SharedBasis], cores: &[Core], slots: &[LoraFactors]) -> f64 {
    let of_slots = bases.iter().zip(cores).zip(slots);
    of_slots.map(|((basis, core), factors)| basis.error(core, factors)).sum()
}

/// What of an adapter is lost in these bases with its best cores.
pub(super) fn least_error(bases: &[SharedBasis], slots: &[LoraFactors], kind: Kind) -> f64 {
    error(bases, &cores(bases, slots, kind), slots)
}

/// What of an adapter is lost in each cluster.
fn costs(bases: &[Vec<SharedBasis>], slots: &[LoraFactors], kind: Kind) -> Vec<f64> {
    bases.iter().map(|bases| least_error(bases, slots, kind)).collect()
}

/// The cores of an adapter in one line of length 1: without that, k-means makes one giant cluster.
fn features(bases: &[SharedBasis], slots: &[LoraFactors], kind: Kind) -> Vec<f64> {
    let row: Vec<f64> = cores(bases, slots, kind)
        .iter()
        .flat_map(|core| core.numbers().into_iter().map(f64::from).collect::<Vec<_>>())
        .collect();
    unit_row(row)
}

pub(super) fn unit_row(row: Vec<f64>) -> Vec<f64> {
    let length = row.iter().map(|value| value * value).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    row.into_iter().map(|value| value / length).collect()
}
