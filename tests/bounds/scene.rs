//! The scene of these tests: a gateway with many entries, a daemon, and clients with addresses of their own.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lab::flows::{create, source_nat};
use lab::http::{Client, Response};
use lab::{Daemon, DaemonBinary, Lab, PATIENCE, wait_within};
use nfct::{Protocol, Query, Tuple};
use socket2::{Domain, Socket, Type};

const DAEMON: DaemonBinary = DaemonBinary::at(env!("CARGO_BIN_EXE_pynatconnd"));

/// The limit for what takes the daemon some seconds by design.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// Memory that a load may need in addition, in bytes.
const MORE: u64 = 100 << 20;
/// Memory that may remain afterwards, in bytes.
const REMAINS: u64 = 20 << 20;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Whether the full numbers are run.
pub(crate) fn is_long() -> bool {
    std::env::var_os("PYNATCONND_LONG").is_some()
}

/// `usually`, or `long` for the full numbers.
pub(crate) fn amount<T>(usually: T, long: T) -> T {
    if is_long() { long } else { usually }
}

/// A configuration with more keys of `[data]`. Requests are connections too; the filter keeps them out of the table.
pub(crate) fn config(key: &str, data: &str) -> String {
    format!(
        "[filter]\nnat_only = yes\n[data]\nkey_name = {key}\n{data}\
         [http_server]\nhost = 127.0.0.1\nport = 0\nip_acl = 127.0.0.0/8\n"
    )
}

pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pub(crate) daemon: Daemon,
    raised: Option<(String, String)>,
    _alone: MutexGuard<'static, ()>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some((path, before)) = &self.raised {
            let _ = fs::write(path, before);
        }
    }
}

impl Scene {
    /// A daemon for one key. `None` without what the lab needs.
    pub(crate) fn new(key: &str) -> Option<Self> {
        Self::with(&config(key, ""))
    }

    /// A daemon with this configuration.
    pub(crate) fn with(config: &str) -> Option<Self> {
        if !lab::require() {
            return None;
        }
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        raise_open_files(std::process::id());
        let lab = Lab::builder().build();
        let daemon = DAEMON.start(lab.gateway(), config);
        raise_open_files(daemon.pid());
        let scene = Self { lab, daemon, raised: raise_entries(), _alone: alone };
        // What the first requests need stays.
        for path in ["/v1/mappings", "/debug", "/metrics", "/v1/lookup?nat_port=1"] {
            scene.client(99).get(path);
        }
        Some(scene)
    }

