//! Sets of triples with sentences that say them: DART (Nan et al. 2021) and WebNLG (Gardent et al. 2017), as published.
//!
//! # Source
//! The form of the contexts is that of LoRA's GPT-2 code, which NOLA took over.

use serde_json::Value;

use super::fields::Fields;
use super::{Pair, Part, Separator};
use crate::text::RowProblem;
use crate::text::read::type_of;

/// Categories of WebNLG 2017's training data.
const SEEN: [&str; 10] = [
    "Airport",
    "Astronaut",
    "Building",
    "City",
    "ComicsCharacter",
    "Food",
    "Monument",
    "SportsTeam",
    "University",
    "WrittenWork",
];

/// One pair for each annotation; relations are lower-cased.
pub fn dart(fields: &Fields) -> Result<Vec<Pair>, RowProblem> {
    let triples = fields.list("tripleset")?.iter().map(dart_triple).collect::<Result<Vec<_>, _>>()?;
    let context = triples.join(" | ");
    let pair =
        |annotation: Fields| Ok(Pair::new(context.clone(), annotation.text("text")?, Separator::EndAndSpace));
    fields.objects("annotations")?.into_iter().map(pair).collect()
}

fn dart_triple(triple: &Value) -> Result<String, RowProblem> {
    let parts: Option<Vec<&str>> =
        triple.as_array().map(|parts| parts.iter().filter_map(Value::as_str).collect());
    match parts.as_deref() {
        Some(&[subject, relation, object]) => {
            Ok(format!("{subject} : {} : {object}", relation.to_lowercase()))
        }
        Some(_) | None => Err(RowProblem::WrongType {
            field: "tripleset".to_owned(),
            found: type_of(triple),
            expected: "a list of triples of text",
        }),
    }
}

/// One pair for each lexicalisation that was found good.
pub fn webnlg(fields: &Fields) -> Result<Vec<Pair>, RowProblem> {
    let entry = entry(fields)?;
    let triples = entry.objects("modifiedtripleset")?;
    let triples = triples.iter().map(webnlg_triple).collect::<Result<Vec<_>, _>>()?;
    let context = triples.join(" | ");
    let part = if SEEN.contains(&entry.text("category")?) { Part::Seen } else { Part::Unseen };
    let mut pairs = Vec::new();
    for sentence in entry.objects("lexicalisations")? {
        if sentence.text("comment")? == "good" {
            let pair = Pair::new(context.clone(), sentence.text("lex")?, Separator::EndAndSpace);
            pairs.push(Pair { part, ..pair });
        }
    }
    Ok(pairs)
}

/// An entry is published as an object whose only field is named by its number.
fn entry<'a>(fields: &Fields<'a>) -> Result<Fields<'a>, RowProblem> {
    match fields.0.iter().next() {
        Some((_, Value::Object(entry))) if fields.0.len() == 1 => Ok(Fields(entry)),
        Some(_) | None => Ok(Fields(fields.0)),
    }
}

fn webnlg_triple(triple: &Fields) -> Result<String, RowProblem> {
    let [subject, property, object] = ["subject", "property", "object"].map(|field| triple.text(field));
    Ok(format!("{} : {} : {}", subject?, property?, object?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::convert;
    use super::super::{Example, TextFormat};
    use super::*;

    fn pairs(format: TextFormat, row: Value) -> Vec<Pair> {
        let pair = |example| match example {
            Example::Pair(pair) => pair,
            other => panic!("{other:?}"),
        };
        convert(format, row).unwrap().into_iter().map(pair).collect()
    }

    #[test]
    fn dart_joins_triples_and_lower_cases_relations() {
        let row = json!({
            "tripleset": [["Mars Hill", "JOINED", "1973"], ["Mars Hill", "In_Place", "North Carolina"]],
            "subtree_was_extended": true,
            "annotations": [{"source": "x", "text": "One."}, {"source": "y", "text": "Two."}],
        });
        let pairs = pairs(TextFormat::Dart, row);
        assert_eq!(pairs[0].prompt, "Mars Hill : joined : 1973 | Mars Hill : in_place : North Carolina");
        assert_eq!(pairs.iter().map(|pair| pair.completion.as_str()).collect::<Vec<_>>(), ["One.", "Two."]);
    }

    #[test]
    fn a_triple_of_two_is_refused() {
        let row = json!({"tripleset": [["a", "b"]], "annotations": []});
        let message = convert(TextFormat::Dart, row).unwrap_err();
        assert_eq!(message, "`tripleset` is a list; expected a list of triples of text");
    }

    fn webnlg_row(category: &str) -> Value {
        json!({"7": {
            "category": category,
            "modifiedtripleset": [
                {"subject": "Aarhus_Airport", "property": "runwayLength", "object": "2702.0"},
                {"subject": "Aarhus", "property": "leaderName", "object": "Jacob_Bundsgaard"},
            ],
            "lexicalisations": [
                {"comment": "good", "lex": "One.", "xml_id": "Id1"},
                {"comment": "toFix", "lex": "Two.", "xml_id": "Id2"},
            ],
        }})
    }

    #[test]
    fn webnlg_keeps_good_sentences_and_the_case_of_relations() {
        let pairs = pairs(TextFormat::WebNlg, webnlg_row("Airport"));
        let expected = "Aarhus_Airport : runwayLength : 2702.0 | Aarhus : leaderName : Jacob_Bundsgaard";
        let pair = Pair::new(expected, "One.", Separator::EndAndSpace);
        assert_eq!(pairs, [Pair { part: Part::Seen, ..pair }]);
    }

    #[test]
    fn a_category_outside_the_training_data_is_unseen() {
        assert_eq!(pairs(TextFormat::WebNlg, webnlg_row("Athlete"))[0].part, Part::Unseen);
    }

    #[test]
    fn an_entry_without_triples_names_the_field() {
        let message = convert(TextFormat::WebNlg, json!({"1": {"category": "Food"}})).unwrap_err();
        assert!(message.starts_with("no field `modifiedtripleset`; the row has category"), "{message}");
    }
}
