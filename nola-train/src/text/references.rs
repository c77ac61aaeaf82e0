//! Prompts with everything that was a right answer to them, for scoring generated text.

use std::collections::HashMap;

use super::collect::Rows;
use super::{Example, Pair, Part, Separator, TextError, TextFormat, TextReport, TextSettings};
use crate::portion::DataSource;

/// A prompt and its right answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct References {
    /// What the model is given.
    pub prompt: String,
    /// What stands between prompt and answer.
    pub joint: Separator,
    /// Part of the data set.
    pub part: Part,
    /// The right answers, in the order of the rows.
    pub references: Vec<String>,
}

impl References {
    /// The first of the answers as an example, from which prompt tokens can be made.
    pub fn pair(&self) -> Pair {
        let Self { prompt, joint, part, references } = self;
        let completion = references.first().cloned().unwrap_or_default();
        Pair { prompt: prompt.clone(), completion, joint: *joint, part: *part }
    }
}

/// The prompts of a data set in the order in which they come first, each once.
///
/// # Errors
/// If its rows are documents or conversations, a file cannot be read, rows are bad and are not to be skipped, or there is no prompt.
pub fn references(
    data: &DataSource,
    format: TextFormat,
    settings: &TextSettings,
) -> Result<Vec<References>, TextError> {
    if format.is_conversation() || format == TextFormat::Text {
        return Err(TextError::NoPrompts { path: data.name.clone(), format });
    }
    let rows = Rows::of(data, format.plain_text(), format.columns(settings)?, settings)?;
    let examples = rows.all(|content| Ok(format.converted(content, settings, None)?.examples))?;
    let count = examples.len();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<References> = Vec::new();
    for example in examples.into_iter().flatten() {
        let Example::Pair(Pair { prompt, completion, joint, part }) = example else { continue };
        let place = *places.entry(prompt.clone()).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.references.push(completion),
            None => groups.push(References { prompt, joint, part, references: vec![completion] }),
        }
    }
    if groups.is_empty() {
        let report = TextReport { rows: count, ..TextReport::default() };
        let (path, reasons) = (data.name.clone(), report.reasons(settings.max_tokens));
        return Err(TextError::NothingLeft { path, reasons });
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::shared;

    #[test]
    fn rows_of_one_prompt_are_grouped_where_it_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("test.txt");
        std::fs::write(&file, "a||1\nb||2\na||3 \n").unwrap();
        let groups =
            references(&DataSource::whole(&file), TextFormat::E2e, &TextSettings::default()).unwrap();
        let seen: Vec<_> =
            groups.iter().map(|group| (group.prompt.as_str(), group.references.concat())).collect();
        assert_eq!(seen, [("a", "13".to_owned()), ("b", "2".to_owned())]);
    }

    #[test]
    fn both_forms_of_e2e_give_the_630_inputs_of_the_paper() {
        let Some(folder) = shared("assets/text/e2e") else { return };
        let prompts = |file: &str| {
            let groups =
                references(&DataSource::whole(&folder.join(file)), TextFormat::E2e, &TextSettings::default())
                    .unwrap();
            assert_eq!(groups.iter().map(|group| group.references.len()).sum::<usize>(), 4693);
            groups.into_iter().map(|group| group.prompt).collect::<Vec<_>>()
        };
        let lines = prompts("test.txt");
        assert_eq!(lines.len(), 630);
        assert_eq!(prompts("testset_w_refs.csv"), lines);
    }

    #[test]
    fn a_data_set_without_prompts_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        std::fs::write(&file, "words").unwrap();
        let result = references(&DataSource::whole(&file), TextFormat::Text, &TextSettings::default());
        assert!(matches!(result, Err(TextError::NoPrompts { .. })), "{result:?}");
        std::fs::write(&file, "").unwrap();
        let result = references(&DataSource::whole(&file), TextFormat::E2e, &TextSettings::default());
        assert!(matches!(result, Err(TextError::NothingLeft { .. })), "{result:?}");
    }
}
