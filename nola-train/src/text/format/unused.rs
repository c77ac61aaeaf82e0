//! What a row says beside what its format reads: refused where it would change what is learned, else named.

use serde_json::Value;

use super::fields::Fields;
use crate::text::{RowProblem, TextFormat, TextSettings};

/// Marks that say whether a row or an answer is learned.
pub(super) const MARKS: [&str; 5] = ["weight", "train", "training", "loss", "loss_mask"];

const AS_CONVERSATION: &str = "the prompt of this form has no place for it; write the row as a conversation (`messages`, \
                               format `chat`)";
const NO_MEDIA: &str = "a model of text cannot see or hear it; leave the field out, or the row";

/// Fields that change what the others mean, and that a table of prompts and completions has no other use for.
const CONTEXT: [&str; 5] = ["history", "system", "system_prompt", "tools", "functions"];
/// What other trainers add to the form of Alpaca.
const ADDED: [&str; 4] = ["function_call", "thinking", "reasoning", "reasoning_content"];
const MEDIA: [&str; 4] = ["image", "images", "videos", "audios"];

/// The names of the fields of a row that say something and that its format does not read.
///
/// # Errors
/// If one of them would change what is learned.
pub(super) fn unused(
    format: TextFormat,
    row: &Fields,
    settings: &TextSettings,
) -> Result<Vec<String>, RowProblem> {
    let Some(read) = read_by(format, settings) else { return Ok(Vec::new()) };
    let others = row.0.keys().filter(|key| !read.contains(&key.as_str()) && row.telling(key).is_some());
    let mut unused = Vec::new();
    for key in others {
        if let Some(&field) = MARKS.iter().find(|mark| **mark == key.as_str()) {
            if check_mark(format, field, &row.0[key])? == Mark::Other {
                unused.push(key.clone());
            }
            continue;
        }
        if let Some((field, cure)) = refused(format, key) {
            return Err(RowProblem::UnsupportedField { field, cure });
        }
        unused.push(key.clone());
    }
    Ok(unused)
}

/// All fields whose values matter: those that a format reads, and those that may not be there; `None` if all may.
pub(super) fn looked_at(format: TextFormat, settings: &TextSettings) -> Option<Vec<&str>> {
    let checked = [&MARKS[..], &CONTEXT, &ADDED, &MEDIA].concat();
    Some(read_by(format, settings)?.into_iter().chain(checked).collect())
}

/// The fields that a format reads, and those of its published data that say nothing to learn; `None` if it is known as a whole.
fn read_by(format: TextFormat, settings: &TextSettings) -> Option<Vec<&str>> {
    let columns = &settings.columns;
    match format {
        TextFormat::Template => Some([settings.template.columns(), settings.completion.columns()].concat()),
        TextFormat::Text => Some(vec![columns.text.as_str()]),
        TextFormat::PromptCompletion => Some(vec![columns.prompt.as_str(), columns.completion.as_str()]),
        TextFormat::Alpaca => Some(vec!["instruction", "input", "output", "text"]),
        TextFormat::ShareGpt => {
            Some(vec!["conversations", "system", "tools", "documents", "chat_template_kwargs"])
        }
        TextFormat::Chat => Some(vec!["messages", "system", "tools", "documents", "chat_template_kwargs"]),
        TextFormat::E2e => Some(vec!["mr", "ref", "fixed", "orig_mr"]),
        TextFormat::Dart | TextFormat::WebNlg => None,
    }
}

/// The field with its cure, if a row of a format may not have it.
fn refused(format: TextFormat, key: &str) -> Option<(&'static str, &'static str)> {
    let among = |fields: &[&'static str], cure| {
        fields.iter().find(|field| **field == key).map(|field| (*field, cure))
    };
    match format {
        TextFormat::Text | TextFormat::Template | TextFormat::E2e | TextFormat::Dart | TextFormat::WebNlg => {
            None
        }
        TextFormat::PromptCompletion => among(&CONTEXT, AS_CONVERSATION),
        TextFormat::Alpaca => {
            among(&CONTEXT, AS_CONVERSATION).or(among(&ADDED, AS_CONVERSATION)).or(among(&MEDIA, NO_MEDIA))
        }
        TextFormat::ShareGpt | TextFormat::Chat => {
            among(&["functions"], "write each as `tools`: {\"type\": \"function\", \"function\": ...}")
                .or(among(&["system_prompt"], "call it `system`"))
                .or(among(&["history"], "write its turns as messages"))
                .or(among(&MEDIA, NO_MEDIA))
        }
    }
}

/// What a mark of a whole row is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// It says that the row is learned as every other.
    Learned,
    /// It is no mark, but a column of that name.
    Other,
}

