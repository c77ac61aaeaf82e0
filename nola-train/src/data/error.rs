//! What can be wrong with a data set.

use std::path::PathBuf;

use crate::printable::{self, path_name};
use crate::problems::{Limits, Problems};
use crate::settings::DataFormat;

/// Why a data set cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file or folder cannot be read.
    #[error("{}: cannot be read", path_name(path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// Images are wanted, and the format is one of text.
    #[error("`{format}` is a format of text, but images are wanted; name one of images, such as `folder`")]
    NoImages {
        /// The format.
        format: DataFormat,
    },

    /// No place of images was given.
    #[error("no folder or file of images is named")]
    NoPath,

    /// Images by the name of a data set of the hub.
    #[error(
        "{}: images are read from files on this machine, not from the hub; fetch them, as with `hf download OWNER/NAME \
         --repo-type dataset --local-dir FOLDER`, and write one folder for each class",
        path_name(name)
    )]
    OnHub {
        /// The name.
        name: PathBuf,
    },

    /// A folder without class folders.
    #[error(
        "{}: has no class folders; expected one folder for each class, with its images inside",
        path_name(root)
    )]
    NoClasses {
        /// The folder.
        root: PathBuf,
    },

    /// Class folders without images.
    #[error(
        "{}: no images in {}; add some or remove the folder (links that leave the data folder are not followed)",
        path_name(root),
        printable::names(classes)
    )]
    EmptyClasses {
        /// The folder of the class folders.
        root: PathBuf,
        /// Their names.
        classes: Vec<String>,
    },

    /// Training and validation do not show the same things.
    #[error(
        "classes differ: {}; {}; both need the same class folders",
        only(.only_train, .train), only(.only_validation, .validation)
    )]
    DifferentClasses {
        /// Where the training images lie.
        train: PathBuf,
        /// Where the validation images lie.
        validation: PathBuf,
        /// Classes of the training images alone.
        only_train: Vec<String>,
        /// Classes of the validation images alone.
        only_validation: Vec<String>,
    },

    /// All images are of one class, of which a model learns nothing.
    #[error(
        "{}: all images are of one class, `{}`, so there is nothing to learn; {}",
        path_name(root), printable::name(class), level(folders, &root.join(class), "a data set needs images of two classes or more")
    )]
    OneClass {
        /// Where the images lie.
        root: PathBuf,
        /// The class.
        class: String,
        /// Folders inside that of the class.
        folders: Vec<String>,
    },

    /// Two folders with one name.
    #[error(
        "{}: two folders have the same name in different Unicode forms, `{}` and `{}`; rename one, or move its images to the other",
        path_name(root), in_numbers(&names[0]), in_numbers(&names[1])
    )]
    SameName {
        /// The folder of both.
        root: PathBuf,
        /// Their names.
        names: [String; 2],
    },

    /// Images of classes that the model does not know.
    #[error(
        "{}: the model does not know {}; it knows {}; {}",
        path_name(root), few(unknown), few(labels),
        level(folders, &root.join(&unknown[0]), "rename the folders as the model's classes, or name an adapter for these")
    )]
    ForeignClasses {
        /// Where the images lie.
        root: PathBuf,
        /// Their classes that are not the model's.
        unknown: Vec<String>,
        /// The model's.
        labels: Vec<String>,
        /// Folders inside that of the only class.
        folders: Vec<String>,
    },

    /// A class that stands for two outputs of the model.
    #[error(
        "{}: the model has two classes called `{}`, so nobody can say which is right; rename one in its config.json",
        path_name(root),
        printable::name(class)
    )]
    RepeatedLabel {
        /// Where the images lie.
        root: PathBuf,
        /// The class.
        class: String,
    },

    /// An image that cannot be used.
    #[error(transparent)]
    Image(#[from] BadImage),

    /// A folder in which there is nothing to look at.
    #[error(
        "{}: no image in this folder, and other files: {others}; name a folder with images",
        path_name(folder)
    )]
    NoImagesInside {
        /// The folder.
        folder: PathBuf,
        /// Files that are no images, as their names say.
        others: usize,
    },

    /// Images that were asked about and cannot be used; the others were answered.
    #[error("{}", unanswered(.bad, *.of))]
    Unanswered {
        /// Why, one for each.
        bad: Vec<BadImage>,
        /// Images that were asked about.
        of: usize,
    },

    /// A class with fewer images than the recipe takes of each.
    #[error(
        "{}: class `{}` has {found} images to learn from, data.shots = {wanted}; lower data.shots or add images",
        path_name(root),
        printable::name(class)
    )]
    TooFewShots {
        /// Where the images lie.
        root: PathBuf,
        /// The class.
        class: String,
        /// Images there are.
        found: usize,
        /// Images asked for.
        wanted: usize,
    },

    /// A weight that leaves nothing of a file.
    #[error(
        "{}: with weight {weight} none of its {samples} samples comes in an epoch; raise the weight in data.train, or leave the \
         path out",
        path_name(path)
    )]
    NothingInEpoch {
        /// File or folder.
        path: PathBuf,
        /// The weight.
        weight: f64,
        /// Samples there are.
        samples: usize,
    },

    /// Classes of which no image can be held out.
    #[error(
        "{}: only one image in {}, so data.validation_split cannot hold one out and keep one; add images, or name others with \
         data.validation",
        path_name(root),
        few(classes)
    )]
    TooFewToHoldOut {
        /// Where the images lie.
        root: PathBuf,
        /// The classes.
        classes: Vec<String>,
    },

    /// Images that cannot be decoded.
    #[error("{}", list(.0))]
    BadImages(Vec<BadImage>),

    /// A folder without the files that the format has.
    #[error("{}: none of the format's files is here; expected {expected}", path_name(folder))]
    MissingFiles {
        /// The folder.
        folder: PathBuf,
        /// Names of the files.
        expected: String,
    },

    /// A file whose length does not fit its format.
    #[error(
        "{}: {found} bytes, {expected}; it is cut short or of another format: get it again",
        path_name(file)
    )]
    WrongLength {
        /// The file.
        file: PathBuf,
        /// Bytes there are (after unpacking).
        found: u64,
        /// Bytes there should be.
        expected: ExpectedLength,
    },

    /// A file that does not start as its format does.
    #[error(
        "{}: starts with {found:#010x}, not {expected:#010x} (IDX bytes, {dimensions}-dimensional); is it the right file?",
        path_name(file)
    )]
    WrongMagic {
        /// The file.
        file: PathBuf,
        /// The first four bytes, big-endian.
        found: u32,
        /// What they should be.
        expected: u32,
        /// Dimensions of the array.
        dimensions: u32,
    },

    /// A file that claims to be larger than we unpack.
    #[error(
        "{}: claims {count} images of {height} x {width}; the limit is {limit} bytes in all",
        path_name(file)
    )]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Images claimed.
        count: u32,
        /// Pixels claimed, vertically.
        height: u32,
        /// Pixels claimed, horizontally.
        width: u32,
        /// Bytes allowed.
        limit: u64,
    },

    /// A label that is no class of the format.
    #[error(
        "{}: record {record} has label {label}, but there are {classes} classes; is data.format right?",
        path_name(file)
    )]
    WrongLabel {
        /// The file.
        file: PathBuf,
        /// The record, counted from 0.
        record: usize,
        /// Its label.
        label: u8,
        /// Classes of the format.
        classes: usize,
    },

    /// A file of images and its file of labels do not belong together.
    #[error(
        "{}: {labels} labels for the {images} images of {}",
        path_name(labels_file),
        path_name(images_file)
    )]
    CountsDiffer {
        /// The file of images.
        images_file: PathBuf,
        /// The file of labels.
        labels_file: PathBuf,
        /// Images.
        images: usize,
        /// Labels.
        labels: usize,
    },
}

