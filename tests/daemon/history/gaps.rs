//! Times that are missing, and what is known of them: restarts, lost events, events that are off, a recorder that
//! is behind.

use std::thread;
use std::time::Duration;

use lab::http::get;
use lab::wait_until;
use nathistory::{Known, Reason};
use nix::sys::signal::Signal;

use super::setup::{Bench, LATE, ROUNDING, assert_within, daemon_live, now, terminate};
use crate::supervisor::Stopped;

#[test]
fn a_connection_outlives_the_daemon_or_ends_without_it() {
    if !lab::require() {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut bench = Bench::new();
        let mut daemon = bench.start();
        let before = now();
        let (stays, ends) = (bench.open(40_001), bench.open(40_002));
        let opened = now();
        // A second and a half: what a killed daemon has written by then is in the files.
        thread::sleep(Duration::from_millis(1500));
        daemon.signal(signal);
        daemon.wait();
        let stopped = now();
        bench.end(ends);
        let meanwhile = bench.open(40_003);
        thread::sleep(Duration::from_millis(300));
        let starting = now();
        let daemon = bench.start();
        let started = now();
        thread::sleep(Duration::from_millis(100));
        bench.end(stays);
        let ended = now();
        terminate(daemon);
        let past = bench.past();
        let (from, to) = past.gap(Reason::NotRunning);
        assert!((stopped - 2_000..=stopped).contains(&from), "{signal}: {from} {stopped}");
        assert!((starting..=started).contains(&to), "{signal}: {to} {starting} {started}");
        let record = past.only(40_001);
        assert_within(record.opened, Known::Event, before, opened + LATE);
        assert_within(record.closed.expect("it has ended"), Known::Event, started, ended + LATE);
        let closed = past.only(40_002).closed.expect("it has ended");
        assert_eq!((closed.known, closed.since), (Known::Range, Some(from)), "{signal}: {closed:?}");
        assert!((starting..=started).contains(&closed.at), "{signal}: {closed:?}");
        let record = past.only(40_003);
        assert_eq!((record.opened.known, record.opened.since), (Known::Range, Some(from)), "{record:?}");
        assert_eq!(record.closed, None);
        drop(meanwhile);
    }
}

#[test]
fn lost_events_become_a_gap_that_is_as_long_as_the_loss() {
    const FLOWS: u16 = 3_000;
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    bench.rest = "[netlink]\nreceive_buffer = 64K\nreceive_buffer_max = 64K\n".to_owned();
    bench.create(1_000..1_100);
    let starting = now();
    let daemon = bench.start();
    bench.create(1_100..1_200);
    wait_until("events are read", || daemon_live(&bench, &daemon) == 200);
    daemon.stop();
    let stopped = now();
    bench.create(2_000..2_000 + FLOWS);
    bench.remove(1_050..1_150);
    let resumed = now();
    daemon.go_on();
    daemon.wait_for_line("the table equals the kernel's again");
    let complete = now();
    bench.remove(2_000..2_100);
    let log = terminate(daemon);
    let past = bench.past();
    let (from, to) = past.gap(Reason::EventsLost);
    assert!(from <= stopped && stopped - from < 1_500, "{from} {stopped}");
    assert!((resumed..=complete).contains(&to), "{to} {resumed} {complete}");
    assert_eq!(past.records.len(), 200 + usize::from(FLOWS), "{log}");
    for port in 1_000..1_200 {
        let closed = past.only(port).closed;
        let has_ended = (1_050..1_150).contains(&port);
        assert_eq!(closed.is_some(), has_ended, "{port}: {closed:?}");
        if let Some(closed) = closed {
            // One that a dump has found may end without an event, as far as the daemon knows.
            let earliest = if port < 1_100 { starting } else { from };
            assert!(closed.earliest() >= earliest && closed.at <= to, "{closed:?} is not in {from}..{to}");
        }
    }
    for port in 2_000..2_000 + FLOWS {
        let record = past.only(port);
        assert!(record.opened.earliest() >= from - ROUNDING && record.opened.at <= to, "{record:?}");
        assert_eq!(record.closed.is_some(), port < 2_100, "{record:?}");
    }
}

#[test]
fn a_time_in_which_events_are_off_is_a_gap() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    let daemon = bench.start();
    bench.create(1_000..1_001);
    let off = now();
    bench.lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "0");
    bench.create(1_001..1_002);
    daemon.wait_for_line("nf_conntrack_events is 0");
    bench.create(1_002..1_003);
    let on = now();
    bench.lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "1");
    wait_until("the table is complete", || {
        get(bench.lab.gateway(), daemon.local_addr(), "/readyz").status == 200
    });
    let complete = now();
    terminate(daemon);
    let past = bench.past();
    let (from, to) = past.gap(Reason::NotReported);
    assert!(from <= off + ROUNDING && off - from < 2_000, "{from} {off}");
    assert!((on..=complete).contains(&to), "{to} {on} {complete}");
    for port in 1_001..1_003 {
        let opened = past.only(port).opened;
        assert!(opened.earliest() >= from && opened.at <= to, "{opened:?}");
    }
}

#[test]
fn entries_that_come_faster_than_they_are_written_become_a_gap() {
    /// Begins and ends that the queue keeps.
    const QUEUE: usize = 524_288;
    const FLOWS: u16 = 1_000;
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    let daemon = bench.start();
    bench.create(1_000..1_100);
    wait_until("events are read", || daemon_live(&bench, &daemon) == 100);
    thread::sleep(Duration::from_millis(500));
    let writer = Stopped::one(&daemon, "history");
    let stopped = now();
    for _ in 0..=QUEUE / (2 * usize::from(FLOWS)) {
        bench.create(2_000..2_000 + FLOWS);
        bench.remove(2_000..2_000 + FLOWS);
    }
    bench.remove(1_000..1_050);
    bench.create(5_000..5_100);
    // The queue is full, and the table is not affected.
    wait_until("events are read", || daemon_live(&bench, &daemon) == 150);
    let resumed = now();
    drop(writer);
    daemon.wait_for_line("the history: entries came faster than they could be written");
    daemon.wait_for_line("the history is complete again");
    let complete = now();
    bench.remove(5_000..5_050);
    terminate(daemon);
    let past = bench.past();
    let (from, to) = past.gap(Reason::RecorderBehind);
    assert!((stopped..=resumed).contains(&from) && (resumed..=complete).contains(&to), "{from} {to}");
    let missing = 2 * usize::from(FLOWS);
    let of_the_loop =
        past.records.iter().filter(|record| (2_000..3_000).contains(&record.src.port.unwrap_or(0)));
    let expected = QUEUE / 2 - missing..=QUEUE / 2 + missing;
    assert!(expected.contains(&of_the_loop.count()), "what had room is there");
    for port in (1_000..1_100).chain(5_000..5_100) {
        let record = past.only(port);
        let ended_in_gap = (1_000..1_050).contains(&port);
        assert_eq!(record.closed.is_some(), ended_in_gap || (5_000..5_050).contains(&port), "{record:?}");
        if let Some(closed) = record.closed.filter(|_| ended_in_gap) {
            assert!(closed.earliest() >= from && closed.at <= to, "{closed:?} is not in {from}..{to}");
        }
        if port >= 5_000 {
            assert!(record.opened.at >= from && record.opened.at <= to, "{record:?}");
        }
    }
}
