//! The folders of adapters: what lies in them, and what of it may be served.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

use nola_core::bundle::{check_name, is_bundle};

use crate::Error;
use crate::error::ServeError;

/// The file that makes a folder an adapter's.
const CONFIG: &str = "adapter_config.json";

/// Folders in which adapters and bundles lie, or bundles; nothing outside of them is read.
#[derive(Debug)]
pub(super) struct Roots(Vec<PathBuf>);

/// Where an adapter of some name lies, or why that cannot be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub folder: PathBuf,
    pub problem: Option<String>,
}

/// What lies in the folders of adapters.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Adapter folders by name.
    pub found: BTreeMap<String, Found>,
    /// Folders of adapters that cannot be read now, each with the reason: nobody knows what lies in them.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// Why a path means no folder that may be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoFolder {
    pub problem: String,
    /// Whether there is none, as far as anybody is told.
    pub is_missing: bool,
}

impl Roots {
    /// # Errors
    /// If one of them is no folder.
    pub(super) fn open(folders: &[PathBuf]) -> Result<Self, Error> {
        let open = |folder: &PathBuf| {
            let whole = folder.canonicalize().and_then(|whole| fs::read_dir(&whole).map(|_| whole));
            whole.map_err(|source| ServeError::AdaptersFolder { folder: folder.clone(), source }.into())
        };
        let mut roots = folders.iter().map(open).collect::<Result<Vec<_>, Error>>()?;
        roots.sort();
        roots.dedup();
        Ok(Self(roots))
    }

    /// Every adapter folder in them; bundles are such folders, too.
    pub(super) fn listing(&self) -> Listing {
        let mut listing = Listing::default();
        for root in &self.0 {
            match folders_in(root) {
                Ok(folders) => folders.into_iter().for_each(|folder| self.list(folder, &mut listing.found)),
                // It was removed, and its adapters with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => listing.unreadable.push((root.clone(), error.to_string())),
            }
        }
        listing
    }

    fn list(&self, folder: PathBuf, found: &mut BTreeMap<String, Found>) {
        let Some(name) = name_of(&folder) else { return };
        if !name.starts_with('.') && is_adapter(&folder) {
            let one = self.checked(folder);
            found.entry(name).and_modify(|other: &mut Found| *other = twice(other, &one)).or_insert(one);
        }
    }

    /// The adapter folder of this name, if it is in one of them.
    pub(super) fn named(&self, name: &str) -> Option<Found> {
        if check_name(name).is_err() || name.starts_with('.') {
            return None;
        }
        let folders = self.0.iter().filter_map(|root| inside_of(root, Path::new(name)));
        let folders = folders.filter(|folder| is_adapter(folder));
        folders.map(|folder| self.checked(folder)).reduce(|one, other| twice(&one, &other))
    }

    /// The folder that a path means: one inside of these folders, by its way from one of them or from the root.
    ///
    /// # Errors
    /// With what is wrong with the path.
    pub(super) fn inside(&self, path: &Path) -> Result<PathBuf, NoFolder> {
        let shown = path.display();
        if path.components().any(|part| matches!(part, Component::ParentDir | Component::CurDir)) {
            let problem =
                format!("`{shown}` has `.` or `..` in it; name a folder inside of an adapters folder");
            return Err(NoFolder { problem, is_missing: false });
        }
        let places: Vec<PathBuf> = match path.is_absolute() {
            true => vec![path.to_owned()],
            false => self.0.iter().filter_map(|root| inside_of(root, path)).collect(),
        };
        // What is outside looks as if it were not there, or everybody could ask which files there are.
        let whole = places.iter().filter_map(|place| place.canonicalize().ok());
        let folder = whole.into_iter().find(|folder| self.holds(folder) && is_adapter(folder));
        let missing = || NoFolder {
            problem: format!("there is no adapter folder `{shown}` in the adapters folders"),
            is_missing: true,
        };
        match self.checked(folder.ok_or_else(missing)?) {
            Found { folder, problem: None } => Ok(folder),
            Found { problem: Some(problem), .. } => Err(NoFolder { problem, is_missing: false }),
        }
    }

    fn holds(&self, path: &Path) -> bool {
        self.0.iter().any(|root| path.starts_with(root) && (path != root || is_bundle(root)))
    }

    /// A folder none of whose files lies outside.
    fn checked(&self, folder: PathBuf) -> Found {
        let is_inside = |path: &Path| path.canonicalize().is_ok_and(|whole| self.holds(&whole));
        let files = || fs::read_dir(&folder).into_iter().flatten().flatten();
        let leads_out = !is_inside(&folder) || files().any(|file| is_link(&file) && !is_inside(&file.path()));
        let message = "a link leads out of the adapters folder; copy what it names into the folder";
        let problem = leads_out.then(|| message.to_owned());
        Found { folder, problem }
    }
}

/// What tells whether an adapter folder changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp(Vec<(OsString, u64, SystemTime)>);

impl Stamp {
    /// Names, sizes and times of its files.
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for file in fs::read_dir(folder)? {
            let file = file?;
            let facts = fs::metadata(file.path())?;
            if facts.is_file() {
                files.push((file.file_name(), facts.len(), facts.modified()?));
            }
        }
        files.sort();
        Ok(Self(files))
    }
}

/// The folders in a root; a bundle is the only one of its own.
fn folders_in(root: &Path) -> io::Result<Vec<PathBuf>> {
    if is_bundle(root) {
        return Ok(vec![root.to_owned()]);
    }
    let paths = fs::read_dir(root)?.map(|entry| entry.map(|entry| entry.path()));
    let mut folders = paths.collect::<io::Result<Vec<_>>>()?;
    folders.retain(|path| path.is_dir());
    Ok(folders)
}

