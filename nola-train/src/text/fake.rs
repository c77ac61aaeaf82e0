//! A tokenizer, a chat template and data for tests: one token a byte.

use std::path::PathBuf;

use nola_models::chat::{KnownBy, Turn};

use super::*;
use crate::portion::{DataSource, Portion};

pub const BOS: u32 = 256;
pub const EOS: u32 = 257;

/// Bytes are their own tokens, `</s>` is [`EOS`]; a text with byte 1 is refused.
pub struct Bytes {
    pub bos: Option<u32>,
    pub ends: Vec<u32>,
    pub fingerprint: &'static str,
    pub unknown: Option<u32>,
}

impl Default for Bytes {
    /// As GPT-2: no token before the text.
    fn default() -> Self {
        Self { bos: None, ends: vec![EOS], fingerprint: "bytes", unknown: None }
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

    fn unknown(&self) -> Option<(u32, String)> {
        self.unknown.map(|id| (id, "<unk>".to_owned()))
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
        let (mut text, mut assistant) = (String::new(), Vec::new());
        for (index, message) in conversation.messages.iter().enumerate() {
            let content = message.text();
            match message.role() {
                "system" => text.push_str(&format!("S:{content}|")),
                "user" => text.push_str(&format!("U:{content}|")),
                "assistant" => {
                    text.push_str("A:");
                    let bytes = text.len()..text.len() + content.len();
                    assistant.push(Turn { message: Some(index), bytes });
                    text.push_str(&content);
                    text.push_str(self.end);
                }
                role => return Err(format!("no {role}s")),
            }
        }
        Ok(Rendered { text, assistant, known_by: KnownBy::Text })
    }

    fn mentions(&self, _word: &str) -> bool {
        false
    }

    fn unread(&self, conversation: &Conversation, _text: &str) -> Vec<String> {
        let keys = conversation.messages.iter().flat_map(|message| message.fields().keys());
        keys.filter(|key| !["role", "content"].contains(&key.as_str())).cloned().collect()
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

/// A folder with one file, and what is asked of it.
pub struct Case {
    pub folder: tempfile::TempDir,
    pub file: PathBuf,
    pub portion: Portion,
    pub format: TextFormat,
    pub settings: TextSettings,
    pub tokenizer: Bytes,
    pub chat: Option<Template>,
    pub embeddings: usize,
}

impl Case {
    pub fn new(name: &str, text: impl AsRef<[u8]>, format: TextFormat) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        let settings = TextSettings { max_tokens: 16, ..TextSettings::default() };
        let (tokenizer, chat) = (Bytes::default(), Some(Template { end: "</s>" }));
        Self { folder, file, portion: Portion::Whole, format, settings, tokenizer, chat, embeddings: 258 }
    }

    pub fn prepare(&self) -> Result<TextData, TextError> {
        let data = DataSource::part(&self.file, self.portion);
        let source = TextSource {
            data: &data,
            format: self.format,
            settings: &self.settings,
            tokenizer: &self.tokenizer,
            chat: self.chat.as_ref().map(|chat| chat as &dyn ChatRender),
            embeddings: self.embeddings,
            context: 64,
        };
        source.prepare()
    }

    pub fn message(&self) -> String {
        self.prepare().unwrap_err().to_string().replace(self.folder.path().to_str().unwrap(), "F")
    }

    /// The samples as text.
    pub fn texts(&self) -> Vec<String> {
        self.prepare().unwrap().samples.iter().map(|sample| text_of(&sample.ids)).collect()
    }
}
