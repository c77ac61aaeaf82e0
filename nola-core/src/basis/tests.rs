use proptest::prelude::*;

use super::fastest::available;
use super::kernel::{Kernel, SIGN_BATCH};
use super::work::{expand_together, project_together};
use super::*;

const SCALE: f32 = 0.3;

type ForAll = fn(&[(&Basis, &[f32])]) -> Vec<Vec<f32>>;
type ForOne = fn(&Basis, &[f32]) -> Vec<f32>;

fn generator(distribution: Distribution, seed: u64) -> Generator {
    Generator { distribution, seed, site: 77, stream: Stream::A }
}

fn basis(distribution: Distribution, count: usize, shape: [usize; 2]) -> Basis {
    Basis::generated(generator(distribution, 0xDEAD_BEEF_CAFE), count, shape, SCALE)
}

fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.expect("a pool of a few threads").install(work)
}

fn distributions() -> impl Strategy<Value = Distribution> {
    prop_oneof![Just(Distribution::Uniform), Just(Distribution::Sign)]
}

fn waves(count: usize, phase: f32) -> Vec<f32> {
    (0..count).map(|n| (phase + n as f32).sin()).collect()
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
}

fn dot(left: &[f32], right: &[f32]) -> f64 {
    left.iter().zip(right).map(|(l, r)| f64::from(*l) * f64::from(*r)).sum()
}

/// The definition: each matrix in turn, each product and sum rounded, the scale last.
fn expand_by_definition(generator: &Generator, coefficients: &[f32], size: usize) -> Vec<f32> {
    let mut matrix = vec![0.0_f32; size];
    for (index, coefficient) in coefficients.iter().enumerate() {
        for (sum, entry) in matrix.iter_mut().zip(generator.values(index as u32, size)) {
            *sum += coefficient * entry;
        }
    }
    matrix.iter().map(|sum| sum * SCALE).collect()
}

