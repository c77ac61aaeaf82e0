//! `bench kernels`: `expand` and `project` alone, beside what the machine can do at all.

mod basis;

use std::time::Instant;

use burn::tensor::{Tensor, TensorData};
use clap::Args;
use comfy_table::{CellAlignment, Table};
use nola_core::basis::{Distribution, Generator, Stream, philox_words};
use rayon::prelude::*;
use serde::Serialize;

use basis::BasisRate;

use super::cases::{Preset, drawn};
use super::measure::synchronize;
use super::statistics::{median, rounded, smallest};
use super::{BenchError, Output, machine};
use crate::Error;
use crate::device::{self, OpenDevice};
use crate::option_values::positive;
use crate::terminal::StdoutError;

/// Sides of square products.
const SQUARES: [usize; 3] = [1024, 2048, 4096];
/// Products of a transformer's step: batch, rows, inner width, columns.
const PRODUCTS: [[usize; 4]; 4] =
    [[1, 788, 768, 768], [1, 788, 768, 3072], [48, 197, 64, 197], [1, 788, 768, 4]];
/// Numbers of an array that is copied: 256 MiB.
const COPIED: usize = 1 << 26;
/// Numbers that one task copies.
const COPIED_AT_ONCE: usize = 1 << 18;
/// A basis as a matrix: 1024 matrices of 768 x 8.
const BASIS: [usize; 2] = [1024, 6144];
/// Words that one task draws, and such tasks.
const WORDS: usize = 1 << 20;
const TASKS: usize = 64;
/// Nanoseconds of a second.
const NANO: f64 = 1e9;

/// Options of `bench kernels`.
#[derive(Debug, Args)]
pub struct KernelsArgs {
    /// Models whose adapters are mixed, with commas between them.
    #[arg(long, value_delimiter = ',', default_value = "vit-b16,gpt2,llama-160m", value_name = "MODELS")]
    models: Vec<Preset>,
    /// Rank of NOLA; default: the model's.
    #[arg(long, value_name = "N", value_parser = positive())]
    rank: Option<usize>,
    /// Random matrices of NOLA, for each factor; default: the model's.
    #[arg(long, value_name = "N", value_parser = positive())]
    k: Option<usize>,
    /// Measure only what begins with one of these names, such as `expand,mm_fp32`.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Threads that compute; default: one for each core.
    #[arg(long, value_name = "N", value_parser = positive())]
    threads: Option<usize>,
    /// Repetitions of a measurement, after one that is not counted.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = positive())]
    repeats: usize,
    /// Seconds after which a measurement ends, once it was repeated.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    max_seconds: f64,
}

/// One measurement; keys and names are those of the PyTorch script where it has them.
#[derive(Debug, Serialize)]
pub struct KernelLine {
    probe: bool,
    what: String,
    device: String,
    threads: usize,
    #[serde(flatten)]
    rate: Rate,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Rate {
    Product { gflops_best: f64, gflops_median: f64, cpu_median_s: Option<f64> },
    Copy { gb_s_best: f64, gb_s_median: f64 },
    Compose { gb_s_best: f64, ms_median: f64 },
    Drawn { gelem_s_best: f64, gelem_s_median: f64, cpu_median_s: Option<f64> },
    Words { gwords_s_best: f64, gwords_s_median: f64, cpu_median_s: Option<f64> },
    Basis(BasisRate),
}

/// Measures everything that `--only` leaves.
///
/// # Errors
/// If the device cannot be used, or threads not be started.
pub fn run(args: &KernelsArgs, output: &mut Output<KernelLine>) -> Result<(), Error> {
    if let Some(threads) = args.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build_global().map_err(|source| BenchError::Threads { threads, source })?;
    }
    let open = device::open(output.device)?;
    let mut probe = Probe { args, open: &open, output };
    probe.products()?;
    probe.memory()?;
    probe.draws()?;
    probe.words()?;
    for &preset in &args.models {
        probe.basis(preset)?;
    }
    Ok(())
}

struct Probe<'a> {
    args: &'a KernelsArgs,
    open: &'a OpenDevice,
    output: &'a mut Output<KernelLine>,
}

/// Wall and CPU seconds of each repetition.
struct Timed {
    walls: Vec<f64>,
    cpus: Vec<f64>,
}

