//! When mappings began and ended, and how that is known.

use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use lab::wait_until;
use nathistory::{Known, Question, Reason};
use nix::sys::signal::Signal;
use pynatconnd::clock::Clock;
use pynatconnd::config::Config;
use pynatconnd::recorder::Recorder;
use pynatconnd::stats::Stats;
use pynatconnd::tracker::Tracker;
use tokio::runtime::Runtime;

use super::setup::{Bench, LATE, ROUNDING, assert_within, daemon_live, end_of, now, terminate};
use crate::clock::Moved;

#[test]
fn begins_and_ends_have_their_times_and_what_was_transferred() {
    if !lab::require() {
        return;
    }
    for has_timestamps in ["0", "1"] {
        let mut bench = Bench::new();
        for name in ["timestamp", "acct"] {
            bench.lab.gateway().sysctl(&format!("net.netfilter.nf_conntrack_{name}"), has_timestamps);
        }
        let before = now();
        let older = bench.open(40_001);
        let older_opened = now();
        let daemon = bench.start();
        let begun = now();
        let newer = bench.open(40_002);
        let opened = now();
        thread::sleep(Duration::from_millis(50));
        let ending = now();
        bench.end(newer);
        bench.end(older);
        let ended = now();
        let stays = bench.open(40_003);
        thread::sleep(Duration::from_millis(50));
        terminate(daemon);
        let past = bench.past();
        let exactly = has_timestamps == "1";
        let by_event = if exactly { Known::Kernel } else { Known::Event };
        let record = past.only(40_002);
        // Only the DESTROY event has the timestamps of both.
        assert_within(record.opened, by_event, begun, opened + LATE);
        assert_within(record.closed.expect("it has ended"), by_event, ending, ended + LATE);
        assert_eq!(record.counters.is_some_and(|counters| counters.packets[0] >= 2), exactly, "{record:?}");
        assert_eq!(record.mark, Some(0));
        assert_eq!(record.src, end_of(bench.lab.client_at(0, 40_002)));
        assert_eq!(record.dst, Some(end_of(bench.server.address())));
        assert_eq!((record.server, record.nat.ip), (record.dst, bench.lab.public(0)));
        let record = past.only(40_001);
        match exactly {
            true => assert_within(record.opened, Known::Kernel, before, older_opened),
            false => assert_within(record.opened, Known::Dump, older_opened, begun),
        }
        assert_within(record.closed.expect("it has ended"), by_event, ending, ended + LATE);
        assert_eq!(past.only(40_003).opened.known, Known::Event);
        assert_eq!(past.only(40_003).closed, None);
        let reasons: Vec<_> = past.gaps.iter().map(|gap| gap.reason).collect();
        assert!(reasons.iter().all(|reason| *reason == Reason::BeforeHistory), "{:?}", past.gaps);
        drop(stays);
    }
}

#[test]
fn events_that_were_read_late_have_a_range() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    let daemon = bench.start();
    bench.create(1_000..1_001);
    wait_until("the event is read", || daemon_live(&bench, &daemon) == 1);
    daemon.stop();
    let stopped = now();
    thread::sleep(Duration::from_millis(1_500));
    let before = now();
    bench.create(1_001..1_002);
    bench.remove(1_000..1_001);
    let after = now();
    thread::sleep(Duration::from_millis(1_000));
    daemon.go_on();
    wait_until("the event is read", || daemon_live(&bench, &daemon) == 1);
    terminate(daemon);
    let past = bench.past();
    for moment in [past.only(1_001).opened, past.only(1_000).closed.expect("it has ended")] {
        assert_eq!(moment.known, Known::Range, "{moment:?}");
        assert!(moment.earliest() <= before && after <= moment.at, "{moment:?}");
        assert!(stopped - moment.earliest() < 1_500, "{moment:?} {stopped}");
    }
}

