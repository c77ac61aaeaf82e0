//! From examples to tokens.

use std::ops::Range;

use super::{
    ChatRender, Conversation, Encode, EndedBy, Example, Joint, Loss, Pair, Rendered, Role, RowProblem,
};

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

/// What turns examples into samples.
#[derive(Clone, Copy)]
pub(super) struct Encoder<'a> {
    pub tokenizer: &'a dyn Encode,
    pub chat: Option<&'a dyn ChatRender>,
    pub loss: Loss,
}

impl Encoder<'_> {
    /// The sample of an example; one of running text has no end token.
    pub fn sample(&self, example: &Example) -> Result<Sample, RowProblem> {
        let sample = match example {
            Example::Document(text) => self.running(text)?,
            Example::More(text) => self.more(text)?,
            Example::Pair(pair) => self.pair(pair)?,
            Example::Chat(conversation) => return self.conversation(conversation),
        };
        match self.loss {
            Loss::Completion => Ok(sample),
            Loss::All => Ok(Sample::learned_from(0, sample.ids)),
        }
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
        if ids[start..].last().copied() != self.tokenizer.eos() {
            ids.extend(self.tokenizer.eos());
        }
        Ok(Sample::learned_from(start, ids))
    }

    fn conversation(&self, conversation: &Conversation) -> Result<Sample, RowProblem> {
        let chat = self.chat.expect("conversations are only read with a chat template");
        // All words need no answer to be found, which some templates make hard.
        let rendered = if self.loss == Loss::All && conversation.is_all_learned() {
            let text = chat.text(conversation).map_err(RowProblem::Template)?;
            Rendered { text, said: Vec::new(), ended_by: EndedBy::EndToken }
        } else {
            chat.render(conversation).map_err(RowProblem::Template)?
        };
        let (ids, offsets) =
            self.tokenizer.encode_with_offsets(&rendered.text).map_err(RowProblem::Tokenizer)?;
        Marking { encoder: *self, conversation, rendered: &rendered, ids, offsets }.sample()
    }

    fn is_end(&self, id: u32) -> bool {
        self.tokenizer.ends().contains(&id)
    }
}

/// A conversation in tokens, of which it is to be said which are learned.
struct Marking<'a> {
    encoder: Encoder<'a>,
    conversation: &'a Conversation,
    rendered: &'a Rendered,
    ids: Vec<u32>,
    /// Bytes of the text that each token stands for.
    offsets: Vec<Range<usize>>,
}

impl Marking<'_> {
    fn sample(mut self) -> Result<Sample, RowProblem> {
        let mut is_trained = vec![self.encoder.loss == Loss::All; self.ids.len()];
        for said in &self.rendered.said {
            let is_learned = match said.message {
                Some(message) => self.conversation.is_learned(message),
                None if self.conversation.is_all_learned() => true,
                None => return Err(RowProblem::NotToldApart),
            };
            let tokens = self.tokens(&said.bytes);
            is_trained[tokens].fill(is_learned);
        }
        let last = self.conversation.messages.len().saturating_sub(1);
        let is_answer =
            self.conversation.messages.last().is_some_and(|message| message.role == Role::Assistant);
        if self.rendered.ended_by == EndedBy::EndToken && is_answer && !self.has_end() {
            self.ids.extend(self.encoder.tokenizer.eos());
            is_trained.resize(self.ids.len(), self.conversation.is_learned(last));
        }
        Ok(Sample { ids: self.ids, trained: runs(&is_trained) })
    }

    /// The tokens of what the assistant says. The end token after an answer is part of it, even if the template puts a
    /// space before it.
    fn tokens(&self, words: &Range<usize>) -> Range<usize> {
        let start = self.offsets.partition_point(|token| token.end <= words.start);
        let after = self.offsets.partition_point(|token| token.start < words.end);
        let end = match self.rendered.ended_by {
            EndedBy::Template => None,
            EndedBy::EndToken => (after..self.ids.len()).find(|&token| !self.is_blank(token)),
        };
        let end = end.filter(|&end| self.encoder.is_end(self.ids[end]) && !self.ends_already(start..after));
        start.min(after)..end.map_or(after, |end| end + 1)
    }

    fn ends_already(&self, tokens: Range<usize>) -> bool {
        tokens
            .clone()
            .rev()
            .find(|&token| !self.is_blank(token))
            .is_some_and(|last| self.encoder.is_end(self.ids[last]))
    }

    fn has_end(&self) -> bool {
        self.ends_already(0..self.ids.len())
    }

    /// Whether a token is white space and no end.
    fn is_blank(&self, token: usize) -> bool {
        let text = self.rendered.text.get(self.offsets[token].clone());
        !self.encoder.is_end(self.ids[token]) && text.is_none_or(|part| part.trim().is_empty())
    }
}

