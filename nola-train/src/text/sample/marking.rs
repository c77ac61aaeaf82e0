//! Which tokens of a conversation are learned.

use std::ops::Range;

use nola_models::chat::{KnownBy, Rendered};

use super::{Encoder, Sample};
use crate::text::{Dialogue, Loss, RowProblem};

/// A conversation in tokens, of which it is to be said which are learned.
pub(super) struct Marking<'a> {
    pub encoder: Encoder<'a>,
    pub dialogue: &'a Dialogue,
    pub rendered: &'a Rendered,
    pub ids: Vec<u32>,
    /// Bytes of the text that each token stands for.
    pub offsets: Vec<Range<usize>>,
}

impl Marking<'_> {
    /// The tokens with the ranges that are learned.
    pub fn sample(mut self) -> Result<Sample, RowProblem> {
        let mut is_trained = vec![self.encoder.loss == Loss::All; self.ids.len()];
        for turn in &self.rendered.assistant {
            let is_learned = match turn.message {
                Some(message) => self.dialogue.is_learned(message),
                None if self.dialogue.is_all_learned() => true,
                None => return Err(RowProblem::NotToldApart),
            };
            let tokens = self.tokens(&turn.bytes);
            is_trained[tokens].fill(is_learned);
        }
        if self.needs_end() {
            self.ids.extend(self.encoder.tokenizer.eos());
            let last = self.dialogue.conversation.messages.len().saturating_sub(1);
            is_trained.resize(self.ids.len(), self.dialogue.is_learned(last));
        }
        Ok(Sample { ids: self.ids, trained: runs(&is_trained) })
    }

    /// Whether the text ends with the words of an answer, behind which the template writes nothing that says so.
    fn needs_end(&self) -> bool {
        let words = self.dialogue.conversation.messages.last().filter(|message| message.is_answer());
        let words = words.map_or("", |message| message.last_words().trim_end());
        let is_open = !words.is_empty() && self.rendered.text.trim_end().ends_with(words);
        self.rendered.known_by == KnownBy::Text && is_open && !self.ends_already(0..self.ids.len())
    }

    /// The tokens of what the assistant says. The end token after an answer is part of it, even if the template puts a
    /// space before it.
    fn tokens(&self, words: &Range<usize>) -> Range<usize> {
        let start = self.offsets.partition_point(|token| token.end <= words.start);
        let after = self.offsets.partition_point(|token| token.start < words.end);
        let end = match self.rendered.known_by {
            KnownBy::Blocks => None,
            KnownBy::Text => (after..self.ids.len()).find(|&token| !self.is_blank(token)),
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

    /// Whether a token is white space and no end.
    fn is_blank(&self, token: usize) -> bool {
        let text = self.rendered.text.get(self.offsets[token].clone());
        !self.encoder.is_end(self.ids[token]) && text.is_none_or(|part| part.trim().is_empty())
    }
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
    use nola_models::chat::{Conversation, Message};
    use proptest::prelude::*;

    use super::super::tests::{encode, shown};
    use super::*;
    use crate::text::Example;
    use crate::text::fake::{Bytes, EOS, Template};

    fn talk() -> Example {
        Example::Chat(Box::new(dialogue()))
    }

    fn dialogue() -> Dialogue {
        let says = [("user", "hi"), ("assistant", "yo"), ("user", "so"), ("assistant", "no")];
        let messages = says.map(|(role, content)| Message::new(role, content)).to_vec();
        Dialogue { conversation: Conversation::new(messages), left_out: Vec::new() }
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
    fn a_template_that_writes_nothing_behind_an_answer_gets_an_end_token_behind_the_last() {
        for end in ["", "\n", " "] {
            let sample = encode(talk(), &Bytes::default(), end, Loss::Completion);
            let (whole, learned) = shown(&sample);
            assert_eq!((whole, learned.concat()), (format!("U:hi|A:yo{end}U:so|A:no{end}>"), "yono>".into()));
            assert!(shown(&encode(talk(), &Bytes::default(), end, Loss::All)).0.ends_with('>'));
        }
    }

    #[test]
    fn a_template_that_ends_a_turn_itself_gets_no_end_token_whatever_the_list_holds() {
        for (ends, end) in [(vec![EOS], "#"), (vec![EOS], "<end>\n"), (vec![u32::from(b'$'), EOS], ".")] {
            let tokenizer = Bytes { ends, ..Bytes::default() };
            for loss in [Loss::Completion, Loss::All] {
                let whole = format!("U:hi|A:yo{end}U:so|A:no{end}");
                assert_eq!(shown(&encode(talk(), &tokenizer, end, loss)).0, whole);
            }
        }
    }

    #[test]
    fn an_answer_that_is_a_list_is_ended_as_a_text_is() {
        let mut dialogue = dialogue();
        let content = serde_json::json!([{"type": "text", "text": "n"}, {"type": "text", "text": "o "}]);
        let fields = [("role".to_owned(), "assistant".into()), ("content".to_owned(), content)];
        dialogue.conversation.messages[3] = Message::of_fields(fields.into_iter().collect());
        for (end, whole) in [("", "U:hi|A:yoU:so|A:no >"), ("#", "U:hi|A:yo#U:so|A:no #")] {
            let example = Example::Chat(Box::new(dialogue.clone()));
            assert_eq!(shown(&encode(example, &Bytes::default(), end, Loss::Completion)).0, whole);
        }
    }

    #[test]
    fn a_conversation_that_ends_with_the_user_does_not_teach_an_end_there() {
        let mut talk = dialogue();
        talk.conversation.messages.truncate(3);
        for end in ["</s>", ""] {
            let sample =
                encode(Example::Chat(Box::new(talk.clone())), &Bytes::default(), end, Loss::Completion);
            assert!(shown(&sample).0.ends_with("U:so|"));
        }
    }

    #[test]
    fn an_answer_that_is_not_to_be_learned_is_not_and_its_end_neither() {
        let mut talk = dialogue();
        talk.left_out = vec![1];
        let learned = |talk: &Dialogue, end, loss| {
            shown(&encode(Example::Chat(Box::new(talk.clone())), &Bytes::default(), end, loss)).1
        };
        assert_eq!(learned(&talk, "</s>", Loss::Completion), ["no>"]);
        assert_eq!(learned(&talk, "</s>", Loss::All), ["U:hi|A:", "U:so|A:no>"]);
        talk.left_out = vec![1, 3];
        assert_eq!(learned(&talk, "#", Loss::Completion), Vec::<String>::new());
        assert_eq!(learned(&talk, "", Loss::All), ["U:hi|A:", "U:so|A:"]);
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
        assert!(encoder(Loss::Completion).encoded(&talk()).is_err());
        let sample = encoder(Loss::All).encoded(&talk()).unwrap().sample;
        assert_eq!(sample.targets(), sample.positions());
    }

    #[test]
    fn what_template_and_tokenizer_refuse_is_a_problem_of_the_row() {
        let tokenizer = Bytes::default();
        let chat = Template { end: "" };
        let encoder = Encoder { tokenizer: &tokenizer, chat: Some(&chat), loss: Loss::Completion };
        let conversation = Conversation::new(vec![Message::new("tool", "x")]);
        let tool = Example::Chat(Box::new(Dialogue { conversation, ..Dialogue::default() }));
        assert_eq!(encoder.encoded(&tool).unwrap_err().to_string(), "chat template: no tools");
        let document = Example::Document("\u{1}".to_owned());
        assert_eq!(encoder.encoded(&document).unwrap_err().to_string(), "tokenizer: cannot say this");
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
}
