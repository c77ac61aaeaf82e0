//! What can be typed, and one file per command.

mod bench;
mod compare;
mod completions;
mod compress;
mod decoding;
mod doctor;
mod evaluate;
mod export;
mod generate;
mod inspect;
mod man;
mod merge;
mod predict;
mod quick_start;
mod recipes;
mod serve;
mod sweep;
mod train;

use std::cell::OnceCell;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::rc::Rc;

use burn::tensor::Device;
use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::{ArgValueCandidates, Shell};
use comfy_table::{CellAlignment, Table, presets};
use nola_core::instructions::{self, WrongInstructions};
use nola_models::WeightDtype;

pub use completions::answered;

use crate::adapter_argument::AdapterArgument;
use crate::chosen::Named;
use crate::device::DeviceChoice;
use crate::fit::Terms;
use crate::option_values::{devices, dtype, quantize};
use crate::progress::Style;
use crate::ranks::Ranks;
use crate::report::ResultRow;
use crate::settings::Quantize;
use crate::stop::Stop;
use crate::terminal::{StdoutError, print_json, print_line, print_part, written};
use crate::{Error, ranks};

/// Fine-tune GPT-2, LLaMA and its relatives, and vision transformers with adapters of a few kilobytes; without a command: the quick start.
#[derive(Debug, Parser)]
#[command(name = "nola-train", version, long_about = None)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Where to compute: auto, cpu, wgpu, wgpu:N, cuda or cuda:N; cuda:local and wgpu:local take another GPU for each process
    /// that mpirun or srun starts on a machine; force:wgpu takes a GPU that computes wrongly; merge,
    /// export and compress always take the CPU.
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE", add = ArgValueCandidates::new(devices))]
    device: DeviceChoice,
    /// End with one JSON object on stdout instead of text, `bench` with one for each measurement (all commands but completions
    /// and man).
    #[arg(long, global = true)]
    json: bool,
    /// Show no progress, and of the data only what is left out of it.
    #[arg(long, short, global = true)]
    quiet: bool,
    /// What ends a run before its time.
    #[arg(skip)]
    stop: Stop,
    /// The processes that share a run.
    #[arg(skip)]
    ranks: Rc<Ranks>,
}

impl Global {
    /// How work shows; of several ranks, the first one alone.
    fn style(&self) -> Style {
        if self.quiet || !self.ranks.is_first() { Style::Quiet } else { Style::detect() }
    }

    /// How a run goes on this device.
    fn terms<'a>(&'a self, device: &'a Device) -> Terms<'a> {
        Terms { device, style: self.style(), ranks: &self.ranks, label: "" }
    }

    /// How a run ended whose files are written.
    fn ended(&self, failure: Option<Error>) -> Result<(), Error> {
        match failure {
            Some(error) => Err(error),
            None => self.stop.asked().map_or(Ok(()), |by| Err(Error::Interrupted { by })),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train the method of a recipe and leave a run folder.
    Train(train::TrainArgs),
    /// Score a model, with or without an adapter, on labelled images or on text.
    Evaluate(evaluate::EvaluateArgs),
    /// Say what is on images: files, or all in a folder.
    #[command(visible_alias = "classify")]
    Predict(predict::PredictArgs),
    /// Complete a prompt.
    Generate(generate::GenerateArgs),
    /// Serve many adapters of one model over HTTP, with OpenAI's interface.
    Serve(serve::ServeArgs),
    /// Say what an adapter or model folder holds, and check its hashes; with --batch, what memory training the model takes.
    Inspect(inspect::InspectArgs),
    /// Bake an adapter into a dense model folder that transformers (or timm) loads.
    Merge(merge::MergeArgs),
    /// Write an adapter as a LoRA folder that PEFT loads, and compare what it computes.
    Export(export::ExportArgs),
    /// Compress many adapters of one model into a bundle that `serve` answers from, or add some to one.
    Compress(compress::CompressArgs),
    /// List the shipped recipes or print one; say what the keys of a recipe mean.
    Recipes(recipes::RecipesArgs),
    /// Train recipes side by side over several seeds.
    Compare(compare::CompareArgs),
    /// Train a recipe with every combination of some values, and keep the best of them as a recipe.
    Sweep(sweep::SweepArgs),
    /// Measure how fast this program is here: steps, kernels, start, adapters; and put two results side by side.
    Bench(bench::BenchArgs),
    /// Say which devices there are and whether they compute rightly, and what models need in memory there.
    Doctor,
    /// Print a completion script for a shell, as in `source <(nola-train completions bash)`.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, or write one for each command.
    Man(man::ManArgs),
}

impl Command {
    /// Its name, if it trains, and in one process alone.
    fn trains(&self) -> Option<&'static str> {
        match self {
            Self::Compare(_) => Some("compare"),
            Self::Sweep(_) => Some("sweep"),
            Self::Train(_)
            | Self::Evaluate(_)
            | Self::Predict(_)
            | Self::Generate(_)
            | Self::Serve(_)
            | Self::Inspect(_)
            | Self::Merge(_)
            | Self::Export(_)
            | Self::Compress(_)
            | Self::Recipes(_)
            | Self::Bench(_)
            | Self::Doctor
            | Self::Completions { .. }
            | Self::Man(_) => None,
        }
    }
}

/// A base model, with or without an adapter.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// A run folder: its base and its best adapter.
    #[arg(
        long,
        value_name = "FOLDER",
        value_hint = ValueHint::DirPath,
        conflicts_with_all = ["model", "adapter"],
        required_unless_present = "model"
    )]
    run: Option<PathBuf>,
    /// A model folder with config.json and safetensors, a GGUF file, or a model's name on the hub.
    #[arg(long, value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    model: Option<PathBuf>,
    /// An adapter folder for that model: ours, a LoRA of PEFT's, or a member of a bundle (BUNDLE/NAME); a name before it, as
    /// `generate` takes, is left out.
    #[arg(long, value_name = "[NAME=]FOLDER", value_hint = ValueHint::DirPath, requires = "model")]
    adapter: Option<PathBuf>,
}

