//! Disks and directories that cannot be written to.

use std::process::Command;
use std::thread;
use std::time::Duration;

use lab::http::get;
use lab::wait_until;
use nathistory::Reason;
use tempfile::TempDir;

use super::setup::{Bench, Past, now, terminate};
use crate::binary::DAEMON;

/// A small file system in memory.
struct Small(TempDir);

impl Small {
    fn mount(bytes: &str) -> Self {
        let directory = TempDir::with_prefix("pynatconnd-small-").expect("a directory can be made");
        let options = format!("size={bytes},mode=0755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "none"])
            .arg(directory.path())
            .status();
        assert!(mounted.is_ok_and(|status| status.success()), "root can mount");
        Self(directory)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_a_gap_and_slows_no_lookup() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    let small = Small::mount("4m");
    let (path, filler) = (small.0.path().join("history"), small.0.path().join("filler"));
    let config = bench.config().replace(&bench.path().display().to_string(), &path.display().to_string());
    let daemon = DAEMON.start(bench.lab.gateway(), config);
    daemon.wait_for_line("equals the kernel's");
    bench.create(1_000..1_100);
    thread::sleep(Duration::from_millis(1_500));
    let full = now();
    let _ = std::fs::write(&filler, vec![0; 4 << 20]);
    bench.create(2_000..4_000);
    bench.remove(1_000..1_050);
    daemon.wait_for_line("the history cannot be written");
    bench.assert_prompt(&daemon, 2_000..2_100);
    let value = |name: &str| -> f64 {
        let metrics = get(bench.lab.gateway(), daemon.local_addr(), "/metrics");
        let line = metrics.text().lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.rsplit_once(' ').and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
    };
    assert!(value("pynatconnd_history_write_errors_total") >= 1.0);
    wait_until("entries are dropped", || value("pynatconnd_history_dropped_entries_total") >= 2_000.0);
    assert_eq!(value("pynatconnd_history_open_gaps"), 1.0);
    let room = now();
    std::fs::remove_file(&filler).expect("it can be removed");
    daemon.wait_for_line("the history is complete again");
    let complete = now();
    bench.create(5_000..5_010);
    let log = terminate(daemon);
    assert_eq!(log.matches("the history cannot be written").count(), 1, "{log}");
    let past = Past::read(&path);
    let (from, to) = past.gap(Reason::NotWritten);
    assert!(from >= full - 2_000 && (room..=complete).contains(&to), "{from} {to} {full} {room} {complete}");
    assert!(to - room < 2_500, "it is written soon after there is room");
    assert_eq!(past.records.len(), 100 + 2_000 + 10);
    for port in 1_000..1_100 {
        let closed = past.only(port).closed;
        assert_eq!(closed.is_some(), port < 1_050, "{port}");
        assert!(closed.is_none_or(|closed| closed.earliest() >= from && closed.at <= to), "{closed:?}");
    }
}

#[test]
fn a_directory_that_cannot_be_used_is_an_error() {
    if !lab::require() {
        return;
    }
    let bench = Bench::new();
    let refused = |status: i32, expected: &str| {
        let mut daemon = bench.builder().spawn(bench.lab.gateway());
        assert_eq!(daemon.wait().code(), Some(status), "{}", daemon.stderr());
        assert!(daemon.stderr().contains(expected), "{}", daemon.stderr());
    };
    std::fs::create_dir(bench.path()).expect("it does not exist");
    std::fs::write(bench.path().join("notes.txt"), "mine").expect("it can be written");
    refused(78, "is not a history");
    std::fs::remove_dir_all(bench.path()).expect("it exists");
    std::fs::write(bench.path(), "a file").expect("it can be written");
    refused(78, "[history] path: ");
    std::fs::remove_file(bench.path()).expect("it exists");
    let daemon = bench.start();
    refused(71, "is in use by another process");
    terminate(daemon);
}
