//! How large segments are, and how long it takes to write, merge and search them. These tests are ignored, because
//! they take minutes and print figures:
//! `ROWS=5000000 cargo test --release -p nathistory measure -- --ignored --nocapture`.

use std::env;
use std::fs;
use std::ops::ControlFlow;
use std::time::Instant;

use crate::disk::Disk;
use crate::question::Question;
use crate::row::Row;
use crate::segment::columns::Layout;
use crate::segment::open::Segment;
use crate::segment::tests::model::directory;
use crate::segment::tests::trace::{Network, Trace};
use crate::segment::write::write_as;
use crate::segment::{Info, merge};
use crate::time::{DAY, HOUR, Millis};

const MIDNIGHT: Millis = 1_795_737_600_000;
const SEALS: i64 = 6;

/// The processor time of this thread in nanoseconds.
fn processor_time() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
}

/// The most memory that the process used, in KiB, since it was reset.
fn peak_memory() -> String {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    text.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default().to_owned()
}

fn variable(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn layout() -> Layout {
    let usual = Layout::default();
    Layout {
        group_rows: variable("GROUP", usual.group_rows as u64) as usize,
        page_rows: variable("PAGE", usual.page_rows as u64) as usize,
        zstd_level: variable("LEVEL", usual.zstd_level as u64) as i32,
        ..usual
    }
}

fn network() -> Network {
    Network {
        hosts: 3_000,
        public_addresses: variable("ADDRESSES", 4) as u8,
        random_ports: variable("RANDOM", 0) == 1,
        destinations: variable("DESTINATIONS", 1) == 1,
    }
}

fn print_columns(segment: &Segment) {
    let rows = segment.info().rows as f64;
    for place in 0..segment.group_metadata(0).num_columns() {
        let chunk = |group| segment.group_metadata(group).column(place);
        let bytes: i64 = (0..segment.groups()).map(|group| chunk(group).compressed_size()).sum();
        let name = chunk(0).column_path().string();
        println!("{name:>20} {:.3} {:?}", bytes as f64 / rows, chunk(0).encodings().collect::<Vec<_>>());
    }
    println!("{:>20} {:.3} of {} rows", "file", segment.bytes() as f64 / rows, segment.info().rows);
}

/// Writes seals, merges them into hours, and these into a day.
#[test]
#[ignore = "prints figures"]
fn measure_a_day_of_seals() {
    let (_directory, disk) = directory();
    let count = variable("ROWS", 3_000_000);
    let mut trace = Trace::new(network(), count, MIDNIGHT, MIDNIGHT + DAY).peekable();
    let (mut sealing, mut merging, mut merging_hours) = (0, 0, 0);
    let mut hours = Vec::new();
    for hour in 0..24 {
        let mut seals = Vec::new();
        for seal in 0..SEALS {
            let until = MIDNIGHT + hour * HOUR + (seal + 1) * HOUR / SEALS;
            let mut rows = Vec::new();
            while let Some(record) = trace.next_if(|record| record.opened.at < until) {
                rows.extend(Row::of(record));
            }
            let begin = processor_time();
            rows.sort_unstable_by(Row::order);
            let info = Info::new("gateway", (hour * SEALS + seal) as u64, until - HOUR / SEALS, until);
            let written = write_as(&*disk, info, &mut rows.into_iter().map(Ok), layout()).unwrap();
            sealing += processor_time() - begin;
            seals.push(written.name);
        }
        let begin = processor_time();
        hours.push(merged(&*disk, &seals));
        merging += processor_time() - begin;
    }
    let begin = processor_time();
    let day = merged(&*disk, &hours);
    merging_hours += processor_time() - begin;
    let segment = Segment::open(&*disk, &day).unwrap();
    print_columns(&segment);
    let each = |time: u64| time as f64 / segment.info().rows as f64;
    println!(
        "ns per row: seal {:.0}, hour {:.0}, day {:.0}",
        each(sealing),
        each(merging),
        each(merging_hours)
    );
    println!("{}", peak_memory());
}

fn merged(disk: &dyn Disk, names: &[String]) -> String {
    let segments: Vec<Segment> = names.iter().map(|name| Segment::open(disk, name).unwrap()).collect();
    let (first, last) = (segments[0].info(), segments[segments.len() - 1].info());
    let info = Info { last: last.last, to: last.to, ..first.clone() };
    write_as(disk, info, &mut merge(&segments), layout()).unwrap().name
}

/// Writes a day of hours, and searches it. With `KEEP`, the day stays in that directory, and is searched again
/// by the next call.
#[test]
#[ignore = "prints figures"]
fn measure_searches() {
    let (temporary, mut disk) = directory();
    if let Ok(keep) = env::var("KEEP") {
        disk = std::sync::Arc::new(crate::disk::Directory::new(keep).unwrap());
    }
    let existing = disk.list().unwrap().into_iter().max_by_key(|file| file.1);
    let day = existing.map_or_else(|| day(&*disk), |file| file.0);
    println!("{:?}", temporary.path());
    let segment = Segment::open(&*disk, &day).unwrap();
    print_columns(&segment);
    drop(segment);
    let mut trace = Trace::new(network(), variable("ROWS", 3_000_000) / 24, MIDNIGHT, MIDNIGHT + HOUR);
    let records: Vec<_> = trace.by_ref().take(20_000).step_by(1_000).collect();
    let _ = fs::write("/proc/self/clear_refs", "5");
    println!("before: {}", peak_memory());
    for record in &records {
        let at = record.opened.at + 1;
        let question =
            Question { nat_ip: Some(record.nat.ip), nat_port: record.nat.port, ..Question::about(at, at) };
        if variable("COLD", 0) == 1 {
            let _ = fs::write("/proc/sys/vm/drop_caches", "3");
        }
        let begin = Instant::now();
        let segment = Segment::open(&*disk, &day).unwrap();
        let opened = begin.elapsed();
        let search = || {
            let begin = Instant::now();
            let mut found = 0;
            let mut hosts = Vec::new();
            let flow = segment.find(&question, &mut |row| {
                found += 1;
                hosts.push(row.record);
                Ok(ControlFlow::Continue(()))
            });
            assert!(flow.unwrap().is_continue() && hosts.contains(record));
            (begin.elapsed(), found)
        };
        let (first, found) = search();
        let (second, _) = search();
        println!("open {opened:?}, first {first:?}, again {second:?}, {found} found");
    }
    println!("after: {}", peak_memory());
    let segment = Segment::open(&*disk, &day).unwrap();
    let question =
        Question { src_ip: Some(records[3].src.ip), ..Question::about(MIDNIGHT + HOUR, MIDNIGHT + 2 * HOUR) };
    let begin = (Instant::now(), processor_time());
    let mut found = 0;
    let flow = segment.find(&question, &mut |_| {
        found += 1;
        Ok(ControlFlow::Continue(()))
    });
    assert!(flow.unwrap().is_continue());
    let (elapsed, time) = (begin.0.elapsed(), processor_time() - begin.1);
    println!("an hour of a host: {elapsed:?}, {} ms of the processor, {found} found", time / 1_000_000);
    println!("after: {}", peak_memory());
}

/// A day that is merged from hours.
fn day(disk: &dyn Disk) -> String {
    let count = variable("ROWS", 3_000_000);
    let hour = |hour: i64| {
        let (from, until) = (MIDNIGHT + hour * HOUR, MIDNIGHT + (hour + 1) * HOUR);
        let mut rows: Vec<Row> = Trace::new(network(), count / 24, from, until).flat_map(Row::of).collect();
        rows.sort_unstable_by(Row::order);
        let info = Info::new("gateway", hour as u64, from, until);
        write_as(disk, info, &mut rows.into_iter().map(Ok), layout()).unwrap().name
    };
    let hours: Vec<String> = (0..24).map(hour).collect();
    let day = merged(disk, &hours);
    for name in &hours {
        disk.remove(name).unwrap();
    }
    day
}
