//! Against the golden values of joint diagonalization.

use faer::Mat;
use safetensors::{Dtype, SafeTensors};

use super::clusters::{least_error, settled, started, unit_row};
use super::k_means::k_means_from;
use super::{Kind, LoraFactors, Options, SharedBasis, compress, diagonal, full, project};
use crate::shared::shared;

const ADAPTERS: usize = 12;

/// A tensor as numbers with its shape.
fn tensor(tensors: &SafeTensors, name: &str) -> (Vec<f64>, Vec<usize>) {
    let tensor = tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let bytes = tensor.data();
    let numbers = match tensor.dtype() {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|&n| f32::from_le_bytes(n).into()).collect(),
        Dtype::F64 => bytes.as_chunks::<8>().0.iter().map(|&n| f64::from_le_bytes(n)).collect(),
        Dtype::I64 => bytes.as_chunks::<8>().0.iter().map(|&n| i64::from_le_bytes(n) as f64).collect(),
        other => panic!("{name} is {other:?}"),
    };
    (numbers, tensor.shape().to_vec())
}

fn matrix(tensors: &SafeTensors, name: &str) -> Mat<f64> {
    let (numbers, shape) = tensor(tensors, name);
    Mat::from_fn(shape[0], shape[1], |row, column| numbers[row * shape[1] + column])
}

fn numbers(tensors: &SafeTensors, name: &str) -> Vec<f64> {
    tensor(tensors, name).0
}

fn file(name: &str) -> Option<Vec<u8>> {
    Some(std::fs::read(shared(&format!("fixtures/methods/{name}.safetensors"))?).expect("a fixture"))
}

/// The scales of the adapters of `jd_main`.
const SCALES: [f64; 5] =
    [0.5, 0.899_999_976_158_142_1, 1.299_999_952_316_284_2, 1.700_000_047_683_715_8, 2.099_999_904_632_568_4];

/// The LoRAs of `jd_main`, at both of its weights, divided by their lengths.
fn main_adapters(tensors: &SafeTensors) -> Vec<Vec<LoraFactors>> {
    let norms = numbers(tensors, "expected.norms");
    let slot = |adapter: usize, name: &str| {
        let read = |side: &str| matrix(tensors, &format!("adapter.{adapter}.{name}.{side}"));
        let factor = SCALES[adapter % SCALES.len()] / norms[adapter];
        LoraFactors { a: read("A"), b: read("B") }.scaled(factor)
    };
    (0..ADAPTERS).map(|adapter| vec![slot(adapter, "q"), slot(adapter, "v")]).collect()
}

fn assert_near(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= tolerance * largest.max(1e-300),
            "{what}: {found} is not {expected}"
        );
    }
}

fn entries(matrix: &Mat<f64>) -> Vec<f64> {
    (0..matrix.nrows())
        .flat_map(|row| (0..matrix.ncols()).map(move |column| (row, column)))
        .map(|at| matrix[at])
        .collect()
}

/// The squared error of all updates after an iteration.
fn total(basis: &SharedBasis, updates: &[&LoraFactors], kind: Kind) -> f64 {
    updates.iter().map(|update| basis.error(&basis.core(kind, update), update)).sum()
}

/// Six adapters of two kinds, each kind in a basis of its own, and one that changes nothing at the first weight.
fn planted() -> Vec<Vec<LoraFactors>> {
    let wave = |count: usize, from: usize| -> Vec<f32> {
        (0..count).map(|n| ((n * n + 7 * n + 31 * from) as f32 * 0.37).sin()).collect()
    };
    let (sizes, rank) = ([9, 7], 2);
    let of = |kind: usize, member: usize, slot: usize| {
        // The span of A and of B is that of the kind; the mixture is the member's own.
        let (a, b) =
            (wave(rank * sizes[0], 100 * kind + slot), wave(rank * sizes[1], 50 + 100 * kind + slot));
        let gains = [1.0 + member as f32, 0.5 - 0.2 * member as f32];
        let b: Vec<f32> =
            b.iter().enumerate().map(|(place, value)| value * gains[place / sizes[1]]).collect();
        let b = if member == 2 && slot == 0 { vec![0.0; b.len()] } else { b };
        LoraFactors::new(&a, &b, sizes, 1.5)
    };
    (0..6).map(|n| (0..2).map(|slot| of(n % 2, n / 2, slot)).collect()).collect()
}

#[test]
fn an_adapter_in_the_wrong_cluster_moves_to_its_kind_and_nothing_is_lost() {
    for kind in [Kind::Full, Kind::Diagonal] {
        // As many as the source takes: least squares come slowly.
        let options = Options { kind, rank: 2, clusters: 2, iterations: 100 };
        let start = vec![started(&planted(), options); 2];
        let (bases, assignments) = settled(&planted(), vec![0, 1, 0, 1, 0, 0], start, options, &mut |_| ());
        assert_eq!(assignments, [0, 1, 0, 1, 0, 1], "{kind:?}");
        for (slots, &cluster) in planted().iter().zip(&assignments) {
            let lost = least_error(&bases[cluster], slots, kind);
            assert!(lost < 1e-9, "{kind:?}: {lost}");
        }
    }
}

