//! Against what bitsandbytes makes of the same weights.

use safetensors::SafeTensors;

use super::*;
use crate::shared::shared;

/// Weights of the fixtures: whole rows of blocks, blocks across rows, short last blocks, blocks of zeros, outliers.
const CASES: [&str; 7] =
    ["blocks_across_rows", "many_blocks_bf16", "odd", "outliers", "rows_of_blocks", "tail", "zero_block"];

/// One case; nothing where there are no fixtures.
fn case(name: &str) -> Option<Vec<u8>> {
    let file = shared(&format!("fixtures/quant/{name}.safetensors"))?;
    Some(std::fs::read(file).expect("a fixture"))
}

fn floats(tensors: &SafeTensors, name: &str) -> Option<Vec<f32>> {
    let tensor = tensors.tensor(name).ok()?;
    let numbers = tensor.data();
    Some(match tensor.dtype() {
        safetensors::Dtype::BF16 => {
            numbers.as_chunks::<2>().0.iter().map(|&n| half::bf16::from_le_bytes(n).to_f32()).collect()
        }
        safetensors::Dtype::F32 => {
            numbers.as_chunks::<4>().0.iter().map(|&n| f32::from_le_bytes(n)).collect()
        }
        other => panic!("{name} is {other}"),
    })
}

/// The weight of a case, and its sizes.
fn weight(tensors: &SafeTensors) -> (Vec<f32>, [usize; 2]) {
    let shape = tensors.tensor("weight").expect("a weight").shape().to_vec();
    (floats(tensors, "weight").expect("a weight"), [shape[1], shape[0]])
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{what}: {found} is not {expected}");
    }
}

/// Where a block is all zeros its codes carry no meaning.
fn is_in_block_of_zeros(values: &[f32], index: usize) -> bool {
    values.chunks(BLOCK).nth(index / BLOCK).is_some_and(|block| block.iter().all(|&value| value == 0.0))
}

/// Checks codes and numbers of every case that has both; `of_a_byte` numbers are in a byte.
fn check(quantization: Quantization, codes: &str, numbers: &str, of_a_byte: usize) {
    for name in CASES {
        let Some(bytes) = case(name) else { return };
        let tensors = SafeTensors::deserialize(&bytes).expect("a fixture");
        let Ok(expected) = tensors.tensor(codes) else { continue };
        let (values, sizes) = weight(&tensors);
        let packed = PackedWeight::quantize(quantization, &values, sizes);
        let view = PackedView::of(&packed.words);
        for (byte, (found, expected)) in view.codes.iter().zip(expected.data()).enumerate() {
            let is_last_half = of_a_byte == 2 && (byte + 1) * 2 > values.len();
            let mask = if is_last_half { 0xf0 } else { 0xff };
            let same = found & mask == expected & mask;
            assert!(same || is_in_block_of_zeros(&values, byte * of_a_byte), "{name}: byte {byte}");
        }
        if let Some(expected) = floats(&tensors, numbers) {
            assert_near(&packed.dequantized(), &expected, name);
        }
    }
}

#[test]
fn nf4_has_the_bytes_of_bitsandbytes() {
    check(Quantization::Nf4, "nf4.packed", "nf4.dequant", 2);
}

#[test]
fn double_nf4_has_the_bytes_of_bitsandbytes() {
    check(Quantization::Nf4Double, "nf4.packed", "nf4_double.dequant", 2);
    for name in CASES {
        let Some(bytes) = case(name) else { return };
        let tensors = SafeTensors::deserialize(&bytes).expect("a fixture");
        let (values, sizes) = weight(&tensors);
        let packed = PackedWeight::quantize(Quantization::Nf4Double, &values, sizes);
        let view = PackedView::of(&packed.words);
        let Blocks::Scaled(Scales::Nested { codes, largest, offset }) = view.blocks else {
            panic!("scales in 8 bits")
        };
        assert_eq!(codes, tensors.tensor("nf4_double.absmax_q").expect("scales").data(), "{name}");
        assert_near(largest, &floats(&tensors, "nf4_double.nested_absmax").expect("scales"), name);
        assert_near(&[offset], &floats(&tensors, "nf4_double.offset").expect("a mean"), name);
    }
}

#[test]
fn int8_has_the_bytes_of_the_fixtures() {
    check(Quantization::Int8, "q8_linear.q", "q8_linear.dequant", 1);
}

