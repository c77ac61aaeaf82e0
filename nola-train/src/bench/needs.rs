//! Whether a case fits the memory that is free, so that one that does not is reported beforehand.

use burn::tensor::Device;
use nola_core::Targets;

use super::case::Case;
use super::cases::Method;
use super::steps_args::StepsArgs;
use crate::memory;
use crate::needs::{Kept, Need, Trained};

/// Bytes of a GiB.
const GIB: f64 = 1_073_741_824.0;

/// Why the case does not fit the memory that is free, if it does not; of a GPU nobody says how much that is.
pub(super) fn too_large(case: &Case, args: &StepsArgs, device: &Device) -> Option<String> {
    if device.memory_pool_usage().is_some() {
        return None;
    }
    let kept = if args.gradient_checkpointing { Kept::Inputs } else { Kept::AllBlocks };
    let (needed, free) =
        (needed_bytes(case, args.accumulate, kept) as f64 / GIB, memory::free_bytes()? as f64 / GIB);
    (needed > free).then(|| format!("needs about {needed:.1} GiB, {free:.1} GiB free"))
}

fn needed_bytes(case: &Case, passes: usize, kept: Kept) -> u64 {
    let sizes = case.preset.sizes();
    let sites = sizes.sites(&Targets::default()).expect("every preset has queries and values");
    let adapter = |rank| Trained::Adapter { sites: &sites, rank };
    let trained = match case.method {
        Method::Frozen => Trained::Nothing,
        Method::Full => Trained::All,
        Method::Nola(..) => adapter(case.adapter.rank),
        Method::Adapter(_) => adapter(case.adapter.lora_rank),
    };
    let tokens = case.batch * case.seq;
    Need { sizes: &sizes, precision: case.precision(), trained, tokens, passes, kept }.needed().bytes()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nola_core::adapter::Sharing;
    use nola_core::basis::Distribution;
    use nola_models::WeightDtype;
    use serde_json::Value;

    use super::super::cases::{AdapterSizes, Preset};
    use super::*;

    /// What the program takes beside its tensors, in bytes.
    const PROGRAM: f64 = 25.0 * 1_048_576.0;

    fn case(preset: Preset, method: Method, dtype: WeightDtype) -> Case {
        let defaults = preset.defaults();
        let adapter = AdapterSizes { lora_rank: 8, rank: defaults.rank, k: defaults.k, l: defaults.k };
        Case { preset, method, batch: defaults.batch, seq: defaults.seq, dtype, quantize: None, adapter }
    }

    fn gib(preset: Preset, method: Method, dtype: WeightDtype) -> f64 {
        needed_bytes(&case(preset, method, dtype), 1, Kept::AllBlocks) as f64 / GIB
    }

    /// The case of a measured line.
    fn measured(line: &Value) -> Case {
        use clap::ValueEnum;
        let text = |key: &str| line[key].as_str().expect("text");
        let count = |key: &str| line[key].as_u64().expect("a number") as usize;
        let method = Method::from_str(text("method"), false).expect("a method");
        let dtype = if text("dtype") == "bf16" { WeightDtype::Bf16 } else { WeightDtype::F32 };
        let preset = Preset::from_str(text("model"), false).expect("a model");
        Case { batch: count("batch"), seq: count("seq"), ..case(preset, method, dtype) }
    }

    #[test]
    fn measured_peaks_are_near_the_estimate() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benchmarks/speed/memory.jsonl");
        let lines = std::fs::read_to_string(&file).expect("measurements");
        for line in lines.lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let kept = if line["gradient_checkpointing"] == true { Kept::Inputs } else { Kept::AllBlocks };
            let estimate = needed_bytes(&measured(&line), 1, kept) as f64 + PROGRAM;
            let peak = 1_048_576.0 * line["peak_rss_mb"].as_f64().expect("a peak");
            let ratio = estimate / peak;
            // Not all gradients of a model trained in full are there when its activations are.
            let most = if line["method"] == "full" { 1.15 } else { 1.1 };
            assert!((0.9..most).contains(&ratio), "{ratio:.3} of {line}");
        }
    }

    #[test]
    fn a_seven_billion_model_needs_its_weights_and_more() {
        let gib = |method| gib(Preset::Llama7b, method, WeightDtype::F32);
        assert!((25.0..30.0).contains(&gib(Method::Frozen)));
        assert!(gib(Method::Adapter("lora")) > 30.0);
        assert!(gib(Method::Full) > 100.0);
    }

    #[test]
    fn half_precision_halves_the_weights() {
        let gib = |dtype| gib(Preset::Llama7b, Method::Adapter("lora"), dtype);
        let half_of_weights = 6_738_415_616.0 * 2.0 / GIB;
        assert!((gib(WeightDtype::F32) - gib(WeightDtype::Bf16) - half_of_weights).abs() < 0.01);
    }

    #[test]
    fn a_small_one_fits_a_laptop() {
        let gib = gib(Preset::Gpt2, Method::Nola(Sharing::Separate, Distribution::Uniform), WeightDtype::F32);
        assert!((1.0..4.0).contains(&gib), "{gib}");
    }
}