/// Shapes with tails of every kind, and more matrices than one batch.
fn sizes() -> impl Strategy<Value = (usize, [usize; 2])> {
    (1..SIGN_BATCH + 50, 1_usize..200, 1_usize..20).prop_map(|(count, rows, cols)| (count, [rows, cols]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_kernel_gives_the_bits_of_the_plain_one(
        distribution in distributions(), seed: u64, (count, shape) in sizes(), sites in 1_usize..4, threads in 1_usize..4,
        exponent in -40_i32..30,
    ) {
        let basis = Basis::generated(generator(distribution, seed), count, shape, SCALE);
        let inputs = |size: usize| -> Vec<Vec<f32>> {
            let wave = |site| waves(size, site as f32).into_iter().map(|v| v * 10_f32.powi(exponent));
            (0..sites).map(|site| wave(site).collect()).collect()
        };
        let (rows, gradients) = (inputs(count), inputs(basis.size()));
        let [rows, gradients] = [&rows, &gradients].map(|inputs| inputs.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let of_kernel = |kernel: &dyn Kernel| with_threads(threads, || {
            (bits(&expand_together(kernel, &basis, &rows)), bits(&project_together(kernel, &basis, &gradients)))
        });
        let [plain, others @ ..] = &available()[..] else { unreachable!("the plain kernel always runs") };
        let expected = of_kernel(*plain);
        for kernel in others {
            prop_assert!(of_kernel(*kernel) == expected, "{}", kernel.instructions());
        }
    }

    #[test]
    fn expand_has_the_bits_of_its_definition(distribution in distributions(), seed: u64, (count, shape) in sizes()) {
        let basis = Basis::generated(generator(distribution, seed), count, shape, SCALE);
        let coefficients = waves(count, 0.5);
        let expected = expand_by_definition(&generator(distribution, seed), &coefficients, basis.size());
        prop_assert_eq!(bits(&[basis.expand(&coefficients)]), bits(&[expected]));
    }

    #[test]
    fn project_is_within_a_millionth_of_the_products_magnitudes(
        distribution in distributions(), seed: u64, (count, shape) in sizes(),
    ) {
        let basis = Basis::generated(generator(distribution, seed), count, shape, SCALE);
        let gradient = waves(basis.size(), 0.5);
        for (index, found) in basis.project(&gradient).into_iter().enumerate() {
            let entries = generator(distribution, seed).values(index as u32, basis.size());
            let magnitudes: Vec<f32> = entries.iter().zip(&gradient).map(|(e, g)| (e * g).abs()).collect();
            let difference = f64::from(found) - f64::from(SCALE) * dot(&entries, &gradient);
            let allowed = 1e-6 * f64::from(SCALE) * dot(&magnitudes, &vec![1.0; magnitudes.len()]);
            prop_assert!(difference.abs() <= allowed, "matrix {}: {} > {}", index, difference, allowed);
        }
    }

    #[test]
    fn thread_count_does_not_change_a_bit(distribution in distributions(), (count, shape) in sizes(), threads in 2_usize..6) {
        let basis = basis(distribution, count, shape);
        let (coefficients, gradient) = (waves(count, 0.0), waves(basis.size(), 1.0));
        let work = || (basis.expand(&coefficients), basis.project(&gradient));
        prop_assert_eq!(with_threads(1, work), with_threads(threads, work));
    }

    #[test]
    fn project_is_the_adjoint_of_expand(distribution in distributions(), (count, shape) in sizes()) {
        let basis = basis(distribution, count, shape);
        let coefficients: Vec<f32> = waves(count, 0.0).iter().map(|v| v + 0.5).collect();
        let gradient = waves(basis.size(), 1.0);
        let left = dot(&basis.expand(&coefficients), &gradient);
        let right = dot(&coefficients, &basis.project(&gradient));
        let terms = (count * basis.size()) as f64;
        prop_assert!((left - right).abs() <= 1e-6 * (1.0 + terms), "{left} {right}");
    }

    #[test]
    fn sites_together_get_the_bits_of_single_calls(
        distribution in distributions(), (count, shape) in sizes(), sites in 1_usize..40, threads in 1_usize..4,
    ) {
        let shared = basis(distribution, count, shape);
        let own = Basis::generated(generator(distribution, 5), count, shape, SCALE);
        let bases: Vec<Basis> =
            (0..sites).map(|site| if site % 3 == 1 { own.clone() } else { shared.clone() }).collect();
        let check = |all: ForAll, single: ForOne, size| {
            let inputs: Vec<Vec<f32>> = (0..sites).map(|site| waves(size, site as f32)).collect();
            let pairs: Vec<(&Basis, &[f32])> = bases.iter().zip(inputs.iter().map(Vec::as_slice)).collect();
            let expected: Vec<Vec<f32>> = pairs.iter().map(|(basis, input)| single(basis, input)).collect();
            bits(&with_threads(threads, || all(&pairs))) == bits(&expected)
        };
        prop_assert!(check(expand_all, Basis::expand, count), "expand");
        prop_assert!(check(project_all, Basis::project, shared.size()), "project");
    }

    #[test]
    fn given_matrices_equal_generated_ones(distribution in distributions(), (count, shape) in sizes()) {
        let generated = Basis::generated(generator(distribution, 9), count, shape, 1.0);
        let values = (0..count).flat_map(|index| generator(distribution, 9).values(index as u32, generated.size()));
        let given = Basis::given(values.collect(), shape);
        let (coefficients, gradient) = (waves(count, 0.0), waves(generated.size(), 1.0));
        prop_assert_eq!(given.expand(&coefficients), generated.expand(&coefficients));
        for (left, right) in given.project(&gradient).into_iter().zip(generated.project(&gradient)) {
            prop_assert!((left - right).abs() <= 1e-6 * generated.size() as f32);
        }
    }
}

#[test]
fn one_hot_coefficients_show_one_matrix_of_the_basis() {
    for distribution in [Distribution::Uniform, Distribution::Sign] {
        let basis = basis(distribution, 3, [50, 41]);
        let values = generator(distribution, 0xDEAD_BEEF_CAFE).values(1, 50 * 41);
        let expected: Vec<f32> = values.iter().map(|v| v * SCALE).collect();
        assert_eq!(basis.expand(&[0.0, 1.0, 0.0]), expected);
    }
}

#[test]
fn every_site_of_a_joint_call_counts_once() {
    let bases = [(); 3].map(|()| basis(Distribution::Sign, 2, [4, 4]));
    let pairs: Vec<(&Basis, &[f32])> = bases.iter().map(|basis| (basis, &[1.0, 2.0][..])).collect();
    expand_all(&pairs);
    assert_eq!(bases.each_ref().map(Basis::calls), [[1, 0]; 3]);
}

#[test]
fn a_gradient_that_is_not_finite_stays_visible() {
    for distribution in [Distribution::Uniform, Distribution::Sign] {
        let mut gradient = waves(300, 0.0);
        gradient[130] = f32::INFINITY;
        assert!(basis(distribution, 40, [300, 1]).project(&gradient).iter().all(|value| !value.is_finite()));
    }
}

#[test]
fn a_basis_without_matrices_mixes_to_zero() {
    assert_eq!(basis(Distribution::Uniform, 0, [3, 2]).expand(&[]), [0.0; 6]);
    assert!(basis(Distribution::Sign, 0, [3, 2]).project(&[1.0; 6]).is_empty());
}
