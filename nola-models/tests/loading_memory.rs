//! Loading never needs more host memory than the model and one tensor; in a binary of its own, since it counts every
//! allocation of the process.

#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burn::module::Module;
use burn::tensor::Device;
use nola_models::{CausalLm, Checkpoint, WeightDtype};
use serde_json::{Value, json};

/// What beside numbers a load may take: names, shapes, threads.
const SLACK_BYTES: usize = 256 << 10;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with the bytes held and the most of them.
struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(held, Relaxed);
        // SAFETY: the caller keeps what `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps what `System` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn gpt2() -> Value {
    json!({"model_type": "gpt2", "vocab_size": 4000, "n_positions": 64, "n_embd": 128, "n_layer": 4, "n_head": 4})
}

fn llama() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 4000, "hidden_size": 128, "num_hidden_layers": 4,
        "num_attention_heads": 4, "intermediate_size": 400,
    })
}

/// Numbers of a model and of its largest tensor, stored as `dtype` in `folder`.
fn write(config: &Value, folder: &Path, dtype: WeightDtype) -> [usize; 2] {
    let source = folder.join("source");
    fs::create_dir(&source).expect("a free folder");
    fs::write(source.join("config.json"), config.to_string()).expect("a free folder");
    let model = CausalLm::init(&source, 1, &Device::flex()).expect("a small model");
    model.save(&folder.join("model"), dtype).expect("a free folder");
    let largest = model.to_tensors().iter().map(|tensor| tensor.values.len()).max().expect("tensors");
    [model.num_params(), largest]
}

#[test]
fn loading_takes_the_memory_of_the_model_and_of_one_tensor_at_most() {
    let device = Device::flex();
    for (config, stored, held) in [
        (gpt2(), WeightDtype::F32, WeightDtype::F32),
        (llama(), WeightDtype::F32, WeightDtype::F32),
        (llama(), WeightDtype::Bf16, WeightDtype::F32),
        (llama(), WeightDtype::Bf16, WeightDtype::Bf16),
        (llama(), WeightDtype::F32, WeightDtype::Bf16),
        (gpt2(), WeightDtype::F32, WeightDtype::F16),
    ] {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let [whole, largest] = write(&config, scratch.path(), stored).map(|numbers| numbers * held.bytes());
        let before = HELD.load(Relaxed);
        PEAK.store(before, Relaxed);
        let checkpoint = Checkpoint::open(&scratch.path().join("model")).expect("a whole folder");
        let model = CausalLm::load_as(&checkpoint, held, &device).expect("a model");
        let (peak, kept) = (PEAK.load(Relaxed) - before, HELD.load(Relaxed) - before);
        match (stored, held) {
            (WeightDtype::F32, WeightDtype::F32)
            | (WeightDtype::Bf16, WeightDtype::Bf16)
            | (WeightDtype::F16, WeightDtype::F16) => {
                assert!(kept < whole, "tables are mapped, not copied");
            }
            (WeightDtype::F32, WeightDtype::Bf16 | WeightDtype::F16)
            | (WeightDtype::Bf16, WeightDtype::F32 | WeightDtype::F16)
            | (WeightDtype::F16, WeightDtype::F32 | WeightDtype::Bf16) => {
                assert!(kept >= whole, "the model is not on the host");
            }
        }
        assert!(peak <= whole + largest + SLACK_BYTES, "{peak} bytes for {whole}, {largest} in one tensor");
        println!("peak {peak}, model {whole}, largest tensor {largest}");
        drop(model);
    }
}
