//! `expand` and `project` on the device that `NOLA_TEST_DEVICE` names, against sums in `f64` over the same basis.

use std::collections::BTreeMap;

use burn::module::{Module, ParamId};
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use nola_core::adapter::{Factor, LinearCombination, Matrices, Plan};
use nola_core::basis::{Basis, Distribution, Generator, Stream};
use nola_core::{Adapted, Site, float_params, read_params};
use proptest::prelude::*;

use crate::devices::{by_name, by_path, device};

/// Far from a power of two, so that a scale applied twice or not at all is seen.
const ENTRY_SCALE: f32 = 0.3;

#[derive(Module, Debug)]
struct Layers {
    layers: Vec<Linear>,
}

/// Layers of some shapes with linear combinations of `counts` matrices for A and for B.
#[derive(Debug, Clone)]
struct Case {
    distribution: Distribution,
    seed: u64,
    /// Whether layers of one shape have one basis.
    is_shared: bool,
    shapes: Vec<[usize; 2]>,
    rank: usize,
    counts: [usize; 2],
}

/// One factor: where its basis comes from, its coefficients, and the names of itself and of its coefficients.
struct Side {
    generator: Generator,
    coefficients: Vec<f32>,
    shape: [usize; 2],
    path: String,
}

fn cases() -> impl Strategy<Value = Case> {
    let laws = prop_oneof![Just(Distribution::Uniform), Just(Distribution::Sign)];
    let shape = prop_oneof![(1_usize..40, 1_usize..40), Just((64, 48)), (100_usize..300, 1_usize..9)];
    // Few layers of few shapes, so that some share a launch.
    let shapes = prop::collection::vec(shape, 1..3)
        .prop_flat_map(|shapes| prop::collection::vec(prop::sample::select(shapes), 1..5));
    let counts = || prop_oneof![1_usize..20, 60_usize..70, Just(300)];
    let kinds = (laws, any::<u64>(), any::<bool>());
    (kinds, shapes, 1_usize..6, counts(), counts()).prop_map(
        |((distribution, seed, is_shared), shapes, rank, k, l)| {
            let shapes = shapes.into_iter().map(|(d_in, d_out)| [d_in, d_out]).collect();
            Case { distribution, seed, is_shared, shapes, rank, counts: [k, l] }
        },
    )
}

impl Case {
    /// A and B of every layer, with `coefficient(layer, index)`.
    fn sides(&self, coefficient: impl Fn(usize, usize) -> f32) -> Vec<[Side; 2]> {
        let side = |layer: usize, which: usize| {
            let [d_in, d_out] = self.shapes[layer];
            let stream = [Stream::A, Stream::B][which];
            let name = if self.is_shared { d_in * 1000 + d_out } else { layer };
            let site = 0xF000_0000 ^ (name as u32).wrapping_mul(0x0101_0101);
            Side {
                generator: Generator { distribution: self.distribution, seed: self.seed, site, stream },
                coefficients: (0..self.counts[which]).map(|index| coefficient(layer, index)).collect(),
                shape: [[d_in, self.rank], [self.rank, d_out]][which],
                path: format!("layers.{layer}.weight.adapter.{}", ["a", "b"][which]),
            }
        };
        (0..self.shapes.len()).map(|layer| [side(layer, 0), side(layer, 1)]).collect()
    }

    fn adapted(&self, sides: &[[Side; 2]], device: &Device) -> Adapted<Layers> {
        let layer =
            |[d_in, d_out]: &[usize; 2]| LinearConfig::new(*d_in, *d_out).with_bias(false).init(device);
        let model = Layers { layers: self.shapes.iter().map(layer).collect() };
        let site = |(layer, [d_in, d_out]): (usize, &[usize; 2])| {
            Site::linear(format!("layers.{layer}"), *d_in, *d_out)
        };
        let sites = self.shapes.iter().enumerate().map(site).collect();
        let plan = |[a, b]: &[Side; 2]| Plan::low_rank(a.mixed("alpha"), b.mixed("beta"), self.rank, 1.0);
        let plans = sides.iter().map(plan).collect();
        Adapted::attach_plans(model, sites, plans, &[], device).expect("sites that exist")
    }
}

impl Side {
    fn mixed(&self, name: &'static str) -> Factor {
        let basis = Basis::generated(self.generator, self.coefficients.len(), self.shape, ENTRY_SCALE);
        let matrices = Matrices::Random(basis);
        Factor::Combined(LinearCombination {
            name,
            matrices,
            offset: None,
            initial: self.coefficients.clone(),
        })
    }

