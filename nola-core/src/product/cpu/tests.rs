#![allow(unsafe_code, reason = "the kernel under test")]

use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Shape, TensorData};
use half::{bf16, f16};
use proptest::prelude::*;

use super::operands::{Operands, Sums, Weight};
use super::{narrow, wide};
#[cfg(target_arch = "x86_64")]
use crate::instructions::Instructions;

/// Numbers that bf16 holds exactly, so that rounding them changes nothing.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let number = |n: u32| {
        let mixed = (n ^ seed).wrapping_mul(0x9e37_79b9) >> 24;
        (f32::from(mixed as u8) - 128.0) / 64.0
    };
    (0..count as u32).map(number).collect()
}

fn tensor(values: Vec<f32>, shape: impl Into<Shape>, dtype: DType) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape).convert_dtype(dtype))
}

/// One product: sizes, the number type of the weight, and how it lies.
#[derive(Debug, Clone, Copy)]
struct Case {
    rows: usize,
    d_in: usize,
    d_out: usize,
    dtype: DType,
    is_transposed: bool,
    has_bias: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (
        prop_oneof![1..5_usize, 1..70_usize],
        prop_oneof![1..80_usize, 500..530_usize, 1020..1040_usize],
        1..150_usize,
    );
    let dtype = prop_oneof![Just(DType::F32), Just(DType::BF16), Just(DType::F16)];
    (sizes, dtype, any::<bool>(), any::<bool>()).prop_map(
        |((rows, d_in, d_out), dtype, is_transposed, has_bias)| Case {
            rows,
            d_in,
            d_out,
            dtype,
            is_transposed,
            has_bias,
        },
    )
}

impl Case {
    fn x(&self) -> Vec<f32> {
        numbers(self.rows * self.d_in, 1)
    }

    fn bias(&self) -> Option<Vec<f32>> {
        self.has_bias.then(|| numbers(self.d_out, 2))
    }

    /// `[d_in, d_out]`, however it lies.
    fn weight(&self) -> FlexTensor {
        let values = numbers(self.d_in * self.d_out, 3);
        if self.is_transposed {
            return tensor(values, [self.d_out, self.d_in], self.dtype).transpose(0, 1);
        }
        tensor(values, [self.d_in, self.d_out], self.dtype)
    }

    fn expected(&self) -> Vec<f64> {
        let (x, bias, weight) = (self.x(), self.bias(), numbers(self.d_in * self.d_out, 3));
        let of = |input: usize, output: usize| match self.is_transposed {
            true => weight[output * self.d_in + input],
            false => weight[input * self.d_out + output],
        };
        let sum = |row: usize, output: usize| {
            let products = (0..self.d_in)
                .map(|input| f64::from(x[row * self.d_in + input]) * f64::from(of(input, output)));
            products.sum::<f64>() + bias.as_ref().map_or(0.0, |bias| f64::from(bias[output]))
        };
        (0..self.rows)
            .flat_map(|row| (0..self.d_out).map(move |output| (row, output)))
            .map(|(r, o)| sum(r, o))
            .collect()
    }

    fn check(&self, found: &[f32]) {
        // Products are multiples of 2^-12 below 4, so sums of a thousand are exact in f32.
        let expected: Vec<f32> = self.expected().into_iter().map(|sum| sum as f32).collect();
        assert_eq!(found, expected, "{self:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_product_is_exact_where_f32_is(case in cases()) {
        let x = tensor(case.x(), [case.rows, case.d_in], DType::F32);
        let bias = case.bias().map(|bias| tensor(bias, [case.d_out], DType::F32));
        let result = super::product(&x, case.weight(), bias.as_ref());
        case.check(result.storage());
    }

    #[test]
    fn processors_without_products_of_bf16_give_the_same(case in cases()) {
        let (x, bias, weight) = (case.x(), case.bias(), case.weight());
        let mut result = Vec::with_capacity(case.rows * case.d_out);
        let operands = Operands { x: &x, bias: bias.as_deref(), sums: Sums::new(&mut result.spare_capacity_mut()[..case.rows * case.d_out], case.d_out) };
        match case.dtype {
            DType::F32 => wide::multiply(&operands, &Weight::new(weight.storage::<f32>(), weight.layout())),
            DType::BF16 => narrow::multiply(&operands, &Weight::new(weight.storage::<bf16>(), weight.layout())),
            _ => narrow::multiply(&operands, &Weight::new(weight.storage::<f16>(), weight.layout())),
        }
        // SAFETY: the product wrote every part, as a test below shows.
        unsafe { result.set_len(case.rows * case.d_out) };
        case.check(&result);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn tiles_give_the_same(case in cases()) {
        let case = Case { dtype: DType::BF16, ..case };
        let (x, bias, weight) = (case.x(), case.bias(), case.weight());
        let weight = Weight::new(weight.storage::<bf16>(), weight.layout());
        // The plain model of a tile, and the processor's own tiles where they are allowed.
        let of_processor = super::bf16_pairs::Kernel::of(Instructions::allowed());
        for kernel in [super::bf16_pairs::Kernel::model(), of_processor].into_iter().flatten() {
            let mut result = Vec::with_capacity(case.rows * case.d_out);
            let sums = Sums::new(&mut result.spare_capacity_mut()[..case.rows * case.d_out], case.d_out);
            kernel.multiply(&Operands { x: &x, bias: bias.as_deref(), sums }, &weight);
            // SAFETY: as above.
            unsafe { result.set_len(case.rows * case.d_out) };
            case.check(&result);
        }
    }
}

#[test]
fn without_inputs_a_product_is_its_bias() {
    for (dtype, has_bias) in
        [DType::F32, DType::BF16, DType::F16].map(|dtype| [(dtype, true), (dtype, false)]).concat()
    {
        let case = Case { rows: 6, d_in: 0, d_out: 40, dtype, is_transposed: false, has_bias };
        let x = tensor(case.x(), [case.rows, case.d_in], DType::F32);
        let bias = case.bias().map(|bias| tensor(bias, [case.d_out], DType::F32));
        case.check(super::product(&x, case.weight(), bias.as_ref()).storage());
    }
}

#[test]
fn parts_cover_a_result_once() {
    for [rows, d_out] in [[1, 1], [1, 50_257], [1000, 40], [4096, 768], [129, 33]] {
        let mut result = Vec::with_capacity(rows * d_out);
        let sums = Sums::new(&mut result.spare_capacity_mut()[..rows * d_out], d_out);
        let operands = Operands { x: &[], bias: None, sums };
        let mut covered = vec![0_u8; rows * d_out];
        for part in operands.parts() {
            for row in part.rows {
                part.columns.clone().for_each(|column| covered[row * d_out + column] += 1);
            }
        }
        assert!(covered.iter().all(|&times| times == 1), "{rows} x {d_out}");
    }
}
