//! `nola-train inspect MODEL --batch B --tokens T`: what memory training the model takes, told by its `config.json` alone.

use std::path::Path;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use nola_core::adapter::{LoraConfig, Method};
use nola_core::{Site, Targets};
use nola_models::Precision;
use serde::Serialize;

use super::super::Global;
use crate::Error;
use crate::amounts::{bytes, thousands};
use crate::attach::chosen_targets;
use crate::needs::{Kept, Need, Needed, Trained};
use crate::option_values::positive;
use crate::recipe::{AdapterRecipe, ChosenWeights, MethodRecipe, TargetsRecipe};
use crate::sizes::Sizes;
use crate::terminal::{StdoutError, err_line, print_json, print_line};

#[derive(Debug, Args)]
pub(super) struct MemoryArgs {
    /// Say instead what memory training the model with a LoRA takes, with so many samples in a pass, for each storage of its
    /// weights; of the folder nothing but its configuration is read.
    #[arg(long, value_name = "N", value_parser = positive())]
    pub(super) batch: Option<usize>,
    /// Tokens of a sample; a ViT takes what its image gives.
    #[arg(long, value_name = "N", value_parser = positive(), requires = "batch")]
    tokens: Option<usize>,
    /// Rank of the LoRA.
    #[arg(long, value_name = "N", value_parser = positive(), requires = "batch", default_value_t = LoraConfig::default().rank)]
    rank: usize,
    /// Weights that it adapts: names or ends of names, with commas between them, or `all-linear`.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        requires = "batch",
        default_value = "query,value"
    )]
    targets: Vec<String>,
}

/// What training a model takes; the JSON object of the command.
#[derive(Debug, Serialize)]
struct Report {
    kind: &'static str,
    model: &'static str,
    parameters: usize,
    /// Samples of a pass.
    batch: usize,
    /// Tokens of a sample.
    tokens: usize,
    adapter: Adapter,
    storages: Vec<InStorage>,
}

#[derive(Debug, Serialize)]
struct Adapter {
    kind: &'static str,
    rank: usize,
    /// Weights that it is attached to.
    sites: usize,
    trainable: usize,
}

/// What it takes with the weights in one storage.
#[derive(Debug, Serialize)]
struct InStorage {
    storage: &'static str,
    weights_bytes: u64,
    /// Of the adapter, its gradients and its optimizer state.
    adapter_bytes: u64,
    activations_bytes: u64,
    bytes: u64,
    gradient_checkpointing: Recomputed,
}

/// The same where the inside of every block is recomputed.
#[derive(Debug, Serialize)]
struct Recomputed {
    activations_bytes: u64,
    bytes: u64,
}

/// Says what training the model in `folder` takes, with `batch` samples in a pass.
///
/// # Errors
/// If there is no configuration of a model that this program computes, or the options do not fit it.
pub(super) fn run(folder: &Path, args: &MemoryArgs, batch: usize, global: &Global) -> Result<(), Error> {
    let sizes = Sizes::read(folder)?;
    let tokens = args.tokens_of(&sizes)?;
    let lora = LoraConfig { rank: args.rank, ..LoraConfig::default() };
    lora.check()?;
    let targets = args.targets(lora);
    let sites = sizes.sites(&targets)?;
    for name in sizes.unmatched(&targets)?.modules {
        err_line(&format!("warning: --targets names `{name}`, which no layer of the model is called"));
    }
    let report = Report::of(&sizes, [batch, tokens], &sites, args.rank);
    if global.json {
        print_json(&report)?
    } else {
        report.show()?
    }
    Ok(())
}

impl MemoryArgs {
    /// Tokens of a sample.
    fn tokens_of(&self, sizes: &Sizes) -> Result<usize, Error> {
        let most = sizes.max_tokens();
        let wrong = |problem: String| Err(Error::MemoryOfTokens { problem });
        match (sizes, self.tokens) {
            (Sizes::Vit(_), None) => Ok(most),
            (Sizes::Vit(_), Some(tokens)) if tokens == most => Ok(most),
            (Sizes::Vit(_), Some(_)) => {
                wrong(format!("an image of this model is always {most} tokens; leave --tokens out"))
            }
            (Sizes::Gpt2(_) | Sizes::Llama(_), None) => {
                wrong("--batch needs --tokens, the length of a sample, for a language model".to_owned())
            }
            (Sizes::Gpt2(_) | Sizes::Llama(_), Some(tokens)) if tokens > most => {
                wrong(format!("the model's context is {most} tokens; --tokens is at most that"))
            }
            (Sizes::Gpt2(_) | Sizes::Llama(_), Some(tokens)) => Ok(tokens),
        }
    }

    /// The choice of weights, read as a recipe's.
    fn targets(&self, lora: LoraConfig) -> Targets {
        let targets = match self.targets.as_slice() {
            [all] if all == TargetsRecipe::ALL_LINEAR => TargetsRecipe::Pattern(all.clone()),
            names => TargetsRecipe::Names(names.to_vec()),
        };
        let weights = ChosenWeights { targets, ..ChosenWeights::default() };
        let method = MethodRecipe::Adapter(AdapterRecipe { config: lora.into(), weights });
        chosen_targets(&method).expect("an adapter has targets")
    }
}

impl Report {
    fn of(sizes: &Sizes, [batch, tokens]: [usize; 2], sites: &[Site], rank: usize) -> Self {
        let trained = Trained::Adapter { sites, rank };
        let needed = |precision, kept| {
            Need { sizes, precision, trained, tokens: batch.saturating_mul(tokens), passes: 1, kept }.needed()
        };
        let in_storage = |precision: Precision| {
            InStorage::of(precision, needed(precision, Kept::AllBlocks), needed(precision, Kept::Inputs))
        };
        Self {
            kind: "memory",
            model: sizes.kind(),
            parameters: sizes.parameters(),
            batch,
            tokens,
            adapter: Adapter { kind: "lora", rank, sites: sites.len(), trainable: trained.factors() },
            storages: Precision::ALL.map(in_storage).into(),
        }
    }

    /// The text for people.
    fn show(&self) -> Result<(), StdoutError> {
        let Adapter { rank, sites, trainable, .. } = self.adapter;
        let [parameters, trainable] = [self.parameters, trainable].map(|count| thousands(count as u64));
        print_line(&format!(
            "{}: {parameters} parameters, {} x {} tokens in a pass, LoRA of rank {rank} on {sites} weights: {trainable} trainable",
            self.model, self.batch, self.tokens
        ))?;
        print_line("what training takes, about:")?;
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        let titles = ["weights in", "weights", "adapter", "activations", "together", "recomputing blocks"];
        table.set_header(titles);
        for row in &self.storages {
            let sizes = [
                row.weights_bytes,
                row.adapter_bytes,
                row.activations_bytes,
                row.bytes,
                row.gradient_checkpointing.bytes,
            ];
            table.add_row(std::iter::once(row.storage.to_owned()).chain(sizes.map(bytes)));
        }
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        print_line(&table.to_string())
    }
}

impl InStorage {
    fn of(precision: Precision, needed: Needed, recomputed: Needed) -> Self {
        Self {
            storage: precision.name(),
            weights_bytes: needed.weights,
            adapter_bytes: needed.trained,
            activations_bytes: needed.activations,
            bytes: needed.bytes(),
            gradient_checkpointing: Recomputed {
                activations_bytes: recomputed.activations,
                bytes: recomputed.bytes(),
            },
        }
    }
}
