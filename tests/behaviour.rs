//! How the daemon behaves, seen from outside: what it answers while connections come and go, what it does to
//! clients that go too far, and how it starts, logs and ends.

mod lab;

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use lab::http::{self, Client, Response};
use lab::traffic::{self, Connection};
use lab::{Daemon, DaemonBuilder, Lab, Netns, wait_until, wait_within};
use nfct::{Conntrack, Family, Flow, Layer4, Protocol, Query, Status, Tuple};
use nix::sys::signal::Signal;
use socket2::{Domain, SockRef, Socket, Type};
use tempfile::TempDir;

/// The daemon's binary.
const PROGRAM: &str = env!("CARGO_BIN_EXE_pynatconnd");
/// The gateway's addresses on its inside.
const INSIDE: &str = "192.168.7.1";
const INSIDE6: &str = "fd00:7::1";
/// Longer than any test lasts.
const FOREVER: &str = "del_delay = 3600";
/// How long what takes the daemon some seconds by design may take.
const LONG: Duration = Duration::from_secs(40);

/// A configuration, as lines of its sections.
#[derive(Clone, Copy)]
struct Settings {
    key: &'static str,
    data: &'static str,
    filter: &'static str,
    host: &'static str,
    acl: &'static str,
    /// More sections.
    more: &'static str,
}

/// Questions from the gateway itself are connections too; the filter keeps them out of the table.
const USUAL: Settings = Settings {
    key: "nat_port",
    data: "",
    filter: "dst_ip = 198.51.100.1",
    host: "127.0.0.1",
    acl: "127.0.0.1",
    more: "",
};

impl Settings {
    fn ini(self) -> String {
        let Settings { key, data, filter, host, acl, more } = self;
        format!(
            "[filter]\n{filter}\n[data]\nkey_name = {key}\n{data}\n\
             [http_server]\nhost = {host}\nport = 0\nip_acl = {acl},\n{more}\n"
        )
    }

    fn start(self, lab: &Lab) -> Daemon {
        Daemon::start(lab.gateway(), self.ini())
    }
}

fn ask(lab: &Lab, daemon: &Daemon, path: &str) -> Response {
    http::get(lab.gateway(), daemon.local_addr(), path)
}

fn status(lab: &Lab, daemon: &Daemon, path: &str) -> u16 {
    ask(lab, daemon, path).status
}

/// The inside host that is the answer.
fn source(lab: &Lab, daemon: &Daemon, path: &str) -> String {
    let response = ask(lab, daemon, path);
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    let mapping = response.json();
    format!("{} {}", mapping["src_ip"].as_str().unwrap(), mapping["src_port"])
}

/// Ends connections in the gateway's kernel, as `conntrack -D` does, and returns how many.
fn end(lab: &Lab, which: impl Fn(&Flow) -> bool + Send) -> usize {
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

/// Ends the one TCP connection of an inside address and port.
fn end_from(lab: &Lab, from: SocketAddr) {
    let ended = end(lab, |flow| {
        let Layer4::Ports { src, .. } = flow.original.layer4 else { return false };
        flow.original.protocol == Protocol::Tcp && (flow.original.src, src) == (from.ip(), from.port())
    });
    assert_eq!(ended, 1, "connections from {from}");
}

/// Ends all connections to the first server.
fn end_all(lab: &Lab) {
    assert_ne!(end(lab, |flow| flow.original.dst == lab.server_at(0).ip()), 0);
}

/// Puts made-up connections into the gateway's table, from inside ports 1 to `number`, each with a public
/// port of its own.
fn fill(lab: &Lab, number: u16) {
    lab.gateway().enter(|| {
        let mut query = Query::open().unwrap();
        (1..=number).for_each(|port| make(lab, &mut query, [port, 443, port]));
    });
}

/// Puts a made-up connection into the gateway's table, with these ports: inside, server, public.
fn make(lab: &Lab, query: &mut Query, [inside, server, public]: [u16; 3]) {
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
fn read_to_end(mut stream: &TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut text = Vec::new();
    if let Err(error) = stream.read_to_end(&mut text) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "after {} bytes", text.len());
    }
    text
}

/// Sends bytes and returns all that comes until the server closes the connection.
fn exchange(lab: &Lab, daemon: &Daemon, bytes: &[u8]) -> String {
    let mut client = Client::connect(lab.gateway(), daemon.local_addr());
    client.send(bytes).unwrap();
    String::from_utf8(read_to_end(client.stream())).unwrap()
}

/// A client that asks for the whole table and doesn't read it.
fn stall(lab: &Lab, daemon: &Daemon) -> TcpStream {
    let socket = lab.gateway().enter(|| Socket::new(Domain::IPV4, Type::STREAM, None)).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect_timeout(&daemon.local_addr().into(), lab::PATIENCE).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET /debug HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    traffic::bound(&stream).unwrap();
    wait_until("the answer has begun", || stream.peek(&mut [0]).is_ok_and(|length| length == 1));
    stream
}

/// Keeps sent data few, so that a client that doesn't read is felt soon.
fn shrink_buffers(lab: &Lab) {
    lab.gateway().sysctl("net.ipv4.tcp_wmem", "4096 16384 65536");
}

/// The process's open sockets.
fn sockets(daemon: &Daemon) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let target = |descriptor: std::io::Result<fs::DirEntry>| fs::read_link(descriptor.ok()?.path()).ok();
    descriptors.filter_map(target).filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// Changes a process's limit of open files.
fn limit_files(process: u32, limit: &str) {
    let output =
        Command::new("prlimit").args([format!("--nofile={limit}"), format!("--pid={process}")]).output();
    let output = output.expect("prlimit of the package util-linux can be run");
    assert!(output.status.success(), "{output:?}");
}

// --- Connections of clients.

