//! Products with frozen weights of every storage dtype, straight and transposed.

use burn::tensor::{DType, Device, Tensor, TensorData};
use nola_core::{compute_dtype, product};
use nola_models::WeightDtype;

use super::check::Comparison;
use crate::device::differences::Bound;

/// Rows; like inputs and outputs no multiples of what a kernel takes at once.
const ROWS: usize = 37;
const D_IN: usize = 531;
const D_OUT: usize = 45;
/// Largest difference where activations are f32, as a part of the largest number: what tensor cores that round to 19 bits leave.
const WIDE: f32 = 1e-3;
/// Likewise where they are in half precision, and so is the result.
const NARROW: f32 = 1e-2;

/// The products of a device beside plain loops in f64.
pub(super) fn on(device: &Device) -> Vec<Comparison> {
    let supported = WeightDtype::ALL.into_iter().filter(|dtype| dtype.is_supported_by(device));
    let of_dtype =
        |dtype: WeightDtype| [Lying::Straight, Lying::Transposed].map(|lying| compared(dtype, lying, device));
    supported.flat_map(of_dtype).collect()
}

/// How a weight lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lying {
    Straight,
    Transposed,
}

fn compared(dtype: WeightDtype, lying: Lying, device: &Device) -> Comparison {
    // Kernels may round what they multiply to the storage dtype, which changes nothing here.
    let wave = |count: usize, step: f32| -> Vec<f32> {
        (0..count).map(|n| dtype.rounded((n as f32 * step).sin())).collect()
    };
    let (x, bias) = (wave(ROWS * D_IN, 0.37), wave(D_OUT, 0.9));
    let weight = wave(D_IN * D_OUT, 0.73);
    let expected = expected(&x, &weight, &bias);
    let tensor =
        |values: Vec<f32>, shape: [usize; 2]| Tensor::<2>::from_data(TensorData::new(values, shape), device);
    let weight = match lying {
        Lying::Straight => tensor(weight, [D_IN, D_OUT]).cast(dtype.dtype()),
        Lying::Transposed => {
            let turned = (0..D_OUT * D_IN).map(|n| weight[n % D_IN * D_OUT + n / D_IN]).collect();
            tensor(turned, [D_OUT, D_IN]).cast(dtype.dtype()).transpose()
        }
    };
    let flowing = compute_dtype(device, dtype.dtype());
    let bias = tensor(bias, [1, D_OUT]).reshape([D_OUT]).cast(dtype.dtype());
    let y = product(tensor(x, [ROWS, D_IN]).cast(flowing), weight, Some(bias));
    let lies = match lying {
        Lying::Straight => "",
        Lying::Transposed => ", transposed",
    };
    let part = if flowing == DType::F32 { WIDE } else { NARROW };
    let found = y.into_data().iter::<f32>().collect();
    Comparison::new(
        format!("a product with a weight in {dtype}{lies}"),
        found,
        expected,
        Bound::OfLargest(part),
    )
}

fn expected(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let row = |row: &[f32]| {
        let mut sums: Vec<f64> = bias.iter().map(|&value| f64::from(value)).collect();
        for (&x, weights) in row.iter().zip(weight.chunks(D_OUT)) {
            for (sum, &weight) in sums.iter_mut().zip(weights) {
                *sum += f64::from(x) * f64::from(weight);
            }
        }
        sums.into_iter().map(|sum| sum as f32).collect::<Vec<f32>>()
    };
    x.chunks(D_IN).flat_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_product_of_the_cpu_is_right_and_a_wrong_number_in_one_is_found() {
        let all = on(&Device::flex());
        assert_eq!(all.len(), 6, "three dtypes, straight and transposed");
        for comparison in all {
            assert_eq!(comparison.clone().checked("products").problem(), None);
            let mut wrong = comparison;
            wrong.found[100] +=
                0.5 * wrong.expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            let problem = wrong.checked("products").problem().expect("it is wrong");
            assert!(problem.contains("1 of 1665 numbers") && problem.contains("number 101"), "{problem}");
        }
    }
}
