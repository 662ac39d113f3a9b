//! Segments: Parquet files with the mappings of a span, sorted by public address, port, protocol and begin.
//!
//! A segment is written once and never changed. It has all mappings that were open at some moment of its
//! span: those that are open at its end are carried into the next one. `doc/HISTORY.md` describes the columns.
//!
//! Each byte that a reader uses is verified first. The footer is verified by the name, which has the first
//! digits of its SHA-256. The footer has a CRC32C of each block of what precedes it: the pages and the
//! indexes of the pages. (Parquet's own checksums are optional, and the crate does not write them.)
//!
//! ```text
//! 4  merge                      several segments as one
//! 3  rows, find                 reads the rows in order; answers questions
//! 2  write, open                a file as a whole
//! 1  copy, supply               columns from columns; where the rows of a file come from
//! 1  collect, decode            columns from rows, rows from columns
//! 0  chunk, texts, encode       the pages of a column that is written, of one of texts that is read; encodings
//! 0  sink, blocks               checksums of what is written and read
//! 0  columns, info, name        the columns, what the footer says of the file, names of files
//! ```

mod blocks;
mod chunk;
mod collect;
mod columns;
mod copy;
mod decode;
mod encode;
mod find;
mod info;
mod merge;
mod name;
mod open;
mod rows;
mod sink;
mod supply;
#[cfg(test)]
mod tests;
mod texts;
mod write;

pub(crate) use self::{
    info::Info,
    merge::{Merge, merge_gaps, merge_removals},
    name::{Name, UNFINISHED},
    open::Segment,
    supply::Supplied,
    write::{Kind, Written, write},
};