#[test]
fn head_is_get_without_the_body() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    fill(&lab, 1000);
    let mut client = Client::connect(lab.gateway(), daemon.local_addr());
    for path in ["/nat_port/7", "/7", "/nat_port/2000", "/nat_port/x", "/banana/1", "/debug", "/nagios", "/"]
    {
        let mut head_of = |method| {
            let mut response = client.request(method, path, &[], b"");
            // Not even a GET has the second one before its body is made.
            let varies = ["date", "transfer-encoding"];
            response.headers.retain(|(name, _)| !varies.contains(&&*name.to_lowercase()));
            (response.status, response.headers)
        };
        let (head, get) = (head_of("HEAD"), head_of("GET"));
        // The statistics have counted a request between the two.
        assert!(head == get || path == "/nagios" && head.0 == get.0, "{path}: {head:?} {get:?}");
    }
}

#[test]
fn a_connection_is_kept_for_more_requests() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    let mut client = Client::connect(lab.gateway(), daemon.local_addr());
    let port = client.stream().local_addr().unwrap();
    for path in ["/nat_port/1", "/debug", "/nagios", "/nat_port/x", "/"] {
        assert!(client.get(path).header("Connection").is_none_or(|value| value == "keep-alive"), "{path}");
    }
    assert_eq!(client.stream().local_addr().unwrap(), port);

    // Two at once are answered one after the other, in their order.
    client
        .send(b"GET /nat_port/1 HTTP/1.1\r\nHost: a\r\n\r\nGET /debug HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    assert_eq!(client.read_response("GET").unwrap().text(), "Not found");
    assert_eq!(client.read_response("GET").unwrap().text(), "{}");

    let last = client.request("GET", "/nat_port/1", &[("Connection", "close")], b"");
    assert_eq!(last.header("Connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn http_1_0_gets_a_whole_answer_and_the_end_of_the_connection() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    fill(&lab, 1000);
    let answer = exchange(&lab, &daemon, b"GET /nat_port/7 HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\n}"), "{answer}");
    // Its length is not known when it begins, and HTTP/1.0 knows no pieces.
    let answer = exchange(&lab, &daemon, b"GET /debug HTTP/1.0\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_lowercase().contains("chunked"), "{head}");
    let table: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(table.as_object().unwrap().len(), 1000);
}

#[test]
fn headers_that_are_too_many_or_too_long_are_refused() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    let request = |lines: &str| {
        let text = format!("GET /debug HTTP/1.1\r\n{lines}Connection: close\r\n\r\n");
        exchange(&lab, &daemon, text.as_bytes()).lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(request(&"X: y\r\n".repeat(31)), "HTTP/1.1 200 OK");
    assert_eq!(request(&"X: y\r\n".repeat(32)), "HTTP/1.1 431 Request Header Fields Too Large");
    let long = |length| format!("X: {}\r\n", "y".repeat(length));
    assert_eq!(request(&long(15 * 1024)), "HTTP/1.1 200 OK");
    assert_eq!(request(&long(17 * 1024)), "HTTP/1.1 431 Request Header Fields Too Large");
    // A path counts as well.
    let path = "9".repeat(17 * 1024);
    let answer = exchange(&lab, &daemon, format!("GET /{path} HTTP/1.1\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 414 "), "{answer}");
    assert!(exchange(&lab, &daemon, b"nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
}

#[test]
fn a_question_with_a_body_is_refused() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    let connect = || Client::connect(lab.gateway(), daemon.local_addr());
    assert_eq!(connect().request("GET", "/nat_port/1", &[], b"{}").status, 413);
    assert_eq!(connect().request("HEAD", "/debug", &[], b"{}").status, 413);
    let answer = exchange(
        &lab,
        &daemon,
        b"GET /debug HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // None at all is no body.
    assert_eq!(connect().request("GET", "/debug", &[("Content-Length", "0")], b"").status, 200);
    assert_eq!(connect().request("POST", "/debug", &[], b"{}").status, 405);
}

#[test]
fn clients_that_do_not_ask_are_closed() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    let start = Instant::now();
    let connect = || Client::connect(lab.gateway(), daemon.local_addr());
    let [silent, mut half, mut idle, mut slow] = [connect(), connect(), connect(), connect()];
    half.send(b"GET /debug HTTP/1.1\r\nHost").unwrap();
    assert_eq!(idle.get("/debug").status, 200);
    thread::scope(|scope| {
        for (client, name) in [(&silent, "silent"), (&half, "half"), (&idle, "idle")] {
            scope.spawn(move || {
                read_to_end(client.stream());
                // The daemon's patience began after the connection did.
                assert!(start.elapsed() >= Duration::from_secs(5), "{name}: {:?}", start.elapsed());
            });
        }
        // One byte now and then does not count as a request.
        scope.spawn(|| {
            slow.stream().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            slow.send(b"GET /debug HTTP/1.1\r\n").unwrap();
            wait_within(LONG, "the slow client is closed", || {
                slow.send(b"X").is_err()
                    || match slow.stream().read(&mut [0; 256]) {
                        Ok(length) => length == 0,
                        Err(error) => error.kind() == ErrorKind::ConnectionReset,
                    }
            });
        });
    });
    assert_eq!(status(&lab, &daemon, "/debug"), 200);
}

#[test]
fn more_connections_than_there_is_room_for_wait() {
    if !lab::require() {
        return;
    }
    const MOST: usize = 1024;
    limit_files(std::process::id(), "8192");
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    limit_files(daemon.pid(), "8192");
    let question = b"GET /nat_port/1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut open: Vec<TcpStream> = lab.gateway().enter(|| {
        let connect = |_| {
            let mut stream = TcpStream::connect(daemon.local_addr()).unwrap();
            traffic::bound(&stream).unwrap();
            stream.write_all(question).unwrap();
            stream
        };
        (0..MOST).map(connect).collect()
    });
    // All of them are served at once.
    for mut stream in &open {
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 404");
    }

    let mut late = Client::connect(lab.gateway(), daemon.local_addr());
    late.send(question).unwrap();
    late.stream().set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    match traffic::uninterrupted(|| late.stream().peek(&mut [0])) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        // On a very slow machine the first ones have been idle for too long by now.
        Ok(_) => {
            let closed = |mut stream: &TcpStream| {
                stream.set_nonblocking(true).unwrap();
                stream.read_to_end(&mut Vec::new()).is_ok()
            };
            assert!(open.iter().any(closed), "an answer though {MOST} connections are open");
        }
    }
    open.pop();
    traffic::bound(late.stream()).unwrap();
    assert_eq!(late.read_response("GET").unwrap().status, 404);
}

