//! Files of tokenizers.

use std::ops::Range;
use std::path::Path;

use nola_models::tokenizer::{DecodeSpecials, Specials, Tokenizer};

use super::input::{accepted, in_folder, parts};

const SETTINGS: &str = "tokenizer_config.json";
const NAMES: &str = "special_tokens_map.json";
/// What is encoded with every tokenizer that is accepted.
const TEXTS: [&str; 4] =
    ["", "The cat's 12 hats.\n\n", "  Ünïcode 日本 \u{1F600}\u{200d}\u{0301}", "<s>[INST] a </s>\u{0}"];
/// Ids that are decoded at most.
const MOST_IDS: u32 = 64;

/// `tokenizer.json`, then settings, names of special tokens and added tokens.
pub fn json(bytes: &[u8]) {
    let [main, settings, names, added] = parts(bytes);
    let files =
        [("tokenizer.json", main), (SETTINGS, settings), (NAMES, names), ("added_tokens.json", added)];
    in_folder(&files, |folder| open(folder, bytes));
}

/// `tokenizer.model` of SentencePiece, then settings and names of special tokens.
pub fn sentence_piece(bytes: &[u8]) {
    let [main, settings, names] = parts(bytes);
    let files = [("tokenizer.model", main), (SETTINGS, settings), (NAMES, names)];
    in_folder(&files, |folder| open(folder, bytes));
}

/// `vocab.json` and `merges.txt`, then settings and names of special tokens.
pub fn vocabulary(bytes: &[u8]) {
    let [vocabulary, merges, settings, names] = parts(bytes);
    let files = [("vocab.json", vocabulary), ("merges.txt", merges), (SETTINGS, settings), (NAMES, names)];
    in_folder(&files, |folder| open(folder, bytes));
}

/// A folder of these bytes, or a file that stands for one.
pub fn open(folder: &Path, bytes: &[u8]) {
    let Some(tokenizer) = accepted(Tokenizer::open(folder), bytes) else { return };
    assert!(tokenizer.base_vocab_size() <= tokenizer.vocab_size());
    for text in TEXTS {
        encode(&tokenizer, text, bytes);
    }
    let ids: Vec<u32> = (0..MOST_IDS).filter(|id| tokenizer.token(*id).is_some()).collect();
    for specials in [DecodeSpecials::Keep, DecodeSpecials::Skip] {
        accepted(tokenizer.decode(&ids, specials), bytes);
        let mut stream = tokenizer.stream(&[], specials);
        for id in &ids {
            accepted(stream.push(*id), bytes);
        }
    }
}

fn encode(tokenizer: &Tokenizer, text: &str, bytes: &[u8]) {
    accepted(tokenizer.encode(text, Specials::AsModel), bytes);
    for specials in [Specials::AsModel, Specials::None] {
        let Some(encoded) = accepted(tokenizer.encode_with_offsets(text, specials), bytes) else { continue };
        assert_eq!(encoded.ids.len(), encoded.ranges.len());
        let is_part = |range: &Range<usize>| text.get(range.clone()).is_some();
        assert!(encoded.ranges.iter().all(is_part), "a token of half a character");
        // What a file puts around a text may be any number; it is compared with the model's.
        let is_known = |id: &u32| (*id as usize) < tokenizer.vocab_size();
        assert!(
            specials == Specials::AsModel || encoded.ids.iter().all(is_known),
            "an id beyond the vocabulary"
        );
    }
}
