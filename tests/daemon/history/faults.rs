//! Disks that stall, and file systems that the kernel makes read-only, through a shim in front of the C library's calls.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use lab::http::get;
use lab::{Daemon, wait_until};
use nathistory::Reason;
use tempfile::TempDir;

use super::setup::{Bench, now, terminate};

/// A disk whose faults come and go.
struct FaultyDisk {
    directory: TempDir,
}

impl FaultyDisk {
    fn new() -> Self {
        let directory = TempDir::with_prefix("pynatconnd-faulty-").expect("a directory can be made");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemon/history/faulty_disk.c");
        let this = Self { directory };
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", source, "-ldl", "-o"])
            .arg(this.library())
            .status();
        assert!(compiled.is_ok_and(|status| status.success()), "the shim can be compiled");
        this
    }

    fn library(&self) -> PathBuf {
        self.directory.path().join("shim.so")
    }

    fn control(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    fn start(&self, bench: &Bench) -> Daemon {
        let environment: [(&str, OsString); 3] = [
            ("LD_PRELOAD", self.library().into()),
            ("FAULTY_CONTROL", self.control().into()),
            ("FAULTY_DIRECTORY", bench.path().into()),
        ];
        let builder = bench.builder();
        let builder =
            environment.into_iter().fold(builder, |builder, (name, value)| builder.env(name, value));
        let daemon = builder.start(bench.lab.gateway());
        daemon.wait_for_line("equals the kernel's");
        daemon
    }

    fn set(&self, fault: &str) {
        let new = self.directory.path().join("new");
        std::fs::write(&new, fault).expect("it can be written");
        std::fs::rename(&new, self.control()).expect("it can be renamed");
    }
}

#[test]
fn a_disk_that_stalls_slows_no_lookup_and_nothing_is_lost() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    let disk = FaultyDisk::new();
    let daemon = disk.start(&bench);
    bench.create(1_000..1_100);
    disk.set("stall");
    let stalled = now();
    for first in [2_000, 2_200, 2_400] {
        bench.create(first..first + 200);
        bench.assert_prompt(&daemon, first..first + 50);
    }
    bench.remove(1_000..1_050);
    // An answer about the past does not wait for the disk either, and says what it lacks.
    let path = format!("/v1/history?nat_port=2000&at={}", now() / 1_000 + 1);
    let begun = now();
    let lacking = |answer: &serde_json::Value| {
        let gaps = answer["gaps"].as_array().cloned().unwrap_or_default();
        answer["complete"] == false && gaps.iter().any(|gap| gap["reason"] == "recorder_behind")
    };
    wait_until("the answer says that the recorder is behind", || {
        lacking(&get(bench.lab.gateway(), daemon.local_addr(), &path).json())
    });
    assert!(now() - begun < 10_000);
    // Longer than several intervals of syncing.
    wait_until("some seconds have passed", || {
        bench.assert_prompt(&daemon, 2_400..2_401);
        now() - stalled > 4_000
    });
    disk.set("");
    wait_until("the answer is complete", || {
        let path = format!("/v1/history?nat_port=2000&at={}", now() / 1_000 - 1);
        get(bench.lab.gateway(), daemon.local_addr(), &path).json()["complete"] == true
    });
    let log = terminate(daemon);
    assert!(!log.contains("are missing"), "{log}");
    let past = bench.past();
    assert_eq!(past.records.len(), 100 + 600, "{:?}", past.gaps);
    assert!(past.gaps.iter().all(|gap| gap.reason != Reason::RecorderBehind), "{:?}", past.gaps);
    for port in 1_000..1_100 {
        assert_eq!(past.only(port).closed.is_some(), port < 1_050, "{port}");
    }
}

#[test]
fn a_file_system_that_becomes_read_only_is_a_gap_and_slows_no_lookup() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    let disk = FaultyDisk::new();
    let daemon = disk.start(&bench);
    bench.create(1_000..1_100);
    std::thread::sleep(Duration::from_millis(1_500));
    let broken = now();
    disk.set("read-only");
    bench.create(2_000..2_200);
    bench.remove(1_000..1_050);
    daemon.wait_for_line("the history cannot be written");
    bench.assert_prompt(&daemon, 2_000..2_100);
    let path = format!("/v1/history?nat_port=2000&at={}", now() / 1_000 + 1);
    let answer = get(bench.lab.gateway(), daemon.local_addr(), &path).json();
    assert_eq!(answer["gaps"][0]["reason"], "not_written", "{answer}");
    let writable = now();
    disk.set("");
    daemon.wait_for_line("the history is complete again");
    let complete = now();
    let log = terminate(daemon);
    assert_eq!(log.matches("the history cannot be written").count(), 1, "{log}");
    let past = bench.past();
    let (from, to) = past.gap(Reason::NotWritten);
    assert!(from >= broken - 2_000 && (writable..=complete).contains(&to), "{from} {to} {broken} {writable}");
    assert_eq!(past.records.len(), 100 + 200);
    for port in 1_000..1_050 {
        let closed = past.only(port).closed.expect("it has ended");
        assert!(closed.earliest() >= from && closed.at <= to, "{closed:?}");
    }
}
