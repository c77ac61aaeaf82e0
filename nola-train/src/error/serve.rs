//! What keeps the server from its work.

use std::path::PathBuf;

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A folder of adapters cannot be read.
    #[error("{}: the folder of adapters cannot be read; check the path (--adapters)", folder.display())]
    AdaptersFolder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// The name of the host means no address.
    #[error(
        "--host {host}: no address is known by this name; give 127.0.0.1 or another address of this machine"
    )]
    Host {
        /// As it was typed.
        host: String,
        /// What the system said.
        source: std::io::Error,
    },

    /// The address is not free, or not this machine's.
    #[error("{address}: nobody can be heard there; choose another --port (0: any free one) or --host")]
    Bind {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },

    /// Others can reach the address, and nothing keeps them out.
    #[error(
        "--host {host} can be reached from other machines: give a key with --api-key or NOLA_API_KEY, or say --no-api-key if \
         anybody may use the model"
    )]
    Open {
        /// As it was typed.
        host: String,
    },

    /// A key that cannot be sent, or that anybody guesses.
    #[error("{option}: a key has 8 characters or more, all of ASCII and none of them a space")]
    Key {
        /// Where it was given.
        option: &'static str,
    },

    /// The server ended by itself.
    #[error("the server cannot go on")]
    Ended {
        /// What the system said.
        source: std::io::Error,
    },
}

impl ServeError {
    /// The exit code of the program, as in the table of [`Error`](super::Error).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::AdaptersFolder { .. } => 6,
            Self::Host { .. } | Self::Open { .. } | Self::Key { .. } => 2,
            Self::Bind { .. } | Self::Ended { .. } => 1,
        }
    }
}