#[test]
fn a_client_that_does_not_read_is_dropped_and_hinders_nobody() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    shrink_buffers(&lab);
    let daemon = USUAL.start(&lab);
    // That of the question whether it answers may still be among them.
    let most = sockets(&daemon);
    fill(&lab, 3000);
    let whole = ask(&lab, &daemon, "/debug").body.len();
    let start = Instant::now();
    let stuck: Vec<TcpStream> = (0..8).map(|_| stall(&lab, &daemon)).collect();
    for port in 1..=100 {
        assert_eq!(status(&lab, &daemon, &format!("/nat_port/{port}")), 200);
    }
    assert_eq!(ask(&lab, &daemon, "/debug").json().as_object().unwrap().len(), 3000);

    wait_within(LONG, "the clients that don't read are dropped", || sockets(&daemon) <= most);
    assert!(start.elapsed() >= Duration::from_secs(10), "{:?}", start.elapsed());
    for stream in &stuck {
        let read = read_to_end(stream);
        assert!(read.len() < whole && !read.ends_with(b"0\r\n\r\n"), "{} of {whole} bytes", read.len());
    }
    assert_eq!(status(&lab, &daemon, "/nat_port/1"), 200);
}

#[test]
fn the_daemon_outlives_a_lack_of_descriptors() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = USUAL.start(&lab);
    limit_files(daemon.pid(), "40:");
    let open: Vec<_> = (0..60).map(|_| Client::connect(lab.gateway(), daemon.local_addr())).collect();
    daemon.wait_for_line("cannot accept a connection");
    drop(open);
    for _ in 0..60 {
        assert_eq!(status(&lab, &daemon, "/nat_port/1"), 404);
    }
}

// --- What is answered.

#[test]
fn tcp_comes_before_udp_and_either_can_be_asked_for() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = Settings { data: FOREVER, ..USUAL }.start(&lab);
    let server = lab.listen(lab.server_at(443));
    let udp_server = lab.udp_server(lab.server_at(443));
    let from = lab.client_at(0, 40001);
    let protocol = |query: &str| {
        let response = ask(&lab, &daemon, &format!("/nat_port/40001{query}"));
        match response.status {
            200 => response.json()["protocol"][1].as_str().unwrap().to_owned(),
            status => status.to_string(),
        }
    };

    let connection = lab.connect_to(&server, from);
    assert_eq!((connection.peer.port(), &*protocol("")), (40001, "tcp"));
    assert_eq!(protocol("?protocol=udp"), "404");
    let udp = lab.udp_client(from);
    assert_eq!(traffic::udp_exchange(&udp, &udp_server).port(), 40001);
    // The newer one is UDP.
    for (query, expected) in [
        ("", "tcp"),
        ("?protocol=tcp", "tcp"),
        ("?protocol=udp", "udp"),
        ("?x=1&protocol=udp", "udp"),
        ("?x=udp", "tcp"),
        ("?protocol=x", "400"),
        ("?protocol=", "400"),
        ("?protocol=icmp", "400"),
    ] {
        assert_eq!(protocol(query), expected, "{query:?}");
    }
    let refusal = ask(&lab, &daemon, "/nat_port/40001?protocol=x");
    assert_eq!(refusal.text(), "protocol: found \"x\", expected tcp or udp\n");

    // What lives comes before what has ended.
    end_from(&lab, from);
    for (query, expected) in [("", "udp"), ("?protocol=tcp", "tcp")] {
        assert_eq!(protocol(query), expected, "{query:?}");
    }
}

#[test]
fn each_key_is_answered() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().ipv6().build();
    let daemons = ["src_ip", "src_port", "nat_ip", "nat_port", "dst_ip", "dst_port"]
        .map(|key| (key, Settings { key, filter: "", ..USUAL }.start(&lab)));
    let servers = [lab.listen(lab.server_at(443)), lab.listen(lab.server6_at(8443))];
    let _open = lab.connect_to(&servers[0], lab.client_at(0, 40001));
    let _open6 = lab.connect_to(&servers[1], lab.client6_at(0, 40002));
    let values = [
        ["192.168.7.2", "40001", "100.64.2.1", "40001", "198.51.100.1", "443"],
        ["fd00:7::2", "40002", "2001:db8::2", "40002", "2001:db8::1", "8443"],
    ];
    for (at, (key, daemon)) in daemons.iter().enumerate() {
        for (values, family) in values.iter().zip(["ipv4", "ipv6"]) {
            for path in [format!("/{key}/{}", values[at]), format!("/{}", values[at])] {
                let response = ask(&lab, daemon, &path);
                assert_eq!(response.status, 200, "{path}: {}", response.text());
                let mapping = response.json();
                let shown = |name: &str| mapping[name].to_string().trim_matches('"').to_owned();
                let given = ["src_ip", "src_port", "nat_ip", "nat_port", "dst_ip", "dst_port"].map(shown);
                assert_eq!(given, *values, "{path}");
                assert_eq!(mapping["protocol"][0], family);
            }
        }
        let (missing, bad) = match key.ends_with("_port") {
            true => ("1", ["x", "192.168.7.2", "4.3", "::"]),
            false => ("203.0.113.1", ["x", "192.168.7", "192.168.7.2.1", "443"]),
        };
        assert_eq!(status(&lab, daemon, &format!("/{key}/{missing}")), 404);
        for bad in bad {
            let response = ask(&lab, daemon, &format!("/{key}/{bad}"));
            assert_eq!(response.status, 400, "{key} {bad}");
            assert!(response.text().starts_with(&format!("{key}: found \"{bad}\", expected ")));
            assert_eq!(response.text().lines().count(), 1);
        }
        let other = daemons[(at + 1) % daemons.len()].0;
        assert_eq!(ask(&lab, daemon, &format!("/{other}/{missing}")).text(), "Mismatch");
    }
    // An address has many forms, and a path may be encoded.
    for form in ["FD00:7::2", "fd00:7:0:0:0:0:0:2", "fd00%3A7%3a%3A2"] {
        assert_eq!(source(&lab, &daemons[0].1, &format!("/src_ip/{form}")), "fd00:7::2 40002");
    }
    assert_eq!(source(&lab, &daemons[0].1, "/src_ip/::ffff:192.168.7.2"), "192.168.7.2 40001");
    // The newest of several.
    let _newer = lab.connect_to(&servers[0], lab.client_at(0, 40003));
    assert_eq!(source(&lab, &daemons[0].1, "/src_ip/192.168.7.2"), "192.168.7.2 40003");
    assert_eq!(source(&lab, &daemons[3].1, "/nat_port/40001"), "192.168.7.2 40001");
}

