//! The basis: its entries, `expand` and `project`.

use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use nola_core::adapter::NolaConfig;
use nola_core::basis::{Basis, Distribution, Generator, Stream};
use nola_core::{Adapted, AdapterConfig, Targets, float_params};

use super::check::Comparison;
use crate::device::TOLERANCE;
use crate::device::differences::Bound;
use crate::device::steps::{factors, gradient_values};

/// Matrices of a basis: no multiple of what a kernel draws at once.
const COUNT: usize = 163;
/// Rows and columns of one: no multiple of a tile.
const SHAPE: [usize; 2] = [25, 41];
/// What entries are multiplied with.
const SCALE: f32 = 0.3;
/// Largest error of `project`, as a part of the sum of the magnitudes.
const PROJECTED: f32 = 1e-6;
/// Largest difference of a matrix that one coefficient alone makes: words that are wrong differ by much more.
const ENTRIES: f32 = 1e-6;
/// Largest difference of matrices that are summed in another order.
const SUMS: f32 = 1e-5;

/// What computes linear combinations.
pub(super) trait Combine {
    fn expand(&self, basis: &Basis, coefficients: &[f32]) -> Vec<f32>;
    fn project(&self, basis: &Basis, gradient: &[f32]) -> Vec<f32>;
}

/// The kernels that training runs on this processor.
pub(super) struct Ours;

impl Combine for Ours {
    fn expand(&self, basis: &Basis, coefficients: &[f32]) -> Vec<f32> {
        basis.expand(coefficients)
    }

    fn project(&self, basis: &Basis, gradient: &[f32]) -> Vec<f32> {
        basis.project(gradient)
    }
}

/// The processor's kernels beside plain loops over entries that are drawn one by one.
pub(super) fn on_cpu(kernels: &dyn Combine) -> Vec<Comparison> {
    [Distribution::Uniform, Distribution::Sign]
        .into_iter()
        .flat_map(|distribution| of_distribution(kernels, distribution))
        .collect()
}

fn of_distribution(kernels: &dyn Combine, distribution: Distribution) -> [Comparison; 3] {
    let generator = Generator { distribution, seed: 0x1234_5678_9ABC, site: 77, stream: Stream::B };
    let size = SHAPE[0] * SHAPE[1];
    let matrices: Vec<Vec<f32>> = (0..COUNT).map(|index| generator.values(index as u32, size)).collect();
    let name = name(distribution);

    let plain = Basis::generated(generator, COUNT, SHAPE, 1.0);
    let alone = |index: usize| {
        let coefficients: Vec<f32> = (0..COUNT).map(|n| if n == index { 1.0 } else { 0.0 }).collect();
        kernels.expand(&plain, &coefficients)
    };
    let some = [0, 31, 32, 127, 128, COUNT - 1];
    let (found, expected) = (
        some.iter().flat_map(|&index| alone(index)).collect(),
        some.iter().flat_map(|&index| matrices[index].clone()).collect(),
    );
    let entries = Comparison::new(format!("entries of a {name} basis"), found, expected, Bound::SameBits);

    let scaled = Basis::generated(generator, COUNT, SHAPE, SCALE);
    let (coefficients, gradient) = (wave(COUNT, 0.7), wave(size, 1.9));
    let found = kernels.expand(&scaled, &coefficients);
    let expected = expanded(&matrices, &coefficients);
    let expand = Comparison::new(format!("`expand` of a {name} basis"), found, expected, Bound::SameBits);

    let found = kernels.project(&scaled, &gradient);
    let (expected, magnitudes) = projected(&matrices, &gradient);
    let parts = |values: &[f32]| values.iter().zip(&magnitudes).map(|(value, sum)| value / sum).collect();
    let project = Comparison::new(
        format!("`project` of a {name} basis"),
        parts(&found),
        parts(&expected),
        Bound::Absolute(PROJECTED),
    );
    [entries, expand, project]
}

fn name(distribution: Distribution) -> &'static str {
    match distribution {
        Distribution::Uniform => "uniform",
        Distribution::Sign => "sign",
    }
}

/// Numbers between −1 and 1.
fn wave(count: usize, step: f32) -> Vec<f32> {
    (0..count).map(|n| (n as f32 * step + 0.3).sin()).collect()
}

/// The linear combination in the order that is promised: each product and each sum rounded, the scale last.
fn expanded(matrices: &[Vec<f32>], coefficients: &[f32]) -> Vec<f32> {
    let entry = |e: usize| {
        let products = matrices.iter().zip(coefficients).map(|(matrix, coefficient)| coefficient * matrix[e]);
        products.fold(0.0, |sum, product| sum + product) * SCALE
    };
    (0..matrices[0].len()).map(entry).collect()
}