#[test]
fn more_clusters_lose_less() {
    let lost = |clusters| {
        let options = Options { kind: Kind::Full, rank: 2, clusters, iterations: 30 };
        compress(planted(), options, |_| ()).errors.iter().sum::<f64>()
    };
    let lost = [1, 2, 6].map(lost);
    assert!(lost[0] > 0.05 && lost.is_sorted_by(|one, next| one > next) && lost[2] < 1e-9, "{lost:?}");
}

#[test]
fn adapters_that_change_nothing_stay_finite() {
    let sizes = [5, 4];
    let nothing = || vec![LoraFactors::new(&[0.3; 10], &[0.0; 8], sizes, 1.0)];
    for kind in [Kind::Full, Kind::Diagonal] {
        let options = Options { kind, rank: 3, clusters: 2, iterations: 4 };
        let compression = compress(vec![nothing(), nothing(), nothing()], options, |_| ());
        assert!(compression.errors.iter().all(|error| error.abs() < 1e-12), "{:?}", compression.errors);
        let numbers = compression.cores.iter().flatten().flat_map(|core| core.numbers());
        assert!(numbers.into_iter().all(|number| number == 0.0));
    }
}

#[test]
fn full_cores_are_those_of_the_fixture_after_each_iteration() {
    let Some(bytes) = file("jd_main") else { return };
    let tensors = SafeTensors::deserialize(&bytes).expect("a fixture");
    let adapters = main_adapters(&tensors);
    for (place, name) in ["q", "v"].into_iter().enumerate() {
        let updates: Vec<&LoraFactors> = adapters.iter().map(|slots| &slots[place]).collect();
        let start = matrix(&tensors, &format!("start.{name}.V"));
        let mut errors = Vec::new();
        let basis = full::fit(&updates, start, 10, |basis| errors.push(total(basis, &updates, Kind::Full)));
        assert_near(&errors, &numbers(&tensors, &format!("expected.full.{name}.errors")), 1e-6, "errors");
        assert!(errors.is_sorted_by(|one, next| *next <= one * (1.0 + 1e-12)), "they fall: {errors:?}");
        let spans = [(&basis.u, "UUt"), (&basis.v, "VVt")];
        for (columns, what) in spans {
            let span = columns * columns.transpose();
            let expected = numbers(&tensors, &format!("expected.full.{name}.{what}"));
            assert_near(&entries(&span), &expected, 1e-5, what);
        }
    }
}

#[test]
fn diagonal_cores_are_those_of_the_fixture_after_each_iteration() {
    let Some(bytes) = file("jd_main") else { return };
    let tensors = SafeTensors::deserialize(&bytes).expect("a fixture");
    let adapters = main_adapters(&tensors);
    for (place, name) in ["q", "v"].into_iter().enumerate() {
        let updates: Vec<&LoraFactors> = adapters.iter().map(|slots| &slots[place]).collect();
        let start = SharedBasis {
            u: matrix(&tensors, &format!("start_diag.{name}.U")),
            v: matrix(&tensors, &format!("start_diag.{name}.V")),
        };
        let mut errors = Vec::new();
        diagonal::fit(&updates, start, 10, |basis| errors.push(total(basis, &updates, Kind::Diagonal)));
        assert_near(&errors, &numbers(&tensors, &format!("expected.diag.{name}.errors")), 1e-6, "errors");
    }
}

#[test]
fn clusters_settle_where_the_fixture_has_them() {
    let Some(bytes) = file("jd_main") else { return };
    let tensors = SafeTensors::deserialize(&bytes).expect("a fixture");
    let adapters = main_adapters(&tensors);
    let start: Vec<usize> =
        numbers(&tensors, "start_cluster").into_iter().map(|label| label as usize).collect();
    let options = Options { kind: Kind::Full, rank: 4, clusters: 2, iterations: 10 };
    let mut errors = Vec::new();
    let first = vec![started(&adapters, options); 2];
    let (bases, assignments) = settled(&adapters, start, first, options, &mut |error| errors.push(error));
    let expected = numbers(&tensors, "expected.cluster.assignments");
    let last: Vec<usize> = expected[ADAPTERS..].iter().map(|&label| label as usize).collect();
    assert_eq!(assignments, last);
    let by_adapter: Vec<f64> = adapters
        .iter()
        .zip(&assignments)
        .map(|(slots, &cluster)| least_error(&bases[cluster], slots, Kind::Full))
        .collect();
    // The fixture starts its fits elsewhere; after ten iterations little of that is left.
    assert_near(
        &by_adapter,
        &numbers(&tensors, "expected.cluster.error_by_adapter"),
        1e-2,
        "errors by adapter",
    );
    assert!(errors.is_sorted_by(|one, next| *next <= one * (1.0 + 1e-12)), "they fall: {errors:?}");
}