#[test]
fn an_answer_is_never_older_than_its_question() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = Settings { data: "del_delay = 0", ..USUAL }.start(&lab);
    // All that happens while the daemon can't run has to be read before the question that comes after it.
    for _ in 0..5 {
        for (change, status) in [(&(|| fill(&lab, 4000)) as &dyn Fn(), 200), (&|| end_all(&lab), 404)] {
            daemon.stop();
            change();
            // A connection of its own: one that was kept could be too old by now.
            let mut client = Client::connect(lab.gateway(), daemon.local_addr());
            client.send(b"GET /nat_port/4000 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            daemon.go_on();
            assert_eq!(client.read_response("GET").unwrap().status, status);
        }
    }
}

#[test]
fn what_has_ended_is_answered_for_del_delay() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let [at_once, second, hour] =
        ["del_delay = 0", "del_delay = 1", FOREVER].map(|data| Settings { data, ..USUAL }.start(&lab));
    let server = lab.listen(lab.server_at(443));
    let from = lab.client_at(0, 40001);
    let _open = lab.connect_to(&server, from);
    for daemon in [&at_once, &second, &hour] {
        assert_eq!(status(&lab, daemon, "/nat_port/40001"), 200);
    }

    let before = Instant::now();
    end_from(&lab, from);
    assert_eq!(status(&lab, &at_once, "/nat_port/40001"), 404);
    wait_until("the mapping is gone after a second", || status(&lab, &second, "/nat_port/40001") == 404);
    assert!(before.elapsed() >= Duration::from_secs(1), "{:?}", before.elapsed());
    assert_eq!(source(&lab, &hour, "/nat_port/40001"), "192.168.7.2 40001");

    let counted = |daemon: &Daemon| {
        let statistics = ask(&lab, daemon, "/nagios").json();
        ["number_of_created_items", "number_of_deleted_items", "shared_data_size", "expired_data"]
            .map(|name| statistics[name].as_u64().unwrap())
    };
    assert_eq!(counted(&at_once), [1, 1, 0, 0]);
    assert_eq!(counted(&second), [1, 1, 0, 0]);
    assert_eq!(counted(&hour), [1, 0, 1, 0]);
    assert_eq!(ask(&lab, &at_once, "/debug").text(), "{}");
    assert!(ask(&lab, &hour, "/debug").json().get("40001").is_some());
}

/// Gives every inside host the public port 20000, as long as that tells connections apart.
const ONE_PORT: &str = "\
table ip nat {
    chain postrouting {
        type nat hook postrouting priority 100
        ip protocol tcp oifname \"outside\" snat to 100.64.2.1:20000
    }
}
";

#[test]
fn a_newer_mapping_is_not_hurt_by_the_end_of_an_older_one() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(3).ruleset(ONE_PORT).build();
    let [short, long] = ["del_delay = 0", FOREVER].map(|data| Settings { data, ..USUAL }.start(&lab));
    let answered = |daemon: &Daemon| source(&lab, daemon, "/nat_port/20000");
    let ports = [443, 444, 445].map(|port| lab.listen(lab.server_at(port)));
    let hosts = [0, 1, 2].map(|host| lab.client_at(host, 40001));
    let connect = |host: usize, port: usize| {
        let connection = lab.connect_to(&ports[port], hosts[host]);
        assert_eq!(connection.peer, (lab.public(0), 20000).into());
        connection
    };

    // Three live at once behind the same address and port.
    let [older, middle, newer] = [0, 1, 2].map(|at| connect(at, at));
    for daemon in [&short, &long] {
        assert_eq!(answered(daemon), "192.168.7.4 40001");
    }
    end_from(&lab, hosts[0]);
    for daemon in [&short, &long] {
        assert_eq!(answered(daemon), "192.168.7.4 40001");
    }
    // The newest of those that live, though a newer one has ended.
    end_from(&lab, hosts[2]);
    for daemon in [&short, &long] {
        assert_eq!(answered(daemon), "192.168.7.3 40001");
    }
    end_from(&lab, hosts[1]);
    assert_eq!(status(&lab, &short, "/nat_port/20000"), 404);
    assert_eq!(answered(&long), "192.168.7.4 40001");
    drop([older, middle, newer]);
}

#[test]
fn the_whole_table_shows_what_look_ups_find() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemons = ["del_delay = 0", FOREVER].map(|data| Settings { data, ..USUAL }.start(&lab));
    for daemon in &daemons {
        daemon.wait_for_line("the table equals the kernel's");
    }
    // Many share a public port and, read in one go, a millisecond. The order in which the table's places
    // are used again is not that in which the connections come.
    for _ in 0..2 {
        lab.gateway().enter(|| {
            let mut query = Query::open().unwrap();
            (1..=300).for_each(|number| make(&lab, &mut query, [number, number, 20000 + number % 3]));
        });
        for daemon in &daemons {
            for (port, newest) in [(20000, 300), (20001, 298), (20002, 299)] {
                let found = ask(&lab, daemon, &format!("/nat_port/{port}")).json();
                assert_eq!(found["src_port"], newest);
                assert_eq!(ask(&lab, daemon, "/debug").json()[port.to_string()], found);
            }
        }
        end_all(&lab);
        assert_eq!(ask(&lab, &daemons[0], "/debug").text(), "{}");
        let table = ask(&lab, &daemons[1], "/debug").json();
        for port in ["20000", "20001", "20002"] {
            assert_eq!(table[port], ask(&lab, &daemons[1], &format!("/nat_port/{port}")).json());
        }
    }
}