/// The products with a gradient, in f64, and the sums of their magnitudes.
fn projected(matrices: &[Vec<f32>], gradient: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let of_matrix = |matrix: &Vec<f32>| {
        let products =
            matrix.iter().zip(gradient).map(|(entry, gradient)| f64::from(*entry) * f64::from(*gradient));
        let (sum, magnitudes) =
            products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()));
        [sum, magnitudes].map(|value| (value * f64::from(SCALE)) as f32)
    };
    let found = matrices.iter().map(of_matrix);
    found.map(|[sum, magnitudes]| (sum, magnitudes)).unzip()
}

/// The kernels of a GPU beside the processor's.
pub(super) fn on_gpu(device: &Device, cpu: &Device) -> Vec<Comparison> {
    let of_distribution = |distribution| {
        let [found, expected] = [device, cpu].map(|device| combined(distribution, device));
        let name = name(distribution);
        let compare = |what: &str, found, expected, part| {
            Comparison::new(format!("{what} of a {name} basis"), found, expected, Bound::OfLargest(part))
        };
        [
            compare("entries", found.entries, expected.entries, ENTRIES),
            compare("`expand`", found.expanded, expected.expanded, SUMS),
            compare("`project`", found.projected, expected.projected, TOLERANCE),
        ]
    };
    [Distribution::Uniform, Distribution::Sign].into_iter().flat_map(of_distribution).collect()
}

/// What the kernels beside a device compute.
struct Combined {
    entries: Vec<f32>,
    expanded: Vec<f32>,
    projected: Vec<f32>,
}

/// Factors and gradients of coefficients of two layers with NOLA.
fn combined(basis: Distribution, device: &Device) -> Combined {
    let device = &device.clone().autodiff();
    let layers: Vec<Linear> =
        [[40, 33], [33, 25]].map(|[d_in, d_out]| LinearConfig::new(d_in, d_out).init(device)).into();
    let nola = NolaConfig { rank: 3, k: 70, l: Some(67), basis, ..NolaConfig::default() };
    let targets = Targets::matching("all-linear");
    let model = Adapted::attach(layers, &AdapterConfig::Nola(nola), &targets, &[], device)
        .expect("linear layers can be adapted");
    let with = |value: &dyn Fn(usize) -> f32| {
        let mut state = model.state();
        for data in state.values_mut() {
            let values: Vec<f32> = (0..data.shape().num_elements()).map(value).collect();
            *data = TensorData::new(values, data.shape());
        }
        factors(&model.clone().with_state(state).expect("its own names").model)
    };
    Combined {
        entries: with(&|n| if n == 5 { 1.0 } else { 0.0 }),
        expanded: with(&|n| (n as f32 * 0.7).sin()),
        projected: projected_there(&model, device),
    }
}

fn projected_there(model: &Adapted<Vec<Linear>>, device: &Device) -> Vec<f32> {
    let mut gradients = GradientsParams::new();
    for factor in float_params(&model.model).into_iter().filter(|param| param.path.contains(".adapter.")) {
        let values = wave(factor.shape.iter().product(), 1.9);
        let data = TensorData::new(values, factor.shape);
        gradients.register(factor.id, Tensor::<2>::from_data(data, &device.clone().inner()));
    }
    gradient_values(model, &model.project(gradients))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kernels of which one lane is wrong.
    struct OneWrongLane;

    impl Combine for OneWrongLane {
        fn expand(&self, basis: &Basis, coefficients: &[f32]) -> Vec<f32> {
            let mut matrix = basis.expand(coefficients);
            // The last bit alone.
            matrix[21] = f32::from_bits(matrix[21].to_bits() ^ 1);
            matrix
        }

        fn project(&self, basis: &Basis, gradient: &[f32]) -> Vec<f32> {
            let mut gradient = gradient.to_vec();
            gradient[21] = 0.0;
            basis.project(&gradient)
        }
    }

    fn problems(comparisons: Vec<Comparison>) -> Vec<String> {
        comparisons.into_iter().filter_map(|comparison| comparison.checked("basis").problem()).collect()
    }

    #[test]
    fn the_kernels_of_this_processor_are_right() {
        assert_eq!(problems(on_cpu(&Ours)), Vec::<String>::new());
        let cpu = Device::flex();
        assert_eq!(problems(on_gpu(&cpu, &cpu)), Vec::<String>::new());
    }

    #[test]
    fn a_kernel_with_one_wrong_lane_is_found_in_everything_it_computes() {
        let found = problems(on_cpu(&OneWrongLane));
        assert_eq!(found.len(), 6, "{found:?}");
        assert!(found[0].contains("entries of a uniform basis are wrong; number 22 should be "), "{found:?}");
    }
}
