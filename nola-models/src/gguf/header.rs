//! The beginning of a GGUF file: its metadata, and where its tensors lie.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::GgufError;
use super::blocks::Format;
use super::reader::{Reader, Stop};
use super::value::{Array, Value, decimal, shown};

const MAGIC: &[u8] = b"GGUF";
/// Multiples of this many bytes are where tensors begin, unless the metadata says otherwise.
const ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: i128 = 1 << 20;
const MAX_AXES: u32 = 4;
/// Bytes of a file that are read at first.
const FIRST_BYTES: u64 = 1 << 20;

/// What the beginning of a file says.
pub(super) struct Header<'a> {
    pub(super) file: &'a Path,
    metadata: BTreeMap<&'a str, Value<'a>>,
    /// The bytes of each entry's value.
    raw: BTreeMap<&'a str, &'a [u8]>,
    /// In the order of the file.
    pub(super) tensors: Vec<StoredTensor<'a>>,
}

/// A tensor as the file has it.
#[derive(Debug, Clone)]
pub(super) struct StoredTensor<'a> {
    pub(super) name: &'a str,
    /// Sizes of the axes, the one whose numbers lie side by side last.
    pub(super) shape: Vec<usize>,
    pub(super) format: Format,
    /// Its place in the file.
    pub(super) bytes: Range<usize>,
}

/// The first bytes of a file, as many as its header takes, and the file.
pub(super) struct Beginning {
    pub(super) opened: File,
    pub(super) bytes: Vec<u8>,
    total: u64,
}

impl Beginning {
    /// Reads as much of a file as its header takes.
    ///
    /// # Errors
    /// If it cannot be read, or its header is wrong.
    pub(super) fn read(file: &Path) -> Result<Self, GgufError> {
        let io = |source| GgufError::Io { file: file.to_owned(), source };
        let opened = File::open(file).map_err(io)?;
        let total = opened.metadata().map_err(io)?.len();
        let mut bytes = Vec::new();
        let mut wanted = FIRST_BYTES;
        loop {
            (&opened).take(wanted - bytes.len() as u64).read_to_end(&mut bytes).map_err(io)?;
            // What is no plain file does not tell its size, and a file may grow or shrink meanwhile.
            let at_hand = bytes.len() as u64;
            let total = if at_hand < wanted { at_hand } else { total.max(at_hand) };
            match Header::parsed(file, &bytes, total) {
                Ok(_) => return Ok(Self { opened, bytes, total }),
                Err(Stop::Wrong(error)) => return Err(error),
                Err(Stop::More) => wanted *= 4,
            }
        }
    }

    pub(super) fn header<'a>(&'a self, file: &'a Path) -> Result<Header<'a>, GgufError> {
        Header::whole(file, &self.bytes, self.total)
    }