#[test]
fn the_same_public_address_port_and_server_pass_from_host_to_host() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(2).ruleset(ONE_PORT).build();
    let [at_once, second, hour] =
        ["del_delay = 0", "del_delay = 1", FOREVER].map(|data| Settings { data, ..USUAL }.start(&lab));
    let server = lab.listen(lab.server_at(443));
    let mut open: Option<Connection> = None;
    // The last two are one host with the same ports again.
    for host in [0, 1, 0, 0] {
        if let Some(connection) = open.take() {
            let from = connection.client.local_addr().unwrap();
            SockRef::from(&connection.client).set_linger(Some(Duration::ZERO)).unwrap();
            drop(connection.client);
            // The server has seen the reset, so that it takes the port from another.
            read_to_end(&connection.server);
            end_from(&lab, from);
        }
        let connection = lab.connect_to(&server, lab.client_at(host, 40001));
        assert_eq!(connection.peer, (lab.public(0), 20000).into());
        for daemon in [&at_once, &second, &hour] {
            let expected = format!("192.168.7.{} 40001", 2 + host);
            assert_eq!(source(&lab, daemon, "/nat_port/20000"), expected);
        }
        open = Some(connection);
    }
    wait_until("the older ones are removed", || {
        ask(&lab, &second, "/nagios").json()["number_of_deleted_items"] == 3
    });
    for (daemon, size) in [(&at_once, 1), (&second, 1), (&hour, 4)] {
        assert_eq!(source(&lab, daemon, "/nat_port/20000"), "192.168.7.2 40001");
        let statistics = ask(&lab, daemon, "/nagios").json();
        assert_eq!(
            (&statistics["number_of_created_items"], &statistics["shared_data_size"]),
            (&4.into(), &size.into())
        );
    }
}

#[test]
fn old_mappings_are_dropped_unless_they_live() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let data = "del_delay = 3600\ngarbage_cleaner_interval = 1\nlife_span = 1";
    let daemon = Settings { data, ..USUAL }.start(&lab);
    let server = lab.listen(lab.server_at(443));
    let before = Instant::now();
    let _open = [40001, 40002].map(|port| lab.connect_to(&server, lab.client_at(0, port)));
    end_from(&lab, lab.client_at(0, 40002));

    wait_until("the one that has ended is dropped", || {
        ask(&lab, &daemon, "/nagios").json()["expired_data"] != 0
    });
    assert!(before.elapsed() > Duration::from_secs(1), "{:?}", before.elapsed());
    assert_eq!(status(&lab, &daemon, "/nat_port/40002"), 404);
    // The other one is older.
    assert_eq!(status(&lab, &daemon, "/nat_port/40001"), 200);
    let statistics = ask(&lab, &daemon, "/nagios").json();
    assert_eq!((&statistics["expired_data"], &statistics["shared_data_size"]), (&1.into(), &1.into()));
    assert_eq!(statistics["number_of_deleted_items"], 0);
    assert!(ask(&lab, &daemon, "/debug").json().get("40002").is_none());
}

#[test]
fn all_conditions_of_the_filter_must_hold() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(2).servers(2).build();
    let all = "src_ip = 192.168.7.2\nsrc_port = 40001\nnat_ip = 100.64.2.1\nnat_port = 40001\n\
               dst_ip = 198.51.100.1\ndst_port = 443";
    let [all, two, port, everything] =
        [all, "src_ip = 192.168.7.3\ndst_ip = 198.51.100.2", "dst_port = 443", ""]
            .map(|filter| Settings { filter, ..USUAL }.start(&lab));
    all.wait_for_line("tracks connections with src_ip 192.168.7.2, ");
    everything.wait_for_line("tracks everything");
    let servers =
        [(0, 443), (0, 444), (1, 443)].map(|(host, port)| lab.listen(lab.server_number(host, port)));
    // Public port: from which host, to which server, and who tracks it.
    let open = [(40001, 0, 0), (40002, 0, 0), (40003, 1, 0), (40004, 0, 1), (40005, 1, 2)];
    let _open = open.map(|(port, host, server)| {
        let connection = lab.connect_to(&servers[server], lab.client_at(host, port));
        assert_eq!(connection.peer.port(), port);
        connection
    });
    let answered = |daemon: &Daemon| {
        let known = |port: &u16| status(&lab, daemon, &format!("/nat_port/{port}")) == 200;
        open.map(|(port, ..)| port).into_iter().filter(known).collect::<Vec<_>>()
    };
    assert_eq!(answered(&all), [40001]);
    assert_eq!(answered(&two), [40005]);
    assert_eq!(answered(&port), [40001, 40002, 40003, 40005]);
    assert_eq!(answered(&everything), [40001, 40002, 40003, 40004, 40005]);
    for (daemon, created) in [(&all, 1), (&two, 1), (&port, 4)] {
        assert_eq!(ask(&lab, daemon, "/nagios").json()["number_of_created_items"], created);
    }
    // Everything is really everything: the question's own connection too.
    let mut client = Client::connect(lab.gateway(), everything.local_addr());
    let own = client.stream().local_addr().unwrap();
    assert_eq!(client.get(&format!("/nat_port/{}", own.port())).json()["src_ip"], "127.0.0.1");
}

