//! An adapter in memory, as it was when its folder was read.

use std::path::Path;

use crate::Error;
use crate::adapter_data::AdapterData;
use crate::session::ReadAdapter;

/// One generation of an adapter: it never changes, and who began with it ends with it.
#[derive(Debug)]
pub struct ServedAdapter {
    /// What requests call it.
    pub name: String,
    /// Unlike that of every other adapter that this process read.
    pub generation: u64,
    /// What it was trained on, if its folder says so.
    pub data: Option<AdapterData>,
    /// All that its folder holds.
    pub content: ReadAdapter,
}

impl ServedAdapter {
    /// Reads an adapter folder.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn open(name: String, generation: u64, folder: &Path) -> Result<Self, Error> {
        let content = ReadAdapter::open(folder)?;
        let data = AdapterData::of_folder(folder)?;
        Ok(Self { name, generation, data, content })
    }

    /// Bytes of its trainable parameters in memory.
    pub fn bytes(&self) -> u64 {
        self.content.numbers() as u64 * 4
    }
}
