//! What a page of Parquet may hold: it is measured before anything is built of it, since a few bytes can stand for billions of
//! values.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parquet::basic::{Encoding, Type as Physical};
use parquet::column::page::Page;
use parquet::schema::types::ColumnDescPtr;

use super::VALUE_BYTES;
use super::parquet_packed::{deltas, level_runs, plain_levels};

/// The pages that are in use at once, one for each column with its dictionary, may hold this many bytes: writers put a
/// thousand rows in a page, however long they are.
pub(super) const MAX_HELD_BYTES: usize = 256 << 20;

/// Bytes that the columns of a row group hold together.
pub(super) type Held = Arc<AtomicUsize>;

/// The bounds of a column.
pub(super) struct Bounds {
    column: ColumnDescPtr,
    held: Held,
    /// Bytes of its dictionary, and of its page.
    own: [usize; 2],
    /// Values that a row may have.
    most_values: usize,
    /// Rows that began so far.
    row: usize,
    /// Values of the last of them.
    values: usize,
}

/// The two kinds of pages.
#[derive(Clone, Copy)]
enum Kind {
    Dictionary,
    Data,
}

/// A data page, taken apart.
struct Parts<'a> {
    count: usize,
    encoding: Encoding,
    /// Repetition levels; absent if they are stored without runs, or if the column has none.
    repetition: Option<&'a [u8]>,
    values: &'a [u8],
}

impl Bounds {
    /// Bounds of a column whose rows may have `most_values`, behind `row` other rows.
    pub fn new(column: ColumnDescPtr, held: &Held, most_values: usize, row: usize) -> Self {
        Self { column, held: Arc::clone(held), own: [0; 2], most_values, row, values: 0 }
    }

    /// Bytes that the next page may have.
    pub fn room(&self) -> usize {
        let others = self.held.load(Ordering::Relaxed) - self.own[Kind::Data as usize];
        MAX_HELD_BYTES.saturating_sub(others)
    }

    /// A problem with the column, and where it is.
    pub fn problem(&self, problem: impl std::fmt::Display) -> String {
        format!("column `{}`, behind row {}: {problem}", self.column.path().string(), self.row)
    }

    /// Measures a page that is unpacked.
    ///
    /// # Errors
    /// If it, or a row in it, holds more than it may, or if it is damaged.
    pub fn take(&mut self, page: &Page) -> Result<(), String> {
        match page {
            Page::DictionaryPage { buf, num_values, .. } => {
                self.hold(Kind::Dictionary, buf.len() + *num_values as usize * VALUE_BYTES)
            }
            Page::DataPage { .. } | Page::DataPageV2 { .. } => {
                let parts = self.parts(page).ok_or_else(|| self.problem("a damaged page"))?;
                let bytes = page.buffer().len() + self.unpacked(&parts)?;
                self.hold(Kind::Data, bytes)?;
                self.count_rows(&parts)
            }
        }
    }

    fn hold(&mut self, kind: Kind, bytes: usize) -> Result<(), String> {
        let own = std::mem::replace(&mut self.own[kind as usize], bytes);
        let others = self.held.fetch_sub(own, Ordering::Relaxed) - own;
        self.held.fetch_add(bytes, Ordering::Relaxed);
        if others + bytes > MAX_HELD_BYTES {
            return Err(self.problem(too_large(MAX_HELD_BYTES)));
        }
        Ok(())
    }

    /// The parts of a data page, whose levels stand before its values.
    fn parts<'a>(&self, page: &'a Page) -> Option<Parts<'a>> {
        let [repetition, definition] = [self.column.max_rep_level(), self.column.max_def_level()];
        match page {
            Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, .. } => {
                let (count, mut rest) = (*num_values as usize, &buf[..]);
                let repetition = plain_levels(&mut rest, repetition, *rep_level_encoding, count)?;
                plain_levels(&mut rest, definition, *def_level_encoding, count)?;
                Some(Parts { count, encoding: *encoding, repetition, values: rest })
            }
            Page::DataPageV2 {
                buf, num_values, encoding, def_levels_byte_len, rep_levels_byte_len, ..
            } => {
                let (levels, rest) = buf.split_at_checked(*rep_levels_byte_len as usize)?;
                let values = rest.get(*def_levels_byte_len as usize..)?;
                let repetition = (repetition > 0).then_some(levels);
                Some(Parts { count: *num_values as usize, encoding: *encoding, repetition, values })
            }
            Page::DictionaryPage { .. } => None,
        }
    }

    /// Bytes that decoding a page takes besides the page.
    fn unpacked(&self, parts: &Parts) -> Result<usize, String> {
        let is_text =
            matches!(self.column.physical_type(), Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY);
        let most = parts.count.min(MAX_HELD_BYTES / VALUE_BYTES);
        let read = |bytes| deltas(bytes, most).map_err(|problem| self.problem(problem));
        match parts.encoding {
            Encoding::DELTA_LENGTH_BYTE_ARRAY if is_text => Ok(read(parts.values)?.count * size_of::<i32>()),
            Encoding::DELTA_BYTE_ARRAY => {
                let prefixes = read(parts.values)?;
                let suffixes = read(prefixes.rest)?;
                // A value of a list is kept with the others of its row, and has its prefix for itself.
                let copied = if self.column.max_rep_level() > 0 { prefixes.sum } else { 0 };
                Ok(copied.saturating_add((prefixes.count + suffixes.count) * size_of::<i32>()))
            }
            _ => Ok(0),
        }
    }

    /// Counts the rows that begin in a page, and the values of each.
    fn count_rows(&mut self, parts: &Parts) -> Result<(), String> {
        if self.column.max_rep_level() == 0 {
            self.row += parts.count;
            return Ok(());
        }
        let Some(levels) = parts.repetition else { return self.count_values(false, parts.count) };
        level_runs(levels, self.column.max_rep_level(), parts.count, |level, times| {
            self.count_values(level == 0, times)
        })
    }

    /// Counts values of which each begins a row, or none does.
    fn count_values(&mut self, is_start: bool, times: usize) -> Result<(), String> {
        if is_start {
            self.row += times;
            self.values = 1;
        } else {
            self.values += times;
        }
        if self.values > self.most_values {
            let (path, row, most) = (self.column.path().string(), self.row, self.most_values);
            return Err(format!(
                "column `{path}`: row {row} has more than {most} values; split the row into several, or leave it out"
            ));
        }
        Ok(())
    }
}

