//! SentencePiece's file of a vocabulary, as far as a BPE vocabulary needs it.

use prost::Message;

/// The fields of SentencePiece's `ModelProto` that a BPE vocabulary needs.
///
/// # Source
/// `sentencepiece_model.proto` of google/sentencepiece, with its field numbers and defaults.
#[derive(Message)]
pub(crate) struct Model {
    #[prost(message, repeated, tag = "1")]
    pub(crate) pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    pub(crate) trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    pub(crate) normalizer: Option<Normalizer>,
}

#[derive(Message)]
pub(crate) struct Piece {
    #[prost(string, optional, tag = "1")]
    pub(crate) piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    pub(crate) score: Option<f32>,
    #[prost(enumeration = "PieceKind", optional, tag = "3", default = "Normal")]
    pub(crate) kind: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum PieceKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

#[derive(Message)]
pub(crate) struct Trainer {
    #[prost(enumeration = "ModelKind", optional, tag = "3", default = "Unigram")]
    pub(crate) model_type: Option<i32>,
    #[prost(bool, optional, tag = "35")]
    pub(crate) byte_fallback: Option<bool>,
    #[prost(int32, optional, tag = "40", default = "0")]
    pub(crate) unk_id: Option<i32>,
    #[prost(int32, optional, tag = "41", default = "1")]
    pub(crate) bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42", default = "2")]
    pub(crate) eos_id: Option<i32>,
    #[prost(int32, optional, tag = "43", default = "-1")]
    pub(crate) pad_id: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum ModelKind {
    Unigram = 1,
    Bpe = 2,
    Word = 3,
    Char = 4,
}

#[derive(Message)]
pub(crate) struct Normalizer {
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(crate) precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3", default = "true")]
    pub(crate) add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4", default = "true")]
    pub(crate) remove_extra_whitespaces: Option<bool>,
}
