//! Files that are not what was written.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use parquet::errors::ParquetError;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::disk::Disk;
use crate::error::Error;
use crate::question::Question;
use crate::record::Record;
use crate::row::Row;
use crate::segment::blocks::external;
use crate::segment::collect::Columns;
use crate::segment::name::MERGING;
use crate::segment::open::Segment;
use crate::segment::sink::hash_of;
use crate::segment::supply::{Added, Supply};
use crate::segment::tests::model::{SMALL, all, directory, record, segment, sorted, written};
use crate::segment::write::footer_length;
use crate::segment::{Info, Kind, Name, Supplied, write};

fn records(count: usize) -> Vec<Record> {
    let mut runner = TestRunner::deterministic();
    let records = proptest::collection::vec(record(), count);
    records.new_tree(&mut runner).unwrap().current()
}

/// What a search for everything finds.
fn found(disk: &dyn Disk, name: &str) -> Result<Vec<Row>, Error> {
    let segment = Segment::open(disk, name)?;
    let mut rows = Vec::new();
    let flow = segment.find(&Question::about(i64::MIN, i64::MAX), &mut |row| {
        rows.push(row);
        Ok(ControlFlow::Continue(()))
    })?;
    assert!(flow.is_continue());
    Ok(rows)
}

fn is_damaged<T>(result: Result<T, Error>, name: &str) -> bool {
    matches!(result, Err(Error::Damaged { file, what }) if file == name && !what.is_empty())
}

#[test]
fn each_changed_byte_is_noticed() {
    let (path, disk) = directory();
    let name = written(&*disk, 1, &records(14), SMALL).name;
    let right = found(&*disk, &name).unwrap();
    let path = path.path().join(&name);
    let bytes = fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(&path, &changed).unwrap();
        match found(&*disk, &name) {
            // A page that is not needed is not read.
            Ok(rows) => assert_eq!(rows, right, "byte {at}"),
            Err(error) => assert!(is_damaged::<()>(Err(error), &name), "byte {at}"),
        }
        let verified = Segment::open(&*disk, &name).and_then(|segment| segment.verify());
        assert!(is_damaged(verified, &name), "byte {at} of {}", bytes.len());
    }
}

#[test]
fn a_file_that_was_cut_is_damaged() {
    let (path, disk) = directory();
    let name = written(&*disk, 1, &records(20), SMALL).name;
    let path = path.path().join(&name);
    let bytes = fs::read(&path).unwrap();
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(is_damaged(Segment::open(&*disk, &name), &name), "{length}");
    }
    // The same footer after fewer bytes.
    fs::write(&path, &bytes[100..]).unwrap();
    assert!(is_damaged(Segment::open(&*disk, &name), &name));
}

#[test]
fn huge_lengths_and_other_files_are_damaged() {
    let (path, disk) = directory();
    let first = written(&*disk, 1, &records(20), SMALL).name;
    let second = written(&*disk, 2, &records(20), SMALL).name;
    let write = |name: &str, bytes: &[u8]| fs::write(path.path().join(name), bytes).unwrap();
    let read = |name: &str| fs::read(Path::new(path.path()).join(name)).unwrap();
    let mut bytes = read(&first);
    let end = bytes.len();
    for length in [u32::MAX, i32::MAX as u32, end as u32, 0] {
        bytes[end - 8..end - 4].copy_from_slice(&length.to_le_bytes());
        write(&first, &bytes);
        assert!(is_damaged(Segment::open(&*disk, &first), &first), "{length}");
    }
    // One segment in the place of another, and text.
    write(&first, &read(&second));
    assert!(is_damaged(Segment::open(&*disk, &first), &first));
    write(&first, b"protocol,src_ip\n6,192.168.7.2\n");
    assert!(is_damaged(Segment::open(&*disk, &first), &first));
    // A name that says something else than the footer.
    let other = second.replace("0000000002-", "0000000001-");
    write(&other, &read(&second));
    assert!(is_damaged(Segment::open(&*disk, &other), &other));
    assert!(is_damaged(Segment::open(&*disk, "other.parquet"), "other.parquet"));
    let missing = second.replace("0000000002-0000000002", "0000000003-0000000003");
    assert!(matches!(Segment::open(&*disk, &missing), Err(Error::Io { .. })));
}

