//! A process that appends is killed at random moments, on real files.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use nathistory::disk::{Directory, Disk};
use nathistory::{End, Entry, Moment, Options, Reader, Record, check, open};
use proptest::test_runner::{RngAlgorithm, TestRng};
use rand::Rng;

use crate::{START, all, is_long};

const DIRECTORY: &str = "NATHISTORY_KILLED_DIRECTORY";
/// A mapping closes when so many others have opened after it.
pub const LIFE: u32 = 50;

pub fn record(number: u32) -> Record {
    let end = |ip: [u8; 4], port: u32| End { ip: ip.into(), port: Some((port % 60_000) as u16) };
    Record {
        protocol: 17,
        zone: 0,
        reply_zone: 0,
        src: end([192, 168, 7, 2], number),
        dst: Some(end([198, 51, 100, 1], 53)),
        nat: end([203, 0, 113, 9], number),
        server: Some(end([198, 51, 100, 1], 53)),
        id: Some(number),
        mark: None,
        opened: Moment::event(at(number)),
        closed: None,
        counters: None,
    }
}

pub fn at(number: u32) -> i64 {
    START + i64::from(number) * 20
}

/// The number of the last mapping. All before it are there, and those that are old enough are closed.
pub fn verified(records: &[Record]) -> u32 {
    let last = u32::try_from(records.len()).unwrap();
    for (number, found) in (1..).zip(records) {
        let closed = (number + LIFE <= last).then(|| Moment::event(at(number + LIFE)));
        // The end of the one that is due can be in a batch of its own.
        let can_be_open = number + LIFE == last;
        let expected = Record { closed, ..record(number) };
        assert!(*found == expected || (can_be_open && *found == record(number)), "{found:?} {last}");
    }
    last
}

/// Appends until it is killed.
#[test]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let disk = Arc::new(Directory::new(directory).unwrap());
    let options = Options { gateway: "gateway".into(), seal_records: 400, ..Options::default() };
    // The process before it may be ending still.
    let mut store = loop {
        match open(Arc::clone(&disk) as Arc<dyn Disk>, options.clone(), START) {
            Ok(store) => break store,
            Err(nathistory::Error::InUse { .. }) => thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    };
    let mut number = verified(&all(&store.reader));
    let mut keeper = store.keeper;
    let (wake, woken) = std::sync::mpsc::channel::<i64>();
    thread::spawn(move || {
        for now in woken {
            while keeper.run_due(now).unwrap() {}
        }
    });
    loop {
        number += 1;
        let mut entries = Vec::new();
        if let Some(old) = number.checked_sub(LIFE).filter(|old| *old > 0) {
            entries.push(Entry::Closed(Record { closed: Some(Moment::event(at(number))), ..record(old) }));
        }
        entries.insert(0, Entry::Opened(record(number)));
        store.writer.append(&entries, at(number)).unwrap();
        if number % 7 == 0 {
            store.writer.sync().unwrap();
            println!("synced {number}");
        }
        if store.writer.is_seal_due(at(number)) {
            store.writer.rotate(at(number)).unwrap();
            wake.send(at(number)).unwrap();
        }
    }
}

#[test]
fn nothing_is_lost_when_the_process_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    println!("seed {seed}");
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let disk: Arc<dyn Disk> = Arc::new(Directory::new(directory.path()).unwrap());
    let mut reached = 0;
    let kills = if is_long() { 200 } else { 10 };
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["killed::child", "--exact", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (started, is_started) = std::sync::mpsc::channel();
        let reading = thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            let synced = lines.filter_map(|line| line.rsplit_once("synced ")?.1.parse::<u32>().ok());
            synced.inspect(|_| _ = started.send(())).last()
        });
        // One in four is killed while it starts.
        if rng.random_range(0..4) > 0 {
            is_started.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        thread::sleep(Duration::from_millis(rng.random_range(1..100)));
        child.kill().unwrap();
        child.wait().unwrap();
        let synced = reading.join().unwrap().unwrap_or(reached);
        if disk.list().unwrap().iter().all(|(name, _)| name != "FORMAT") {
            continue;
        }
        let last = verified(&all(&Reader::of_files(Arc::clone(&disk)).unwrap()));
        assert!(last >= synced && last >= reached, "kill {kill}: {last}, synced {synced}, before {reached}");
        reached = last;
    }
    println!("{reached} mappings");
    assert!(reached > 3 * kills, "{reached}");
    assert_eq!(check(&disk).unwrap().problems, []);
}