    /// Some bytes of the file.
    pub(super) fn at(&self, range: Range<usize>) -> std::io::Result<Vec<u8>> {
        (&self.opened).seek(SeekFrom::Start(range.start as u64))?;
        let mut bytes = vec![0; range.len()];
        (&self.opened).read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl<'a> Header<'a> {
    /// Reads the header of a file of which all bytes are at hand.
    ///
    /// # Errors
    /// If it is wrong.
    pub(super) fn of(file: &'a Path, bytes: &'a [u8]) -> Result<Self, GgufError> {
        Self::whole(file, bytes, bytes.len() as u64)
    }

    fn whole(file: &'a Path, bytes: &'a [u8], total: u64) -> Result<Self, GgufError> {
        Self::parsed(file, bytes, total).map_err(|stop| match stop {
            Stop::Wrong(error) => error,
            Stop::More => Reader::new(file, bytes, total).damaged("it changed while it was read"),
        })
    }

    fn parsed(file: &'a Path, bytes: &'a [u8], total: u64) -> Result<Self, Stop> {
        let mut reader = Reader::new(file, bytes, total);
        version(&mut reader)?;
        let (n_tensors, n_entries) = (reader.u64()?, reader.u64()?);
        let mut header = Self { file, metadata: BTreeMap::new(), raw: BTreeMap::new(), tensors: Vec::new() };
        for number in 0..n_entries {
            reader.place = format!("entry {number} of {n_entries} of the metadata");
            header.read_entry(&mut reader)?;
        }
        header.check_whole()?;
        let alignment = header.alignment()?;
        let mut types = Vec::new();
        let mut infos = Vec::new();
        for number in 0..n_tensors {
            reader.place = format!("entry {number} of {n_tensors} of the tensors");
            infos.push(Info::read(&mut reader, &mut types)?);
        }
        if !types.is_empty() {
            let known = Format::names();
            return Err(GgufError::Types { file: file.to_owned(), tensors: types, known }.into());
        }
        let start = (reader.at() as u64).next_multiple_of(alignment);
        header.tensors = placed(&mut reader, infos, start, alignment)?;
        Ok(header)
    }

    fn read_entry(&mut self, reader: &mut Reader<'a>) -> Result<(), Stop> {
        let key = reader.name()?;
        reader.place = format!("metadata {}", shown(key.as_bytes()));
        let start = reader.at();
        let value = Value::read(reader)?;
        self.raw.insert(key, reader.since(start));
        match self.metadata.insert(key, value) {
            Some(_) => Err(reader.damaged("is there twice").into()),
            None => Ok(()),
        }
    }

    /// A model that lies in several files is none.
    fn check_whole(&self) -> Result<(), GgufError> {
        match self.number("split.count")? {
            Some(parts) if parts > 1 => Err(GgufError::Split { file: self.file.to_owned(), parts }),
            Some(_) | None => Ok(()),
        }
    }

    fn alignment(&self) -> Result<u64, GgufError> {
        let key = "general.alignment";
        match self.metadata.get(key) {
            None => Ok(ALIGNMENT),
            Some(Value::Whole(bytes)) if (1..=MAX_ALIGNMENT).contains(bytes) && bytes.count_ones() == 1 => {
                Ok(*bytes as u64)
            }
            Some(_) => Err(self.wrong(key, "a power of two")),
        }
    }

    pub(super) fn wrong(&self, key: &str, expected: &str) -> GgufError {
        let found = self.metadata.get(key).map_or("absent".to_owned(), Value::shown);
        self.wrong_value(key, found, expected)
    }

    /// The same, if a part of the value is wrong.
    pub(super) fn wrong_value(&self, key: &str, found: String, expected: &str) -> GgufError {
        let (file, key, expected) = (self.file.to_owned(), key.to_owned(), expected.to_owned());
        GgufError::Field { file, key, found, expected }
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&StoredTensor<'a>> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.metadata.keys().copied()
    }

    /// A whole number of at least 0, if the key is there.
    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Whole(number)) => {
                let number = u64::try_from(*number).map_err(|_| self.wrong(key, "a whole number from 0"))?;
                Ok(Some(number))
            }
            Some(_) => Err(self.wrong(key, "a whole number")),
        }
    }

    /// A number, if the key is there.
    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Single(number)) if number.is_finite() => Ok(Some(decimal(*number))),
            Some(Value::Double(number)) if number.is_finite() => Ok(Some(*number)),
            Some(Value::Whole(number)) => Ok(Some(*number as f64)),
            Some(_) => Err(self.wrong(key, "a number")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        let utf8 = |text| std::str::from_utf8(text).map_err(|_| self.wrong(key, "a text of UTF-8"));
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => utf8(text).map(Some),
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    pub(super) fn array(&self, key: &str) -> Result<Option<Array<'a>>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(*array)),
            Some(_) => Err(self.wrong(key, "a list")),
        }
    }

    /// The texts of a list, if the key is there.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, GgufError> {
        let Some(array) = self.array(key)? else { return Ok(None) };
        let texts = array.texts().ok_or_else(|| self.wrong(key, "a list of texts"))?;
        let utf8 = |(number, text): (usize, &'a [u8])| {
            let found = || format!("{} at {number}", shown(text));
            std::str::from_utf8(text).map_err(|_| self.wrong_value(key, found(), "texts of UTF-8"))
        };
        texts.enumerate().map(utf8).collect::<Result<_, _>>().map(Some)
    }

    /// SHA-256 of the metadata that describes the model, without its tokenizer and what else stands there, and of tensors `beside`
    /// the weights.
    pub(super) fn config_sha256(&self, architecture: &str, beside: &[&[u8]]) -> String {
        let mut hash = Sha256::new();
        let prefix = format!("{architecture}.");
        let is_config = |key: &str| key == "general.architecture" || key.starts_with(&prefix);
        for (key, value) in self.raw.iter().filter(|(key, _)| is_config(key)) {
            hash.update(format!("{key} {}\n", value.len()));
            hash.update(value);
        }
        beside.iter().for_each(|bytes| hash.update(bytes));
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn version(reader: &mut Reader) -> Result<(), Stop> {
    let file = reader.file.to_owned();
    let found = reader.take(reader.left().min(MAGIC.len() as u64))?;
    if found != MAGIC {
        return Err(GgufError::Other { file, found: shown(found) }.into());
    }
    match reader.u32()? {
        2 | 3 => Ok(()),
        found if matches!(found.swap_bytes(), 1..=3) => Err(GgufError::BigEndian { file }.into()),
        found => Err(GgufError::Version { file, found }.into()),
    }
}

/// A tensor whose place is not checked yet.
struct Info<'a> {
    name: &'a str,
    shape: Vec<usize>,
    format: Format,
    offset: u64,
    bytes: u64,
}

