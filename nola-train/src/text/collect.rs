//! Rows of all files of a data set, the bad ones among them set aside.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::read::{Content, PlainText, Row, UsedColumns, files_of, read};
use super::{BAD_ROWS_LISTED, BadRow, OnBadRow, Place, RowProblem, TextError, TextSettings};

/// Which rows are read.
pub(super) struct Rows {
    /// The files.
    pub files: Vec<Arc<Path>>,
    /// How plain text is read.
    pub plain_text: PlainText,
    /// UsedColumns that are used.
    pub columns: UsedColumns,
    /// Rows read at most; 0: all.
    pub limit: usize,
    /// What happens to bad rows.
    pub on_bad_row: OnBadRow,
}

/// Rows that cannot be used.
#[derive(Debug, Default)]
pub(super) struct BadRows {
    /// How many.
    pub total: usize,
    /// The first of them.
    pub first: Vec<BadRow>,
}

impl BadRows {
    /// Adds one.
    pub fn push(&mut self, place: Place, problem: RowProblem) {
        self.total += 1;
        if self.first.len() < BAD_ROWS_LISTED {
            self.first.push(BadRow { place, problem });
        }
    }
}

impl Rows {
    /// The rows of a file or of the data files of a folder.
    ///
    /// # Errors
    /// If the folder cannot be read or holds none.
    pub fn of(
        path: &Path,
        plain_text: PlainText,
        columns: UsedColumns,
        settings: &TextSettings,
    ) -> Result<Self, TextError> {
        let (limit, on_bad_row) = (settings.limit, settings.on_bad_row);
        Ok(Self { files: files_of(path)?, plain_text, columns, limit, on_bad_row })
    }

    /// Hands what `convert` makes of each row to `take`; what is wrong with a row alone goes to `bad`.
    ///
    /// Returns the number of rows read. Once a bad row is known to end the run, rows are only checked.
    ///
    /// # Errors
    /// If a file cannot be read, or as `take`.
    pub fn each<T>(
        &self,
        bad: &mut BadRows,
        convert: impl Fn(Content) -> Result<T, RowProblem>,
        mut take: impl FnMut(Place, T, &mut BadRows) -> Result<(), TextError>,
    ) -> Result<usize, TextError> {
        let (mut rows, mut failed) = (0, None);
        let mut sink = |row: Row| {
            rows += 1;
            match row.content.and_then(&convert) {
                Err(problem) => bad.push(row.place, problem),
                Ok(_) if bad.total > 0 && self.on_bad_row == OnBadRow::Fail => {}
                Ok(value) => failed = take(row.place, value, bad).err(),
            }
            let is_done = failed.is_some() || rows == self.limit;
            if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        for file in &self.files {
            if read(file, self.plain_text, &self.columns, &mut sink)?.is_break() {
                break;
            }
        }
        failed.map_or(Ok(rows), Err)
    }

    /// All rows at once.
    ///
    /// # Errors
    /// As [`Rows::each`], and if bad rows are to end the run.
    pub fn all<T>(&self, convert: impl Fn(Content) -> Result<T, RowProblem>) -> Result<Vec<T>, TextError> {
        let (mut bad, mut values) = (BadRows::default(), Vec::new());
        self.each(&mut bad, convert, |_, value, _| {
            values.push(value);
            Ok(())
        })?;
        self.judge(bad)?;
        Ok(values)
    }

    /// Ends the run on bad rows if that is asked for; else hands them back.
    ///
    /// # Errors
    /// [`TextError::BadRows`].
    pub fn judge(&self, bad: BadRows) -> Result<BadRows, TextError> {
        match self.on_bad_row {
            OnBadRow::Fail if bad.total > 0 => Err(TextError::BadRows { total: bad.total, first: bad.first }),
            OnBadRow::Fail | OnBadRow::Skip => Ok(bad),
        }
    }
}
