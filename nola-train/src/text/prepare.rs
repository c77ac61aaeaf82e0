//! From a data set to samples: read, tokenised in parallel, cut to length, kept for the next run.

use std::fmt;
use std::path::Path;

use super::cache::{Cache, Found};
use super::collect::{BadRows, Rows};
use super::pack::rows_of;
use super::sample_builder::SampleBuilder;
use super::{BadRow, ChatRender, Encode, Packing, Sample, TextError, TextFormat, TextReport, TextSettings};

/// A data set, and the model that is to learn from it.
#[derive(Clone, Copy)]
pub struct TextSource<'a> {
    /// A file, or a folder of them.
    pub path: &'a Path,
    /// How its rows are written.
    pub format: TextFormat,
    /// How they become samples.
    pub settings: &'a TextSettings,
    /// The model's tokenizer.
    pub tokenizer: &'a dyn Encode,
    /// The chat template, if the model has one.
    pub chat: Option<&'a dyn ChatRender>,
    /// Rows of the model's embedding: tokens are below it.
    pub embeddings: usize,
    /// Positions of the model.
    pub context: usize,
}

/// The samples of a data set.
#[derive(Debug)]
pub struct TextData {
    /// All samples, in the order of the files.
    pub samples: Vec<Sample>,
    /// Which samples share a row of a batch; without packing each has its own.
    pub rows: Vec<Vec<usize>>,
    /// What became of the rows of the files.
    pub report: TextReport,
    /// The first bad rows; empty if the samples come from the cache.
    pub bad_rows: Vec<BadRow>,
    /// Whether they come from the cache.
    pub cache: CacheUse,
}

/// What the cache was good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheUse {
    /// There is none.
    Off,
    /// It had the samples.
    Hit,
    /// It did not have them; now it has.
    Made,
    /// It had a damaged file, which was replaced.
    Repaired,
}

impl fmt::Display for CacheUse {
    /// What a report ends with.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "",
            Self::Hit => "; from the cache",
            Self::Made => "; now in the cache",
            Self::Repaired => "; now in the cache, which held a damaged file",
        })
    }
}

