//! A gateway with a daemon, UDP flows through it, and the answers about them.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use lab::http::{Client, Response};
use lab::traffic::uninterrupted;
use lab::{Daemon, Lab, PATIENCE, flows, wait_within};
use nfct::{Protocol, Query};

use super::alone::Changed;
use super::binary::DAEMON;
use super::lookups::{Answer, Match, read_metric};

/// How long a test waits for a resync, or for the sweep of a kernel that tells nothing, on a busy machine.
pub(crate) const RESYNC: Duration = Duration::from_secs(20);

/// The server of most tests.
pub(crate) const PORT: u16 = 443;

/// Only translated connections: not the questions themselves.
pub(crate) fn config(more: &str) -> String {
    format!("[filter]\nnat_only = yes\n[data]\nkey_name = nat_port\n{more}")
}

/// A gateway with a daemon whose table equals the kernel's, inside hosts and a UDP server.
pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pub(crate) server: UdpSocket,
    pub(crate) daemon: Daemon,
}

impl Scene {
    pub(crate) fn build(clients: u8, config: String) -> Self {
        let lab = Lab::builder().clients(clients).build();
        let server = lab.udp_server(lab.server_at(PORT));
        let daemon = DAEMON.start(lab.gateway(), config);
        daemon.wait_for_line("equals the kernel's");
        Self { lab, server, daemon }
    }
}

/// Questions to a daemon, over one connection that is opened anew before the daemon would close it.
pub(crate) struct Questions<'a> {
    lab: &'a Lab,
    address: SocketAddr,
    client: Client,
    used: Instant,
}

impl<'a> Questions<'a> {
    pub(crate) fn to(lab: &'a Lab, daemon: &Daemon) -> Self {
        let address = daemon.local_addr();
        let client = Client::connect(lab.gateway(), address);
        Self { lab, address, client, used: Instant::now() }
    }

    /// The response to a GET request.
    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.request(path, &[])
    }

    fn request(&mut self, path: &str, headers: &[(&str, &str)]) -> Response {
        // The daemon closes a connection after 5 seconds without a request.
        if self.used.elapsed() > Duration::from_secs(3) {
            self.client = Client::connect(self.lab.gateway(), self.address);
        }
        let response = self.client.request("GET", path, headers, b"");
        self.used = Instant::now();
        response
    }

    /// The answer of `/v1/lookup` to these fields.
    pub(crate) fn look_up(&mut self, fields: &str) -> Answer {
        Answer::read(fields, &self.get(&format!("/v1/lookup?{fields}")))
    }

    /// The live mappings that `/v1/mappings` lists.
    pub(crate) fn live_mappings(&mut self, fields: &str) -> Vec<Match> {
        let response = self.get(&format!("/v1/mappings?state=live&{fields}"));
        let lines = response.text().lines().filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_str(line).expect("a mapping")).collect()
    }

    /// The inside address and port that `/v1/auth` names, and whether it calls this complete.
    pub(crate) fn auth(
        &mut self,
        public: SocketAddr,
        server: Option<SocketAddr>,
    ) -> (Option<SocketAddr>, bool) {
        let mut fields =
            vec![("X-Real-IP", public.ip().to_string()), ("X-Real-Port", public.port().to_string())];
        if let Some(server) = server {
            fields.push(("X-Dst-IP", server.ip().to_string()));
            fields.push(("X-Dst-Port", server.port().to_string()));
        }
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let response = self.request("/v1/auth", &fields);
        let header = |name| response.header(name);
        let host = (header("x-nat-found") == Some("1")).then(|| {
            let [ip, port] =
                ["x-nat-src-ip", "x-nat-src-port"].map(|name| header(name).expect("it is found"));
            SocketAddr::new(ip.parse().expect("an address"), port.parse().expect("a port"))
        });
        (host, header("x-nat-complete") == Some("1"))
    }

    /// The inside address and port that the legacy route names for a public port.
    pub(crate) fn legacy(&mut self, port: u16) -> Result<SocketAddr, u16> {
        let response = self.get(&format!("/nat_port/{port}"));
        if response.status != 200 {
            return Err(response.status);
        }
        let json = response.json();
        let ip: Option<IpAddr> = json["src_ip"].as_str().and_then(|ip| ip.parse().ok());
        let port = json["src_port"].as_u64().and_then(|port| u16::try_from(port).ok());
        Ok((ip.expect("an address"), port.expect("a port")).into())
    }

    /// Whether the daemon calls its table complete.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.get("/readyz").status == 200
    }

    /// Waits until it does.
    pub(crate) fn wait_ready(&mut self) {
        wait_within(RESYNC, "the table is complete", || self.is_ready());
    }

    /// The value of a metric with its labels, if the daemon has it.
    pub(crate) fn metric(&mut self, name: &str) -> Option<f64> {
        read_metric(self.get("/metrics").text(), name)
    }
}

