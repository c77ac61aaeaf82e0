//! Multiple choice: questions, and the prompts in which they are put to a model.
//!
//! # Source
//! The prompts are those of the MMLU authors' code (Hendrycks et al. 2021): a header with the subject, examples with
//! their answers, the question, and `Answer:`.

use std::path::Path;

use serde_json::Value;

use super::collect::Rows;
use super::format::Fields;
use super::read::{Content, PlainText, UsedColumns, type_of};
use super::{RowProblem, TextError, TextSettings};
use crate::portion::DataSource;

/// Fields that a row may have.
const FIELDS: [&str; 6] = ["subject", "input", "output", "question", "choices", "answer"];

/// A question as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What it is about; empty if the file does not say.
    pub subject: String,
    /// The question with its lettered choices; ends with `Answer:`.
    pub text: String,
    /// The letters of the choices.
    pub choices: Vec<String>,
    /// Which of them is right, from 0.
    pub answer: usize,
}

/// A question as it is put to a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What it is about.
    pub subject: String,
    /// What the model is given; the answer follows it after a space.
    pub prompt: String,
    /// The letters of which the model is to find the right one most likely.
    pub choices: Vec<String>,
    /// Which of them is right, from 0.
    pub answer: usize,
}

/// Reads questions: rows with `question`, a list of `choices` and the `answer` as letter or index, or MMLU rows with the
/// whole question as `input` and the letter as `output`; both with an optional `subject`.
///
/// # Errors
/// If a file cannot be read, or rows are bad and are not to be skipped.
pub fn questions(path: &Path, settings: &TextSettings) -> Result<Vec<Question>, TextError> {
    let columns = UsedColumns::named(FIELDS);
    Rows::of(&DataSource::whole(path), PlainText::Refused, columns, settings)?.all(question)
}

/// Puts each question after the first `shots` examples of its subject, with their answers; 0: none.
///
/// # Errors
/// If there are fewer.
pub fn choices(
    questions: &[Question],
    examples: &[Question],
    shots: usize,
) -> Result<Vec<Choice>, TextError> {
    questions.iter().map(|question| put(question, examples, shots)).collect()
}

fn put(question: &Question, examples: &[Question], shots: usize) -> Result<Choice, TextError> {
    let Question { subject, text, choices, answer } = question.clone();
    let mut prompt = header(&subject);
    let own = examples.iter().filter(|example| example.subject == subject).take(shots);
    let mut found = 0;
    for example in own {
        prompt.push_str(&format!("{} {}\n\n", example.text, example.choices[example.answer]));
        found += 1;
    }
    if found < shots {
        return Err(TextError::TooFewShots { subject, found, wanted: shots });
    }
    prompt.push_str(&text);
    Ok(Choice { subject, prompt, choices, answer })
}

/// The first line of a prompt; the two spaces are those of the authors' code.
fn header(subject: &str) -> String {
    if subject.is_empty() {
        return "The following are multiple choice questions (with answers).\n\n".to_owned();
    }
    let subject = subject.replace('_', " ");
    format!("The following are multiple choice questions (with answers) about  {subject}.\n\n")
}

fn question(content: Content) -> Result<Question, RowProblem> {
    let fields = match content {
        Content::Record(fields) => fields,
        Content::Text(_) | Content::More(_) => return Err(RowProblem::NotAnObject { found: "text" }),
    };
    let fields = Fields(&fields);
    let subject = fields.text_or_empty("subject")?.to_owned();
    if fields.0.contains_key("input") { written_out(&fields, subject) } else { in_parts(&fields, subject) }
}

/// A row whose `input` is the question as it is put.
fn written_out(fields: &Fields, subject: String) -> Result<Question, RowProblem> {
    let input = fields.text("input")?.trim_end();
    let text = input.strip_prefix(&header(&subject)).unwrap_or(input).to_owned();
    if !text.ends_with("Answer:") {
        return Err(RowProblem::Form { field: "input", expected: "end with `Answer:`" });
    }
    let count = letters(26).iter().take_while(|letter| text.contains(&format!("\n{letter}. "))).count();
    let choices = checked_letters(count)?;
    let answer = answer(fields, "output", count)?;
    Ok(Question { subject, text, choices, answer })
}

