//! The usual configuration, and helpers that act on the daemon and the kernel.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use lab::http::{self, Client, Response};
use lab::traffic::{self};
use lab::{Daemon, Lab, wait_until};
use nfct::{Conntrack, Family, Flow, Layer4, Protocol, Query, Status, Tuple};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::binary::DAEMON;

/// The gateway's inside addresses.
pub(super) const INSIDE: &str = "192.168.7.1";
pub(super) const INSIDE6: &str = "fd00:7::1";
/// Longer than any test runs.
pub(super) const FOREVER: &str = "del_delay = 3600";
/// The limit for what takes the daemon some seconds by design.
pub(super) const LONG: Duration = Duration::from_secs(40);

/// A configuration, as lines of its sections.
#[derive(Clone, Copy)]
pub(super) struct TestConfig {
    pub(super) key: &'static str,
    pub(super) data: &'static str,
    pub(super) filter: &'static str,
    pub(super) host: &'static str,
    pub(super) acl: &'static str,
    /// More sections.
    pub(super) more: &'static str,
}

/// Requests from the gateway itself are connections too; the filter keeps them out of the table.
pub(super) const USUAL: TestConfig = TestConfig {
    key: "nat_port",
    data: "",
    filter: "dst_ip = 198.51.100.1",
    host: "127.0.0.1",
    acl: "127.0.0.1",
    more: "",
};

impl TestConfig {
    pub(super) fn ini(self) -> String {
        let TestConfig { key, data, filter, host, acl, more } = self;
        format!(
            "[filter]\n{filter}\n[data]\nkey_name = {key}\n{data}\n\
             [http_server]\nhost = {host}\nport = 0\nip_acl = {acl},\n{more}\n"
        )
    }

    pub(super) fn start(self, lab: &Lab) -> Daemon {
        DAEMON.start(lab.gateway(), self.ini())
    }
}

pub(super) fn get(lab: &Lab, daemon: &Daemon, path: &str) -> Response {
    http::get(lab.gateway(), daemon.local_addr(), path)
}

pub(super) fn status(lab: &Lab, daemon: &Daemon, path: &str) -> u16 {
    get(lab, daemon, path).status
}

/// The inside address and port of a response.
pub(super) fn inside_host(lab: &Lab, daemon: &Daemon, path: &str) -> String {
    let response = get(lab, daemon, path);
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    let mapping = response.json();
    format!("{} {}", mapping["src_ip"].as_str().unwrap(), mapping["src_port"])
}

/// Deletes entries of the gateway's kernel, as `conntrack -D` does, and returns their number.
pub(super) fn delete(lab: &Lab, which: impl Fn(&Flow) -> bool + Send) -> usize {
    lab.gateway().enter(|| {
        let mut query = Query::open().unwrap();
        let flows: Vec<_> = query.dump(Family::Any).unwrap().map(Result::unwrap).filter(which).collect();
        for flow in &flows {
            let mut entry = Conntrack::new().unwrap();
            entry.set_tuples(&flow.original, &flow.reply).unwrap();
            assert!(query.delete(&entry).unwrap_or_else(|error| panic!("{}: {error}", flow.original)));
        }
        flows.len()
    })
}

/// Deletes the only TCP entry of an inside address and port.
pub(super) fn delete_from(lab: &Lab, from: SocketAddr) {
    let ended = delete(lab, |flow| {
        let Layer4::Ports { src, .. } = flow.original.layer4 else { return false };
        flow.original.protocol == Protocol::Tcp && (flow.original.src, src) == (from.ip(), from.port())
    });
    assert_eq!(ended, 1, "connections from {from}");
}

/// Deletes all entries of connections to the first server.
pub(super) fn delete_all(lab: &Lab) {
    assert_ne!(delete(lab, |flow| flow.original.dst == lab.server_at(0).ip()), 0);
}

/// Creates entries in the gateway's kernel, from inside ports 1 to `number`, each with the same public
/// port.
pub(super) fn fill(lab: &Lab, number: u16) {
    lab.gateway().enter(|| {
        let mut query = Query::open().unwrap();
        (1..=number).for_each(|port| create(lab, &mut query, [port, 443, port]));
    });
}

/// Creates an entry in the gateway's kernel with these ports: inside, server, public.
pub(super) fn create(lab: &Lab, query: &mut Query, [inside, server, public]: [u16; 3]) {
    let tuple = |src: SocketAddr, dst: SocketAddr| {
        let layer4 = Layer4::Ports { src: src.port(), dst: dst.port() };
        Tuple { src: src.ip(), dst: dst.ip(), protocol: Protocol::Tcp, layer4, zone: 0 }
    };
    let (client, server) = (lab.client_at(0, inside), lab.server_at(server));
    let mut entry = Conntrack::new().unwrap();
    entry.set_tuples(&tuple(client, server), &tuple(server, (lab.public(0), public).into())).unwrap();
    // CONFIRMED, ASSURED and SEEN_REPLY; established.
    entry.set_status(Status(8 | 4 | 2)).set_timeout(Duration::from_secs(3600)).set_tcp_state(3);
    query.create(&entry).unwrap();
}

/// Reads until the server closes or resets the connection.
pub(super) fn read_to_end(mut stream: &TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut text = Vec::new();
    if let Err(error) = stream.read_to_end(&mut text) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "after {} bytes", text.len());
    }
    text
}

/// Sends bytes and returns everything up to the end of the connection.
pub(super) fn exchange(lab: &Lab, daemon: &Daemon, bytes: &[u8]) -> String {
    let mut client = Client::connect(lab.gateway(), daemon.local_addr());
    client.send(bytes).unwrap();
    String::from_utf8(read_to_end(client.stream())).unwrap()
}

/// A client that requests the whole table and does not read it.
pub(super) fn stalled_client(lab: &Lab, daemon: &Daemon) -> TcpStream {
    let socket = lab.gateway().enter(|| Socket::new(Domain::IPV4, Type::STREAM, None)).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect_timeout(&daemon.local_addr().into(), lab::PATIENCE).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET /debug HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    traffic::bound(&stream).unwrap();
    wait_until("the response has begun", || stream.peek(&mut [0]).is_ok_and(|length| length == 1));
    stream
}

/// Limits the send buffers, so that a client that does not read blocks the daemon soon.
pub(super) fn shrink_buffers(lab: &Lab) {
    lab.gateway().sysctl("net.ipv4.tcp_wmem", "4096 16384 65536");
}

/// The process's open sockets.
pub(super) fn sockets(daemon: &Daemon) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let target = |descriptor: std::io::Result<fs::DirEntry>| fs::read_link(descriptor.ok()?.path()).ok();
    descriptors.filter_map(target).filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// Sets the limit of open files of a process.
pub(super) fn limit_files(process: u32, limit: &str) {
    let output =
        Command::new("prlimit").args([format!("--nofile={limit}"), format!("--pid={process}")]).output();
    let output = output.expect("prlimit of the package util-linux can be run");
    assert!(output.status.success(), "{output:?}");
}

/// A directory with a configuration that every user can read.
pub(super) fn directory_with(ini: &str) -> (TempDir, String) {
    let directory = TempDir::with_prefix("pynatconnd-").unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("test.conf");
    fs::write(&path, ini).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}
