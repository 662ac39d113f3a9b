//! Conntrack entries that are created through ctnetlink, without a packet: for connections that no socket
//! here can open, and for more connections than sockets could open.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nfct::{Conntrack, Family, Flow, Layer4, Protocol, Query, Status, Tuple};
use serde::Deserialize;

use super::http::Client;

/// The two tuples of a connection with ports from `src` to `dst`, with the public address and port `nat`.
pub fn source_nat(protocol: Protocol, src: SocketAddr, dst: SocketAddr, nat: SocketAddr) -> (Tuple, Tuple) {
    (tuple(protocol, src, dst), tuple(protocol, dst, nat))
}

/// One direction of a connection with ports, in zone 0.
pub fn tuple(protocol: Protocol, src: SocketAddr, dst: SocketAddr) -> Tuple {
    let layer4 = Layer4::Ports { src: src.port(), dst: dst.port() };
    Tuple { src: src.ip(), dst: dst.ip(), protocol, layer4, zone: 0 }
}

/// An entry like the kernel's for an established connection.
pub fn entry(original: &Tuple, reply: &Tuple) -> Conntrack {
    const ESTABLISHED: u8 = 3;
    let mut entry = Conntrack::new().expect("memory is available");
    entry.set_tuples(original, reply).unwrap().set_timeout(Duration::from_secs(3000));
    entry.set_status(Status::CONFIRMED | Status::ASSURED | Status::SEEN_REPLY);
    if original.protocol == Protocol::Tcp {
        entry.set_tcp_state(ESTABLISHED);
    }
    entry
}

/// Creates an entry in the namespace that `query` was opened in.
pub fn create(query: &mut Query, (original, reply): &(Tuple, Tuple)) {
    query.create(&entry(original, reply)).unwrap_or_else(|error| panic!("{original}: {error}"));
}

/// Deletes the entry with this original tuple. Returns whether it existed.
pub fn remove(query: &mut Query, original: &Tuple) -> bool {
    let mut named = Conntrack::new().expect("memory is available");
    named.set_tuples(original, &original.reversed()).unwrap();
    query.delete(&named).unwrap_or_else(|error| panic!("{original}: {error}"))
}

/// One lifetime of a connection with ports, as both the kernel and the daemon report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub struct Lifetime {
    src_ip: IpAddr,
    src_port: u16,
    nat_ip: IpAddr,
    nat_port: u16,
    server_ip: IpAddr,
    server_port: u16,
    id: u32,
}

impl From<&Flow> for Lifetime {
    fn from(flow: &Flow) -> Self {
        let (Layer4::Ports { src: src_port, .. }, Layer4::Ports { src: server_port, dst: nat_port }) =
            (flow.original.layer4, flow.reply.layer4)
        else {
            panic!("{} has no ports", flow.original)
        };
        Lifetime {
            src_ip: flow.original.src,
            src_port,
            nat_ip: flow.reply.dst,
            nat_port,
            server_ip: flow.reply.src,
            server_port,
            id: flow.id,
        }
    }
}

/// How the daemon's table differs from the kernel's.
#[derive(Debug)]
pub struct Difference {
    /// Entries of the kernel.
    pub entries: usize,
    /// Mappings of the daemon without an entry of the kernel.
    pub stale: usize,
    /// Entries of the kernel without a mapping of the daemon.
    pub missing: usize,
    /// The duration of a dump on this machine at its present load.
    pub dumped_in: Duration,
}

impl Difference {
    /// Whether there are `entries` entries, none stale and none missing.
    pub fn is_none(&self, entries: usize) -> bool {
        (self.entries, self.stale, self.missing) == (entries, 0, 0)
    }
}

/// `1000 entries (0 stale, 0 missing)`
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries ({} stale, {} missing)", self.entries, self.stale, self.missing)
    }
}

/// Compares the daemon's live mappings of connections to `server` with the kernel's table, entry by entry.
/// The kernel's table must not change meanwhile. `connect` is called after the dump, which can take longer than
/// the daemon keeps an idle connection.
pub fn compare(query: &mut Query, connect: impl FnOnce() -> Client, server: SocketAddr) -> Difference {
    let begun = Instant::now();
    let dump = query.dump(Family::Any).expect("the table can be read");
    let of_server = |flow: &Flow| {
        flow.original.dst == server.ip()
            && matches!(flow.original.layer4, Layer4::Ports { dst, .. } if dst == server.port())
    };
    let flows = dump.map(|flow| flow.expect("the table can be read"));
    let mut kernel: HashSet<Lifetime> = flows.filter(of_server).map(|flow| Lifetime::from(&flow)).collect();
    let dumped_in = begun.elapsed();
    let entries = kernel.len();
    let path = format!("/v1/mappings?state=live&dst_ip={}&dst_port={}", server.ip(), server.port());
    let mut stale = 0;
    connect().get_lines(&path, |line| {
        let lifetime: Lifetime =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        stale += usize::from(!kernel.remove(&lifetime));
    });
    Difference { entries, stale, missing: kernel.len(), dumped_in }
}
