//! Which words of a conversation's text are the assistant's.
//!
//! A template may say so itself, with `{% generation %}` blocks. Else most templates write the first messages of a
//! conversation as they write them alone, so that an answer starts where the prompt for it ends. Where later messages
//! change how earlier ones are written, an answer is found by marks that are put into the messages around it.

use std::ops::Range;

use super::program::BLOCK_MARKS;
use super::{ChatError, ChatTemplate, Conversation, Message, Prompt};

/// Marks put into messages; Unicode keeps these for the use of programs.
const BEFORE: char = '\u{fdd2}';
const WITHIN: char = '\u{fdd3}';

/// The text of a conversation, and which of it the assistant says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The whole text.
    pub text: String,
    /// What the assistant says, in order.
    pub assistant: Vec<Turn>,
    /// Who says so.
    pub known_by: KnownBy,
}

/// What the assistant says at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The message, counted from 0, if it is known.
    pub message: Option<usize>,
    /// Bytes of the text.
    pub bytes: Range<usize>,
}

/// How the words of the assistant are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownBy {
    /// By the template's own `{% generation %}` blocks, which mark all that is to be learned.
    Blocks,
    /// By the text: all from the end of a prompt for the answer to the mark that ends the turn.
    Text,
}

impl ChatTemplate {
    /// The text of a conversation, and which of it the assistant says: what is in `{% generation %}` blocks if the
    /// template has them; else all from the end of what a prompt for the answer would be to the mark that ends the turn,
    /// which is what a model must learn to write.
    ///
    /// Space behind that mark is not counted, for nobody reads what a model writes behind it.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; and if the template does not let an answer be found.
    pub fn assistant_spans(&self, conversation: &Conversation) -> Result<Rendered, ChatError> {
        let answers = conversation.messages.iter().enumerate().filter(|(_, message)| message.is_answer());
        let answers: Vec<usize> = answers.map(|(index, _)| index).collect();
        if self.has_blocks(conversation) {
            let marked = self.written(conversation, Prompt::Complete)?;
            return Ok(of_blocks(&marked, &answers));
        }
        let text = self.render(conversation, Prompt::Complete)?;
        let turn = |message: usize| {
            let bytes = self.turn(conversation, &text, message)?;
            Ok(Turn { message: Some(message), bytes })
        };
        let assistant = answers.into_iter().map(turn).collect::<Result<_, ChatError>>()?;
        Ok(Rendered { text, assistant, known_by: KnownBy::Text })
    }

    /// Where in `text` the answer at `index` is.
    fn turn(&self, conversation: &Conversation, text: &str, index: usize) -> Result<Range<usize>, ChatError> {
        let before = self.render(&conversation.first(index), Prompt::Generation);
        let through = self.render(&conversation.first(index + 1), Prompt::Complete);
        if let (Ok(before), Ok(through)) = (&before, &through)
            && text.starts_with(through.as_str())
            && let Some(turn) = through.strip_prefix(before.as_str())
        {
            let length = turn_bytes(turn, conversation.messages[index].last_words());
            return Ok(before.len()..before.len() + length);
        }
        let marked = Marked { template: self, conversation, text, index };
        let unclear = || ChatError::Unclear { file: self.file.clone(), message: index + 1 };
        marked.turn().ok_or_else(|| before.and(through).err().unwrap_or_else(unclear))
    }
}

/// An answer that is looked for by marks.
struct Marked<'a> {
    template: &'a ChatTemplate,
    conversation: &'a Conversation,
    text: &'a str,
    index: usize,
}

