//! Writes a year as a gateway does: entries in the order of their times, appended five times a second and synced once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use nathistory::disk::{Directory, Disk};
use nathistory::{Entry, Millis, Options, Record, Store, open};
use parquet::file::reader::{FileReader, SerializedFileReader};
use rustix::time::{ClockId, clock_gettime};

use crate::{DAY, MIDNIGHT, days, most_memory, records};

/// How often entries are appended, and how often they are synced.
const APPEND: Millis = 200;
const SYNC: Millis = 1_000;

/// Seconds of processor time of this thread.
pub fn processor() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The processor time of each part, in seconds.
#[derive(Default)]
struct Spent {
    append: f64,
    sync: f64,
    freeze: f64,
    keep: f64,
}

struct Year {
    store: Store,
    spent: Spent,
    /// Mappings that are open, in the order of their ends; the number tells those with the same end apart.
    open: BinaryHeap<Reverse<(Millis, u64)>>,
    records: std::collections::HashMap<u64, Record>,
    next: u64,
    entries: Vec<Entry>,
    appended_at: Millis,
    synced_at: Millis,
    /// Whether this is the day that is measured.
    is_measured: bool,
    /// The number of its records.
    measured: u64,
}

fn timed<T>(spent: &mut f64, run: impl FnOnce() -> T) -> T {
    let begin = processor();
    let result = run();
    *spent += processor() - begin;
    result
}

/// Writes all days.
pub fn year(directory: &Path) {
    let disk: Arc<dyn Disk> = Arc::new(Directory::new(directory).unwrap());
    let begin = MIDNIGHT - days() * DAY;
    let options = Options { gateway: "gateway".into(), ..Options::default() };
    let mut year = Year {
        store: open(disk, options, begin).unwrap(),
        spent: Spent::default(),
        open: BinaryHeap::new(),
        records: std::collections::HashMap::new(),
        next: 0,
        entries: Vec::new(),
        appended_at: begin,
        synced_at: begin,
        is_measured: false,
        measured: 0,
    };
    for day in -days()..=days() {
        if day == 0 {
            year.spent = Spent::default();
        }
        year.is_measured = day == 0;
        let before = year.next;
        for record in records(day) {
            year.add(record);
        }
        year.pass_until(MIDNIGHT + (day + 1) * DAY);
        if day == 0 {
            year.measured = year.next - before;
        }
        if day == 1 {
            // The day before is merged.
            year.report();
        }
    }
    println!("the writer: {}", most_memory());
    drop(year);
    sizes(directory);
}

impl Year {
    fn add(&mut self, record: Record) {
        self.pass_until(record.opened.at);
        let opened = Record { closed: None, ..record };
        self.entries.push(Entry::Opened(opened));
        if let Some(closed) = record.closed {
            self.open.push(Reverse((closed.at, self.next)));
            self.records.insert(self.next, record);
        }
        self.next += 1;
    }

    /// Lets the time pass: mappings end, and what came is appended.
    fn pass_until(&mut self, until: Millis) {
        while let Some(Reverse((at, number))) =
            self.open.peek().copied().filter(|Reverse((at, _))| *at <= until)
        {
            self.open.pop();
            self.append_until(at);
            self.entries.extend(self.records.remove(&number).map(Entry::Closed));
        }
        self.append_until(until);
    }

    fn append_until(&mut self, now: Millis) {
        if now - self.appended_at < APPEND {
            return;
        }
        self.appended_at = now;
        let Store { writer, keeper, .. } = &mut self.store;
        if self.entries.is_empty() {
            self.entries.push(Entry::Alive { at: now });
        }
        timed(&mut self.spent.append, || writer.append(&self.entries, now)).unwrap();
        self.entries.clear();
        if self.is_measured && now - self.synced_at >= SYNC {
            self.synced_at = now;
            timed(&mut self.spent.sync, || writer.sync()).unwrap();
        }
        if writer.is_seal_due(now) {
            timed(&mut self.spent.freeze, || writer.rotate(now)).unwrap();
            timed(&mut self.spent.keep, || while keeper.run_due(now).unwrap() {});
        }
    }

    fn report(&self) {
        let records = self.measured;
        let each = |seconds: f64| seconds * 1e6 / records as f64;
        let Spent { append, sync, freeze, keep } = self.spent;
        println!(
            "{records} records, µs of the processor for each: append {:.2}, sync {:.2}, freeze {:.2}, seal and merge \
             {:.2}; together {:.2}",
            each(append),
            each(sync),
            each(freeze),
            each(keep),
            each(append + sync + freeze + keep)
        );
    }
}

/// Prints what the largest segment has.
fn sizes(directory: &Path) {
    let files = || fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let segments = || files().filter(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    let bytes = |path: &std::path::PathBuf| path.metadata().unwrap().len();
    println!("{} segments, {} other files", segments().count(), files().count() - segments().count());
    let largest = segments().max_by_key(bytes).unwrap();
    let reader = SerializedFileReader::new(fs::File::open(&largest).unwrap()).unwrap();
    let metadata = reader.metadata();
    let rows = metadata.file_metadata().num_rows() as f64;
    println!("bytes for a record of {rows} in {}: {:.2}", largest.display(), bytes(&largest) as f64 / rows);
    for place in 0..metadata.row_group(0).num_columns() {
        let chunks = || metadata.row_groups().iter().map(|group| group.column(place));
        let bytes: i64 = chunks().map(|chunk| chunk.compressed_size()).sum();
        let name = metadata.row_group(0).column(place).column_path().string();
        println!("{name:>20} {:.3}", bytes as f64 / rows);
    }
}
