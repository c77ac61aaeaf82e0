//! What can be wrong with a recipe.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{}: cannot be read", file.display())]
    Io {
        /// The recipe.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// No recipe of that name is shipped.
    #[error("no recipe `{name}` is shipped{}; `nola-train recipes` lists those that are", guess(.name, .shipped))]
    NotShipped {
        /// The name asked for.
        name: String,
        /// The names there are.
        shipped: Vec<String>,
    },

    /// The text is not TOML.
    #[error("{place}: not TOML: {problem}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser said.
        problem: String,
    },

    /// An override is not `key=value`, or goes through a key that is no table.
    #[error("--set {text}: expected KEY=VALUE, as in --set train.steps=100")]
    Override {
        /// The override, as typed.
        text: String,
    },

    /// No key of that name.
    #[error("there is no key `{name}`{}; `nola-train recipes --explain train` lists those of a section", guess(.name, .expected))]
    NoSuchKey {
        /// The key asked for.
        name: String,
        /// The keys there are.
        expected: Vec<String>,
    },

    /// Neither a file nor a shipped recipe.
    #[error(
        "{name}: no such file, and no recipe of that name is shipped{}; `nola-train recipes` lists those that are",
        guess(stem(.name), .shipped)
    )]
    NoRecipe {
        /// What was typed.
        name: String,
        /// The names there are.
        shipped: Vec<String>,
    },

    /// Keys and values that cannot be meant.
    #[error("{}", list(.0))]
    Invalid(Vec<Finding>),
}

/// Where in the user's text something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A line of the recipe, counted from 1; without one where the key is absent.
    File {
        /// The recipe.
        file: PathBuf,
        /// The line.
        line: Option<usize>,
    },
    /// An override, as typed.
    Override(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line: Some(line) } => write!(f, "{}:{line}", file.display()),
            Self::File { file, line: None } => write!(f, "{}", file.display()),
            Self::Override(text) => write!(f, "--set {text}"),
        }
    }
}

/// One value that cannot be meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Where it stands, if the recipe came from a text.
    pub place: Option<Place>,
    /// The whole key.
    pub key: String,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        match &self.problem {
            Problem::UnknownKey { .. } => write!(f, "unknown key `{}`; {}", self.key, self.problem),
            problem => write!(f, "`{}` {problem}", self.key),
        }
    }
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Problem {
    /// A key that has no default was left out.
    #[error("is missing; write it, as in {example}")]
    Missing {
        /// What to write.
        example: String,
    },
    /// A key that recipes do not have.
    #[error("{}", known(.name, .expected, .elsewhere))]
    UnknownKey {
        /// Its last part, the unknown one.
        name: String,
        /// The keys that could stand there.
        expected: Vec<String>,
        /// The keys of that name in other tables.
        elsewhere: Vec<String>,
    },
    /// A choice that the key does not offer.
    #[error("cannot be `{value}`; {}", hint(.value, .expected))]
    UnknownChoice {
        /// What was written.
        value: String,
        /// What can be written.
        expected: Vec<String>,
    },
    /// A value of a wrong type.
    #[error("is {found}; expected {expected}")]
    Type {
        /// What was written.
        found: String,
        /// What can be written.
        expected: String,
    },
    /// A value outside what it may be.
    #[error("is {found}; it must be {range}")]
    NotAllowed {
        /// What was written.
        found: String,
        /// What can be written.
        range: String,
    },
    /// A value that cannot be used beside others.
    #[error("is {found}: {cure}")]
    Unusable {
        /// What was written.
        found: String,
        /// What to write instead.
        cure: String,
    },
    /// Whatever else keeps a recipe from being read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// A part that does not fill the whole evenly.
    #[error("is {value}, which does not divide `{whole_key}` = {whole}")]
    NotADivisor {
        /// What was written.
        value: usize,
        /// The key of the whole.
        whole_key: &'static str,
        /// The whole.
        whole: usize,
    },
    /// A value that another one makes meaningless.
    #[error("has no effect with {because}; remove it")]
    NoEffect {
        /// The other value.
        because: &'static str,
    },
}

/// Collects findings, so that all are reported at once.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    /// Adds what is wrong with a key; only the first thing that is found is reported.
    pub(super) fn add(&mut self, key: impl Into<String>, problem: Problem) {
        let key = key.into();
        if self.0.iter().all(|finding| finding.key != key) {
            self.0.push(Finding { place: None, key, problem });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_vec(self) -> Vec<Finding> {
        self.0
    }

    pub(super) fn into_result(self) -> Result<(), RecipeError> {
        if self.0.is_empty() { Ok(()) } else { Err(RecipeError::Invalid(self.0)) }
    }
}

/// "did you mean", then everything that is possible.
pub(crate) fn hint(wrong: &str, expected: &[String]) -> String {
    let all = format!("possible: {}", expected.join(", "));
    likely(wrong, expected).map_or(all.clone(), |likely| format!("did you mean `{likely}`? ({all})"))
}

/// What an unknown key could be.
fn known(wrong: &str, expected: &[String], elsewhere: &[String]) -> String {
    match elsewhere {
        [] => hint(wrong, expected),
        found => format!("there is {} (possible here: {})", found.join(" and "), expected.join(", ")),
    }
}

/// "did you mean", where something is alike.
fn guess(wrong: &str, expected: &[String]) -> String {
    likely(wrong, expected).map_or(String::new(), |likely| format!(" (did you mean `{likely}`?)"))
}

/// The name of a file without its folder and ending.
fn stem(path: &str) -> &str {
    Path::new(path).file_stem().and_then(OsStr::to_str).unwrap_or(path)
}

/// The name that was probably meant.
fn likely<'a>(wrong: &str, expected: &'a [String]) -> Option<&'a String> {
    /// Similarity above which a name is worth suggesting; clap's value.
    const SIMILAR: f64 = 0.7;
    let similar = expected.iter().map(|candidate| (strsim::jaro(wrong, candidate), candidate));
    let similar = similar.filter(|(similarity, _)| *similarity > SIMILAR);
    similar.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, likely)| likely)
}

fn list(findings: &[Finding]) -> String {
    findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n")
}
