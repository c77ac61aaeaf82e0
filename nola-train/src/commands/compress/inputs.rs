//! The adapters that are named: single ones, and all in folders of them.

use std::fs;
use std::path::{Path, PathBuf};

use nola_core::bundle;

use crate::adapter_argument::AdapterArgument;
use crate::error::CompressError;
use crate::session::{ReadAdapter, ReadBundle};
use crate::{Error, run};

/// An adapter that was named.
pub(super) struct Input {
    /// What it is called in the bundle.
    pub name: String,
    pub adapter: ReadAdapter,
    /// The run that it is of, if it is named so.
    pub run: Option<PathBuf>,
}

/// All adapters that `typed` name, in their order; those of a folder in the order of their names.
///
/// # Errors
/// If one of them is damaged, or a folder holds none.
pub(super) fn read(typed: &[PathBuf]) -> Result<Vec<Input>, Error> {
    let mut all = Vec::new();
    for typed in typed {
        let AdapterArgument { name, folder } = AdapterArgument::parse(typed)?;
        let found = in_folder(&folder)?;
        match (name, found.len()) {
            (_, 0) => return Err(CompressError::NoAdapter { folder }.into()),
            (Some(name), 1) => {
                all.extend(found.into_iter().map(|input| Input { name: name.clone(), ..input }))
            }
            (Some(name), _) => return Err(CompressError::NameOfMany { name, folder }.into()),
            (None, _) => all.extend(found),
        }
    }
    Ok(all)
}

/// The adapter in a folder, or all adapters in the folders in it.
fn in_folder(folder: &Path) -> Result<Vec<Input>, Error> {
    if bundle::is_bundle(folder) {
        return of_bundle(folder);
    }
    if let Some(one) = single(folder)? {
        return Ok(vec![one]);
    }
    let inside = fs::read_dir(folder).map_err(|source| nola_core::Error::Io {
        file: folder.to_owned(),
        action: "read",
        source,
    })?;
    let mut inside: Vec<PathBuf> =
        inside.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    inside.retain(|path| !name_of(path).starts_with('.'));
    inside.sort();
    let found = inside.iter().map(|folder| single(folder)).collect::<Result<Vec<_>, Error>>()?;
    Ok(found.into_iter().flatten().collect())
}

/// The adapter in a folder, the best one of a run, or a member of a bundle.
fn single(folder: &Path) -> Result<Option<Input>, Error> {
    let is_adapter = |folder: &Path| folder.join("adapter_config.json").is_file();
    let is_run = |folder: &Path| folder.join(run::RECIPE).is_file();
    if is_adapter(folder) || bundle::member_at(folder).is_some() {
        let run = folder.parent().filter(|parent| is_run(parent)).map(Path::to_owned);
        // The adapter of every run is called so.
        let name = name_of(run.as_deref().unwrap_or(folder));
        return Ok(Some(Input { name, adapter: ReadAdapter::open(folder)?, run }));
    }
    let Some(adapter) = run::whole(folder, run::ADAPTER).filter(|_| is_run(folder)) else { return Ok(None) };
    let adapter = ReadAdapter::open(&adapter)?;
    Ok(Some(Input { name: name_of(folder), adapter, run: Some(folder.to_owned()) }))
}

fn of_bundle(folder: &Path) -> Result<Vec<Input>, Error> {
    let bundle = ReadBundle::open(folder)?;
    let member = |name: &String| {
        let adapter = ReadAdapter::member(&bundle, name)?;
        Ok(Input { name: name.clone(), adapter, run: None })
    };
    bundle.bundle().manifest().members.iter().map(|listed| member(&listed.name)).collect()
}

/// The last part of a path, whatever way it goes.
fn name_of(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    whole.file_name().unwrap_or(whole.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts a good adapter into a folder.
    fn put(to: &Path) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/golden/adapters/nola");
        fs::create_dir_all(to).expect("a folder");
        for file in fs::read_dir(from).expect("it is shipped").flatten() {
            fs::copy(file.path(), to.join(file.file_name())).expect("a file");
        }
    }

    fn names(typed: &[PathBuf]) -> Result<Vec<String>, String> {
        let inputs = read(typed).map_err(|error| error.to_string())?;
        Ok(inputs.into_iter().map(|input| input.name).collect())
    }

    #[test]
    fn adapters_are_found_alone_in_folders_and_in_runs() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let at = |path: &str| scratch.path().join(path);
        for folder in ["one", "many/b", "many/a", "many/.hidden", "runs/x/adapter", "runs/y/adapter"] {
            put(&at(folder));
        }
        for run in ["runs/x", "runs/y"] {
            fs::write(at(run).join(run::RECIPE), "").expect("a file");
        }
        fs::create_dir(at("many/empty")).expect("a folder");
        let found = |paths: &[&str]| names(&paths.iter().map(|path| at(path)).collect::<Vec<_>>());
        assert_eq!(found(&["one", "many"]), Ok(["one", "a", "b"].map(str::to_owned).to_vec()));
        assert_eq!(found(&["runs"]), Ok(["x", "y"].map(str::to_owned).to_vec()));
        assert_eq!(found(&["runs/x", "runs/y/adapter"]), Ok(["x", "y"].map(str::to_owned).to_vec()));
        let named =
            |name: &str, path: &str| names(&[PathBuf::from(format!("{name}={}", at(path).display()))]);
        assert_eq!(named("mine", "one"), Ok(vec!["mine".to_owned()]));
        assert!(named("mine", "many").expect_err("two").contains("`mine=` names one adapter"));
        assert!(found(&["many/empty"]).expect_err("none").contains("neither an adapter nor a run"));
    }
}