impl Marked<'_> {
    fn turn(&self) -> Option<Range<usize>> {
        if self.text.contains([BEFORE, WITHIN]) {
            return None;
        }
        let start = self.start()?;
        let turn = self.text.get(start..self.end(start)?)?;
        Some(start..start + turn_bytes(turn, self.answer().last_words()))
    }

    fn answer(&self) -> &Message {
        &self.conversation.messages[self.index]
    }

    /// Where the answer starts: behind the head of an answer that a prompt ends with, if the text has it there; else as far
    /// as the text, that prompt, and the text with another answer agree.
    fn start(&self) -> Option<usize> {
        let marked = self.behind_the_message_before(self.conversation.clone());
        let tail = self.tail_in_text(&marked)?;
        let other = self.conversation.with(self.index, self.answer().saying(&WITHIN.to_string()));
        let other = self.behind_the_message_before(other);
        let other = behind(BEFORE, &self.written(&other, Prompt::Complete)?)?;
        let before = &other[..common(tail, &other)];
        let head = self.head();
        let agreed = match behind_head(before, &head) {
            Some(agreed) => agreed,
            None => self.agreed_with_prompt(before, &head)?,
        };
        Some(self.text.len() - tail.len() + agreed)
    }

    /// The head of an answer that a prompt ends with; empty if a template has none.
    fn head(&self) -> String {
        let before = self.conversation.first(self.index);
        let [with, without] =
            [Prompt::Generation, Prompt::Complete].map(|prompt| self.written(&before, prompt));
        let head =
            with.zip(without).and_then(|(with, without)| with.strip_prefix(&without).map(str::to_owned));
        head.unwrap_or_default()
    }

    /// How much of `before` is in a prompt for the answer, some of its head included.
    fn agreed_with_prompt(&self, before: &str, head: &str) -> Option<usize> {
        let prompt = self.behind_the_message_before(self.conversation.first(self.index));
        let prompt = self.written(&prompt, Prompt::Generation).and_then(|text| behind(BEFORE, &text));
        let Some(prompt) = prompt else { return Some(before.len()) };
        let agreed = common(before, &prompt);
        let reaches_head = agreed == prompt.len() || agreed + head.len() > prompt.len();
        (agreed == before.len() || reaches_head).then_some(agreed)
    }

    /// Where the answer ends: as far behind its words as the text and that of a conversation that ends here agree.
    fn end(&self, start: usize) -> Option<usize> {
        if self.index + 1 == self.conversation.messages.len() {
            return Some(self.text.len());
        }
        let marked = self.conversation.with(self.index, self.answer().marked(WITHIN));
        let tail = behind(WITHIN, &self.written(&marked, Prompt::Complete)?)?;
        let alone = self.written(&marked.first(self.index + 1), Prompt::Complete);
        let alone = alone.and_then(|text| behind(WITHIN, &text)).unwrap_or_default();
        // Some templates put a line end only behind words that there are.
        let both = [[&tail, &alone].map(|it| it.as_str()), [&tail, &alone].map(|it| it.trim_start())];
        let [tail, alone] = both.into_iter().find(|[tail, _]| self.text.ends_with(tail))?;
        Some(self.text.len() - tail.len() + agreed(tail, alone)).filter(|end| *end > start)
    }

    /// A mark behind the words of the message before the answer; none where there is no such message.
    fn behind_the_message_before(&self, conversation: Conversation) -> Conversation {
        match self.index.checked_sub(1) {
            None => conversation,
            Some(before) => conversation.with(before, conversation.messages[before].marked(BEFORE)),
        }
    }

    /// What of the text is behind the message before the answer.
    fn tail_in_text(&self, marked: &Conversation) -> Option<&str> {
        let whole = self.written(marked, Prompt::Complete)?;
        let tail = behind(BEFORE, &whole).filter(|_| whole.replace(BEFORE, "") == self.text)?;
        self.text.get(self.text.len() - tail.len()..)
    }

    fn written(&self, conversation: &Conversation, prompt: Prompt) -> Option<String> {
        self.template.render(conversation, prompt).ok()
    }
}

/// Where a text goes on behind the last head of an answer; the space around a head may differ.
fn behind_head(before: &str, head: &str) -> Option<usize> {
    if head.trim().is_empty() {
        return None;
    }
    if let Some(at) = before.rfind(head) {
        return Some(at + head.len());
    }
    let end = before.rfind(head.trim())? + head.trim().len();
    let space = &head[head.trim_end().len()..];
    Some(end + common(&before[end..], space))
}

