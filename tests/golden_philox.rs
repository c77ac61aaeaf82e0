//! The generator against published and independently computed values: every case of `philox/` in the fixtures.

use std::path::Path;

use nola_core::basis::{Basis, Distribution, GENERATOR, Generator, Stream};
use nola_core::philox::{fnv1a_32, philox4x32_10};
use serde_json::Value;

use crate::fixtures::{self, Golden, assert_close};

/// Largest error of a projection, relative to the norm of the golden one.
const PROJECTION_TOLERANCE: f64 = 1e-6;

/// Runs `check` on the fixtures' `philox` folders and asserts that it checked a case in each.
fn on_fixtures(check: impl Fn(&Path) -> usize) {
    for root in fixtures::roots() {
        let folder = root.join("philox");
        if !folder.is_dir() {
            println!("skipped: no {}", folder.display());
            continue;
        }
        assert!(check(&folder) > 0, "{}: no case checked", folder.display());
    }
}

#[test]
fn golden_philox_gives_the_published_words() {
    on_fixtures(|folder| {
        let known = fixtures::json(&folder.join("kat.json"));
        let mut checked = 0;
        for (name, rows) in known.as_object().expect("lists of rows by name") {
            if name != "philox4x32_10" {
                println!("skipped {name}: the generator makes ten rounds");
                continue;
            }
            for row in rows.as_array().expect("a list of rows") {
                let words = philox4x32_10(hex_words(&row["counter"]), hex_words(&row["key"]));
                assert_eq!(words, hex_words::<4>(&row["output"]), "{row}");
                checked += 1;
            }
        }
        checked
    });
}

#[test]
fn golden_philox_gives_the_words_of_every_layout() {
    on_fixtures(|folder| {
        let cases = fixtures::json(&folder.join("cases.json"));
        let (golden, _) = fixtures::tensors(&folder.join("philox4x32_10.safetensors"));
        let mut checked = 0;
        for (name, case) in cases["cases"].as_object().expect("cases by name") {
            if name == "pairs" {
                check_pairs(&golden["pairs.counter"], &golden["pairs.key"], &golden["pairs.output"]);
                println!("skipped pairs.output_7_rounds: the generator makes ten rounds");
            } else if case.get("rules").is_some() {
                println!("skipped {name}: conversions that `nola-philox-1` does not use");
                continue;
            } else {
                let expected = golden[name].u32();
                let words: Vec<u32> = word_sequence(name, case).take(expected.len()).collect();
                assert_eq!(words, expected, "{name}");
            }
            println!("checked {name}");
            checked += 1;
        }
        checked
    });
}

fn check_pairs(counters: &Golden, keys: &Golden, outputs: &Golden) {
    let rows = (counters.u32().as_chunks::<4>().0.iter())
        .zip(keys.u32().as_chunks::<2>().0)
        .zip(outputs.u32().as_chunks::<4>().0);
    for ((&counter, &key), output) in rows {
        assert_eq!(philox4x32_10(counter, key), *output, "pair {counter:08x?} {key:08x?}");
    }
}

/// The words of a case, block after block; `cases.json` says in words how key and counter are laid out.
fn word_sequence(name: &str, case: &Value) -> impl Iterator<Item = u32> {
    let tail = name.split_once('.').map_or("", |(_, tail)| tail);
    let seed = hex_u64(case["seed"].as_str().unwrap_or(tail.trim_start_matches("seed_")));
    let stream = case["stream"].as_str().map_or(0, hex_u64);
    let mut first_block = case["first_block"].as_str().map_or(0, hex_u64);
    let mut skipped_words = 0;
    if let Some((offset, _)) = tail.split_once('+') {
        let offset: u64 = offset.parse().expect("a word offset");
        (first_block, skipped_words) = (offset / 4, offset % 4);
    }
    let indexed = name.starts_with("indexed.").then(|| {
        ["basis", "tensor", "layer"].map(|part| {
            let number = tail.split('.').find_map(|text| text.strip_prefix(part));
            number.expect("every index").parse::<u32>().expect("a number")
        })
    });
    (0..)
        .flat_map(move |block| {
            let block = first_block.wrapping_add(block);
            let [low, high] = halves(block);
            let counter = match indexed {
                Some([basis, tensor, layer]) => [low, basis, tensor, layer],
                None => [low, high, halves(stream)[0], halves(stream)[1]],
            };
            philox4x32_10(counter, halves(seed))
        })
        .skip(skipped_words as usize)
}