/// A row with `question`, `choices` and `answer`.
fn in_parts(fields: &Fields, subject: String) -> Result<Question, RowProblem> {
    let mut text = fields.text("question")?.to_owned();
    let parts = fields.list("choices")?;
    let choices = checked_letters(parts.len())?;
    for (letter, part) in choices.iter().zip(parts) {
        let wrong = || RowProblem::WrongType {
            field: "choices".to_owned(),
            found: type_of(part),
            expected: "a list of text",
        };
        text.push_str(&format!("\n{letter}. {}", part.as_str().ok_or_else(wrong)?));
    }
    text.push_str("\nAnswer:");
    let answer = answer(fields, "answer", parts.len())?;
    Ok(Question { subject, text, choices, answer })
}

/// An index from 0, as number or digits, or a letter.
fn answer(fields: &Fields, field: &str, choices: usize) -> Result<usize, RowProblem> {
    let value = fields.value(field)?;
    let index = match value {
        Value::String(text) => {
            let text = text.trim();
            letters(choices).iter().position(|letter| letter == text).or_else(|| text.parse().ok())
        }
        other => other.as_u64().map(|index| index as usize),
    };
    let wrong = || RowProblem::Answer { answer: value.to_string(), choices };
    index.filter(|&index| index < choices).ok_or_else(wrong)
}

fn checked_letters(count: usize) -> Result<Vec<String>, RowProblem> {
    if (2..=26).contains(&count) { Ok(letters(count)) } else { Err(RowProblem::Choices(count)) }
}

fn letters(count: usize) -> Vec<String> {
    ('A'..='Z').take(count).map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::shared::shared;

    fn convert(row: Value) -> Result<Question, String> {
        let Value::Object(fields) = row else { panic!("not an object") };
        question(Content::Record(fields)).map_err(|problem| problem.to_string())
    }

    fn parts(answer: Value) -> Value {
        json!({"subject": "high_school_physics", "question": "2 + 2?", "choices": ["3", "4"], "answer": answer})
    }

    #[test]
    fn parts_are_put_together_as_mmlu_does() {
        let question = convert(parts(json!(1))).unwrap();
        assert_eq!(question.text, "2 + 2?\nA. 3\nB. 4\nAnswer:");
        assert_eq!(question.choices, ["A", "B"]);
    }

    #[test]
    fn an_answer_is_a_letter_or_an_index() {
        for answer in [json!(1), json!("B"), json!("1"), json!(" B ")] {
            assert_eq!(convert(parts(answer)).unwrap().answer, 1);
        }
    }

    #[test]
    fn an_answer_that_is_no_choice_is_refused() {
        for answer in [json!(2), json!("C"), json!(-1), json!(null), json!("both"), json!(0.5)] {
            let message = convert(parts(answer)).unwrap_err();
            assert!(message.contains("of one of 2 choices"), "{message}");
        }
    }

    #[test]
    fn a_single_choice_is_refused() {
        let row = json!({"question": "?", "choices": ["a"], "answer": 0});
        assert_eq!(convert(row).unwrap_err(), "1 choices; expected 2 to 26");
    }

    #[test]
    fn shots_come_before_the_question_with_their_answers() {
        let examples = [convert(parts(json!(1))).unwrap(), convert(parts(json!(0))).unwrap()];
        let mut question = examples[0].clone();
        question.text = "Q?\nA. x\nB. y\nAnswer:".to_owned();
        let choice = choices(&[question], &examples, 2).unwrap().remove(0);
        assert_eq!(
            choice.prompt,
            "The following are multiple choice questions (with answers) about  high school physics.\n\n\
             2 + 2?\nA. 3\nB. 4\nAnswer: B\n\n2 + 2?\nA. 3\nB. 4\nAnswer: A\n\nQ?\nA. x\nB. y\nAnswer:"
        );
    }

    #[test]
    fn too_few_examples_of_a_subject_are_an_error() {
        let question = convert(parts(json!(1))).unwrap();
        let other = Question { subject: "law".to_owned(), ..question.clone() };
        let message = choices(&[other], &[question], 1).unwrap_err().to_string();
        assert_eq!(message, "subject `law` has 0 examples; 1 shots need as many");
    }

    #[test]
    fn zero_shots_of_the_published_rows_give_their_inputs_back() {
        let Some(file) = shared("assets/text/mmlu/zero_shot_mmlu_val.json") else { return };
        let text = std::fs::read_to_string(&file).unwrap();
        let questions = questions(&file, &TextSettings::default()).unwrap();
        let choices = choices(&questions, &[], 0).unwrap();
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((choices.len(), rows.len()), (1531, 1531));
        for (choice, row) in choices.iter().zip(&rows) {
            assert_eq!(choice.prompt, row["input"].as_str().unwrap().trim_end());
            assert_eq!(choice.choices, ["A", "B", "C", "D"]);
            assert_eq!(choice.choices[choice.answer], row["output"].as_str().unwrap());
        }
    }
}
