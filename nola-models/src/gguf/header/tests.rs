use super::*;
use crate::gguf_file::{Entry, GgufFile, GgufTensor};

/// A file with a value of every type, and two tensors.
fn file() -> GgufFile {
    let mut file = GgufFile::default();
    file.set("general.architecture", "llama");
    file.set("whole", 7);
    file.set("float", 0.1);
    file.set("flag", true);
    file.set("texts", &["a", "", "ü"][..]);
    file.set("numbers", Entry::I32s(vec![-1, 2]));
    for (kind, bytes) in [(0, 1), (1, 1), (2, 2), (3, 2), (5, 4), (10, 8), (11, 8), (12, 8)] {
        file.set(&format!("number.{kind}"), Entry::Other(kind, vec![0xff; bytes]));
    }
    // A list of lists of bytes.
    let inner = [&0_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &[1, 2]].concat();
    let outer = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &inner].concat();
    file.set("nested", Entry::Other(9, outer));
    file.tensors.push(GgufTensor::of_f32("matrix", &[2, 3], &[1.0; 6]));
    file.tensors.push(GgufTensor {
        name: "blocks".to_owned(),
        shape: vec![2, 32],
        kind: 8,
        bytes: vec![0; 68],
    });
    file
}

fn read<T>(bytes: &[u8], look: impl FnOnce(&Header) -> T) -> Result<T, String> {
    let file = Path::new("model.gguf");
    Header::of(file, bytes).map(|header| look(&header)).map_err(|error| error.to_string())
}

fn error(bytes: &[u8]) -> String {
    read(bytes, |_| ()).expect_err("it is wrong")
}

fn changed(change: impl FnOnce(&mut GgufFile)) -> String {
    let mut file = file();
    change(&mut file);
    error(&file.bytes())
}

#[test]
fn values_of_every_type_and_tensors_are_found_in_both_versions() {
    for version in [2, 3] {
        for alignment in [32, 64, 256] {
            let mut file = GgufFile { version, alignment, ..file() };
            file.set("general.alignment", alignment as u32);
            let checked = read(&file.bytes(), |header| {
                assert_eq!(header.number("whole").unwrap(), Some(7));
                assert_eq!(header.float("float").unwrap(), Some(0.1));
                assert_eq!(header.flag("flag").unwrap(), Some(true));
                assert_eq!(header.texts("texts").unwrap().unwrap(), ["a", "", "ü"]);
                assert_eq!(header.number("number.10").unwrap(), Some(u64::MAX));
                assert_eq!(header.float("number.3").unwrap(), Some(-1.0));
                assert_eq!(header.array("nested").unwrap().map(|array| array.len()), Some(1));
                assert_eq!(header.text("absent").unwrap(), None);
                let matrix = header.tensor("matrix").unwrap();
                assert_eq!((&matrix.shape[..], matrix.format), (&[2, 3][..], Format::F32));
                let blocks = header.tensor("blocks").unwrap();
                assert_eq!(blocks.bytes.start, matrix.bytes.start + alignment);
                assert_eq!(blocks.bytes.len(), 68);
            });
            checked.unwrap();
        }
    }
}

#[test]
fn a_header_is_read_from_a_file_of_which_it_is_a_small_part() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut file = file();
    let long = "x".repeat(3 << 20);
    file.set("long", &long[..]);
    file.tensors.push(GgufTensor::of_f32("large", &[1 << 20], &vec![2.0; 1 << 20]));
    std::fs::write(&path, file.bytes()).unwrap();
    let beginning = Beginning::read(&path).unwrap();
    let header = beginning.header(&path).unwrap();
    assert_eq!(header.text("long").unwrap(), Some(&long[..]));
    let large = header.tensor("large").unwrap().bytes.clone();
    assert_eq!(beginning.at(large.end - 4..large.end).unwrap(), 2_f32.to_le_bytes());
}

