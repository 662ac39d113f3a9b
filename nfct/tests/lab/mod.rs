//! What the tests on the real kernel share.
#![allow(dead_code, unreachable_pub)]

pub mod netns;

use std::time::{Duration, Instant};

use nfct::{Conntrack, Layer4, Protocol, Query, Status, Tuple};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread in a fresh network namespace, which ends with it.
pub fn in_fresh_namespace(test: impl FnOnce() + Send + 'static) {
    let outcome = std::thread::spawn(move || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => test(),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: needs root to make a network namespace: {error}");
        }
        Err(error) => panic!("CI must be able to make a network namespace: {error}"),
    });
    if let Err(panic) = outcome.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn tuple(protocol: Protocol, src: &str, dst: &str, layer4: Layer4) -> Tuple {
    Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), protocol, layer4, zone: 0 }
}

/// A source-translated TCP connection from inside port `port`.
pub fn masqueraded(port: u16) -> (Tuple, Tuple) {
    let ports = |src, dst| Layer4::Ports { src, dst };
    (
        tuple(Protocol::Tcp, "192.168.7.2", "198.51.100.1", ports(port, 443)),
        tuple(Protocol::Tcp, "198.51.100.1", "100.64.2.1", ports(443, port.wrapping_add(1))),
    )
}

/// The same for UDP over IPv6, not translated.
pub fn over_ipv6(port: u16) -> (Tuple, Tuple) {
    let ports = |src, dst| Layer4::Ports { src, dst };
    (
        tuple(Protocol::Udp, "fd00:7::2", "2001:db8::1", ports(port, 53)),
        tuple(Protocol::Udp, "2001:db8::1", "fd00:7::2", ports(53, port)),
    )
}

/// In this zone, in both directions.
pub fn zoned(zone: u16, (original, reply): (Tuple, Tuple)) -> (Tuple, Tuple) {
    (Tuple { zone, ..original }, Tuple { zone, ..reply })
}

/// An entry that stays, with mark 7.
pub fn entry((original, reply): (Tuple, Tuple)) -> Conntrack {
    let mut entry = Conntrack::new().unwrap();
    entry.set_tuples(&original, &reply).unwrap().set_timeout(Duration::from_secs(300));
    entry.set_status(Status::CONFIRMED | Status::ASSURED | Status::SEEN_REPLY).set_mark(7);
    if original.protocol == Protocol::Tcp {
        entry.set_tcp_state(3);
    }
    entry
}

pub fn create(query: &mut Query, tuples: (Tuple, Tuple)) {
    query.create(&entry(tuples)).unwrap_or_else(|error| panic!("{}: {error}", tuples.0));
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
