//! What a run leaves for people: curves and confusion matrix as SVG, and one HTML page that needs no other file.

mod chart;
mod colour;
mod confusion;
mod curves;
mod page;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use nola_core::folder;
use serde::Serialize;

use crate::Error;
use crate::history::History;
use crate::printable::printable;
use crate::progress::Scores;
use confusion::Key;

/// Name of the page.
pub const PAGE: &str = "report.html";

/// Mistakes shown at most.
pub const MISTAKES: usize = 64;

/// Everything the report shows.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// Headline.
    pub title: String,
    /// What was used: name and value, for instance the device, the model, the data.
    pub facts: Vec<(String, String)>,
    /// What makes the run doubtful.
    pub warnings: Vec<String>,
    /// Scores of what is kept.
    pub scores: Scores,
    /// The resolved recipe.
    pub recipe_toml: String,
    /// The course of the run, or of each of the runs compared.
    pub histories: Vec<History>,
    /// What the model wrote while it was trained.
    pub samples: Vec<ShownSample>,
    /// What the task adds.
    pub details: ReportSections,
    /// The methods compared, or the one that was run.
    pub rows: Vec<ResultRow>,
}

/// What a report shows of images or of text.
#[derive(Debug, Clone, Default)]
pub struct ReportSections {
    /// What was learned, for the headline.
    pub about: String,
    /// Name and value of what was used.
    pub facts: Vec<(String, String)>,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Validation images by true class (row) and predicted class (column).
    pub confusion: Vec<Vec<u32>>,
    /// Images taken for something else; the most confident mistakes are shown.
    pub misclassified: Vec<Misclassified>,
    /// Prompts of the validation data and how the model went on.
    pub continuations: Vec<Continuation>,
}

/// A prompt, and what followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Continuation {
    /// What the model was given.
    pub prompt: String,
    /// What it wrote, greedily.
    pub written: String,
    /// What stands in the data.
    pub reference: String,
}

/// A prompt of the recipe, and what the model wrote at first and at last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownSample {
    /// The prompt.
    pub prompt: String,
    /// Optimizer steps made, and what was written.
    pub texts: Vec<(usize, String)>,
}

/// An image taken for something else.
#[derive(Debug, Clone)]
pub struct Misclassified {
    /// The image.
    pub image: Arc<RgbImage>,
    /// Its class.
    pub label: usize,
    /// The class it was taken for.
    pub predicted: usize,
    /// Probability the model gave to that class, from 0 to 1.
    pub probability: f32,
    /// What people call the image.
    pub name: String,
}

/// One line of the table of results.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResultRow {
    /// The method.
    pub method: String,
    /// Trainable parameters, head included.
    pub trainable: usize,
    /// Bytes of the adapter folder.
    pub adapter_bytes: u64,
    /// Share of the validation images, or tokens, that are right, from 0 to 1.
    pub accuracy: f64,
    /// Where that share lies with a confidence of 95 %; absent for text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_interval: Option<[f64; 2]>,
    /// e to the validation loss, for text; absent for images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Seconds of training.
    pub seconds: f64,
}

/// Where a report lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportFiles {
    /// Loss and accuracy over the steps.
    pub curves: PathBuf,
    /// Confusion matrix; absent with more classes than can be drawn.
    pub confusion: Option<PathBuf>,
    /// The page.
    pub page: PathBuf,
}

/// Writes `curves.svg`, `confusion.svg` and `report.html` into a folder, which must exist.
///
/// # Errors
/// If a file cannot be written.
pub fn write(folder: &Path, report: &RunReport) -> Result<ReportFiles, Error> {
    let curves = curves::draw(&report.histories);
    let confusion = |key| confusion::draw(&report.details.classes, &report.details.confusion, key);
    let page = page::render(report, &curves.charts, confusion(Key::Beside).as_deref());
    let confusion = confusion(Key::Below).map(|svg| write_file(folder, "confusion.svg", &svg)).transpose()?;
    Ok(ReportFiles {
        curves: write_file(folder, "curves.svg", &curves.all)?,
        confusion,
        page: write_file(folder, PAGE, &page)?,
    })
}

