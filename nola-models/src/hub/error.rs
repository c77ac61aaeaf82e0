//! What can go wrong between a name and a folder of files.

use std::path::PathBuf;
use std::time::Duration;

use super::DatasetError;
use crate::gguf::GgufError;

/// Why a model or a data set could not be found in a folder, in the cache or on the hub.
///
/// A message names the repository, the file or the address, and says what to do. The token is in none of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The text is neither a folder nor a name.
    #[error(
        "`{text}`: no such folder, and not a name on the hub either; give a local folder, or `owner/name` or \
         `owner/name@revision`"
    )]
    NeitherFolderNorName {
        /// What was given.
        text: String,
    },

    /// The files of a data set cannot be chosen.
    #[error(transparent)]
    Dataset(#[from] Box<DatasetError>),

    /// The folder holds several GGUF files.
    #[error(transparent)]
    Gguf(#[from] GgufError),

    /// The path leads to a file that is no model.
    #[error("{}: is a file, and no GGUF file; name the folder that holds the model", path.display())]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },

    /// There is no place for the cache.
    #[error("no home folder is known, so there is no place for the cache; set HF_HOME to a folder")]
    NoHome,

    /// A setting of the environment has a value that means nothing.
    #[error("{variable} is `{value}`, but {expected} is needed; correct or unset it")]
    Setting {
        /// Name of the variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },

    /// The token cannot be sent as a header. Its value is kept out of the message.
    #[error(
        "the token from {origin} holds spaces, line breaks or other characters that no token has; copy it again"
    )]
    BadToken {
        /// The variable or the file it came from.
        origin: String,
    },

    /// A file of the cache cannot be read or written.
    #[error(
        "{}: cannot be read or written; make room if the disk is full, or set HF_HUB_CACHE to a folder on another one",
        file.display()
    )]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },

    /// The file system of the cache knows no locks.
    #[error(
        "{}: cannot be locked, so two programs could write the same file; set HF_HUB_CACHE to a folder on a local disk",
        file.display()
    )]
    Lock {
        /// The lock file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },

    /// Only the cache may be used, and it does not hold everything.
    #[error(
        "`{name}`: no file or folder of that name, and the cache {} lacks {} of revision `{revision}`; \
         unset HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) to fetch, or give a local folder",
        cache.display(), missing.join(", ")
    )]
    NotCached {
        /// The repository.
        name: String,
        /// Its branch, tag or commit.
        revision: String,
        /// Folder of the cache.
        cache: PathBuf,
        /// The files that are not there.
        missing: Vec<String>,
    },

    /// No connection, or one that broke.
    #[error(
        "`{name}`: no file or folder of that name, and {host} cannot be reached; check the connection (HF_ENDPOINT, HTTPS_PROXY), \
         give a local folder, or set HF_HUB_OFFLINE=1 if the cache holds it"
    )]
    Unreachable {
        /// The repository.
        name: String,
        /// Scheme, host and port that were asked.
        host: String,
        /// What the transport says.
        source: Box<ureq::Error>,
    },

    /// The licence of the repository was not accepted.
    #[error(
        "`{name}` is gated ({status}); accept its licence at {page}, then set HF_TOKEN to a token of that account \
         ({credentials})"
    )]
    Gated {
        /// The repository.
        name: String,
        /// Where the licence is accepted.
        page: String,
        /// The HTTP status.
        status: u16,
        /// How the request was signed.
        credentials: Credentials,
    },

    /// The hub does not say whether the repository exists.
    #[error(
        "`{name}`: no file or folder of that name, and the hub refuses ({status}): there is no such repository, or it is private \
         or gated; check the name at {page}, accept its licence if it has one, and set HF_TOKEN ({credentials})"
    )]
    Denied {
        /// The repository.
        name: String,
        /// Where the repository would be.
        page: String,
        /// The HTTP status.
        status: u16,
        /// How the request was signed.
        credentials: Credentials,
    },

    /// There is no such repository.
    #[error("`{name}`: no such file or folder, and no such repository at {page}; check the spelling")]
    NoRepository {
        /// The repository.
        name: String,
        /// Where it would be.
        page: String,
    },

    /// The repository has no such branch, tag or commit.
    #[error(
        "`{name}` has no revision `{revision}`; name a branch, a tag or a full commit, as in `{name}@main`"
    )]
    NoRevision {
        /// The repository.
        name: String,
        /// What was asked for.
        revision: String,
    },

    /// The repository lacks a file that is needed.
    #[error(
        "`{name}@{revision}` has no {file}; choose a repository that holds a model in the safetensors format"
    )]
    NoFile {
        /// The repository.
        name: String,
        /// Its branch, tag or commit.
        revision: String,
        /// The absent file, or the alternatives.
        file: String,
    },

    /// The repository has weights only as Python pickles.
    #[error(
        "`{name}@{revision}` has its weights only as {}; a pickle can run code when it is opened, so it is not fetched; \
         choose a repository with safetensors, or convert this one",
        pickles.join(", ")
    )]
    OnlyPickles {
        /// The repository.
        name: String,
        /// Its branch, tag or commit.
        revision: String,
        /// The pickles.
        pickles: Vec<String>,
    },

    /// The hub asks to come back later, too often or too late.
    #[error("{url}: too many requests (429) after {attempts} attempts; {}, or set HF_TOKEN for a higher limit", later(*wait))]
    TooManyRequests {
        /// The address.
        url: String,
        /// How often it was asked.
        attempts: u32,
        /// How long the hub wants us to wait, if it says so.
        wait: Option<Duration>,
    },

    /// An answer that no retry will mend.
    #[error("{url}: answered {status} after {attempts} attempts; try again later, and check HF_ENDPOINT")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// How often it was asked.
        attempts: u32,
    },

    /// A redirect without end, without a target, or to an unencrypted address.
    #[error("{url}: redirects to `{location}`, which is not followed; check HF_ENDPOINT")]
    Redirect {
        /// The address.
        url: String,
        /// The target, empty if there is none.
        location: String,
    },

    /// The answer is not the JSON of a hub.
    #[error("{url}: the answer is not that of a hub; check HF_ENDPOINT")]
    NotAHub {
        /// The address.
        url: String,
        /// Where the answer stops making sense.
        source: serde_json::Error,
    },

    /// A part of an answer that would be unsafe or is absent.
    #[error("{url}: the answer has `{value}` for {field}; check HF_ENDPOINT")]
    BadAnswer {
        /// The address.
        url: String,
        /// Which part.
        field: &'static str,
        /// Its value, empty if absent.
        value: String,
    },

    /// An index of shards that is no index, or names files outside of the repository.
    #[error("{}: not an index of shards; the repository is damaged", file.display())]
    Index {
        /// The index.
        file: PathBuf,
        /// Where it stops making sense.
        source: serde_json::Error,
    },

    /// An index that names a file elsewhere.
    #[error("{}: names the shard `{shard}`, which is no file of the repository; it is not fetched", file.display())]
    UnsafeShard {
        /// The index.
        file: PathBuf,
        /// The name.
        shard: String,
    },

    /// The connection broke too often.
    #[error(
        "{file} of `{name}`: the connection broke {attempts} times; {received} of {total} bytes are kept, \
         and the next run goes on from there"
    )]
    Cut {
        /// The repository.
        name: String,
        /// The file.
        file: String,
        /// Bytes on disk.
        received: u64,
        /// Bytes of the whole file.
        total: u64,
        /// Attempts in a row that brought next to nothing.
        attempts: u32,
        /// How the last one broke.
        source: std::io::Error,
    },

    /// Next to nothing comes.
    #[error(
        "{file} of `{name}`: given up, as {how}; {received} of {total} bytes are kept, and the next run goes on from there; \
         check the connection (HF_ENDPOINT, HTTPS_PROXY), or set HF_HUB_DOWNLOAD_TIMEOUT higher than it is to wait longer"
    )]
    Slow {
        /// The repository.
        name: String,
        /// The file.
        file: String,
        /// Bytes on disk.
        received: u64,
        /// Bytes of the whole file.
        total: u64,
        /// How few bytes over which time.
        how: String,
    },

    /// The bytes are not those that the hub promised.
    #[error(
        "{file} of `{name}`: arrived with hash {found}, promised was {expected}; it was removed, so fetch it again"
    )]
    WrongHash {
        /// The repository.
        name: String,
        /// The file.
        file: String,
        /// Hash that the hub gives, in hexadecimal.
        expected: String,
        /// Hash of what arrived, in hexadecimal.
        found: String,
    },
}

impl HubError {
    /// Whether the hub gave no usable answer for now, so that the cache may stand in for it.
    pub(super) fn is_silence(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::TooManyRequests { .. } | Self::Status { status: 500.., .. }
        )
    }
}

/// How the requests were signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    /// Without a token.
    Anonymous,
    /// With the token of the user.
    Token,
}

impl std::fmt::Display for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "no token was found",
            Self::Token => "the token found was sent and did not suffice",
        })
    }
}

fn later(wait: Option<Duration>) -> String {
    match wait {
        Some(wait) => format!("try again in {} seconds", wait.as_secs()),
        None => "try again later".to_string(),
    }
}
