//! The lines of `bench steps`.

use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::case::{CaseInfo, Measured};
use super::statistics::{median, percentile, rounded, smallest};

/// What `bench steps` says of a case.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum StepsLine {
    /// It was measured.
    Measured(Box<Row>),
    /// It needs more than the machine has.
    Skipped {
        /// The preset.
        model: String,
        /// The method.
        method: String,
        /// Why.
        skipped: String,
    },
    /// Its process failed.
    Failed {
        /// The preset.
        model: String,
        /// The method.
        method: String,
        /// The last it said.
        error: String,
    },
}

/// A measured case.
#[derive(Debug, Serialize)]
pub struct Row {
    #[serde(flatten)]
    info: CaseInfo,
    n: usize,
    median_s: Option<f64>,
    p10: Option<f64>,
    p90: Option<f64>,
    min_s: Option<f64>,
    cpu_median_s: Option<f64>,
    cpu_min_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expand_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project_s: Option<f64>,
    items_per_s: Option<f64>,
    load_avg: [Option<f64>; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    samples: Option<Vec<f64>>,
}

impl Row {
    /// Pooled samples of all rounds; `load_avg` is the load before and after the last one.
    pub(super) fn of(measured: &Measured, load_avg: [Option<f64>; 2], with_samples: bool) -> Self {
        let Measured { info, samples } = measured;
        let seconds = |value: Option<f64>| value.map(|seconds| rounded(seconds, 6));
        let items = (info.batch * info.seq * info.accumulate) as f64;
        Self {
            info: info.clone(),
            n: samples.walls.len(),
            median_s: seconds(median(&samples.walls)),
            p10: seconds(percentile(&samples.walls, 0.1)),
            p90: seconds(percentile(&samples.walls, 0.9)),
            min_s: seconds(smallest(&samples.walls)),
            cpu_median_s: seconds(median(&samples.cpus)),
            cpu_min_s: seconds(smallest(&samples.cpus)),
            expand_s: seconds(median(&samples.expands)),
            project_s: seconds(median(&samples.projects)),
            items_per_s: median(&samples.walls).map(|median| rounded(items / median, 1)),
            load_avg,
            samples: with_samples.then(|| samples.walls.iter().map(|&wall| rounded(wall, 6)).collect()),
        }
    }
}

/// The lines for people.
pub fn table(lines: &[StepsLine], table: &mut Table) {
    table.set_header([
        "model",
        "method",
        "shape",
        "trained",
        "step s (p10-p90)",
        "CPU s",
        "expand + project s",
        "peak MiB",
        "items/s",
    ]);
    for line in lines {
        match line {
            StepsLine::Measured(row) => drop(table.add_row(row.cells())),
            StepsLine::Skipped { model, method, skipped: why }
            | StepsLine::Failed { model, method, error: why } => {
                table.add_row([model, method, "", "", why]);
            }
        }
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

impl Row {
    fn cells(&self) -> [String; 9] {
        let info = &self.info;
        let number = |value: Option<f64>, digits: usize| {
            value.map_or(String::new(), |value| format!("{value:.digits$}"))
        };
        let accumulated = if info.accumulate > 1 { format!("{} x ", info.accumulate) } else { String::new() };
        let basis = self.expand_s.zip(self.project_s);
        [
            info.model.clone(),
            info.method.clone(),
            format!("{accumulated}{} x {}", info.batch, info.seq),
            info.trainable.to_string(),
            format!("{} ({}-{})", number(self.median_s, 3), number(self.p10, 3), number(self.p90, 3)),
            number(self.cpu_median_s, 3),
            basis.map_or(String::new(), |(expand, project)| format!("{expand:.4} + {project:.4}")),
            number(info.peak_device_mb.or(info.peak_rss_mb), 0),
            number(self.items_per_s, 1),
        ]
    }
}
