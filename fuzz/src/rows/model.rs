//! A tokenizer and a chat template that cost nothing.

use std::ops::Range;

use nola_models::chat::{Conversation, KnownBy, Rendered, Turn};
use nola_train::text::{ChatRender, Encode};

/// Ids there are: one for each byte, and one that ends a text.
pub const TOKENS: usize = 257;
const ENDS: [u32; 1] = [256];

/// Bytes are their own tokens.
pub struct Bytes;

impl Encode for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), String> {
        Ok((self.encode(text)?, (0..text.len()).map(|byte| byte..byte + 1).collect()))
    }

    fn bos(&self) -> Option<u32> {
        None
    }

    fn ends(&self) -> &[u32] {
        &ENDS
    }

    fn vocab_size(&self) -> usize {
        TOKENS
    }

    fn fingerprint(&self) -> String {
        "bytes".to_owned()
    }
}

/// The text of bytes; what is none becomes U+FFFD.
pub fn text_of(ids: &[u32]) -> String {
    let bytes: Vec<u8> = ids.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Roles and words, a line each.
pub struct Turns;

impl ChatRender for Turns {
    fn text(&self, conversation: &Conversation) -> Result<String, String> {
        self.render(conversation).map(|rendered| rendered.text)
    }

    fn render(&self, conversation: &Conversation) -> Result<Rendered, String> {
        let (mut text, mut assistant) = (String::new(), Vec::new());
        for (index, message) in conversation.messages.iter().enumerate() {
            text.push_str(&format!("{}: ", message.role()));
            let start = text.len();
            text.push_str(&format!("{}\n", message.text()));
            if message.is_answer() {
                assistant.push(Turn { message: Some(index), bytes: start..text.len() });
            }
        }
        Ok(Rendered { text, assistant, known_by: KnownBy::Text })
    }

    fn mentions(&self, word: &str) -> bool {
        word == "content"
    }

    fn unread(&self, _conversation: &Conversation, _text: &str) -> Vec<String> {
        Vec::new()
    }

    fn fingerprint(&self) -> String {
        "turns".to_owned()
    }
}
