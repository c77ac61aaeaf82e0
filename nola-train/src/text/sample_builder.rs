//! Samples in the making: tokenised in parallel, checked, cut to length; running text is cut into windows.

use rayon::prelude::*;

use super::format::Converted;
use super::read::blocks;
use super::sample::{Encoded, Encoder};
use super::unknown::UnknownSearch;
use super::{
    BadRows, Beginning, Encode, Example, Loss, Note, OnLong, Place, Sample, TextError, TextReport, TextSource,
};

/// Examples that are tokenised together, at most; and bytes of text after which they need not be as many.
const CHUNK_EXAMPLES: usize = 4096;
const CHUNK_BYTES: usize = 32 << 20;

/// Samples in the making.
pub(super) struct SampleBuilder<'a> {
    source: &'a TextSource<'a>,
    /// Makes no more of a row than a sample can have; running text is needed whole.
    beginning: Beginning<'a>,
    waiting: Vec<(Place, Example)>,
    waiting_bytes: usize,
    samples: Vec<Sample>,
    /// Where each of them is from.
    places: Vec<Place>,
    /// All running text, documents parted by end tokens.
    stream: Vec<u32>,
    /// Where in it each document begins, and where that is from.
    documents: Vec<(usize, Place)>,
    report: TextReport,
    unknown: Option<UnknownSearch>,
}

impl<'a> SampleBuilder<'a> {
    pub fn new(source: &'a TextSource<'a>) -> Self {
        Self {
            source,
            beginning: Beginning::new(source.tokenizer, source.settings.max_tokens + 1),
            waiting: Vec::new(),
            waiting_bytes: 0,
            samples: Vec::new(),
            places: Vec::new(),
            stream: Vec::new(),
            documents: Vec::new(),
            report: TextReport::default(),
            unknown: UnknownSearch::of(source.tokenizer),
        }
    }

    /// Counts what of a row is not in its examples as it stands there.
    pub fn note(&mut self, converted: &Converted) {
        converted.notes.iter().for_each(|(note, name)| self.report.count(*note, name));
    }

    /// Adds an example; what tokenizer or template refuse goes to `bad`.
    ///
    /// # Errors
    /// As [`SampleBuilder::encode_waiting`].
    pub fn add(&mut self, place: Place, example: Example, bad: &mut BadRows) -> Result<(), TextError> {
        self.waiting_bytes += example.bytes();
        match example {
            Example::Document(text) => {
                let mut parts = blocks(&text).into_iter();
                let first = parts.next().map(|first| Example::Document(first.to_owned()));
                let more = parts.map(|part| Example::More(part.to_owned()));
                self.waiting.extend(first.into_iter().chain(more).map(|part| (place.clone(), part)));
            }
            Example::More(_) | Example::Pair(_) | Example::Chat(_) => self.waiting.push((place, example)),
        }
        if self.waiting.len() < CHUNK_EXAMPLES && self.waiting_bytes < CHUNK_BYTES {
            return Ok(());
        }
        self.encode_waiting(bad)
    }

