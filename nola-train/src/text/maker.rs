//! Samples in the making: tokenised in parallel, checked, cut to length; running text is cut into windows.

use rayon::prelude::*;

use super::collect::BadRows;
use super::read::blocks;
use super::sample::Encoder;
use super::{
    Beginning, Conversation, Encode, Example, OnLong, Place, Sample, TextError, TextReport, TextSource,
};

/// Examples that are tokenised together, at most; and bytes of text after which they need not be as many.
const CHUNK_EXAMPLES: usize = 4096;
const CHUNK_BYTES: usize = 32 << 20;

/// Samples in the making.
pub(super) struct Maker<'a> {
    source: &'a TextSource<'a>,
    /// Makes no more of a row than a sample can have; running text is needed whole.
    beginning: Beginning<'a>,
    waiting: Vec<(Place, Example)>,
    waiting_bytes: usize,
    samples: Vec<Sample>,
    /// All running text, documents parted by end tokens.
    stream: Vec<u32>,
    report: TextReport,
}

impl<'a> Maker<'a> {
    pub fn new(source: &'a TextSource<'a>) -> Self {
        Self {
            source,
            beginning: Beginning::new(source.tokenizer, source.settings.max_tokens + 1),
            waiting: Vec::new(),
            waiting_bytes: 0,
            samples: Vec::new(),
            stream: Vec::new(),
            report: TextReport::default(),
        }
    }

    /// Adds an example; what tokenizer or template refuse goes to `bad`.
    ///
    /// # Errors
    /// As [`Maker::encode_waiting`].
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
            waiting.par_iter().map(|(_, example)| self.encoder(example).sample(example)).collect();
        for ((place, example), sample) in waiting.into_iter().zip(encoded) {
            match sample {
                Err(problem) => bad.push(place, problem),
                Ok(sample) => {
                    self.check_tokens(&place, &sample)?;
                    self.keep(&example, sample)?;
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

    /// The samples, and all of the report that concerns them.
    pub fn finish(mut self) -> (Vec<Sample>, TextReport) {
        if !self.stream.is_empty() {
            self.stream.extend(self.source.tokenizer.closing());
        }
        let windows: Vec<Sample> = windows(&self.stream, self.source.settings.max_tokens).collect();
        for window in windows {
            self.keep_sample(window);
        }
        let Self { samples, report, beginning, .. } = self;
        let report = TextReport {
            samples: samples.len(),
            shortened: beginning.shortened(),
            tokens: samples.iter().map(Sample::positions).sum(),
            targets: samples.iter().map(Sample::targets).sum(),
            ..report
        };
        (samples, report)
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

    fn keep(&mut self, example: &Example, sample: Sample) -> Result<(), TextError> {
        match example {
            Example::Document(text) if text.is_empty() => self.report.dropped_empty += 1,
            Example::Document(_) => {
                if !self.stream.is_empty() {
                    let format = self.source.format;
                    self.stream.push(self.source.tokenizer.eos().ok_or(TextError::NoEnd { format })?);
                }
                self.stream.extend(sample.ids);
            }
            Example::More(_) => self.stream.extend(sample.ids),
            Example::Pair(_) => self.keep_sample(sample),
            Example::Chat(conversation) => {
                self.count_unread(conversation);
                self.keep_sample(sample);
            }
        }
        Ok(())
    }

    /// Counts what a conversation says and its template does not write.
    fn count_unread(&mut self, conversation: &Conversation) {
        let Some(chat) = self.source.chat else { return };
        for field in conversation.telling().into_iter().filter(|field| !chat.reads(field)) {
            *self.report.unread.entry(field.to_owned()).or_default() += 1;
        }
    }

    fn keep_sample(&mut self, mut sample: Sample) {
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
    use proptest::prelude::*;

    use super::*;

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
}
