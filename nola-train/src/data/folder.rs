//! ImageFolder: `root/CLASS/.../image`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::{DataError, Dataset, ImageSource, Sample, composed};

/// Extensions that mark a file as an image; what is in it is decided by its content.
///
/// Some are here although they cannot be decoded: to be told is better than to miss images.
const IMAGES: [&str; 15] = [
    "avif", "bmp", "gif", "heic", "jfif", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "ppm", "tif", "tiff",
    "webp",
];

/// Lists a folder: the first level gives the classes (sorted by name), images lie at any depth below.
///
/// Names of classes are in Unicode's composed form, whatever the file system has.
///
/// Hidden files and folders do not count, nor do files of other kinds (a `.txt`). A file without an extension does.
/// Symbolic links are followed as long as they stay within the folder.
///
/// # Errors
/// If the folder cannot be read, has no class folders, or has some without images.
pub(super) fn read(root: &Path) -> Result<Dataset, DataError> {
    let mut images: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let links_outside = walk(root, |entry| {
        let Some(name) = class_of(&entry, root) else { return Ok(()) };
        let class = composed(&name);
        if entry.depth() == 1 && entry.file_type().is_dir() {
            let other = names.insert(class.clone(), name.clone()).filter(|other| *other != name);
            if let Some(other) = other {
                return Err(DataError::SameName { root: root.into(), names: [other, name] });
            }
            images.entry(class).or_default();
        } else if entry.depth() > 1 && entry.file_type().is_file() && is_image(entry.path()) {
            images.entry(class).or_default().push(entry.into_path());
        }
        Ok(())
    })?;
    into_dataset(root, images, links_outside)
}

/// The images of a folder, whatever they show.
#[derive(Debug, Default)]
pub struct FolderImages {
    /// The images at any depth, in the order of their names.
    pub images: Vec<PathBuf>,
    /// Files that are no images, as their names say.
    pub others: usize,
    /// Symbolic links that leave the folder and were not followed.
    pub links_outside: usize,
}

/// Lists the images of a folder at any depth; what counts as one is as for training data.
///
/// # Errors
/// If the folder cannot be read or holds no image.
pub fn images_in(root: &Path) -> Result<FolderImages, DataError> {
    let mut found = FolderImages::default();
    let links_outside = walk(root, |entry| {
        if entry.file_type().is_file() && is_image(entry.path()) {
            found.images.push(entry.into_path());
        } else if entry.file_type().is_file() {
            found.others += 1;
        }
        Ok(())
    })?;
    if found.images.is_empty() {
        return Err(DataError::NoImagesInside { folder: root.into(), others: found.others });
    }
    found.links_outside = links_outside;
    Ok(found)
}

/// Hands on what is in a folder, in the order of the names; returns the number of links that leave it.
fn walk(root: &Path, mut take: impl FnMut(DirEntry) -> Result<(), DataError>) -> Result<usize, DataError> {
    let io = |source| DataError::Io { path: root.into(), source };
    let inside = root.canonicalize().map_err(io)?;
    let mut links_outside = 0;
    let entries = WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter();
    let entries = entries.filter_entry(|entry| {
        let leaves = entry.path_is_symlink() && entry.depth() > 0 && !stays_within(entry, &inside);
        links_outside += usize::from(leaves);
        !leaves && (entry.depth() == 0 || !is_hidden(entry))
    });
    for entry in entries {
        match entry {
            Ok(entry) => take(entry)?,
            // A link back to a folder around it, or to nothing: there is nothing new behind it.
            Err(error) if error.loop_ancestor().is_some() || is_dangling(&error) => {}
            Err(error) => {
                let path = error.path().unwrap_or(root).to_owned();
                return Err(DataError::Io { path, source: error.into() });
            }
        }
    }
    Ok(links_outside)
}

fn into_dataset(
    root: &Path,
    images: BTreeMap<String, Vec<PathBuf>>,
    links_outside: usize,
) -> Result<Dataset, DataError> {
    if images.is_empty() {
        return Err(DataError::NoClasses { root: root.into() });
    }
    let empty: Vec<String> =
        images.iter().filter(|(_, files)| files.is_empty()).map(|(class, _)| class.clone()).collect();
    if !empty.is_empty() {
        return Err(DataError::EmptyClasses { root: root.into(), classes: empty });
    }
    let classes = images.keys().cloned().collect();
    let samples = images
        .into_values()
        .enumerate()
        .flat_map(|(label, files)| {
            files.into_iter().map(move |file| Sample { label, source: ImageSource::File(file), part: 0 })
        })
        .collect();
    Ok(Dataset { root: root.into(), classes, samples, links_outside, notes: Vec::new() })
}

/// The folder of the first level that an entry lies in.
fn class_of(entry: &DirEntry, root: &Path) -> Option<String> {
    let first = entry.path().strip_prefix(root).ok()?.components().next()?;
    Some(first.as_os_str().to_string_lossy().into_owned())
}

fn is_hidden(entry: &DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
}

