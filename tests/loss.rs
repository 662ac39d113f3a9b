//! Overruns and missing events: bursts that overrun the receive buffer, a daemon that is stopped,
//! connections that end without a DESTROY event, a kernel that reports no events. At the end the table
//! equals the kernel's, entry by entry; until then the daemon reports it as incomplete.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lab::flows::{self, Difference, compare, create, remove};
use lab::http::Client;
use lab::{Daemon, DaemonBinary, Lab, StopOnDrop, wait_until};
use nfct::{Family, Protocol, Query, Tuple};

const DAEMON: DaemonBinary = DaemonBinary::at(env!("CARGO_BIN_EXE_pynatconnd"));

/// Entries of a burst.
const BURST: u32 = 1_000_000;
/// Entries created after it.
const AFTERWARDS: u32 = 10_000;
/// The limit for a complete table after the last event of a burst, also on a machine that other work slows
/// down. A resync takes a dump, so a slow one gets the time of three dumps.
const RESYNC_LIMIT: Duration = Duration::from_secs(20);

/// The kernel's limit counts the entries of all namespaces, and the burst of one test would delay another.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A kernel parameter of the whole machine, raised until this value is dropped.
struct Raised {
    path: String,
    before: u64,
}

impl Raised {
    /// `None` when it is high enough or cannot be raised.
    fn to(name: &str, value: u64) -> Option<Self> {
        let path = format!("/proc/sys/net/netfilter/{name}");
        let before = fs::read_to_string(&path).ok()?.trim().parse().ok()?;
        if before >= value {
            return None;
        }
        fs::write(&path, value.to_string()).ok()?;
        Some(Self { path, before })
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, self.before.to_string());
    }
}

/// Entry number `number`, from a unique inside host and port to the first server.
fn numbered(lab: &Lab, number: u32) -> (Tuple, Tuple) {
    const PORTS: u32 = 60_000;
    let port = 1024 + u16::try_from(number % PORTS).expect("a port");
    let host = number / PORTS;
    let inside = Ipv4Addr::from(0x0a00_0000 + host);
    let public = Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 8, 0)) + host);
    // From the top of the range, so that public and inside ports differ.
    let nat_port = 65_535 - (port - 1024);
    flows::source_nat(Protocol::Tcp, (inside, port).into(), lab.server_at(443), (public, nat_port).into())
}

/// Creates the entries of a range as fast as possible.
fn fill(lab: &Lab, numbers: std::ops::Range<u32>) {
    const THREADS: u32 = 3;
    let part = numbers.len() as u32 / THREADS + 1;
    thread::scope(|scope| {
        for first in (numbers.start..numbers.end).step_by(part as usize) {
            let last = numbers.end.min(first + part);
            scope.spawn(move || {
                let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
                (first..last).for_each(|number| create(&mut query, &numbered(lab, number)));
            });
        }
    });
}

/// `/v1/lookup?...` for one entry, by its public five-tuple.
fn lookup_path((original, reply): &(Tuple, Tuple)) -> String {
    let (nfct::Layer4::Ports { dst: dst_port, .. }, nfct::Layer4::Ports { dst: nat_port, .. }) =
        (original.layer4, reply.layer4)
    else {
        panic!("{original} has no ports")
    };
    format!(
        "/v1/lookup?protocol={}&nat_ip={}&nat_port={nat_port}&dst_ip={}&dst_port={dst_port}",
        original.protocol, reply.dst, original.dst
    )
}

fn ask(lab: &Lab, daemon: &Daemon) -> Client {
    Client::connect(lab.gateway(), daemon.local_addr())
}

/// Waits until the daemon reports its table as complete. Returns the time since `quiet`.
fn wait_complete(lab: &Lab, daemon: &Daemon, quiet: Instant) -> Duration {
    const LIMIT: Duration = Duration::from_secs(60);
    let mut client = ask(lab, daemon);
    while client.get("/readyz").status != 200 {
        assert!(quiet.elapsed() < LIMIT, "the table is not complete {LIMIT:?} after the last event");
        thread::sleep(Duration::from_millis(2));
    }
    quiet.elapsed()
}

fn check_time(took: Duration, difference: &Difference) {
    let allowed = RESYNC_LIMIT.max(difference.dumped_in * 3);
    assert!(took <= allowed, "complete only {took:?} after the last event, of {allowed:?} allowed");
}

