//! What was written is found.

use std::ops::ControlFlow;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use crate::disk::Disk;
use crate::gap::{Gap, Reason};
use crate::question::Question;
use crate::record::{Counters, End, Moment, Record};
use crate::row::Row;
use crate::segment::name::MERGING;
use crate::segment::open::Segment;
use crate::segment::tests::model::{SMALL, address, all, directory, port, record, segment, sorted, time};
use crate::segment::write::write_as;
use crate::segment::{Info, Kind, Merge, Supplied, merge_gaps, write};

fn question() -> impl Strategy<Value = Question> {
    let ends = (of(address()), of(port()), of(address()), of(port()), of(address()), of(port()));
    (ends, of(prop_oneof![Just(6u8), Just(17)]), of(Just(0u16)), time(), time()).prop_map(
        |(ends, protocol, zone, a, b)| {
            let (nat_ip, nat_port, src_ip, src_port, dst_ip, dst_port) = ends;
            let question = Question::about(a.min(b), a.max(b));
            Question {
                nat_ip,
                nat_port: nat_port.flatten(),
                protocol,
                src_ip,
                src_port: src_port.flatten(),
                dst_ip,
                dst_port: dst_port.flatten(),
                zone,
                ..question
            }
        },
    )
}

fn found(segment: &Segment, question: &Question) -> Vec<Row> {
    let mut rows = Vec::new();
    let flow = segment.find(question, &mut |row| {
        rows.push(row);
        Ok(ControlFlow::Continue(()))
    });
    assert!(flow.unwrap().is_continue());
    rows
}

/// The rows that a scan of the records finds: one of each mapping.
fn scanned(records: &[Record], question: &Question) -> Vec<Row> {
    let mut rows: Vec<Row> = sorted(records)
        .into_iter()
        .filter(|row| question.fits(&row.record))
        .filter(|row| Row::of(row.record).find(|row| question.fits_public(row.public)) == Some(*row))
        .collect();
    rows.sort_by(Row::order);
    rows
}

/// What is open at the end of an input is in the next one, too: some of it has closed there.
fn carried(mut inputs: Vec<Vec<Record>>) -> Vec<Vec<Record>> {
    for next in 1..inputs.len() {
        let open = inputs[next - 1].clone().into_iter().filter(|record| record.closed.is_none());
        inputs[next].extend((0..).zip(open).map(|(number, record)| match number % 2 {
            0 => Record { closed: Some(Moment::event(record.opened.at)), mark: Some(number), ..record },
            _ => record,
        }));
    }
    inputs
}

/// What these segments become together; with a description, without the ids of its own mappings.
fn merged(disk: &dyn Disk, segments: &[Segment], without_ids: Option<&Info>) -> Vec<Row> {
    let mut supply = Merge::new(segments, || Ok(()));
    if let Some(info) = without_ids {
        supply = supply.without_ids(info, None);
    }
    let written = write_as(disk, MERGING, Info::new("gateway", 1_000, 0, 1), &mut supply, SMALL).unwrap();
    let segment = Segment::open(disk, &written.name).unwrap();
    segment.verify().unwrap();
    all(segment.rows())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rows_are_read_as_written(records in vec(record(), 0..100)) {
        let (_directory, disk) = directory();
        let segment = segment(&*disk, 1, &records, SMALL);
        let rows = sorted(&records);
        prop_assert_eq!(all(segment.rows()), rows.clone());
        let open: Vec<Row> = rows.iter().filter(|row| row.record.closed.is_none()).copied().collect();
        prop_assert_eq!(all(segment.open_rows()), open.clone());
        segment.verify().unwrap();
        prop_assert_eq!(segment.info().rows, rows.len() as u64);
        prop_assert_eq!(segment.info().open_rows, open.len() as u64);
    }

    #[test]
    fn a_search_finds_what_a_scan_finds(records in vec(record(), 0..120), questions in vec(question(), 20)) {
        let (_directory, disk) = directory();
        let segment = segment(&*disk, 1, &records, SMALL);
        for question in &questions {
            prop_assert_eq!(found(&segment, question), scanned(&records, question), "{:?}", question);
        }
    }

    #[test]
    fn merged_segments_have_the_last_row_of_each_lifetime(inputs in vec(vec(record(), 0..30), 0..5)) {
        let inputs = carried(inputs);
        let (_directory, disk) = directory();
        let segments: Vec<Segment> = (0..).zip(&inputs).map(|(seal, records)| segment(&*disk, seal, records, SMALL)).collect();
        // A stable sort of the last input first keeps the last row.
        let mut rows: Vec<Row> = inputs.iter().rev().flat_map(|records| sorted(records)).collect();
        rows.sort_by(Row::order);
        rows.dedup_by(|a, b| a.order(b).is_eq());
        prop_assert_eq!(merged(&*disk, &segments, None), rows.clone());
        // All columns are those of a file that is made of the rows themselves.
        let info = || Info::new("gateway", 1_001, 0, 1);
        let copied = write_as(&*disk, MERGING, info(), &mut Merge::new(&segments, || Ok(())), SMALL).unwrap();
        let written = write_as(&*disk, MERGING, info(), &mut Supplied::new(rows.into_iter()), SMALL).unwrap();
        prop_assert_eq!(copied, written);
    }
}

