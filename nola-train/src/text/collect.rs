//! Rows of all files of a data set, the bad ones among them set aside.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::read::{Content, PlainText, Row, UsedColumns, files_of, read};
use super::{BadRows, FileKind, OnBadRow, Place, RowProblem, TextError, TextSettings};
use crate::portion::{DataSource, Drawn, DrawnUnit, Portion};

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
    /// Which rows are used; absent: all.
    chosen: Option<Vec<bool>>,
    /// Rows used at most; 0: all.
    most: usize,
}

impl Rows {
    /// The rows of all files of a source, or a portion of them.
    ///
    /// # Errors
    /// If a folder cannot be read or holds none, or there are too few rows for a portion.
    pub fn of(
        source: &DataSource,
        plain_text: PlainText,
        columns: UsedColumns,
        settings: &TextSettings,
    ) -> Result<Self, TextError> {
        let (limit, on_bad_row) = (settings.limit, settings.on_bad_row);
        let files: Vec<_> = source.paths.iter().map(|path| files_of(path)).collect::<Result<_, _>>()?;
        let rows = Self {
            files: files.concat(),
            plain_text,
            columns,
            limit,
            on_bad_row,
            chosen: None,
            most: source.most,
        };
        if source.portion == Portion::Whole || rows.are_running_text() {
            return Ok(rows);
        }
        let count = rows.count()?;
        check_divisible(count, DrawnUnit::Rows, source)?;
        Ok(Self { chosen: Some(source.portion.chosen(count)), ..rows })
    }

    /// Whether all files are running text, which has no rows.
    pub fn are_running_text(&self) -> bool {
        let is_plain = |file: &Arc<Path>| FileKind::of(file) == Some(FileKind::Text);
        self.plain_text == PlainText::Running && self.files.iter().all(is_plain)
    }

    /// How many rows are used of how many, if not all of them are.
    pub fn drawn(&self) -> Option<Drawn> {
        self.chosen.as_deref().map(|chosen| Drawn::of(chosen, DrawnUnit::Rows))
    }

    /// The rows there are, at most as many as are read.
    fn count(&self) -> Result<usize, TextError> {
        let (mut seen, mut rows) = (0, 0);
        self.read(&mut |row| {
            seen += 1;
            rows += usize::from(!goes_on(&row));
            if seen == self.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(rows)
    }

    /// Hands on the rows of all files, until `sink` has enough.
    fn read(&self, sink: &mut dyn FnMut(Row) -> ControlFlow<()>) -> Result<(), TextError> {
        for file in &self.files {
            if read(file, self.plain_text, &self.columns, sink)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Hands what `convert` makes of each row to `take`; what is wrong with a row alone goes to `bad`.
    ///
    /// Returns the number of rows used. Once a bad row is known to end the run, rows are only checked; so are those that are
    /// not used, where a bad row ends the run.
    ///
    /// # Errors
    /// If a file cannot be read, or as `take`.
    pub fn each<T>(
        &self,
        bad: &mut BadRows,
        convert: impl Fn(Content) -> Result<T, RowProblem>,
        mut take: impl FnMut(Place, T, &mut BadRows) -> Result<(), TextError>,
    ) -> Result<usize, TextError> {
        let (mut seen, mut rows, mut used, mut failed) = (0, 0usize, 0, None);
        self.read(&mut |row| {
            seen += 1;
            rows += usize::from(!goes_on(&row));
            let is_used = self.is_used(rows.saturating_sub(1));
            used += usize::from(is_used);
            if is_used || self.on_bad_row == OnBadRow::Fail {
                match row.content.and_then(&convert) {
                    Err(problem) => bad.push(row.place, &problem),
                    Ok(_) if !is_used || bad.total() > 0 && self.on_bad_row == OnBadRow::Fail => {}
                    Ok(value) => failed = take(row.place, value, bad).err(),
                }
            }
            let is_done = failed.is_some() || seen == self.limit || is_used && used == self.most;
            if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failed.map_or(Ok(used), Err)
    }

    fn is_used(&self, row: usize) -> bool {
        self.chosen.as_ref().is_none_or(|chosen| chosen.get(row).copied().unwrap_or(false))
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
            OnBadRow::Fail if bad.total() > 0 => Err(TextError::BadRows(bad)),
            OnBadRow::Fail | OnBadRow::Skip => Ok(bad),
        }
    }
}

/// Requires enough to hold something out and to keep something.
pub(super) fn check_divisible(found: usize, unit: DrawnUnit, source: &DataSource) -> Result<(), TextError> {
    // Where there is nothing at all, that is said later.
    if found == 1 { Err(TextError::TooFewToHoldOut { path: source.name.clone(), unit }) } else { Ok(()) }
}

/// Whether a row is more of the one before.
fn goes_on(row: &Row) -> bool {
    matches!(row.content, Ok(Content::More(_)))
}
