//! `bench table`: two results of `bench steps` side by side, or one of them and one of the PyTorch script.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};

use super::statistics::rounded;
use super::{BenchError, Output};
use crate::Error;

/// The method that others are compared with.
const LORA: &str = "lora";

/// Options of `bench table`.
#[derive(Debug, Args)]
pub struct TableArgs {
    /// A file of lines of JSON, as `bench steps --json` or the PyTorch script write them.
    a: PathBuf,
    /// The file that it is compared with.
    b: PathBuf,
    /// Compare a method of A with another one of B too, as in `--pair nola=nola-cached`; may be repeated.
    #[arg(long, value_name = "A=B", value_parser = pair)]
    pair: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (a, b) = text.split_once('=').ok_or("two methods with `=` between them, as in nola=nola-cached")?;
    Ok((a.to_owned(), b.to_owned()))
}

/// What the table needs of a line; the other keys may be whatever they are.
#[derive(Debug, Clone, Deserialize)]
struct Measured {
    model: String,
    method: String,
    batch: usize,
    seq: usize,
    #[serde(default = "one")]
    accumulate: usize,
    median_s: f64,
    p10: f64,
    p90: f64,
    cpu_median_s: Option<f64>,
    peak_rss_mb: Option<f64>,
    peak_device_mb: Option<f64>,
}

fn one() -> usize {
    1
}

/// What kind of line it is; only cases that were measured are compared.
#[derive(Debug, Deserialize)]
struct Kind {
    median_s: Option<serde_json::Value>,
    method: Option<String>,
}

/// Model, method, batch, tokens, passes.
type Key = (String, String, usize, usize, usize);

impl Measured {
    fn key(&self) -> Key {
        self.key_with(&self.method)
    }

    fn key_with(&self, method: &str) -> Key {
        (self.model.clone(), method.to_owned(), self.batch, self.seq, self.accumulate)
    }
}

/// A file of results.
struct Results {
    /// In the order of the file.
    measured: Vec<Measured>,
    places: BTreeMap<Key, usize>,
}

impl Results {
    fn read(path: &Path) -> Result<Self, BenchError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| BenchError::Io { path: path.to_owned(), source })?;
        Self::from_text(path, &text)
    }

    fn from_text(path: &Path, text: &str) -> Result<Self, BenchError> {
        let mut results = Self { measured: Vec::new(), places: BTreeMap::new() };
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            let wrong = |source| BenchError::Json { path: path.to_owned(), line, source };
            let kind: Kind = serde_json::from_str(text).map_err(wrong)?;
            // Probes have no method, and what was skipped or failed has no median.
            if kind.method.is_none() || kind.median_s.is_none() {
                continue;
            }
            let measured: Measured = serde_json::from_str(text).map_err(wrong)?;
            let case = format!("{}/{}", measured.model, measured.method);
            if results.places.insert(measured.key(), results.measured.len()).is_some() {
                return Err(BenchError::Twice { path: path.to_owned(), line, case });
            }
            results.measured.push(measured);
        }
        if results.measured.is_empty() {
            return Err(BenchError::NoCase { path: path.to_owned() });
        }
        Ok(results)
    }

    fn get(&self, key: &Key) -> Option<&Measured> {
        self.places.get(key).map(|&place| &self.measured[place])
    }

    /// A case's time to that of LoRA of the same shape: wall, and CPU.
    fn to_lora(&self, case: &Measured) -> Ratios {
        self.get(&case.key_with(LORA)).map_or(Ratios::default(), |lora| Ratios::of(case, lora))
    }
}

/// How one case compares with another; absent where a file does not output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct Ratios {
    /// Of median wall seconds.
    wall: Option<f64>,
    /// Of median CPU seconds.
    cpu: Option<f64>,
    /// Of peak memory: the device's where both say it, else the process's.
    memory: Option<f64>,
}

impl Ratios {
    fn of(left: &Measured, right: &Measured) -> Self {
        let ratio = |left: Option<f64>, right: Option<f64>| {
            left.zip(right).filter(|(_, right)| *right > 0.0).map(|(left, right)| rounded(left / right, 4))
        };
        let of_device = ratio(left.peak_device_mb, right.peak_device_mb);
        Self {
            wall: ratio(Some(left.median_s), Some(right.median_s)),
            cpu: ratio(left.cpu_median_s, right.cpu_median_s),
            memory: of_device.or_else(|| ratio(left.peak_rss_mb, right.peak_rss_mb)),
        }
    }
}

