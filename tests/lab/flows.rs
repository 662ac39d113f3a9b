//! Entries of the gateway's connection tracking, made through ctnetlink without a packet: what no socket
//! here can begin, and more of them than sockets could.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nfct::{Conntrack, Family, Flow, Layer4, Protocol, Query, Status, Tuple};
use nix::errno::Errno;
use serde::Deserialize;

use super::http::Client;

/// The two tuples of a connection with ports: from `src` to `dst`, seen outside as coming from `nat`.
pub fn source_nat(protocol: Protocol, src: SocketAddr, dst: SocketAddr, nat: SocketAddr) -> (Tuple, Tuple) {
    (tuple(protocol, src, dst), tuple(protocol, dst, nat))
}

/// One direction of a connection with ports, in zone 0.
pub fn tuple(protocol: Protocol, src: SocketAddr, dst: SocketAddr) -> Tuple {
    let layer4 = Layer4::Ports { src: src.port(), dst: dst.port() };
    Tuple { src: src.ip(), dst: dst.ip(), protocol, layer4, zone: 0 }
}

/// An entry as the kernel has it of a connection that both ends have spoken on.
pub fn entry(original: &Tuple, reply: &Tuple) -> Conntrack {
    /// CONFIRMED, ASSURED and SEEN_REPLY.
    const STATUS: Status = Status(8 | 4 | 2);
    const ESTABLISHED: u8 = 3;
    let mut entry = Conntrack::new().expect("there is memory");
    entry.set_tuples(original, reply).unwrap().set_timeout(Duration::from_secs(3000)).set_status(STATUS);
    if original.protocol == Protocol::Tcp {
        entry.set_tcp_state(ESTABLISHED);
    }
    entry
}

/// Puts an entry into the table of the namespace that `query` was opened in.
pub fn make(query: &mut Query, (original, reply): &(Tuple, Tuple)) {
    query.create(&entry(original, reply)).unwrap_or_else(|error| panic!("{original}: {error}"));
}

/// Removes an entry, named by its original tuple; gives whether it was there.
pub fn remove(query: &mut Query, original: &Tuple) -> bool {
    let mut named = Conntrack::new().expect("there is memory");
    named.set_tuples(original, &reversed(original)).unwrap();
    query.delete(&named).unwrap_or_else(|error| panic!("{original}: {error}"))
}

/// The tuple of the other direction, without NAT.
pub fn reversed(tuple: &Tuple) -> Tuple {
    let layer4 = match tuple.layer4 {
        Layer4::Ports { src, dst } => Layer4::Ports { src: dst, dst: src },
        Layer4::Keys { src, dst } => Layer4::Keys { src: dst, dst: src },
        other => other,
    };
    Tuple { src: tuple.dst, dst: tuple.src, layer4, ..*tuple }
}

/// One life of one connection with ports: what the kernel and the daemon are to agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub struct Life {
    src_ip: IpAddr,
    src_port: u16,
    nat_ip: IpAddr,
    nat_port: u16,
    server_ip: IpAddr,
    server_port: u16,
    id: u32,
}

impl From<&Flow> for Life {
    fn from(flow: &Flow) -> Self {
        let (Layer4::Ports { src: src_port, .. }, Layer4::Ports { src: server_port, dst: nat_port }) =
            (flow.original.layer4, flow.reply.layer4)
        else {
            panic!("{} has no ports", flow.original)
        };
        Life {
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
    /// The daemon has them, the kernel hasn't.
    pub stale: usize,
    /// The kernel has them, the daemon hasn't.
    pub missing: usize,
    /// How long this machine takes to read the kernel's table, at its present load.
    pub dumped_in: Duration,
}

impl Difference {
    /// Entries, of which none is stale and none is missing.
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

/// Holds what the daemon shows as live of the connections to `server` against the kernel's table, entry by
/// entry. Nothing is to change meanwhile; `client` is used up.
pub fn compare(query: &mut Query, client: Client, server: SocketAddr) -> Difference {
    let begun = Instant::now();
    let dump = query.dump(Family::Any).expect("the table can be read");
    let of_server = |flow: &Flow| {
        flow.original.dst == server.ip()
            && matches!(flow.original.layer4, Layer4::Ports { dst, .. } if dst == server.port())
    };
    let flows = dump.map(|flow| flow.expect("the table can be read"));
    let mut kernel: HashSet<Life> = flows.filter(of_server).map(|flow| Life::from(&flow)).collect();
    let dumped_in = begun.elapsed();
    let entries = kernel.len();
    let path = format!("/v1/mappings?state=live&dst_ip={}&dst_port={}", server.ip(), server.port());
    let mut stale = 0;
    client.get_lines(&path, |line| {
        let life: Life = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        stale += usize::from(!kernel.remove(&life));
    });
    Difference { entries, stale, missing: kernel.len(), dumped_in }
}
