//! A training step makes nothing of a weight's size: no dense update, no dense gradient.
//!
//! A program of its own, because its allocator counts what every thread of the process asks for.

#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::module::{Module, ModuleDisplay};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Distribution, Int, Tensor};
use nola_core::{Adapted, AdapterConfig, Targets, adapted, adapted_embedding};

/// Rows and columns of the weight; a few rows of input are far smaller.
const WIDTH: usize = 1024;
const WEIGHT_BYTES: usize = WIDTH * WIDTH * 4;
const SAMPLES: usize = 4;
const RANK: usize = 4;
/// An optimizer's state and the buffers that kernels keep are made in the first steps.
const WARM_UP_STEPS: usize = 3;
/// Their combination is the dense weight itself.
const DENSE: &[&str] = &["pranc"];

/// Allocations of at least a weight's size.
static LARGE: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

// SAFETY: everything is handed on to the system's allocator as it comes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= WEIGHT_BYTES {
            LARGE.fetch_add(1, Ordering::Relaxed);
        }
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[derive(Module, Debug)]
struct Linears {
    first: Linear,
    second: Linear,
}

#[derive(Module, Debug)]
struct Lookup {
    table: Embedding,
    second: Linear,
}

/// Allocations of a weight's size in one step of training.
fn large_allocations<M: Module + ModuleDisplay>(
    base: M,
    adapter: &AdapterConfig,
    device: &Device,
    forward: impl Fn(&M) -> Tensor<2>,
) -> usize {
    let targets = Targets::matching("first|second|table");
    let mut model = Adapted::attach(base, adapter, &targets, &[], device).expect("two layers");
    let mut optimizer = AdamWConfig::new().init();
    let mut step = |model: Adapted<M>| {
        let loss = forward(&model.model).square().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model.step(&mut optimizer, 1e-3, gradients)
    };
    for _ in 0..WARM_UP_STEPS {
        model = step(model);
    }
    let before = LARGE.load(Ordering::Relaxed);
    step(model);
    LARGE.load(Ordering::Relaxed) - before
}

// One test, since two would count each other's.
#[test]
fn only_a_dense_combination_allocates_a_weights_size_in_a_step() {
    let device = Device::flex().autodiff();
    let linear = || LinearConfig::new(WIDTH, WIDTH).init(&device);
    for mut adapter in AdapterConfig::every() {
        adapter.method_mut().set_rank(RANK);
        let x = Tensor::random([SAMPLES, WIDTH], Distribution::Default, &device);
        let linears = Linears { first: linear(), second: linear() };
        let forward = |model: &Linears| adapted(&model.second, adapted(&model.first, x.clone()));
        let dense = large_allocations(linears, &adapter, &device, forward) > 0;
        assert_eq!(dense, DENSE.contains(&adapter.kind()), "{}", adapter.kind());
        if adapter.method().adapts_embeddings() {
            let table = EmbeddingConfig::new(WIDTH, WIDTH).init(&device);
            let ids = Tensor::<2, Int>::from_data([[3, 1, 4, 1]], &device);
            let forward = |model: &Lookup| {
                let rows = adapted_embedding(&model.table, ids.clone());
                adapted(&model.second, rows).squeeze_dim(0)
            };
            let found = large_allocations(Lookup { table, second: linear() }, &adapter, &device, forward);
            assert_eq!(found, 0, "{} on an embedding", adapter.kind());
        }
    }
}
