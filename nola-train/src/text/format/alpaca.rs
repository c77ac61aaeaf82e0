//! Instructions with answers, in the prompt of Stanford Alpaca (Taori et al. 2023).

use super::fields::Fields;
use super::{Pair, Separator};
use crate::text::RowProblem;

/// The pair of a row with `instruction`, `output` and, often empty or absent, `input`.
pub fn pair(fields: &Fields) -> Result<Pair, RowProblem> {
    let (instruction, output) = (fields.text("instruction")?, fields.text("output")?);
    Ok(Pair::new(prompt(instruction, fields.text_or_empty("input")?), output, Separator::None))
}

/// The prompt for an instruction; an empty `input` has a prompt of its own.
pub fn prompt(instruction: &str, input: &str) -> String {
    if input.is_empty() {
        return format!(
            "Below is an instruction that describes a task. Write a response that appropriately completes the \
             request.\n\n### Instruction:\n{instruction}\n\n### Response:"
        );
    }
    format!(
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
         response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n\
         ### Input:\n{input}\n\n### Response:"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::convert;
    use super::super::{Example, TextFormat};
    use crate::shared::shared;

    fn prompt_of(row: Value) -> String {
        match convert(TextFormat::Alpaca, row).unwrap().remove(0) {
            Example::Pair(pair) => pair.prompt,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_absent_input_is_an_empty_one() {
        let absent = prompt_of(json!({"instruction": "Sing.", "output": "La."}));
        for input in [json!(""), json!(null)] {
            assert_eq!(prompt_of(json!({"instruction": "Sing.", "input": input, "output": "La."})), absent);
        }
        assert!(absent.ends_with("### Instruction:\nSing.\n\n### Response:"), "{absent}");
    }

    #[test]
    fn what_the_prompt_has_no_place_for_is_refused_by_name() {
        let row = |field: &str, value: Value| {
            let mut row = json!({"instruction": "and?", "input": "", "output": "blue"});
            row[field] = value;
            convert(TextFormat::Alpaca, row)
        };
        for (field, value) in [
            ("history", json!([["the first?", "red"]])),
            ("history", json!([["a", "b"], ["c", "d"]])),
            ("system", json!("be brief")),
            ("tools", json!("[{}]")),
            ("images", json!(["a.png"])),
        ] {
            let message = row(field, value).unwrap_err();
            assert!(
                message.starts_with(&format!("the row has `{field}`, which is not supported")),
                "{message}"
            );
        }
        for (field, nothing) in [("history", json!([])), ("history", json!(null)), ("system", json!(""))] {
            assert!(row(field, nothing).is_ok());
        }
    }

    #[test]
    fn an_input_stands_between_instruction_and_response() {
        let prompt = prompt_of(json!({"instruction": "Sing.", "input": "A song", "output": "La."}));
        assert!(
            prompt.ends_with("### Instruction:\nSing.\n\n### Input:\nA song\n\n### Response:"),
            "{prompt}"
        );
    }

    #[test]
    fn prompts_are_those_of_a_published_copy() {
        let Some(file) = shared("assets/text/alpaca/alpaca_tiny.json") else { return };
        let text = std::fs::read_to_string(file).unwrap();
        let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(rows.len(), 100);
        for row in rows {
            let expected = row["text"].as_str().unwrap();
            let prompt = prompt_of(row.clone());
            assert!(expected.starts_with(&prompt), "{prompt}\n---\n{expected}");
        }
    }
}
