//! Bundles as folders.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;

use super::manifest::{Manifest, Member, is_tensors_file};
use super::{Bundle, MANIFEST};
use crate::Error;
use crate::folder::{PartialFolder, read_at_most, sha256_hex, write_atomically};
use crate::plain_words::plain_words;

/// Bytes of a manifest at most: more than a million members.
const MOST_MANIFEST_BYTES: u64 = 1 << 29;

/// Members that a message names.
const FEW_NAMES: usize = 8;

impl Manifest {
    /// Reads what a bundle says of itself, without its tensors.
    ///
    /// # Errors
    /// If the file is missing, damaged, or of another version.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let file = folder.join(MANIFEST);
        Self::parse(&file, &read_at_most(&file, MOST_MANIFEST_BYTES)?)
    }

    /// The member of this name; `folder` is where the bundle lies.
    ///
    /// # Errors
    /// If there is none, with the names that there are.
    pub fn member(&self, folder: &Path, name: &str) -> Result<&Member, Error> {
        let found = self.members.iter().find(|member| member.name == name);
        found.ok_or_else(|| self.no_member(folder, format!("the bundle has no member `{name}`")))
    }

    /// The error of a bundle, in `folder`, that is named where one adapter is needed.
    pub fn is_several(&self, folder: &Path) -> Error {
        self.no_member(
            folder,
            "this is a bundle, and one adapter of it is needed: write FOLDER/NAME".to_owned(),
        )
    }

    fn no_member(&self, folder: &Path, problem: String) -> Error {
        let names = self.members.iter().take(FEW_NAMES).map(|member| member.name.clone());
        let more = self.members.len().saturating_sub(FEW_NAMES);
        let rest = (more > 0).then(|| format!("{more} more"));
        Error::NoMember { folder: folder.to_owned(), problem, members: names.chain(rest).collect() }
    }
}

impl Bundle {
    /// Reads a bundle whose hashes fit.
    ///
    /// # Errors
    /// If a file is missing, damaged, or of another version.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let manifest = Manifest::read(folder)?;
        let file = folder.join(&manifest.tensors);
        let invalid = |problems| Error::Invalid { file: file.clone(), problems };
        let bytes = read_at_most(&file, u64::MAX)?;
        let sha256 = sha256_hex(&bytes);
        if sha256 != manifest.tensors_sha256 {
            let expected = &manifest.tensors_sha256;
            let problem = format!(
                "SHA-256 is {sha256}, but {MANIFEST} says {expected}: the file is damaged or belongs to another bundle"
            );
            return Err(invalid(vec![problem]));
        }
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|error| invalid(vec![plain_words(&error.to_string())]))?;
        Self::of_tensors(manifest, &tensors).map_err(invalid)
    }

    /// Writes it to `folder`, which must not hold anything yet, and returns the bytes of the whole folder.
    ///
    /// # Errors
    /// If the folder is not empty or cannot be written.
    pub fn write(&self, folder: &Path) -> Result<u64, Error> {
        let partial = PartialFolder::beside(folder)?;
        let (manifest, tensors) = self.files(folder)?;
        partial.write(&manifest.tensors, &tensors)?;
        let text = text_of(&manifest);
        partial.write(MANIFEST, &text)?;
        partial.finish()?;
        Ok((tensors.len() + text.len()) as u64)
    }

    /// Writes it in the place of the bundle in `folder`, which is there whole at any time, and returns the bytes of the folder.
    ///
    /// # Errors
    /// If the folder cannot be written; the bundle is then as it was.
    pub fn replace(&self, folder: &Path) -> Result<u64, Error> {
        let (manifest, tensors) = self.files(folder)?;
        write_atomically(&folder.join(&manifest.tensors), &tensors)?;
        let text = text_of(&manifest);
        write_atomically(&folder.join(MANIFEST), &text)?;
        // What cannot be removed is no obstacle: nothing names it any more.
        for file in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if is_tensors_file(&name) && name != manifest.tensors {
                let _ = fs::remove_file(file.path());
            }
        }
        Ok((tensors.len() + text.len()) as u64)
    }

    fn files(&self, folder: &Path) -> Result<(Manifest, Vec<u8>), Error> {
        let tensors = self.serialized(folder)?;
        Ok((self.manifest.with_tensors(&tensors), tensors))
    }
}

fn text_of(manifest: &Manifest) -> Vec<u8> {
    // Not indented: blanks would be a part of every member.
    serde_json::to_vec(manifest).expect("text and numbers")
}
