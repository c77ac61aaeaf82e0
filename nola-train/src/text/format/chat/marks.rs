//! Marks that say which messages of a row are learned.

use serde_json::Value;

use super::super::fields::Fields;
use super::super::unused::MARKS;
use crate::text::RowProblem;

/// Marks that say which of an answer's words are learned.
const DETAILS: [&str; 2] = ["training_detail", "train_detail"];

/// Whether an answer is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Learned {
    /// It is.
    Yes,
    /// The row takes it out, with a weight of 0 for example.
    No,
}

/// Whether a mark says that an answer is learned; `None` if it says neither.
fn learns(mark: &Value) -> Option<Learned> {
    match mark {
        Value::Bool(true) => Some(Learned::Yes),
        Value::Bool(false) => Some(Learned::No),
        _ => match mark.as_f64() {
            Some(1.0) => Some(Learned::Yes),
            Some(0.0) => Some(Learned::No),
            Some(_) | None => None,
        },
    }
}

/// What the marks of a message say.
pub(super) fn learned(number: usize, role: &str, fields: &Fields) -> Result<Learned, RowProblem> {
    let mut learned = Learned::Yes;
    for field in MARKS.into_iter().chain(DETAILS) {
        let Some(found) = fields.telling(field) else { continue };
        let unsupported =
            |cure| RowProblem::Unsupported { message: number, field, found: found.to_string(), cure };
        let wanted = learns(found).filter(|_| !DETAILS.contains(&field));
        let wanted = wanted
            .ok_or_else(|| unsupported("an answer is learned as a whole or not: 1 or 0, true or false"))?;
        // A weight of 1 is what every message has.
        if wanted == Learned::Yes && role != "assistant" && field != "weight" {
            return Err(unsupported(
                "only answers of the assistant are learned; data.text.loss = \"all\" learns all words",
            ));
        }
        if wanted == Learned::No {
            learned = Learned::No;
        }
    }
    Ok(learned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::TextFormat;
    use super::super::tests::{answers, dialogue};

    #[test]
    fn a_marked_answer_is_not_learned() {
        let left_out = |extra: serde_json::Value| {
            answers(&extra).map(|(format, row)| dialogue(format, row).map(|it| it.left_out))
        };
        for extra in [
            json!({"weight": 0}),
            json!({"weight": 0.0}),
            json!({"train": false}),
            json!({"training": false}),
        ] {
            assert_eq!(left_out(extra), [Ok(vec![2]), Ok(vec![2])]);
        }
        for extra in [json!({"weight": 1}), json!({"train": true}), json!({"training": true, "weight": 1.0})]
        {
            assert_eq!(left_out(extra), [Ok(vec![]), Ok(vec![])]);
        }
        for extra in [
            json!({"weight": 0.5}),
            json!({"weight": "0"}),
            json!({"train": 2}),
            json!({"training_detail": [{"begin_offset": 0, "end_offset": 1, "train": true}]}),
        ] {
            let field = extra.as_object().unwrap().keys().next().unwrap().clone();
            for message in left_out(extra).map(Result::unwrap_err) {
                assert!(message.starts_with(&format!("message 2 has `{field}` = ")), "{message}");
            }
        }
    }

    #[test]
    fn a_question_with_a_weight_of_zero_leaves_no_answer_out() {
        let row = json!({"messages": [
            {"role": "user", "content": "Hi", "weight": 0}, {"role": "assistant", "content": "Yo"},
        ]});
        assert_eq!(dialogue(TextFormat::Chat, row).unwrap().left_out, [0; 0]);
    }

    #[test]
    fn a_question_that_is_to_be_learned_is_refused() {
        let row = json!({"messages": [
            {"role": "user", "content": "Hi", "train": true}, {"role": "assistant", "content": "Yo"},
        ]});
        let message = dialogue(TextFormat::Chat, row).unwrap_err();
        assert!(message.starts_with("message 1 has `train` = true, which is not supported"), "{message}");
    }
}
