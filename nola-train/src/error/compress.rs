//! What keeps adapters from being compressed.

use std::path::PathBuf;

/// Why no bundle is made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressError {
    /// Some adapters are of other bases.
    #[error("not adapters of `{base}`: {}; a bundle has one base", others.join(", "))]
    OtherBases {
        /// The base that is loaded.
        base: String,
        /// Names of the adapters, with what they say of their bases.
        others: Vec<String>,
    },

    /// A folder holds no adapter.
    #[error(
        "{}: neither an adapter nor a run nor a folder of such; name folders that hold adapter_config.json, or what they lie in",
        folder.display()
    )]
    NoAdapter {
        /// The folder.
        folder: PathBuf,
    },

    /// A name before a folder with several adapters.
    #[error("`{name}=` names one adapter, and {} holds several; leave the name out", folder.display())]
    NameOfMany {
        /// The name.
        name: String,
        /// The folder.
        folder: PathBuf,
    },

    /// Another program adds to the bundle right now.
    #[error("{}: another program adds to it right now; try again once it has ended", folder.display())]
    Busy {
        /// The bundle.
        folder: PathBuf,
    },

    /// An adapter changes head or embedding of a base where they are one matrix.
    #[error(
        "`{name}` changes the head or the embedding, which are one matrix in this base, and no adapter of a bundle can; leave it out, or \
         merge it"
    )]
    Unties {
        /// Name of the adapter.
        name: String,
    },
}

impl CompressError {
    /// The exit code of the program, as in the table of [`Error`](super::Error).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::OtherBases { .. } | Self::NoAdapter { .. } | Self::Unties { .. } => 6,
            Self::NameOfMany { .. } => 2,
            Self::Busy { .. } => 9,
        }
    }
}