#[test]
fn the_rows_of_many_pages_are_found() {
    let (_directory, disk) = directory();
    let records: Vec<Record> = (0..40_000u32)
        .map(|i| {
            let end = |octet, port| End { ip: [10, 0, 0, octet].into(), port: Some(port) };
            Record {
                protocol: 17,
                zone: 0,
                reply_zone: 0,
                src: end((i % 7) as u8, 1000),
                dst: None,
                nat: end(250 + (i % 5) as u8, (i / 5 % 300) as u16),
                server: None,
                id: Some(i),
                mark: None,
                opened: Moment::event(i.into()),
                closed: (i % 11 != 0).then(|| Moment::event(i64::from(i) + 30)),
                counters: None,
            }
        })
        .collect();
    let info = Info::new("gateway", 3, 0, 50_000);
    let written = write(&*disk, Kind::Day, info, &mut Supplied::new(sorted(&records).into_iter())).unwrap();
    let segment = Segment::open(&*disk, &written.name).unwrap();
    assert_eq!(segment.hash().unwrap(), written.hash);
    assert_eq!(segment.info().nat_ips.as_ref().map(Vec::len), Some(5));
    segment.verify().unwrap();
    for question in [
        Question { nat_ip: Some([10, 0, 0, 252].into()), nat_port: Some(77), ..Question::about(0, 50_000) },
        Question { nat_port: Some(77), ..Question::about(0, 20_000) },
        Question { nat_ip: Some([10, 0, 0, 251].into()), ..Question::about(20_000, 20_000) },
        Question { src_ip: Some([10, 0, 0, 3].into()), ..Question::about(30_000, 30_500) },
    ] {
        assert_eq!(found(&segment, &question), scanned(&records, &question));
    }
    // `on` stops the search.
    let mut count = 0;
    let flow = segment.find(&Question::about(0, 50_000), &mut |_| {
        count += 1;
        Ok(if count == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    assert!(flow.unwrap().is_break());
    assert_eq!(count, 3);
}

/// Places in dictionaries that need one, two and three bytes, and differences of any size.
#[test]
fn values_of_any_size_are_read_as_written() {
    let (_directory, disk) = directory();
    let mut random = 1u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random.rotate_left(29)
    };
    let records: Vec<Record> = (0..70_000)
        .map(|i: u32| {
            let port = |value: u64| Some((value % 40_000) as u16);
            let end = |bits: u32, port| End { ip: bits.to_be_bytes().into(), port };
            let opened = Moment::event(if i % 50 == 0 { next() as i64 } else { next() as i64 >> 40 });
            Record {
                protocol: (next() % 20) as u8,
                zone: (next() % 3) as u16,
                reply_zone: (next() % 1_000) as u16,
                src: end((next() % 300) as u32, port(next())),
                dst: (i % 3 != 0).then(|| end(i, port(next() % 9))),
                nat: end(7, port(next())),
                server: (i % 3 != 0).then(|| end(if i % 4 == 0 { i + 1 } else { i }, port(next() % 9))),
                id: (i % 1_000 < 800).then(|| next() as u32),
                mark: (i % 1_000 < 900).then(|| next() as u32),
                opened,
                closed: (i % 7 != 0).then(|| Moment::range(next() as i64 >> 50, next() as i64 >> 20)),
                counters: (i % 2 == 0)
                    .then(|| Counters { packets: [next() >> 50, next() >> 60], bytes: [next(), 0] }),
            }
        })
        .collect();
    let rows = sorted(&records);
    let written =
        write(&*disk, Kind::Sealed, Info::new("gateway", 1, 0, 1), &mut Supplied::new(rows.iter().copied()))
            .unwrap();
    let segment = Segment::open(&*disk, &written.name).unwrap();
    assert!(rows.len() > 0x1_0000);
    segment.verify().unwrap();
    assert!(all(segment.rows()) == rows);
}

#[test]
fn a_gap_that_ended_replaces_the_one_that_lasted() {
    let gap = |from, to, reason| Gap { from, to, reason, detail: None };
    let gaps = [
        gap(5, None, Reason::EventsLost),
        gap(1, Some(2), Reason::NotRunning),
        gap(5, Some(9), Reason::EventsLost),
        gap(5, None, Reason::NotWritten),
        gap(1, Some(2), Reason::NotRunning),
    ];
    let merged = [gaps[1].clone(), gaps[3].clone(), gaps[2].clone()];
    assert_eq!(merge_gaps(&gaps), merged);
}

#[test]
fn only_what_no_other_segment_has_loses_its_id() {
    let record = |port: u16, id: u32, opened: i64, closed: Option<i64>| {
        let end = |port| End { ip: [192, 0, 2, 1].into(), port: Some(port) };
        Record {
            protocol: 6,
            zone: 0,
            reply_zone: 0,
            src: end(9),
            dst: None,
            nat: end(port),
            server: None,
            id: Some(id),
            mark: None,
            opened: Moment::event(opened),
            closed: closed.map(Moment::event),
            counters: None,
        }
    };
    let first = [
        record(1, 9, 10_000, Some(20_000)),
        // It was open at the begin, or can have been.
        record(2, 2, 4_000, Some(20_000)),
        record(2, 3, 5_900, Some(20_000)),
        // These differ in nothing else.
        record(3, 5, 10_000, Some(10_000)),
        record(4, 8, 10_000, None),
    ];
    let second = [
        record(1, 1, 10_001, Some(20_000)),
        // It is open at the end.
        record(2, 4, 10_000, None),
        record(3, 6, 10_000, Some(10_001)),
        record(3, 7, 10_002, Some(10_003)),
        record(4, 8, 10_000, Some(30_000)),
    ];
    let (_directory, disk) = directory();
    let segments = [segment(&*disk, 1, &first, SMALL), segment(&*disk, 2, &second, SMALL)];
    let ids = |info: &Info| {
        let rows = merged(&*disk, &segments, Some(info));
        rows.iter().map(|row| row.record.id).collect::<Vec<_>>()
    };
    let mut info = Info { begins: Some(5_000), ..Info::new("gateway", 1, 4_000, 30_000) };
    assert_eq!(ids(&info), [None, None, Some(2), Some(3), Some(4), Some(5), Some(6), None, None]);
    // With a clock that was set, it cannot be told what was open at the begin.
    let all = [9, 1, 2, 3, 4, 5, 6, 7, 8].map(Some);
    info.gaps.push(Gap { from: 7_000, to: Some(8_000), reason: Reason::ClockStepped, detail: None });
    assert_eq!(ids(&info), all);
    assert_eq!(ids(&Info::new("gateway", 1, 4_000, 30_000)), all);
}
