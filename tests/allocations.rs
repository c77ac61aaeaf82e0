//! A training step makes nothing of a weight's size: no dense update, no dense gradient.
//!
//! A program of its own, because its allocator counts what every thread of the process asks for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Distribution, Tensor};
use nola_core::{Adapted, AdapterConfig, Targets, adapted};

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
struct Model {
    first: Linear,
    second: Linear,
}

impl Model {
    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        adapted(&self.second, adapted(&self.first, x)).square().mean()
    }
}

fn step(model: Adapted<Model>, optimizer: &mut ModuleOptimizer, x: &Tensor<2>) -> Adapted<Model> {
    let gradients = GradientsParams::from_grads(model.model.loss(x.clone()).backward(), &model);
    model.step(optimizer, 1e-3, gradients)
}

/// Allocations of a weight's size in one step of training.
fn large_allocations(adapter: &AdapterConfig, device: &Device) -> usize {
    let linear = || LinearConfig::new(WIDTH, WIDTH).init(device);
    let base = Model { first: linear(), second: linear() };
    let targets = Targets::matching("first|second");
    let mut model = Adapted::attach(base, adapter, &targets, &[], device).expect("two layers");
    let mut optimizer = AdamWConfig::new().init();
    let x = Tensor::random([SAMPLES, WIDTH], Distribution::Default, device);
    for _ in 0..WARM_UP_STEPS {
        model = step(model, &mut optimizer, &x);
    }
    let before = LARGE.load(Ordering::Relaxed);
    step(model, &mut optimizer, &x);
    LARGE.load(Ordering::Relaxed) - before
}

#[test]
fn only_a_dense_combination_allocates_a_weights_size_in_a_step() {
    let device = Device::flex().autodiff();
    for mut adapter in AdapterConfig::every() {
        adapter.method_mut().set_rank(RANK);
        let dense = large_allocations(&adapter, &device) > 0;
        assert_eq!(dense, DENSE.contains(&adapter.kind()), "{}", adapter.kind());
    }
}
