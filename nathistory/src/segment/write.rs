//! Writes a segment.

use std::io::{self, Write};
use std::net::IpAddr;

use parquet::errors::ParquetError;
use parquet::file::metadata::{FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataWriter};
use parquet::file::writer::SerializedFileWriter;

use crate::disk::Disk;
use crate::error::Error;
use crate::segment::blocks::{Checks, of_file};
use crate::segment::chunk::Context;
use crate::segment::collect::Columns;
use crate::segment::columns::{Column, Layout, properties, schema};
use crate::segment::encode::Compressor;
use crate::segment::info::{Info, MOST_ADDRESSES, SCHEMA};
use crate::segment::name::{MERGING, Name, SEALING};
use crate::segment::sink::{Sink, hash_of};
use crate::segment::supply::{Added, Supply};

/// The key of [`Info`] in the footer.
pub(super) const INFO_KEY: &str = "nathistory";
/// The key of [`Checks`] in the footer.
pub(super) const CHECKS_KEY: &str = "nathistory.checks";
/// What ends each file: the length of the footer, and Parquet's magic.
const TRAILER: usize = 8;

/// What a segment is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What is frozen.
    Sealed,
    /// Segments of an hour.
    Hour,
    /// Segments of several hours. It stays as it is.
    Day,
}

/// A segment that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// The file's name.
    pub(crate) name: String,
    /// The SHA-256 of the file, in hexadecimal digits.
    pub(crate) hash: String,
    /// What its footer says.
    pub(crate) info: Info,
    /// Its size.
    pub(crate) bytes: u64,
}

/// Writes a segment of these rows, under a temporary name, and makes it durable.
/// Only then it gets its name. `rows`, `open_rows` and `nat_ips` of the description are set here.
///
/// # Errors
/// Those of the disk and of the rows. The temporary file is removed then, if the disk allows it.
pub(crate) fn write(
    disk: &dyn Disk,
    kind: Kind,
    info: Info,
    rows: &mut dyn Supply,
) -> Result<Written, Error> {
    let (temporary, layout) = match kind {
        Kind::Sealed => (SEALING, Layout::passing()),
        Kind::Hour => (MERGING, Layout::passing()),
        Kind::Day => (MERGING, Layout::default()),
    };
    write_as(disk, temporary, info, rows, layout)
}

/// Like [`write`], with another division of the file.
pub(super) fn write_as(
    disk: &dyn Disk,
    temporary: &str,
    info: Info,
    rows: &mut dyn Supply,
    layout: Layout,
) -> Result<Written, Error> {
    let doing = |what: &str| format!("{what} {}/{temporary}", disk.name());
    match disk.remove(temporary) {
        // What a crash left.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(doing("removing"), error)),
    }
    let file = disk.create(temporary).map_err(|error| Error::io(doing("creating"), error))?;
    let written = fill(Sink::new(file, layout.block_size), info, rows, layout)
        .map_err(|error| as_written(error, temporary, doing("writing")))
        .and_then(|written| {
            let rename = || {
                disk.rename(temporary, &written.name)?;
                disk.sync_names()
            };
            rename().map_err(|error| Error::io(doing("renaming"), error))?;
            Ok(written)
        });
    if written.is_err() {
        // The error that is reported is the first one.
        let _ = disk.remove(temporary);
    }
    written
}

/// An error while a file is written: it is not damaged, so what is not an error of the rows is one of the disk.
fn as_written(error: ParquetError, temporary: &str, doing: String) -> Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) => Error::io(doing, *error),
            Err(other) => of_file(temporary, ParquetError::External(other)),
        },
        other => Error::io(doing, io::Error::other(other)),
    }
}