/// What is behind a mark that is there once; all of the text if no mark was put.
fn behind(mark: char, text: &str) -> Option<String> {
    match text.matches(mark).count() {
        0 if mark == BEFORE => Some(text.to_owned()),
        1 => text.split_once(mark).map(|(_, tail)| tail.to_owned()),
        _ => None,
    }
}

/// Length of what two texts have in common from their start.
fn common(a: &str, b: &str) -> usize {
    a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b).map_or(a.len().min(b.len()), |((at, _), _)| at)
}

/// The same; a mark such as `<|end|>` is counted whole where it ends the turn, and not at all where one comes before it.
fn agreed(tail: &str, alone: &str) -> usize {
    let length = common(tail, alone);
    let is_cut = length < tail.len() && length < alone.len();
    let open = tail[..length].rfind(['<', '[']).filter(|open| !tail[*open..length].contains(['>', ']']));
    match open.filter(|_| is_cut) {
        None => length,
        Some(open) if tail[..open].trim().is_empty() => {
            tail[open..].find(['>', ']']).map_or(open, |close| open + close + 1)
        }
        Some(open) => open,
    }
}

/// Length of a turn in bytes, without space behind the mark that ends it; space alone is such a mark, too.
fn turn_bytes(turn: &str, words: &str) -> usize {
    let (trimmed, words) = (turn.trim_end(), words.trim_end());
    let has_mark = if words.is_empty() { !trimmed.is_empty() } else { !trimmed.ends_with(words) };
    if has_mark { trimmed.len() } else { turn.len() }
}

