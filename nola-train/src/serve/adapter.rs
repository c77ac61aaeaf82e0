//! An adapter in memory, as it was when its folder was read.

use std::path::Path;
use std::sync::Arc;

use crate::Error;
use crate::adapter_data::AdapterData;
use crate::session::{ReadAdapter, ReadBundle};

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

    /// The member at a place of the bundle `bundle_name`, as `BUNDLE/MEMBER`.
    ///
    /// # Errors
    /// If what it was trained on cannot be read.
    ///
    /// # Panics
    /// If there is none.
    pub fn of_member(
        bundle: &Arc<ReadBundle>,
        bundle_name: &str,
        place: usize,
        generation: u64,
    ) -> Result<Self, Error> {
        let content = ReadAdapter::nth_member(bundle, place);
        let member = &bundle.bundle().manifest().members[place];
        let data = AdapterData::of_value(member.data.clone(), content.folder())?;
        Ok(Self { name: format!("{bundle_name}/{}", member.name), generation, data, content })
    }

    /// Bytes of its own numbers in memory.
    pub fn bytes(&self) -> u64 {
        self.content.numbers() as u64 * 4
    }
}