fn is_image(path: &Path) -> bool {
    path.extension().is_none_or(|extension| IMAGES.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

fn stays_within(link: &DirEntry, inside: &Path) -> bool {
    link.path().canonicalize().is_ok_and(|target| target.starts_with(inside))
}

fn is_dangling(error: &walkdir::Error) -> bool {
    let link = error.path().is_some_and(Path::is_symlink);
    link && error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if !file.ends_with('/') {
                fs::write(path, b"x").unwrap();
            }
        }
        folder
    }

    fn labels_and_names(dataset: &Dataset, root: &Path) -> Vec<(usize, String)> {
        let prefix = format!("{}/", root.display());
        dataset
            .samples
            .iter()
            .map(|sample| (sample.label, sample.source.name().replace(&prefix, "")))
            .collect()
    }

    #[test]
    fn the_first_level_gives_the_class_of_images_at_any_depth() {
        let root = folder(&["dog/b.png", "cat/deep/er/a.JPG", "cat/0.png", "dog/noextension"]);
        let dataset = read(root.path()).unwrap();
        assert_eq!(dataset.classes, ["cat", "dog"]);
        let expected = [(0, "cat/0.png"), (0, "cat/deep/er/a.JPG"), (1, "dog/b.png"), (1, "dog/noextension")];
        assert_eq!(
            labels_and_names(&dataset, root.path()),
            expected.map(|(label, name)| (label, name.to_owned()))
        );
    }

    #[test]
    fn hidden_and_other_files_do_not_count() {
        let root = folder(&["cat/a.png", "cat/.b.png", ".git/c.png", "cat/notes.txt", "d.png"]);
        let dataset = read(root.path()).unwrap();
        assert_eq!(labels_and_names(&dataset, root.path()), [(0, "cat/a.png".to_owned())]);
    }

    #[test]
    fn all_images_of_a_folder_are_found_in_the_order_of_their_names() {
        let root = folder(&["b.png", "a/z.JPG", "a/b/c.webp", "notes.txt", "a/.hidden.png", "noextension"]);
        let found = images_in(root.path()).unwrap();
        let names: Vec<_> = found
            .images
            .iter()
            .map(|image| image.strip_prefix(root.path()).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["a/b/c.webp", "a/z.JPG", "b.png", "noextension"]);
        assert_eq!((found.others, found.links_outside), (1, 0));
    }

    #[test]
    fn a_folder_without_images_says_what_is_in_it() {
        let root = folder(&["notes.txt", "more.csv"]);
        let message = images_in(root.path()).unwrap_err().to_string();
        assert!(message.contains("no image in this folder, and other files: 2"), "{message}");
    }

    #[test]
    fn a_folder_without_classes_says_what_is_expected() {
        let root = folder(&["a.png"]);
        let message = read(root.path()).unwrap_err().to_string();
        assert!(message.contains("one folder for each class"), "{message}");
    }

    #[test]
    fn every_empty_class_is_named() {
        let root = folder(&["cat/a.png", "dog/", "fox/notes.txt"]);
        fs::create_dir(root.path().join("dog")).ok();
        let message = read(root.path()).unwrap_err().to_string();
        assert!(message.contains("no images in dog, fox"), "{message}");
    }

    #[test]
    fn names_of_classes_are_in_one_unicode_form() {
        let one = folder(&["pe\u{302}che/a.png", "plum/b.png"]);
        let other = folder(&["p\u{ea}che/a.png", "plum/b.png"]);
        let [one, other] = [&one, &other].map(|root| read(root.path()).unwrap().classes);
        assert_eq!(one, other);
        assert_eq!(one, ["plum", "p\u{ea}che"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn two_folders_that_differ_in_unicode_form_alone_are_refused() {
        let root = folder(&["pe\u{302}che/a.png", "p\u{ea}che/b.png", "plum/c.png"]);
        let message = read(root.path()).unwrap_err().to_string();
        for part in ["Unicode", "pe\\u{302}che", "p\\u{ea}che", "rename"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn an_absent_folder_is_named() {
        let message = read(Path::new("no/such/folder")).unwrap_err().to_string();
        assert!(message.starts_with("no/such/folder: "), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_within_the_folder_only() {
        use std::os::unix::fs::symlink;
        let other = folder(&["secret/s.png"]);
        let root = folder(&["cat/a.png", "dog/b.png"]);
        symlink(other.path().join("secret"), root.path().join("cat/out")).unwrap();
        symlink(other.path().join("secret/s.png"), root.path().join("cat/out.png")).unwrap();
        symlink(root.path().join("dog/b.png"), root.path().join("cat/in.png")).unwrap();
        symlink(root.path(), root.path().join("cat/loop")).unwrap();
        symlink(root.path().join("nothing"), root.path().join("cat/dangling.png")).unwrap();
        let dataset = read(root.path()).unwrap();
        let expected = [(0, "cat/a.png"), (0, "cat/in.png"), (1, "dog/b.png")];
        assert_eq!(
            labels_and_names(&dataset, root.path()),
            expected.map(|(label, name)| (label, name.to_owned()))
        );
        assert!(dataset.links_outside >= 2);
    }
}