/// Ends with an error instead of with the last row.
struct Torn<S>(S);

impl<S: Supply> Supply for Torn<S> {
    fn add_next(&mut self, columns: &mut Columns) -> Result<Option<Added>, ParquetError> {
        let added = self.0.add_next(columns)?;
        added.map(Some).ok_or_else(|| external(Error::damaged("input", "it is torn")))
    }

    fn end_group(&mut self, columns: &mut Columns) {
        self.0.end_group(columns);
    }
}

#[test]
fn rows_that_fail_or_are_not_in_order_leave_no_file() {
    let (_directory, disk) = directory();
    disk.create(MERGING).unwrap();
    let rows = sorted(&records(20));
    let info = || Info::new("gateway", 1, 0, 1);
    let reversed = write(&*disk, Kind::Day, info(), &mut Supplied::new(rows.iter().rev().copied()));
    assert!(matches!(reversed, Err(Error::Io { .. })), "{reversed:?}");
    let failed = write(&*disk, Kind::Day, info(), &mut Torn(Supplied::new(rows.iter().copied())));
    assert!(is_damaged(failed, "input"));
    assert_eq!(disk.list().unwrap(), []);
    // After a crash, the temporary file is replaced.
    disk.create(MERGING).unwrap();
    let written = write(&*disk, Kind::Day, info(), &mut Supplied::new(rows.iter().copied())).unwrap();
    assert_eq!(disk.list().unwrap(), [(written.name.clone(), written.bytes)]);
    let segment = Segment::open(&*disk, &written.name).unwrap();
    assert_eq!(all(segment.rows()), rows);
}

#[test]
fn a_segment_without_rows_is_one() {
    let (_directory, disk) = directory();
    let segment = segment(&*disk, 1, &[], SMALL);
    segment.verify().unwrap();
    assert_eq!(all(segment.rows()), []);
    assert_eq!(segment.info().nat_ips, Some(Vec::new()));
}

/// Changes a byte of the pages or their indexes, and all checks, as somebody could on purpose.
fn forged(bytes: &[u8], at: usize, mask: u8) -> (Vec<u8>, String) {
    let mut bytes = bytes.to_vec();
    let footer = bytes.len() - footer_length(&bytes).unwrap();
    bytes[at % footer] ^= mask;
    let checks: String = bytes[..footer]
        .chunks(SMALL.block_size)
        .map(|block| format!("{:08x}", crc32c::crc32c(block)))
        .collect();
    let begin = bytes.windows(8).rposition(|text| text == b"\"crc32c\"").unwrap() + 10;
    bytes[begin..begin + checks.len()].copy_from_slice(checks.as_bytes());
    let check = hash_of(&bytes[footer..])[..16].to_owned();
    (bytes, check)
}

#[test]
fn pages_that_are_forged_do_not_panic() {
    let (path, disk) = directory();
    let name = written(&*disk, 1, &records(30), SMALL).name;
    let bytes = fs::read(path.path().join(&name)).unwrap();
    let parsed = Name::parse(&name).unwrap();
    // Some of the bytes: a panic that is caught takes long.
    for at in (0..bytes.len()).step_by(17) {
        let (forged, check) = forged(&bytes, at, 1 << (at % 8));
        let name = Name { check, ..parsed.clone() }.text();
        fs::write(path.path().join(&name), forged).unwrap();
        // What was changed can still be a segment.
        let _ = found(&*disk, &name);
        let _ = Segment::open(&*disk, &name).and_then(|segment| segment.verify());
        fs::remove_file(path.path().join(&name)).unwrap();
    }
}
