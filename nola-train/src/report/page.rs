//! The HTML page; what it looks like is in `page.html`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::ImageFormat;
use image::RgbImage;
use image::imageops::thumbnail;
use minijinja::value::Serde;
use minijinja::{Environment, Value};
use serde::Serialize;

use super::{Continuation, MISTAKES, Misclassified, RunReport};

/// Pairs of confused classes shown at most.
const PAIRS: usize = 8;

/// Longest side of a picture in the page, in pixels; larger ones are scaled down to keep the page small.
const PICTURE_SIDE: u32 = 160;

/// What the template is filled with.
#[derive(Serialize)]
struct Page<'a> {
    title: &'a str,
    facts: &'a [(String, String)],
    recipe: &'a str,
    curves: Option<&'a str>,
    confusion: Option<&'a str>,
    accuracy: Option<String>,
    right: u32,
    pictures: u32,
    rows: Vec<Row<'a>>,
    classes: Vec<ClassScore<'a>>,
    pairs: Vec<Pair<'a>>,
    mistakes: Vec<Mistake<'a>>,
    mistakes_in_all: u32,
    has_perplexity: bool,
    continuations: &'a [Continuation],
}

#[derive(Serialize)]
struct ClassScore<'a> {
    name: &'a str,
    right: u32,
    pictures: u32,
    percent: f64,
}

#[derive(Serialize)]
struct Pair<'a> {
    label: &'a str,
    predicted: &'a str,
    pictures: u32,
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
    perplexity: Option<String>,
    seconds: String,
}

/// Fills the template; the two plots are put into it as they are.
pub(super) fn render(report: &RunReport, curves: &str, confusion: Option<&str>) -> String {
    let mut environment = Environment::new();
    environment
        .add_template("page.html", include_str!("page.html"))
        .expect("the template is part of the program");
    let template = environment.get_template("page.html").expect("it was just added");
    let right: u32 = report.details.confusion.iter().enumerate().map(|(class, counts)| counts[class]).sum();
    let pictures: u32 = report.details.confusion.iter().flatten().sum();
    let page = Page {
        title: &report.title,
        facts: &report.facts,
        recipe: &report.recipe_toml,
        curves: (!report.histories.is_empty()).then_some(curves),
        confusion,
        accuracy: (pictures > 0).then(|| percent(f64::from(right) / f64::from(pictures))),
        right,
        pictures,
        rows: rows(report),
        classes: class_scores(report),
        pairs: confused_pairs(report),
        mistakes: mistakes(report),
        mistakes_in_all: pictures - right,
        has_perplexity: report.rows.iter().any(|row| row.perplexity.is_some()),
        continuations: &report.details.continuations,
    };
    template.render(Value::from(Serde(page))).expect("the template uses only what it is given")
}

fn rows(report: &RunReport) -> Vec<Row<'_>> {
    let rows = report.rows.iter().map(|row| Row {
        method: &row.method,
        trainable: thousands(row.trainable as u64),
        adapter: bytes(row.adapter_bytes),
        percent: percent(row.accuracy),
        perplexity: row.perplexity.map(|perplexity| format!("{perplexity:.2}")),
        seconds: format!("{:.1}", row.seconds),
    });
    rows.collect()
}

fn class_scores(report: &RunReport) -> Vec<ClassScore<'_>> {
    let scores = report.details.classes.iter().zip(&report.details.confusion).enumerate().map(
        |(class, (name, counts))| {
            let (right, pictures): (u32, u32) = (counts[class], counts.iter().sum());
            ClassScore {
                name,
                right,
                pictures,
                percent: 100.0 * f64::from(right) / f64::from(pictures.max(1)),
            }
        },
    );
    scores.collect()
}

fn confused_pairs(report: &RunReport) -> Vec<Pair<'_>> {
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    for (label, counts) in report.details.confusion.iter().enumerate() {
        for (predicted, &pictures) in counts.iter().enumerate() {
            if label != predicted && pictures > 0 {
                pairs.push(Pair {
                    label: &report.details.classes[label],
                    predicted: &report.details.classes[predicted],
                    pictures,
                });
            }
        }
    }
    pairs.sort_by_key(|pair| std::cmp::Reverse(pair.pictures));
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
    let scaled = (largest > PICTURE_SIDE).then(|| {
        let side = |side: u32| (side * PICTURE_SIDE / largest).max(1);
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

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// `1234567` as `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in the largest unit that keeps it above one.
fn bytes(size: u64) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..1_048_576 => format!("{:.1} KiB", size as f64 / 1024.0),
        1_048_576.. => format!("{:.1} MiB", size as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1234567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn sizes_have_a_unit_that_fits() {
        assert_eq!([1023, 1536, 3 << 20].map(bytes), ["1023 B", "1.5 KiB", "3.0 MiB"]);
    }

    #[test]
    fn a_large_picture_is_scaled_down_keeping_its_shape() {
        let image = image::load_from_memory(&png(&RgbImage::new(640, 320))).unwrap();
        assert_eq!((image.width(), image.height()), (160, 80));
    }
}