#[test]
fn golden_generator_hashes_paths_and_shapes_as_the_reference() {
    on_fixtures(|folder| {
        let generator = fixtures::json(&folder.join("generator.json"));
        let hashes: Vec<_> = ["paths", "shapes"]
            .iter()
            .flat_map(|kind| generator[kind].as_object().expect("hashes by text"))
            .collect();
        for (text, hash) in &hashes {
            assert_eq!(Some(u64::from(fnv1a_32(text))), hash.as_u64(), "`{text}`");
        }
        hashes.len()
    });
}

#[test]
fn golden_generator_expands_bit_for_bit_and_projects_as_the_reference() {
    on_fixtures(|folder| {
        let generator = fixtures::json(&folder.join("generator.json"));
        assert_eq!(generator["generator"], GENERATOR, "the reference's generator");
        let (golden, _) = fixtures::tensors(&folder.join("generator.safetensors"));
        let cases = generator["cases"].as_array().expect("a list of cases");
        for case in cases {
            let key = case["key"].as_str().expect("a key");
            check_generator(key, case, |tensor| golden.get(&format!("{key}.{tensor}")));
            println!("checked {key}");
        }
        cases.len()
    });
}

fn check_generator<'a>(key: &str, case: &Value, golden: impl Fn(&str) -> Option<&'a Golden>) {
    let number = |field: &str| case[field].as_u64().expect("a whole number") as usize;
    let (count, rows, cols) = (number("k"), number("rows"), number("cols"));
    let generator = Generator {
        distribution: serde_json::from_value::<Distribution>(case["kind"].clone()).expect("a distribution"),
        seed: case["seed"].as_str().expect("decimal text").parse().expect("a seed"),
        site: number("site") as u32,
        stream: match number("stream") {
            0 => Stream::A,
            1 => Stream::B,
            2 => Stream::OffsetA,
            3 => Stream::OffsetB,
            4 => Stream::Coefficients,
            other => panic!("{key}: no stream {other}"),
        },
    };
    if let Some(golden) = golden("basis") {
        let values: Vec<f32> =
            (0..count as u32).flat_map(|index| generator.values(index, rows * cols)).collect();
        assert_eq!(values, golden.f32(), "{key}: basis");
    }
    let required = |tensor: &str| golden(tensor).unwrap_or_else(|| panic!("{key}: no `{tensor}`"));
    let basis = Basis::generated(generator, count, [rows, cols], 1.0);
    let expanded = basis.expand(&required("coefficients").f32());
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&expanded), bits(&required("expand.f32").f32()), "{key}: expand");
    let projected = required("project.f64").f64();
    let norm = projected.iter().map(|value| value * value).sum::<f64>().sqrt();
    assert_close(
        &format!("{key}: project"),
        &basis.project(&required("gradient").f32()),
        projected,
        PROJECTION_TOLERANCE * norm,
    );
}

fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

fn hex_u64(text: &str) -> u64 {
    let digits = text.strip_prefix("0x").expect("hexadecimal text");
    u64::from_str_radix(digits, 16).expect("hexadecimal digits")
}

fn hex_words<const N: usize>(words: &Value) -> [u32; N] {
    std::array::from_fn(|n| {
        let digits = words[n].as_str().expect("hexadecimal text");
        u32::from_str_radix(digits, 16).expect("hexadecimal digits")
    })
}
