//! Parsers of outside bytes on the corpus of the fuzz targets, and on changes of it: what fuzzing found stays mended.
//!
//! `fuzz/README.md` says how to look for more.

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::path::{Path, PathBuf};

use nola_core::philox::philox4x32_10;

use fuzz::{PARSERS, Parser};

/// Changed inputs that are made of each of a corpus, unless `NOLA_PARSER_CHANGES` says how many.
const CHANGES: u32 = 100;
/// Names the one parser that is tried.
const ONLY: &str = "NOLA_PARSER";
/// Numbers at which parsers go wrong.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];

/// What lies in the folder `fuzz`.
fn path(inside: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(inside)
}

/// The inputs of a parser, in the order of their names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = path(&format!("corpus/{name}"));
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).expect("a file")).collect()
}

/// The words of a parser's dictionary, which is named after the first word of the parser.
fn dictionary(name: &str) -> Vec<Vec<u8>> {
    let file = path(&format!("dictionaries/{}.dict", name.split('_').next().unwrap_or(name)));
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.lines().filter_map(|line| Some(unescaped(line.strip_prefix('"')?.strip_suffix('"')?))).collect()
}

/// The bytes of a word in which `\xNN` stands for a byte.
fn unescaped(word: &str) -> Vec<u8> {
    let mut parts = word.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).expect("two digits"));
        bytes.extend(&part.as_bytes()[2..]);
    }
    bytes
}

/// Random words, one after the other, the same in every run.
struct Words {
    place: u32,
    change: u32,
}

impl Words {
    fn below(&mut self, limit: usize) -> usize {
        self.place += 1;
        let [word, ..] = philox4x32_10([self.place, self.change, 0, 0], [0, 0]);
        word as usize % limit.max(1)
    }
}

/// An input with one to four changes; `other` lends it a part, and `known` has words to put into it.
fn changed(mut bytes: Vec<u8>, other: &[u8], known: &[Vec<u8>], change: u32) -> Vec<u8> {
    let mut words = Words { place: 0, change };
    for _ in 0..=words.below(4) {
        let (start, length) = (words.below(bytes.len() + 1), words.below(16));
        let end = (start + length).min(bytes.len());
        match words.below(7) {
            0 if start < bytes.len() => bytes[start] ^= 1 << words.below(8),
            1 => drop(bytes.drain(start..end)),
            2 => {
                let part = bytes[start..end].to_vec();
                bytes.splice(start..start, part.repeat(1 + words.below(40)));
            }
            3 => bytes.truncate(start),
            4 => {
                let edge = EDGES[words.below(EDGES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][words.below(4)];
                bytes.splice(start..(start + width).min(bytes.len()), edge[..width].to_vec());
            }
            5 => {
                let from = words.below(other.len() + 1);
                let part = other[from..(from + 4 * length).min(other.len())].to_vec();
                bytes.splice(start..end, part);
            }
            _ => {
                let end = if words.below(2) == 0 { start } else { end };
                bytes.splice(start..end, known[words.below(known.len())].clone());
            }
        }
    }
    bytes
}

/// The parsers that are tried.
fn tried() -> impl Iterator<Item = Parser> {
    let only = std::env::var(ONLY).ok();
    PARSERS.into_iter().filter(move |(name, _)| only.as_deref().is_none_or(|only| only == *name))
}

#[test]
fn every_parser_holds_on_its_corpus() {
    for (name, parse) in tried() {
        let inputs = corpus(name);
        assert!(!inputs.is_empty(), "{name} has no corpus");
        inputs.iter().for_each(|input| parse(input));
    }
}

/// Inputs that took minutes or gigabytes once, named `PARSER-WHAT`; a second each, so they are not changed.
#[test]
fn every_parser_holds_on_what_took_too_much() {
    let entries = fs::read_dir(path("slow")).expect("a folder");
    for file in entries.map(|entry| entry.expect("an entry").path()) {
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        let of_file = |(parser, _): &&(&str, fn(&[u8]))| name.starts_with(&format!("{parser}-"));
        let (_, parse) = PARSERS.iter().find(of_file).expect("it is named after its parser");
        parse(&fs::read(&file).expect("a file"));
    }
}

#[test]
fn every_parser_holds_on_changes_of_its_corpus() {
    let changes = std::env::var("NOLA_PARSER_CHANGES").map(|text| text.parse().expect("a number"));
    for (name, parse) in tried() {
        let (inputs, known) = (corpus(name), dictionary(name));
        for (place, input) in inputs.iter().enumerate() {
            let other = &inputs[(place + 1) % inputs.len()];
            let changed = |change| changed(input.clone(), other, &known, change);
            (0..changes.clone().unwrap_or(CHANGES)).for_each(|change| parse(&changed(change)));
        }
    }
}