/// The text without the marks of blocks, and what is between them.
fn of_blocks(marked: &str, answers: &[usize]) -> Rendered {
    let (mut text, mut open) = (String::new(), Vec::new());
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for char in marked.chars() {
        if char == BLOCK_MARKS[0] {
            open.push(text.len());
        } else if char == BLOCK_MARKS[1] {
            ranges.extend(open.pop().map(|start| start..text.len()));
        } else {
            text.push(char);
        }
    }
    let is_each_an_answer = ranges.len() == answers.len();
    let message = |index: usize| is_each_an_answer.then(|| answers[index]);
    let turns = ranges.into_iter().enumerate().map(|(index, bytes)| Turn { message: message(index), bytes });
    Rendered { text, assistant: turns.collect(), known_by: KnownBy::Blocks }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{answers_of, template};
    use super::*;

    /// `user: words`, the assistant's in turn.
    fn talk(words: &[&str]) -> Conversation {
        let message = |(index, words): (usize, &&str)| Message::new(["user", "assistant"][index % 2], *words);
        Conversation::new(words.iter().enumerate().map(message).collect())
    }

    /// Drops thoughts; a prompt for an answer starts with some (DeepSeek-R1).
    const DROPS: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<U>{{ m.content }}{% else %}\
        {% set c = m.content %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}<A>{{ c }}<E>\
        {% endif %}{% endfor %}{% if add_generation_prompt %}<A><think>\n{% endif %}";

    /// Drops thoughts of all answers but the last (Qwen3).
    const KEEPS_LAST: &str = "{% for m in messages %}{% set c = m.content %}{% set t = '' %}{% if '</think>' in c %}\
        {% set t = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}{% set c = c.split('</think>')[-1].lstrip('\n') %}\
        {% endif %}<|im_start|>{{ m.role }}\n\
        {% if m.role == 'assistant' and loop.last %}{{ '<think>\n' + t + '\n</think>\n\n' }}{% endif %}{{ c }}<|im_end|>\n\n\
        {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}";

    /// Puts the system message into the last question (Mistral).
    const MOVES: &str = "{% if messages[0].role == 'system' %}{% set s = messages[0].content %}{% set rest = messages[1:] %}\
        {% else %}{% set s = '' %}{% set rest = messages %}{% endif %}{{ bos_token }}\
        {% set last = (rest|selectattr('role', 'equalto', 'user')|list)[-1] %}\
        {% for m in rest %}{% if m.role == 'user' %}{% if m == last and s %}{{ '[INST] ' + s + '\n\n' + m.content + '[/INST]' }}\
        {% else %}{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}";

    #[test]
    fn thoughts_that_are_dropped_are_not_said() {
        for words in [
            ["hi", "<think>\nsay it\n</think>\n\nhello"],
            ["a", "<think>b</think>\n\nhello"],
            ["q", "\n\nhello"],
        ] {
            assert_eq!(answers_of(DROPS, &talk(&words)).unwrap(), ["\n\nhello<E>"]);
        }
        let two = talk(&["hi", "<think>x</think>one", "and", "<think>y</think>two"]);
        assert_eq!(answers_of(DROPS, &two).unwrap(), ["one<E>", "two<E>"]);
    }

    #[test]
    fn thoughts_of_the_last_answer_alone_are_said() {
        let two = talk(&["hi", "<think>\nx\n</think>\n\none", "and", "<think>\ny\n</think>\n\ntwo"]);
        assert_eq!(
            answers_of(KEEPS_LAST, &two).unwrap(),
            ["one<|im_end|>", "<think>\ny\n</think>\n\ntwo<|im_end|>"]
        );
        let plain = talk(&["a", "b", "c", "d ", "e", "f"]);
        let last = "<think>\n\n</think>\n\nf<|im_end|>";
        assert_eq!(answers_of(KEEPS_LAST, &plain).unwrap(), ["b<|im_end|>", "d <|im_end|>", last]);
    }

    #[test]
    fn a_system_message_that_moves_changes_no_answer() {
        let mut talk = talk(&["a", "b", "c", "d"]);
        talk.messages.insert(0, Message::new("system", "be brief"));
        assert_eq!(answers_of(MOVES, &talk).unwrap(), [" b</s>", " d</s>"]);
        let text = template(MOVES).render(&talk, Prompt::Complete).unwrap();
        assert_eq!(text, "<s>[INST] a[/INST] b</s>[INST] be brief\n\nc[/INST] d</s>");
    }

    #[test]
    fn an_answer_without_words_that_calls_tools_is_found() {
        let calls = "{% for m in messages %}<{{ m.role }}>{% if loop.last and m.role == 'assistant' %}<last>{% endif %}\
            {{ m.content or '' }}{% for c in m.tool_calls or [] %}<call>{{ c.name }}</call>{% endfor %}<end>{% endfor %}\
            {% if add_generation_prompt %}<assistant>{% endif %}";
        let fields = json!({"role": "assistant", "content": "", "tool_calls": [{"name": "tide"}]});
        let mut talk = talk(&["a", "", "c", "d"]);
        talk.messages[1] = Message::of_fields(fields.as_object().unwrap().clone());
        assert_eq!(answers_of(calls, &talk).unwrap(), ["<call>tide</call><end>", "<last>d<end>"]);
    }

    #[test]
    fn a_mark_that_ends_a_turn_is_whole_where_the_last_has_another() {
        let ends = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ '<|return|>' if loop.last else '<|end|>' }}\
            {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        assert_eq!(answers_of(ends, &talk(&["a", "b", "c", "d"])).unwrap(), ["b<|end|>", "d<|return|>"]);
    }

    #[test]
    fn a_last_question_that_is_written_otherwise_changes_no_answer() {
        let asks = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if loop.last and m.role == 'user' %} Think!{% endif %}<end>\
            {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        assert_eq!(answers_of(asks, &talk(&["a", "b", "c", "d"])).unwrap(), ["b<end>", "d<end>"]);
        let without_head = asks.replace("{% if add_generation_prompt %}<assistant>{% endif %}", "");
        assert!(answers_of(&without_head, &talk(&["a", "b"])).is_err());
    }

    #[test]
    fn a_head_with_other_space_around_it_is_found() {
        let spaced = "{% for m in messages %}\n\n    <{{ m.role }}>\n{{ m.content }}<end>\n{% endfor %}\n\n\
            {% if add_generation_prompt %}\n  {{ '<assistant>\n' }}{% endif %}";
        assert_eq!(answers_of(spaced, &talk(&["a", "b", "c", "d"])).unwrap(), ["b<end>", "d<end>"]);
    }

    /// Writes lists of parts, and a mark before the last answer, so that answers are found by marks.
    const PARTS: &str = "{% for m in messages %}<{{ m.role }}>{% if loop.last and m.role == 'assistant' %}<last>{% endif %}\
        {% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}\
        {% else %}<{{ p.type }}>{% endif %}{% endfor %}{% endif %}<end>{% endfor %}{% if add_generation_prompt %}<assistant>\
        {% endif %}";

    /// A conversation of messages whose contents are these, the assistant's in turn.
    fn of_contents(contents: serde_json::Value) -> Conversation {
        let mut talk = talk(&vec![""; contents.as_array().unwrap().len()]);
        for (message, content) in talk.messages.iter_mut().zip(contents.as_array().unwrap()) {
            let mut fields = message.fields().clone();
            fields.insert("content".to_owned(), content.clone());
            *message = Message::of_fields(fields);
        }
        talk
    }

    #[test]
    fn answers_that_are_lists_of_parts_are_found_in_whole() {
        let [text, image] =
            [|text: &str| json!({"type": "text", "text": text}), |_: &str| json!({"type": "image"})];
        for (contents, expected) in [
            (json!([[text("a")], [text("b"), text("c")], "d", "e"]), ["bc<end>", "<last>e<end>"]),
            (
                json!([[image("")], [image(""), text("b")], [image("")], [text("e")]]),
                ["<image>b<end>", "<last>e<end>"],
            ),
            (
                json!([[text("a"), image("")], [text("b"), image("")], [text("d")], [text("e"), image("")]]),
                ["b<image><end>", "<last>e<image><end>"],
            ),
            (
                json!(["a", [text("b"), {"type": "reasoning"}], "d", [image("")]]),
                ["b<reasoning><end>", "<last><image><end>"],
            ),
        ] {
            assert_eq!(answers_of(PARTS, &of_contents(contents.clone())).unwrap(), expected, "{contents}");
        }
    }

    #[test]
    fn a_list_that_is_printed_as_it_stands_is_an_answer_too() {
        let prints = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}\
            {% if add_generation_prompt %}<assistant>{% endif %}";
        let talk = of_contents(json!(["a", [{"type": "text", "text": "it's"}]]));
        assert_eq!(answers_of(prints, &talk).unwrap(), ["[{'type': 'text', 'text': \"it's\"}]<end>"]);
        let joins = prints.replace("m.content", "m.content + ''");
        assert!(matches!(answers_of(&joins, &talk), Err(ChatError::Refused { .. })));
    }

    #[test]
    fn blocks_of_the_template_say_what_is_said() {
        let blocks = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<end>\
            {% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}";
        let talk = talk(&["a", "b", "c", "d"]);
        let rendered = template(blocks).assistant_spans(&talk).unwrap();
        assert_eq!(answers_of(blocks, &talk).unwrap(), ["b<end>", "d<end>"]);
        assert_eq!(rendered.known_by, KnownBy::Blocks);
        assert_eq!(
            rendered.assistant.iter().map(|turn| turn.message).collect::<Vec<_>>(),
            [Some(1), Some(3)]
        );
        assert_eq!(template(blocks).render(&talk, Prompt::Complete).unwrap(), rendered.text);
        let halves = blocks
            .replace("{{ m.content }}<end>", "{{ m.content }}{% endgeneration %}|{% generation %}<end>");
        assert_eq!(answers_of(&halves, &talk).unwrap(), ["b", "<end>", "d", "<end>"]);
        assert!(
            template(&halves)
                .assistant_spans(&talk)
                .unwrap()
                .assistant
                .iter()
                .all(|turn| turn.message.is_none())
        );
    }

    #[test]
    fn an_answer_that_the_text_does_not_hold_is_an_error_with_a_cure() {
        let forgets = "{% for m in messages %}{% if loop.last or m.role != 'assistant' %}{{ m.content }}{% endif %};{% endfor %}";
        let wrong = answers_of(forgets, &talk(&["a", "b", "c", "d"])).unwrap_err();
        assert!(matches!(wrong, ChatError::Unclear { message: 2, .. }), "{wrong:?}");
        assert!(wrong.to_string().contains("data.text.loss = \"all\""), "{wrong}");
    }
}