    /// The address of a client.
    pub(crate) fn address(number: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, 0, number).into()
    }

    /// A connection from a client's address, with a receive buffer of this size.
    pub(crate) fn connect(&self, number: u8, receive_buffer: usize) -> std::io::Result<TcpStream> {
        let to = self.daemon.local_addr();
        self.lab.gateway().enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_recv_buffer_size(receive_buffer)?;
            socket.bind(&SocketAddr::new(Self::address(number), 0).into())?;
            socket.connect_timeout(&to.into(), PATIENCE)?;
            Ok(socket.into())
        })
    }

    pub(crate) fn client(&self, number: u8) -> Client {
        Client::over(self.connect(number, 1 << 20).expect("the daemon can be reached")).unwrap()
    }

    /// Connections of a client that send this and read nothing.
    pub(crate) fn silent(&self, number: u8, count: usize, request: &str) -> Vec<TcpStream> {
        let connect = |_| {
            let mut stream = self.connect(number, 4096).ok()?;
            stream.write_all(request.as_bytes()).ok()?;
            Some(stream)
        };
        (0..count).filter_map(connect).collect()
    }

    /// Creates entries with these numbers. The daemon keeps up also on a machine that is busy with other work, where
    /// it would lose events without any load.
    pub(crate) fn fill(&self, tuples: impl Fn(u32) -> (Tuple, Tuple) + Send, numbers: std::ops::Range<u32>) {
        const PART: usize = 20_000;
        let live = || self.metric("pynatconnd_mappings{state=\"live\"}");
        let before = live();
        let mut query = self.lab.gateway().enter(Query::open).expect("ctnetlink is available");
        for first in numbers.clone().step_by(PART) {
            let last = numbers.end.min(first + PART as u32);
            (first..last).for_each(|number| create(&mut query, &tuples(number)));
            let wanted = before + f64::from(last - numbers.start);
            wait_within(LONG, "the daemon knows all entries", || live() >= wanted);
        }
    }

    /// A metric, or the sum of those whose names begin like this.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let page = self.client(98).get("/metrics");
        let lines = page.text().lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The daemon's resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes.expect("the daemon runs") << 10
    }

    /// Checks the memory that a load needed, and waits until it is given back. `before` is the memory before it,
    /// `grown` how much more the table itself needs since then.
    pub(crate) fn check_memory(&self, before: u64, most: u64, grown: u64) {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!("memory: {:.1} MiB before, at most {:.1} MiB", mebibytes(before), mebibytes(most));
        assert!(most < before + grown + MORE, "the load needed too much memory");
        let given_back = || self.resident() < before + grown + REMAINS;
        wait_within(LONG, "the memory is given back", given_back);
        println!("memory: {:.1} MiB afterwards", mebibytes(self.resident()));
    }

    /// The events of the kernel that were lost so far.
    pub(crate) fn losses(&self) -> f64 {
        self.metric("pynatconnd_socket_drops_total")
    }

    /// Checks that no event was lost since there were `before` losses.
    pub(crate) fn check_losses(&self, before: f64) {
        let lost = self.losses() - before;
        println!("{lost} events lost");
        assert_eq!(lost, 0.0);
    }
}

/// The status of each of these connections, as far as they have one within the time.
pub(crate) fn statuses(connections: &[TcpStream], within: Duration) -> Vec<Option<u16>> {
    let read = |mut stream: &TcpStream| {
        stream.set_read_timeout(Some(within)).ok()?;
        let mut head = [0; 12];
        loop {
            match stream.read_exact(&mut head) {
                Ok(()) => return std::str::from_utf8(&head[9..]).ok()?.parse().ok(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    };
    connections.iter().map(read).collect()
}

/// The status and the JSON of a response.
pub(crate) fn status_and_json(response: &Response) -> (u16, serde_json::Value) {
    (response.status, response.json())
}

/// Entry number `number`, with its own inside host, public port and server.
pub(crate) fn numbered(number: u32) -> (Tuple, Tuple) {
    const PORTS: u32 = 50_000;
    let port = 10_000 + u16::try_from(number % PORTS).unwrap();
    let inside = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number);
    let public = Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 8, 0)) + number / PORTS);
    let server = SocketAddr::from(([198, 51, 100, 1], 443));
    source_nat(Protocol::Tcp, (inside, 5000).into(), server, (public, port).into())
}

/// Entry number `number` with a public address and port that all of them share.
pub(crate) fn crowded(number: u32) -> (Tuple, Tuple) {
    let inside = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + number);
    let server = Ipv4Addr::from(u32::from(Ipv4Addr::new(203, 0, 0, 0)) + number);
    let public = SocketAddr::from(([100, 64, 9, 9], 7000));
    source_nat(Protocol::Tcp, (inside, 5000).into(), (server, 443).into(), public)
}

fn raise_open_files(process: u32) {
    let output = std::process::Command::new("prlimit")
        .args(["--nofile=16384".to_owned(), format!("--pid={process}")])
        .output();
    let output = output.expect("prlimit of the package util-linux can be run");
    assert!(output.status.success(), "{output:?}");
}

/// Raises the kernel's limit on entries. Returns what to restore.
fn raise_entries() -> Option<(String, String)> {
    const ENTRIES: u64 = 2_000_000;
    let path = "/proc/sys/net/netfilter/nf_conntrack_max".to_owned();
    let before = fs::read_to_string(&path).ok()?.trim().to_owned();
    if before.parse::<u64>().ok()? >= ENTRIES {
        return None;
    }
    fs::write(&path, ENTRIES.to_string()).ok()?;
    Some((path, before))
}