fn write_file(folder: &Path, name: &str, text: &str) -> Result<PathBuf, Error> {
    let path = folder.join(name);
    // Names of classes and files, and what a model wrote, may hold anything.
    folder::write_atomically(&path, printable(text).as_bytes())
        .map_err(|error| Error::from(error).about_output())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::baseline::Baseline;
    use crate::history::HistoryPoint;
    use crate::progress::Target;

    fn sample() -> RunReport {
        let points = |peak: f32| {
            let point = |step: usize| HistoryPoint {
                step,
                train_loss: 2.3 * (-(step as f32) / 60.0).exp() + 0.1 * (step as f32).sin().abs(),
                learning_rate: 1e-2,
                validation: step.is_multiple_of(20).then(|| Scores {
                    target: Target::Image,
                    loss: 2.0 * (-(step as f32) / 80.0).exp() + 0.3,
                    accuracy: (peak * (1.0 - (-(step as f32) / 40.0).exp())).into(),
                    answers: 500,
                }),
            };
            (1..=200).map(point).collect()
        };
        let row = |method: &str, trainable, accuracy| ResultRow {
            method: method.to_owned(),
            trainable,
            adapter_bytes: 4 * trainable as u64 + 2048,
            accuracy,
            accuracy_interval: Some([accuracy - 0.04, accuracy + 0.04]),
            perplexity: None,
            seconds: 12.3,
        };
        let mistake = |index: u32| Misclassified {
            image: Arc::new(RgbImage::from_fn(8, 8, |x, y| {
                image::Rgb([(x * 30) as u8, (y * 30) as u8, (index * 7) as u8])
            })),
            label: index as usize % 10,
            predicted: (index as usize + 3) % 10,
            probability: 0.5 + index as f32 / 100.0,
            name: format!("assets/digits/val/{}/{index:04}.png", index % 10),
        };
        RunReport {
            title: "Digits from ten images each".to_owned(),
            facts: vec![
                ("device".to_owned(), "CPU (2 cores)".to_owned()),
                ("model".to_owned(), "vit-micro".to_owned()),
            ],
            warnings: vec!["the validation loss rose from 0.80 to 3.93 after step 180".to_owned()],
            scores: Scores { target: Target::Image, loss: 0.8, accuracy: 0.724, answers: 500 },
            recipe_toml: "[train]\nsteps = 200 # <fast>\n".to_owned(),
            histories: ["nola", "lora", "linear"]
                .map(|name| History {
                    name: name.to_owned(),
                    points: points(0.8),
                    kept_step: 180,
                    baseline: Baseline::MostFrequentClass { accuracy: 0.1 },
                })
                .to_vec(),
            samples: Vec::new(),
            details: ReportSections {
                classes: (0..10).map(|digit| format!("digit {digit}")).collect(),
                confusion: (0..10)
                    .map(|row| {
                        (0..10).map(|column| if row == column { 42 } else { (row * column) % 5 }).collect()
                    })
                    .collect(),
                misclassified: (0..80).map(mistake).collect(),
                ..ReportSections::default()
            },
            rows: vec![
                row("linear", 970, 0.649),
                row("lora r=1", 9034, 0.713),
                row("nola r=4 k=48", 4426, 0.724),
            ],
        }
    }

    #[test]
    fn the_three_files_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let files = write(folder.path(), &sample()).unwrap();
        for file in [Some(&files.curves), files.confusion.as_ref(), Some(&files.page)] {
            assert!(fs::metadata(file.unwrap()).unwrap().len() > 1000);
        }
    }

    #[test]
    fn the_page_needs_no_other_file() {
        let report = sample();
        let page = page::render(&report, &curves::draw(&report.histories).charts, None);
        let without_namespace = page.replace("http://www.w3.org/2000/svg", "");
        for link in ["src=\"http", "href=", "http://", "https://", "url(", "@import", "<script"] {
            assert!(!without_namespace.contains(link), "{link}");
        }
        assert!(page.contains("&lt;fast&gt;") && !page.contains("<fast>"));
    }

    #[test]
    fn samples_are_shown_with_their_steps() {
        let texts = [(0, "a <0>".to_owned()), (100, "a <100>".to_owned())].to_vec();
        let samples = vec![ShownSample { prompt: "in".to_owned(), texts }];
        let page = page::render(&RunReport { samples, ..sample() }, &[], None);
        assert!(page.contains("before training:</span> <b>a &lt;0&gt;"), "{page}");
        assert!(page.contains("after step 100:</span> <b>a &lt;100&gt;"), "{page}");
        assert!(!page::render(&sample(), &[], None).contains("Samples"));
    }

    #[test]
    fn at_most_64_mistakes_are_shown_the_most_confident_first() {
        let page = page::render(&sample(), &[], None);
        assert_eq!(page.matches("data:image/png;base64,").count(), 64);
        assert!(page.contains("0079.png") && !page.contains("0015.png"));
    }

    #[test]
    fn a_run_without_steps_classes_or_mistakes_still_gives_a_page() {
        let empty = RunReport {
            histories: Vec::new(),
            details: ReportSections::default(),
            rows: Vec::new(),
            ..sample()
        };
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(write(folder.path(), &empty).unwrap().confusion, None);
    }

    #[test]
    fn losses_that_are_no_numbers_are_left_out_of_the_curves() {
        let mut report = sample();
        report.histories[0].points[3].train_loss = f32::NAN;
        report.histories[0].points[5].train_loss = f32::INFINITY;
        assert!(!curves::draw(&report.histories).all.contains("NaN"));
    }

    #[test]
    fn scores_come_with_their_interval_and_what_they_have_to_beat() {
        let page = page::render(&sample(), &[], None);
        for part in [
            "<strong>72.4\u{a0}%</strong>",
            "of the validation images recognised (362 of 500)",
            "95\u{a0}% interval 68.3 to 76.1\u{a0}%",
            "most frequent class: 10.0\u{a0}%",
            "64.9\u{a0}%",
            "60.9 to 68.9\u{a0}%",
        ] {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn warnings_and_overfitting_stand_in_the_page() {
        let page = page::render(&sample(), &[String::new()], None);
        assert!(page.contains("rose from 0.80 to 3.93 after step 180"));
        assert!(page.contains(
            "lora: No overfitting was seen: after step 180, which is kept, the validation loss fell"
        ));
    }

    #[test]
    fn the_class_table_has_the_numbers_of_the_matrix() {
        let mut report = sample();
        report.details.classes[9] = "a name that is too long for a row of the matrix".to_owned();
        let page = |report: &RunReport| {
            let confusion = confusion::draw(&report.details.classes, &report.details.confusion, Key::Beside);
            page::render(report, &[], confusion.as_deref())
        };
        assert!(page(&report).contains("<td class=\"number\">10</td>"));
        assert!(!page(&sample()).contains("class=\"number\""), "short names stand at the matrix");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let error = write(Path::new("no/such/folder"), &sample()).unwrap_err();
        assert_eq!(error.exit_code(), 9);
        assert!(error.to_string().contains("no/such/folder"));
    }
}
