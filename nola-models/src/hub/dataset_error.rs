//! What keeps a name from meaning certain files of a data set.

/// Why the files of a data set cannot be chosen.
///
/// A message names the data set and says what to type instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// The text is no name.
    #[error(
        "`{text}`: not a data set of the hub; write hf://datasets/OWNER/NAME, with @REVISION behind it for another branch, tag \
         or commit, and /CONFIGURATION, /SPLIT or /FILE for a part"
    )]
    NoName {
        /// What was given.
        text: String,
    },

    /// Several configurations, and none was named.
    #[error("`{name}` has several configurations: {}; name one of them, as in `{example}`", subsets.join(", "))]
    Subsets {
        /// The repository.
        name: String,
        /// The configurations there are.
        subsets: Vec<String>,
        /// One of them, as it is typed.
        example: String,
    },

    /// The split that is wanted is not there.
    #[error(
        "`{name}` has no {wanted} split; it has {}: name the one to take, as in `{example}`",
        splits.join(", ")
    )]
    NoSplit {
        /// What was named.
        name: String,
        /// The split that is wanted.
        wanted: &'static str,
        /// Those there are.
        splits: Vec<String>,
        /// One of them, as it is typed.
        example: String,
    },

    /// What is named inside is nothing of the repository.
    #[error("`{name}` has no configuration, split, folder or file `{inside}`{}", known(subsets, splits))]
    NothingInside {
        /// The repository.
        name: String,
        /// What was named.
        inside: String,
        /// The configurations there are.
        subsets: Vec<String>,
        /// The splits there are.
        splits: Vec<String>,
    },

    /// A pattern that means nothing.
    #[error("`{name}`: `{pattern}` is not a pattern of file names: {problem}")]
    Pattern {
        /// The repository.
        name: String,
        /// The pattern.
        pattern: String,
        /// What is wrong.
        problem: String,
    },

    /// Python that would have to run.
    #[error(
        "`{name}` has only a loading script ({script}); it is Python, which is not run here; if the hub keeps the data set as \
         Parquet, name that: `{example}`"
    )]
    OnlyScript {
        /// The repository.
        name: String,
        /// The script.
        script: String,
        /// The copy as Parquet, as it is typed.
        example: String,
    },

    /// No file that is read.
    #[error("`{name}` holds nothing that is read here{}", held(endings))]
    NothingReadable {
        /// What was named.
        name: String,
        /// The endings of the files there are.
        endings: Vec<String>,
    },

    /// A card that cannot be followed.
    #[error(
        "`{name}`: the `configs` in its README.md cannot be read: {problem}; name the files themselves, as in `{example}`"
    )]
    Card {
        /// The repository.
        name: String,
        /// What is wrong.
        problem: String,
        /// A pattern of files, as it is typed.
        example: String,
    },
}

fn known(subsets: &[String], splits: &[String]) -> String {
    match (subsets, splits) {
        ([], []) => String::new(),
        ([] | [_], splits) => format!("; its splits are {}", splits.join(", ")),
        (subsets, []) => format!("; its configurations are {}", subsets.join(", ")),
        (subsets, splits) => {
            format!("; its configurations are {}, the splits {}", subsets.join(", "), splits.join(", "))
        }
    }
}

fn held(endings: &[String]) -> String {
    match endings {
        [] => "; it is empty".to_string(),
        endings => format!("; its files are {}", endings.join(", ")),
    }
}
