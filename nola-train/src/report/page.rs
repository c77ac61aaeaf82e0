//! The HTML page; what it looks like is in `page.html`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::ImageFormat;
use image::RgbImage;
use image::imageops::thumbnail;
use minijinja::Value;
use minijinja::value::Serde;
use serde::Serialize;

use super::chart::rendered;
use super::confusion::is_numbered;
use super::{Continuation, MISTAKES, Misclassified, RunReport, ShownSample};
use crate::amounts::{bytes, percent, thousands};
use crate::baseline::Baseline;
use crate::history::History;
use crate::overfitting;
use crate::progress::Target;

/// Pairs of confused classes shown at most.
const PAIRS: usize = 8;

/// Longest side of an image in the page, in pixels; larger ones are scaled down to keep the page small.
const IMAGE_SIDE: u32 = 160;

/// Classes beyond which their table stands below the matrix.
const BESIDE: usize = 14;

/// What the template is filled with.
#[derive(Serialize)]
struct Page<'a> {
    title: &'a str,
    facts: &'a [(String, String)],
    warnings: &'a [String],
    recipe: &'a str,
    charts: &'a [String],
    overfitting: Vec<String>,
    confusion: Option<&'a str>,
    headline: Option<Headline>,
    rows: Vec<Row<'a>>,
    is_numbered: bool,
    is_wide: bool,
    classes: Vec<ClassScore<'a>>,
    pairs: Vec<Pair<'a>>,
    mistakes: Vec<Mistake<'a>>,
    mistakes_in_all: u32,
    has_perplexity: bool,
    has_interval: bool,
    continuations: &'a [Continuation],
    samples: &'a [ShownSample],
}

#[derive(Serialize)]
struct Headline {
    strong: String,
    parts: Vec<String>,
}

#[derive(Serialize)]
struct ClassScore<'a> {
    name: &'a str,
    right: u32,
    images: u32,
    percent: f64,
}

#[derive(Serialize)]
struct Pair<'a> {
    label: &'a str,
    predicted: &'a str,
    images: u32,
}

#[derive(Serialize)]
struct Mistake<'a> {
    png: String,
    label: &'a str,
    predicted: &'a str,
    percent: String,
    name: &'a str,
}

#[derive(Serialize)]
struct Row<'a> {
    method: &'a str,
    trainable: String,
    adapter: String,
    percent: String,
    interval: Option<String>,
    perplexity: Option<String>,
    seconds: String,
}

/// Fills the template; the images are put into it as they are.
pub(super) fn render(report: &RunReport, charts: &[String], confusion: Option<&str>) -> String {
    let details = &report.details;
    let right: u32 = details.confusion.iter().enumerate().map(|(class, counts)| counts[class]).sum();
    let images: u32 = details.confusion.iter().flatten().sum();
    let page = Page {
        title: &report.title,
        facts: &report.facts,
        warnings: &report.warnings,
        recipe: &report.recipe_toml,
        charts: if report.histories.is_empty() { &[] } else { charts },
        overfitting: overfitting(&report.histories),
        confusion,
        headline: headline(report),
        rows: rows(report),
        is_numbered: confusion.is_some() && is_numbered(&details.classes),
        is_wide: details.classes.len() > BESIDE,
        classes: class_scores(report),
        pairs: confused_pairs(report),
        mistakes: mistakes(report),
        mistakes_in_all: images - right,
        has_perplexity: report.rows.iter().any(|row| row.perplexity.is_some()),
        has_interval: report.rows.iter().any(|row| row.accuracy_interval.is_some()),
        continuations: &details.continuations,
        samples: &report.samples,
    };
    rendered("page.html", Value::from(Serde(page)))
}

