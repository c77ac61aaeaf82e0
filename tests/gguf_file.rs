//! Writes GGUF files, for the tests of every crate.

#![allow(dead_code, reason = "each crate uses a part of it")]

/// A value of the metadata.
#[derive(Debug, Clone)]
pub enum Entry {
    U32(u32),
    F32(f32),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    /// Any other: its type, and its bytes.
    Other(u32, Vec<u8>),
}

impl From<u32> for Entry {
    fn from(number: u32) -> Self {
        Self::U32(number)
    }
}

impl From<f32> for Entry {
    fn from(number: f32) -> Self {
        Self::F32(number)
    }
}

impl From<bool> for Entry {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<&str> for Entry {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&[&str]> for Entry {
    fn from(texts: &[&str]) -> Self {
        Self::Texts(texts.iter().map(|text| (*text).to_owned()).collect())
    }
}

/// A tensor: its name, its sizes (those whose numbers lie side by side last), ggml's number of its type, and its bytes.
#[derive(Debug, Clone)]
pub struct GgufTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub kind: u32,
    pub bytes: Vec<u8>,
}

impl GgufTensor {
    /// One in f32.
    pub fn of_f32(name: &str, shape: &[usize], numbers: &[f32]) -> Self {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self { name: name.to_owned(), shape: shape.to_vec(), kind: 0, bytes }
    }
}

/// What a GGUF file is made of.
#[derive(Debug, Clone)]
pub struct GgufFile {
    pub version: u32,
    pub alignment: usize,
    pub metadata: Vec<(String, Entry)>,
    pub tensors: Vec<GgufTensor>,
}

impl Default for GgufFile {
    fn default() -> Self {
        Self { version: 3, alignment: 32, metadata: Vec::new(), tensors: Vec::new() }
    }
}

impl GgufFile {
    /// The value of a key, in place of the one that it had.
    pub fn set(&mut self, key: &str, entry: impl Into<Entry>) {
        self.remove(key);
        self.metadata.push((key.to_owned(), entry.into()));
    }

    pub fn remove(&mut self, key: &str) {
        self.metadata.retain(|(known, _)| known != key);
    }

    pub fn tensor(&mut self, name: &str) -> &mut GgufTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor")
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, entry) in &self.metadata {
            bytes.extend(text(key));
            bytes.extend(entry.bytes());
        }
        let mut offset = 0;
        for GgufTensor { name, shape, kind, bytes: stored } in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((shape.len() as u32).to_le_bytes());
            bytes.extend(shape.iter().rev().flat_map(|&size| (size as u64).to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend((offset as u64).to_le_bytes());
            offset += stored.len().next_multiple_of(self.alignment);
        }
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.extend(&tensor.bytes);
        }
        bytes
    }
}

impl Entry {
    fn bytes(&self) -> Vec<u8> {
        let of = |kind: u32, value: &[u8]| [&kind.to_le_bytes(), value].concat();
        let list = |kind: u32, count: usize, values: Vec<u8>| {
            of(9, &[&kind.to_le_bytes()[..], &(count as u64).to_le_bytes(), &values].concat())
        };
        match self {
            Self::U32(number) => of(4, &number.to_le_bytes()),
            Self::F32(number) => of(6, &number.to_le_bytes()),
            Self::Flag(flag) => of(7, &[u8::from(*flag)]),
            Self::Text(value) => of(8, &text(value)),
            Self::Texts(texts) => list(8, texts.len(), texts.iter().flat_map(|value| text(value)).collect()),
            Self::I32s(numbers) => {
                list(5, numbers.len(), numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
            }
            Self::F32s(numbers) => {
                list(6, numbers.len(), numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
            }
            Self::Other(kind, value) => of(*kind, value),
        }
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}
