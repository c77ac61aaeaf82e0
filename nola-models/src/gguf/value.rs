//! Values of a GGUF file's metadata.

use super::reader::{Reader, Stop};

/// Arrays in arrays are read to this depth.
const MAX_DEPTH: usize = 4;
/// Characters of a value that a message shows.
const SHOWN: usize = 60;

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Flag,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Flag,
            8 => Self::Text,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Bytes of a value at least; exactly so many of one that is neither text nor array.
    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Flag => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            // The length alone.
            Self::Text => 8,
            // Type and length alone.
            Self::Array => 12,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    fn is_fixed(self) -> bool {
        !matches!(self, Self::Text | Self::Array)
    }
}

/// A value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Whole(i128),
    Single(f32),
    Double(f64),
    Flag(bool),
    Text(&'a [u8]),
    Array(Array<'a>),
}

/// A list of values of one type, as the file has them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Array<'a> {
    kind: Kind,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Value<'a> {
    /// Reads a value with its type before it.
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, Stop> {
        let kind = kind(reader)?;
        Self::of_kind(reader, kind, 0)
    }

    fn of_kind(reader: &mut Reader<'a>, kind: Kind, depth: usize) -> Result<Self, Stop> {
        match kind {
            Kind::Text => reader.text().map(Self::Text),
            Kind::Array => Array::read(reader, depth).map(Self::Array),
            fixed => Ok(fixed_value(fixed, reader.take(fixed.bytes() as u64)?)),
        }
    }

    /// As a message shows it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Whole(number) => number.to_string(),
            Self::Single(number) => number.to_string(),
            Self::Double(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::Text(text) => shown(text),
            Self::Array(array) => format!("a list of {}", array.len),
        }
    }
}

/// A text as a message shows it.
pub(super) fn shown(text: &[u8]) -> String {
    let whole = String::from_utf8_lossy(text);
    match whole.chars().count() > SHOWN {
        true => format!("{:?}…", whole.chars().take(SHOWN).collect::<String>()),
        false => format!("{whole:?}"),
    }
}

impl<'a> Array<'a> {
    fn read(reader: &mut Reader<'a>, depth: usize) -> Result<Self, Stop> {
        if depth >= MAX_DEPTH {
            return Err(reader.damaged(format!("lists in lists, deeper than {MAX_DEPTH}")).into());
        }
        let kind = kind(reader)?;
        let len = reader.u64()?;
        let fits = len.checked_mul(kind.bytes() as u64).is_some_and(|least| least <= reader.left());
        let Some(count) = usize::try_from(len).ok().filter(|_| fits) else {
            let problem = format!("a list of {len} values, with {} bytes left", reader.left());
            return Err(reader.damaged(problem).into());
        };
        if kind.is_fixed() {
            let bytes = reader.take(len * kind.bytes() as u64)?;
            return Ok(Self { kind, len: count, bytes });
        }
        let start = reader.at();
        for _ in 0..count {
            Value::of_kind(reader, kind, depth + 1)?;
        }
        Ok(Self { kind, len: count, bytes: reader.since(start) })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Its texts; none if it holds something else.
    pub(super) fn texts(&self) -> Option<impl Iterator<Item = &'a [u8]>> {
        let mut rest = self.bytes;
        let next = move |_| {
            let (length, after) = rest.split_first_chunk().expect("it was read whole");
            let (text, after) = after.split_at(u64::from_le_bytes(*length) as usize);
            rest = after;
            text
        };
        (self.kind == Kind::Text).then(|| (0..self.len).map(next))
    }

    /// Its numbers or flags; none if it holds something else.
    pub(super) fn values(&self) -> Option<impl Iterator<Item = Value<'a>>> {
        let (kind, bytes) = (self.kind, self.bytes);
        kind.is_fixed().then(|| bytes.chunks_exact(kind.bytes()).map(move |bytes| fixed_value(kind, bytes)))
    }
}

fn kind(reader: &mut Reader) -> Result<Kind, Stop> {
    let number = reader.u32()?;
    Kind::of(number).ok_or_else(|| reader.damaged(format!("a value of the unknown type {number}")).into())
}

/// The value of `bytes`, as many as `kind` has; a text or list has none here.
fn fixed_value<'a>(kind: Kind, bytes: &[u8]) -> Value<'a> {
    fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.try_into().expect("so many bytes were taken")
    }
    match kind {
        Kind::U8 => Value::Whole(bytes[0].into()),
        Kind::I8 => Value::Whole(i8::from_le_bytes(array(bytes)).into()),
        Kind::U16 => Value::Whole(u16::from_le_bytes(array(bytes)).into()),
        Kind::I16 => Value::Whole(i16::from_le_bytes(array(bytes)).into()),
        Kind::U32 => Value::Whole(u32::from_le_bytes(array(bytes)).into()),
        Kind::I32 => Value::Whole(i32::from_le_bytes(array(bytes)).into()),
        Kind::U64 => Value::Whole(u64::from_le_bytes(array(bytes)).into()),
        Kind::I64 => Value::Whole(i64::from_le_bytes(array(bytes)).into()),
        Kind::F32 => Value::Single(f32::from_le_bytes(array(bytes))),
        Kind::F64 => Value::Double(f64::from_le_bytes(array(bytes))),
        Kind::Flag => Value::Flag(bytes[0] != 0),
        Kind::Text | Kind::Array => unreachable!("their length is not fixed"),
    }
}

/// The shortest decimal number that is this f32: 1e-5 where 9.999999747378752e-6 is stored, as configurations have it.
pub(super) fn decimal(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_float_is_the_decimal_number_that_was_meant() {
        assert_eq!(decimal(1e-5), 1e-5);
        assert_ne!(f64::from(1e-5_f32), 1e-5);
        assert!(decimal(f32::NAN).is_nan());
        assert_eq!(decimal(f32::INFINITY), f64::INFINITY);
    }
}
