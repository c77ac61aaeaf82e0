//! What can be wrong with a recipe.

use std::fmt;
use std::path::PathBuf;

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
    #[error("no recipe `{name}` is shipped; there are {}", shipped.join(", "))]
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

    /// A key that recipes do not have.
    #[error("{place}: unknown key `{key}`; {}", hint(.name, .expected))]
    UnknownKey {
        /// Where.
        place: Place,
        /// The whole key.
        key: String,
        /// Its last part, the unknown one.
        name: String,
        /// The keys that could stand there.
        expected: Vec<String>,
    },

    /// A choice that the key does not offer.
    #[error("{place}: `{key}` cannot be `{value}`; {}", hint(.value, .expected))]
    UnknownChoice {
        /// Where.
        place: Place,
        /// The whole key.
        key: String,
        /// What was written.
        value: String,
        /// What can be written.
        expected: Vec<String>,
    },

    /// A value of a wrong type.
    #[error("{place}: `{key}`: {problem}")]
    Type {
        /// Where.
        place: Place,
        /// The whole key.
        key: String,
        /// What the parser said.
        problem: String,
    },

    /// Values that are well-formed and still cannot be meant.
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
    pub key: &'static str,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "`{}` {}", self.key, self.problem)
    }
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Problem {
    /// A key that has no default was left out.
    #[error("is missing; give {cure}")]
    Missing {
        /// What to write.
        cure: &'static str,
    },
    /// A number outside its range.
    #[error("is {value}; it must be {range}")]
    OutOfRange {
        /// What was written.
        value: f64,
        /// What can be written.
        range: &'static str,
    },
    /// Anything else outside what it may be.
    #[error("is {found}; it must be {range}")]
    NotAllowed {
        /// What was written.
        found: String,
        /// What can be written.
        range: &'static str,
    },
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
    pub(super) fn add(&mut self, key: &'static str, problem: Problem) {
        self.0.push(Finding { place: None, key, problem });
    }

    /// Requires a number to be in `allowed`, described by `range`.
    pub(super) fn require(&mut self, key: &'static str, value: f64, allowed: bool, range: &'static str) {
        if !allowed {
            self.add(key, Problem::OutOfRange { value, range });
        }
    }

    pub(super) fn into_result(self) -> Result<(), RecipeError> {
        if self.0.is_empty() { Ok(()) } else { Err(RecipeError::Invalid(self.0)) }
    }
}

/// "did you mean", then everything that is possible.
fn hint(wrong: &str, expected: &[String]) -> String {
    /// Similarity above which a name is worth suggesting; clap's value.
    const SIMILAR: f64 = 0.7;
    let all = format!("possible: {}", expected.join(", "));
    expected
        .iter()
        .map(|candidate| (strsim::jaro(wrong, candidate), candidate))
        .filter(|(similarity, _)| *similarity > SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(all.clone(), |(_, likely)| format!("did you mean `{likely}`? ({all})"))
}

fn list(findings: &[Finding]) -> String {
    findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n")
}
