//! Adapters whose matrices are regenerated from a seed: the same factors and the same merged weights, bit for bit, with every
//! kernel that `NOLA_CPU` can name and with every number of threads. What other adapters freeze is stored, or computed from the
//! base by linear algebra, whose last bits are the processor's.

use std::path::{Path, PathBuf};

use nola_core::folder::sha256_hex;
use nola_core::instructions::{Instructions, VARIABLE};
use safetensors::SafeTensors;

use crate::fixtures;
use crate::program::{Outcome, Workshop, bytes_of};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/golden/adapters").join(name)
}

/// The kernels of this processor, by the instructions that they use; those beyond change products of bf16 alone.
fn kernels() -> impl Iterator<Item = &'static str> {
    [Instructions::Plain, Instructions::Avx2, Instructions::Avx512].into_iter().filter_map(|instructions| {
        if instructions > Instructions::most() {
            println!("skipped: no {instructions}");
            return None;
        }
        Some(instructions.name())
    })
}

/// The program with these kernels and threads.
fn run(workshop: &Workshop, kernel: &str, threads: &str, arguments: &[&str]) -> Outcome {
    let mut command = workshop.command("cpu");
    command.env(VARIABLE, kernel).env("RAYON_NUM_THREADS", threads);
    Outcome::of(command.args(arguments).output().expect("the program starts"))
}

/// A hash over the tensors of a file, whatever else it says.
fn tensors_sha256(file: &Path) -> String {
    let bytes = bytes_of(file);
    let mut tensors = SafeTensors::deserialize(&bytes).expect("tensors").tensors();
    tensors.sort_by(|(left, _), (right, _)| left.cmp(right));
    let mut hashed = Vec::new();
    for (name, tensor) in tensors {
        hashed.extend(format!("{name} {} {:?}\n", tensor.dtype(), tensor.shape()).into_bytes());
        hashed.extend_from_slice(tensor.data());
    }
    sha256_hex(&hashed)
}

/// The hash of what a command makes of the golden adapter of a kind.
fn made(kind: &str, kernel: &str, threads: &str, verb: &str, file: &str) -> String {
    let workshop = Workshop::empty();
    let adapter = golden(kind).display().to_string();
    let arguments = [verb, "--model", "assets/vit-micro", "--adapter", &adapter, "--out", "made"];
    let outcome = run(&workshop, kernel, threads, &arguments);
    assert_eq!(outcome.code, 0, "{kind}, {kernel}, {threads} threads: {}", outcome.stderr);
    tensors_sha256(&workshop.at("made").join(file))
}

#[test]
fn fault_13_merged_weights_of_a_seed_are_the_same_bits_with_every_kernel_and_number_of_threads() {
    let recorded = fixtures::json(&golden("same-bits.json"));
    for kind in ["nola", "pranc", "vera"] {
        for kernel in kernels() {
            for threads in ["1", "2", "5"] {
                let found = made(kind, kernel, threads, "merge", "model.safetensors");
                assert_eq!(found, recorded[kind]["merged"], "{kind} with {kernel} on {threads} threads");
            }
        }
    }
}

/// PRANC has no factors: its updates have full rank.
#[test]
fn fault_13_exported_factors_of_a_seed_are_the_same_bits_with_every_kernel() {
    let recorded = fixtures::json(&golden("same-bits.json"));
    for kind in ["nola", "vera"] {
        for (kernel, threads) in kernels().zip(["1", "2", "5"]) {
            let found = made(kind, kernel, threads, "export", "adapter_model.safetensors");
            assert_eq!(found, recorded[kind]["exported"], "{kind} with {kernel}");
        }
    }
}

#[test]
fn fault_13_the_kernel_that_is_named_is_the_one_that_computes() {
    let workshop = Workshop::empty();
    for kernel in kernels() {
        let examined = run(&workshop, kernel, "2", &["doctor", "--json", "--quiet"]).json();
        assert_eq!(examined["processor"]["kernels"]["basis"], kernel);
        assert_eq!(examined["devices"][0]["verdict"], "ok", "{examined}");
    }
}

#[test]
fn a_kernel_that_is_not_known_is_refused_with_those_that_are() {
    let refused = run(&Workshop::empty(), "sse", "2", &["inspect", "assets/vit-micro"]);
    refused.assert_refused(7, &["NOLA_CPU is `sse`", "plain, avx2, avx512, avx512bf16 or amx, or unset it"]);
}
