//! A segment that can be read.

use std::fmt;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::metadata::{
    FileMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::disk::{Disk, Reading};
use crate::error::Error;
use crate::segment::blocks::{Blocks, Checks, contained, of_file};
use crate::segment::columns::Column;
use crate::segment::decode::Group;
use crate::segment::info::{Info, SCHEMA};
use crate::segment::name::Name;
use crate::segment::sink::{hash_of, hexadecimal};
use crate::segment::write::{CHECKS_KEY, INFO_KEY, footer_length};

/// What is read at once to compute the hash.
const PIECE: usize = 1 << 18;

/// A segment whose footer was read and verified. The rest is verified when it is read.
pub(crate) struct Segment {
    name: String,
    info: Info,
    file: Arc<dyn Reading>,
    pub(super) blocks: Arc<Blocks>,
    metadata: ParquetMetaData,
    /// What the footer says without what is read already.
    file_metadata: FileMetaData,
    places: Vec<Option<usize>>,
}

impl fmt::Debug for Segment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Segment").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Segment {
    /// Opens a segment.
    ///
    /// # Errors
    /// Those of the disk; `Damaged` if it is not what was written; `Newer` if a newer version wrote it.
    pub(crate) fn open(disk: &dyn Disk, name: &str) -> Result<Self, Error> {
        let damaged = |what: String| Error::damaged(name, what);
        let said =
            Name::parse(name).ok_or_else(|| damaged("its name is not that of a segment".to_owned()))?;
        let reading = |error| Error::io(format!("reading {}/{name}", disk.name()), error);
        let file = disk.open(name).map_err(reading)?;
        let length = file.length();
        let mut end = [0; 8];
        let from =
            length.checked_sub(end.len() as u64).ok_or_else(|| damaged("it is too short".to_owned()))?;
        file.read_at(&mut end, from).map_err(reading)?;
        let size =
            footer_length(&end).ok_or_else(|| damaged("it does not end like a Parquet file".to_owned()))?;
        let begin = length
            .checked_sub(size as u64)
            .ok_or_else(|| damaged("its footer is longer than the file".to_owned()))?;
        // Not more than the file's length.
        let mut footer = vec![0; size];
        file.read_at(&mut footer, begin).map_err(reading)?;
        let hash = hash_of(&footer);
        if !hash.starts_with(&said.check) {
            let what = format!("the SHA-256 of its footer begins with {}, not {}", &hash[..16], said.check);
            return Err(damaged(what));
        }
        let decode = || ParquetMetaDataReader::decode_metadata(&footer[..size - end.len()]);
        let metadata = contained(decode).map_err(|error| of_file(name, error))?;
        let info: Info = value_of(&metadata, INFO_KEY).map_err(damaged)?;
        if info.schema > SCHEMA {
            return Err(Error::Newer { path: name.to_owned(), found: info.schema, known: SCHEMA });
        }
        if Name::new(&info, &hash) != said {
            return Err(damaged("its name does not say what its footer says".to_owned()));
        }
        let checks: Checks = value_of(&metadata, CHECKS_KEY).map_err(damaged)?;
        let blocks = Arc::new(Blocks::new(name, file.clone(), checks, begin).map_err(damaged)?);
        let schema = metadata.file_metadata().schema_descr();
        let place = |column: &Column| schema.columns().iter().position(|other| other.name() == column.name());
        let places = Column::ALL.iter().map(place).collect();
        let said = metadata.file_metadata();
        let schema = said.schema_descr_ptr();
        let file_metadata = FileMetaData::new(said.version(), said.num_rows(), None, None, schema, None);
        Ok(Self { name: name.to_owned(), info, file, blocks, metadata, file_metadata, places })
    }

    /// The name of its file.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What its footer says.
    pub(crate) fn info(&self) -> &Info {
        &self.info
    }

    /// The SHA-256 of its file, in hexadecimal digits. It reads the whole file.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn hash(&self) -> Result<String, Error> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; PIECE];
        let mut at = 0;
        while at < self.file.length() {
            let size = (self.file.length() - at).min(PIECE as u64) as usize;
            self.file
                .read_at(&mut buffer[..size], at)
                .map_err(|error| Error::io(format!("reading {}", self.name), error))?;
            hash.update(&buffer[..size]);
            at += size as u64;
        }
        Ok(hexadecimal(&hash.finalize()))
    }

    /// The number of its row groups.
    pub(super) fn groups(&self) -> usize {
        self.metadata.num_row_groups()
    }

    /// What the footer says of a row group.
    pub(super) fn group_metadata(&self, index: usize) -> &RowGroupMetaData {
        self.metadata.row_group(index)
    }

    /// The place of a column in the file.
    pub(super) fn place(&self, column: Column) -> Option<usize> {
        self.places[column as usize]
    }

    /// A row group, with the places of its pages.
    pub(super) fn group(&self, index: usize) -> Result<Group<'_>, ParquetError> {
        let policies = (PageIndexPolicy::Skip, PageIndexPolicy::Required);
        let with_pages = self.page_indexes(index, policies)?;
        let pages = with_pages.offset_index().and_then(|groups| groups.first()).cloned();
        let pages = pages.ok_or_else(|| ParquetError::General("it has no offset index".to_owned()))?;
        Ok(Group {
            blocks: self.blocks.clone(),
            metadata: self.group_metadata(index),
            pages,
            places: &self.places,
        })
    }

    /// The least and greatest values of the pages of each column of a row group.
    pub(super) fn page_bounds(&self, index: usize) -> Result<Vec<ColumnIndexMetaData>, ParquetError> {
        let policies = (PageIndexPolicy::Optional, PageIndexPolicy::Skip);
        let with_bounds = self.page_indexes(index, policies)?;
        Ok(with_bounds.column_index().and_then(|groups| groups.first()).cloned().unwrap_or_default())
    }

    /// Reads the indexes of one row group only.
    fn page_indexes(
        &self,
        index: usize,
        (columns, offsets): (PageIndexPolicy, PageIndexPolicy),
    ) -> Result<ParquetMetaData, ParquetError> {
        let group =
            ParquetMetaData::new(self.file_metadata.clone(), vec![self.group_metadata(index).clone()]);
        let mut reader = ParquetMetaDataReader::new_with_metadata(group)
            .with_column_index_policy(columns)
            .with_offset_index_policy(offsets);
        reader.read_page_indexes(&*self.blocks)?;
        reader.finish()
    }

    /// An error as one of this file.
    pub(super) fn error(&self, error: ParquetError) -> Error {
        of_file(&self.name, error)
    }
}

fn value_of<T: DeserializeOwned>(metadata: &ParquetMetaData, key: &str) -> Result<T, String> {
    let values = metadata.file_metadata().key_value_metadata();
    let value = values.and_then(|values| values.iter().find(|value| value.key == key));
    let text = value.and_then(|value| value.value.as_deref());
    let text = text.ok_or_else(|| format!("its footer has no {key}"))?;
    serde_json::from_str(text).map_err(|error| format!("{key} of its footer: {error}"))
}
