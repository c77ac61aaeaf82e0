//! The pages of a Parquet column, unpacked: without C, and never to more than a bounded size.

use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use parquet::basic::Compression;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::SerializedPageReader;

use super::parquet_bounds::{Bounds, MAX_HELD_BYTES, too_large};

/// The largest ratio in which LZ4 packs.
const LZ4_RATIO: usize = 255;

/// The pages of a column, one after the other.
pub(super) struct Pages {
    /// Gives them as they stand in the file.
    packed: SerializedPageReader<File>,
    codec: Compression,
    bounds: Bounds,
}

impl Pages {
    /// The pages of a column of `file`.
    pub fn new(file: Arc<File>, column: &ColumnChunkMetaData, bounds: Bounds) -> Result<Self, ParquetError> {
        let as_stored = column.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        let packed = SerializedPageReader::new(file, &as_stored, 0, None)?;
        Ok(Self { packed, codec: column.compression(), bounds })
    }

    /// A page as it is read: unpacked, and measured.
    fn admitted(&mut self, mut page: Page) -> Result<Page, ParquetError> {
        self.unpack(&mut page)
            .map_err(|problem| self.bounds.problem(problem))
            .map_err(ParquetError::General)?;
        self.bounds.take(&page).map_err(ParquetError::General)?;
        Ok(page)
    }

    fn unpack(&self, page: &mut Page) -> Result<(), String> {
        let most = self.bounds.room();
        match page {
            Page::DataPage { buf, .. } | Page::DictionaryPage { buf, .. } => {
                *buf = unpack(self.codec, buf, most)?.into();
            }
            Page::DataPageV2 {
                buf, is_compressed: true, def_levels_byte_len, rep_levels_byte_len, ..
            } => {
                // Levels are never packed.
                let levels = *def_levels_byte_len as usize + *rep_levels_byte_len as usize;
                let (levels, values) =
                    buf.split_at_checked(levels).ok_or("a page is shorter than its levels")?;
                *buf = [levels, &unpack(self.codec, values, most)?].concat().into();
            }
            Page::DataPageV2 { .. } => {}
        }
        Ok(())
    }
}

impl Iterator for Pages {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        self.packed.get_next_page()?.map(|page| self.admitted(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.packed.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.packed.skip_next_page()
    }
}

/// What `packed` holds, in `most` bytes at most.
///
/// # Errors
/// If it is damaged, or holds more.
fn unpack(codec: Compression, packed: &[u8], most: usize) -> Result<Vec<u8>, String> {
    // A page without values may have no bytes, whatever its codec.
    if packed.is_empty() {
        return Ok(Vec::new());
    }
    match codec {
        Compression::UNCOMPRESSED => Ok(packed.to_vec()),
        Compression::SNAPPY => {
            check(snap::raw::decompress_len(packed).map_err(text)?, most)?;
            snap::raw::Decoder::new().decompress_vec(packed).map_err(text)
        }
        Compression::GZIP(_) => bounded(MultiGzDecoder::new(packed), most),
        Compression::BROTLI(_) => bounded(brotli_decompressor::Decompressor::new(packed, 1 << 14), most),
        Compression::ZSTD(_) => zstd(packed, most),
        Compression::LZ4_RAW => lz4_block(packed, most),
        Compression::LZ4 => lz4(packed, most),
        Compression::LZO => {
            Err("packed with LZO; write it with zstd, snappy, gzip, lz4 or no compression".to_owned())
        }
    }
}

/// All that a reader gives.
fn bounded(reader: impl Read, most: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    reader.take(most as u64 + 1).read_to_end(&mut bytes).map_err(text)?;
    check(bytes.len(), most)?;
    Ok(bytes)
}

fn check(bytes: usize, most: usize) -> Result<(), String> {
    if bytes > most {
        return Err(too_large(MAX_HELD_BYTES));
    }
    Ok(())
}

/// Frames one after the other.
fn zstd(mut packed: &[u8], most: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while !packed.is_empty() {
        let frame = ruzstd::decoding::StreamingDecoder::new(&mut packed).map_err(text)?;
        bytes.extend(bounded(frame, most - bytes.len())?);
    }
    Ok(bytes)
}

/// A block that does not say how long it will be.
fn lz4_block(packed: &[u8], most: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; packed.len().saturating_mul(LZ4_RATIO).min(most)];
    let length = lz4_flex::block::decompress_into(packed, &mut bytes).map_err(text)?;
    bytes.truncate(length);
    bytes.shrink_to_fit();
    Ok(bytes)
}

