//! What the daemon does when the kernel's word is lost: bursts that overrun its buffer, a standstill of
//! its own, connections that end without a word, a kernel that tells of nothing. In the end its table
//! equals the kernel's, entry by entry; until then it says that it may not.

mod lab;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lab::flows::{self, compare, make, remove};
use lab::http::Client;
use lab::{Daemon, Lab, wait_until};
use nfct::{Family, Protocol, Query, Tuple};
use nix::sys::signal::Signal;

/// Entries of a burst.
const BURST: u32 = 1_000_000;
/// Entries made after it.
const ANEW: u32 = 10_000;
/// How long after the last of a burst the table may be unequal to the kernel's.
const MENDED_WITHIN: Duration = Duration::from_secs(5);

/// The kernel's limit counts the entries of all namespaces, and one test's flood is another's delay.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A kernel parameter of the whole machine, raised until this is dropped.
struct Raised {
    path: String,
    before: u64,
}

impl Raised {
    /// `None` where it is high enough, or can't be raised.
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

/// Entry number `number`, to the first server from an inside host and port of its own.
fn numbered(lab: &Lab, number: u32) -> (Tuple, Tuple) {
    const PORTS: u32 = 60_000;
    let port = 1024 + u16::try_from(number % PORTS).expect("a port");
    let host = number / PORTS;
    let inside = Ipv4Addr::from(0x0a00_0000 + host);
    let public = Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 8, 0)) + host);
    // The other end of the range: what is public tells apart from what is inside.
    let nat_port = 65_535 - (port - 1024);
    flows::source_nat(
        Protocol::Tcp,
        (inside, port).into(),
        lab.server_at(443),
        (public, nat_port).into(),
    )
}

/// Makes the entries of a range, as fast as it goes.
fn fill(lab: &Lab, numbers: std::ops::Range<u32>) {
    const THREADS: u32 = 3;
    let part = numbers.len() as u32 / THREADS + 1;
    thread::scope(|scope| {
        for first in (numbers.start..numbers.end).step_by(part as usize) {
            let last = numbers.end.min(first + part);
            scope.spawn(move || {
                let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is there");
                (first..last).for_each(|number| make(&mut query, &numbered(lab, number)));
            });
        }
    });
}

/// `/v1/lookup?...` for one entry, named wholly from outside.
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

/// Ends whoever watches it when it is dropped, by a panic too.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until the daemon says that its table is whole; gives how long that took.
fn mended(lab: &Lab, daemon: &Daemon, quiet: Instant) -> Duration {
    let mut client = ask(lab, daemon);
    wait_until("the table is whole", || client.get("/readyz").status == 200);
    let took = quiet.elapsed();
    assert!(took < MENDED_WITHIN, "whole only {took:?} after the last event");
    took
}

/// What somebody who asks all the time sees.
#[derive(Debug, Default)]
struct Seen {
    asked: u32,
    unready: u32,
    incomplete: u32,
    hits: u32,
}

/// Asks for an entry that nobody made and, while `lives`, for one that lives, until told to end.
fn watch(lab: &Lab, daemon: &Daemon, end: &AtomicBool, lives: &AtomicBool) -> Seen {
    let mut client = ask(lab, daemon);
    let (known, unknown) = (numbered(lab, BURST), numbered(lab, BURST + 1));
    let (known_path, unknown_path) = (lookup_path(&known), lookup_path(&unknown));
    let mut seen = Seen::default();
    while !end.load(Ordering::Relaxed) {
        seen.asked += 1;
        seen.unready += u32::from(client.get("/readyz").status == 503);
        let answer = client.get(&unknown_path);
        assert_eq!(answer.status, 404, "{}", answer.text());
        seen.incomplete += u32::from(answer.json()["complete"] == false);
        let expected = lives.load(Ordering::SeqCst);
        let answer = client.get(&known_path);
        if expected && lives.load(Ordering::SeqCst) {
            assert_eq!(answer.status, 200, "an entry that lives: {}", answer.text());
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
    let raised = (Raised::to("nf_conntrack_buckets", u64::from(BURST)), Raised::to("nf_conntrack_max", limit));
    let lab = Lab::builder().build();
    let allowed = lab.gateway().read_sysctl("net.netfilter.nf_conntrack_max").expect("it tracks");
    let allowed: u32 = allowed.parse().expect("a number");
    // Leave room for what else lives on this machine.
    let number = BURST.min(allowed / 4 * 3);
    let note = if number < BURST { " (nf_conntrack_max allows no more)" } else { "" };

    let daemon = Daemon::start(lab.gateway(), format!("[data]\nkey_name = nat_port\n{netlink}"));
    daemon.wait_for_line("equals the kernel's");
    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is there");
    make(&mut query, &numbered(&lab, BURST));

    let (end, lives) = (AtomicBool::new(false), AtomicBool::new(true));
    thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&lab, &daemon, &end, &lives));
        let stop = End(&end);

        let begun = Instant::now();
        fill(&lab, 0..number);
        let quiet = Instant::now();
        let made_in = quiet - begun;
        let after_filling = mended(&lab, &daemon, quiet);
        let full = compare(&mut query, ask(&lab, &daemon), lab.server_at(443));

        lives.store(false, Ordering::SeqCst);
        let begun = Instant::now();
        query.flush(Family::Any).expect("the table can be emptied");
        let flushed_in = begun.elapsed();
        // Even before the loss is mended nothing that is gone is answered as live.
        let mut client = ask(&lab, &daemon);
        for number in (0..number).step_by(10_000) {
            let path = lookup_path(&numbered(&lab, number));
            let answer = client.get(&format!("{path}&state=live"));
            assert_eq!(answer.status, 404, "an entry that is gone: {}", answer.text());
        }
        fill(&lab, 0..ANEW);
        let quiet = Instant::now();
        let after_flushing = mended(&lab, &daemon, quiet);
        let part = compare(&mut query, ask(&lab, &daemon), lab.server_at(443));

        drop(stop);
        let seen = watcher.join().expect("the watcher saw what it should");
        let log = daemon.stderr();
        let losses = log.matches("dropped events").count();
        let growth = log.matches("the receive buffer is").count();
        println!(
            "burst{note}: {} made in {made_in:.1?} and {} flushed in {flushed_in:.1?}, {losses} losses, buffer \
             grown {growth} times; whole {after_filling:.1?} after the filling ({} stale, {} missing), \
             {after_flushing:.1?} after the flush and {} anew ({} stale, {} missing); meanwhile {seen:?}",
            full.entries, full.entries, full.stale, full.missing, part.entries, part.stale, part.missing
        );
        assert!(losses > 0, "the burst was too small to be lost");
        assert_eq!((full.entries, full.stale, full.missing), (number as usize + 1, 0, 0));
        assert_eq!((part.entries, part.stale, part.missing), (ANEW as usize, 0, 0));
        assert!(seen.unready > 0 && seen.incomplete > 0 && seen.hits > 0, "{seen:?}");
    });
    drop(lab);
    drop(raised);
}

#[test]
fn a_burst_past_a_buffer_that_must_not_grow_is_mended() {
    burst("[netlink]\nreceive_buffer = 4K\nreceive_buffer_max = 4K\n");
}

#[test]
fn a_burst_past_a_buffer_that_may_grow_is_mended() {
    burst("[netlink]\nreceive_buffer = 4K\n");
}
