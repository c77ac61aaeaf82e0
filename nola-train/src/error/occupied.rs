//! Why a folder cannot take a run.

use std::fmt;
use std::path::PathBuf;

/// What lies in a folder that cannot take a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Occupied {
    /// A run goes on there, or, where the file system knows no locks, may do so.
    Running {
        /// Its process and machine in brackets, as far as it says.
        by: String,
        /// The lock.
        lock: PathBuf,
    },
    /// A run that came to its end.
    Finished,
    /// A run that ended before its time and can be resumed.
    Interrupted {
        /// Its folder.
        run: PathBuf,
    },
    /// A run that was cut off, and where its best model lies, or its last.
    CutOff(PathBuf),
    /// A run of another recipe than the one that is to be made there, or one that another version made.
    OtherRecipe,
    /// Something else.
    Foreign,
}

impl fmt::Display for Occupied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let another = "choose another place with --set output.dir=FOLDER";
        match self {
            Self::Running { by, lock } => write!(
                f,
                "is in use by another run{by}; {another}, or wait; if that run is no more, remove {}",
                lock.display()
            ),
            Self::Finished => {
                write!(f, "is not empty: it holds a finished run; {another}, or remove that run")
            }
            Self::Interrupted { run } => write!(
                f,
                "is not empty: it holds a run that was interrupted; `nola-train train --resume {}` goes on with it; to train anew \
                 {another}, or remove that run",
                run.display()
            ),
            Self::CutOff(kept) => write!(
                f,
                "is not empty: it holds a run that was cut off, and {} is what it had kept, ready to use; to train anew \
                 {another}, or remove that run",
                kept.display()
            ),
            Self::OtherRecipe => {
                write!(
                    f,
                    "holds a run of another recipe, or of another version; choose another place with --out FOLDER, or remove it"
                )
            }
            Self::Foreign => write!(f, "is not empty; {another}"),
        }
    }
}