/// The tokens after which a model is to say the completion of a pair.
///
/// # Errors
/// What the tokenizer said.
pub fn prompt_ids(pair: &Pair, tokenizer: &dyn Encode) -> Result<Vec<u32>, String> {
    let mut ids: Vec<u32> = tokenizer.bos().into_iter().collect();
    ids.extend(tokenizer.encode(&pair.prompt)?);
    match pair.joint {
        Joint::None => {}
        Joint::EndAndSpace => ids.extend(tokenizer.eos()),
    }
    Ok(ids)
}

/// The tokens of prompt and completion, and the place of the first that is learned.
///
/// Both are tokenised as the one text that they are. Where its tokens do not begin with those of the prompt alone, because a
/// token reaches from one into the other, the completion's tokens stand behind the prompt's own: generating begins with those.
fn pair_ids(pair: &Pair, tokenizer: &dyn Encode) -> Result<(Vec<u32>, usize), String> {
    let prompt = prompt_ids(pair, tokenizer)?;
    let start = prompt.len();
    let completion = match pair.joint {
        // A special token parts the texts for the tokenizer too.
        Joint::EndAndSpace => tokenizer.encode(&format!(" {}", pair.completion))?,
        Joint::None => {
            let joint = tokenizer.encode(&format!("{}{}", pair.prompt, pair.completion))?;
            let joint: Vec<u32> = tokenizer.bos().into_iter().chain(joint).collect();
            if joint.starts_with(&prompt) {
                return Ok((joint, start));
            }
            continued(&pair.completion, tokenizer)?
        }
    };
    Ok(([prompt, completion].concat(), start))
}

/// The tokens of a text that goes on behind another one: a space that the tokenizer puts before every text is not in it.
fn continued(text: &str, tokenizer: &dyn Encode) -> Result<Vec<u32>, String> {
    let (mut ids, offsets) = tokenizer.encode_with_offsets(&format!("\n{text}"))?;
    let start = offsets.iter().position(|token| token.end > 1).unwrap_or(ids.len());
    if offsets.get(start).is_some_and(|token| token.start == 0) {
        // The end of the line and what follows are one token, so the two cannot be told apart.
        return tokenizer.encode(text);
    }
    ids.drain(..start);
    Ok(ids)
}