/// What is wrong with pages of more than `most` bytes.
pub(super) fn too_large(most: usize) -> String {
    format!(
        "its page holds more than {most} bytes with those of the other columns; write the file with fewer rows in a row group, or without the columns that are not used"
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::schema::parser::parse_message_type;
    use parquet::schema::types::SchemaDescriptor;

    use super::*;

    fn bounds(field: &str) -> Bounds {
        let schema = Arc::new(parse_message_type(&format!("message rows {{ {field}; }}")).unwrap());
        let held = Held::default();
        Bounds::new(SchemaDescriptor::new(schema).column(0), &held, 1000, 0)
    }

    fn dictionary(bytes: usize, num_values: u32) -> Page {
        let buf = vec![0; bytes].into();
        Page::DictionaryPage { buf, num_values, encoding: Encoding::PLAIN, is_sorted: false }
    }

    fn data(buf: Vec<u8>, num_values: u32, encoding: Encoding) -> Page {
        Page::DataPage {
            buf: buf.into(),
            num_values,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        }
    }

    /// Levels in one run, with their length before them.
    fn run(level: u8, times: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut header = times << 1;
        while header > 127 {
            bytes.push(header as u8 | 128);
            header >>= 7;
        }
        bytes.extend([header as u8, level]);
        [(bytes.len() as u32).to_le_bytes().as_slice(), &bytes].concat()
    }

    #[test]
    fn a_dictionary_that_claims_more_entries_than_fit_is_refused() {
        let mut bounds = bounds("required binary text");
        for claimed in [1 << 24, u32::MAX] {
            let message = bounds.take(&dictionary(10, claimed)).unwrap_err();
            assert!(message.contains("column `text`") && message.contains("row group"), "{message}");
        }
    }

    #[test]
    fn a_dictionary_of_tens_of_megabytes_is_taken() {
        assert_eq!(bounds("required binary text").take(&dictionary(60 << 20, 1 << 20)), Ok(()));
    }

    #[test]
    fn the_columns_of_a_group_share_what_they_may_hold() {
        let mut first = bounds("required binary text");
        let mut second = Bounds::new(first.column.clone(), &first.held, 1000, 0);
        for _ in 0..4 {
            first.take(&data(vec![0; 100 << 20], 3, Encoding::PLAIN)).unwrap();
        }
        assert_eq!(second.room(), MAX_HELD_BYTES - (100 << 20));
        second.take(&dictionary(100 << 20, 0)).unwrap();
        assert!(second.take(&data(vec![0; 100 << 20], 3, Encoding::PLAIN)).is_err());
    }

    #[test]
    fn a_row_with_more_values_than_it_may_have_is_named_with_its_column() {
        for (starts, more) in [(3, 2000), (1, 1000), (7, u32::MAX as usize >> 1)] {
            let mut bounds = bounds("repeated int32 xs");
            let page = |level, times| {
                data([run(level, times), run(1, times)].concat(), times as u32, Encoding::RLE_DICTIONARY)
            };
            bounds.take(&page(0, starts)).unwrap();
            let message = bounds.take(&page(1, more)).unwrap_err();
            assert!(
                message.contains(&format!("column `xs`: row {starts} has more than 1000 values")),
                "{message}"
            );
        }
    }

    #[test]
    fn a_row_that_goes_on_in_the_next_pages_is_counted_whole() {
        let mut bounds = bounds("repeated int32 xs");
        let page = data([run(1, 400), run(1, 400)].concat(), 400, Encoding::RLE_DICTIONARY);
        bounds.take(&page).unwrap();
        bounds.take(&page).unwrap();
        assert!(bounds.take(&page).is_err());
    }

    #[test]
    fn rows_without_lists_may_be_as_many_as_they_are() {
        let mut bounds = bounds("optional int32 x");
        for _ in 0..3 {
            bounds.take(&data(run(1, 1 << 30), 1 << 30, Encoding::RLE_DICTIONARY)).unwrap();
        }
        assert_eq!(bounds.row, 3 << 30);
    }

    #[test]
    fn lengths_that_are_more_than_the_values_are_refused() {
        // Blocks of 128 in 4 parts, 2^31 - 1 lengths, the first of them 0.
        let lengths = vec![128, 1, 4, 255, 255, 255, 255, 7, 0, 0, 0, 0, 0, 0];
        for encoding in [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY] {
            for count in [3, i32::MAX as u32] {
                assert!(
                    bounds("required binary text").take(&data(lengths.clone(), count, encoding)).is_err()
                );
            }
        }
    }
}