    fn elements(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Every matrix of the basis without its scale.
    fn basis(&self) -> Vec<Vec<f32>> {
        (0..self.coefficients.len() as u32).map(|i| self.generator.values(i, self.elements())).collect()
    }

    /// Something to be projected, another one for every layer.
    fn gradient(&self) -> Vec<f32> {
        let phase = self.path.bytes().fold(0.0, |phase, byte| phase + f32::from(byte));
        (0..self.elements()).map(|e| (e as f32 * 0.37 + phase).sin()).collect()
    }
}

/// The factors on the device, by path.
fn factors(model: &Adapted<Layers>) -> BTreeMap<String, Vec<f32>> {
    let mut params = float_params(&model.model);
    params.retain(|param| param.path.contains(".adapter."));
    let ids: Vec<ParamId> = params.iter().map(|param| param.id).collect();
    let mut values = read_params(&model.model, &ids);
    let mut value = |id| values.remove(&id).expect("it was asked for").try_into_vec().expect("read as f32");
    params.into_iter().map(|param| (param.path, value(param.id))).collect()
}

/// The gradients of `sides` where `has_one` says so, projected: of A's coefficients and of B's.
fn projected(
    model: &Adapted<Layers>,
    sides: &[[Side; 2]],
    has_one: impl Fn(usize) -> bool,
) -> BTreeMap<String, Vec<f32>> {
    let device = device().inner();
    let params = float_params(&model.model);
    let mut gradients = GradientsParams::new();
    for side in sides.iter().enumerate().filter(|(layer, _)| has_one(*layer)).flat_map(|(_, sides)| sides) {
        let param = params.iter().find(|param| param.path == side.path).expect("it was attached there");
        let data = TensorData::new(side.gradient(), side.shape);
        gradients.register(param.id, Tensor::<2>::from_data(data, &device));
    }
    by_name(model, &model.project(gradients))
}

/// The sum of some products, and the sum of their sizes.
fn sums(products: impl Iterator<Item = (f32, f32)>) -> [f64; 2] {
    products.fold([0.0, 0.0], |[sum, sizes], (left, right)| {
        let product = f64::from(left) * f64::from(right) * f64::from(ENTRY_SCALE);
        [sum + product, sizes + product.abs()]
    })
}

/// Whether `found` is the sum, to a millionth of the size of its terms.
fn is_near(found: f32, [sum, sizes]: [f64; 2]) -> bool {
    (f64::from(found) - sum).abs() <= 1e-6 * sizes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) })]

    #[test]
    fn one_hot_coefficients_show_the_basis_bit_for_bit(case in cases(), hot in 0_usize..300) {
        let sides = case.sides(|_, index| f32::from(u8::from(index == hot % case.counts[0].min(case.counts[1]))));
        let found = factors(&case.adapted(&sides, &device()).expand());
        for side in sides.iter().flatten() {
            let hot = hot % case.counts[0].min(case.counts[1]);
            let entries = side.generator.values(hot as u32, side.elements());
            let expected: Vec<f32> = entries.iter().map(|entry| entry * ENTRY_SCALE).collect();
            prop_assert_eq!(&found[&side.path], &expected, "{}", side.path);
        }
    }

    #[test]
    fn factors_are_the_sums_over_the_basis(case in cases()) {
        let sides = case.sides(|layer, index| (index as f32 * 0.7 + layer as f32 + 0.3).sin());
        let found = factors(&case.adapted(&sides, &device()).expand());
        for side in sides.iter().flatten() {
            let basis = side.basis();
            for (element, found) in found[&side.path].iter().enumerate() {
                let products = side.coefficients.iter().zip(&basis).map(|(c, matrix)| (*c, matrix[element]));
                let sums = sums(products);
                prop_assert!(is_near(*found, sums), "{}[{element}]: {found} and {sums:?}", side.path);
            }
        }
    }

    #[test]
    fn gradients_of_coefficients_are_the_products_with_the_basis(case in cases()) {
        let sides = case.sides(|layer, index| (index as f32 * 0.7 + layer as f32 + 0.3).sin());
        let found = projected(&case.adapted(&sides, &device()), &sides, |_| true);
        for (layer, sides) in sides.iter().enumerate() {
            for (side, name) in sides.iter().zip(["alpha", "beta"]) {
                let gradient = side.gradient();
                for (index, matrix) in side.basis().iter().enumerate() {
                    let found = found[name][layer * side.coefficients.len() + index];
                    let sums = sums(gradient.iter().copied().zip(matrix.iter().copied()));
                    prop_assert!(is_near(found, sums), "{}[{index}]: {found} and {sums:?}", side.path);
                }
            }
        }
    }
}

fn three_layers(distribution: Distribution) -> Case {
    Case {
        distribution,
        seed: 5,
        is_shared: false,
        shapes: vec![[30, 20], [30, 20], [30, 20]],
        rank: 4,
        counts: [40, 300],
    }
}

#[test]
fn a_layer_without_a_gradient_has_zeros_for_its_coefficients() {
    for distribution in [Distribution::Uniform, Distribution::Sign] {
        let case = three_layers(distribution);
        let sides = case.sides(|_, _| 1.0);
        let model = case.adapted(&sides, &device());
        let all = projected(&model, &sides, |_| true);
        let without = projected(&model, &sides, |layer| layer != 1);
        for (name, count) in ["alpha", "beta"].into_iter().zip(case.counts) {
            let layer =
                |of: &BTreeMap<String, Vec<f32>>, n: usize| of[name][n * count..(n + 1) * count].to_vec();
            assert_eq!(layer(&without, 1), vec![0.0; count]);
            assert_eq!(layer(&without, 0).len(), layer(&all, 0).len());
            assert!(layer(&without, 2).iter().any(|gradient| *gradient != 0.0), "{name}");
        }
    }
}

#[test]
fn the_same_numbers_give_the_same_bits() {
    for distribution in [Distribution::Uniform, Distribution::Sign] {
        let case = three_layers(distribution);
        let sides = case.sides(|layer, index| (index + layer) as f32 * 0.1);
        let once = || {
            let model = case.adapted(&sides, &device()).expand();
            (factors(&model), projected(&model, &sides, |_| true))
        };
        assert!(once() == once(), "{distribution:?}");
    }
}

#[test]
fn expanded_factors_are_still_trained_and_still_checkpoint() {
    let device = device().gradient_checkpointing();
    let case = three_layers(Distribution::Uniform);
    let sides = case.sides(|_, _| 0.1);
    let model = case.adapted(&sides, &device).expand();
    let x = Tensor::<2>::ones([2, 30], &device);
    let layers = &model.model.layers;
    let y: Vec<Tensor<2>> = layers.iter().map(|layer| nola_core::adapted(layer, x.clone())).collect();
    let gradients = GradientsParams::from_grads(Tensor::cat(y, 1).square().mean().backward(), &model);
    assert_eq!(by_path(&model.model, &gradients).len(), 6);
}