/// The observations of a client that sends requests all the time.
#[derive(Debug, Default)]
struct Observations {
    lookups: u32,
    unready: u32,
    incomplete: u32,
    hits: u32,
    /// The longest time to a response.
    longest: Duration,
}

/// Looks up an entry that does not exist and, while `live`, one that does, until `end` is set.
fn watch(lab: &Lab, daemon: &Daemon, end: &AtomicBool, live: &AtomicBool) -> Observations {
    let mut client = ask(lab, daemon);
    let (known, unknown) = (numbered(lab, BURST), numbered(lab, BURST + 1));
    let (known_path, unknown_path) = (lookup_path(&known), lookup_path(&unknown));
    let mut seen = Observations::default();
    while !end.load(Ordering::Relaxed) {
        // Without a pause it would occupy a core.
        thread::sleep(Duration::from_millis(1));
        seen.lookups += 1;
        seen.unready += u32::from(client.get("/readyz").status == 503);
        let begun = Instant::now();
        let answer = client.get(&unknown_path);
        seen.longest = seen.longest.max(begun.elapsed());
        assert_eq!(answer.status, 404, "{}", answer.text());
        seen.incomplete += u32::from(answer.json()["complete"] == false);
        let expected = live.load(Ordering::SeqCst);
        let answer = client.get(&known_path);
        if expected && live.load(Ordering::SeqCst) {
            assert_eq!(answer.status, 200, "a live entry: {}", answer.text());
            assert_eq!(answer.json()["matches"][0]["src_ip"], known.0.src.to_string());
            assert_eq!(answer.json()["matches"][0]["state"], "live");
            seen.hits += 1;
        }
    }
    seen
}

fn burst(netlink: &str) {
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let limit = u64::from(BURST) * 2;
    let raised =
        (Raised::to("nf_conntrack_buckets", u64::from(BURST)), Raised::to("nf_conntrack_max", limit));
    let lab = Lab::builder().build();
    let allowed =
        lab.gateway().read_sysctl("net.netfilter.nf_conntrack_max").expect("connection tracking is on");
    let allowed: u32 = allowed.parse().expect("a number");
    // Leave entries for the other connections of this machine.
    let number = BURST.min(allowed / 4 * 3);
    let note = if number < BURST { " (nf_conntrack_max allows no more)" } else { "" };

    let daemon = DAEMON.start(lab.gateway(), format!("[data]\nkey_name = nat_port\n{netlink}"));
    daemon.wait_for_line("equals the kernel's");
    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
    create(&mut query, &numbered(&lab, BURST));

    let (end, live) = (AtomicBool::new(false), AtomicBool::new(true));
    thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&lab, &daemon, &end, &live));
        let stop = StopOnDrop(&end);

        let begun = Instant::now();
        fill(&lab, 0..number);
        let quiet = Instant::now();
        let made_in = quiet - begun;
        let after_filling = wait_complete(&lab, &daemon, quiet);
        let full = compare(&mut query, || ask(&lab, &daemon), lab.server_at(443));

        live.store(false, Ordering::SeqCst);
        let begun = Instant::now();
        query.flush(Family::Any).expect("the table can be emptied");
        let flushed_in = begun.elapsed();
        // Even before the resync is complete, no deleted entry is reported as live.
        let mut client = ask(&lab, &daemon);
        for number in (0..number).step_by(10_000) {
            let path = lookup_path(&numbered(&lab, number));
            let answer = client.get(&format!("{path}&state=live"));
            assert_eq!(answer.status, 404, "a deleted entry: {}", answer.text());
        }
        fill(&lab, 0..AFTERWARDS);
        let quiet = Instant::now();
        let after_flushing = wait_complete(&lab, &daemon, quiet);
        let part = compare(&mut query, || ask(&lab, &daemon), lab.server_at(443));

        drop(stop);
        let seen = watcher.join().expect("the watcher finished");
        let log = daemon.stderr();
        let overruns = log.matches("conntrack events lost").count();
        println!(
            "burst{note}: made in {made_in:.1?}, flushed in {flushed_in:.1?}, {overruns} overruns; \
             {after_filling:.1?} after it was made {full}, {after_flushing:.1?} after the flush \
             and some new entries {part}; a dump took {:.1?}; meanwhile {seen:?}",
            full.dumped_in
        );
        assert!(overruns > 0, "the burst was too small to overrun the buffer");
        assert!(full.is_none(number as usize + 1) && part.is_none(AFTERWARDS as usize), "{full}, {part}");
        check_time(after_filling, &full);
        check_time(after_flushing, &part);
        assert!(seen.unready > 0 && seen.incomplete > 0 && seen.hits > 0, "{seen:?}");
    });
    drop(lab);
    drop(raised);
}

