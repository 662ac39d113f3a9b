//! What a year of history costs, of which one day has nearly all records: its size, the processor time for a record, and
//! questions about it. `ROWS=100000000 cargo bench -p nathistory --bench year`.
//!
//! ```text
//! ROWS=20000000     the records of that day
//! DAYS=1            the days before it, and after it; usually 182
//! HOURS=2           only the first hours of each day
//! DESTINATIONS=0    without destinations
//! KEEP=DIR          the history stays there, and is only searched the next time
//! ```
//!
//! `trace` has the records, `counted` the disk that counts the files that are opened.

#![allow(missing_docs, reason = "a program")]
#![allow(unreachable_pub, reason = "in a program, pub is for its other modules")]

mod counted;
mod trace;
mod write;

use std::collections::HashMap;
use std::env;
use std::fs;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use counted::Counted;
use nathistory::disk::Disk;
use nathistory::{Millis, Question, Reader, Record};
use trace::{Network, Trace};

const HOUR: Millis = 3_600_000;
const DAY: Millis = 24 * HOUR;
/// The begin of the day with nearly all records.
const MIDNIGHT: Millis = 1_795_737_600_000;
/// The records of each of the other days.
const FEW: u64 = 2_000;

fn variable(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// The days before that one, and as many after it.
fn days() -> i64 {
    variable("DAYS", 182) as i64
}

/// The records of one day, in the order in which they open.
fn records(day: i64) -> impl Iterator<Item = Record> {
    let network = Network {
        hosts: 3_000,
        public_addresses: 4,
        random_ports: variable("RANDOM", 0) == 1,
        destinations: variable("DESTINATIONS", 1) == 1,
    };
    let count = if day == 0 { variable("ROWS", 3_000_000) } else { FEW };
    let from = MIDNIGHT + day * DAY;
    let until = from + variable("HOURS", 24) as Millis * HOUR;
    Trace::new(network, count, from, from + DAY).take_while(move |record| record.opened.at < until)
}

fn main() {
    if let Some(directory) = env::var_os("ASK") {
        ask(Path::new(&directory));
        return;
    }
    let temporary = tempfile::tempdir_in(".").unwrap();
    let kept = env::var_os("KEEP").map(std::path::PathBuf::from);
    let directory = kept.unwrap_or_else(|| temporary.path().join("history"));
    if !directory.exists() {
        write::year(&directory);
    }
    // In a process of its own, which has little memory yet.
    let asked = Command::new(env::current_exe().unwrap()).env("ASK", &directory).status().unwrap();
    assert!(asked.success());
}

/// The most memory that this process has used.
fn most_memory() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default().replace('\t', " ")
}

fn drop_caches() {
    rustix::fs::sync();
    if fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
        println!("the page cache cannot be dropped: nothing is cold");
    }
}

fn find(reader: &Reader, question: &Question) -> Vec<Record> {
    let mut found = Vec::new();
    let completeness = reader.find(question, &mut |record| {
        found.push(record);
        ControlFlow::Continue(())
    });
    assert_eq!(completeness.unwrap().gaps, []);
    found
}

fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

/// The least, the median and the greatest.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    format!("{:.2} ({:.2} to {:.2})", values[values.len() / 2], values[0], values[values.len() - 1])
}

fn ask(directory: &Path) {
    let disk = Counted::new(directory);
    let shared: Arc<dyn Disk> = disk.clone();
    let sample: Vec<Record> = records(0).take(2_000_000).step_by(100_000).collect();
    println!("before: {}", most_memory());
    let (mut cold, mut warm, mut files) = (Vec::new(), Vec::new(), 0);
    for record in &sample {
        // Nothing is known of the files but their names, as after a start of the daemon.
        let reader = Reader::of_files(Arc::clone(&shared)).unwrap();
        let at = record.opened.at + 1;
        let question = Question {
            nat_ip: Some(record.nat.ip),
            nat_port: record.nat.port,
            ..Question::about(at - 1_000, at + 1_000)
        };
        for (times, is_cold) in [(&mut cold, true), (&mut warm, false)] {
            if is_cold {
                drop_caches();
            }
            disk.take_opened();
            let begin = Instant::now();
            let found = find(&reader, &question);
            times.push(milliseconds(begin));
            files = files.max(disk.take_opened());
            let is_it = |other: &&Record| (other.src, other.opened) == (record.src, record.opened);
            assert_eq!(found.iter().filter(is_it).count(), 1);
        }
    }
    println!("a moment, nothing in memory: {} ms, at most {files} files opened", spread(cold));
    println!("the same again: {} ms", spread(warm));
    println!("after: {}", most_memory());
    let reader = Reader::of_files(shared).unwrap();
    for (which, host) in hosts() {
        let question = Question { src_ip: Some(host), ..Question::about(MIDNIGHT, MIDNIGHT + DAY) };
        drop_caches();
        let (begin, busy, read) = (Instant::now(), write::processor(), bytes_read());
        let found = find(&reader, &question).len();
        println!(
            "a day of {which}, nothing in memory: {:.2} s, {:.2} s of the processor, {:.0} MB read, {found} found",
            begin.elapsed().as_secs_f64(),
            write::processor() - busy,
            (bytes_read() - read) / 1e6
        );
    }
    println!("after: {}", most_memory());
}

/// Hosts with few, usual and many records.
fn hosts() -> [(&'static str, IpAddr); 3] {
    let mut counts: HashMap<IpAddr, u32> = HashMap::new();
    for record in records(0).take(500_000) {
        *counts.entry(record.src.ip).or_default() += 1;
    }
    let mut hosts: Vec<(u32, IpAddr)> = counts.into_iter().map(|(host, count)| (count, host)).collect();
    hosts.sort_unstable();
    let at = |place: usize| hosts[place].1;
    [
        ("a quiet host", at(0)),
        ("a usual host", at(hosts.len() / 2)),
        ("the busiest host", at(hosts.len() - 1)),
    ]
}

/// The bytes that this process made the disk read.
fn bytes_read() -> f64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or_default()
}