#[test]
fn whom_the_acl_leaves_out_is_refused_whatever_he_asks() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().ipv6().build();
    let acl = "192.168.7.0/24, fd00:7::/64";
    let daemon = Settings { host: "::", acl, ..USUAL }.start(&lab);
    let allowed = [INSIDE, INSIDE6].map(|address| (lab.client(), address.parse().unwrap()));
    let refused = [lab.public(0), lab.public6()].map(|address| (lab.server(), address));
    let ask_from = |(netns, address): (&Netns, IpAddr), method: &str, path: &str, body: &[u8]| {
        let mut client = Client::connect(netns, daemon.addr_on(address));
        client.request(method, path, &[("Connection", "close")], body)
    };
    let questions = [
        ("GET", "/nat_port/1", 404),
        ("GET", "/1", 404),
        ("GET", "/nat_port/x", 400),
        ("GET", "/banana/1", 400),
        ("GET", "/debug", 200),
        ("GET", "/nagios", 200),
        ("GET", "/", 404),
        ("POST", "/", 404),
        ("POST", "/debug", 405),
        ("DELETE", "/nat_port/1", 405),
        ("OPTIONS", "/nat_port/1", 200),
        ("HEAD", "/nat_port/1", 404),
    ];
    for (method, path, status) in questions {
        for from in allowed {
            assert_eq!(ask_from(from, method, path, b"").status, status, "{method} {path}");
        }
        for from in refused {
            for body in [&b""[..], b"{}"] {
                let response = ask_from(from, method, path, body);
                assert_eq!((response.status, response.header("Allow")), (403, None), "{method} {path}");
                assert_eq!(response.header("Content-Type"), Some("text/html"));
                assert_eq!(response.text(), if method == "HEAD" { "" } else { "Forbidden" });
            }
        }
    }
    // The list has no loopback, either.
    assert_eq!(ask_from((lab.gateway(), "::1".parse().unwrap()), "GET", "/debug", b"").status, 403);
    daemon.wait_for_line("not in ip_acl");
    let statistics = ask_from(allowed[0], "GET", "/nagios", b"").json();
    let refusals = questions.len() * 4 + 1;
    assert_eq!(statistics["http_stat"]["unauthorized_requests"], refusals);
}

// --- Starting, logging, ending.

/// A directory with a configuration that anybody can read.
fn directory_with(ini: &str) -> (TempDir, String) {
    let directory = TempDir::with_prefix("pynatconnd-").unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("test.conf");
    fs::write(&path, ini).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}

/// Runs the daemon to its end, outside any lab, for what it does before it looks at the network.
fn run(args: &[&str]) -> (i32, String, String) {
    outcome(Command::new(PROGRAM).args(args).output().unwrap())
}

/// Exit status, standard output and standard error.
fn outcome(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let status = output.status.code().unwrap_or_else(|| panic!("{}", output.status));
    (status, text(output.stdout), text(output.stderr))
}