/// The older LZ4 of Parquet: blocks with both lengths before them, as Hadoop writes them; but some programs wrote frames
/// or bare blocks under its name.
fn lz4(packed: &[u8], most: usize) -> Result<Vec<u8>, String> {
    lz4_hadoop(packed, most)
        .or_else(|_| bounded(lz4_flex::frame::FrameDecoder::new(packed), most))
        .or_else(|_| lz4_block(packed, most))
}

fn lz4_hadoop(mut packed: &[u8], most: usize) -> Result<Vec<u8>, String> {
    let cut = || "cut short".to_owned();
    let mut bytes = Vec::new();
    while !packed.is_empty() {
        let (&unpacked, rest) = packed.split_first_chunk().ok_or_else(cut)?;
        let (&length, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let (block, rest) = rest.split_at_checked(u32::from_be_bytes(length) as usize).ok_or_else(cut)?;
        let unpacked = u32::from_be_bytes(unpacked) as usize;
        check(bytes.len() + unpacked, most)?;
        if unpacked > block.len().saturating_mul(LZ4_RATIO) {
            return Err("no block holds as much".to_owned());
        }
        bytes.extend(lz4_flex::block::decompress(block, unpacked).map_err(text)?);
        packed = rest;
    }
    Ok(bytes)
}

fn text(error: impl Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use parquet::basic::{BrotliLevel, GzipLevel, ZstdLevel};

    use super::*;

    /// A megabyte of zeros, packed in every way that packs here.
    fn packed() -> Vec<(Compression, Vec<u8>)> {
        let zeros = vec![0; 1 << 20];
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&zeros).unwrap();
        let block = lz4_flex::block::compress(&zeros);
        let lengths = [1 << 20, block.len() as u32].map(u32::to_be_bytes).concat();
        let mut frame = lz4_flex::frame::FrameEncoder::new(Vec::new());
        frame.write_all(&zeros).unwrap();
        let zstd =
            ruzstd::encoding::compress_to_vec(zeros.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
        vec![
            (Compression::SNAPPY, snap::raw::Encoder::new().compress_vec(&zeros).unwrap()),
            (Compression::GZIP(GzipLevel::default()), gzip.finish().unwrap()),
            (Compression::ZSTD(ZstdLevel::default()), zstd),
            (Compression::LZ4_RAW, block.clone()),
            (Compression::LZ4, [lengths, block.clone()].concat()),
            (Compression::LZ4, frame.finish().unwrap()),
            (Compression::LZ4, block),
        ]
    }

    #[test]
    fn a_page_is_unpacked_to_the_last_byte_and_no_further_than_it_may() {
        for (codec, packed) in packed() {
            assert_eq!(unpack(codec, &packed, 1 << 20).unwrap(), vec![0; 1 << 20], "{codec}");
            assert!(unpack(codec, &packed, (1 << 20) - 1).is_err(), "{codec}");
        }
    }

    #[test]
    fn a_page_of_several_frames_or_blocks_is_unpacked_whole() {
        for (codec, packed) in packed().drain(1..5).filter(|(codec, _)| *codec != Compression::LZ4_RAW) {
            let twice = [packed.as_slice(), &packed].concat();
            assert_eq!(unpack(codec, &twice, 1 << 21).unwrap().len(), 1 << 21, "{codec}");
            assert!(unpack(codec, &twice, (1 << 21) - 1).is_err(), "{codec}");
        }
    }

    #[test]
    fn a_damaged_page_is_an_error_or_something_but_never_panics() {
        let brotli = (Compression::BROTLI(BrotliLevel::default()), vec![0x1b, 7, 0, 0, 0x24, 1, 2, 3, 4, 5]);
        for (codec, packed) in packed().into_iter().chain([brotli]) {
            for position in 0..packed.len().min(64) {
                let mut damaged = packed.clone();
                damaged[position] ^= 0x55;
                let _ = unpack(codec, &damaged, 1 << 20);
                let _ = unpack(codec, &packed[..position], 1 << 20);
            }
        }
    }

    #[test]
    fn a_page_without_bytes_is_empty_in_every_codec() {
        for (codec, _) in packed() {
            assert_eq!(unpack(codec, &[], 10), Ok(Vec::new()));
        }
    }

    #[test]
    fn what_cannot_be_unpacked_is_named_with_the_cure() {
        let message = unpack(Compression::LZO, &[1], 10).unwrap_err();
        assert!(message.starts_with("packed with LZO; write it with zstd"), "{message}");
    }
}