fn fill(
    mut sink: Sink,
    mut info: Info,
    rows: &mut dyn Supply,
    layout: Layout,
) -> Result<Written, ParquetError> {
    let mut counts = Counts::default();
    let mut columns = Columns::default();
    let mut compressor = Compressor::new(layout.zstd_level)?;
    let mut writer = SerializedFileWriter::new(&mut sink, schema()?, properties())?;
    while write_group(&mut writer, rows, layout, &mut columns, &mut compressor, &mut counts)?
        == layout.group_rows
    {}
    // The indexes of the pages and a footer. The blocks end before the footer, which has their checks, so it
    // is written once more.
    writer.flush()?;
    writer.inner_mut().capture();
    let metadata = writer.finish()?;
    drop(writer);
    let mut captured = sink.captured();
    let indexes = footer_length(&captured)
        .and_then(|length| captured.len().checked_sub(length))
        .ok_or_else(|| ParquetError::General("the footer is longer than the file".to_owned()))?;
    captured.truncate(indexes);
    sink.write_all(&captured)?;
    let crc32c = sink.end_blocks();
    let checks = Checks { block_size: layout.block_size, length: sink.written(), crc32c };
    info.schema = SCHEMA;
    info.rows = counts.rows;
    info.open_rows = counts.open_rows;
    info.nat_ips = counts.addresses();
    let footer = footer(metadata, &info, &checks)?;
    sink.write_all(&footer)?;
    let name = Name::new(&info, &hash_of(&footer)).text();
    let (hash, bytes) = sink.finish()?;
    Ok(Written { name, hash, info, bytes })
}

/// The bytes of the footer at the end of a file, with its length and the magic.
pub(super) fn footer_length(end: &[u8]) -> Option<usize> {
    let trailer: &[u8; TRAILER] = end.last_chunk()?;
    let [a, b, c, d, magic @ ..] = *trailer;
    (magic == *b"PAR1").then_some(())?;
    usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?.checked_add(TRAILER)
}

fn footer(metadata: ParquetMetaData, info: &Info, checks: &Checks) -> Result<Vec<u8>, ParquetError> {
    let json = |key: &str, text: serde_json::Result<String>| match text {
        Ok(text) => Ok(KeyValue { key: key.to_owned(), value: Some(text) }),
        Err(error) => Err(ParquetError::External(Box::new(error))),
    };
    let said =
        vec![json(INFO_KEY, serde_json::to_string(info))?, json(CHECKS_KEY, serde_json::to_string(checks))?];
    let file = metadata.file_metadata();
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        Some(said),
        file.schema_descr_ptr(),
        file.column_orders().cloned(),
    );
    // Without the indexes, which are written already, only the footer is written.
    let metadata = ParquetMetaData::new(file, metadata.row_groups().to_vec());
    let mut footer = Vec::new();
    ParquetMetaDataWriter::new(&mut footer, &metadata).finish()?;
    Ok(footer)
}

/// Writes one row group, and returns the number of its rows.
fn write_group(
    writer: &mut SerializedFileWriter<&mut Sink>,
    rows: &mut dyn Supply,
    layout: Layout,
    columns: &mut Columns,
    compressor: &mut Compressor,
    counts: &mut Counts,
) -> Result<usize, ParquetError> {
    let mut count = 0;
    while count < layout.group_rows {
        let Some(added) = rows.add_next(columns)? else { break };
        counts.add(&added);
        count += 1;
    }
    if count == 0 {
        return Ok(0);
    }
    rows.end_group(columns);
    let descriptions = writer.schema_descr().columns().to_vec();
    let mut group = writer.next_row_group()?;
    for ((description, column), chunk) in descriptions.into_iter().zip(Column::ALL).zip(columns.chunks()) {
        let mut context = Context {
            compressor,
            level: layout.zstd_level,
            page_rows: layout.page_rows,
            index: column.is_indexed(),
            column: description,
        };
        let (bytes, closed) = chunk.write(&mut context)?;
        group.append_column(&bytes, closed)?;
    }
    group.close()?;
    Ok(count)
}

/// What the description says of the rows.
#[derive(Default)]
struct Counts {
    rows: u64,
    open_rows: u64,
    addresses: Vec<IpAddr>,
}

impl Counts {
    fn add(&mut self, row: &Added) {
        if self.addresses.last() != Some(&row.public_ip) && self.addresses.len() <= MOST_ADDRESSES {
            self.addresses.push(row.public_ip);
        }
        self.rows += 1;
        self.open_rows += u64::from(row.is_open);
    }

    fn addresses(self) -> Option<Vec<IpAddr>> {
        (self.addresses.len() <= MOST_ADDRESSES).then_some(self.addresses)
    }
}