#[test]
fn the_error_that_is_told_never_rises_and_ends_at_the_sum_of_all() {
    for (kind, clusters) in [(Kind::Full, 1), (Kind::Full, 3), (Kind::Diagonal, 1), (Kind::Diagonal, 3)] {
        let mut reported = Vec::new();
        let options = Options { kind, rank: 2, clusters, iterations: 8 };
        let compression = compress(planted(), options, |error| reported.push(error));
        let of_all: f64 = compression.errors.iter().sum();
        assert!(
            reported.len() >= 8 && reported.is_sorted_by(|one, next| *next <= one + 1e-12),
            "{reported:?}"
        );
        // Computed as a difference of larger numbers.
        assert!((reported[reported.len() - 1] - of_all).abs() < 1e-9, "{kind:?}: {of_all} and {reported:?}");
    }
}

#[test]
fn an_adapter_that_comes_later_has_the_core_it_would_have_had() {
    for kind in [Kind::Full, Kind::Diagonal] {
        let options = Options { kind, rank: 2, clusters: 2, iterations: 20 };
        let compression = compress(planted(), options, |_| ());
        for (member, slots) in planted().iter().enumerate() {
            let found = project(&compression.bases, slots.clone(), kind);
            assert_eq!(found.cluster, compression.assignments[member]);
            let (again, cores) = (&found.cores, &compression.cores[member]);
            assert!(again.iter().zip(cores).all(|(one, other)| one.numbers() == other.numbers()));
            assert!((found.norm / compression.norms[member] - 1.0).abs() < 1e-12);
        }
    }
}

#[test]
fn factors_of_a_basis_make_it_again() {
    let options = Options { kind: Kind::Full, rank: 2, clusters: 1, iterations: 5 };
    let compression = compress(planted(), options, |_| ());
    let (basis, update) = (&compression.bases[0][0], &planted()[0][0]);
    let [v, u_transposed] = basis.factors();
    let again = SharedBasis::of_factors(&v, &u_transposed, update.sizes());
    assert_eq!((again.u.shape(), again.v.shape()), (basis.u.shape(), basis.v.shape()));
    let near = |one: &Mat<f64>, other: &Mat<f64>| (one - other).norm_max() < 1e-7;
    assert!(near(&again.u, &basis.u) && near(&again.v, &basis.v));
}

#[test]
fn k_means_finds_the_labels_of_the_fixture() {
    let Some(bytes) = file("jd_main") else { return };
    let tensors = SafeTensors::deserialize(&bytes).expect("a fixture");
    let cores = ["q", "v"].map(|name| numbers(&tensors, &format!("expected.full.{name}.S")));
    let row = |adapter: usize| {
        let of_slot = |cores: &Vec<f64>| cores[adapter * 16..(adapter + 1) * 16].to_vec();
        unit_row(cores.iter().flat_map(of_slot).collect())
    };
    let rows: Vec<Vec<f64>> = (0..ADAPTERS).map(row).collect();
    let (labels, inertia) = k_means_from(&rows, vec![rows[0].clone(), rows[1].clone()]);
    let expected: Vec<usize> =
        numbers(&tensors, "expected.kmeans.labels").into_iter().map(|label| label as usize).collect();
    assert_eq!(labels, expected);
    assert_near(&[inertia], &numbers(&tensors, "expected.kmeans.inertia"), 1e-6, "inertia");
}

#[test]
fn bases_as_wide_as_all_updates_together_lose_nothing() {
    let Some(bytes) = file("jd_exact") else { return };
    let tensors = SafeTensors::deserialize(&bytes).expect("a fixture");
    let of = |adapter: usize, side: &str| matrix(&tensors, &format!("adapter.{adapter}.{side}"));
    let adapters: Vec<Vec<LoraFactors>> =
        (0..ADAPTERS).map(|adapter| vec![LoraFactors { a: of(adapter, "A"), b: of(adapter, "B") }]).collect();
    for (rank, is_exact) in [(4, false), (5, true), (6, true)] {
        let options = Options { kind: Kind::Full, rank, clusters: 1, iterations: 10 };
        let compression = compress(adapters.clone(), options, |_| ());
        let worst = compression.errors.iter().copied().fold(0.0, f64::max);
        assert_eq!(worst < 1e-20, is_exact, "rank {rank}: {worst}");
        for (slots, cores) in adapters.iter().zip(&compression.cores) {
            let again = project(&compression.bases, slots.clone(), Kind::Full);
            assert!(again.norm > 0.0 && again.error <= worst + 1e-20);
            assert_near(
                &again.cores[0].numbers().into_iter().map(f64::from).collect::<Vec<_>>(),
                &cores[0].numbers().into_iter().map(f64::from).collect::<Vec<_>>(),
                1e-6,
                "a member's core",
            );
        }
    }
}