#[test]
fn rows_of_llm_int8_are_what_bitsandbytes_reads() {
    for name in CASES {
        let Some(bytes) = case(name) else { return };
        let tensors = SafeTensors::deserialize(&bytes).expect("a fixture");
        let Ok(codes) = tensors.tensor("llm_int8.q") else { continue };
        let scales = floats(&tensors, "llm_int8.scb").expect("scales");
        let (_, sizes) = weight(&tensors);
        let packed = PackedWeight::of_int8_rows(codes.data(), &scales, sizes).expect("a weight");
        assert_near(&packed.dequantized(), &floats(&tensors, "llm_int8.dequant").expect("numbers"), name);
    }
}

#[test]
fn the_tables_are_those_of_bitsandbytes() {
    let Some(bytes) = case("tables") else { return };
    let tensors = SafeTensors::deserialize(&bytes).expect("a fixture");
    assert_eq!(floats(&tensors, "nf4.code").expect("a table"), nf4::TABLE);
    // torch makes this one anew in each process, rounded once or twice: as its processor fuses the two operations or not.
    let unfused = |part: usize, parts: usize| {
        let step = (1.0_f32 - 0.1) / parts as f32;
        if part < parts.div_ceil(2) { 0.1 + step * part as f32 } else { 1.0 - step * (parts - part) as f32 }
    };
    let dynamic = floats(&tensors, "q8_dynamic.code").expect("a table");
    assert!(dynamic == *double::table() || dynamic == double::table_of(unfused), "{dynamic:?}");
}

#[test]
fn parts_that_do_not_fit_are_told_with_both_counts() {
    let error = PackedWeight::of_nf4(&[0; 31], Scales::Plain(&[1.0]), [8, 8]).expect_err("too short");
    assert_eq!(error.to_string(), "bytes of codes: 31, where a weight of 8 x 8 has 32");
}

#[test]
fn any_part_of_a_weight_is_that_part_of_the_whole() {
    let values: Vec<f32> = (0..13 * 21).map(|n| (n as f32 * 0.37).sin()).collect();
    for quantization in Quantization::ALL {
        let packed = PackedWeight::quantize(quantization, &values, [13, 21]);
        let (view, all) = (PackedView::of(&packed.words), packed.dequantized());
        for range in [0..1, 1..2, 5..200, 63..65, 129..273] {
            let mut part = vec![0.0; range.len()];
            view.read(range.clone(), &mut part);
            assert_eq!(part, all[range], "{quantization}");
        }
    }
}

/// What ggml makes of whole numbers of 4 bits: `step · code + least`, in blocks of 32.
#[test]
fn whole_numbers_of_4_bits_are_stretched_and_moved() {
    let (d_in, d_out) = (64, 3);
    let codes: Vec<u8> = (0..d_in * d_out).map(|n| (n * 7 % 16) as u8).collect();
    let bytes: Vec<u8> = codes.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    let steps: Vec<f32> = (0..6).map(|n| 0.25 - 0.1 * n as f32).collect();
    let least: Vec<f32> = (0..6).map(|n| 0.3 * n as f32 - 1.0).collect();
    let packed = PackedWeight::of_affine4(&bytes, [&steps, &least], [d_in, d_out], 32).expect("a weight");
    let number = |(n, &code): (usize, &u8)| f32::from(code) * steps[n / 32] + least[n / 32];
    let expected: Vec<f32> = codes.iter().enumerate().map(number).collect();
    assert_eq!(packed.dequantized(), expected);
    let view = PackedView::of(&packed.words);
    for range in [0..1, 1..2, 5..130, 31..33, 96..192] {
        let mut part = vec![0.0; range.len()];
        view.read(range.clone(), &mut part);
        assert_eq!(part, expected[range]);
    }
    let error = PackedWeight::of_affine4(&bytes, [&steps[1..], &least], [d_in, d_out], 32);
    assert_eq!(error.expect_err("too few").to_string(), "steps: 5, where a weight of 3 x 64 has 6");
}

#[test]
fn blocks_of_8_bits_may_have_any_length() {
    let codes: Vec<u8> = (0..64).map(|n: u8| n.wrapping_mul(37)).collect();
    let scales = [127.0 * 0.5, -127.0 * 0.25];
    let packed = PackedWeight::of_int8_blocks(&codes, &scales, [32, 2], 32).expect("a weight");
    let expected: Vec<f32> =
        codes.iter().enumerate().map(|(n, &code)| f32::from(code as i8) * [0.5, -0.25][n / 32]).collect();
    assert_eq!(packed.dequantized(), expected);
}
