//! From examples to tokens.

mod marking;
mod pair;

use std::ops::Range;

use nola_models::chat::{KnownBy, Rendered};

use super::{ChatRender, Dialogue, Encode, Example, Loss, Pair, RowProblem};
use marking::Marking;
pub use pair::prompt_ids;
use pair::{continued, pair_ids};

/// Tokens, and which of them are learned.
///
/// A sample of n tokens feeds a model n - 1 of them: the last is only predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Ranges of tokens that are learned, in order, without overlap. Told by position: no token is left out because of
    /// its number.
    pub trained: Vec<Range<usize>>,
}

impl Sample {
    /// Tokens of which those from `start` on are learned.
    pub(super) fn learned_from(start: usize, ids: Vec<u32>) -> Self {
        let trained = std::iter::once(start..ids.len()).collect();
        Self { ids, trained }
    }

    /// Tokens that a model is fed with.
    pub fn positions(&self) -> usize {
        self.ids.len().saturating_sub(1)
    }

    /// Tokens that are learned; nothing predicts the first token, so it is none of them.
    pub fn targets(&self) -> usize {
        self.trained.iter().map(|range| range.end - range.start.max(1).min(range.end)).sum()
    }

    /// Cuts off what goes beyond `positions`.
    pub(super) fn cut(&mut self, positions: usize) {
        self.ids.truncate(positions + 1);
        let end = self.ids.len();
        self.trained.retain(|range| range.start < end);
        if let Some(last) = self.trained.last_mut() {
            last.end = last.end.min(end);
        }
    }
}

/// A sample, and what of its row is not in it.
#[derive(Debug)]
pub(super) struct Encoded {
    pub sample: Sample,
    /// The names of what a conversation says and its chat template does not read.
    pub unread: Vec<String>,
}

/// What turns examples into samples.
#[derive(Clone, Copy)]
pub(super) struct Encoder<'a> {
    pub tokenizer: &'a dyn Encode,
    pub chat: Option<&'a dyn ChatRender>,
    pub loss: Loss,
}

