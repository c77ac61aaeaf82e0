//! Clusters of adapters that share bases, found by how well each fits into each.

use faer::Mat;

use super::{Core, Kind, LoraFactors, SharedBasis, diagonal, full, orthonormal};
use crate::basis::{Distribution, Generator, Stream};

/// Rounds after which adapters are no longer moved between clusters, whatever they would gain.
const MOST_ROUNDS: usize = 50;
/// Rounds of k-means.
const MOST_MEANS: usize = 100;

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

/// Compresses adapters: `adapters[i][w]` is adapter `i` at weight `w`; `progress` hears of the sum of all errors after each fit.
///
/// # Panics
/// If there is no adapter, or they do not have the same weights.
pub fn compress(
    adapters: &[Vec<LoraFactors>],
    options: Options,
    mut progress: impl FnMut(f64),
) -> Compression {
    let norms: Vec<f64> =
        adapters.iter().map(|slots| slots.iter().map(LoraFactors::square).sum::<f64>().sqrt()).collect();
    let unit: Vec<Vec<LoraFactors>> =
        adapters.iter().zip(&norms).map(|(slots, &norm)| normalized(slots, norm)).collect();
    let everyone = vec![0; unit.len()];
    let mut bases = fitted(&unit, &everyone, 1, options);
    let mut assignments = everyone;
    if options.clusters > 1 {
        let rows: Vec<Vec<f64>> = unit.iter().map(|slots| features(&bases[0], slots, options.kind)).collect();
        assignments = k_means(&rows, options.clusters.min(rows.len()));
        (bases, assignments) = settled(&unit, assignments, options, &mut progress);
    }
    let cores: Vec<Vec<Core>> = unit
        .iter()
        .zip(&assignments)
        .map(|(slots, &cluster)| cores(&bases[cluster], slots, options.kind))
        .collect();
    let errors: Vec<f64> = unit
        .iter()
        .zip(&assignments)
        .map(|(slots, &cluster)| error(&bases[cluster], slots, options.kind))
        .collect();
    progress(errors.iter().sum());
    Compression { bases, assignments, norms, cores, errors }
}

impl Compression {
    /// The cluster, the length and the cores of one more adapter, without a new fit, and the share of its squared length that is
    /// lost.
    pub fn added(&self, slots: &[LoraFactors], kind: Kind) -> (usize, f64, Vec<Core>, f64) {
        let norm = slots.iter().map(LoraFactors::square).sum::<f64>().sqrt();
        let unit = normalized(slots, norm);
        let costs: Vec<f64> = self.bases.iter().map(|bases| error(bases, &unit, kind)).collect();
        let cluster = smallest(&costs);
        (cluster, norm, cores(&self.bases[cluster], &unit, kind), costs[cluster])
    }
}

fn normalized(slots: &[LoraFactors], norm: f64) -> Vec<LoraFactors> {
    let factor = if norm > 0.0 { 1.0 / norm } else { 0.0 };
    slots.iter().map(|factors| factors.scaled(factor)).collect()
}

/// Fits the bases of each cluster, and moves each adapter to the cluster that loses the least of it, until nobody moves.
pub(super) fn settled(
    unit: &[Vec<LoraFactors>],
    mut assignments: Vec<usize>,
    options: Options,
    progress: &mut impl FnMut(f64),
) -> (Vec<Vec<SharedBasis>>, Vec<usize>) {
    let mut bases = Vec::new();
    for _ in 0..MOST_ROUNDS {
        let clusters = compact(&mut assignments);
        bases = fitted(unit, &assignments, clusters, options);
        let costs: Vec<Vec<f64>> = unit.iter().map(|slots| costs(&bases, slots, options.kind)).collect();
        progress(costs.iter().zip(&assignments).map(|(costs, &cluster)| costs[cluster]).sum());
        let moved: Vec<usize> = costs.iter().map(|costs| smallest(costs)).collect();
        if moved == assignments {
            break;
        }
        assignments = moved;
    }
    // Of the last move, or of none.
    let clusters = compact(&mut assignments);
    if clusters != bases.len() {
        bases = fitted(unit, &assignments, clusters, options);
    }
    (bases, assignments)
}