/// The scores of what is kept, and of what it has to be better than.
fn headline(report: &RunReport) -> Option<Headline> {
    let (scores, baseline) = (&report.scores, &report.histories.first()?.baseline);
    let (strong, mut parts) = match scores.target {
        Target::Image => {
            let right = (scores.accuracy * scores.answers as f64).round();
            (
                percent(scores.accuracy),
                vec![format!("of the validation images recognised ({right} of {})", scores.answers)],
            )
        }
        Target::Token => {
            let right = format!("token accuracy {}", percent(scores.accuracy));
            (
                format!("{:.2}", scores.perplexity()),
                vec!["perplexity of the validation data".to_owned(), right],
            )
        }
    };
    if let Some([low, high]) = scores.interval() {
        parts.push(format!("95 % interval {}", interval([low, high])));
    }
    parts.push(match baseline {
        Baseline::MostFrequentClass { accuracy } => format!("{}: {}", baseline.name(), percent(*accuracy)),
        Baseline::BeforeTraining(before) => {
            format!(
                "{}: {:.2}, token accuracy {}",
                baseline.name(),
                before.perplexity(),
                percent(before.accuracy)
            )
        }
    });
    Some(Headline { strong, parts })
}

/// A sentence for each run, with its name where there are several.
fn overfitting(histories: &[History]) -> Vec<String> {
    let several = histories.len() > 1;
    let sentence = |history: &History| {
        let sentence = overfitting::sentence(history);
        if several { format!("{}: {sentence}", history.name) } else { sentence }
    };
    histories.iter().map(sentence).collect()
}

fn rows(report: &RunReport) -> Vec<Row<'_>> {
    let rows = report.rows.iter().map(|row| Row {
        method: &row.method,
        trainable: thousands(row.trainable as u64),
        adapter: bytes(row.adapter_bytes),
        percent: percent(row.accuracy),
        interval: row.accuracy_interval.map(interval),
        perplexity: row.perplexity.map(|perplexity| format!("{perplexity:.2}")),
        seconds: format!("{:.1} s", row.seconds),
    });
    rows.collect()
}

/// `67.0 to 77.2 %`.
fn interval([low, high]: [f64; 2]) -> String {
    format!("{:.1} to {}", 100.0 * low, percent(high))
}

fn class_scores(report: &RunReport) -> Vec<ClassScore<'_>> {
    let scores = report.details.classes.iter().zip(&report.details.confusion).enumerate().map(
        |(class, (name, counts))| {
            let (right, images): (u32, u32) = (counts[class], counts.iter().sum());
            ClassScore { name, right, images, percent: 100.0 * f64::from(right) / f64::from(images.max(1)) }
        },
    );
    scores.collect()
}

fn confused_pairs(report: &RunReport) -> Vec<Pair<'_>> {
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    for (label, counts) in report.details.confusion.iter().enumerate() {
        for (predicted, &images) in counts.iter().enumerate() {
            if label != predicted && images > 0 {
                pairs.push(Pair {
                    label: &report.details.classes[label],
                    predicted: &report.details.classes[predicted],
                    images,
                });
            }
        }
    }
    pairs.sort_by_key(|pair| std::cmp::Reverse(pair.images));
    pairs.truncate(PAIRS);
    pairs
}

fn mistakes(report: &RunReport) -> Vec<Mistake<'_>> {
    let mut order: Vec<&Misclassified> = report.details.misclassified.iter().collect();
    order.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    let shown = order.into_iter().take(MISTAKES).map(|mistake| Mistake {
        png: STANDARD.encode(png(&mistake.image)),
        label: &report.details.classes[mistake.label],
        predicted: &report.details.classes[mistake.predicted],
        percent: format!("{:.0} %", 100.0 * mistake.probability),
        name: &mistake.name,
    });
    shown.collect()
}

fn png(image: &RgbImage) -> Vec<u8> {
    let largest = image.width().max(image.height());
    let scaled = (largest > IMAGE_SIDE).then(|| {
        let side = |side: u32| (side * IMAGE_SIDE / largest).max(1);
        thumbnail(image, side(image.width()), side(image.height()))
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    scaled
        .as_ref()
        .unwrap_or(image)
        .write_to(&mut bytes, ImageFormat::Png)
        .expect("writing into memory does not fail");
    bytes.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_image_is_scaled_down_keeping_its_shape() {
        let image = image::load_from_memory(&png(&RgbImage::new(640, 320))).unwrap();
        assert_eq!((image.width(), image.height()), (160, 80));
    }
}