/// One case in both files, or in one of them.
#[derive(Debug, Serialize)]
pub struct TableLine {
    model: String,
    method: String,
    /// Method of B, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    method_b: Option<String>,
    batch: usize,
    seq: usize,
    accumulate: usize,
    a: Option<Seconds>,
    b: Option<Seconds>,
    a_to_b: Ratios,
    a_to_lora: Ratios,
    b_to_lora: Ratios,
}

/// Wall seconds of a step.
#[derive(Debug, Clone, Copy, Serialize)]
struct Seconds {
    median_s: f64,
    p10: f64,
    p90: f64,
}

impl Seconds {
    fn of(case: &Measured) -> Self {
        Self { median_s: case.median_s, p10: case.p10, p90: case.p90 }
    }

    fn text(seconds: Option<Self>) -> String {
        seconds.map_or("-".to_owned(), |Self { median_s, p10, p90 }| {
            // Small models take milliseconds.
            let digits = if median_s < 0.1 { 4 } else { 2 };
            format!("{median_s:.digits$} ({p10:.digits$}-{p90:.digits$})")
        })
    }
}

/// Compares two files.
///
/// # Errors
/// If a file cannot be read, is not lines of JSON, holds no case or one of them twice.
pub fn run(args: &TableArgs, output: &mut Output<TableLine>) -> Result<(), Error> {
    let (a, b) = (Results::read(&args.a)?, Results::read(&args.b)?);
    for line in compared(&a, &b, &args.pair) {
        output.line(line)?;
    }
    Ok(())
}

/// The cases of A in their order, with pairs behind their first method, and then those of B alone.
fn compared(a: &Results, b: &Results, pairs: &[(String, String)]) -> Vec<TableLine> {
    let mut lines = Vec::new();
    for left in &a.measured {
        lines.push(line(Some((left, a)), b.get(&left.key()).map(|right| (right, b))));
        for (_, other) in pairs.iter().filter(|(of_a, _)| *of_a == left.method) {
            if let Some(right) = b.get(&left.key_with(other)) {
                lines.push(line(Some((left, a)), Some((right, b))));
            }
        }
    }
    let alone = b.measured.iter().filter(|right| a.get(&right.key()).is_none());
    lines.extend(alone.map(|right| line(None, Some((right, b)))));
    lines
}

fn line(left: Option<(&Measured, &Results)>, right: Option<(&Measured, &Results)>) -> TableLine {
    let (case, _) = left.or(right).expect("a line is about something");
    let other = right.map(|(right, _)| &right.method).filter(|method| **method != case.method);
    let to_lora = |side: Option<(&Measured, &Results)>| {
        side.map_or(Ratios::default(), |(case, results)| results.to_lora(case))
    };
    TableLine {
        model: case.model.clone(),
        method: case.method.clone(),
        method_b: other.cloned(),
        batch: case.batch,
        seq: case.seq,
        accumulate: case.accumulate,
        a: left.map(|(case, _)| Seconds::of(case)),
        b: right.map(|(case, _)| Seconds::of(case)),
        a_to_b: left.zip(right).map_or(Ratios::default(), |((left, _), (right, _))| Ratios::of(left, right)),
        a_to_lora: to_lora(left),
        b_to_lora: to_lora(right),
    }
}

