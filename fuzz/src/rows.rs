//! Rows of text, in every kind of file.
//!
//! The first line of an input is the name of a format, such as `alpaca`; the file begins behind it.

mod model;

use std::fs;
use std::path::Path;

use nola_train::portion::DataSource;
use nola_train::text::{
    CacheUse, Columns, Loss, OnBadRow, Paint, PromptTemplate, Sample, TextData, TextFormat, TextSettings,
    TextSource, preview, questions, references,
};
use serde_json::Value;

use super::input::{accepted, in_folder, new_folder};
use model::{Bytes, Turns};

const MAX_TOKENS: usize = 64;
/// Samples that are shown of one input.
const MOST_SHOWN: usize = 4;

/// Plain text.
pub fn text(bytes: &[u8]) {
    read("rows.txt", bytes);
}

/// A JSON document.
pub fn json(bytes: &[u8]) {
    read("rows.json", bytes);
}

/// Lines of JSON.
pub fn json_lines(bytes: &[u8]) {
    read("rows.jsonl", bytes);
}

/// Fields between commas.
pub fn csv(bytes: &[u8]) {
    read("rows.csv", bytes);
}

/// Fields between tabs.
pub fn tsv(bytes: &[u8]) {
    read("rows.tsv", bytes);
}

/// Packed lines of JSON.
pub fn packed(bytes: &[u8]) {
    read("rows.jsonl.gz", bytes);
}

/// Columns.
pub fn parquet(bytes: &[u8]) {
    read("rows.parquet", bytes);
}

/// What is written for a format of one's own.
pub fn prompt_template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(template) = PromptTemplate::parse(text) else { return };
    assert_eq!(template.text(), text);
    let row = |name: &&str| ((*name).to_owned(), Value::from("x"));
    let row = template.columns().iter().map(row).collect();
    assert!(template.filled(&row, "data.text.template").is_ok(), "{text:?}");
}

/// A file of tokenised data, whatever is in it, must give the samples that were put there, or be replaced.
pub fn cache(bytes: &[u8]) {
    const ROWS: &[u8] =
        b"{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"cc\", \"completion\": \"dd\"}\n";
    thread_local! {
        static CACHE: tempfile::TempDir = new_folder();
    }
    let folder = CACHE.with(|folder| folder.path().to_owned());
    in_folder(&[("rows.jsonl", Some(ROWS))], |data| {
        let settings = TextSettings { cache: folder.clone(), ..settings() };
        let prepare = || {
            let data = DataSource::whole(&data.join("rows.jsonl"));
            source(&data, TextFormat::PromptCompletion, &settings).prepare().expect("good rows")
        };
        let made = prepare();
        let kept = fs::read_dir(&folder).expect("a folder").next().expect("a file").expect("a file").path();
        let whole = fs::read(&kept).expect("a file");
        fs::write(&kept, bytes).expect("a file in memory");
        let again = prepare();
        assert!(
            bytes == whole || again.cache == CacheUse::Repaired,
            "another file was taken for the samples"
        );
        assert_eq!((again.samples, again.report), (made.samples, made.report));
    });
}

/// The format that the first line names, and what follows it.
fn named(bytes: &[u8]) -> (TextFormat, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let name = Value::from(String::from_utf8_lossy(&bytes[..end]));
    let format = serde_json::from_value(name).unwrap_or(TextFormat::Text);
    (format, bytes.get(end + 1..).unwrap_or_default())
}

fn settings() -> TextSettings {
    let template = |text| PromptTemplate::parse(text).expect("a template");
    TextSettings {
        max_tokens: MAX_TOKENS,
        loss: Loss::Completion,
        on_bad_row: OnBadRow::Skip,
        columns: Columns::default(),
        template: template("Q: {question}"),
        completion: template(" {answer}"),
        ..TextSettings::default()
    }
}

fn source<'a>(data: &'a DataSource, format: TextFormat, settings: &'a TextSettings) -> TextSource<'a> {
    let (embeddings, context) = (model::TOKENS, MAX_TOKENS);
    TextSource { data, format, settings, tokenizer: &Bytes, chat: Some(&Turns), embeddings, context }
}

fn read(name: &str, bytes: &[u8]) {
    let (format, file) = named(bytes);
    in_folder(&[(name, Some(file))], |folder| prepare(&folder.join(name), format, bytes));
}

fn prepare(file: &Path, format: TextFormat, bytes: &[u8]) {
    let (data, settings) = (DataSource::whole(file), settings());
    if let Some(read) = accepted(source(&data, format, &settings).prepare(), bytes) {
        check(&read);
    }
    accepted(references(&data, format, &settings), bytes);
    for question in accepted(questions(file, &settings), bytes).unwrap_or_default() {
        assert!(question.answer < question.choices.len());
    }
}

fn check(data: &TextData) {
    assert!(!data.samples.is_empty());
    for Sample { ids, trained } in &data.samples {
        assert!(!ids.is_empty() && ids.len() <= MAX_TOKENS + 1);
        assert!(ids.iter().all(|id| (*id as usize) < model::TOKENS));
        assert!(trained.iter().all(|range| range.start <= range.end && range.end <= ids.len()));
        assert!(trained.windows(2).all(|pair| pair[0].end <= pair[1].start), "what is learned overlaps");
    }
    for sample in data.samples.iter().take(MOST_SHOWN) {
        let shown = preview(sample, Paint::Plain, &|ids| model::text_of(ids));
        assert!(!shown.contains(|char: char| char.is_control() && !matches!(char, '\n' | '\t')));
    }
}
