//! Sample connections and their entries, for the tests of nfct on the real kernel.

use std::time::Duration;

use nfct::{Conntrack, Expectation, Layer4, Protocol, Query, Status, Tuple};

/// One direction of a connection in zone 0, with addresses as text.
pub fn tuple(protocol: Protocol, src: &str, dst: &str, layer4: Layer4) -> Tuple {
    Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), protocol, layer4, zone: 0 }
}

/// One direction of a TCP connection in zone 0, with addresses as text.
pub fn tcp(src: &str, sport: u16, dst: &str, dport: u16) -> Tuple {
    tuple(Protocol::Tcp, src, dst, Layer4::Ports { src: sport, dst: dport })
}

/// A source-translated TCP connection from inside port `port`.
pub fn masqueraded(port: u16) -> (Tuple, Tuple) {
    let ports = |src, dst| Layer4::Ports { src, dst };
    (
        tuple(Protocol::Tcp, "192.168.7.2", "198.51.100.1", ports(port, 443)),
        tuple(Protocol::Tcp, "198.51.100.1", "100.64.2.1", ports(443, port.wrapping_add(1))),
    )
}

/// A UDP connection over IPv6 from inside port `port`, not translated.
pub fn over_ipv6(port: u16) -> (Tuple, Tuple) {
    let ports = |src, dst| Layer4::Ports { src, dst };
    (
        tuple(Protocol::Udp, "fd00:7::2", "2001:db8::1", ports(port, 53)),
        tuple(Protocol::Udp, "2001:db8::1", "fd00:7::2", ports(53, port)),
    )
}

/// The same connection in this zone, in both directions.
pub fn zoned(zone: u16, (original, reply): (Tuple, Tuple)) -> (Tuple, Tuple) {
    (Tuple { zone, ..original }, Tuple { zone, ..reply })
}

/// An entry with a timeout of five minutes and mark 7.
pub fn entry((original, reply): (Tuple, Tuple)) -> Conntrack {
    let mut entry = Conntrack::new().unwrap();
    entry.set_tuples(&original, &reply).unwrap().set_timeout(Duration::from_secs(300));
    entry.set_status(Status::CONFIRMED | Status::ASSURED | Status::SEEN_REPLY).set_mark(7);
    if original.protocol == Protocol::Tcp {
        entry.set_tcp_state(3);
    }
    entry
}

/// Creates the entry of a connection in the namespace that `query` was opened in.
pub fn create(query: &mut Query, tuples: (Tuple, Tuple)) {
    query.create(&entry(tuples)).unwrap_or_else(|error| panic!("{}: {error}", tuples.0));
}

/// The expectation after a change.
pub fn with(mut expectation: Expectation, change: impl FnOnce(&mut Expectation)) -> Expectation {
    change(&mut expectation);
    expectation
}