#[test]
fn what_has_just_happened_is_found_and_a_clock_that_is_set_is_a_gap() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    let (moved, stats) = (Arc::<Moved>::default(), Arc::<Stats>::default());
    let clock: Arc<dyn Clock> = moved.clone();
    let config = Config::parse(bench.config().as_bytes(), "test").expect("the configuration is valid").config;
    let history =
        Recorder::open(&config.history, &clock, &stats).expect("it can be opened").expect("it is on");
    let start = || Tracker::start((&config).into(), clock.clone(), stats.clone(), |error| panic!("{error}"));
    let tracker = bench.lab.gateway().enter(start).expect("the kernel can be followed");
    let recorder = history.start(&tracker, |fatal| panic!("{fatal}")).expect("threads can be created");
    let runtime = Runtime::new().expect("threads can be created");
    assert!(runtime.block_on(tracker.wait_complete(lab::PATIENCE)));
    let find = |port: u16| {
        runtime.block_on(recorder.catch_up());
        let mut found = Vec::new();
        let question = Question { src_port: Some(port), ..Question::about(0, 2 * now()) };
        let on = &mut |record| {
            found.push(record);
            ControlFlow::Continue(())
        };
        let gaps = recorder.find(&question, &|| true, on).expect("it can be read").gaps;
        (found, gaps)
    };
    for port in 1_000..1_200 {
        bench.create(port..port + 1);
        assert_eq!(find(port).0.len(), 1, "its begin is found at once");
        bench.remove(port..port + 1);
        assert!(find(port).0[0].closed.is_some(), "and its end");
    }
    const HOUR: i64 = 3_600_000;
    for (by, port) in [(HOUR, 2_000), (-HOUR, 2_001)] {
        let before = now() + moved.by.load(Ordering::SeqCst);
        moved.by.fetch_add(by, Ordering::SeqCst);
        bench.create(port..port + 1);
        let (found, gaps) = find(port);
        let after = now() + moved.by.load(Ordering::SeqCst);
        assert!((after - 1_000..=after + ROUNDING).contains(&found[0].opened.at), "{found:?} {after}");
        let gap = gaps.iter().rfind(|gap| gap.reason == Reason::ClockStepped && gap.touches(after, after));
        let gap = gap.unwrap_or_else(|| panic!("{gaps:#?}"));
        let size = format!("the wall clock was set by {}3600.0", if by > 0 { '+' } else { '-' });
        let detail = gap.detail.as_deref().unwrap_or_default();
        // A little less or more, if the system's clock is adjusted meanwhile.
        assert!(detail.starts_with(&size) || detail.contains("3599.9"), "{detail}");
        let length = gap.to.map(|to| to - gap.from).unwrap_or_default();
        assert!((HOUR..HOUR + 2_000).contains(&length), "{gap:?} {before}");
    }
    recorder.stop();
    assert_eq!(bench.past().records.len(), 202);
}

#[test]
fn what_inside_hosts_connect_to_is_left_out_if_wanted() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    bench.rest = "destinations = no\n".to_owned();
    let daemon = bench.start();
    bench.create(1_000..1_001);
    wait_until("the event is read", || daemon_live(&bench, &daemon) == 1);
    // A reload warns of what it cannot change.
    bench.rest = "destinations = yes\ngateway = other\nsync_interval = 2\n".to_owned();
    daemon.rewrite_config(&bench.config());
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_line("[history] destinations: another value takes effect after a restart");
    daemon.wait_for_line("[history] gateway: another value takes effect after a restart");
    daemon.wait_for_line("is in force");
    bench.remove(1_000..1_001);
    terminate(daemon);
    let record = bench.past().only(1_000);
    assert_eq!((record.dst, record.server), (None, None));
    assert!(record.closed.is_some(), "{record:?}");
    for file in std::fs::read_dir(bench.path()).expect("the directory exists") {
        let file = file.expect("it is readable");
        let mode = file.metadata().expect("it exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "{:?}", file.file_name());
    }
    let mode = std::fs::metadata(bench.path()).expect("it exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o750);
}