/// The length that a file should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExpectedLength {
    /// This many bytes.
    #[error("not the {0} its header says")]
    Exactly(u64),
    /// A positive multiple of this many bytes.
    #[error("not a positive multiple of the record's {0}")]
    MultipleOf(u64),
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadImage {
    /// It cannot be read.
    #[error("{}: cannot be read: {source}", path_name(file))]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is nothing in it.
    #[error("{}: the file is empty", path_name(file))]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// The file itself is larger than any image should be.
    #[error("{}: {bytes} bytes; the limit is {limit}", path_name(file))]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// It cannot be decoded.
    #[error(transparent)]
    Decode(#[from] nola_models::Error),
}

impl BadImage {
    /// The file, and what is wrong with it.
    fn parts(&self) -> (String, String) {
        let message = self.to_string();
        let name = match self {
            Self::Read { file, .. } | Self::Empty { file } | Self::TooLarge { file, .. } => path_name(file),
            Self::Decode(error) => error.image().map(|file| file.display().to_string()).unwrap_or_default(),
        };
        let problem =
            message.strip_prefix(&name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&message);
        (name, problem.to_owned())
    }
}

/// A line for each different problem of images.
pub fn bad_images(bad: &[BadImage], limits: Limits) -> Vec<String> {
    let mut problems = Problems::new(limits);
    for (name, problem) in bad.iter().map(BadImage::parts) {
        problems.push(name, problem);
    }
    problems.lines("images", |names| names.join(", "))
}

/// The cure for a folder that may be one level too high, else another.
fn level(folders: &[String], class: &std::path::Path, otherwise: &str) -> String {
    if folders.is_empty() {
        return otherwise.to_owned();
    }
    let inside = few(folders);
    format!(
        "the folder may be one level too high: the class holds the folders {inside}, so name {}",
        path_name(class)
    )
}

/// The first names of a list that may be long.
pub fn few(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let rest = names.len().saturating_sub(SHOWN);
    let shown = printable::names(&names[..names.len() - rest]);
    if rest > 0 { format!("{shown} and {rest} more") } else { shown }
}

/// A name with the letters that look alike in two forms as numbers.
fn in_numbers(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii() && !c.is_control() { c.to_string() } else { c.escape_unicode().to_string() })
        .collect()
}

fn only(classes: &[String], root: &std::path::Path) -> String {
    if classes.is_empty() {
        return format!("nothing is in {} alone", path_name(root));
    }
    format!("only in {}: {}", path_name(root), printable::names(classes))
}

/// What could not be answered; every image is named, since each of them was asked about.
fn unanswered(bad: &[BadImage], of: usize) -> String {
    match bad {
        [only] if of == 1 => only.to_string(),
        bad => {
            let mut lines = vec![format!("{} of {of} images cannot be used:", bad.len())];
            lines.extend(bad.iter().map(|image| format!("  {image}")));
            lines.join("\n")
        }
    }
}

fn list(bad: &[BadImage]) -> String {
    let mut lines = vec![format!("{} images cannot be used:", bad.len())];
    let listed = bad_images(bad, Limits { problems: 20, places: 20 });
    lines.extend(listed.iter().map(|line| format!("  {line}")));
    lines.push("replace or remove them, or leave them out with data.on_bad_image = \"skip\"".to_owned());
    lines.join("\n")
}
