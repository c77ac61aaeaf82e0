//! From a data set to samples: read, tokenised in parallel, cut to length, kept for the next run.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::cache::{Cache, Found};
use super::collect::{Rows, check_divisible};
use super::pack::rows_of;
use super::sample_builder::SampleBuilder;
use super::{
    BadRows, Origin, Packing, Place, Sample, TextError, TextFormat, TextReport, TextSource, Unknown,
};
use crate::amounts::thousands;
use crate::data_hash::hex;
use crate::portion::{Drawn, DrawnUnit, Portion};
use crate::printable::printable;

/// The samples of a data set.
#[derive(Debug, Default)]
pub struct TextData {
    /// All samples, in the order of the files.
    pub samples: Vec<Sample>,
    /// Where each of them is from.
    pub origins: Vec<Origin>,
    /// Which samples share a row of a batch; without packing each has its own.
    pub rows: Vec<Vec<usize>>,
    /// What became of the rows of the files.
    pub report: TextReport,
    /// The bad rows; none if the samples come from the cache.
    pub bad_rows: BadRows,
    /// Whether they come from the cache.
    pub cache: CacheUse,
    /// The files they come from.
    files: Vec<Arc<Path>>,
}

impl TextData {
    /// Hash of some rows: their tokens, and which of them are learned, in hexadecimal.
    pub fn sha256(&self, rows: impl Iterator<Item = usize>) -> String {
        let mut hash = Sha256::new();
        for row in rows {
            hash.update((self.rows[row].len() as u64).to_le_bytes());
            for sample in self.rows[row].iter().map(|&sample| &self.samples[sample]) {
                hash.update((sample.ids.len() as u64).to_le_bytes());
                sample.ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
                let ends = sample.trained.iter().flat_map(|range| [range.start as u64, range.end as u64]);
                ends.for_each(|end| hash.update(end.to_le_bytes()));
            }
        }
        hex(&hash.finalize())
    }

    /// Where the samples of a row of a batch are from.
    pub fn places(&self, row: usize) -> impl Iterator<Item = Place> {
        self.rows[row].iter().filter_map(|&sample| {
            let Origin { file, row } = *self.origins.get(sample)?;
            Some(Place { file: self.files.get(file)?.clone(), spot: row })
        })
    }

    /// What the tokenizer does not know, and the first row with it.
    pub fn unknown(&self) -> Option<(&Unknown, Place)> {
        let unknown = self.report.unknown.as_ref()?;
        let file = self.files.get(unknown.file)?.clone();
        Some((unknown, Place { file, spot: unknown.row }))
    }

    /// A warning about tokens that stand for what the tokenizer does not know, since a model learns nothing from them;
    /// `tokens_of` says of what the tokens are.
    pub fn unknown_tokens(&self, tokens_of: &str) -> Option<String> {
        let (Unknown { token, count, texts, .. }, place) = self.unknown()?;
        let tokens = self.report.tokens;
        let share = 100.0 * *count as f64 / tokens as f64;
        let share = if share < 0.05 { "less than 0.1".to_owned() } else { format!("{share:.1}") };
        let (count, tokens) = (thousands(*count as u64), thousands(tokens as u64));
        let warning =
            format!("{share} % of the {tokens_of} are `{token}` ({count} of {tokens}), first in {place}");
        let texts: Vec<String> = texts.iter().map(|text| format!("`{}`", printable(text))).collect();
        if texts.is_empty() {
            return Some(warning);
        }
        Some(format!("{warning}; the tokenizer does not know {}", texts.join(", ")))
    }
}

/// What the cache was good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheUse {
    /// There is none.
    #[default]
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

impl TextData {
    /// Several data sets as one, and the rows of each of them.
    pub fn joined(parts: Vec<Self>) -> (Self, Vec<Range<usize>>) {
        let (mut whole, mut ranges) = (Self::default(), Vec::new());
        for part in parts {
            let (first, start, files) = (whole.samples.len(), whole.rows.len(), whole.files.len());
            let moved = |row: Vec<usize>| row.into_iter().map(|sample| first + sample).collect();
            whole.rows.extend(part.rows.into_iter().map(moved));
            whole.samples.extend(part.samples);
            let of_file = |origin: Origin| Origin { file: files + origin.file, ..origin };
            whole.origins.extend(part.origins.into_iter().map(of_file));
            whole.files.extend(part.files);
            whole.report.targets += part.report.targets;
            ranges.push(start..whole.rows.len());
        }
        (whole, ranges)
    }
}

