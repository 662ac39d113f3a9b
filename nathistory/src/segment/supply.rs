//! Where the rows of a segment that is written come from.

use std::net::IpAddr;

use parquet::errors::ParquetError;

use crate::row::Row;
use crate::segment::collect::Columns;

/// What the footer says of a row.
pub(crate) struct Added {
    pub(super) public_ip: IpAddr,
    pub(super) is_open: bool,
}

/// Rows in the order of [`Row::order`].
pub(crate) trait Supply {
    /// Adds the next row to columns; `None` if there are no more.
    fn add_next(&mut self, columns: &mut Columns) -> Result<Option<Added>, ParquetError>;

    /// The columns will be written, and be empty then.
    fn end_group(&mut self, columns: &mut Columns);
}

/// Rows that are there as such.
pub(crate) struct Supplied<I> {
    rows: I,
    last: Option<Row>,
}

impl<I: Iterator<Item = Row>> Supplied<I> {
    pub(crate) fn new(rows: I) -> Self {
        Self { rows, last: None }
    }
}

impl<I: Iterator<Item = Row>> Supply for Supplied<I> {
    fn add_next(&mut self, columns: &mut Columns) -> Result<Option<Added>, ParquetError> {
        let Some(row) = self.rows.next() else { return Ok(None) };
        if self.last.is_some_and(|last| last.order(&row).is_gt()) {
            // Such a file would answer wrongly.
            return Err(ParquetError::General("the rows are not in order".to_owned()));
        }
        self.last = Some(row);
        columns.push(&row);
        Ok(Some(Added { public_ip: row.public.ip, is_open: row.record.closed.is_none() }))
    }

    fn end_group(&mut self, _: &mut Columns) {}
}