/// How the weights of a model are stored in memory.
#[derive(Debug, Args)]
pub struct HeldArgs {
    /// Number type of the weights in memory; absent: that of the run, else f32.
    #[arg(long, value_name = "TYPE", value_parser = dtype())]
    dtype: Option<WeightDtype>,
    #[command(flatten)]
    quantize: QuantizeArgs,
}

/// How the linear layers of a model are stored in memory.
#[derive(Debug, Args)]
pub struct QuantizeArgs {
    /// Quantisation of the linear layers while they are loaded; absent: that of the run, else none.
    #[arg(long, value_name = "KIND", value_parser = quantize())]
    quantize: Option<Quantize>,
}

impl ModelArgs {
    /// What was named.
    fn named(&self) -> Result<Named, Error> {
        match (&self.run, &self.model) {
            (Some(run), _) => Named::of_run(run),
            (None, Some(model)) => {
                let adapter = self.adapter.as_deref().map(AdapterArgument::parse).transpose()?;
                Ok(Named::of_folders(model, adapter.map(|adapter| adapter.folder).as_deref()))
            }
            (None, None) => unreachable!("clap requires --run or --model"),
        }
    }
}

/// Parses the command line and does what it says, until `stop` is asked to; `joined` gets the ranks that share it.
///
/// # Errors
/// As the command.
pub fn run(stop: Stop, joined: &OnceCell<Rc<Ranks>>) -> Result<(), Error> {
    let mut cli = parsed()?;
    let ranks = match &cli.command {
        Some(Command::Train(_)) => Ranks::join(&stop)?,
        command => {
            command.as_ref().map_or(Some("quick start"), Command::trains).map_or(Ok(()), ranks::only_one)?;
            Ranks::alone(&stop)
        }
    };
    cli.global.ranks = Rc::clone(joined.get_or_init(|| Rc::new(ranks)));
    cli.global.stop = stop;
    let wrong = |problem: WrongInstructions| Error::Device {
        requested: "cpu".to_owned(),
        problem: problem.to_string(),
    };
    instructions::check().map_err(wrong)?;
    let global = &cli.global;
    match cli.command {
        None => quick_start::run(global),
        Some(Command::Train(args)) => train::run(&args, global),
        Some(Command::Evaluate(args)) => evaluate::run(&args, global),
        Some(Command::Predict(args)) => predict::run(&args, global),
        Some(Command::Generate(args)) => generate::run(&args, global),
        Some(Command::Serve(args)) => serve::run(&args, global),
        Some(Command::Inspect(args)) => inspect::run(&args, global),
        Some(Command::Merge(args)) => merge::run(&args, global),
        Some(Command::Export(args)) => export::run(&args, global),
        Some(Command::Compress(args)) => compress::run(&args, global),
        Some(Command::Recipes(args)) => recipes::run(&args, global),
        Some(Command::Compare(args)) => compare::run(&args, global),
        Some(Command::Sweep(args)) => sweep::run(&args, global),
        Some(Command::Bench(args)) => bench::run(&args, global),
        Some(Command::Doctor) => doctor::run(global),
        Some(Command::Completions { shell }) => completions::run(shell),
        Some(Command::Man(args)) => man::run(&args),
    }
}

/// The command line; asked for help or with wrong usage, the program ends here.
fn parsed() -> Result<Cli, Error> {
    let error = match Cli::try_parse() {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    if error.use_stderr() {
        error.exit();
    }
    written(error.print())?;
    std::process::exit(error.exit_code())
}

/// The table of methods, as every command prints it.
///
/// # Errors
/// If it cannot be written.
fn print_rows(rows: &[ResultRow]) -> Result<(), StdoutError> {
    let mut table = Table::new();
    table.load_style(if std::io::stdout().is_terminal() {
        presets::UTF8_FULL_CONDENSED
    } else {
        presets::ASCII_MARKDOWN
    });
    let of_text = rows.iter().any(|row| row.perplexity.is_some());
    let score = if of_text { "perplexity" } else { "accuracy %" };
    table.set_header(["method", "trainable parameters", "adapter bytes", score, "seconds"]);
    for row in rows {
        table.add_row([
            row.method.clone(),
            row.trainable.to_string(),
            row.adapter_bytes.to_string(),
            row.perplexity.map_or(format!("{:.1}", 100.0 * row.accuracy), |value| format!("{value:.3}")),
            format!("{:.1}", row.seconds),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    print_line(&table.to_string())
}
