//! A tokenizer and a chat template for tests: one token a byte.

use super::*;

pub const BOS: u32 = 256;
pub const EOS: u32 = 257;

/// Bytes are their own tokens, `</s>` is [`EOS`]; a text with byte 1 is refused.
pub struct Bytes {
    pub bos: Option<u32>,
    pub ends: Vec<u32>,
    pub fingerprint: &'static str,
}

impl Default for Bytes {
    /// As GPT-2: no token before the text.
    fn default() -> Self {
        Self { bos: None, ends: vec![EOS], fingerprint: "bytes" }
    }
}

impl Encode for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        Ok(self.encode_with_offsets(text)?.0)
    }

    fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), String> {
        if text.contains('\u{1}') {
            return Err("cannot say this".to_owned());
        }
        let (mut ids, mut offsets) = (Vec::new(), Vec::new());
        let mut start = 0;
        while start < text.len() {
            let is_end = text.as_bytes()[start..].starts_with(b"</s>");
            ids.push(if is_end { EOS } else { text.as_bytes()[start].into() });
            let end = start + if is_end { 4 } else { 1 };
            offsets.push(start..end);
            start = end;
        }
        Ok((ids, offsets))
    }

    fn bos(&self) -> Option<u32> {
        self.bos
    }

    fn ends(&self) -> &[u32] {
        &self.ends
    }

    fn vocab_size(&self) -> usize {
        258
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.to_owned()
    }
}

/// `U:words` for a user and `A:words` and `end` for the assistant, one after the other; refuses tools.
pub struct Template {
    pub end: &'static str,
}

impl Template {
    /// The end of a template in whose text no answer is found.
    pub const UNCLEAR: &str = "?";
}

impl ChatRender for Template {
    fn text(&self, conversation: &Conversation) -> Result<String, String> {
        let clear = Self { end: if self.end == Self::UNCLEAR { "" } else { self.end } };
        clear.render(conversation).map(|rendered| rendered.text)
    }

    fn render(&self, conversation: &Conversation) -> Result<Rendered, String> {
        if self.end == Self::UNCLEAR {
            return Err("no answer is found".to_owned());
        }
        let (mut text, mut said) = (String::new(), Vec::new());
        for (index, message) in conversation.messages.iter().enumerate() {
            let content = message.content();
            match message.role {
                Role::System => text.push_str(&format!("S:{content}|")),
                Role::User => text.push_str(&format!("U:{content}|")),
                Role::Assistant => {
                    text.push_str("A:");
                    said.push(Said { message: Some(index), bytes: text.len()..text.len() + content.len() });
                    text.push_str(content);
                    text.push_str(self.end);
                }
                Role::Tool => return Err("no tools".to_owned()),
            }
        }
        Ok(Rendered { text, said, ended_by: EndedBy::EndToken })
    }

    fn reads(&self, _field: &str) -> bool {
        false
    }

    fn fingerprint(&self) -> String {
        self.end.to_owned()
    }
}

/// The bytes among tokens as text; `<` and `>` stand for the tokens before and after a text.
pub fn text_of(ids: &[u32]) -> String {
    let char_of = |&id: &u32| match id {
        BOS => '<',
        EOS => '>',
        byte => char::from(byte as u8),
    };
    ids.iter().map(char_of).collect()
}
