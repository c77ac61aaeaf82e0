//! Texts with placeholders.

use minijinja::formatting::{FormatStyle, format};
use minijinja::{Error, State, Value};

use super::guard::{MAX_BYTES, invalid, pay_bytes, size, too_large};

/// A number without a width is not longer than this.
const MAX_NUMBER_CHARS: u64 = 512;

/// A text with its placeholders filled; what would be longer than any honest text is refused before it is written.
pub(super) fn formatted(
    state: &State,
    style: FormatStyle,
    text: &str,
    values: &[Value],
) -> Result<Value, Error> {
    let mut largest = 0;
    for value in values {
        let bytes = size(state, value)?;
        pay_bytes(state, bytes)?;
        largest = bytes.max(largest);
    }
    // Each placeholder may be as wide as that, or name the longest of the values.
    let placeholders = text.matches(['%', '{']).count() as u64;
    if placeholders.saturating_mul(largest.max(widest(text)?)) > MAX_BYTES {
        return Err(too_large());
    }
    let text = format(style, text, values)?;
    pay_bytes(state, text.len() as u64)?;
    Ok(Value::from(text))
}

/// The most characters that a placeholder asks for; the engine takes no width from a value.
fn widest(text: &str) -> Result<u64, Error> {
    let mut widest = MAX_NUMBER_CHARS;
    for digits in text.split(|char: char| !char.is_ascii_digit()).filter(|digits| !digits.is_empty()) {
        let wide = digits.parse().ok().filter(|_| digits.len() <= 4);
        let wide = wide.ok_or_else(|| {
            invalid(format!("a width of {digits} in a text that is filled; at most 9999 is read"))
        })?;
        widest = widest.max(wide);
    }
    Ok(widest)
}
