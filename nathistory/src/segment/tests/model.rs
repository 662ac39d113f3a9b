//! Random rows, and what the tests share.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use crate::disk::{Directory, Disk};
use crate::error::Error;
use crate::record::{Counters, End, Known, Moment, Record};
use crate::row::Row;
use crate::segment::columns::Layout;
use crate::segment::info::Info;
use crate::segment::name::SEALING;
use crate::segment::open::Segment;
use crate::segment::supply::Supplied;
use crate::segment::write::{Written, write_as};

/// Row groups, pages and blocks so small that few rows fill many.
pub(super) const SMALL: Layout =
    Layout { group_rows: 12, page_rows: 4, block_size: 512, zstd_level: Some(1) };

/// A directory for one test: in memory if the system has such a file system, because each segment is synced.
pub(super) fn directory() -> (tempfile::TempDir, Arc<dyn Disk>) {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let disk = Arc::new(Directory::new(directory.path()).unwrap());
    (directory, disk)
}

/// Writes the rows of these records.
pub(super) fn written(disk: &dyn Disk, seal: u64, records: &[Record], layout: Layout) -> Written {
    let info = Info::new("gateway", seal, 0, 1_000);
    write_as(disk, SEALING, info, &mut Supplied::new(sorted(records).into_iter()), layout).unwrap()
}

/// A segment of the rows of these records.
pub(super) fn segment(disk: &dyn Disk, seal: u64, records: &[Record], layout: Layout) -> Segment {
    Segment::open(disk, &written(disk, seal, records, layout).name).unwrap()
}

/// The rows of these records, in order, each once.
pub(super) fn sorted(records: &[Record]) -> Vec<Row> {
    let mut rows: Vec<Row> = records.iter().copied().flat_map(Row::of).collect();
    rows.sort_by(Row::order);
    rows.dedup_by(|a, b| a.order(b).is_eq());
    rows
}

/// All rows of some.
pub(super) fn all(rows: impl Iterator<Item = Result<Row, Error>>) -> Vec<Row> {
    rows.map(Result::unwrap).collect()
}

/// One of few addresses, so that questions find something.
pub(super) fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        Just("10.0.0.9".parse().unwrap()),
        Just("10.0.0.10".parse().unwrap()),
        Just("203.0.113.5".parse().unwrap()),
        Just("2001:db8::1".parse().unwrap()),
        Just("::ffff:192.0.2.1".parse().unwrap()),
    ]
}

/// One of few ports, or none.
pub(super) fn port() -> impl Strategy<Value = Option<u16>> {
    prop_oneof![Just(None), (1..4u16).prop_map(Some), Just(Some(u16::MAX))]
}

fn end() -> impl Strategy<Value = End> {
    (address(), port()).prop_map(|(ip, port)| End { ip, port })
}

/// A time of a small span, or rarely an extreme one.
pub(super) fn time() -> impl Strategy<Value = i64> {
    prop_oneof![50 => 0..100i64, 1 => Just(i64::MIN), 1 => Just(i64::MAX), 1 => Just(-5)]
}

fn moment() -> impl Strategy<Value = Moment> {
    let known = (0..3usize).prop_map(|known| Known::ALL[known]);
    prop_oneof![
        3 => (time(), known).prop_map(|(at, known)| Moment { at, known, since: None }),
        1 => (time(), time()).prop_map(|(a, b)| Moment::range(a.min(b), a.max(b))),
    ]
}

fn counters() -> impl Strategy<Value = Option<Counters>> {
    let counters = any::<([u64; 2], [u64; 2])>().prop_map(|(packets, bytes)| Counters { packets, bytes });
    proptest::option::weighted(0.3, counters)
}

/// Any record: also those that no kernel makes.
pub(super) fn record() -> impl Strategy<Value = Record> {
    let ends = (end(), end(), end(), end(), 0..6u8);
    let zone = || prop_oneof![3 => Just(0u16), 1 => any::<u16>()];
    let few = (
        prop_oneof![Just(1u8), Just(6), Just(17), Just(47)],
        zone(),
        zone(),
        proptest::option::weighted(0.9, 0..3u32),
    );
    let mark = proptest::option::of(prop_oneof![Just(0), any::<u32>()]);
    let times = (moment(), proptest::option::of(moment()));
    (ends, few, mark, times, counters()).prop_map(|(ends, few, mark, (opened, closed), counters)| {
        let (src, dst, other_src, other_dst, kind) = ends;
        let nat = if kind % 2 == 0 { other_src } else { src };
        let (dst, server) = match kind / 2 {
            0 => (None, None),
            1 => (Some(dst), Some(dst)),
            _ => (Some(dst), Some(other_dst)),
        };
        let (protocol, zone, reply_zone, id) = few;
        Record { protocol, zone, reply_zone, src, dst, nat, server, id, mark, opened, closed, counters }
    })
}
