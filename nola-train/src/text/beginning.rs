//! Long texts of which only one end is needed.
//!
//! A sample has a bounded number of tokens, a text has not: of one that is far too long, no more is tokenised than gives as
//! many tokens as the sample may have. Tokens next to where the text is cut may differ from those of the whole text, so
//! there are some more of them.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Encode;

/// Tokens beyond those that are needed.
const SPARE_TOKENS: usize = 64;

/// Texts of so many bytes are always tokenised whole; longer ones are, if they have not this many bytes for each token.
const WHOLE_BYTES: usize = 64 << 10;
const BYTES_A_TOKEN: usize = 64;

/// The end of a text that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its first tokens.
    First,
    /// Its last tokens.
    Last,
}

/// What `encode` makes of one end of `text`, or of all of it: at least `tokens` tokens, counted by `count`, if the text has
/// as many. The flag is whether it is all of it.
///
/// # Errors
/// As `encode`.
pub fn encode_end<T, E>(
    text: &str,
    end: End,
    tokens: usize,
    mut encode: impl FnMut(&str) -> Result<T, E>,
    count: impl Fn(&T) -> usize,
) -> Result<(T, bool), E> {
    let mut bytes = WHOLE_BYTES + BYTES_A_TOKEN * tokens;
    while bytes < text.len() {
        let part = match end {
            End::First => &text[..text.floor_char_boundary(bytes)],
            End::Last => &text[text.ceil_char_boundary(text.len() - bytes)..],
        };
        let encoded = encode(part)?;
        if count(&encoded) >= tokens + SPARE_TOKENS {
            return Ok((encoded, false));
        }
        bytes *= 4;
    }
    Ok((encode(text)?, true))
}

/// A tokenizer that makes no more of a long text than its first tokens.
pub struct Beginning<'a> {
    tokenizer: &'a dyn Encode,
    tokens: usize,
    shortened: AtomicUsize,
}

impl<'a> Beginning<'a> {
    /// A tokenizer that gives at least the first `tokens` tokens of every text, if it has as many.
    pub fn new(tokenizer: &'a dyn Encode, tokens: usize) -> Self {
        Self { tokenizer, tokens, shortened: AtomicUsize::new(0) }
    }

    /// How many texts were not tokenised whole.
    pub fn shortened(&self) -> usize {
        self.shortened.load(Ordering::Relaxed)
    }

    fn first<T>(
        &self,
        text: &str,
        encode: impl FnMut(&str) -> Result<T, String>,
        count: impl Fn(&T) -> usize,
    ) -> Result<T, String> {
        let (encoded, is_whole) = encode_end(text, End::First, self.tokens, encode, count)?;
        self.shortened.fetch_add(usize::from(!is_whole), Ordering::Relaxed);
        Ok(encoded)
    }
}

impl Encode for Beginning<'_> {
    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        self.first(text, |part| self.tokenizer.encode(part), Vec::len)
    }

    fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), String> {
        self.first(text, |part| self.tokenizer.encode_with_offsets(part), |(ids, _)| ids.len())
    }

    fn bos(&self) -> Option<u32> {
        self.tokenizer.bos()
    }

    fn closing(&self) -> Option<u32> {
        self.tokenizer.closing()
    }

    fn unknown(&self) -> Option<(u32, String)> {
        self.tokenizer.unknown()
    }

    fn eos(&self) -> Option<u32> {
        self.tokenizer.eos()
    }

    fn ends(&self) -> &[u32] {
        self.tokenizer.ends()
    }

    fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    fn fingerprint(&self) -> String {
        self.tokenizer.fingerprint()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Bytes;
    use super::*;

    /// A tokenizer for which a run of one letter is one token.
    fn runs(text: &str) -> Result<Vec<(usize, char)>, String> {
        let mut runs: Vec<(usize, char)> = Vec::new();
        for letter in text.chars() {
            match runs.last_mut() {
                Some((length, last)) if *last == letter => *length += 1,
                Some(_) | None => runs.push((1, letter)),
            }
        }
        Ok(runs)
    }

    #[test]
    fn of_a_long_text_the_needed_end_is_tokenised_and_no_more() {
        let text = "é, so long".repeat(1 << 20);
        for end in [End::First, End::Last] {
            let mut seen = 0;
            let count = |part: &str| {
                seen += part.len();
                Ok::<_, String>(part.to_owned())
            };
            let (part, is_whole) = encode_end(&text, end, 100, count, String::len).unwrap();
            assert!(!is_whole && seen < 100_000 && part.len() >= 164);
            assert!(match end {
                End::First => text.starts_with(&part),
                End::Last => text.ends_with(&part),
            });
        }
    }

    #[test]
    fn a_text_of_few_long_tokens_is_tokenised_further() {
        let text = format!("{}{}", "a".repeat(1 << 20), "bc".repeat(1 << 20));
        let (found, _) = encode_end(&text, End::First, 10, runs, Vec::len).unwrap();
        assert_eq!(found[..3], [(1 << 20, 'a'), (1, 'b'), (1, 'c')]);
        let (found, is_whole) = encode_end(&"a".repeat(1 << 20), End::Last, 10, runs, Vec::len).unwrap();
        assert_eq!((found, is_whole), (vec![(1 << 20, 'a')], true));
    }

    #[test]
    fn a_short_text_is_tokenised_whole() {
        let tokenizer = Bytes::default();
        let beginning = Beginning::new(&tokenizer, 10);
        let text = "a".repeat(WHOLE_BYTES);
        assert_eq!(beginning.encode(&text).unwrap().len(), WHOLE_BYTES);
        assert_eq!(beginning.encode_with_offsets(&text).unwrap().1.len(), WHOLE_BYTES);
        assert_eq!(beginning.shortened(), 0);
        let long = "a".repeat(1 << 20);
        assert!(beginning.encode(&long).unwrap().len() < 1 << 17);
        assert_eq!(beginning.shortened(), 1);
    }
}