impl Timed {
    /// `amount` over the shortest and over the median time.
    fn rates(&self, amount: f64) -> [f64; 2] {
        let rate = |seconds: Option<f64>| amount / seconds.unwrap_or(f64::INFINITY).max(1e-12);
        [rate(smallest(&self.walls)), rate(median(&self.walls))]
    }

    fn cpu_median_s(&self) -> Option<f64> {
        median(&self.cpus).map(|seconds| rounded(seconds, 6))
    }
}

impl Probe<'_> {
    /// Whether `--only` leaves it; says so.
    fn wants(&self, what: &str) -> bool {
        let only = &self.args.only;
        let wanted = only.is_empty() || only.iter().any(|name| what.starts_with(name.as_str()));
        if wanted {
            self.output.note(what);
        }
        wanted
    }

    fn line(&mut self, what: &str, rate: Rate) -> Result<(), StdoutError> {
        let device = self.open.name.split(' ').next().unwrap_or_default().to_owned();
        let threads = rayon::current_num_threads();
        self.output.line(KernelLine { probe: true, what: what.to_owned(), device, threads, rate })
    }

    /// Repeats `work`, which hands its state on.
    fn timed<S>(&self, state: S, mut work: impl FnMut(S) -> S) -> Timed {
        let mut state = work(state);
        let mut timed = Timed { walls: Vec::new(), cpus: Vec::new() };
        for repeat in 0..self.args.repeats {
            synchronize(&self.open.device);
            let (started, cpu) = (Instant::now(), machine::cpu_seconds());
            state = work(state);
            synchronize(&self.open.device);
            timed.walls.push(started.elapsed().as_secs_f64());
            timed.cpus.extend(machine::cpu_seconds().zip(cpu).map(|(after, before)| after - before));
            if repeat > 0 && timed.walls.iter().sum::<f64>() > self.args.max_seconds {
                break;
            }
        }
        timed
    }

    fn matrix(&self, shape: [usize; 3]) -> Tensor<3> {
        let values = drawn(7, shape.iter().product(), 1.0);
        Tensor::from_data(TensorData::new(values, shape), &self.open.device)
    }

    fn products(&mut self) -> Result<(), StdoutError> {
        let squares = SQUARES.map(|side| (format!("mm_fp32_{side}"), [1, side, side, side]));
        let products = PRODUCTS.map(|[batch, rows, inner, cols]| {
            let of_batch = if batch > 1 { format!("{batch}x") } else { String::new() };
            (format!("mm_fp32_{of_batch}{rows}x{inner}x{cols}"), [batch, rows, inner, cols])
        });
        for (what, [batch, rows, inner, cols]) in squares.into_iter().chain(products) {
            if !self.wants(&what) {
                continue;
            }
            let (left, right) = (self.matrix([batch, rows, inner]), self.matrix([batch, inner, cols]));
            let timed = self.timed((), |()| drop(left.clone().matmul(right.clone())));
            let flops = 2.0 * [batch, rows, inner, cols].map(|size| size as f64).iter().product::<f64>();
            let [gflops_best, gflops_median] = timed.rates(flops / NANO).map(|rate| rounded(rate, 1));
            let cpu_median_s = timed.cpu_median_s();
            self.line(&what, Rate::Product { gflops_best, gflops_median, cpu_median_s })?;
        }
        Ok(())
    }

    fn memory(&mut self) -> Result<(), StdoutError> {
        if self.wants("copy_fp32") {
            let timed = self.copied();
            let bytes = (2 * size_of::<f32>() * COPIED) as f64;
            let [gb_s_best, gb_s_median] = timed.rates(bytes / NANO).map(|rate| rounded(rate, 2));
            self.line("copy_fp32", Rate::Copy { gb_s_best, gb_s_median })?;
        }
        let [count, width] = BASIS;
        if self.wants("compose_gemv_1024x6144") {
            let (coefficients, basis) = (self.matrix([1, 1, count]), self.matrix([1, count, width]));
            let timed = self.timed((), |()| drop(coefficients.clone().matmul(basis.clone())));
            let bytes = (size_of::<f32>() * count * width) as f64;
            let [gb_s_best, _] = timed.rates(bytes / NANO).map(|rate| rounded(rate, 2));
            let ms_median = rounded(1e3 * median(&timed.walls).unwrap_or_default(), 3);
            self.line("compose_gemv_1024x6144", Rate::Compose { gb_s_best, ms_median })?;
        }
        Ok(())
    }

    /// Copies of an array that no cache holds: on the CPU into memory that is there already, elsewhere by the device.
    fn copied(&self) -> Timed {
        if self.on_cpu() {
            let from = vec![1.0_f32; COPIED];
            return self.timed(vec![0.0_f32; COPIED], |mut to| {
                let parts = to.par_chunks_mut(COPIED_AT_ONCE).zip(from.par_chunks(COPIED_AT_ONCE));
                parts.for_each(|(to, from)| to.copy_from_slice(from));
                to
            });
        }
        let from = Tensor::<1>::ones([COPIED], &self.open.device);
        self.timed((), |()| drop(from.clone().mul_scalar(2.0)))
    }

    fn on_cpu(&self) -> bool {
        self.open.name == device::cpu().name
    }

    /// Random numbers on the host, written out.
    fn draws(&mut self) -> Result<(), StdoutError> {
        for (what, distribution) in
            [("uniform_1024x6144", Distribution::Uniform), ("sign_1024x6144", Distribution::Sign)]
        {
            if !self.wants(what) {
                continue;
            }
            let [count, width] = BASIS;
            let timed = self.timed(vec![0.0_f32; count * width], |mut values| {
                let rows = values.par_chunks_mut(width).enumerate();
                rows.for_each(|(row, values)| generator(distribution).fill(row as u32, 0, values));
                values
            });
            let [gelem_s_best, gelem_s_median] =
                timed.rates((count * width) as f64 / NANO).map(|rate| rounded(rate, 4));
            let cpu_median_s = timed.cpu_median_s();
            self.line(what, Rate::Drawn { gelem_s_best, gelem_s_median, cpu_median_s })?;
        }
        Ok(())
    }

    /// The words behind them, not written out.
    fn words(&mut self) -> Result<(), StdoutError> {
        if !self.wants("philox_words") {
            return Ok(());
        }
        let timed = self.timed((), |()| {
            let of_task = |_| philox_words(WORDS);
            std::hint::black_box((0..TASKS).into_par_iter().map(of_task).reduce(|| 0, |a, b| a ^ b));
        });
        let words = (WORDS * TASKS) as f64;
        let [gwords_s_best, gwords_s_median] = timed.rates(words / NANO).map(|rate| rounded(rate, 4));
        let cpu_median_s = timed.cpu_median_s();
        self.line("philox_words", Rate::Words { gwords_s_best, gwords_s_median, cpu_median_s })
    }
}

