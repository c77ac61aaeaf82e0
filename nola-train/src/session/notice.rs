//! What a user should hear of a model or an adapter that is used all the same.

use std::fmt;
use std::path::PathBuf;

use nola_core::weight::Quantization;

/// What a user should hear of a model or an adapter that is used all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// How a tokenizer's files were read, where libraries differ.
    Tokenizer(String),
    /// The adapter changes head or token embedding of a base where they are one matrix.
    Untied,
    /// The vision tower of a larger model is used alone.
    VisionTower {
        /// Beginnings of the names of the tensors that are left out.
        left_out: Vec<String>,
    },
    /// The adapter's settings have no hash.
    OldAdapter {
        /// Its folder.
        folder: PathBuf,
    },
    /// The adapter's classifier has no names for its outputs.
    UnnamedClasses {
        /// Outputs of the classifier.
        outputs: usize,
    },
    /// The adapter was trained over quantised weights, and is used over others.
    DenseBase {
        /// Folder of the adapter.
        folder: PathBuf,
        /// How its base was quantised.
        trained: Quantization,
    },
    /// The model's chat template is not the one that the adapter was trained with.
    OtherTemplate {
        /// Folder of the adapter.
        folder: PathBuf,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokenizer(note) => write!(f, "tokenizer: {note}"),
            Self::Untied => f.write_str(
                "tied embedding: it is the head of the base too; the adapter changes them apart, as in PEFT, and a merged model \
                 has both",
            ),
            Self::VisionTower { left_out } => {
                write!(f, "model: its vision tower is used alone; left out: {}", left_out.join(", "))
            }
            Self::OldAdapter { folder } => write!(
                f,
                "warning: {}: written by an older version: an edit of its settings would not be found",
                folder.display()
            ),
            Self::UnnamedClasses { outputs } => write!(
                f,
                "adapter: its classifier has {outputs} outputs and no names for them; they are called LABEL_0 to LABEL_{}",
                outputs.saturating_sub(1)
            ),
            Self::DenseBase { folder, trained } => write!(
                f,
                "adapter: {}: trained over weights in {trained}, and these are not: --quantize {trained} answers as it was trained",
                folder.display()
            ),
            Self::OtherTemplate { folder } => write!(
                f,
                "warning: {}: trained with another chat template than the model has now; restore the model's template",
                folder.display()
            ),
        }
    }
}
