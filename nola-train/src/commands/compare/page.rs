//! The comparison as a page: the table, and every run with its own report.

use std::path::Path;

use minijinja::{Environment, context};

use super::table::{Comparison, cells, footer};
use crate::report::PAGE;

/// The page, which links to the reports of the runs beside it.
pub fn render(comparison: &Comparison) -> String {
    let (header, rows) = cells(comparison);
    let report = |run: &Path| {
        let parts: Vec<_> = run.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        // The page lies in the folder that holds a folder a recipe, and in that one a run a seed.
        format!("{}/{PAGE}", parts[parts.len().saturating_sub(2)..].join("/"))
    };
    let runs: Vec<Vec<String>> =
        (comparison.rows.iter()).map(|row| row.runs.iter().map(|run| report(run)).collect()).collect();
    // A recipe whose training diverged has no report.
    let runs = runs.into_iter().chain(comparison.diverged.iter().map(|_| Vec::new()));
    let rows: Vec<_> = rows.into_iter().zip(runs).map(|(cells, runs)| context!(cells, runs)).collect();
    let mut environment = Environment::new();
    environment
        .add_template("page.html", include_str!("page.html"))
        .expect("the template is part of the program");
    let template = environment.get_template("page.html").expect("it was just added");
    let page = template.render(context!(header, rows, footer => footer(comparison)));
    page.expect("every variable of the template is given")
}

#[cfg(test)]
mod tests {
    use super::super::table::Compared;
    use super::*;

    #[test]
    fn every_run_has_a_link_to_its_report() {
        let row = Compared {
            recipe: "a <b>".to_owned(),
            settings: serde_json::Map::new(),
            method: "nola".to_owned(),
            trainable: 7,
            adapter_numbers: 5,
            adapter_bytes: 900,
            accuracy_mean: 0.5,
            accuracy_deviation: 0.1,
            loss_mean: 1.0,
            loss_deviation: 0.0,
            bleu_mean: None,
            bleu_deviation: None,
            seconds_median: 1.0,
            accuracies: vec![0.4, 0.6],
            losses: vec![1.0, 1.0],
            metrics: Vec::new(),
            runs: ["x/y/a/seed-0", "x/y/a/seed-1"].map(Into::into).to_vec(),
        };
        let (rows, diverged) = (&[row], &[]);
        let comparison = Comparison {
            rows,
            diverged,
            best: None,
            seeds: 2,
            device: "cpu",
            threads: 2,
            peak_memory_bytes: None,
        };
        // The engine writes `/` so, which means the same in a page.
        let page = render(&comparison).replace("&#x2f;", "/");
        for part in
            ["href=\"a/seed-0/report.html\"", "href=\"a/seed-1/report.html\"", "50.0 ± 10.0", "a &lt;b&gt;"]
        {
            assert!(page.contains(part), "no {part} in {page}");
        }
    }
}