/// The lines for people.
pub fn table(lines: &[TableLine], table: &mut Table) {
    table.set_header([
        "case",
        "A: s a step (p10-p90)",
        "B: s a step (p10-p90)",
        "A/B wall",
        "A/B CPU",
        "A/B memory",
        "A: to LoRA, wall (CPU)",
        "B: to LoRA, wall (CPU)",
    ]);
    for line in lines {
        table.add_row([
            line.case(),
            Seconds::text(line.a),
            Seconds::text(line.b),
            ratio(line.a_to_b.wall),
            ratio(line.a_to_b.cpu),
            ratio(line.a_to_b.memory),
            to_lora(line.a_to_lora),
            to_lora(line.b_to_lora),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

impl TableLine {
    fn case(&self) -> String {
        let method_b = self.method_b.as_ref().map_or(String::new(), |method| format!(" and {method}"));
        let passes = if self.accumulate > 1 { format!("{} x ", self.accumulate) } else { String::new() };
        format!("{} {passes}{} x {}, {}{method_b}", self.model, self.batch, self.seq, self.method)
    }
}

fn ratio(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.2}"))
}

fn to_lora(Ratios { wall, cpu, .. }: Ratios) -> String {
    match wall {
        Some(_) => format!("{} ({})", ratio(wall), ratio(cpu)),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = r#"
{"probe": true, "what": "mm_fp32_1024", "gflops_best": 150.0}
{"model": "gpt2", "method": "lora", "batch": 4, "seq": 256, "accumulate": 1, "median_s": 4.0, "p10": 3.9, "p90": 4.2, "cpu_median_s": 8.0, "peak_rss_mb": 1800.0, "burn": "0.22.1"}
{"model": "gpt2", "method": "nola", "batch": 4, "seq": 256, "accumulate": 1, "median_s": 4.2, "p10": 4.1, "p90": 4.3, "cpu_median_s": 8.2, "peak_rss_mb": 1750.0}
{"model": "llama-7b", "method": "nola", "skipped": "needs about 55.9 GiB, 21.9 GiB free"}
"#;
    const TORCH: &str = r#"
{"model": "gpt2", "method": "lora", "batch": 4, "seq": 256, "attn": "sdpa", "median_s": 5.0, "p10": 4.8, "p90": 5.5, "cpu_median_s": 10.0, "peak_rss_mb": 3600.0}
{"model": "gpt2", "method": "nola", "batch": 4, "seq": 256, "median_s": 8.0, "p10": 7.0, "p90": 9.0, "cpu_median_s": 13.0, "peak_rss_mb": 3500.0}
{"model": "gpt2", "method": "authors", "batch": 4, "seq": 256, "median_s": 9.0, "p10": 8.0, "p90": 9.5, "cpu_median_s": 16.0, "peak_rss_mb": 4200.0}
{"model": "gpt2", "method": "vera", "error": ["killed"]}
"#;

    fn results(text: &str) -> Results {
        Results::from_text(Path::new("x.jsonl"), text).expect("lines of JSON")
    }

    fn shown(pairs: &[(String, String)]) -> String {
        let mut shown = super::super::markdown();
        table(&compared(&results(OURS), &results(TORCH), pairs), &mut shown);
        shown.to_string()
    }

    #[test]
    fn cases_of_both_files_stand_side_by_side() {
        let shown = shown(&[]);
        let cells = |start: &str| -> Vec<String> {
            let row =
                shown.lines().find(|row| row.contains(start)).unwrap_or_else(|| panic!("{start}: {shown}"));
            row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        assert_eq!(
            cells("gpt2 4 x 256, nola"),
            [
                "gpt2 4 x 256, nola",
                "4.20 (4.10-4.30)",
                "8.00 (7.00-9.00)",
                "0.53",
                "0.63",
                "0.50",
                "1.05 (1.02)",
                "1.60 (1.30)"
            ]
        );
        assert_eq!(cells("authors")[1..4], ["-", "9.00 (8.00-9.50)", "-"]);
        assert!(!shown.contains("llama-7b") && !shown.contains("vera"), "{shown}");
    }

    #[test]
    fn a_pair_compares_two_methods() {
        let shown = shown(&[("nola".to_owned(), "authors".to_owned())]);
        let row = shown.lines().find(|row| row.contains("nola and authors")).expect("the pair has a row");
        assert!(row.contains("0.47") && row.contains("0.51"), "{row}");
    }

    #[test]
    fn a_case_that_stands_twice_is_named_with_its_line() {
        let twice = format!("{OURS}{}", OURS.lines().nth(2).expect("LoRA"));
        let error = Results::from_text(Path::new("x.jsonl"), &twice).err().expect("refused").to_string();
        assert!(error.starts_with("x.jsonl:6: gpt2/lora"), "{error}");
    }

    #[test]
    fn a_line_that_is_no_json_is_named() {
        let error = Results::from_text(Path::new("x.jsonl"), "{\"model\": \n").err().expect("refused");
        assert!(error.to_string().starts_with("x.jsonl:1: "), "{error}");
        let empty = Results::from_text(Path::new("x.jsonl"), "").err().expect("refused").to_string();
        assert!(empty.starts_with("x.jsonl: "), "{empty}");
    }
}