#[test]
fn a_bad_configuration_says_where_and_what() {
    for (ini, complaint) in [
        ("[data]\nkey_name = port\n", ":2: [data] key_name: found \"port\", expected one of "),
        ("[data]\nkey_name = nat_port\ndel_delay = soon\n", ":3: [data] del_delay: found \"soon\", "),
        ("[data]\n", ":1: [data] key_name: found nothing, expected "),
        ("", ": [data] key_name: found nothing, expected "),
        ("[data\nkey_name = nat_port\n", ":1: found \"[data\", expected "),
    ] {
        let (_directory, path) = directory_with(ini);
        for args in [&["-c", &path][..], &["--config", &path, "--check-config"]] {
            let (status, stdout, stderr) = run(args);
            assert_eq!((status, &*stdout), (78, ""), "{ini:?}: {stderr}");
            assert!(stderr.starts_with(&format!("pynatconnd: {path}{complaint}")), "{ini:?}: {stderr}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
    }
    for args in [&["-c", "/nonexistent/x.conf"][..], &["-c", "/nonexistent/x.conf", "--check-config"]] {
        let (status, stdout, stderr) = run(args);
        assert_eq!((status, &*stdout), (78, ""), "{stderr}");
        assert!(stderr.starts_with("pynatconnd: /nonexistent/x.conf: can't be read: "), "{stderr}");
    }
}

#[test]
fn who_reads_the_output_may_have_had_enough() {
    let config = ["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/pynatconnd.conf"), "--check-config"];
    for arguments in [&config[..], &["--version"], &["--help"], &["--nonsense"]] {
        let (unread, output) = UnixStream::pair().unwrap();
        drop(unread);
        let output = OwnedFd::from(output);
        let mut command = Command::new(env!("CARGO_BIN_EXE_pynatconnd"));
        command.args(arguments).stdout(output.try_clone().unwrap()).stderr(output);
        let status = command.status().unwrap();
        assert_eq!(status.code(), Some(if arguments == ["--nonsense"] { 64 } else { 0 }), "{arguments:?}");
    }
}

#[test]
fn check_config_shows_what_is_in_force() {
    let ini = "\
[syslog]
local_facility = 3
debug_level = 2
[filter]
dst_ip = 2001:db8::1
dst_port = 0443
[data]
key_name = src_ip
del_delay = 2.5
del_dealy = 3
[http_server]
ip_acl = 127.0.0.1/8, ::1
[extra]
";
    let (_directory, path) = directory_with(ini);
    let (status, shown, stderr) = run(&["-c", &path, "--check-config"]);
    assert_eq!(status, 0, "{stderr}");
    for line in [
        "local_facility = 3",
        "debug_level = 2",
        "dst_ip = 2001:db8::1",
        "dst_port = 443",
        "key_name = src_ip",
        "del_delay = 2.5",
        "garbage_cleaner_interval = 3600",
        "life_span = 3600",
        "join_timeout = 5",
        "host = 127.0.0.1",
        "port = 8080",
        "ip_acl = 127.0.0.0/8, ::1/128",
    ] {
        assert_eq!(shown.lines().filter(|shown| *shown == line).count(), 1, "{line}: {shown}");
    }
    assert!(!shown.contains("src_port") && !shown.contains("del_dealy"), "{shown}");
    let warnings: Vec<_> = stderr.lines().collect();
    assert_eq!(warnings.len(), 3, "{stderr}");
    let expected = [
        ":10: [data] del_dealy: unknown key, ignored; did you mean del_delay?",
        ":12: [http_server] ip_acl: \"127.0.0.1/8\" has host bits, read as 127.0.0.0/8",
        ":13: [extra]: unknown section, ignored",
    ];
    for (warning, expected) in warnings.iter().zip(expected) {
        assert_eq!(*warning, format!("warning: {path}{expected}"));
    }

    // What is printed is a file with the same meaning, and nothing to warn of.
    let (_directory, again) = directory_with(&shown);
    assert_eq!(run(&["-c", &again, "--check-config"]), (0, shown.clone(), String::new()));
    // The command line counts too.
    let (status, overridden, _) = run(&["-c", &path, "--check-config", "-l9", "-i", "::1", "-p", "81"]);
    assert_eq!(status, 0);
    let expected = shown
        .replace("debug_level = 2", "debug_level = 9")
        .replace("host = 127.0.0.1", "host = ::1")
        .replace("port = 8080", "port = 81");
    assert_eq!(overridden, expected);
}

#[test]
fn the_command_line_explains_itself() {
    for args in [&["--nonsense"][..], &["extra"], &["-p", "70000"], &["-p"], &["-c"]] {
        let (status, stdout, stderr) = run(args);
        assert_eq!((status, &*stdout), (64, ""), "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
    }
    let (_directory, path) = directory_with(&USUAL.ini());
    let (status, _, stderr) = run(&["-c", &path, "-l", "loud"]);
    assert_eq!(status, 64, "{stderr}");
    assert!(stderr.starts_with("pynatconnd: --log-level: found \"loud\", expected "), "{stderr}");

    let version = format!(
        "pynatconnd {} (libnetfilter_conntrack {})\n",
        env!("CARGO_PKG_VERSION"),
        nfct::LIBRARY_VERSION
    );
    for flag in ["-V", "--version"] {
        assert_eq!(run(&[flag]), (0, version.clone(), String::new()));
    }
    for flag in ["-h", "--help"] {
        let (status, stdout, stderr) = run(&[flag]);
        assert_eq!((status, &*stderr), (0, ""));
        for option in
            ["-c, --config", "-l, --log-level", "-i, --ip", "-p, --port", "--check-config", "-V, --version"]
        {
            assert!(stdout.contains(option), "{option}: {stdout}");
        }
    }
}

#[test]
fn an_address_that_cannot_be_bound_ends_it() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let ends_with = |args: &[&str], place: &str| {
        let (_directory, path) = directory_with(&USUAL.ini());
        let (status, _, stderr) =
            outcome(lab.gateway().command(PROGRAM).args(["-c", &path]).args(args).output().unwrap());
        assert_eq!(status, 71, "{stderr}");
        let line = stderr.lines().last().unwrap();
        assert!(line.contains(&format!("ERROR pynatconnd::daemon] cannot listen on {place}: ")), "{stderr}");
    };
    ends_with(&["-i", "203.0.113.9", "-p", "8080"], "203.0.113.9 port 8080");
    let taken = lab.gateway().enter(|| TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    ends_with(&["-p", &port], &format!("127.0.0.1 port {port}"));
    drop(taken);
    // The port is free again, and the command line comes before the file.
    let ini = Settings { host: "203.0.113.9", ..USUAL }.ini();
    let daemon =
        Daemon::builder(ini).arg("-i").arg("127.0.0.2").arg("--port").arg(&port).start(lab.gateway());
    assert_eq!(daemon.addr().to_string(), format!("127.0.0.2:{port}"));
    assert_eq!(status(&lab, &daemon, "/debug"), 200);
}

#[test]
fn the_one_capability_is_needed_and_enough() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let (directory, path) = directory_with(&USUAL.ini());
    let copy = directory.path().join("pynatconnd");
    // The built one may lie where only its owner can go. Another process copies it: a file that this one has
    // open for writing may be so in a child of another test, too, and can't be executed then.
    let copied = Command::new("install").args(["-m", "755", PROGRAM]).arg(&copy).status();
    assert!(copied.unwrap().success());
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];

    let command = lab.gateway().command("setpriv").args(nobody).arg(&copy).args(["-c", &path]);
    let (status_without, _, stderr) = outcome(command.output().unwrap());
    assert_eq!(status_without, 77, "{stderr}");
    let line = stderr.lines().last().unwrap();
    assert!(line.contains("ERROR") && line.contains("CAP_NET_ADMIN"), "{stderr}");

    let with = ["setpriv", "--inh-caps=+net_admin", "--ambient-caps=+net_admin", "--no-new-privs"];
    let daemon = Daemon::builder(USUAL.ini())
        .program(&copy)
        .under(with.into_iter().chain(nobody))
        .start(lab.gateway());
    daemon.wait_for_line("the table equals the kernel's");
    let server = lab.listen(lab.server_at(443));
    let _open = lab.connect_to(&server, lab.client_at(0, 40001));
    assert_eq!(source(&lab, &daemon, "/nat_port/40001"), "192.168.7.2 40001");
    assert_eq!(fs::metadata(format!("/proc/{}", daemon.pid())).unwrap().uid(), 65534);
}

#[test]
fn signals_end_it_whatever_clients_do() {
    if !lab::require() {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let lab = Lab::builder().build();
        shrink_buffers(&lab);
        let mut daemon = Settings { more: "[threading]\njoin_timeout = 1", ..USUAL }.start(&lab);
        fill(&lab, 3000);
        let mut idle = Client::connect(lab.gateway(), daemon.local_addr());
        assert_eq!(idle.get("/nat_port/1").status, 200);
        let silent = Client::connect(lab.gateway(), daemon.local_addr());
        let stuck = stall(&lab, &daemon);

        let start = Instant::now();
        daemon.signal(signal);
        assert!(idle.is_closed());
        assert_eq!(daemon.wait().code(), Some(0), "{signal}");
        // Long before the client that doesn't read would have been dropped.
        let took = start.elapsed();
        assert!(took < Duration::from_secs(7), "{signal}: {took:?}");
        daemon.wait_for_line(&format!("{signal}: ending"));
        assert!(Client::try_connect(lab.gateway(), daemon.local_addr()).is_err());
        drop((silent, stuck));
    }
}