impl TextSource<'_> {
    /// Reads and tokenises the data set, or takes it from the cache.
    ///
    /// # Errors
    /// If a file cannot be read, rows are bad and are not to be skipped, tokens are not the model's, or nothing remains;
    /// all of it before any training.
    pub fn prepare(&self) -> Result<TextData, TextError> {
        self.settings.check(self.context)?;
        self.check_tokenizer()?;
        let columns = self.format.columns(self.settings);
        let rows = Rows::of(self.path, self.format.plain_text(), columns, self.settings)?;
        let Some(cache) = Cache::open(self, &rows.files)? else {
            let (samples, report, bad_rows) = self.make(&rows)?;
            return Ok(self.data(samples, report, bad_rows, CacheUse::Off));
        };
        let used = match cache.load() {
            Found::Samples(samples, report) => {
                return Ok(self.data(samples, report, Vec::new(), CacheUse::Hit));
            }
            Found::Nothing => CacheUse::Made,
            Found::Damaged => CacheUse::Repaired,
        };
        let (samples, report, bad_rows) = self.make(&rows)?;
        cache.save(&samples, &report)?;
        Ok(self.data(samples, report, bad_rows, used))
    }

    fn data(
        &self,
        samples: Vec<Sample>,
        report: TextReport,
        bad_rows: Vec<BadRow>,
        cache: CacheUse,
    ) -> TextData {
        let rows = match self.settings.packing {
            Packing::Off => (0..samples.len()).map(|sample| vec![sample]).collect(),
            Packing::On => rows_of(&samples, self.settings.max_tokens),
        };
        TextData { samples, rows, report, bad_rows, cache }
    }

    fn check_tokenizer(&self) -> Result<(), TextError> {
        // One document needs no end token; several are told apart by it.
        if self.format != TextFormat::Text && self.tokenizer.eos().is_none() {
            return Err(TextError::NoEnd { format: self.format });
        }
        if self.format.is_conversation() && self.chat.is_none() {
            return Err(TextError::NoChatTemplate { format: self.format });
        }
        Ok(())
    }

    fn make(&self, rows: &Rows) -> Result<(Vec<Sample>, TextReport, Vec<BadRow>), TextError> {
        let mut maker = SampleBuilder::new(self);
        let mut bad = BadRows::default();
        let convert = |content| self.format.converted(content, self.settings, self.chat);
        let read = rows.each(&mut bad, convert, |place, converted, bad| {
            maker.note(&converted);
            let mut examples = converted.examples.into_iter();
            examples.try_for_each(|example| maker.add(place.clone(), example, bad))
        })?;
        maker.encode_waiting(&mut bad)?;
        let bad = rows.judge(bad)?;
        let (samples, report) = maker.finish();
        let report = TextReport { rows: read, bad: bad.total, ..report };
        if samples.is_empty() {
            let (path, max_tokens) = (self.path.to_path_buf(), self.settings.max_tokens);
            return Err(TextError::NothingLeft { path, report: Box::new(report), max_tokens });
        }
        Ok((samples, report, bad.first))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{BOS, Case};
    use super::*;
    use crate::shared::shared;
    use crate::text::{Loss, OnBadRow};

    #[test]
    fn every_line_of_e2e_becomes_a_sample() {
        let case = Case::new("a.txt", "\u{feff}in||out\r\na||b\r\n", TextFormat::E2e);
        assert_eq!(case.texts(), ["in> out>", "a> b>"]);
        let report =
            TextReport { rows: 2, samples: 2, tokens: 11, targets: 8, longest: 7, ..TextReport::default() };
        assert_eq!(case.prepare().unwrap().report, report);
    }

    #[test]
    fn plain_text_is_cut_into_windows_that_overlap_by_the_predicted_token() {
        let case = Case::new("a.txt", "abcdefghijklmnopqrstuvw", TextFormat::Text);
        assert_eq!(case.texts(), ["abcdefghijklmnopq", "qrstuvw"]);
        assert_eq!(case.prepare().unwrap().report.targets, 22);
    }

    #[test]
    fn documents_are_parted_by_end_tokens_and_start_as_the_tokenizer_wants() {
        let text = "{\"text\":\"abc\"}\n{\"text\":\"\"}\n{\"text\":\"de\"}\n";
        let mut case = Case::new("a.jsonl", text, TextFormat::Text);
        assert_eq!(case.texts(), ["abc>de"]);
        case.tokenizer.bos = Some(BOS);
        assert_eq!(case.texts(), ["<abc><de"]);
        assert_eq!(case.prepare().unwrap().report.dropped_empty, 1);
    }

    #[test]
    fn documents_without_an_end_token_are_refused_but_one_text_is_not() {
        let mut case = Case::new("a.jsonl", "{\"text\":\"a\"}\n{\"text\":\"b\"}\n", TextFormat::Text);
        case.tokenizer.ends = Vec::new();
        assert!(case.message().contains("the tokenizer has no end token, which `text` needs"));
        let mut case = Case::new("a.txt", "one text", TextFormat::Text);
        case.tokenizer.ends = Vec::new();
        assert_eq!(case.texts(), ["one text"]);
    }

    #[test]
    fn a_missing_end_token_is_an_error() {
        let mut case = Case::new("a.txt", "a||b\n", TextFormat::E2e);
        case.tokenizer.ends = Vec::new();
        assert!(case.message().contains("name one as eos_token"), "{}", case.message());
    }

    #[test]
    fn conversations_without_a_template_are_refused() {
        let mut case = Case::new("a.jsonl", "{}", TextFormat::Chat);
        case.chat = None;
        assert!(case.message().contains("no chat template, which `chat` needs"), "{}", case.message());
    }

    #[test]
    fn data_without_rows_says_so() {
        for (name, text, format) in [
            ("a.txt", "", TextFormat::Text),
            ("a.txt", "\n\n", TextFormat::E2e),
            ("a.jsonl", "\n", TextFormat::Text),
            ("a.json", "[]", TextFormat::Text),
            ("a.csv", "", TextFormat::Text),
            ("a.csv", "text\n", TextFormat::Text),
            ("a.tsv", "text\n\n", TextFormat::Text),
        ] {
            let message = Case::new(name, text, format).message();
            assert!(message.contains(": there are no rows in it"), "{message}");
        }
    }

    #[test]
    fn the_first_ten_bad_rows_are_listed_before_anything_is_trained() {
        let mut text = "good||row\n".to_owned();
        (0..12).for_each(|_| text.push_str("bad row\n"));
        let message = Case::new("a.txt", text, TextFormat::E2e).message();
        let lines: Vec<&str> = message.lines().collect();
        assert_eq!(lines[0], "12 rows cannot be used:");
        assert_eq!(lines[1], "  F/a.txt:2: no `||` between context and completion");
        assert_eq!(
            lines[10..],
            [
                "  F/a.txt:11: no `||` between context and completion",
                "  and 2 more",
                "correct them, or leave them out with data.text.on_bad_row = \"skip\"",
            ]
        );
    }

    #[test]
    fn bad_rows_can_be_skipped_and_are_counted() {
        let text = "{\"prompt\":\"a\",\"completion\":\"b\"}\nnonsense\n{\"prompt\":\"\\u0001\",\"completion\":\"b\"}\n";
        let mut case = Case::new("a.jsonl", text, TextFormat::PromptCompletion);
        case.settings.on_bad_row = OnBadRow::Skip;
        let data = case.prepare().unwrap();
        assert_eq!((data.samples.len(), data.report.rows, data.report.bad), (1, 3, 2));
        assert!(data.bad_rows[0].to_string().contains("a.jsonl:2: not JSON"), "{:?}", data.bad_rows);
        assert!(data.bad_rows[1].to_string().ends_with("a.jsonl:3: tokenizer: cannot say this"));
    }

    #[test]
    fn wrong_columns_are_bad_rows_that_say_which_there_are() {
        let case = Case::new("a.csv", "question,answer\na,b\n", TextFormat::PromptCompletion);
        let message = case.message();
        assert!(message.contains("F/a.csv:2: no field `prompt`; the row has question, answer"), "{message}");
    }

    #[test]
    fn a_limit_of_rows_counts_over_all_files() {
        let mut case = Case::new("a.txt", "a||b\nc||d\n", TextFormat::E2e);
        std::fs::write(case.folder.path().join("b.txt"), "e||f\ng||h\n").unwrap();
        case.file = case.folder.path().to_owned();
        case.settings.limit = 3;
        assert_eq!(case.texts(), ["a> b>", "c> d>", "e> f>"]);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let text: String = (0..300).map(|row| format!("{row}||{}\n", row * row)).collect();
        let case = Case::new("a.txt", text, TextFormat::E2e);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one.install(|| case.texts()), case.texts());
    }

    #[test]
    fn packed_samples_share_rows_of_at_most_max_tokens() {
        let mut case = Case::new("a.txt", "a||b\nc||d\ne||fghijklmno\n", TextFormat::E2e);
        case.settings.packing = Packing::On;
        let data = case.prepare().unwrap();
        assert_eq!(data.rows, [vec![0, 1], vec![2]]);
        let batch = data.batch(&[1, 0]);
        assert_eq!((batch.rows, batch.tokens, data.lengths()), (2, 13, vec![8, 13]));
        assert_eq!(batch.target_count(), data.report.targets);
    }

    /// Prepares a file of real data with samples of 64 tokens, here bytes.
    fn real(file: &str, format: TextFormat) -> Option<TextReport> {
        let mut case = Case::new("a.txt", "", format);
        case.file = shared(&format!("assets/text/{file}"))?;
        case.settings.max_tokens = 64;
        Some(case.prepare().unwrap().report)
    }

    #[test]
    fn the_published_e2e_training_set_has_no_bad_row() {
        let Some(report) = real("e2e/trainset.csv", TextFormat::E2e) else { return };
        assert_eq!((report.rows, report.bad), (42_061, 0));
    }

    #[test]
    fn published_alpaca_rows_have_no_bad_row() {
        let mut case = Case::new("a.txt", "", TextFormat::Alpaca);
        case.settings.max_tokens = 64;
        case.settings.loss = Loss::All;
        let Some(file) = shared("alpaca/alpaca_en_demo.json") else { return };
        case.file = file;
        let report = case.prepare().unwrap().report;
        assert_eq!((report.rows, report.bad, report.samples), (999, 0, 999));
    }

    #[test]
    fn every_byte_of_tiny_shakespeare_but_the_first_is_learned_once() {
        let Some(report) = real("tinyshakespeare/input.txt", TextFormat::Text) else { return };
        assert_eq!((report.rows, report.targets, report.tokens), (1, 1_115_393, 1_115_393));
        assert_eq!(report.samples, 1_115_393usize.div_ceil(64));
    }
}