/// Numbers the clusters anew that have a member, and says how many there are.
fn compact(assignments: &mut [usize]) -> usize {
    let mut used: Vec<usize> = assignments.to_vec();
    used.sort_unstable();
    used.dedup();
    for assignment in assignments.iter_mut() {
        *assignment = used.binary_search(assignment).expect("it is one of them");
    }
    used.len()
}

/// The bases of each cluster, by weight.
fn fitted(
    unit: &[Vec<LoraFactors>],
    assignments: &[usize],
    clusters: usize,
    options: Options,
) -> Vec<Vec<SharedBasis>> {
    let of_cluster = |cluster: usize| {
        let members: Vec<&Vec<LoraFactors>> =
            unit.iter().zip(assignments).filter(|(_, of)| **of == cluster).map(|(slots, _)| slots).collect();
        (0..unit[0].len()).map(|slot| fit(&members, slot, options)).collect()
    };
    (0..clusters).map(of_cluster).collect()
}

fn fit(members: &[&Vec<LoraFactors>], slot: usize, options: Options) -> SharedBasis {
    let updates: Vec<&LoraFactors> = members.iter().map(|slots| &slots[slot]).collect();
    let [d_in, d_out] = updates[0].sizes();
    let rank = options.rank.min(d_in).min(d_out);
    let start = orthonormal(random(d_in, rank, slot).as_ref());
    let full = full::fit(&updates, start, options.iterations, |_| ());
    match options.kind {
        Kind::Full => full,
        // Least squares from random columns would take far longer.
        Kind::Diagonal => diagonal::fit(&updates, full, options.iterations, |_| ()),
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

/// What of an adapter is lost in these bases.
pub(super) fn error(bases: &[SharedBasis], slots: &[LoraFactors], kind: Kind) -> f64 {
    let of =
        |(basis, factors): (&SharedBasis, &LoraFactors)| basis.error(&basis.core(kind, factors), factors);
    bases.iter().zip(slots).map(of).sum()
}

/// What of an adapter is lost in each cluster.
fn costs(bases: &[Vec<SharedBasis>], slots: &[LoraFactors], kind: Kind) -> Vec<f64> {
    bases.iter().map(|bases| error(bases, slots, kind)).collect()
}

/// The first of the smallest values.
fn smallest(values: &[f64]) -> usize {
    let mut best = 0;
    for (place, value) in values.iter().enumerate() {
        if *value < values[best] {
            best = place;
        }
    }
    best
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

/// The cluster of each row: Lloyd's algorithm from rows that lie far from each other.
fn k_means(rows: &[Vec<f64>], clusters: usize) -> Vec<usize> {
    let mut centres = vec![rows[0].clone()];
    while centres.len() < clusters {
        let nearest =
            |row: &Vec<f64>| centres.iter().map(|centre| distance(row, centre)).fold(f64::MAX, f64::min);
        let distances: Vec<f64> = rows.iter().map(|row| -nearest(row)).collect();
        centres.push(rows[smallest(&distances)].clone());
    }
    k_means_from(rows, centres).0
}

/// The cluster of each row from these centres on, and the sum of the squared distances to the last ones.
pub(super) fn k_means_from(rows: &[Vec<f64>], mut centres: Vec<Vec<f64>>) -> (Vec<usize>, f64) {
    let nearest = |row: &Vec<f64>, centres: &[Vec<f64>]| {
        smallest(&centres.iter().map(|centre| distance(row, centre)).collect::<Vec<_>>())
    };
    let mut labels: Vec<usize> = rows.iter().map(|row| nearest(row, &centres)).collect();
    for _ in 0..MOST_MEANS {
        for (cluster, centre) in centres.iter_mut().enumerate() {
            let members: Vec<&Vec<f64>> = rows
                .iter()
                .zip(&labels)
                .filter(|(_, label)| **label == cluster)
                .map(|(row, _)| row)
                .collect();
            if !members.is_empty() {
                let mean =
                    |place: usize| members.iter().map(|row| row[place]).sum::<f64>() / members.len() as f64;
                *centre = (0..centre.len()).map(mean).collect();
            }
        }
        let next: Vec<usize> = rows.iter().map(|row| nearest(row, &centres)).collect();
        if next == labels {
            break;
        }
        labels = next;
    }
    let inertia = rows.iter().zip(&labels).map(|(row, &label)| distance(row, &centres[label])).sum();
    (labels, inertia)
}

fn distance(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| (one - other).powi(2)).sum()
}