/// What a path in a root means; in a bundle that is its own name alone.
fn inside_of(root: &Path, path: &Path) -> Option<PathBuf> {
    match is_bundle(root) {
        true => root.file_name().is_some_and(|name| path == Path::new(name)).then(|| root.to_owned()),
        false => Some(root.join(path)),
    }
}

fn name_of(folder: &Path) -> Option<String> {
    folder.file_name().map(|name| name.to_string_lossy().into_owned())
}

fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG).is_file() || is_bundle(folder)
}

fn is_link(file: &fs::DirEntry) -> bool {
    file.file_type().is_ok_and(|kind| kind.is_symlink())
}

fn twice(one: &Found, other: &Found) -> Found {
    let [first, second] = [one, other].map(|found| found.folder.display());
    let problem = format!("two folders have this name, {first} and {second}; rename one");
    Found { folder: one.folder.clone(), problem: Some(problem) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with `adapters`, each with a configuration, and `outside` beside it.
    fn scratch(adapters: &[&str]) -> (tempfile::TempDir, Roots) {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        for name in adapters.iter().map(|name| format!("in/{name}")).chain(["outside".to_owned()]) {
            let folder = scratch.path().join(name);
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join(CONFIG), "{}").expect("a file");
        }
        let roots = Roots::open(&[scratch.path().join("in")]).expect("a folder");
        (scratch, roots)
    }

    #[test]
    fn a_folder_with_a_configuration_is_an_adapter_by_its_name() {
        let (scratch, roots) = scratch(&["b", "a", ".hidden"]);
        fs::create_dir(scratch.path().join("in/empty")).expect("a folder");
        fs::write(scratch.path().join("in/file"), "").expect("a file");
        assert_eq!(roots.listing().found.into_keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(roots.named("a").is_some_and(|found| found.problem.is_none()));
        for unknown in ["c", "empty", ".hidden", "..", "", "a/", "../outside", "/"] {
            assert_eq!(roots.named(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_path_stays_inside() {
        let (scratch, roots) = scratch(&["a", "deep/b"]);
        for path in ["a", "deep/b", "a/"] {
            assert!(roots.inside(Path::new(path)).is_ok(), "{path}");
        }
        let whole = |path: &str| scratch.path().join(path).canonicalize().expect("it is there");
        assert!(roots.inside(&whole("in/a")).is_ok());
        assert!(roots.inside(&whole("outside")).is_err());
        assert!(roots.inside(&whole("in")).is_err());
        for path in
            ["../outside", "a/../a", ".", "", "deep", "/etc", "a/adapter_config.json", "./a/../../outside"]
        {
            assert!(roots.inside(Path::new(path)).is_err(), "{path}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_out_of_the_folder_is_not_followed() {
        let (scratch, roots) = scratch(&["a", "b"]);
        let link = |to: &str, name: &str| {
            std::os::unix::fs::symlink(scratch.path().join(to), scratch.path().join(name)).expect("a link");
        };
        link("outside", "in/c");
        fs::remove_file(scratch.path().join("in/b").join(CONFIG)).expect("it was there");
        link("outside/adapter_config.json", "in/b/adapter_config.json");
        link("in/a", "in/d");
        let found = roots.listing().found;
        let is_good = |name: &str| found[name].problem.is_none();
        assert_eq!(["a", "b", "c", "d"].map(is_good), [true, false, false, true]);
        assert!(roots.inside(Path::new("c")).is_err() && roots.inside(Path::new("b")).is_err());
        assert!(roots.named("c").is_some_and(|found| found.problem.is_some()));
    }

    #[test]
    fn a_name_in_two_folders_is_a_problem() {
        let (scratch, _) = scratch(&["a"]);
        let other = scratch.path().join("other/a");
        fs::create_dir_all(&other).expect("a folder");
        fs::write(other.join(CONFIG), "{}").expect("a file");
        let roots = Roots::open(&[scratch.path().join("in"), scratch.path().join("other")]).expect("folders");
        let problem = roots.listing().found["a"].problem.clone().expect("a problem");
        assert!(problem.starts_with("two folders have this name"), "{problem}");
        assert_eq!(roots.named("a").and_then(|found| found.problem), Some(problem));
    }

    #[test]
    fn a_stamp_changes_with_a_file() {
        let (scratch, _) = scratch(&["a"]);
        let folder = scratch.path().join("in/a");
        let stamp = Stamp::of(&folder).expect("a folder");
        assert_eq!(Stamp::of(&folder).expect("a folder"), stamp);
        fs::write(folder.join(CONFIG), "{ }").expect("a file");
        assert_ne!(Stamp::of(&folder).expect("a folder"), stamp);
    }

    #[test]
    fn a_bundle_lies_in_a_folder_or_is_one_itself() {
        let (scratch, roots) = scratch(&["a", "many"]);
        let whole = |path: &str| scratch.path().join(path).canonicalize().expect("it is there");
        fs::rename(whole("in/many/adapter_config.json"), scratch.path().join("in/many/bundle.json"))
            .expect("it was there");
        assert_eq!(roots.listing().found.into_keys().collect::<Vec<_>>(), ["a", "many"]);
        let alone = Roots::open(&[scratch.path().join("in/many")]).expect("a folder");
        assert_eq!(alone.listing().found.into_keys().collect::<Vec<_>>(), ["many"]);
        assert!(alone.named("many").is_some() && alone.named("a").is_none());
        assert!(alone.inside(Path::new("many")).is_ok() && alone.inside(&whole("in/many")).is_ok());
        for outside in ["a", "../a", "bundle.json", "many/bundle.json"] {
            assert!(alone.inside(Path::new(outside)).is_err(), "{outside}");
        }
        assert!(alone.inside(&whole("in/a")).is_err());
    }
}
