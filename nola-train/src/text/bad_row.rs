//! What can be wrong with one row, and where it stands.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::problems::{Limits, Problems};

/// What is listed of bad rows; the others are only counted.
const LISTED: Limits = Limits { problems: 10, places: 5 };

/// Where a row stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// Where in it.
    pub spot: RowLocation,
}

/// Where a sample is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The file, counted from 0 among those of its data set.
    pub file: usize,
    /// The row in it; of running text, the one in which the sample begins.
    pub row: RowLocation,
}

/// Where in a file a row stands, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowLocation {
    /// The line in which it starts.
    Line(usize),
    /// The row, where the file has no lines.
    Row(usize),
    /// The row, and the line in which it starts, where rows may share one.
    RowAtLine {
        /// The row.
        row: usize,
        /// The line.
        line: usize,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.spot {
            spot @ (RowLocation::Line(_) | RowLocation::RowAtLine { .. }) => write!(f, "{file}:{spot}"),
            spot @ RowLocation::Row(_) => write!(f, "{file} row {spot}"),
        }
    }
}

impl fmt::Display for RowLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) | Self::Row(number) => write!(f, "{number}"),
            Self::RowAtLine { row, line } => write!(f, "{line} (row {row})"),
        }
    }
}

/// Rows that cannot be used.
#[derive(Debug)]
pub struct BadRows(Problems<Place>);

impl Default for BadRows {
    fn default() -> Self {
        Self(Problems::new(LISTED))
    }
}

impl BadRows {
    /// Adds one.
    pub(super) fn push(&mut self, place: Place, problem: &RowProblem) {
        self.0.push(place, problem.to_string());
    }

    /// Adds those of another source.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// How many there are.
    pub fn total(&self) -> usize {
        self.0.total()
    }

    /// A line for each different problem.
    pub fn lines(&self) -> Vec<String> {
        self.0.lines("rows", several)
    }
}

/// Places, the name of a file only where another one begins.
fn several(places: &[Place]) -> String {
    let mut file = None;
    let shown = places.iter().map(|place| {
        let is_same = file.replace(&place.file) == Some(&place.file);
        if is_same { place.spot.to_string() } else { place.to_string() }
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// A row that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct BadRow {
    /// Where it stands.
    pub place: Place,
    /// What is wrong with it.
    pub problem: RowProblem,
}

/// Why a row cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowProblem {
    /// Not UTF-8.
    #[error("not UTF-8 at byte {0} of the row; save the file as UTF-8")]
    NotUtf8(usize),
    /// A byte 0, which text does not have.
    #[error("a zero byte at byte {0} of the row; the file is damaged, or not text")]
    ZeroByte(usize),
    /// Longer than any row should be, in bytes.
    #[error("{found} bytes; a row may have {limit}")]
    TooLong {
        /// Bytes there are.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// More fields and elements of lists than any row should have.
    #[error("more than {0} values; a row may have so many, so leave out what is not used")]
    ManyValues(usize),
    /// Not JSON, or nested too deep.
    #[error("not JSON: {problem} (line {line}, column {column})")]
    Json {
        /// What is wrong.
        problem: String,
        /// The line of the file, counted from 1.
        line: usize,
        /// The column in it, counted from 1.
        column: usize,
    },
    /// A row of CSV or TSV of another length than the header.
    #[error("{found} fields; the header has {expected}")]
    Ragged {
        /// Fields of the row.
        found: usize,
        /// Fields of the header.
        expected: usize,
    },
    /// A name that the header has twice.
    #[error("the header names `{field}` twice")]
    TwiceInHeader {
        /// The name.
        field: String,
    },
    /// A quoted field of CSV that goes on behind its end.
    #[error("text follows the quotation mark that closes a field; double the marks that belong to the text")]
    StrayQuote,
    /// A field of TSV that may have been meant to hold several lines.
    #[error(
        "a quotation mark opens a field and is not closed in this line ({found} fields; the header has {expected}); a row of \
         TSV is one line, so if the field has several, save it as CSV"
    )]
    OpenInLine {
        /// Fields of the row.
        found: usize,
        /// Fields of the header.
        expected: usize,
    },
    /// Something else than an object with fields.
    #[error("{found}; expected an object with named fields")]
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// A field that is not there.
    #[error("no field `{field}`; the row has {}{}", present.join(", "), cure.map(|key| format!("; name the right one in {key}")).unwrap_or_default())]
    MissingField {
        /// The field.
        field: String,
        /// The fields there are.
        present: Vec<String>,
        /// The setting that names the field, where one does.
        cure: Option<&'static str>,
    },
    /// A field of another type.
    #[error("`{field}` is {found}; expected {expected}")]
    WrongType {
        /// The field.
        field: String,
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A line without `||`.
    #[error("no `||` between context and completion")]
    NoSeparator,
    /// A meaning representation that is not `name[value], ...`.
    #[error("`mr` is not `name[value], name[value], ...` at `{0}`")]
    Meaning(String),
    /// A speaker that conversations do not have.
    #[error(
        "message {message} is by `{role}`; expected system, developer, user (human), assistant (gpt, model), function_call \
         (a call by the assistant), tool or observation (what a tool answered), or a role that the chat template mentions"
    )]
    UnknownRole {
        /// The message, counted from 1.
        message: usize,
        /// Who speaks.
        role: String,
    },
    /// A conversation without an answer.
    #[error("the conversation has no message of the assistant")]
    NoAnswer,
    /// A field whose meaning is not carried out.
    #[error("message {message} has `{field}` = {found}, which is not supported; {cure}")]
    Unsupported {
        /// The message, counted from 1.
        message: usize,
        /// The field.
        field: &'static str,
        /// What it is.
        found: String,
        /// What to do instead.
        cure: &'static str,
    },
    /// A field of the row whose meaning is not carried out.
    #[error("the row has `{field}`, which is not supported; {cure}")]
    UnsupportedField {
        /// The field.
        field: &'static str,
        /// What to do instead.
        cure: &'static str,
    },
    /// A system message beside the conversation that is not the one in it.
    #[error("`system` is not the system message of the conversation; keep one of them")]
    TwoSystems,
    /// Answers of which one is not to be learned, in a template whose blocks do not say which answer is which.
    #[error(
        "some answers are not to be learned, but the chat template does not have one generation block for each answer"
    )]
    NotToldApart,
    /// An answer that is none of the choices.
    #[error("the answer is `{answer}`; expected a letter or an index (from 0) of one of {choices} choices")]
    Answer {
        /// What the row says.
        answer: String,
        /// Number of choices.
        choices: usize,
    },
    /// Fewer or more choices than there are letters for.
    #[error("{0} choices; expected 2 to 26")]
    Choices(usize),
    /// A prompt in another form than the format's.
    #[error("`{field}` does not {expected}")]
    Form {
        /// The field.
        field: &'static str,
        /// What it should do.
        expected: &'static str,
    },
    /// A conversation that the chat template refuses.
    #[error("chat template: {0}")]
    Template(String),
    /// A text that the tokenizer refuses.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}
