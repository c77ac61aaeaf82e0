//! Parquet, row by row.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use nola_models::caught;
use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::PageReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData,
};
use parquet::file::reader::RowGroupReader;
use parquet::record::reader::{RowIter, TreeBuilder};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type, TypePtr};

use super::parquet_bounds::{Bounds, Held};
use super::parquet_pages::Pages;
use super::{MAX_ROW_BYTES, MAX_ROW_VALUES, Row, Sink, UsedColumns, io_error, parquet_values};
use crate::text::{Place, RowLocation, TextError};

/// The largest ratio in which gzip packs, about.
const MAX_RATIO: usize = 1000;

/// One row for each row; lists and groups become JSON lists and objects, and a column that is not wanted has its name alone.
pub(super) fn read(
    file: &Arc<Path>,
    columns: &UsedColumns,
    sink: &mut Sink,
) -> Result<ControlFlow<()>, TextError> {
    let opened = Arc::new(File::open(file).map_err(io_error(file))?);
    let metadata = guarded(file, || ParquetMetaDataReader::new().parse_and_finish(&*opened))?;
    let wanted = Wanted::of(metadata.file_metadata().schema(), columns);
    let schema = guarded(file, || schema_of_bytes(&metadata, &wanted))?;
    let mut left = bytes_of_rows(&opened).map_err(io_error(file))?;
    let mut row = 0;
    for group in metadata.row_groups() {
        let group = guarded(file, || Group::new(&opened, group, &schema, row))?;
        // Row by row, so that no more is built than one.
        let builder = TreeBuilder::new().with_batch_size(1);
        let mut rows = guarded(file, || builder.as_iter(Arc::clone(&schema), &group))?;
        while let Some(found) = guarded(file, || rows.next().transpose())? {
            row += 1;
            let place = Place { file: Arc::clone(file), spot: RowLocation::Row(row) };
            let content = match parquet_values::content(&found, &wanted.unread) {
                Ok((content, bytes)) => {
                    let repeats = || TextError::ParquetRepeats { file: file.to_path_buf(), row };
                    left = left.checked_sub(bytes).ok_or_else(repeats)?;
                    Ok(content)
                }
                Err(problem) => Err(problem),
            };
            if sink(Row { place, content }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// What the rows of a file may hold together, in bytes: what one row may, or as much more than the file as gzip can pack.
///
/// A dictionary stores a text once for all rows that have it, so that nothing else bounds them.
fn bytes_of_rows(file: &File) -> std::io::Result<usize> {
    let stored = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    Ok(stored.saturating_mul(MAX_RATIO).max(MAX_ROW_BYTES))
}

/// The fields of a file by whether they are read.
struct Wanted {
    read: Vec<TypePtr>,
    /// Names of those that are not.
    unread: Vec<String>,
}

impl Wanted {
    /// The fields that are columns which are wanted; one at least, since it tells how many rows there are.
    fn of(root: &Type, columns: &UsedColumns) -> Self {
        let (mut read, mut unread): (Vec<TypePtr>, Vec<TypePtr>) =
            root.get_fields().iter().cloned().partition(|field| columns.contain(field.name()));
        if read.is_empty() && !unread.is_empty() {
            read.push(unread.remove(0));
        }
        Self { read, unread: unread.iter().map(|field| field.name().to_owned()).collect() }
    }
}

/// Runs the parser, which panics on some damaged files.
fn guarded<T>(file: &Path, parse: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, TextError> {
    match caught(parse) {
        Ok(result) => result.map_err(|source| TextError::Parquet { file: file.into(), source }),
        Err(_) => Err(TextError::ParquetDamaged { file: file.into() }),
    }
}

/// The schema of what is read, with all texts as plain bytes: so they are not copied before it is known how many they are,
/// and bytes that are not UTF-8 are no error of the whole file.
fn schema_of_bytes(metadata: &ParquetMetaData, wanted: &Wanted) -> Result<SchemaDescPtr, ParquetError> {
    let root = metadata.file_metadata().schema();
    if metadata.file_metadata().schema_descr().num_columns() == 0 {
        return Err(ParquetError::General("the file has no columns".to_owned()));
    }
    let fields = wanted.read.iter().map(|field| Ok(Arc::new(of_bytes(field)?)));
    let fields = fields.collect::<Result<_, ParquetError>>()?;
    let root = Type::group_type_builder(root.name()).with_fields(fields).build()?;
    Ok(Arc::new(SchemaDescriptor::new(Arc::new(root))))
}

/// A type with its texts as bytes.
fn of_bytes(of: &Type) -> Result<Type, ParquetError> {
    let info = of.get_basic_info();
    match of {
        Type::GroupType { fields, .. } => {
            let fields = fields.iter().map(|field| Ok(Arc::new(of_bytes(field)?)));
            let mut group = Type::group_type_builder(info.name())
                .with_converted_type(info.converted_type())
                .with_fields(fields.collect::<Result<_, ParquetError>>()?);
            if info.has_repetition() {
                group = group.with_repetition(info.repetition());
            }
            group.build()
        }
        Type::PrimitiveType { physical_type, type_length, .. } => {
            let is_bytes = matches!(physical_type, Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY);
            let is_number = info.converted_type() == ConvertedType::DECIMAL
                || info.logical_type_ref() == Some(&LogicalType::Float16);
            if !is_bytes || is_number {
                return Ok(of.clone());
            }
            Type::primitive_type_builder(info.name(), *physical_type)
                .with_repetition(info.repetition())
                .with_length(*type_length)
                .build()
        }
    }
}

/// A row group as the record reader wants it, with pages that are unpacked and measured here.
struct Group<'a> {
    file: &'a Arc<File>,
    /// The columns that are read.
    columns: Vec<&'a ColumnChunkMetaData>,
    /// Says no more than which type each column has.
    metadata: RowGroupMetaData,
    held: Held,
    /// Rows of the groups before it.
    first_row: usize,
}

impl<'a> Group<'a> {
    fn new(
        file: &'a Arc<File>,
        group: &'a RowGroupMetaData,
        schema: &SchemaDescPtr,
        first_row: usize,
    ) -> Result<Self, ParquetError> {
        let read = |column: &&ColumnChunkMetaData| {
            schema.columns().iter().any(|wanted| wanted.path() == column.column_path())
        };
        let columns: Vec<_> = group.columns().iter().filter(read).collect();
        if columns.len() != schema.num_columns() {
            return Err(ParquetError::General("a row group has not the columns of the schema".to_owned()));
        }
        let types =
            schema.columns().iter().map(|column| ColumnChunkMetaData::builder(column.clone()).build());
        let metadata = RowGroupMetaData::builder(Arc::clone(schema))
            .set_num_rows(group.num_rows())
            .set_column_metadata(types.collect::<Result<_, ParquetError>>()?)
            .build()?;
        Ok(Self { file, columns, metadata, held: Held::default(), first_row })
    }

    fn bounds(&self, column: usize) -> Bounds {
        let columns = self.metadata.columns();
        let lists = columns.iter().filter(|column| column.column_descr().max_rep_level() > 0).count();
        let most_values = MAX_ROW_VALUES / lists.max(1);
        Bounds::new(columns[column].column_descr_ptr(), &self.held, most_values, self.first_row)
    }
}

impl RowGroupReader for Group<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        &self.metadata
    }

    fn num_columns(&self) -> usize {
        self.columns.len()
    }

    fn get_column_page_reader(&self, column: usize) -> Result<Box<dyn PageReader>, ParquetError> {
        let bounds = self.bounds(column);
        Ok(Box::new(Pages::new(Arc::clone(self.file), self.columns[column], bounds)?))
    }

    fn get_column_bloom_filter(&self, _column: usize) -> Option<&Sbbf> {
        None
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>, ParquetError> {
        RowIter::from_row_group(projection, self)
    }
}

#[cfg(test)]
mod tests {
    use parquet::basic::{Compression, Encoding, GzipLevel};
    use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
    use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use serde_json::{Map, Value, json};

    use super::super::tests::rows_of;
    use super::super::{Content, UNREAD, type_of};
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

    fn records(bytes: &[u8]) -> Vec<Map<String, Value>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut rows = Vec::new();
        let _ = read(&Arc::from(file.path()), &UsedColumns::All, &mut |row| {
            let Ok(Content::Record(fields)) = row.content else { panic!("{:?}", row.content) };
            rows.push(fields);
            ControlFlow::Continue(())
        })
        .unwrap();
        rows
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
    fn what_pyarrow_and_polars_write_is_read_in_every_compression() {
        for bytes in [
            include_bytes!("parquet/snappy-1.parquet").as_slice(),
            include_bytes!("parquet/snappy-2.parquet"),
            include_bytes!("parquet/gzip-1.parquet"),
            include_bytes!("parquet/gzip-2.parquet"),
            include_bytes!("parquet/brotli-1.parquet"),
            include_bytes!("parquet/brotli-2.parquet"),
            include_bytes!("parquet/zstd-1.parquet"),
            include_bytes!("parquet/zstd-2.parquet"),
            include_bytes!("parquet/lz4-1.parquet"),
            include_bytes!("parquet/lz4-2.parquet"),
            include_bytes!("parquet/polars-zstd.parquet"),
            include_bytes!("parquet/polars-lz4.parquet"),
        ] {
            let expected = [
                "a.parquet row 1 {\"prompt\":\"day one\",\"completion\":\" red\"}",
                "a.parquet row 2 {\"prompt\":\"day two é\",\"completion\":\" blue\"}",
            ];
            assert_eq!(rows(bytes).unwrap(), expected);
        }
    }

    #[test]
    fn lists_groups_maps_and_dictionaries_are_read_as_pyarrow_reads_them() {
        let expected = [
            json!({
                "messages": [
                    {"role": "user", "content": "hi", "tools": []},
                    {"role": "assistant", "content": "yo", "tools": ["a", "b"]},
                ],
                "grid": [["a"], []], "map": {"k": 1}, "dictionary": "x", "group": {"a": true},
            }),
            json!({"messages": [], "grid": [], "map": {}, "dictionary": "y", "group": {"a": null}}),
            json!({"messages": null, "grid": null, "map": null, "dictionary": null, "group": null}),
            json!({
                "messages": [{"role": null, "content": "x", "tools": null}, null],
                "grid": [null, ["b", null, "c"]], "map": {"l": null, "m": 2}, "dictionary": "x", "group": {"a": false},
            }),
        ];
        for (row, expected) in records(include_bytes!("parquet/nested.parquet")).into_iter().zip(expected) {
            assert_eq!(Value::Object(row), expected);
        }
    }

    #[test]
    fn bytes_are_text_if_they_are_utf_8_and_named_for_what_they_are_if_not() {
        let rows = records(include_bytes!("parquet/types.parquet"));
        assert_eq!([&rows[0]["bytes"], &rows[2]["bytes"]], ["day one", "é"]);
        assert_eq!([&rows[0]["large"], &rows[0]["fixed"]], ["a", "ab"]);
        for name in ["bytes", "large", "fixed"] {
            assert_eq!(type_of(&rows[1][name]), "bytes that are not UTF-8 text", "{name}");
        }
    }

    #[test]
    fn numbers_are_numbers_and_dates_and_decimals_are_named_for_what_they_are() {
        let rows = records(include_bytes!("parquet/types.parquet"));
        for (name, expected) in [("half", 0.5), ("int", 1.0), ("unsigned", 255.0), ("float", 0.5)] {
            assert_eq!(rows[0][name].as_f64(), Some(expected), "{name}");
        }
        assert_eq!([&rows[1]["float"], &rows[1]["half"]], [&Value::Null, &Value::Null]);
        for (name, expected) in [
            ("decimal", "a decimal number"),
            ("date", "a date"),
            ("time", "a time of day"),
            ("milli", "a timestamp"),
            ("micro", "a timestamp"),
        ] {
            assert_eq!(type_of(&rows[0][name]), expected);
        }
    }

    #[test]
    fn rows_that_all_point_at_one_long_text_are_bad_one_by_one_without_being_held() {
        let rows = rows(include_bytes!("parquet/bomb.parquet")).unwrap();
        assert_eq!(rows.len(), 20);
        assert_eq!(rows[19], "a.parquet row 20 ! 33554440 bytes; a row may have 16777216");
    }

    /// Rows of two columns: a list of numbers, with `lengths` of them in each row, and a text.
    fn lists(lengths: &[usize], properties: WriterProperties) -> Vec<u8> {
        let schema = "message rows { repeated int32 xs; required binary text (UTF8); }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let repeated: Vec<i16> =
            lengths.iter().flat_map(|&length| (0..length).map(|at| i16::from(at > 0))).collect();
        let (values, defined) = (vec![7; repeated.len()], vec![1; repeated.len()]);
        column.typed::<Int32Type>().write_batch(&values, Some(&defined), Some(&repeated)).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let texts = vec![ByteArray::from("x"); lengths.len()];
        column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.into_inner().unwrap()
    }

    #[test]
    fn a_list_of_millions_of_values_in_one_row_is_refused_with_its_column_and_row() {
        for codec in [Compression::UNCOMPRESSED, Compression::SNAPPY] {
            for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
                let properties =
                    WriterProperties::builder().set_compression(codec).set_writer_version(version);
                let bomb = lists(&[1, 2, MAX_ROW_VALUES + 1, 1], properties.build());
                assert!(bomb.len() < 20_000);
                let error = rows(&bomb).unwrap_err();
                let message = std::error::Error::source(&error).unwrap().to_string();
                assert!(message.contains("column `xs`: row 3 has more than 524288 values"), "{message}");
            }
        }
    }

    #[test]
    fn many_short_lists_and_one_long_one_are_read() {
        let mut lengths = vec![3; 3000];
        lengths.push(100_000);
        assert_eq!(rows(&lists(&lengths, WriterProperties::default())).unwrap().len(), 3001);
    }

    #[test]
    fn columns_that_are_not_wanted_are_named_and_their_pages_are_not_opened() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lists(&[MAX_ROW_VALUES + 1, 1], WriterProperties::default())).unwrap();
        let columns = UsedColumns::named(["text"]);
        let mut found = Vec::new();
        let _ = read(&Arc::from(file.path()), &columns, &mut |row| {
            let Ok(Content::Record(fields)) = row.content else { panic!("{:?}", row.content) };
            found.push(Value::Object(fields));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(found, [json!({"text": "x", "xs": UNREAD}), json!({"text": "x", "xs": UNREAD})]);
    }

    #[test]
    fn where_no_column_is_wanted_each_row_still_says_what_there_is() {
        let two = file(Compression::UNCOMPRESSED);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), two).unwrap();
        let columns = UsedColumns::named(["prompt"]);
        let mut names = Vec::new();
        let _ = read(&Arc::from(file.path()), &columns, &mut |row| {
            let Ok(Content::Record(fields)) = row.content else { panic!("{:?}", row.content) };
            names.push(fields.keys().cloned().collect::<Vec<_>>());
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(names, [["text", "answer", "choices"], ["text", "answer", "choices"]]);
    }

    #[test]
    fn prefixes_that_grow_a_list_beyond_what_may_be_held_are_refused() {
        let properties = || {
            WriterProperties::builder().set_dictionary_enabled(false).set_encoding(Encoding::DELTA_BYTE_ARRAY)
        };
        let schema = "message rows { repeated binary texts (UTF8); }";
        let written = |count: usize, properties: WriterPropertiesBuilder| {
            let schema = Arc::new(parse_message_type(schema).unwrap());
            let mut writer =
                SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.build())).unwrap();
            let mut group = writer.next_row_group().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            let texts = vec![ByteArray::from(vec![b'a'; 1 << 20]); count];
            let repeated: Vec<i16> = (0..count).map(|at| i16::from(at > 0)).collect();
            let levels = (vec![1; count], repeated);
            column.typed::<ByteArrayType>().write_batch(&texts, Some(&levels.0), Some(&levels.1)).unwrap();
            column.close().unwrap();
            group.close().unwrap();
            writer.into_inner().unwrap()
        };
        assert_eq!(rows(&written(10, properties())).unwrap().len(), 1);
        let error = rows(&written(300, properties())).unwrap_err();
        let message = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            message.contains("column `texts`") && message.contains("fewer rows in a row group"),
            "{message}"
        );
    }

    #[test]
    fn rows_that_hold_far_more_than_their_file_could_pack_are_refused() {
        let texts = |count: usize| {
            let schema =
                Arc::new(parse_message_type("message rows { required binary text (UTF8); }").unwrap());
            let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
            let mut group = writer.next_row_group().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            let texts = vec![ByteArray::from(vec![b'a'; 4 << 10]); count];
            column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
            column.close().unwrap();
            group.close().unwrap();
            writer.into_inner().unwrap()
        };
        assert_eq!(rows(&texts(1000)).unwrap().len(), 1000);
        let message = rows(&texts(5000)).unwrap_err().to_string();
        assert!(message.contains("the first ") && message.contains("save it as JSON lines"), "{message}");
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
