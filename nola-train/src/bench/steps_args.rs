//! What can be typed behind `bench steps`.

use clap::Args;
use nola_models::WeightDtype;

use super::cases::{Method, MethodChoice, Preset};
use crate::option_values::{at_least, dtype, positive, quantize};
use crate::settings::Quantize;

/// Options of `bench steps`; their names and defaults are those of the PyTorch script.
#[derive(Debug, Args)]
pub struct StepsArgs {
    /// Models to measure, with commas between them.
    #[arg(long, value_delimiter = ',', default_value = "gpt2", value_name = "MODELS")]
    pub(super) models: Vec<Preset>,
    /// Methods to measure with each of them, with commas between them.
    #[arg(long, value_delimiter = ',', default_value = "frozen,lora,nola", value_name = "METHODS")]
    pub(super) methods: Vec<MethodChoice>,
    /// Samples of a pass; default: the model's.
    #[arg(long, value_name = "N", value_parser = positive())]
    pub(super) batch: Option<usize>,
    /// Tokens of a sample, at least 2; default: the model's; a ViT takes what its image gives.
    #[arg(long, value_name = "N", value_parser = at_least(2))]
    pub(super) seq: Option<usize>,
    /// Rank of NOLA; default: the model's.
    #[arg(long, value_name = "N", value_parser = positive())]
    pub(super) rank: Option<usize>,
    /// Rank of LoRA.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive())]
    pub(super) lora_rank: usize,
    /// Random matrices that NOLA combines into A; default: the model's.
    #[arg(long, value_name = "N", value_parser = positive())]
    pub(super) k: Option<usize>,
    /// The same for B; default: as --k.
    #[arg(long, value_name = "N", value_parser = positive())]
    pub(super) l: Option<usize>,
    /// Threads that compute; default: one for each core.
    #[arg(long, value_name = "N", value_parser = positive())]
    pub(super) threads: Option<usize>,
    /// Measured steps of a case in each round.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = positive())]
    pub(super) steps: usize,
    /// Steps before them that are not counted.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) warmup: usize,
    /// Times that the whole list is measured, forwards and backwards in turn; samples of a case are pooled.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive())]
    pub(super) rounds: usize,
    /// Seconds after which a case ends, once it has --min-steps.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub(super) max_seconds: f64,
    /// Measured steps that every case makes, however long they take.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive())]
    pub(super) min_steps: usize,
    /// Passes of one optimizer step.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive())]
    pub(super) accumulate: usize,
    /// Recompute the inside of every block in the backward pass instead of keeping it.
    #[arg(long)]
    pub(super) gradient_checkpointing: bool,
    /// Storage dtype of the frozen weights.
    #[arg(long, value_name = "TYPE", value_parser = dtype(), default_value_t = WeightDtype::F32)]
    pub(super) dtype: WeightDtype,
    /// Quantisation of the linear layers in blocks.
    #[arg(long, value_name = "KIND", value_parser = quantize(), default_value = "none")]
    pub(super) quantize: Quantize,
    /// Put the single samples, in seconds, into the JSON too.
    #[arg(long)]
    pub(super) samples: bool,
    /// The one case that this process measures.
    #[arg(long, value_name = "MODEL/METHOD", hide = true, value_parser = case)]
    pub(super) case: Option<(Preset, Method)>,
}

fn case(text: &str) -> Result<(Preset, Method), String> {
    use clap::ValueEnum;
    let (model, method) = text.split_once('/').ok_or("MODEL/METHOD")?;
    Ok((Preset::from_str(model, false)?, Method::from_str(method, false)?))
}