/// The ranges in which `flags` hold.
fn runs(flags: &[bool]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, _) in flags.iter().enumerate().filter(|(_, flag)| **flag) {
        match runs.last_mut() {
            Some(run) if run.end == index => run.end += 1,
            Some(_) | None => runs.push(index..index + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fake::{BOS, Bytes, EOS, Template, text_of};
    use super::*;
    use crate::text::{Learned, Message, Part};

    fn encode(example: Example, tokenizer: &Bytes, end: &'static str, loss: Loss) -> Sample {
        let chat = Template { end };
        Encoder { tokenizer, chat: Some(&chat), loss }.sample(&example).unwrap()
    }

    /// The whole text, and the parts that are learned.
    fn shown(sample: &Sample) -> (String, Vec<String>) {
        let parts = sample.trained.iter().map(|range| text_of(&sample.ids[range.clone()]));
        (text_of(&sample.ids), parts.collect())
    }

    fn pair(joint: Joint, completion: &str) -> Example {
        let (prompt, completion) = ("in".to_owned(), completion.to_owned());
        Example::Pair(Pair { prompt, completion, joint, part: Part::Whole })
    }

    #[test]
    fn of_a_pair_the_completion_and_its_end_are_learned() {
        let sample = encode(pair(Joint::None, "out"), &Bytes::default(), "", Loss::Completion);
        assert_eq!(shown(&sample), ("inout>".to_owned(), vec!["out>".to_owned()]));
    }

    #[test]
    fn the_e2e_form_puts_an_end_token_and_a_space_between() {
        let sample = encode(pair(Joint::EndAndSpace, "out"), &Bytes::default(), "", Loss::Completion);
        assert_eq!(shown(&sample), ("in> out>".to_owned(), vec![" out>".to_owned()]));
    }

    #[test]
    fn a_tokenizer_with_a_start_token_puts_it_before_the_prompt() {
        let tokenizer = Bytes { bos: Some(BOS), ..Bytes::default() };
        let sample = encode(pair(Joint::None, "out"), &tokenizer, "", Loss::Completion);
        assert_eq!(shown(&sample), ("<inout>".to_owned(), vec!["out>".to_owned()]));
    }

    #[test]
    fn a_completion_that_ends_itself_gets_no_second_end() {
        let sample = encode(pair(Joint::None, "out</s>"), &Bytes::default(), "", Loss::Completion);
        assert_eq!(shown(&sample).0, "inout>");
    }

    #[test]
    fn an_empty_completion_still_teaches_the_end() {
        let sample = encode(pair(Joint::None, ""), &Bytes::default(), "", Loss::Completion);
        assert_eq!(shown(&sample), ("in>".to_owned(), vec![">".to_owned()]));
    }

    #[test]
    fn loss_on_all_learns_all_but_the_first_token() {
        let sample = encode(pair(Joint::None, "out"), &Bytes::default(), "", Loss::All);
        assert_eq!((sample.targets(), sample.positions()), (5, 5));
    }

    #[test]
    fn what_follows_the_prompt_in_a_sample_is_what_generation_starts_from() {
        let tokenizer = Bytes { bos: Some(BOS), ..Bytes::default() };
        for joint in [Joint::None, Joint::EndAndSpace] {
            let example = pair(joint, "out");
            let sample = encode(example.clone(), &tokenizer, "", Loss::Completion);
            let Example::Pair(pair) = example else { unreachable!() };
            assert_eq!(prompt_ids(&pair, &tokenizer).unwrap(), sample.ids[..sample.trained[0].start]);
        }
    }

    /// A tokenizer that puts `_` before every text and for every space, and makes one token of `ab`.
    struct Spaced;

    impl Encode for Spaced {
        fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
            Ok(self.encode_with_offsets(text)?.0)
        }

        fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), String> {
            let (mut ids, mut offsets) =
                (vec![u32::from(b'_')], std::iter::once(0..text.len().min(1)).collect::<Vec<_>>());
            let mut at = 0;
            while at < text.len() {
                let length = if text[at..].starts_with("ab") { 2 } else { 1 };
                ids.push(match &text[at..at + length] {
                    "ab" => u32::from(b'#'),
                    " " => u32::from(b'_'),
                    other => other.as_bytes()[0].into(),
                });
                offsets.push(at..at + length);
                at += length;
            }
            Ok((ids, offsets))
        }

        fn bos(&self) -> Option<u32> {
            Some(BOS)
        }

        fn ends(&self) -> &[u32] {
            &[EOS]
        }

        fn vocab_size(&self) -> usize {
            258
        }

        fn fingerprint(&self) -> String {
            "spaced".to_owned()
        }
    }

    fn spaced(example: Example) -> (String, Vec<String>) {
        let encoder = Encoder { tokenizer: &Spaced, chat: None, loss: Loss::Completion };
        shown(&encoder.sample(&example).unwrap())
    }

    #[test]
    fn no_space_that_is_in_neither_text_stands_between_prompt_and_completion() {
        for (prompt, completion, whole, learned) in [
            ("in?", "\nout", "<_in?\nout>", "\nout>"),
            ("in", "out", "<_inout>", "out>"),
            ("in", " out", "<_in_out>", "_out>"),
            ("in ", "out", "<_in_out>", "out>"),
            ("", "out", "<_out>", "out>"),
        ] {
            let (prompt, completion) = (prompt.to_owned(), completion.to_owned());
            let pair = Pair { prompt, completion, joint: Joint::None, part: Part::Whole };
            assert_eq!(spaced(Example::Pair(pair)), (whole.to_owned(), vec![learned.to_owned()]));
        }
    }

    #[test]
    fn no_token_reaches_over_the_seam() {
        let (prompt, completion) = ("xa".to_owned(), "b!".to_owned());
        let pair = Pair { prompt, completion, joint: Joint::None, part: Part::Whole };
        assert_eq!(spaced(Example::Pair(pair)), ("<_xab!>".to_owned(), vec!["b!>".to_owned()]));
    }

    #[test]
    fn running_text_goes_on_without_a_space_that_is_not_in_it() {
        let text = |example| spaced(example).0;
        assert_eq!(text(Example::Document("on".to_owned())), "<_on");
        assert_eq!(text(Example::More("on".to_owned())), "on");
        assert_eq!(text(Example::More(" on".to_owned())), "_on");
        assert_eq!(text(Example::More(String::new())), "");
    }

    fn talk() -> Example {
        Example::Chat(conversation())
    }

    fn conversation() -> Conversation {
        let says = [(Role::User, "hi"), (Role::Assistant, "yo"), (Role::User, "so"), (Role::Assistant, "no")];
        let messages = says.map(|(role, content)| Message::new(role, content)).to_vec();
        Conversation { messages, ..Conversation::default() }
    }

    #[test]
    fn of_a_conversation_every_answer_with_its_end_is_learned() {
        let sample = encode(talk(), &Bytes::default(), "</s>", Loss::Completion);
        assert_eq!(
            shown(&sample),
            ("U:hi|A:yo>U:so|A:no>".to_owned(), vec!["yo>".to_owned(), "no>".to_owned()])
        );
    }

    #[test]
    fn a_space_before_the_end_token_is_learned_with_it() {
        let sample = encode(talk(), &Bytes::default(), " </s>\n", Loss::Completion);
        assert_eq!(shown(&sample).1, ["yo >", "no >"]);
        assert_eq!(shown(&sample).0, "U:hi|A:yo >\nU:so|A:no >\n");
    }

    #[test]
    fn a_template_without_end_token_gets_one_after_the_last_answer() {
        let sample = encode(talk(), &Bytes::default(), "#", Loss::Completion);
        assert_eq!(
            shown(&sample),
            ("U:hi|A:yo#U:so|A:no#>".to_owned(), vec!["yo".into(), "no".into(), ">".into()])
        );
    }

    #[test]
    fn a_conversation_that_ends_with_the_user_does_not_teach_an_end_there() {
        let mut talk = conversation();
        talk.messages.truncate(3);
        let sample = encode(Example::Chat(talk), &Bytes::default(), "</s>", Loss::Completion);
        assert_eq!(shown(&sample), ("U:hi|A:yo>U:so|".to_owned(), vec!["yo>".to_owned()]));
    }

    #[test]
    fn an_answer_that_is_not_to_be_learned_is_not_and_its_end_neither() {
        let mut talk = conversation();
        talk.messages[1].learned = Learned::No;
        let learned = |talk: &Conversation, end, loss| {
            shown(&encode(Example::Chat(talk.clone()), &Bytes::default(), end, loss)).1
        };
        assert_eq!(learned(&talk, "</s>", Loss::Completion), ["no>"]);
        assert_eq!(learned(&talk, "</s>", Loss::All), ["U:hi|A:", "U:so|A:no>"]);
        talk.messages[3].learned = Learned::No;
        assert_eq!(learned(&talk, "#", Loss::Completion), Vec::<String>::new());
        assert_eq!(learned(&talk, "#", Loss::All), ["U:hi|A:", "#U:so|A:", "#"]);
    }

    #[test]
    fn any_end_token_of_the_list_that_ends_a_turn_is_enough() {
        for (ends, end, all, answers) in [
            (vec![EOS, u32::from(b'#')], "#", "U:hi|A:yo#U:so|A:no#", ["yo#", "no#"]),
            (vec![u32::from(b'$'), EOS, u32::from(b'#')], "#\n", "U:hi|A:yo#\nU:so|A:no#\n", ["yo#", "no#"]),
            (vec![u32::from(b'#'), EOS], "</s>", "U:hi|A:yo>U:so|A:no>", ["yo>", "no>"]),
        ] {
            let tokenizer = Bytes { ends, ..Bytes::default() };
            let (text, learned) = shown(&encode(talk(), &tokenizer, end, Loss::Completion));
            assert_eq!((text.as_str(), learned), (all, answers.map(str::to_owned).to_vec()));
        }
    }

    #[test]
    fn only_the_first_end_token_behind_an_answer_is_learned() {
        let ends = vec![EOS, u32::from(b'#')];
        let sample = encode(talk(), &Bytes { ends, ..Bytes::default() }, "# </s>", Loss::Completion);
        assert_eq!(shown(&sample).1, ["yo#", "no#"]);
    }

    #[test]
    fn all_words_are_learned_where_no_answer_can_be_found() {
        let tokenizer = Bytes::default();
        let chat = Template { end: Template::UNCLEAR };
        let encoder = |loss| Encoder { tokenizer: &tokenizer, chat: Some(&chat), loss };
        assert!(encoder(Loss::Completion).sample(&talk()).is_err());
        let sample = encoder(Loss::All).sample(&talk()).unwrap();
        assert_eq!(sample.targets(), sample.positions());
    }

    #[test]
    fn what_template_and_tokenizer_refuse_is_a_problem_of_the_row() {
        let tokenizer = Bytes::default();
        let chat = Template { end: "" };
        let encoder = Encoder { tokenizer: &tokenizer, chat: Some(&chat), loss: Loss::Completion };
        let messages = vec![Message::new(Role::Tool, "x")];
        let tool = Example::Chat(Conversation { messages, ..Conversation::default() });
        assert_eq!(encoder.sample(&tool).unwrap_err().to_string(), "chat template: no tools");
        let document = Example::Document("\u{1}".to_owned());
        assert_eq!(encoder.sample(&document).unwrap_err().to_string(), "tokenizer: cannot say this");
    }

    proptest! {
        #[test]
        fn cutting_keeps_the_start_and_what_is_learned_of_it(
            flags in proptest::collection::vec(any::<bool>(), 2..40),
            positions in 1usize..45,
        ) {
            let ids: Vec<u32> = (0..flags.len() as u32).collect();
            let mut sample = Sample { ids: ids.clone(), trained: runs(&flags) };
            sample.cut(positions);
            let kept = flags.len().min(positions + 1);
            prop_assert_eq!(&sample.ids, &ids[..kept]);
            prop_assert_eq!(sample.trained.clone(), runs(&flags[..kept]));
            prop_assert_eq!(sample.targets(), flags[1..kept].iter().filter(|flag| **flag).count());
        }
    }

    #[test]
    fn a_token_is_not_left_out_because_it_looks_like_padding() {
        let example = pair(Joint::None, "</s>\0</s>");
        let sample = encode(example, &Bytes { ends: vec![EOS], ..Bytes::default() }, "", Loss::Completion);
        assert_eq!(sample.targets(), 3);
    }
}