#[test]
fn the_table_recovers_from_an_overrun_of_a_fixed_buffer() {
    burst("[netlink]\nreceive_buffer = 4K\nreceive_buffer_max = 4K\n");
}

#[test]
fn the_table_recovers_from_an_overrun_of_a_growing_buffer() {
    burst("[netlink]\nreceive_buffer = 4K\n");
}

/// Creates and deletes connections until `end` is set. Returns their number.
fn churn(lab: &Lab, end: &AtomicBool) -> u32 {
    const OPEN: u32 = 1000;
    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
    let mut made = 0;
    while !end.load(Ordering::Relaxed) {
        let number = made % (10 * OPEN);
        if made >= OPEN {
            remove(&mut query, &numbered(lab, (made - OPEN) % (10 * OPEN)).0);
        }
        create(&mut query, &numbered(lab, number));
        made += 1;
    }
    made
}

#[test]
fn the_table_recovers_from_a_daemon_stopped_for_ten_seconds() {
    const STANDSTILL: Duration = Duration::from_secs(10);
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().build();
    let server = lab.listen(lab.server_at(443));
    let config = "[data]\nkey_name = nat_port\n[netlink]\nreceive_buffer = 4M\n";
    let daemon = DAEMON.start(lab.gateway(), config);
    daemon.wait_for_line("equals the kernel's");
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let churner = scope.spawn(|| churn(&lab, &end));
        let stop = StopOnDrop(&end);
        let before = lab.connect_to(&server, lab.client_at(0, 40_001));
        daemon.stop();
        thread::sleep(STANDSTILL / 2);
        let meanwhile = lab.connect_to(&server, lab.client_at(0, 40_002));
        let ended = before.client.local_addr().expect("it is connected");
        let peer = before.peer;
        before.reset();
        let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
        remove(&mut query, &flows::tuple(Protocol::Tcp, ended, server.address()));
        thread::sleep(STANDSTILL / 2);
        daemon.go_on();
        // The first responses after it are exact.
        let mut client = ask(&lab, &daemon);
        let named = |port: u16| {
            format!(
                "/v1/lookup?protocol=tcp&nat_ip={}&nat_port={port}&dst_ip=198.51.100.1&dst_port=443",
                peer.ip()
            )
        };
        let answer = client.get(&named(meanwhile.peer.port()));
        assert_eq!(answer.json()["matches"][0]["src_port"], 40_002, "{}", answer.text());
        let answer = client.get(&format!("{}&state=live", named(peer.port())));
        assert_eq!(answer.status, 404, "it ended while the daemon was stopped: {}", answer.text());

        drop(stop);
        let made = churner.join().expect("the churn finished");
        let took = wait_complete(&lab, &daemon, Instant::now());
        let found = compare(&mut query, || ask(&lab, &daemon), lab.server_at(443));
        let overruns = daemon.stderr().matches("conntrack events lost").count();
        println!(
            "standstill of 10 s: {made} made and removed, {overruns} overruns; {took:.1?} after the last {found}"
        );
        assert!(overruns > 0, "no event was lost");
        assert!(found.is_none(found.entries) && found.entries > 1000, "{found}");
        check_time(took, &found);
    });
}