/// A UDP flow through the gateway.
pub(crate) struct UdpFlow {
    pub(crate) socket: UdpSocket,
    /// The inside address and port.
    pub(crate) src: SocketAddr,
    pub(crate) public: SocketAddr,
    pub(crate) server: SocketAddr,
}

impl UdpFlow {
    /// Begins one from an inside address and port.
    pub(crate) fn begin(lab: &Lab, src: SocketAddr, server: &UdpSocket) -> Self {
        let socket = lab.udp_client(src);
        let public = exchange(&socket, server);
        Self { socket, src, public, server: server.local_addr().expect("the server is bound") }
    }

    /// Begins one from each of these ports of an inside host.
    pub(crate) fn begin_all(
        lab: &Lab,
        host: u8,
        ports: impl IntoIterator<Item = u16>,
        server: &UdpSocket,
    ) -> Vec<Self> {
        ports.into_iter().map(|port| Self::begin(lab, lab.client_at(host, port), server)).collect()
    }

    /// The fields of a lookup that names the whole reply tuple.
    pub(crate) fn named(&self) -> String {
        named(self.public, self.server)
    }

    /// Deletes its entry.
    pub(crate) fn delete(&self, query: &mut Query) {
        let original = flows::tuple(Protocol::Udp, self.src, self.server);
        assert!(flows::remove(query, &original), "{original} is not in the kernel's table");
    }
}

/// Sends a datagram from inside to outside and one back, again and again until both have arrived: the kernel drops some
/// while its table, which other namespaces use too, is full. Returns the public address and port.
pub(crate) fn exchange(client: &UdpSocket, server: &UdpSocket) -> SocketAddr {
    const TRIES: u32 = 20;
    let [from, to] = [client, server].map(|socket| socket.local_addr().expect("it is bound"));
    for socket in [client, server] {
        socket.set_read_timeout(Some(PATIENCE / TRIES)).expect("the socket is open");
    }
    let message = from.to_string();
    // Passes over what an earlier try has sent.
    let receive = |socket: &UdpSocket| loop {
        let mut buffer = [0; 64];
        let (length, peer) = uninterrupted(|| socket.recv_from(&mut buffer)).ok()?;
        if &buffer[..length] == message.as_bytes() {
            return Some(peer);
        }
    };
    for _ in 0..TRIES {
        client.send_to(message.as_bytes(), to).unwrap_or_else(|error| panic!("cannot send to {to}: {error}"));
        let Some(public) = receive(server) else { continue };
        server.send_to(message.as_bytes(), public).unwrap_or_else(|error| panic!("to {public}: {error}"));
        if receive(client).is_some() {
            return public;
        }
    }
    panic!("nothing from {from} came to {to} and back in {TRIES} tries")
}

/// The fields of a lookup that names the whole reply tuple of a UDP flow.
pub(crate) fn named(public: SocketAddr, server: SocketAddr) -> String {
    let (nat_ip, nat_port) = (public.ip(), public.port());
    let (server_ip, server_port) = (server.ip(), server.port());
    format!(
        "protocol=udp&nat_ip={nat_ip}&nat_port={nat_port}&server_ip={server_ip}&server_port={server_port}&zone=0"
    )
}

/// ctnetlink in the gateway's namespace.
pub(crate) fn ctnetlink(lab: &Lab) -> Query {
    lab.gateway().enter(Query::open).expect("ctnetlink is available")
}

/// Sets `nf_conntrack_events` of the gateway's namespace. While it is 0, connections begin that will never send an event,
/// as if nobody listened.
pub(crate) fn set_events(lab: &Lab, value: &str) {
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", value);
}

/// Resizes the kernel's hash table, which all namespaces share, to a quarter and back. Returns whether this process can:
/// only the first namespace may.
pub(crate) fn resize_there_and_back() -> bool {
    let number = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_buckets").ok();
    let number = number.and_then(|number| number.trim().parse::<u32>().ok());
    number.is_some_and(|number| Changed::to("nf_conntrack_buckets", number / 4).is_some())
}
