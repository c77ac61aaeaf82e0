//! What a message between ranks is made of: a mark, the length of a header in JSON, the header, and bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::stop::Interrupt;

/// The first bytes of every message; other ones with another layout.
const MARK: &[u8; 8] = b"nola-r01";

/// What is exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// The run that goes on.
    Resumed,
    /// Recipe, base, data and versions.
    Setup,
    /// Gradients of a step.
    Gradients,
    /// Trained values and moments after local steps.
    States,
    /// A hash of the trained values.
    Hashes,
    /// Parts of an evaluation.
    Evaluation,
    /// A quick score.
    Score,
    /// The end of the run.
    End,
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resumed => "the run that goes on",
            Self::Setup => "recipe, base and data",
            Self::Gradients => "gradients",
            Self::States => "trained values",
            Self::Hashes => "hashes of trained values",
            Self::Evaluation => "an evaluation",
            Self::Score => "a quick score",
            Self::End => "the end of the run",
        })
    }
}

/// What travels with every message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Header {
    pub topic: Topic,
    /// How many exchanges were before.
    pub exchange: u64,
    /// What asks this rank to stop.
    pub interrupt: Option<Interrupt>,
    /// Time since the rank was started.
    pub elapsed_ns: u64,
    /// Machine and number of the process.
    pub process: String,
    pub warnings: Vec<String>,
}

impl Header {
    /// What this exchange is, for people: all ranks have to be at the same one.
    pub(super) fn what(&self) -> String {
        format!("{} (exchange {})", self.topic, self.exchange)
    }
}

/// What a rank sends.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// Its part of the exchange.
    Payload(Vec<u8>),
    /// The error it ended with.
    Failed(String),
}

impl Content {
    /// The payload; empty for a rank that ended.
    pub(super) fn into_payload(self) -> Vec<u8> {
        match self {
            Self::Payload(payload) => payload,
            Self::Failed(_) => Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub header: Header,
    pub content: Content,
}

/// The header as it is written: bytes would be long in JSON.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(flatten)]
    header: Header,
    /// The error of a rank that ended.
    ended: Option<String>,
}

impl Message {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let (ended, payload) = match &self.content {
            Content::Payload(payload) => (None, payload.as_slice()),
            Content::Failed(error) => (Some(error.clone()), &[][..]),
        };
        let written = Written { header: self.header.clone(), ended };
        let header = serde_json::to_vec(&written).expect("numbers and text");
        let length = (header.len() as u64).to_le_bytes();
        [&MARK[..], &length, &header, payload].concat()
    }

    /// What [`Message::to_bytes`] made; none of other bytes.
    pub(super) fn from_bytes(mut bytes: Vec<u8>) -> Option<Self> {
        let rest = bytes.strip_prefix(MARK)?;
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let header = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        let start = MARK.len() + length.len() + header.len();
        let Written { header, ended } = serde_json::from_slice(header).ok()?;
        let content = match ended {
            Some(error) => Content::Failed(error),
            None => {
                bytes.drain(..start);
                Content::Payload(bytes)
            }
        };
        Some(Self { header, content })
    }
}

/// Machine and number of this process.
pub(super) fn this_process() -> String {
    let host = sysinfo::System::host_name().unwrap_or_else(|_| "an unknown machine".to_owned());
    format!("process {} on {host}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(content: Content) -> Message {
        let header = Header {
            topic: Topic::Gradients,
            exchange: 7,
            interrupt: Some(Interrupt::Terminate),
            elapsed_ns: u64::MAX,
            process: "process 1 on a".to_owned(),
            warnings: vec!["a\nb".to_owned()],
        };
        Message { header, content }
    }

    #[test]
    fn a_message_comes_back_as_it_was() {
        let contents =
            [Content::Payload(vec![0, 1, 255]), Content::Payload(Vec::new()), Content::Failed("x".into())];
        for message in contents.map(message) {
            assert_eq!(Message::from_bytes(message.to_bytes()), Some(message));
        }
    }

    #[test]
    fn other_bytes_are_no_message() {
        let whole = message(Content::Payload(vec![1, 2, 3])).to_bytes();
        for length in 0..whole.len() - 3 {
            assert_eq!(Message::from_bytes(whole[..length].to_vec()), None, "{length}");
        }
        let mut other = whole;
        other[7] = b'2';
        assert_eq!(Message::from_bytes(other), None, "another layout");
    }
}
