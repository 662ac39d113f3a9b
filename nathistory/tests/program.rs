//! The program `nathistory`, on a history that is written here.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use nathistory::disk::Directory;
use nathistory::{End, Entry, Gap, Millis, Moment, Options, Reason, Record};
use tempfile::TempDir;

/// 2026-11-21T09:12:30Z.
const BEGIN: Millis = 1_795_252_350_000;

fn second(number: Millis) -> Millis {
    BEGIN + number * 1000
}

fn end(ip: &str, port: u16) -> End {
    End { ip: ip.parse().unwrap(), port: Some(port) }
}

/// A connection of a host from 203.0.113.5:40001.
fn record(host: &str, opened: Millis) -> Record {
    let server = Some(end("198.51.100.1", 443));
    Record {
        protocol: 6,
        zone: 0,
        reply_zone: 0,
        src: end(host, 50_000),
        dst: server,
        nat: end("203.0.113.5", 40_001),
        server,
        id: Some(7),
        mark: None,
        opened: Moment::event(second(opened)),
        closed: None,
        counters: None,
    }
}

/// Two hosts have the same public end, one from second 10 to 70, the other one from 80 on. From second 200 to
/// 260 nothing is known, and the second host's connection ended at that time.
fn write(path: &Path) {
    let disk = Arc::new(Directory::new(path).unwrap());
    let options = Options { gateway: "gw1".to_owned(), ..Options::default() };
    let mut store = nathistory::open(disk, options, BEGIN).unwrap();
    let writer = &mut store.writer;
    let first = record("192.168.7.2", 10);
    let lost = Gap {
        from: second(200),
        to: Some(second(260)),
        reason: Reason::EventsLost,
        detail: Some("812 events".to_owned()),
    };
    let compared = vec![
        Entry::Gap(lost),
        Entry::Reconcile { since: second(200) },
        Entry::Reconciled { at: second(260) },
    ];
    let closed = Record { closed: Some(Moment::kernel(second(70))), ..first };
    for (now, entries) in [
        (10, vec![Entry::Opened(first)]),
        (70, vec![Entry::Closed(closed)]),
        (80, vec![Entry::Opened(record("192.168.7.3", 80))]),
        (260, compared),
        (600, vec![Entry::Alive { at: second(600) }]),
    ] {
        writer.append(&entries, second(now)).unwrap();
        if now == 70 {
            writer.sync().unwrap();
            writer.rotate(second(71)).unwrap();
            while store.keeper.run_due(second(71)).unwrap() {}
        }
    }
    writer.sync().unwrap();
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_nathistory"))
        .args(arguments)
        .env("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        .output()
        .expect("the program can be started");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it is text");
    (output.status.code().expect("no signal ends it"), text(&output.stdout), text(&output.stderr))
}

struct History(TempDir);

impl History {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        write(directory.path());
        Self(directory)
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

#[test]
fn who_names_the_host_and_what_is_not_known() {
    let history = History::new();
    let who =
        |end: &str, at: &str, skew: &str| run(&["who", history.path(), end, "--at", at, "--skew", skew]);
    assert_eq!(
        who("203.0.113.5:40001", "2026-11-21 10:13:00", "1"),
        (
            0,
            "203.0.113.5:40001 on gw1, from 2026-11-21 10:12:59.000 +01:00 to 2026-11-21 10:13:01.000 +01:00:\n\n\
             192.168.7.2:50000, which connected to 198.51.100.1:443 (tcp)\n    \
             opened 2026-11-21 10:12:40.000 +01:00 (when the event was received)\n    \
             closed 2026-11-21 10:13:40.000 +01:00 (the kernel's timestamp)\n\n\
             The history is complete for this time.\n"
                .to_owned(),
            String::new()
        )
    );
    let (status, both, _) = who("203.0.113.5:40001/tcp", "21/Nov/2026:10:13:45 +0100", "10");
    let hosts = "These are 2 hosts: a smaller --skew may tell which one it was.";
    assert!(status == 0 && both.contains(hosts), "{both}");
    assert!(both.find("192.168.7.3").unwrap() < both.find("192.168.7.2").unwrap(), "{both}");
    let (status, ended, _) = who("203.0.113.5", "1795252580", "1");
    let range = "192.168.7.3:50000, which connected to 198.51.100.1:443 (tcp)\n    \
                 opened 2026-11-21 10:13:50.000 +01:00 (when the event was received)\n    \
                 closed at some moment from 2026-11-21 10:15:50.000 +01:00 to 2026-11-21 10:16:50.000 +01:00\n";
    let gap = "The history is not complete for this time. Mappings can have opened or closed unseen:\n    \
               2026-11-21 10:15:50.000 +01:00 to 2026-11-21 10:16:50.000 +01:00: events of the kernel were lost \
               (812 events)\n";
    assert!(status == 0 && ended.contains(range) && ended.contains(gap), "{ended}");
    let (status, nobody, _) = who("203.0.113.5:40002", "2026-11-21 10:13:00", "1");
    let complete = "Nobody is found.\nThe history is complete for this time.\n";
    assert!(status == 1 && nobody.ends_with(complete), "{nobody}");
    let (status, udp, _) = who("203.0.113.5:40001/udp", "2026-11-21 10:13:00", "1");
    assert_eq!(status, 1, "{udp}");
}

#[test]
fn export_prints_each_mapping_once() {
    let history = History::new();
    let (status, csv, errors) = run(&["export", history.path(), "--to", "2026-11-21T09:15:00Z"]);
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!((status, lines.len()), (0, 3), "{csv}{errors}");
    assert!(lines[0].starts_with("protocol,zone,reply_zone,src_ip,"));
    assert_eq!(
        lines[1],
        "tcp,0,0,192.168.7.2,50000,198.51.100.1,443,203.0.113.5,40001,198.51.100.1,443,7,,\
         2026-11-21T09:12:40.000Z,event,,2026-11-21T09:13:40.000Z,kernel,,,,,,gw1"
    );
    let (status, ndjson, errors) =
        run(&["export", history.path(), "--from", "2026-11-21T09:15:00Z", "--format", "ndjson"]);
    let found: Vec<serde_json::Value> =
        ndjson.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    assert_eq!((status, found.len()), (0, 1), "{ndjson}");
    assert_eq!((&found[0]["src_ip"], &found[0]["closed_known"]), (&"192.168.7.3".into(), &"range".into()));
    // What happened since is not in the files.
    assert!(errors.contains("events of the kernel were lost") && errors.contains(" to now: "), "{errors}");
}

#[test]
fn stats_counts_and_verify_names_what_is_wrong() {
    let history = History::new();
    let (status, stats, _) = run(&["stats", history.path()]);
    let begin = "gateway            gw1\n\
                 span               2026-11-21 10:12:30.000 +01:00 to 2026-11-21 10:22:30.000 +01:00\n\
                 segments           1, ";
    assert!(status == 0 && stats.starts_with(begin), "{stats}");
    assert!(stats.contains("\nmappings           2, of which 0 are open at the end\n"), "{stats}");
    let (status, verified, _) = run(&["verify", history.path()]);
    assert!(status == 0 && verified.starts_with("no problems in 1 segments with 1 rows, "), "{verified}");

    let files = std::fs::read_dir(history.path()).unwrap().map(|file| file.unwrap().path());
    let segment = files.filter(|path| path.extension().is_some_and(|end| end == "parquet")).max().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (status, verified, _) = run(&["verify", history.path()]);
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(status == 1 && verified.starts_with(&format!("{name}: ")), "{verified}");
    assert!(verified.lines().last().unwrap().starts_with("1 problem in 1 segments"), "{verified}");
    // What is left is answered, and what is damaged is a gap.
    let (status, who, _) = run(&["who", history.path(), "203.0.113.5:40001", "--at", "2026-11-21 10:13:00"]);
    assert!(status == 1 && who.contains("a file is damaged or missing"), "{who}");
}

#[test]
fn errors_say_what_is_expected() {
    let history = History::new();
    let other = TempDir::new().unwrap();
    std::fs::write(other.path().join("notes.txt"), "x").unwrap();
    let path = history.path();
    for (arguments, expected) in [
        (&["verify", "/nonexistent"][..], "give the directory that [history] path names, or a copy of it"),
        (&["stats", other.path().to_str().unwrap()], "is not a history"),
        (
            &["who", path, "203.0.113.5:x", "--at", "now"],
            "found \"203.0.113.5:x\"; expected 203.0.113.5:40001",
        ),
        (
            &["who", path, "203.0.113.5", "--at", "2026-10-25 02:30:00"],
            "--at: found \"2026-10-25 02:30:00\", a local time that was there twice, because clocks were set back; \
             write it with its offset: 2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00",
        ),
        (&["who", path, "203.0.113.5", "--at", "now", "--skew", "2h"], "expected seconds"),
        (&["export", path, "--from", "-1h", "--to", "-2h"], "give the earlier time as --from"),
        (&["export", path, "--format", "xml"], "possible values: csv, ndjson"),
        (&[], "Usage: nathistory <COMMAND>"),
    ] {
        let (status, _, errors) = run(arguments);
        assert!(status == 2 && errors.contains(expected), "{arguments:?}: {status} {errors}");
    }
    assert_eq!(run(&["--version"]).1, concat!("nathistory ", env!("CARGO_PKG_VERSION"), "\n"));
}