fn generator(distribution: Distribution) -> Generator {
    Generator { distribution, seed: 1, site: 2, stream: Stream::A }
}

/// The lines for people.
pub fn table(lines: &[KernelLine], table: &mut Table) {
    table.set_header(["what", "best", "median", "unit", "ns per number and core"]);
    for line in lines {
        let (best, median, unit) = match line.rate {
            Rate::Product { gflops_best, gflops_median, .. } => (gflops_best, gflops_median, "GFLOP/s"),
            Rate::Copy { gb_s_best, gb_s_median } => (gb_s_best, gb_s_median, "GB/s"),
            Rate::Compose { gb_s_best, ms_median } => {
                let [count, width] = BASIS;
                let bytes = (size_of::<f32>() * count * width) as f64;
                (gb_s_best, bytes / (1e6 * ms_median), "GB/s")
            }
            Rate::Drawn { gelem_s_best, gelem_s_median, .. } => (gelem_s_best, gelem_s_median, "G numbers/s"),
            Rate::Words { gwords_s_best, gwords_s_median, .. } => {
                (gwords_s_best, gwords_s_median, "G words/s")
            }
            Rate::Basis(ref rate) => (rate.gelem_s_best, rate.gelem_s_median, "G numbers/s"),
        };
        let nanoseconds = match line.rate {
            Rate::Basis(ref rate) => rate.ns_per_number_and_core,
            Rate::Product { .. } | Rate::Copy { .. } | Rate::Compose { .. } => None,
            Rate::Drawn { .. } | Rate::Words { .. } => None,
        };
        let nanoseconds = nanoseconds.map_or(String::new(), |value| format!("{value:.4}"));
        let cells =
            [line.what.clone(), format!("{best:.2}"), format!("{median:.2}"), unit.to_owned(), nanoseconds];
        table.add_row(cells);
    }
    for column in [1, 2, 4] {
        table.column_mut(column).expect("five columns").set_cell_alignment(CellAlignment::Right);
    }
}
