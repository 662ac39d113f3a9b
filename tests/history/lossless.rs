//! Under load nothing is lost: each flow is recorded exactly once, and there is no gap.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use lab::http::{Client, get};
use lab::{Daemon, Lab, flows, wait_within};
use nfct::{Protocol, Query, Tuple};
use serde_json::Value;

use super::life::now;
use super::{DAEMON, amount};

/// Threads that make flows.
const THREADS: u32 = 2;
/// Flows of a thread that are there at the same time.
const AT_ONCE: u32 = 10_000;

/// Flow number `number`: each has its own inside host and port.
fn flow(lab: &Lab, number: u32) -> (Tuple, Tuple) {
    let inside = Ipv4Addr::from(0x0a00_0000 + number / 1_000);
    let port = 1_024 + (number % 50_000) as u16;
    let public = Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 2, 1)) + number / 50_000 % 8);
    let inside_port = 10_000 + (number % 1_000) as u16;
    let server = lab.server_at(443);
    flows::source_nat(Protocol::Udp, (inside, inside_port).into(), server, (public, port).into())
}

#[test]
fn each_flow_is_recorded_exactly_once_under_load() {
    if !lab::require() {
        return;
    }
    let (rate, seconds) = amount((2_000, 5), (50_000, 60));
    let number = rate * seconds;
    let lab = Lab::builder().build();
    let directory = tempfile::tempdir().expect("a temporary directory can be created");
    let config = format!("[data]\nkey_name = nat_port\n[history]\npath = {}\n", directory.path().display());
    let daemon = DAEMON.start(lab.gateway(), config);
    wait_within(Duration::from_secs(10), "the table is complete", || {
        get(lab.gateway(), daemon.local_addr(), "/readyz").status == 200
    });
    // What the history did not know before it was ready ends in this millisecond at the latest.
    let ready = now();
    wait_within(Duration::from_secs(1), "a millisecond has passed", || now() > ready);
    let from = now();
    let begun = Instant::now();
    thread::scope(|scope| {
        for part in 0..THREADS {
            let lab = &lab;
            scope.spawn(move || make(lab, part, number / THREADS, rate / THREADS, begun));
        }
    });
    let took = begun.elapsed();
    let recorded = recorded(&lab, &daemon, from);
    println!(
        "{number} flows in {took:.1?}, {:.0} a second; {} recorded, {} of them twice; gaps {}",
        f64::from(number) / took.as_secs_f64(),
        recorded.lives.len(),
        recorded.twice,
        recorded.gaps
    );
    assert_eq!((recorded.lives.len(), recorded.twice), (number as usize, 0));
    assert_eq!((recorded.gaps, recorded.is_complete), (Value::Array(Vec::new()), true));
    assert!(recorded.all_closed, "each flow has its end");
}

/// Makes flows, and ends each one when `AT_ONCE` others have begun.
fn make(lab: &Lab, part: u32, number: u32, rate: u32, begun: Instant) {
    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
    let nth = |index: u32| flow(lab, index * THREADS + part);
    for index in 0..number + AT_ONCE {
        if index < number {
            flows::create(&mut query, &nth(index));
        }
        if let Some(ended) = index.checked_sub(AT_ONCE.min(number)).filter(|ended| *ended < number) {
            let (original, _) = nth(ended);
            assert!(flows::remove(&mut query, &original), "{original} is there");
        }
        let ahead = f64::from(index) / f64::from(rate) - begun.elapsed().as_secs_f64();
        if index % 100 == 0 && ahead > 0.0 {
            thread::sleep(Duration::from_secs_f64(ahead));
        }
    }
}

struct Recorded {
    lives: HashSet<(String, u64)>,
    twice: usize,
    all_closed: bool,
    gaps: Value,
    is_complete: bool,
}

/// What the history has from a moment on.
fn recorded(lab: &Lab, daemon: &Daemon, from: i64) -> Recorded {
    let mut recorded = Recorded {
        lives: HashSet::new(),
        twice: 0,
        all_closed: true,
        gaps: Value::Array(Vec::new()),
        is_complete: true,
    };
    for last in 1..=8 {
        let mut client = Client::connect(lab.gateway(), daemon.local_addr());
        let path = format!("/v1/history?nat_ip=100.64.2.{last}&from={}.{:03}", from / 1000, from % 1000);
        let answer = client.get(&path).json();
        for found in answer["matches"].as_array().expect("a list") {
            let life = (found["src_ip"].to_string(), found["src_port"].as_u64().expect("a port"));
            recorded.twice += usize::from(!recorded.lives.insert(life));
            recorded.all_closed &= !found["closed"].is_null();
        }
        recorded.is_complete &= answer["complete"] == true;
        if answer["gaps"] != Value::Array(Vec::new()) {
            recorded.gaps = answer["gaps"].clone();
        }
    }
    recorded
}
