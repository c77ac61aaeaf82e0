//! Text that grows by one id at a time.

use std::ops::Deref;

use super::{DecodeSpecials, Tokenizer, TokenizerError};

/// Turns ids into text as they come, and gives out only what later ids cannot change.
///
/// The pieces put together are the text of all ids at once, if that is text; where bytes are none, the number of
/// U+FFFD may differ.
///
/// `T` is what it holds of the tokenizer: a reference, or a shared pointer where the stream outlives its maker.
#[derive(Debug)]
pub struct TextStream<T> {
    tokenizer: T,
    specials: DecodeSpecials,
    /// The ids last given out, which tell whether the next one starts with a space; behind them those still held back.
    ids: Vec<u32>,
    /// Number of `ids` whose text is out.
    shown: usize,
}

impl<T: Deref<Target = Tokenizer>> TextStream<T> {
    /// Starts a text behind `shown`, ids whose text is already out, such as a prompt's.
    pub fn new(tokenizer: T, shown: &[u32], specials: DecodeSpecials) -> Self {
        Self { tokenizer, specials, ids: shown.to_vec(), shown: shown.len() }
    }

    /// The text that one more id completes; `None` while a character lacks bytes.
    ///
    /// # Errors
    /// If there is no token of this id.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
        self.ids.push(id);
        let pending = self.pending()?;
        if pending.is_empty() || pending.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(None);
        }
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        Ok(Some(pending))
    }

    /// What is still held back when no more ids come: nothing, or bytes that are no whole character.
    ///
    /// # Errors
    /// As [`TextStream::push`].
    pub fn finish(self) -> Result<Option<String>, TokenizerError> {
        let pending = self.pending()?;
        Ok(Some(pending).filter(|pending| !pending.is_empty()))
    }

    /// The text of the ids that are not out yet.
    fn pending(&self) -> Result<String, TokenizerError> {
        let text = self.tokenizer.decode(&self.ids, self.specials)?;
        let before = self.tokenizer.decode(&self.ids[..self.shown], self.specials)?;
        let before = before.trim_end_matches(char::REPLACEMENT_CHARACTER);
        match text.strip_prefix(before) {
            Some(pending) => Ok(pending.to_string()),
            // A byte that is no text spoils the bytes before it, which are out already.
            None => self.tokenizer.decode(&self.ids[self.shown..], self.specials),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::super::Specials;
    use super::*;
    use crate::shared::shared;

    /// Reads a tokenizer of the assets once.
    fn opened(cell: &'static OnceLock<Option<Tokenizer>>, folder: &str) -> Option<&'static Tokenizer> {
        cell.get_or_init(|| shared(folder).map(|folder| Tokenizer::open(&folder).unwrap())).as_ref()
    }

    fn gpt2() -> Option<&'static Tokenizer> {
        static GPT2: OnceLock<Option<Tokenizer>> = OnceLock::new();
        opened(&GPT2, "assets/models/gpt2-micro-shakespeare")
    }

    fn llama() -> Option<&'static Tokenizer> {
        static LLAMA: OnceLock<Option<Tokenizer>> = OnceLock::new();
        opened(&LLAMA, "assets/models/llama-stories260k")
    }

    /// The pieces that come out, the last from the end of the stream.
    fn pieces(tokenizer: &Tokenizer, shown: &[u32], ids: &[u32]) -> Vec<String> {
        let mut stream = tokenizer.stream(shown, DecodeSpecials::Skip);
        let mut pieces: Vec<_> = ids.iter().filter_map(|id| stream.push(*id).unwrap()).collect();
        pieces.extend(stream.finish().unwrap());
        pieces
    }

    #[test]
    fn words_come_out_with_their_spaces() {
        let Some(llama) = llama() else { return };
        let ids = llama.encode("Once upon a time  there", Specials::AsModel).unwrap();
        let pieces = pieces(llama, &[], &ids);
        assert_eq!(pieces.concat(), "Once upon a time  there");
        assert!(pieces.len() > 5, "{pieces:?}");
    }

    #[test]
    fn text_goes_on_behind_what_is_shown_with_its_space() {
        let Some(llama) = llama() else { return };
        let [prompt, rest] = ["Once upon", "a time"].map(|text| llama.encode(text, Specials::None).unwrap());
        assert_eq!(pieces(llama, &prompt, &rest).concat(), " a time");
    }

    #[test]
    fn a_character_of_several_ids_comes_out_whole() {
        for tokenizer in [gpt2(), llama()] {
            let Some(tokenizer) = tokenizer else { return };
            let ids = tokenizer.encode("日本 🙂", Specials::None).unwrap();
            let pieces = pieces(tokenizer, &[], &ids);
            assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
            assert!(pieces.len() >= 3, "{pieces:?}");
            assert_eq!(pieces.concat(), "日本 🙂");
        }
    }

    #[test]
    fn what_stays_incomplete_comes_out_at_the_end() {
        for tokenizer in [gpt2(), llama()] {
            let Some(tokenizer) = tokenizer else { return };
            let mut ids = tokenizer.encode("a 日", Specials::None).unwrap();
            ids.pop();
            assert_eq!(
                pieces(tokenizer, &[], &ids).concat(),
                tokenizer.decode(&ids, DecodeSpecials::Skip).unwrap()
            );
        }
    }

    proptest! {
        #[test]
        fn byte_level_pieces_are_the_whole(ids in prop::collection::vec(0u32..2048, 0..60)) {
            let Some(gpt2) = gpt2() else { return Ok(()) };
            prop_assert_eq!(pieces(gpt2, &[], &ids).concat(), gpt2.decode(&ids, DecodeSpecials::Skip).unwrap());
        }

        #[test]
        fn pieces_of_any_text_are_the_whole(text in any::<String>()) {
            let Some(llama) = llama() else { return Ok(()) };
            let ids = llama.encode(&text, Specials::AsModel).unwrap();
            prop_assert_eq!(pieces(llama, &[], &ids).concat(), llama.decode(&ids, DecodeSpecials::Skip).unwrap());
        }

        #[test]
        fn pieces_of_any_ids_that_are_text_are_the_whole(ids in prop::collection::vec(0u32..512, 0..12)) {
            let Some(llama) = llama() else { return Ok(()) };
            let whole = llama.decode(&ids, DecodeSpecials::Skip).unwrap();
            prop_assume!(!whole.contains('\u{fffd}'));
            prop_assert_eq!(pieces(llama, &[], &ids).concat(), whole);
        }
    }
}
