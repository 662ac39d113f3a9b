//! The daemon, its clients and the connections of these tests.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use lab::http::{Client, Response};
use lab::{Daemon, Lab};
use nfct::{Conntrack, Layer4, Protocol, Query, Status, Tuple};
use serde_json::Value;

use crate::binary::DAEMON;

/// `nat_only` keeps the tests' own requests out of the table.
pub(super) const CONFIG: &str = "\
[filter]
nat_only = yes

[data]
key_name = nat_port
del_delay = 3600

[http_server]
host = 0.0.0.0
ip_acl = 198.51.100.0/24, 127.0.0.1
";

/// A lab with a daemon that has read the kernel's table.
pub(super) fn start_daemon(lab: &Lab) -> Daemon {
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    daemon.wait_for_line("the table equals the kernel's");
    daemon
}

/// An HTTP client in the server's namespace.
pub(super) fn client(lab: &Lab, daemon: &Daemon) -> Client {
    Client::connect(lab.server(), daemon.addr_on(lab.public(0)))
}

/// A socket that creates and deletes entries in the gateway's kernel.
pub(super) fn ctnetlink(lab: &Lab) -> Query {
    lab.gateway().enter(Query::open).expect("ctnetlink is available")
}

/// A connection to create: its source, destination, public address and replying server.
#[derive(Debug, Clone, Copy)]
pub(super) struct TestConnection {
    pub(super) protocol: Protocol,
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
    pub(super) nat: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) zone: u16,
    pub(super) mark: u32,
}

impl TestConnection {
    pub(super) fn new(protocol: Protocol, src: &str, dst: &str, nat: &str) -> Self {
        let [src, dst, nat] = [src, dst, nat].map(|address| address.parse().expect("an address and port"));
        Self { protocol, src, dst, nat, server: dst, zone: 0, mark: 0 }
    }

    pub(super) fn entry(&self) -> Conntrack {
        let tuple = |from: SocketAddr, to: SocketAddr, kind| {
            let layer4 = match self.protocol {
                Protocol::Icmp => Layer4::Icmp { id: self.src.port(), kind, code: 0 },
                _ => Layer4::Ports { src: from.port(), dst: to.port() },
            };
            Tuple { src: from.ip(), dst: to.ip(), protocol: self.protocol, layer4, zone: self.zone }
        };
        let mut entry = Conntrack::new().expect("memory is available");
        entry.set_tuples(&tuple(self.src, self.dst, 8), &tuple(self.server, self.nat, 0)).unwrap();
        // CONFIRMED, ASSURED and SEEN_REPLY.
        entry.set_timeout(Duration::from_secs(3600)).set_status(Status(8 | 4 | 2)).set_mark(self.mark);
        if self.protocol == Protocol::Tcp {
            entry.set_tcp_state(3);
        }
        entry
    }

    pub(super) fn create(&self, query: &mut Query) {
        query.create(&self.entry()).unwrap_or_else(|error| panic!("{error}: {self:?}"));
    }

    pub(super) fn delete(&self, query: &mut Query) {
        assert!(query.delete(&self.entry()).unwrap_or_else(|error| panic!("{error}: {self:?}")), "{self:?}");
    }
}

/// The connections of the tests, in the order in which they open; the one at [`CLOSED`] is closed.
pub(super) fn connections() -> [TestConnection; 8] {
    use Protocol::{Icmp, Tcp, Udp};
    let https = TestConnection::new(Tcp, "192.168.7.2:40001", "198.51.100.1:443", "100.64.2.1:50001");
    [
        TestConnection { mark: 7, ..https },
        // The same public address and port, another server.
        TestConnection::new(Tcp, "192.168.7.3:40002", "198.51.100.2:443", "100.64.2.1:50001"),
        TestConnection::new(Udp, "192.168.7.2:40003", "198.51.100.1:53", "100.64.2.1:50002"),
        TestConnection {
            server: "198.51.100.1:8443".parse().unwrap(),
            ..TestConnection::new(Tcp, "192.168.7.2:40004", "203.0.113.9:443", "100.64.2.2:50003")
        },
        TestConnection::new(Tcp, "[fd00:7::2]:40005", "[2001:db8::1]:443", "[2001:db8::2]:50004"),
        TestConnection { zone: 5, ..https },
        TestConnection::new(Tcp, "192.168.7.9:40009", "198.51.100.1:443", "100.64.2.1:50009"),
        TestConnection::new(Icmp, "192.168.7.2:77", "198.51.100.1:0", "100.64.2.1:77"),
    ]
}

pub(super) const CLOSED: usize = 6;

/// Opens them one after the other, each in a different millisecond.
pub(super) fn make_connections(query: &mut Query, client: &mut Client) {
    for (at, made) in connections().iter().enumerate() {
        made.create(query);
        if at == CLOSED {
            made.delete(query);
        }
        // A response proves that the daemon has it; timestamps have milliseconds.
        assert_eq!(client.get("/v1/lookup").json()["matches"].as_array().unwrap().len(), at + 1);
        thread::sleep(Duration::from_millis(2));
    }
}

/// Which of [`connections`] these mappings are.
pub(super) fn numbers<'a>(mappings: impl IntoIterator<Item = &'a Value>) -> Vec<usize> {
    let all = connections();
    let find = |mapping: &Value| {
        all.iter().position(|made| {
            mapping["src_ip"] == made.src.ip().to_string()
                && mapping["src_port"] == made.src.port()
                && mapping["zone"] == made.zone
        })
    };
    mappings
        .into_iter()
        .map(|mapping| find(mapping).unwrap_or_else(|| panic!("not ours: {mapping}")))
        .collect()
}

pub(super) fn lines(answer: &Response) -> Vec<Value> {
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("application/x-ndjson")));
    answer.text().lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// The number of lookups that the daemon has begun.
pub(super) fn lookups_begun(client: &mut Client) -> u64 {
    client.get("/nagios").json()["http_stat"]["no_of_requests"].as_u64().expect("a counter")
}

/// The ids of the kernel's entries, as the tool conntrack shows them.
pub(super) fn ids_of_the_kernel(lab: &Lab) -> BTreeSet<u64> {
    let id = |line: &str| line.split_whitespace().find_map(|word| word.strip_prefix("id=")?.parse().ok());
    ["ipv4", "ipv6"]
        .into_iter()
        .flat_map(|family| {
            let table = lab.gateway().run("conntrack", &["-L", "-o", "id", "-f", family]);
            table.lines().map(|line| id(line).expect("an id")).collect::<Vec<_>>()
        })
        .collect()
}