#[test]
fn connections_that_ended_without_a_destroy_event_are_not_reported_as_live() {
    const CONNECTIONS: u16 = 200;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    // With 2, connections get events only if something listens, in any namespace of this machine. With 0, connections
    // get none even when other daemons listen.
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "0");
    let server = lab.listen(lab.server_at(443));
    let old: Vec<_> =
        (0..CONNECTIONS).map(|index| lab.connect_to(&server, lab.client_at(0, 40_000 + index))).collect();
    let ports: Vec<_> = old.iter().map(|connection| connection.peer.port()).collect();
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "2");
    let config = "[filter]\ndst_port = 443\n[data]\nkey_name = nat_port\nsweep_interval = 300\n";
    let daemon = DAEMON.start(lab.gateway(), config);
    daemon.wait_for_line("equals the kernel's");
    let mut client = ask(&lab, &daemon);
    let live_by_port =
        |client: &mut Client, port: u16| client.get(&format!("/v1/lookup?nat_port={port}&state=live")).status;
    let live = |client: &mut Client| {
        client.get("/v1/mappings?state=live").text().lines().filter(|line| !line.is_empty()).count()
    };
    let metric = |client: &mut Client, name: &str| {
        let answer = client.get("/metrics");
        let page = answer.text();
        let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{page}"));
        line.trim().parse::<u32>().expect("a number")
    };
    assert!(ports.iter().all(|port| live_by_port(&mut client, *port) == 200));

    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
    for connection in &old[..100] {
        let from = connection.client.local_addr().expect("it is connected");
        remove(&mut query, &flows::tuple(Protocol::Tcp, from, server.address()));
    }
    let (mut wrong, mut absent) = (0, 0);
    for (index, port) in ports.iter().enumerate() {
        match (index < 100, live_by_port(&mut client, *port)) {
            (true, 200) => wrong += 1,
            (false, 404) => absent += 1,
            _ => {}
        }
        // /v1 reports it as just closed, and the legacy route still finds it.
        if index < 100 {
            let answer = client.get(&format!("/v1/lookup?nat_port={port}"));
            assert_eq!(answer.json()["matches"][0]["state"], "closed", "{}", answer.text());
            assert_eq!(client.get(&format!("/nat_port/{port}")).status, 200);
        }
    }
    println!(
        "ended without a DESTROY event: 100 of {CONNECTIONS}: {wrong} answered as live, {absent} of the others absent"
    );
    assert_eq!((live(&mut client), wrong, absent), (100, 0, 0));

    // Without a lookup, they are verified in the background.
    for connection in &old[100..] {
        let from = connection.client.local_addr().expect("it is connected");
        remove(&mut query, &flows::tuple(Protocol::Tcp, from, server.address()));
    }
    wait_until("they are closed", || metric(&mut client, "pynatconnd_mappings{state=\"live\"}") == 0);
    let reported = metric(&mut client, "pynatconnd_events_total{type=\"destroy\"}");
    assert_eq!(reported, 0, "the kernel reported their end");
}

#[test]
fn a_kernel_that_reports_no_events_is_queried() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "0");
    let server = lab.listen(lab.server_at(443));
    let old = lab.connect_to(&server, lab.client_at(0, 40_001));
    let daemon = DAEMON.start(lab.gateway(), "[data]\nkey_name = nat_port\n");
    daemon.wait_for_line("net.netfilter.nf_conntrack_events is 0");
    let mut client = ask(&lab, &daemon);
    let new: Vec<_> =
        (2..52).map(|index| lab.connect_to(&server, lab.client_at(0, 40_000 + index))).collect();
    let mut learnt = std::collections::BTreeMap::<String, u32>::new();
    for connection in new.iter().chain([&old]) {
        let (ip, port) = (connection.peer.ip(), connection.peer.port());
        let path =
            format!("/v1/lookup?protocol=tcp&nat_ip={ip}&nat_port={port}&dst_ip=198.51.100.1&dst_port=443");
        let answer = client.get(&path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let (json, from) = (answer.json(), connection.client.local_addr().expect("it is connected"));
        assert_eq!(json["complete"], false);
        assert_eq!(json["matches"][0]["src_port"], from.port());
        *learnt.entry(json["matches"][0]["learnt"].as_str().expect("a word").to_owned()).or_default() += 1;
    }
    let unknown = client.get("/v1/lookup?nat_port=39999");
    assert_eq!((unknown.status, unknown.json()["complete"].as_bool()), (404, Some(false)));
    assert_eq!(client.get("/readyz").status, 503);

    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
    let ended = new[0].client.local_addr().expect("it is connected");
    remove(&mut query, &flows::tuple(Protocol::Tcp, ended, server.address()));
    let path = format!("/v1/lookup?nat_port={}&state=live", new[0].peer.port());
    assert_eq!(client.get(&path).status, 404, "a deleted one");
    println!("events switched off: 51 of 51 answered, learnt by {learnt:?}; the one that ended is not live");
}