impl Encoder<'_> {
    /// The sample of an example; one of running text has no end token.
    pub fn encoded(&self, example: &Example) -> Result<Encoded, RowProblem> {
        let mut sample = match example {
            Example::Document(text) => self.running(text)?,
            Example::More(text) => self.more(text)?,
            Example::Pair(pair) => self.pair(pair)?,
            Example::Chat(dialogue) => return self.conversation(dialogue),
        };
        if self.loss == Loss::All {
            sample = Sample::learned_from(0, sample.ids);
        }
        Ok(Encoded { sample, unread: Vec::new() })
    }

    fn running(&self, text: &str) -> Result<Sample, RowProblem> {
        let mut ids: Vec<u32> = self.tokenizer.bos().into_iter().collect();
        ids.extend(self.tokenizer.encode(text).map_err(RowProblem::Tokenizer)?);
        Ok(Sample::learned_from(0, ids))
    }

    /// Running text behind a line that was tokenised before.
    fn more(&self, text: &str) -> Result<Sample, RowProblem> {
        let ids = continued(text, self.tokenizer).map_err(RowProblem::Tokenizer)?;
        Ok(Sample::learned_from(0, ids))
    }

    fn pair(&self, pair: &Pair) -> Result<Sample, RowProblem> {
        let (mut ids, start) = pair_ids(pair, self.tokenizer).map_err(RowProblem::Tokenizer)?;
        if !ids[start..].last().is_some_and(|&last| self.is_end(last)) {
            ids.extend(self.tokenizer.eos());
        }
        Ok(Sample::learned_from(start, ids))
    }

    fn conversation(&self, dialogue: &Dialogue) -> Result<Encoded, RowProblem> {
        let chat = self.chat.expect("conversations are only read with a chat template");
        let conversation = &dialogue.conversation;
        // All words need no answer to be found, which some templates make hard.
        let rendered = if self.loss == Loss::All && dialogue.is_all_learned() {
            let text = chat.text(conversation).map_err(RowProblem::Template)?;
            Rendered { text, assistant: Vec::new(), known_by: KnownBy::Text }
        } else {
            chat.render(conversation).map_err(RowProblem::Template)?
        };
        let unread = chat.unread(conversation, &rendered.text);
        let (ids, offsets) =
            self.tokenizer.encode_with_offsets(&rendered.text).map_err(RowProblem::Tokenizer)?;
        let sample = Marking { encoder: *self, dialogue, rendered: &rendered, ids, offsets }.sample()?;
        Ok(Encoded { sample, unread })
    }

    fn is_end(&self, id: u32) -> bool {
        self.tokenizer.ends().contains(&id)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::fake::{BOS, Bytes, EOS, Template, text_of};
    use super::*;
    use crate::text::{Part, Separator};

    pub fn encode(example: Example, tokenizer: &Bytes, end: &'static str, loss: Loss) -> Sample {
        let chat = Template { end };
        Encoder { tokenizer, chat: Some(&chat), loss }.encoded(&example).unwrap().sample
    }

    /// The whole text, and the parts that are learned.
    pub fn shown(sample: &Sample) -> (String, Vec<String>) {
        let parts = sample.trained.iter().map(|range| text_of(&sample.ids[range.clone()]));
        (text_of(&sample.ids), parts.collect())
    }

    fn pair(joint: Separator, completion: &str) -> Example {
        let (prompt, completion) = ("in".to_owned(), completion.to_owned());
        Example::Pair(Pair { prompt, completion, joint, part: Part::Whole })
    }

    #[test]
    fn of_a_pair_the_completion_and_its_end_are_learned() {
        let sample = encode(pair(Separator::None, "out"), &Bytes::default(), "", Loss::Completion);
        assert_eq!(shown(&sample), ("inout>".to_owned(), vec!["out>".to_owned()]));
    }

    #[test]
    fn the_e2e_form_puts_an_end_token_and_a_space_between() {
        let sample = encode(pair(Separator::EndAndSpace, "out"), &Bytes::default(), "", Loss::Completion);
        assert_eq!(shown(&sample), ("in> out>".to_owned(), vec![" out>".to_owned()]));
    }

    #[test]
    fn a_tokenizer_with_a_start_token_puts_it_before_the_prompt() {
        let tokenizer = Bytes { bos: Some(BOS), ..Bytes::default() };
        let sample = encode(pair(Separator::None, "out"), &tokenizer, "", Loss::Completion);
        assert_eq!(shown(&sample), ("<inout>".to_owned(), vec!["out>".to_owned()]));
    }

    #[test]
    fn a_completion_that_ends_itself_gets_no_second_end() {
        let sample = encode(pair(Separator::None, "out</s>"), &Bytes::default(), "", Loss::Completion);
        assert_eq!(shown(&sample).0, "inout>");
        let tokenizer = Bytes { ends: vec![EOS, u32::from(b'#')], ..Bytes::default() };
        assert_eq!(
            shown(&encode(pair(Separator::None, "out#"), &tokenizer, "", Loss::Completion)).0,
            "inout#"
        );
    }

    #[test]
    fn an_empty_completion_still_teaches_the_end() {
        let sample = encode(pair(Separator::None, ""), &Bytes::default(), "", Loss::Completion);
        assert_eq!(shown(&sample), ("in>".to_owned(), vec![">".to_owned()]));
    }

    #[test]
    fn loss_on_all_learns_all_but_the_first_token() {
        let sample = encode(pair(Separator::None, "out"), &Bytes::default(), "", Loss::All);
        assert_eq!((sample.targets(), sample.positions()), (5, 5));
    }

    #[test]
    fn what_follows_the_prompt_in_a_sample_is_what_generation_starts_from() {
        let tokenizer = Bytes { bos: Some(BOS), ..Bytes::default() };
        for joint in [Separator::None, Separator::EndAndSpace] {
            let example = pair(joint, "out");
            let sample = encode(example.clone(), &tokenizer, "", Loss::Completion);
            let Example::Pair(pair) = example else { unreachable!() };
            assert_eq!(prompt_ids(&pair, &tokenizer).unwrap(), sample.ids[..sample.trained[0].start]);
        }
    }

    #[test]
    fn a_token_is_not_left_out_because_it_looks_like_padding() {
        let example = pair(Separator::None, "</s>\0</s>");
        let sample = encode(example, &Bytes { ends: vec![EOS], ..Bytes::default() }, "", Loss::Completion);
        assert_eq!(sample.targets(), 3);
    }
}