/// Refuses a row of which a mark says that it is not learned as others are.
fn check_mark(format: TextFormat, field: &'static str, value: &Value) -> Result<Mark, RowProblem> {
    let weight = match value {
        Value::Bool(learned) => Some(f64::from(u8::from(*learned))),
        Value::String(text) => text.trim().to_ascii_lowercase().parse().ok().or_else(|| word(text)),
        other => other.as_f64(),
    };
    let is_weight = |weight: &f64| match field {
        "weight" => (0.0..=1.0).contains(weight),
        _ => [0.0, 1.0].contains(weight),
    };
    match weight.filter(is_weight) {
        Some(1.0) => Ok(Mark::Learned),
        None if !format.is_conversation() => Ok(Mark::Other),
        None | Some(_) => {
            let cure = if format.is_conversation() {
                "mark each answer that is not to be learned, or leave the row out"
            } else {
                "leave the row out, or give the field another name"
            };
            Err(RowProblem::UnsupportedField { field, cure })
        }
    }
}

fn word(text: &str) -> Option<f64> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" => Some(1.0),
        "false" => Some(0.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{convert, converted};
    use super::*;
    use crate::text::Note;

    /// A row of a format with one field more.
    fn row(format: TextFormat, field: &str, value: Value) -> Value {
        let mut row = match format {
            TextFormat::Text => json!({"text": "a"}),
            TextFormat::PromptCompletion => json!({"prompt": "a", "completion": "b"}),
            TextFormat::Template => unreachable!("its fields are what its template says"),
            TextFormat::Alpaca => json!({"instruction": "a", "output": "b", "text": "whole"}),
            TextFormat::ShareGpt => json!({"conversations": [{"from": "gpt", "value": "a"}]}),
            TextFormat::Chat => json!({"messages": [{"role": "assistant", "content": "a"}]}),
            TextFormat::E2e => json!({"mr": "name[A]", "ref": "a"}),
            TextFormat::Dart => json!({"tripleset": [["a", "b", "c"]], "annotations": []}),
            TextFormat::WebNlg => {
                json!({"category": "Food", "modifiedtripleset": [], "lexicalisations": []})
            }
        };
        row[field] = value;
        row
    }

    /// The fields of a row that are named as not used.
    fn named(format: TextFormat, row: Value) -> Vec<String> {
        let notes = converted(format, row).unwrap().notes.into_iter();
        notes.filter(|(note, _)| *note == Note::Unused).map(|(_, field)| field).collect()
    }

    const NAMED: [TextFormat; 6] = [
        TextFormat::Text,
        TextFormat::PromptCompletion,
        TextFormat::Alpaca,
        TextFormat::ShareGpt,
        TextFormat::Chat,
        TextFormat::E2e,
    ];

    #[test]
    fn every_field_that_a_format_does_not_read_is_named() {
        for format in NAMED {
            for (field, value) in [("id", json!(7)), ("label", json!(false)), ("chosen", json!("x"))] {
                assert_eq!(named(format, row(format, field, value)), [field], "{format}");
            }
            for nothing in [json!(null), json!(""), json!([]), json!({})] {
                assert_eq!(named(format, row(format, "id", nothing)), [""; 0]);
            }
        }
        let published = row(TextFormat::Dart, "subtree_was_extended", json!(true));
        assert_eq!(named(TextFormat::Dart, published), [""; 0]);
    }

    #[test]
    fn what_would_change_what_is_learned_is_refused_by_name() {
        for (format, fields) in [
            (TextFormat::PromptCompletion, vec!["system", "history", "tools", "functions", "system_prompt"]),
            (TextFormat::Alpaca, vec!["system", "history", "tools", "images", "reasoning_content"]),
            (TextFormat::ShareGpt, vec!["functions", "history", "images", "system_prompt"]),
            (TextFormat::Chat, vec!["functions", "history", "audios", "videos"]),
        ] {
            for field in fields {
                let message = convert(format, row(format, field, json!(["x"]))).unwrap_err();
                let expected = format!("the row has `{field}`, which is not supported; ");
                assert!(message.starts_with(&expected), "{format}: {message}");
                assert!(convert(format, row(format, field, json!([]))).is_ok());
            }
        }
    }

    #[test]
    fn a_row_that_a_mark_takes_out_is_refused_in_every_format() {
        for format in NAMED {
            for (field, off) in [
                ("weight", json!(0)),
                ("weight", json!(0.5)),
                ("weight", json!("0")),
                ("train", json!(false)),
                ("training", json!("False")),
                ("loss_mask", json!(0)),
            ] {
                let message = convert(format, row(format, field, off)).unwrap_err();
                assert!(message.starts_with(&format!("the row has `{field}`")), "{format}: {message}");
            }
            for on in [json!(1), json!(1.0), json!("1"), json!("True"), json!(true), json!(null)] {
                for mark in MARKS {
                    assert_eq!(named(format, row(format, mark, on.clone())), [""; 0], "{format}");
                }
            }
        }
    }

    #[test]
    fn a_column_of_weights_in_grams_is_no_mark() {
        for (field, value) in [("weight", json!(75.5)), ("weight", json!("2 kg")), ("loss", json!(0.35))] {
            for format in [TextFormat::Text, TextFormat::PromptCompletion, TextFormat::Alpaca] {
                assert_eq!(named(format, row(format, field, value.clone())), [field]);
            }
        }
    }
}