impl<'a> Info<'a> {
    /// Reads an entry; a type that is not known goes to `types`.
    fn read(reader: &mut Reader<'a>, types: &mut Vec<String>) -> Result<Self, Stop> {
        let name = reader.name()?;
        reader.place = format!("tensor {}", shown(name.as_bytes()));
        let axes = reader.u32()?;
        if !(1..=MAX_AXES).contains(&axes) {
            return Err(reader.damaged(format!("{axes} axes, expected 1 to {MAX_AXES}")).into());
        }
        let mut sizes = (0..axes).map(|_| reader.u64()).collect::<Result<Vec<_>, _>>()?;
        // The file begins with the axis whose numbers lie side by side.
        sizes.reverse();
        let number = reader.u32()?;
        let offset = reader.u64()?;
        let format = Format::of(number).unwrap_or_else(|| {
            types.push(format!("`{name}` is stored in {}", Format::describe(number)));
            Format::F32
        });
        let bytes = format.bytes(&sizes).filter(|&bytes| bytes > 0 && bytes <= reader.left());
        let Some(bytes) = bytes.or((!types.is_empty()).then_some(0)) else {
            let problem = format!("the sizes {sizes:?} in {format}, with {} bytes left", reader.left());
            return Err(reader.damaged(problem).into());
        };
        let sizes = sizes.into_iter().map(|size| size as usize).collect();
        Ok(Self { name, shape: sizes, format, offset, bytes })
    }
}

/// The tensors with their places, which must lie in the file, one behind the other.
fn placed<'a>(
    reader: &mut Reader<'a>,
    infos: Vec<Info<'a>>,
    start: u64,
    alignment: u64,
) -> Result<Vec<StoredTensor<'a>>, GgufError> {
    let total = reader.at() as u64 + reader.left();
    let mut names = BTreeSet::new();
    let mut tensors = Vec::with_capacity(infos.len());
    for Info { name, shape, format, offset, bytes } in infos {
        reader.place = format!("tensor {}", shown(name.as_bytes()));
        if !names.insert(name) {
            return Err(reader.damaged("is there twice"));
        }
        let begin = start.checked_add(offset).filter(|_| offset.is_multiple_of(alignment));
        let end = begin.and_then(|begin| begin.checked_add(bytes)).filter(|&end| end <= total);
        let (Some(begin), Some(end)) = (begin, end) else {
            let problem = format!("{bytes} bytes at {offset} behind byte {start} of {total}");
            return Err(reader.damaged(problem));
        };
        tensors.push(StoredTensor { name, shape, format, bytes: begin as usize..end as usize });
    }
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.bytes.start);
    for pair in order.windows(2) {
        if pair[0].bytes.end > pair[1].bytes.start {
            reader.place = format!("tensor {}", shown(pair[1].name.as_bytes()));
            let problem = format!("lies over {}", shown(pair[0].name.as_bytes()));
            return Err(reader.damaged(problem));
        }
    }
    Ok(tensors)
}
