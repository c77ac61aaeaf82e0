//! Finds what lies beside the workspace, for the tests of every crate.

use std::path::{Path, PathBuf};

/// A file or folder of `../shared`, such as `assets/text/e2e`; none, said aloud, where it is absent.
///
/// The variable `NOLA_ASSETS` (`NOLA_FIXTURES`, `NOLA_CASES`) names another folder in place of `../shared/assets`
/// (`../shared/fixtures`, `../shared/cases`).
///
/// # Panics
/// If the folder that a variable names is gone: that must not turn every test that reads it into a skipped one.
pub fn shared(path: &str) -> Option<PathBuf> {
    let (kind, inside) = path.split_once('/').unwrap_or((path, ""));
    let found = folder(kind)?.join(inside);
    if !found.exists() {
        println!("skipped: no {}", found.display());
        return None;
    }
    Some(found)
}

fn folder(kind: &str) -> Option<PathBuf> {
    // Tests run in their package's folder, but people count from the workspace.
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let variable = format!("NOLA_{}", kind.to_uppercase());
    if let Some(named) = std::env::var_os(&variable) {
        let named = workspace.join(named);
        assert!(named.is_dir(), "{variable}: {} is no folder", named.display());
        return Some(named);
    }
    let shared = workspace.join("../shared").join(kind);
    if !shared.is_dir() {
        println!("skipped: no ../shared/{kind}");
        return None;
    }
    Some(shared)
}
