//! The shipped files as a part of the program that uses them.

use include_dir::{Dir, include_dir};

/// A shipped folder.
#[derive(Debug, Clone, Copy)]
pub struct Folder {
    /// Its name in this folder, such as `vit-micro`.
    pub name: &'static str,
    /// What it holds.
    pub dir: &'static Dir<'static>,
}

static DIGITS: Dir = include_dir!("$CARGO_MANIFEST_DIR/digits");
static LLAMA_MICRO: Dir = include_dir!("$CARGO_MANIFEST_DIR/llama-micro");
static RECIPES: Dir = include_dir!("$CARGO_MANIFEST_DIR/recipes");
static TEXT: Dir = include_dir!("$CARGO_MANIFEST_DIR/text");
static VIT_MICRO: Dir = include_dir!("$CARGO_MANIFEST_DIR/vit-micro");

/// Every shipped folder; the golden values are for tests alone and stay outside the program.
pub const FOLDERS: [Folder; 5] = [
    Folder { name: "digits", dir: &DIGITS },
    Folder { name: "llama-micro", dir: &LLAMA_MICRO },
    Folder { name: "recipes", dir: &RECIPES },
    Folder { name: "text", dir: &TEXT },
    Folder { name: "vit-micro", dir: &VIT_MICRO },
];