#[test]
fn other_files_versions_and_machines_are_told_apart() {
    assert!(error(b"").contains("begins with \"\""));
    assert!(error(b"PK\x03\x04....").contains("expected \"GGUF\""));
    assert!(error(&GgufFile { version: 1, ..file() }.bytes()).contains("version 1; versions 2 and 3"));
    assert!(error(&GgufFile { version: 4, ..file() }.bytes()).contains("version 4"));
    assert!(error(&GgufFile { version: 3_u32.swap_bytes(), ..file() }.bytes()).contains("big-endian"));
    assert!(changed(|file| file.set("split.count", 3)).contains("one of 3 parts"));
}

#[test]
fn a_file_that_ends_anywhere_is_cut_short() {
    let bytes = file().bytes();
    for end in 4..bytes.len() {
        let message = error(&bytes[..end]);
        assert!(message.contains("cut short or damaged"), "{end}: {message}");
    }
}

#[test]
fn counts_and_lengths_beyond_the_file_are_refused_before_memory_is_taken() {
    let bytes = file().bytes();
    for at in [8, 16] {
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(error(&bytes).contains("damaged"));
    }
    let list = [&10_u32.to_le_bytes()[..], &(u64::MAX / 8 + 1).to_le_bytes()].concat();
    assert!(
        changed(|file| file.set("list", Entry::Other(9, list)))
            .contains("metadata \"list\": a list of 2305843009213693952")
    );
    let text = u64::MAX.to_le_bytes().to_vec();
    assert!(changed(|file| file.set("text", Entry::Other(8, text))).contains("metadata \"text\""));
    let deep = [9_u32.to_le_bytes().to_vec(), 1_u64.to_le_bytes().to_vec()].concat().repeat(9);
    assert!(changed(|file| file.set("deep", Entry::Other(9, deep))).contains("lists in lists"));
    assert!(changed(|file| file.set("kind", Entry::Other(13, vec![0]))).contains("unknown type 13"));
}

#[test]
fn tensors_that_lie_about_their_place_are_named() {
    // The place stands before the last tensor's numbers and behind its name, axes and type.
    let place_of_last = |bytes: &[u8]| {
        let name = bytes.windows(6).position(|text| text == b"blocks").unwrap();
        name + 6 + 4 + 2 * 8 + 4
    };
    let moved = |offset: u64| {
        let mut bytes = file().bytes();
        let place = place_of_last(&bytes);
        bytes[place..place + 8].copy_from_slice(&offset.to_le_bytes());
        error(&bytes)
    };
    assert!(moved(0).contains("lies over"));
    for offset in [8, 64, u64::MAX, u64::MAX - 31] {
        let message = moved(offset);
        assert!(message.contains("tensor \"blocks\": 68 bytes at"), "{message}");
    }
}

#[test]
fn sizes_that_cannot_be_are_named() {
    for shape in [vec![2, 31], vec![0, 32], vec![1 << 40, 32], vec![1 << 62, 1 << 62]] {
        let message = changed(|file| file.tensor("blocks").shape = shape.clone());
        assert!(message.contains("tensor \"blocks\": the sizes"), "{message}");
    }
    let message = changed(|file| file.tensor("blocks").shape = vec![1; 5]);
    assert!(message.contains("5 axes"), "{message}");
    let message = changed(|file| file.set("general.alignment", 48));
    assert!(message.contains("`general.alignment` is 48; expected a power of two"), "{message}");
}

#[test]
fn what_is_there_twice_is_named() {
    let message = changed(|file| file.metadata.push(("whole".to_owned(), Entry::U32(8))));
    assert!(message.contains("metadata \"whole\": is there twice"), "{message}");
    let message = changed(|file| file.tensors.push(GgufTensor::of_f32("matrix", &[1], &[1.0])));
    assert!(message.contains("tensor \"matrix\": is there twice"), "{message}");
}

#[test]
fn types_that_are_not_read_are_listed_with_those_that_are() {
    let message = changed(|file| file.tensor("blocks").kind = 23);
    let known = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K";
    assert!(message.contains("`blocks` is stored in IQ4_XS") && message.contains(known), "{message}");
    let message = changed(|file| file.tensor("blocks").kind = 99);
    assert!(message.contains("the unknown type 99"), "{message}");
}