/// Samples with their origins, what became of their rows, and the bad ones.
struct Made {
    samples: Vec<Sample>,
    origins: Vec<Origin>,
    report: TextReport,
    bad_rows: BadRows,
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
        let columns = self.format.columns(self.settings)?;
        let rows = Rows::of(self.data, self.format.plain_text(), columns, self.settings)?;
        let Some(cache) = Cache::open(self, &rows.files)? else {
            let made = self.make(&rows)?;
            return Ok(self.data(made, CacheUse::Off, rows.files));
        };
        let used = match cache.load() {
            Found::Samples(samples, origins, report) => {
                let made = Made { samples, origins, report, bad_rows: BadRows::default() };
                return Ok(self.data(made, CacheUse::Hit, rows.files));
            }
            Found::Nothing => CacheUse::Made,
            Found::Damaged => CacheUse::Repaired,
        };
        let made = self.make(&rows)?;
        cache.save(&made.samples, &made.origins, &made.report)?;
        Ok(self.data(made, used, rows.files))
    }

    fn data(&self, made: Made, cache: CacheUse, files: Vec<Arc<Path>>) -> TextData {
        let Made { samples, origins, report, bad_rows } = made;
        let rows = match self.settings.packing {
            Packing::Off => (0..samples.len()).map(|sample| vec![sample]).collect(),
            Packing::On => rows_of(&samples, self.settings.max_tokens),
        };
        TextData { samples, origins, rows, report, bad_rows, cache, files }
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

    fn make(&self, rows: &Rows) -> Result<Made, TextError> {
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
        let (samples, mut report, place) = maker.finish();
        let mut file = 0;
        let mut origin = |place: &Place| {
            // Most rows are from the file of the row before.
            if rows.files.get(file) != Some(&place.file) {
                file = rows.files.iter().position(|file| *file == place.file).unwrap_or_default();
            }
            Origin { file, row: place.spot }
        };
        if let Some((unknown, place)) = report.unknown.as_mut().zip(place) {
            unknown.file = origin(&place).file;
        }
        let samples = samples.into_iter().map(|(sample, place)| (sample, origin(&place))).collect();
        let report = TextReport { rows: read, bad: bad.total(), drawn: rows.drawn(), ..report };
        let (samples, report) = self.portion_of(samples, report, rows)?;
        if samples.is_empty() {
            let (path, reasons) = (self.data.name.clone(), report.reasons(self.settings.max_tokens));
            return Err(TextError::NothingLeft { path, reasons });
        }
        let (samples, origins) = samples.into_iter().unzip();
        Ok(Made { samples, origins, report, bad_rows: bad })
    }

    /// The samples that are used: of running text, which has no rows, a portion is drawn here.
    fn portion_of(
        &self,
        samples: Vec<(Sample, Origin)>,
        report: TextReport,
        rows: &Rows,
    ) -> Result<(Vec<(Sample, Origin)>, TextReport), TextError> {
        let portion = self.data.portion;
        if portion == Portion::Whole || !rows.are_running_text() {
            return Ok((samples, report));
        }
        check_divisible(samples.len(), DrawnUnit::Pieces, self.data)?;
        let chosen = portion.chosen(samples.len());
        let drawn = Some(Drawn::of(&chosen, DrawnUnit::Pieces));
        let most = if self.data.most == 0 { samples.len() } else { self.data.most };
        let used = samples.into_iter().zip(chosen).filter_map(|(sample, is_used)| is_used.then_some(sample));
        let samples: Vec<(Sample, Origin)> = used.take(most).collect();
        let report = TextReport { drawn, ..report.counted(samples.iter().map(|(sample, _)| sample)) };
        Ok((samples, report))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::fake::{BOS, Case, text_of};
    use super::*;
    use crate::portion::{DataSource, HoldOut};
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
    fn equal_bad_rows_are_counted_before_anything_is_trained() {
        let text = format!("good||row\n{}\0||row\n", "bad row\n".repeat(12));
        let message = Case::new("a.txt", text, TextFormat::E2e).message();
        let lines: Vec<&str> = message.lines().collect();
        assert_eq!(
            lines,
            [
                "13 rows cannot be used:",
                "  12 rows: no `||` between context and completion (F/a.txt:2, 3, 4, 5, 6 and 7 more)",
                "  F/a.txt:14: a zero byte at byte 0 of the row; the file is damaged, or not text",
                "correct them, or leave them out with data.text.on_bad_row = \"skip\"",
            ]
        );
    }

    #[test]
    fn the_first_ten_different_problems_are_listed() {
        let text: String = (0..12).map(|row| format!("{{\"text{row}\": 1}}\n")).collect();
        let message = Case::new("a.jsonl", text, TextFormat::Text).message();
        let lines: Vec<&str> = message.lines().collect();
        assert!(lines[10].starts_with("  F/a.jsonl:10: no field `text`"), "{message}");
        assert_eq!(lines[11], "  and 2 more");
    }

    #[test]
    fn bad_rows_can_be_skipped_and_are_counted() {
        let text = "{\"prompt\":\"a\",\"completion\":\"b\"}\nnonsense\n{\"prompt\":\"\\u0001\",\"completion\":\"b\"}\n";
        let mut case = Case::new("a.jsonl", text, TextFormat::PromptCompletion);
        case.settings.on_bad_row = OnBadRow::Skip;
        let data = case.prepare().unwrap();
        assert_eq!((data.samples.len(), data.report.rows, data.report.bad), (1, 3, 2));
        let lines = data.bad_rows.lines();
        assert!(lines[0].contains("a.jsonl:2: not JSON"), "{lines:?}");
        assert!(lines[1].ends_with("a.jsonl:3: tokenizer: cannot say this"), "{lines:?}");
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

    fn halves(case: &mut Case) -> [TextData; 2] {
        let hold_out = HoldOut { share: 0.25, seed: 1, place: 0 };
        [Portion::Kept(hold_out), Portion::HeldOut(hold_out)].map(|portion| {
            case.portion = portion;
            case.prepare().unwrap()
        })
    }

    #[test]
    fn rows_are_held_out_whole_and_none_is_on_both_sides() {
        let text: String = (10..50).map(|row| format!("{row}||{row}\n")).collect();
        let mut case = Case::new("a.txt", text, TextFormat::E2e);
        let whole: BTreeSet<String> = case.texts().into_iter().collect();
        let [kept, held_out] = halves(&mut case);
        assert_eq!((kept.report.rows, held_out.report.rows), (30, 10));
        assert_eq!(held_out.report.drawn, Some(Drawn { used: 10, of: 40, unit: DrawnUnit::Rows }));
        let texts = |data: &TextData| -> BTreeSet<String> {
            data.samples.iter().map(|sample| text_of(&sample.ids)).collect()
        };
        assert_eq!(&texts(&kept) | &texts(&held_out), whole);
        assert!(texts(&kept).is_disjoint(&texts(&held_out)));
        let prompts =
            crate::text::references(&DataSource::part(&case.file, case.portion), case.format, &case.settings);
        let held: BTreeSet<String> = prompts
            .unwrap()
            .iter()
            .map(|group| format!("{}> {}>", group.prompt, group.references[0]))
            .collect();
        assert_eq!(held, texts(&held_out), "prompts are those of the same rows");
    }

    #[test]
    fn of_running_text_pieces_are_held_out() {
        let text: String = (0..400).map(|number| char::from(b'a' + (number * 7 % 26) as u8)).collect();
        let mut case = Case::new("a.txt", text, TextFormat::Text);
        let all = case.prepare().unwrap().samples.len();
        let [kept, held_out] = halves(&mut case);
        assert_eq!(kept.samples.len() + held_out.samples.len(), all);
        assert_eq!(
            held_out.report.drawn.map(|drawn| drawn.to_string()).as_deref(),
            Some("6 of 25 pieces of text")
        );
        assert_eq!(held_out.report.samples, 6);
    }

    #[test]
    fn of_one_row_nothing_can_be_held_out() {
        let mut case = Case::new("a.txt", "a||b\n", TextFormat::E2e);
        case.portion = Portion::Kept(HoldOut { share: 0.5, seed: 1, place: 0 });
        assert!(case.message().contains("holds only one of the rows that data.validation_split parts"));
    }

    #[test]
    fn every_bad_row_ends_the_run_though_it_is_not_of_the_portion() {
        let text: String = (0..40).map(|row| if row % 4 == 0 { "bad\n" } else { "a||b\n" }).collect();
        let mut case = Case::new("a.txt", text, TextFormat::E2e);
        case.portion = Portion::Kept(HoldOut { share: 0.5, seed: 1, place: 0 });
        assert!(case.message().starts_with("10 rows cannot be used"), "{}", case.message());
        case.settings.on_bad_row = OnBadRow::Skip;
        let [kept, held_out] = halves(&mut case);
        assert_eq!(
            (kept.report.rows + held_out.report.rows, kept.report.bad + held_out.report.bad),
            (40, 10)
        );
    }

    #[test]
    fn the_cache_tells_portions_apart() {
        let text: String = (10..50).map(|row| format!("{row}||{row}\n")).collect();
        let mut case = Case::new("a.txt", text, TextFormat::E2e);
        case.settings.cache = case.folder.path().join("cache");
        let first = halves(&mut case);
        let again = halves(&mut case);
        for (first, again) in first.iter().zip(&again) {
            assert_eq!((again.cache, &again.samples), (CacheUse::Hit, &first.samples));
            assert_eq!(again.report, first.report);
        }
    }

    #[test]
    fn joined_data_keeps_the_rows_of_each_file_together() {
        let part = |text: &str| Case::new("a.txt", text, TextFormat::E2e).prepare().unwrap();
        let (whole, parts) = TextData::joined(vec![part("a||b\nc||d\n"), part("e||f\n")]);
        assert_eq!(parts, [0..2, 2..3]);
        assert_eq!(whole.rows, [[0], [1], [2]]);
        assert_eq!(text_of(&whole.samples[2].ids), "e> f>");
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
