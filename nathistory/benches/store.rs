//! What the history costs: `cargo bench -p nathistory --bench store`.

#![allow(missing_docs, reason = "a program")]

use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use nathistory::disk::{Directory, Disk};
use nathistory::{End, Entry, Millis, Moment, Options, Question, Reader, Record, Store, open};

const START: Millis = 1_795_777_200_000;
const OPEN: u32 = 1_000_000;
const CROWD: u32 = 60_000;
const FLOWS: u32 = 2_000_000;
const BATCH: u32 = 500;
const QUESTIONS: u32 = 100_000;

fn record(number: u32, at: Millis) -> Record {
    let spread = number.wrapping_mul(2_654_435_761);
    let outside = End { ip: [198, 51, (spread >> 8) as u8, spread as u8].into(), port: Some(443) };
    Record {
        protocol: if spread & 1 == 0 { 6 } else { 17 },
        zone: 0,
        reply_zone: 0,
        src: End { ip: [10, 0, (number >> 8) as u8, number as u8].into(), port: Some(spread as u16) },
        dst: Some(outside),
        nat: End { ip: [203, 0, 113, (number >> 16) as u8].into(), port: Some(number as u16) },
        server: Some(outside),
        id: Some(spread),
        mark: None,
        opened: Moment::event(at),
        closed: None,
        counters: None,
    }
}

/// Seconds of processor time of this process.
fn processor() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Bytes of memory of this process.
fn memory() -> f64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}

fn ask(reader: &Reader, end: End, protocol: Option<u8>, at: Millis) -> usize {
    let question = Question { nat_ip: Some(end.ip), nat_port: end.port, protocol, ..Question::about(at, at) };
    let mut count = 0;
    reader
        .find(&question, &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    count
}

fn seconds(what: &str, run: impl FnOnce()) {
    let before = Instant::now();
    run();
    println!("{what}: {:.3} s", before.elapsed().as_secs_f64());
}

fn open_store(disk: &Arc<dyn Disk>) -> Store {
    open(Arc::clone(disk), Options { gateway: "gateway".into(), ..Options::default() }, START).unwrap()
}

fn records_are_written(disk: &Arc<dyn Disk>) {
    let Store { mut writer, mut keeper, reader, .. } = open_store(disk);
    let (mut appending, mut rotating, mut keeping) = (0.0, 0.0, 0.0);
    let mut longest: f64 = 0.0;
    for first in (0..FLOWS).step_by(BATCH as usize) {
        // 50,000 flows a second.
        let now = START + Millis::from(first / 50);
        let mut entries = Vec::new();
        for number in first..first + BATCH {
            entries.push(Entry::Opened(record(number, now)));
            if let Some(old) = number.checked_sub(100_000) {
                let opened = START + Millis::from(old / BATCH * BATCH / 50);
                entries
                    .push(Entry::Closed(Record { closed: Some(Moment::event(now)), ..record(old, opened) }));
            }
        }
        let (before, begun) = (processor(), Instant::now());
        writer.append(&entries, now).unwrap();
        if first % 50_000 == 0 {
            writer.sync().unwrap();
        }
        longest = longest.max(begun.elapsed().as_secs_f64());
        appending += processor() - before;
        if writer.is_seal_due(now) {
            let before = processor();
            writer.rotate(now).unwrap();
            rotating += processor() - before;
            let before = processor();
            while keeper.run_due(now).unwrap() {}
            keeping += processor() - before;
        }
    }
    let before = processor();
    let mut now = START + Millis::from(FLOWS / 50);
    for _ in 0..2 {
        writer.rotate(now).unwrap();
        now += 86_400_000;
    }
    while keeper.run_due(now).unwrap() {}
    let merging = processor() - before;
    let each = |seconds: f64| seconds * 1e6 / f64::from(FLOWS);
    println!(
        "a record (opened and closed), µs of processor: {:.3} append and sync, {:.3} freeze, {:.3} seal and merge, \
         {:.3} last seals and merges",
        each(appending),
        each(rotating),
        each(keeping),
        each(merging),
    );
    println!("longest append and sync: {:.1} ms", longest * 1e3);
    let figures = reader.figures();
    println!("bytes a record: {:.2} ({figures:?})", figures.segment_bytes as f64 / f64::from(FLOWS));
}

fn a_million_are_open(disk: &Arc<dyn Disk>) {
    let before = memory();
    let Store { mut writer, mut keeper, reader, .. } = open_store(disk);
    seconds("opening a million", || {
        for first in (0..OPEN).step_by(BATCH as usize) {
            let entries: Vec<Entry> =
                (first..first + BATCH).map(|number| Entry::Opened(record(number, START))).collect();
            writer.append(&entries, START).unwrap();
        }
    });
    println!("memory of an open mapping: {:.0} bytes", (memory() - before) / f64::from(OPEN));
    let begun = Instant::now();
    for question in 0..QUESTIONS {
        let number = question * 7 % OPEN;
        assert_eq!(ask(&reader, record(number, START).nat, None, START), 1);
    }
    println!("a question about an end: {:.2} µs", begun.elapsed().as_secs_f64() * 1e6 / f64::from(QUESTIONS));
    let crowded = End { ip: [203, 0, 113, 255].into(), port: Some(53) };
    seconds("opening 60,000 with the same end", || {
        for number in 0..CROWD {
            let record = Record { nat: crowded, ..record(number, START) };
            writer.append(&[Entry::Opened(record)], START).unwrap();
        }
    });
    seconds("a question about all of them", || {
        assert_eq!(ask(&reader, crowded, None, START), CROWD as usize)
    });
    seconds("a question about all mappings of a host", || {
        let src = record(5, START).src;
        let question = Question { src_ip: Some(src.ip), ..Question::about(START, START) };
        reader.find(&question, &mut |_| ControlFlow::Continue(())).unwrap();
    });
    seconds("closing them", || {
        for number in 0..CROWD {
            let record =
                Record { nat: crowded, closed: Some(Moment::event(START + 1)), ..record(number, START) };
            writer.append(&[Entry::Closed(record)], START + 1).unwrap();
        }
    });
    seconds("freezing a million", || writer.rotate(START + 2).unwrap());
    seconds("a segment of a million", || while keeper.run_due(START + 2).unwrap() {});
    drop((writer, keeper));
    seconds("starting with a million", || drop(open_store(disk)));
}

fn main() {
    let directory = tempfile::tempdir_in(".").unwrap();
    let disk: Arc<dyn Disk> = Arc::new(Directory::new(directory.path().join("open")).unwrap());
    a_million_are_open(&disk);
    let disk: Arc<dyn Disk> = Arc::new(Directory::new(directory.path().join("records")).unwrap());
    records_are_written(&disk);
}
