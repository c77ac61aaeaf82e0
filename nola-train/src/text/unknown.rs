//! What of a data set the tokenizer does not know: its tokens are all the same, so a model cannot learn it.

use serde::{Deserialize, Serialize};

use super::{Encode, Example, Place, RowLocation, Sample};

/// Different texts that are named, and letters of each.
const NAMED: usize = 8;
const LETTERS: usize = 16;
/// Rows that are searched for them.
const SEARCHED: usize = 256;

/// Tokens that stand for what the vocabulary lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unknown {
    /// The token's number.
    pub id: u32,
    /// Its name, such as `<unk>`.
    pub token: String,
    /// How many tokens of an epoch are it.
    pub count: usize,
    /// Which file the first of them is in, counted from 0.
    pub file: usize,
    /// Where in that file.
    pub row: RowLocation,
    /// The first different texts that became it.
    pub texts: Vec<String>,
}

impl Unknown {
    /// The same, counted in these samples; none if they do not have it.
    pub(super) fn counted<'a>(self, samples: impl Iterator<Item = &'a Sample>) -> Option<Self> {
        let fed = samples.flat_map(|sample| &sample.ids[..sample.positions()]);
        let count = fed.filter(|&&id| id == self.id).count();
        (count > 0).then_some(Self { count, ..self })
    }
}

/// Looks for unknown tokens in samples.
pub(super) struct UnknownSearch {
    id: u32,
    token: String,
    first: Option<Place>,
    texts: Vec<String>,
    searched: usize,
}

impl UnknownSearch {
    /// A search for the unknown token of a tokenizer, if it has one.
    pub fn of(tokenizer: &dyn Encode) -> Option<Self> {
        let (id, token) = tokenizer.unknown()?;
        Some(Self { id, token, first: None, texts: Vec::new(), searched: 0 })
    }

    /// Whether the token is among these.
    pub fn is_in<'a>(&self, mut ids: impl Iterator<Item = &'a u32>) -> bool {
        ids.any(|&id| id == self.id)
    }

    /// Takes an example that has the token.
    pub fn found(&mut self, place: &Place, example: &Example, tokenizer: &dyn Encode) {
        self.first.get_or_insert_with(|| place.clone());
        self.searched += 1;
        if self.searched > SEARCHED {
            return;
        }
        for text in example.texts() {
            // A text that cannot be tokenised alone names nothing.
            let (ids, ranges) = tokenizer.encode_with_offsets(&text).unwrap_or_default();
            let unknown = ids.into_iter().zip(ranges).filter(|&(id, _)| id == self.id);
            for (_, range) in unknown {
                let piece: String = text[range].trim().chars().take(LETTERS).collect();
                if !piece.is_empty() && self.texts.len() < NAMED && !self.texts.contains(&piece) {
                    self.texts.push(piece);
                }
            }
        }
    }

    /// What was found, not counted yet, with the place of its first row.
    pub fn finish(self) -> Option<(Unknown, Place)> {
        let Self { id, token, first, texts, .. } = self;
        let place = first?;
        Some((Unknown { id, token, count: 0, file: 0, row: place.spot, texts }, place))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Case;
    use crate::text::{CacheUse, RowLocation, TextFormat};

    /// A tokenizer that knows no `?`.
    fn case(name: &str, text: &str, format: TextFormat) -> Case {
        let mut case = Case::new(name, text, format);
        case.tokenizer.unknown = Some(u32::from(b'?'));
        case
    }

    #[test]
    fn unknown_tokens_are_counted_and_the_first_row_is_named() {
        let report = case("a.txt", "a||b\nc?||d??\n??||e\n", TextFormat::E2e).prepare().unwrap().report;
        let unknown = report.unknown.unwrap();
        assert_eq!((unknown.count, unknown.file, unknown.row), (5, 0, RowLocation::Line(2)));
        assert_eq!((unknown.token.as_str(), unknown.texts), ("<unk>", vec!["?".to_owned()]));
    }

    #[test]
    fn running_text_is_searched_too() {
        let unknown =
            case("a.txt", "ab\nc?d?e\n", TextFormat::Text).prepare().unwrap().report.unknown.unwrap();
        assert_eq!((unknown.count, unknown.texts.len()), (2, 1));
    }

    #[test]
    fn tokens_that_are_not_kept_are_not_counted() {
        let report =
            case("a.txt", "a||a very long completion ?\nb||c\n", TextFormat::E2e).prepare().unwrap().report;
        assert_eq!((report.cut, report.unknown), (1, None));
        assert_eq!(Case::new("a.txt", "a?||b\n", TextFormat::E2e).prepare().unwrap().report.unknown, None);
    }

    #[test]
    fn the_cache_remembers_them_under_the_name_that_the_file_has_now() {
        let mut case = case("a.txt", "a||b\nc?||d\n", TextFormat::E2e);
        case.settings.cache = case.folder.path().join("cache");
        case.prepare().unwrap();
        let renamed = case.folder.path().join("renamed.txt");
        std::fs::rename(&case.file, &renamed).unwrap();
        case.file = renamed;
        let data = case.prepare().unwrap();
        assert_eq!(data.cache, CacheUse::Hit);
        let warning = data.unknown_tokens("training tokens").unwrap();
        assert!(
            warning.starts_with("11.1 % of the training tokens are `<unk>` (1 of 9), first in "),
            "{warning}"
        );
        assert!(warning.ends_with("renamed.txt:2; the tokenizer does not know `?`"), "{warning}");
    }
}
