//! Lookups, and what is read of their answers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::http::{Client, Response};
use lab::{Daemon, Lab, wait_until, wait_within};
use nfct::{Protocol, Tuple};
use serde::Deserialize;

/// The limit for doubts to end that end with time.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// One mapping of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct Match {
    src_ip: IpAddr,
    src_port: Option<u16>,
    dst_ip: IpAddr,
    dst_port: Option<u16>,
    nat_ip: IpAddr,
    nat_port: Option<u16>,
    server_ip: IpAddr,
    server_port: Option<u16>,
    pub(crate) id: u32,
    state: String,
    /// RFC 3339 in UTC with milliseconds, so that the text sorts like the time.
    pub(crate) opened: String,
    pub(crate) closed: Option<String>,
    pub(crate) learnt: String,
}

impl Match {
    /// The inside host's address and port.
    pub(crate) fn inside(&self) -> SocketAddr {
        (self.src_ip, self.src_port.unwrap_or_default()).into()
    }

    /// The public address and port.
    pub(crate) fn public(&self) -> SocketAddr {
        (self.nat_ip, self.nat_port.unwrap_or_default()).into()
    }

    /// What the inside host connects to.
    pub(crate) fn target(&self) -> SocketAddr {
        (self.dst_ip, self.dst_port.unwrap_or_default()).into()
    }

    /// The server's own address and port.
    pub(crate) fn server(&self) -> SocketAddr {
        (self.server_ip, self.server_port.unwrap_or_default()).into()
    }

    pub(crate) fn is_live(&self) -> bool {
        self.state == "live"
    }

    /// The reply tuple of a mapping in zone 0 without destination NAT.
    pub(crate) fn reply_tuple(&self, protocol: Protocol) -> Tuple {
        lab::flows::tuple(protocol, self.target(), self.public())
    }
}

/// An answer of `/v1/lookup`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Answer {
    pub(crate) matches: Vec<Match>,
    pub(crate) complete: bool,
}

impl Answer {
    /// Reads the response to a lookup with these fields.
    pub(crate) fn read(fields: &str, response: &Response) -> Self {
        let text = response.text();
        assert!(matches!(response.status, 200 | 404), "{fields}: {} {text}", response.status);
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{fields}: {error} in {text}"))
    }

    pub(crate) fn live_matches(&self) -> impl Iterator<Item = &Match> {
        self.matches.iter().filter(|one| one.is_live())
    }

    /// The inside ends of the live matches.
    pub(crate) fn live(&self) -> Vec<SocketAddr> {
        self.live_matches().map(Match::inside).collect()
    }

    /// The first live mapping or, if there is none, the first closed one.
    pub(crate) fn best(&self) -> Option<&Match> {
        self.live_matches().next().or_else(|| self.matches.first())
    }
}

/// Sends `/v1/lookup` with these fields.
pub(crate) fn look_up(client: &mut Client, fields: &str) -> Answer {
    Answer::read(fields, &client.get(&format!("/v1/lookup?{fields}")))
}

/// The fields that name the public five-tuple.
pub(crate) fn fully_named(protocol: Protocol, public: SocketAddr, server: SocketAddr) -> String {
    format!(
        "protocol={protocol}&nat_ip={}&nat_port={}&dst_ip={}&dst_port={}",
        public.ip(),
        public.port(),
        server.ip(),
        server.port()
    )
}

/// A client of the daemon on the gateway itself.
pub(crate) fn client(lab: &Lab, daemon: &Daemon) -> Client {
    Client::connect(lab.gateway(), daemon.local_addr())
}

/// How many reliable dumps of the kernel's table the daemon has read.
pub(crate) fn dumps(client: &mut Client) -> f64 {
    metric(client, "pynatconnd_resyncs_total{outcome=\"whole\"}")
}

/// Waits until the daemon has read the kernel's table. The table need not be complete.
pub(crate) fn wait_dumped(lab: &Lab, daemon: &Daemon) {
    let mut client = client(lab, daemon);
    wait_until("the kernel's table is read", || dumps(&mut client) > 0.0);
}

/// Waits until the daemon's table is complete.
pub(crate) fn wait_ready(lab: &Lab, daemon: &Daemon) {
    let mut client = client(lab, daemon);
    wait_until("the table is complete", || client.get("/readyz").status == 200);
}

/// Waits until an answer that finds nothing is complete: after its start a daemon does not know what has ended
/// within `del_delay`.
pub(crate) fn wait_complete(lab: &Lab, daemon: &Daemon) {
    let mut client = client(lab, daemon);
    wait_within(LIMIT, "what is not found does not exist", || look_up(&mut client, "nat_port=1").complete);
}

/// A counter or gauge of `/metrics`, by its name and labels.
pub(crate) fn metric(client: &mut Client, name: &str) -> f64 {
    let page = client.get("/metrics");
    read_metric(page.text(), name).unwrap_or_else(|| panic!("no metric {name} in\n{}", page.text()))
}

/// The value of a metric on this page, if it is there.
pub(crate) fn read_metric(page: &str, name: &str) -> Option<f64> {
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(value.parse().expect("a number"))
}
