//! Row 10: how long work on the table holds its lock. The daemon records the longest time and logs it at its
//! end; a slow series of lookups shows the effect on clients.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::bench::{Bench, CONFIG, Gateway, PATIENCE, wait_ready};
use crate::load::{self, LASTING};
use crate::machine;
use crate::meter::{Listener, percentile};
use crate::report::{Row, Target};
use lab::http::Client;
use lab::{Daemon, Netns};

/// The interval between two lookups.
const PAUSE: Duration = Duration::from_micros(300);

/// The time of a lookup, and its duration in milliseconds.
type LookupTime = (Instant, f64);

/// Sends lookups continuously.
struct LookupSeries<'a> {
    netns: &'a Netns,
    address: SocketAddr,
    lookups: Mutex<Vec<LookupTime>>,
    stop: AtomicBool,
}

impl LookupSeries<'_> {
    fn run(&self) {
        let mut client = Client::connect(self.netns, self.address);
        let ports = LASTING.ports();
        let mut port = ports.start;
        while !self.stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            client.get(&format!("/nat_port/{port}"));
            let took = start.elapsed().as_secs_f64() * 1e3;
            self.lookups.lock().expect("no thread panics while holding it").push((start, took));
            // A step that is coprime to their number visits all.
            port = ports.start + (port - ports.start + 7919) % (ports.end - ports.start);
            thread::sleep(PAUSE);
        }
    }

    /// The durations, in milliseconds, of the lookups sent while `work` ran.
    fn during(&self, work: impl FnOnce()) -> Vec<f64> {
        self.lookups.lock().expect("no thread panics while holding it").clear();
        work();
        let lookups = self.lookups.lock().expect("no thread panics while holding it");
        lookups.iter().map(|(_, took)| *took).collect()
    }
}

pub fn measure(bench: &Bench) -> Result<Vec<Row>, String> {
    let mappings = bench.many(4_000_000);
    let cpus = bench.cpus.with_one_for_load();
    // No sweep comes before the row requests it.
    let quiet = CONFIG.replace("[data]", "[data]\nsweep_interval = 3600");
    let sweeping = CONFIG.replace("[data]", "[data]\nsweep_interval = 3601");
    let filtered = format!("[filter]\ndst_port = 443\n{quiet}");
    let names = [
        "nothing happens",
        "it grows",
        "it is swept",
        "it is read again",
        "`/debug` and `/metrics` are read",
        "all end",
    ];
    let (mut held, mut worked) = (Vec::new(), Vec::new());
    let mut longest = [const { Vec::new() }; 6];
    let mut p99 = [const { Vec::new() }; 6];
    for _ in 0..bench.rounds(3) {
        let gateway = Gateway::new();
        let netns = gateway.netns();
        let mut daemon = machine::on(&cpus.measured, || gateway.daemon(&quiet));
        let listener = Listener::new(netns, daemon.pid());
        let stream = LookupSeries {
            netns,
            address: daemon.local_addr(),
            lookups: Mutex::default(),
            stop: AtomicBool::new(false),
        };
        thread::scope(|scope| {
            scope.spawn(|| machine::on(&cpus.load, || stream.run()));
            let _stop = StopAtEnd(&stream.stop);
            let rest = Duration::from_secs(if bench.quick { 1 } else { 5 });
            let results = [
                stream.during(|| {
                    machine::on(&cpus.load, || load::make(netns, 0..mappings));
                    listener.wait_drained();
                }),
                stream.during(|| thread::sleep(rest)),
                stream.during(|| reload_and_wait_for_dump(&daemon, &sweeping)),
                stream.during(|| {
                    reload_and_wait_for_dump(&daemon, &filtered);
                    wait_ready(netns, &daemon);
                }),
                stream.during(|| {
                    for _ in 0..2 {
                        let client = Client::connect(netns, daemon.local_addr());
                        client.stream().set_read_timeout(Some(PATIENCE)).expect("the connection is open");
                        let mut client = client;
                        assert_eq!(client.get("/debug").status, 200);
                        assert_eq!(client.get("/metrics").status, 200);
                    }
                }),
                stream.during(|| {
                    machine::on(&cpus.load, || load::flush(netns));
                    listener.wait_drained();
                    thread::sleep(if bench.quick { rest } else { Duration::from_secs(20) });
                    listener.wait_drained();
                }),
            ];
            let order = [1, 0, 2, 3, 4, 5];
            for (at, mut times) in order.into_iter().zip(results) {
                longest[at].push(percentile(&mut times, 1.0));
                p99[at].push(percentile(&mut times, 0.99));
            }
        });
        daemon.signal(Signal::SIGTERM);
        daemon.wait();
        held.push(milliseconds(&daemon.stderr(), "hold of the table's lock "));
        worked.push(milliseconds(&daemon.stderr(), "processor time of a hold "));
    }
    let mut row = Row::new("10", format!("the table's lock with {mappings} mappings"));
    row = row.target("held at the longest, all of it", "ms", &held, Target::AtMost(5.0));
    row = row.target("the most processor time of one hold", "ms", &worked, Target::AtMost(1.0));
    for (at, name) in names.into_iter().enumerate() {
        row = row.figure(format!("the longest lookup while {name}"), "ms", &longest[at]);
        row = row.figure(format!("99 of 100 lookups while {name}"), "ms", &p99[at]);
    }
    Ok(vec![row.note("times include the scheduler's delays; a lookup also reads the pending events")])
}

/// The milliseconds after these words in the daemon's last log lines, such as `812.3µs`, `1.2ms` or `1s`.
fn milliseconds(log: &str, words: &str) -> f64 {
    let found = log.lines().find_map(|line| line.split_once(words));
    let text = found.and_then(|(_, rest)| rest.split([' ', ',']).next()).unwrap_or_default();
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let number: f64 = number.parse().unwrap_or_else(|_| panic!("no time in {text:?}"));
    match unit {
        "ns" => number / 1e6,
        "µs" => number / 1e3,
        "ms" => number,
        _ => number * 1e3,
    }
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reloads another configuration, so that the daemon reads the kernel's table.
fn reload_and_wait_for_dump(daemon: &Daemon, config: &str) {
    let busy = || crate::meter::cpu(daemon.pid());
    daemon.rewrite_config(config);
    daemon.signal(Signal::SIGHUP);
    thread::sleep(Duration::from_millis(300));
    // One thread is busy while it reads; the others do little.
    let start = Instant::now();
    loop {
        let before = busy();
        thread::sleep(Duration::from_millis(500));
        // The time of an ended thread is no longer counted.
        if busy().saturating_sub(before) < Duration::from_millis(200) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "the daemon reads without an end");
    }
}
