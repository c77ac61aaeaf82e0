//! The tokens of a prompt and of what follows it.

use crate::text::{Encode, Pair, Separator};

/// The tokens after which a model is to say the completion of a pair.
///
/// # Errors
/// What the tokenizer said.
pub fn prompt_ids(pair: &Pair, tokenizer: &dyn Encode) -> Result<Vec<u32>, String> {
    let mut ids: Vec<u32> = tokenizer.bos().into_iter().collect();
    ids.extend(tokenizer.encode(&pair.prompt)?);
    match pair.joint {
        Separator::None => {}
        Separator::EndAndSpace => ids.extend(tokenizer.eos()),
    }
    Ok(ids)
}

/// The tokens of prompt and completion, and the place of the first that is learned.
///
/// Both are tokenised as the one text that they are. Where its tokens do not begin with those of the prompt alone, because a
/// token reaches from one into the other, the completion's tokens stand behind the prompt's own: generating begins with those.
pub(super) fn pair_ids(pair: &Pair, tokenizer: &dyn Encode) -> Result<(Vec<u32>, usize), String> {
    let prompt = prompt_ids(pair, tokenizer)?;
    let start = prompt.len();
    let completion = match pair.joint {
        // A special token parts the texts for the tokenizer too.
        Separator::EndAndSpace => tokenizer.encode(&format!(" {}", pair.completion))?,
        Separator::None => {
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
pub(super) fn continued(text: &str, tokenizer: &dyn Encode) -> Result<Vec<u32>, String> {
    let (mut ids, offsets) = tokenizer.encode_with_offsets(&format!("\n{text}"))?;
    let start = offsets.iter().position(|token| token.end > 1).unwrap_or(ids.len());
    if offsets.get(start).is_some_and(|token| token.start == 0) {
        // The end of the line and what follows are one token, so the two cannot be told apart.
        return tokenizer.encode(text);
    }
    ids.drain(..start);
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::super::Encoder;
    use super::super::tests::shown;
    use super::*;
    use crate::text::fake::{BOS, EOS};
    use crate::text::{Example, Loss, Part};

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
        shown(&encoder.encoded(&example).unwrap().sample)
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
            let pair = Pair { prompt, completion, joint: Separator::None, part: Part::Whole };
            assert_eq!(spaced(Example::Pair(pair)), (whole.to_owned(), vec![learned.to_owned()]));
        }
    }

    #[test]
    fn no_token_reaches_over_the_seam() {
        let (prompt, completion) = ("xa".to_owned(), "b!".to_owned());
        let pair = Pair { prompt, completion, joint: Separator::None, part: Part::Whole };
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
}