    /// Tokenises what was added.
    ///
    /// # Errors
    /// If a token is not the model's, or documents cannot be told apart.
    pub fn encode_waiting(&mut self, bad: &mut BadRows) -> Result<(), TextError> {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let encoded: Vec<_> =
            waiting.par_iter().map(|(_, example)| self.encoder(example).encoded(example)).collect();
        for ((place, example), encoded) in waiting.into_iter().zip(encoded) {
            match encoded {
                Err(problem) => bad.push(place, &problem),
                Ok(Encoded { sample, unread }) => {
                    self.check_tokens(&place, &sample)?;
                    unread.iter().for_each(|name| self.report.count(Note::Unread, name));
                    let (running, samples) = (self.stream.len(), self.samples.len());
                    self.keep(&place, &example, sample)?;
                    if let Some(search) = &mut self.unknown {
                        let of_samples = self.samples[samples..].iter().flat_map(|sample| &sample.ids);
                        if search.is_in(self.stream[running..].iter().chain(of_samples)) {
                            search.found(&place, &example, &self.beginning);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn encoder(&self, example: &Example) -> Encoder<'_> {
        let TextSource { chat, settings, .. } = self.source;
        let tokenizer: &dyn Encode = match example {
            Example::Document(_) | Example::More(_) => self.source.tokenizer,
            Example::Pair(_) | Example::Chat(_) => &self.beginning,
        };
        Encoder { tokenizer, chat: *chat, loss: settings.loss }
    }

    /// The samples with the place of each, and all of the report that concerns them. With unknown tokens, the place of the
    /// first row that has one.
    pub fn finish(mut self) -> (Vec<(Sample, Place)>, TextReport, Option<Place>) {
        if !self.stream.is_empty() {
            self.stream.extend(self.source.tokenizer.closing());
        }
        let positions = self.source.settings.max_tokens;
        let windows: Vec<Sample> = windows(&self.stream, positions).collect();
        for (index, window) in windows.into_iter().enumerate() {
            // Of the documents in a window, the one that it begins in.
            let begun = self.documents.partition_point(|(start, _)| *start <= index * positions);
            let place = self.documents[begun.saturating_sub(1)].1.clone();
            self.keep_sample(place, window);
        }
        let Self { samples, places, report, beginning, unknown, .. } = self;
        let (unknown, place) = unknown.and_then(UnknownSearch::finish).unzip();
        let report =
            TextReport { shortened: beginning.shortened(), unknown: unknown.map(Box::new), ..report }
                .counted(samples.iter());
        (samples.into_iter().zip(places).collect(), report, place)
    }

    fn check_tokens(&self, place: &Place, sample: &Sample) -> Result<(), TextError> {
        let embeddings = self.source.embeddings;
        match sample.ids.iter().find(|&&id| id as usize >= embeddings) {
            None => Ok(()),
            Some(&id) => {
                let vocabulary = self.source.tokenizer.vocab_size();
                Err(TextError::ForeignToken { place: place.clone(), id, embeddings, vocabulary })
            }
        }
    }

    fn keep(&mut self, place: &Place, example: &Example, sample: Sample) -> Result<(), TextError> {
        match example {
            Example::Document(text) if text.is_empty() => self.report.dropped_empty += 1,
            Example::Document(_) => {
                if !self.stream.is_empty() {
                    let format = self.source.format;
                    self.stream.push(self.source.tokenizer.eos().ok_or(TextError::NoEnd { format })?);
                }
                self.documents.push((self.stream.len(), place.clone()));
                self.stream.extend(sample.ids);
            }
            Example::More(_) => self.stream.extend(sample.ids),
            Example::Pair(_) => self.keep_sample(place.clone(), sample),
            Example::Chat(dialogue) if self.loss() == Loss::Completion && dialogue.is_all_left_out() => {
                self.report.dropped_marked += 1;
            }
            Example::Chat(_) => self.keep_sample(place.clone(), sample),
        }
        Ok(())
    }

    fn loss(&self) -> Loss {
        self.source.settings.loss
    }

    fn keep_sample(&mut self, place: Place, mut sample: Sample) {
        let (settings, report) = (self.source.settings, &mut self.report);
        report.longest = report.longest.max(sample.positions());
        let is_long = sample.positions() > settings.max_tokens;
        if is_long && settings.on_long == OnLong::Drop {
            report.dropped_long += 1;
            return;
        }
        sample.cut(settings.max_tokens);
        if sample.targets() == 0 {
            let dropped = if is_long { &mut report.dropped_unlearned } else { &mut report.dropped_empty };
            *dropped += 1;
            return;
        }
        report.cut += usize::from(is_long);
        self.samples.push(sample);
        self.places.push(place);
    }
}

/// Running text as samples of `positions` tokens, each of which predicts the first of the next, so that every token but
/// the first of all is learned once.
fn windows(stream: &[u32], positions: usize) -> impl Iterator<Item = Sample> {
    (0..stream.len().saturating_sub(1)).step_by(positions).map(move |start| {
        let end = stream.len().min(start + positions + 1);
        Sample::learned_from(0, stream[start..end].to_vec())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::fake::Case;
    use super::*;
    use crate::text::{OnBadRow, TextFormat};

    proptest! {
        #[test]
        fn windows_feed_and_learn_every_token_once(length in 0u32..60, positions in 1usize..12) {
            let stream: Vec<u32> = (0..length).collect();
            let windows: Vec<Sample> = windows(&stream, positions).collect();
            let fed: Vec<u32> = windows.iter().flat_map(|window| window.ids[..window.positions()].to_vec()).collect();
            let learned: Vec<u32> = windows.iter().flat_map(|window| window.ids[1..].to_vec()).collect();
            prop_assert_eq!(fed, &stream[..stream.len().saturating_sub(1)]);
            prop_assert_eq!(learned, stream.get(1..).unwrap_or_default());
            prop_assert!(windows.iter().all(|window| (1..=positions).contains(&window.positions())));
        }
    }

    #[test]
    fn what_the_template_does_not_write_is_counted_by_name() {
        let row = |extra: &str| {
            format!(
                r#"{{"messages": [{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "b"{extra}}}]}}"#
            )
        };
        let text = [row(r#", "thinking": "c""#), row(r#", "thinking": "d", "name": "e", "id": 7"#), row("")]
            .join("\n");
        let report = Case::new("a.jsonl", text, TextFormat::Chat).prepare().unwrap().report;
        let counts = [("id", 1), ("name", 1), ("thinking", 2)].map(|(name, rows)| (name.to_owned(), rows));
        assert_eq!(report.notes, BTreeMap::from([(Note::Unread, BTreeMap::from(counts))]));
    }

    #[test]
    fn fields_that_a_format_does_not_read_are_counted_by_name() {
        let text = "prompt,completion,id\na,b,1\nc,d,2\ne,f,\n";
        let report = Case::new("a.csv", text, TextFormat::PromptCompletion).prepare().unwrap().report;
        assert!(report.to_string().ends_with("; `id` of 2 rows is not used"), "{report}");
    }

    #[test]
    fn rows_whose_answers_are_all_marked_say_so() {
        let row = |weight: u8| {
            format!(
                r#"{{"messages": [{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "b", "weight": {weight}}}]}}"#
            )
        };
        let case = Case::new("a.jsonl", row(0), TextFormat::Chat);
        assert!(
            case.message().contains("1 dropped because all their answers are marked as not to be learned")
        );
        let report =
            Case::new("a.jsonl", [row(0), row(1)].join("\n"), TextFormat::Chat).prepare().unwrap().report;
        assert_eq!((report.dropped_marked, report.dropped_empty, report.samples), (1, 0, 1));
        let mut all = Case::new("a.jsonl", row(0), TextFormat::Chat);
        all.settings.loss = Loss::All;
        assert_eq!(all.prepare().unwrap().report.samples, 1);
    }

    #[test]
    fn a_token_that_the_model_lacks_is_named_with_its_row() {
        // As bytes, é is 195 and 169.
        let mut case = Case::new("a.txt", "a||b\na||é\n", TextFormat::E2e);
        case.embeddings = 180;
        case.tokenizer.ends = vec![0];
        assert_eq!(
            case.message(),
            "F/a.txt:2: token 195, but the model has 180 embeddings (the tokenizer has 258 tokens); take the token \
             out of the tokenizer's files, resize the model, or use the tokenizer that belongs to it"
        );
    }

    #[test]
    fn a_long_completion_is_cut_or_its_sample_dropped() {
        let mut case = Case::new("a.txt", "in||short\nin||a very long completion\n", TextFormat::E2e);
        assert_eq!(case.texts(), ["in> short>", "in> a very long c"]);
        assert_eq!(case.prepare().unwrap().report.cut, 1);
        case.settings.on_long = OnLong::Drop;
        assert_eq!(case.texts(), ["in> short>"]);
        let report = case.prepare().unwrap().report;
        assert_eq!((report.cut, report.dropped_long, report.longest), (0, 1, 26));
    }

    #[test]
    fn a_sample_of_which_only_the_prompt_remains_is_dropped() {
        let case = Case::new("a.txt", "a||b\na context of many words||b\n", TextFormat::E2e);
        assert_eq!(case.texts(), ["a> b>"]);
        let report = case.prepare().unwrap().report;
        assert_eq!((report.dropped_unlearned, report.dropped_empty), (1, 0));
    }

    #[test]
    fn data_of_which_nothing_remains_says_why_and_what_to_do() {
        let mut case = Case::new("a.txt", "a context of many words||b\n", TextFormat::E2e);
        assert_eq!(
            case.message(),
            "F/a.txt: nothing to learn from: 1 rows read; 1 dropped because their prompt alone fills \
             data.text.max_tokens = 16 (the longest row has 26 tokens), so that all that is learned would be cut off; raise \
             it as far as the model allows, or shorten the prompts"
        );
        case.settings.on_long = OnLong::Drop;
        assert_eq!(
            case.message(),
            "F/a.txt: nothing to learn from: 1 rows read; 1 dropped as longer than data.text.max_tokens = 16 (the longest \
             has 26 tokens); raise it as far as the model allows, or set data.text.on_long = \"cut\""
        );
        let mut case = Case::new("a.jsonl", "{\"text\":\"\"}\n{}\n", TextFormat::Text);
        case.settings.on_bad_row = OnBadRow::Skip;
        assert_eq!(
            case.message(),
            "F/a.jsonl: nothing to learn from: 2 rows read; 1 cannot be used, and data.text.on_bad_row = \"skip\" leaves them \
             out; 1 dropped because there is nothing to learn in them; are the texts empty?"
        );
    }

    #[test]
    fn a_row_of_megabytes_is_cut_or_dropped_without_being_tokenised_whole() {
        let rows = |prompt: &str, completion: &str| {
            let row = serde_json::json!({"prompt": prompt, "completion": completion});
            format!("{row}\n{{\"prompt\":\"a\",\"completion\":\"b\"}}\n")
        };
        let long = "long ".repeat(1 << 20);
        let mut case = Case::new("a.jsonl", rows("in", &long), TextFormat::PromptCompletion);
        assert_eq!(case.texts(), ["inlong long long ", "ab>"]);
        let report = case.prepare().unwrap().report;
        assert_eq!((report.cut, report.shortened), (1, 1));
        assert!((16..1 << 17).contains(&report.longest), "{report:?}");
        case.settings.on_long = OnLong::Drop;
        assert_eq!(case.texts(), ["ab>"]);
        let case = Case::new("a.jsonl", rows(&long, "out"), TextFormat::PromptCompletion);
        assert_eq!(case.texts(), ["ab>"]);
        assert_eq!(case.prepare().unwrap().report.dropped_unlearned, 1);
    }

    #[test]
    fn a_conversation_of_megabytes_is_cut_without_being_tokenised_whole() {
        let long = "long ".repeat(1 << 20);
        let row = serde_json::json!({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": long}]});
        let case = Case::new("a.jsonl", row.to_string(), TextFormat::Chat);
        assert_eq!(case.texts(), ["U:hi|A:long long "]);
        assert_eq!(case.prepare().unwrap().report.shortened, 1);
    }

    #[test]
    fn running_text_of_megabytes_is_learned_whole() {
        let row = serde_json::json!({"text": "long ".repeat(1 << 18)});
        let case = Case::new("a.jsonl", row.to_string(), TextFormat::Text);
        assert_eq!(case.prepare().unwrap().report.targets, 5 * (1 << 18) - 1);
    }
}
