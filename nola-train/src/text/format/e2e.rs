//! The E2E NLG Challenge (Novikova et al. 2017), in the two forms in which it is passed around.

use super::fields::Fields;
use super::{Pair, Separator};
use crate::text::RowProblem;

/// A line `context||completion`, the form of LoRA's and NOLA's GPT-2 code.
pub fn line(line: &str) -> Result<Pair, RowProblem> {
    let (context, completion) = line.trim().split_once("||").ok_or(RowProblem::NoSeparator)?;
    Ok(Pair::new(context, completion, Separator::EndAndSpace))
}

/// A row of the published CSV; its meaning representation is rewritten as the context of the other form.
pub fn record(fields: &Fields) -> Result<Pair, RowProblem> {
    Ok(Pair::new(context(fields.text("mr")?)?, fields.text("ref")?.trim(), Separator::EndAndSpace))
}

/// `name[The Vaults], eatType[pub]` as `name : The Vaults | Type : pub`.
fn context(meaning: &str) -> Result<String, RowProblem> {
    let mut slots = Vec::new();
    let mut rest = meaning.trim();
    while !rest.is_empty() {
        let wrong = || RowProblem::Meaning(rest.to_owned());
        let (slot, after) = rest.split_once(']').ok_or_else(wrong)?;
        let (name, value) = slot.split_once('[').ok_or_else(wrong)?;
        slots.push(format!("{} : {}", slot_name(name.trim()), spaced(value.trim())));
        rest = after.trim_start_matches([',', ' ']);
    }
    if slots.is_empty() {
        return Err(RowProblem::Meaning(meaning.to_owned()));
    }
    Ok(slots.join(" | "))
}

fn slot_name(name: &str) -> &str {
    match name {
        "eatType" => "Type",
        "priceRange" => "price",
        "familyFriendly" => "family friendly",
        other => other,
    }
}

/// Prices as the other form has them: `£20-25` is `£ 20 - 25`.
fn spaced(value: &str) -> String {
    let apart = value.replace('£', " £ ").replace('-', " - ");
    apart.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::convert;
    use super::super::{Example, TextFormat};
    use super::*;
    use crate::shared::shared;

    #[test]
    fn a_line_is_context_and_completion() {
        let expected = Pair::new("name : A | area : b", "A is in b .", Separator::EndAndSpace);
        assert_eq!(line("name : A | area : b||A is in b . ").unwrap(), expected);
    }

    #[test]
    fn a_line_without_separator_says_so() {
        assert_eq!(line("name : A").unwrap_err().to_string(), "no `||` between context and completion");
    }

    #[test]
    fn a_meaning_becomes_a_context() {
        let row = json!({"mr": "name[The Eagle], priceRange[£20-25], near[Café Rouge]", "ref": " Nice. "});
        let expected = "name : The Eagle | price : £ 20 - 25 | near : Café Rouge";
        let pair = Example::Pair(Pair::new(expected, "Nice.", Separator::EndAndSpace));
        assert_eq!(convert(TextFormat::E2e, row).unwrap(), [pair]);
    }

    #[test]
    fn a_broken_meaning_is_shown_from_where_it_breaks() {
        let message = convert(TextFormat::E2e, json!({"mr": "name[A], area", "ref": "x"})).unwrap_err();
        assert!(message.ends_with("at `area`"), "{message}");
    }

    #[test]
    fn both_published_forms_give_the_same_contexts() {
        let Some(folder) = shared("assets/text/e2e") else { return };
        for (table, lines, rows) in
            [("devset.csv", "valid.txt", 4672), ("testset_w_refs.csv", "test.txt", 4693)]
        {
            let lines = std::fs::read_to_string(folder.join(lines)).unwrap();
            let expected: Vec<String> = lines.lines().map(|text| line(text).unwrap().prompt).collect();
            let mut table = csv::Reader::from_path(folder.join(table)).unwrap();
            let contexts: Vec<String> =
                table.records().map(|record| context(&record.unwrap()[0]).unwrap()).collect();
            assert_eq!(contexts.len(), rows);
            assert_eq!(contexts, expected);
        }
    }
}
