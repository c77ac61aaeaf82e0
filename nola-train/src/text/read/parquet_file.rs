//! Parquet, row by row.

use std::fs::File;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::{Row, Sink, io_error, record};
use crate::text::{Place, Spot, TextError};

/// One row for each row; lists and groups become JSON lists and objects.
pub(super) fn read(file: &Arc<Path>, sink: &mut Sink) -> Result<ControlFlow<()>, TextError> {
    let opened = File::open(file).map_err(io_error(file))?;
    let reader = guarded(file, || SerializedFileReader::new(opened))?;
    check_compression(file, &reader)?;
    let mut rows = guarded(file, || reader.get_row_iter(None))?;
    for row in 1.. {
        let Some(value) = guarded(file, || rows.next().transpose())? else { break };
        let place = Place { file: Arc::clone(file), spot: Spot::Row(row) };
        if sink(Row { place, content: record(value.to_json_value()) }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Runs the parser, which panics on some damaged files.
fn guarded<T>(file: &Path, parse: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, TextError> {
    match catch_unwind(AssertUnwindSafe(parse)) {
        Ok(result) => result.map_err(|source| TextError::Parquet { file: file.into(), source }),
        Err(_) => Err(TextError::ParquetDamaged { file: file.into() }),
    }
}

fn check_compression(file: &Path, reader: &SerializedFileReader<File>) -> Result<(), TextError> {
    let groups = reader.metadata().row_groups().iter();
    let mut codecs = groups.flat_map(|group| group.columns()).map(|column| column.compression());
    let known = |codec: &Compression| {
        matches!(codec, Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_))
    };
    match codecs.find(|codec| !known(codec)) {
        None => Ok(()),
        Some(codec) => Err(TextError::ParquetCodec { file: file.into(), codec }),
    }
}

#[cfg(test)]
mod tests {
    use parquet::basic::GzipLevel;
    use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::super::tests::rows_of;
    use super::*;
    use crate::text::read::PlainText;

    /// Two rows with a text, a number and a list of texts.
    fn file(codec: Compression) -> Vec<u8> {
        let schema = "message rows {
            required binary text (UTF8);
            required int32 answer;
            required group choices (LIST) { repeated group list { required binary element (UTF8); } }
        }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().set_compression(codec).build());
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let texts = |texts: &[&str]| texts.iter().map(|&text| ByteArray::from(text)).collect::<Vec<_>>();

        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&texts(&["é", "b"]), None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int32Type>().write_batch(&[1, 0], None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let (defined, repeated) = ([1, 1, 1], [0, 1, 0]);
        let list = column.typed::<ByteArrayType>();
        list.write_batch(&texts(&["x", "y", "z"]), Some(&defined), Some(&repeated)).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.into_inner().unwrap()
    }

    fn rows(bytes: &[u8]) -> Result<Vec<String>, TextError> {
        rows_of("a.parquet", bytes, PlainText::Refused)
    }

    #[test]
    fn rows_have_texts_numbers_and_lists_in_every_compression() {
        let expected = [
            "a.parquet row 1 {\"text\":\"é\",\"answer\":1,\"choices\":[\"x\",\"y\"]}",
            "a.parquet row 2 {\"text\":\"b\",\"answer\":0,\"choices\":[\"z\"]}",
        ];
        for codec in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::GZIP(GzipLevel::default())]
        {
            assert_eq!(rows(&file(codec)).unwrap(), expected);
        }
    }

    #[test]
    fn a_file_of_another_kind_is_an_error() {
        for bytes in [b"".as_slice(), b"text", b"PAR1PAR1PAR1"] {
            assert!(matches!(rows(bytes), Err(TextError::Parquet { .. })));
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_or_reads_as_something_but_never_panics() {
        let whole = file(Compression::SNAPPY);
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 0x55;
            let _ = rows(&damaged);
            let cut = rows(&whole[..position]);
            assert!(cut.is_err(), "cut at {position}");
        }
    }
}
