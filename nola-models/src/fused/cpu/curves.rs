//! Functions of one number, over all numbers.

use nola_core::filled::{filled, zeros};
use pulp::Arch;
use rayon::prelude::*;

use super::super::FusedActivation;
use super::math::{normal, sigmoid};

/// Numbers that one task works on; enough that handing them out costs nothing.
const CHUNK: usize = 8192;
/// Factors of the tanh formula of GELU, for twice its argument.
const INNER: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

pub(super) fn forward(x: &[f32], activation: FusedActivation) -> Vec<f32> {
    filled(x.len(), CHUNK, |first, result| {
        let x = &x[first..];
        Arch::new().dispatch(
            #[inline(always)]
            || match activation {
                FusedActivation::Gelu => map(x, result, |x| x * normal(x).0),
                FusedActivation::GeluTanh => map(x, result, |x| x * sigmoid(inner(x))),
                FusedActivation::Silu => map(x, result, |x| x * sigmoid(x)),
            },
        );
    })
}

pub(super) fn backward(x: &[f32], gradient: &[f32], activation: FusedActivation) -> Vec<f32> {
    filled(x.len(), CHUNK, |first, result| {
        let [x, gradient] = [x, gradient].map(|numbers| &numbers[first..]);
        Arch::new().dispatch(
            #[inline(always)]
            || match activation {
                FusedActivation::Gelu => slope(x, gradient, result, |x| {
                    let (below, density) = normal(x);
                    below + x * density
                }),
                FusedActivation::GeluTanh => slope(x, gradient, result, |x| {
                    let part = sigmoid(inner(x));
                    part + x * part * (1.0 - part) * (INNER + 3.0 * CUBIC * INNER * x * x)
                }),
                FusedActivation::Silu => slope(x, gradient, result, |x| {
                    let part = sigmoid(x);
                    part + x * part * (1.0 - part)
                }),
            },
        );
    })
}

/// SiLU of `gate`, times `up`.
pub(super) fn gated(gate: &[f32], up: &[f32]) -> Vec<f32> {
    filled(gate.len(), CHUNK, |first, result| {
        let [gate, up] = [gate, up].map(|numbers| &numbers[first..]);
        Arch::new().dispatch(
            #[inline(always)]
            || slope(gate, up, result, |x| x * sigmoid(x)),
        );
    })
}

/// Gradients of both, given the gradient of the result.
pub(super) fn gated_backward([gate, up, gradient]: [&[f32]; 3]) -> [Vec<f32>; 2] {
    let [mut of_gate, mut of_up] = [gate, up].map(|numbers| zeros(numbers.len()));
    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(gradient.par_chunks(CHUNK));
    let parts = of_gate.par_chunks_mut(CHUNK).zip(of_up.par_chunks_mut(CHUNK)).zip(inputs);
    parts.for_each(|((of_gate, of_up), ((gate, up), gradient))| {
        Arch::new().dispatch(
            #[inline(always)]
            || {
                let inputs = gate.iter().zip(up).zip(gradient);
                for ((of_gate, of_up), ((&x, &up), &gradient)) in of_gate.iter_mut().zip(of_up).zip(inputs) {
                    let part = sigmoid(x);
                    *of_up = gradient * x * part;
                    *of_gate = gradient * up * (part + x * part * (1.0 - part));
                }
            },
        );
    });
    [of_gate, of_up]
}

/// (1 + tanh(u))/2 is σ(2u).
#[inline(always)]
fn inner(x: f32) -> f32 {
    x * (1.0 + CUBIC * x * x) * INNER
}

#[inline(always)]
fn map(x: &[f32], result: &mut [f32], of: impl Fn(f32) -> f32) {
    for (result, &x) in result.iter_mut().zip(x) {
        *result = of(x);
    }
}

/// `gradient` times `of(x)`.
#[inline(always)]
fn slope(x: &[f32], gradient: &[f32], result: &mut [f32], of: impl Fn(f32) -> f32) {
    for ((result, &x), &gradient) in result.iter_mut().zip(x).zip(gradient) {
        *result = gradient * of(x);
    }
}