#[test]
fn an_answer_that_is_being_read_is_finished() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    shrink_buffers(&lab);
    let mut daemon = Settings { more: "[threading]\njoin_timeout = 60", ..USUAL }.start(&lab);
    fill(&lab, 3000);
    let mut reader = stall(&lab, &daemon);
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_line("SIGTERM: ending");
    // A slow reader, so that there is something to wait for.
    let mut text = Vec::new();
    while (&mut reader).take(4096).read_to_end(&mut text).unwrap() > 0 {
        thread::sleep(Duration::from_millis(2));
    }
    assert!(text.ends_with(b"\n}\r\n0\r\n\r\n"), "{} bytes", text.len());
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn what_is_logged_follows_the_level() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let unknown = Settings { more: "[threading]\njoin_timeuot = 1", ..USUAL }.ini();
    let start = |level: &str| {
        let builder = Daemon::builder(&unknown);
        if level.is_empty() { builder } else { builder.arg("-l").arg(level) }
    };
    const WARNING: &str = "[threading] join_timeuot: unknown key, ignored; did you mean join_timeout?";

    let daemon = start("").start(lab.gateway());
    daemon.wait_for_line(WARNING);
    assert_eq!(status(&lab, &daemon, "/debug"), 200);
    assert!(!daemon.stderr().contains("asks GET"), "{}", daemon.stderr());

    for level in ["debug", "6"] {
        let daemon = start(level).start(lab.gateway());
        assert_eq!(status(&lab, &daemon, "/debug"), 200);
        let line = daemon.wait_for_line("asks GET /debug");
        assert!(line.contains("127.0.0.1"), "{line}");
    }

    // Without the line that says where it listens, the port must be known.
    for (level, warns) in [("warn", true), ("1", true), ("error", false), ("0", false)] {
        let mut daemon = start(level).arg("-p").arg("8765").spawn(lab.gateway());
        let address = "127.0.0.1:8765".parse().unwrap();
        wait_until("it answers", || Client::try_connect(lab.gateway(), address).is_ok());
        assert_eq!(http::get(lab.gateway(), address, "/debug").status, 200);
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
        let written = daemon.stderr();
        assert_eq!(
            (written.contains(WARNING), written.lines().count()),
            (warns, usize::from(warns)),
            "{written}"
        );
    }
}

/// Starts the daemon where /dev is another directory; nothing outside it notices.
fn with_dev(builder: DaemonBuilder, directory: &Path) -> DaemonBuilder {
    let script = "mount --bind \"$0\" /dev && exec \"$@\"";
    builder.under(["unshare", "--mount", "sh", "-c", script, directory.to_str().unwrap()])
}

#[test]
fn syslog_gets_the_lines_too() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let dev = TempDir::with_prefix("pynatconnd-").unwrap();
    let bind = || {
        let socket = UnixDatagram::bind(dev.path().join("log")).unwrap();
        socket.set_read_timeout(Some(lab::PATIENCE)).unwrap();
        socket
    };
    let receive = |socket: &UnixDatagram, text: &str| loop {
        let mut buffer = [0; 4096];
        let length =
            socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no line with {text:?}: {error}"));
        let line = std::str::from_utf8(&buffer[..length]).unwrap();
        if line.contains(text) {
            return line.to_owned();
        }
    };

    let socket = bind();
    let more = "[syslog]\nlocal_facility = 3\ndebug_level = 6\n[threading]\nnonsense = 1";
    let ini = Settings { more, acl: "192.168.7.0/24", ..USUAL }.ini();
    let daemon = with_dev(Daemon::builder(ini), dev.path()).start(lab.gateway());
    // Facility 16 + 3, eight severities each.
    for (priority, text) in [(19 * 8 + 4, "nonsense: unknown key"), (19 * 8 + 6, "listening on http://")] {
        let line = receive(&socket, text);
        assert!(line.starts_with(&format!("<{priority}>")), "{line}");
        assert!(line.contains(&format!("pynatconnd[{}]: ", daemon.pid())), "{line}");
        daemon.wait_for_line(text);
    }
    assert_eq!(status(&lab, &daemon, "/debug"), 403);
    assert!(receive(&socket, "refused 127.0.0.1 /debug").starts_with("<156>"));

    // The log daemon is gone for a while, and there again.
    drop(socket);
    fs::remove_file(dev.path().join("log")).unwrap();
    assert_eq!(status(&lab, &daemon, "/nagios"), 403);
    let socket = bind();
    assert_eq!(status(&lab, &daemon, "/1"), 403);
    // Of refusals within a second all but the first are for debugging.
    let line = receive(&socket, "refused 127.0.0.1 /1");
    assert!(line.starts_with("<156>") || line.starts_with("<159>"), "{line}");
}

#[test]
fn without_a_log_socket_it_warns_and_goes_on() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let empty = TempDir::with_prefix("pynatconnd-").unwrap();
    let ini = Settings { more: "[syslog]", ..USUAL }.ini();
    let daemon = with_dev(Daemon::builder(ini), empty.path()).start(lab.gateway());
    daemon.wait_for_line("[syslog] is set, but there is no /dev/log");
    assert_eq!(status(&lab, &daemon, "/debug"), 200);
}

#[test]
fn journald_gets_priorities() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let ini = Settings { more: "[extra]", host: "203.0.113.9", ..USUAL }.ini();
    let (directory, path) = directory_with(&ini);
    // Ends at once, as the address is nowhere.
    let written = |name: &str, stream: &dyn Fn(&File) -> String| {
        let log = File::create(directory.path().join(name)).unwrap();
        let command = lab.gateway().command(PROGRAM).args(["-c", &path]).env("JOURNAL_STREAM", stream(&log));
        assert_eq!(command.stderr(log.into()).status().unwrap().code(), Some(71));
        fs::read_to_string(directory.path().join(name)).unwrap()
    };
    let matching = written("matching", &|log| {
        let metadata = log.metadata().unwrap();
        format!("{}:{}", metadata.dev(), metadata.ino())
    });
    let lines: Vec<_> = matching.lines().collect();
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("<4>") && line.ends_with("[extra]: unknown section, ignored"))
    );
    assert!(lines.iter().any(|line| line.starts_with("<6>pynatconnd ")), "{matching}");
    // Another file than the one that systemd gave.
    let other = written("other", &|_| "1:1".to_owned());
    assert!(!other.lines().any(|line| line.starts_with('<')) && other.contains(" WARN "), "{other}");
}
