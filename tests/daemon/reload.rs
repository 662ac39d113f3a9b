//! SIGHUP puts another configuration into force. The table, the open connections and the event streams
//! continue, every changed key takes effect, and an invalid file changes nothing.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;

use lab::http::{Chunked, Client};
use lab::traffic::Connection;
use lab::{Daemon, Lab, flows, wait_until};
use nfct::{Protocol, Query};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::binary::DAEMON;

/// A configuration with variable parts.
struct ConfigParts {
    filter: &'static str,
    key_name: &'static str,
    del_delay: u32,
    host: &'static str,
    port: u16,
    ip_acl: &'static str,
    rest: &'static str,
}

impl ConfigParts {
    const USUAL: ConfigParts = ConfigParts {
        filter: "",
        key_name: "nat_port",
        del_delay: 60,
        host: "0.0.0.0",
        port: 8080,
        ip_acl: "127.0.0.1, 198.51.100.0/24",
        rest: "",
    };

    fn text(&self) -> String {
        let ConfigParts { filter, key_name, del_delay, host, port, ip_acl, rest } = self;
        format!(
            "[filter]\n{filter}\n[data]\nkey_name = {key_name}\ndel_delay = {del_delay}\n\
             [http_server]\nhost = {host}\nport = {port}\nip_acl = {ip_acl}\n{rest}\n"
        )
    }
}

/// A gateway, its daemon, and one HTTP connection for all requests.
struct Bench {
    lab: Lab,
    daemon: Daemon,
    client: Client,
    query: Query,
    reloads: u32,
}

impl Bench {
    fn new() -> Self {
        let lab = Lab::builder().clients(2).build();
        let daemon = DAEMON.start(lab.gateway(), ConfigParts::USUAL.text());
        daemon.wait_for_line("equals the kernel's");
        let client = Client::connect(lab.gateway(), daemon.local_addr());
        let query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
        Self { lab, daemon, client, query, reloads: 0 }
    }

    fn lines(&self, text: &str) -> usize {
        self.daemon.stderr().matches(text).count()
    }

    /// Reloads with a configuration and waits until it is in force.
    fn reload(&mut self, config: &ConfigParts) {
        self.reload_text(&config.text(), "is in force");
    }

    /// Reloads a file and waits for the log line about it.
    fn reload_text(&mut self, text: &str, expected_text: &str) {
        let before = self.lines(expected_text);
        self.daemon.rewrite_config(text);
        self.daemon.signal(Signal::SIGHUP);
        wait_until(&format!("the daemon logs: {expected_text}"), || self.lines(expected_text) > before);
        self.reloads += 1;
    }

    fn connect(&self, server: &lab::traffic::TcpServer, port: u16) -> Connection {
        self.lab.connect_to(server, self.lab.client_at(0, port))
    }

    /// Closes a connection and deletes its entry.
    fn end(&mut self, connection: Connection) {
        let inside = connection.client.local_addr().expect("connected");
        let server = connection.client.peer_addr().expect("connected");
        connection.reset();
        assert!(flows::remove(&mut self.query, &flows::tuple(Protocol::Tcp, inside, server)));
    }

    /// The mappings of an inside port.
    fn find(&mut self, port: u16) -> Vec<Value> {
        let answer = self.client.get(&format!("/v1/lookup?src_ip=192.168.7.2&src_port={port}"));
        answer.json()["matches"].as_array().expect("a list").clone()
    }

    fn status(&mut self, path: &str) -> u16 {
        self.client.get(path).status
    }
}

/// The next event of a stream that concerns a mapping.
fn next_event(stream: &mut BufReader<Chunked>) -> Value {
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).expect("the stream continues") > 0, "the stream ended");
        let event: Value = serde_json::from_str(&line).expect("JSON");
        if event["event"] != "alive" {
            return event;
        }
    }
}

#[test]
fn the_table_connections_and_streams_survive_a_reload() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    let server = bench.lab.listen(bench.lab.server_at(443));
    let open: Vec<_> = (40_000..40_020).map(|port| bench.connect(&server, port)).collect();
    let ended = bench.connect(&server, 40_020);
    bench.end(ended);
    let known: Vec<_> = (40_000..=40_020).map(|port| bench.find(port)).collect();
    assert!(known.iter().all(|found| found.len() == 1 && found[0]["learnt"] == "event"), "{known:#?}");
    assert_eq!(known[20][0]["state"], "closed");

    let address = bench.daemon.local_addr();
    let connect = |bench: &Bench| Client::connect(bench.lab.gateway(), address);
    let path = "/v1/events?dst_ip=198.51.100.1&dst_port=443";
    let mut stream = connect(&bench).stream_lines(path);
    let mut waiting = connect(&bench);
    waiting
        .send(b"GET /v1/lookup?src_ip=192.168.7.2&src_port=40105&wait=10000 HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("the connection is open");

    let others = [
        ConfigParts { key_name: "src_ip", ..ConfigParts::USUAL },
        ConfigParts { filter: "dst_ip = 198.51.100.1", ..ConfigParts::USUAL },
        ConfigParts { filter: "dst_ip = 198.51.100.1\ndst_port = 443", del_delay: 50, ..ConfigParts::USUAL },
        ConfigParts { port: 8081, ..ConfigParts::USUAL },
        ConfigParts { rest: "[netlink]\nreceive_buffer = 1M\n", ..ConfigParts::USUAL },
        ConfigParts::USUAL,
    ];
    let mut new = Vec::new();
    for (port, config) in (40_100..).zip(&others) {
        bench.reload(config);
        for (port, before) in (40_000..).zip(&known) {
            assert_eq!(bench.find(port), *before, "the same lifetime of the same mapping");
        }
        new.push(bench.connect(&server, port));
        let event = next_event(&mut stream);
        assert_eq!((&event["event"], &event["mapping"]["src_port"]), (&"opened".into(), &port.into()));
        assert_eq!(bench.find(port).len(), 1);
    }
    let answer = waiting.read_response("GET").expect("the waiting lookup gets a response");
    assert_eq!(answer.json()["matches"][0]["src_port"], 40_105, "{}", answer.text());
    bench.end(new.pop().expect("there are some"));
    let event = next_event(&mut stream);
    assert_eq!((&event["event"], &event["mapping"]["src_port"]), (&"closed".into(), &40_105.into()));
    println!(
        "reload: {} times, {} mappings stayed as they were, one connection, one stream and one waiting lookup \
         went on",
        bench.reloads,
        known.len()
    );
    drop(open);
}

#[test]
fn every_changed_key_takes_effect() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    let (web, plain) =
        (bench.lab.listen(bench.lab.server_at(443)), bench.lab.listen(bench.lab.server_at(80)));

    // ip_acl: applies to open connections too.
    let public = bench.daemon.addr_on(bench.lab.public(0));
    let mut outside = Client::connect(bench.lab.server(), public);
    assert_eq!(outside.get("/healthz").status, 200);
    bench.reload(&ConfigParts { ip_acl: "127.0.0.1,", ..ConfigParts::USUAL });
    assert_eq!((outside.get("/healthz").status, outside.get("/nat_port/1").status), (403, 403));
    bench.reload(&ConfigParts::USUAL);
    assert_eq!(outside.get("/healthz").status, 200);

    // key_name.
    let first: Vec<_> = (40_000..40_010).map(|port| bench.connect(&web, port)).collect();
    assert_eq!((bench.status("/nat_port/40001"), bench.status("/dst_ip/198.51.100.1")), (200, 400));
    bench.reload(&ConfigParts { key_name: "dst_ip", ..ConfigParts::USUAL });
    assert_eq!((bench.status("/nat_port/40001"), bench.status("/dst_ip/198.51.100.1")), (400, 200));
    bench.reload(&ConfigParts { key_name: "dst_port", ..ConfigParts::USUAL });
    assert_eq!((bench.status("/dst_port/443"), bench.status("/dst_port/80")), (200, 404));

    // The filter: a narrower one removes mappings, a wider one restores them, also those opened and closed meanwhile.
    let second: Vec<_> = (41_000..41_010).map(|port| bench.connect(&plain, port)).collect();
    assert_eq!((bench.find(40_001).len(), bench.find(41_001).len()), (1, 1));
    bench.reload(&ConfigParts { filter: "dst_port = 80", ..ConfigParts::USUAL });
    assert_eq!((bench.find(40_001).len(), bench.find(41_001).len()), (0, 1));
    let meanwhile = bench.connect(&web, 40_010);
    assert_eq!(bench.find(40_010).len(), 0);
    let mut first = first.into_iter();
    bench.end(first.next().expect("there are some"));
    bench.reload(&ConfigParts::USUAL);
    wait_until("the kernel's table was read", || bench.status("/readyz") == 200);
    assert!(bench.find(40_000).iter().all(|found| found["state"] != "live"));
    for port in 40_001..=40_010 {
        let found = bench.find(port);
        assert!(found.len() == 1 && found[0]["state"] == "live", "{port}: {found:#?}");
    }
    // Restored mappings close like any other.
    bench.end(meanwhile);
    assert_eq!(bench.find(40_010)[0]["state"], "closed");

    // del_delay.
    bench.reload(&ConfigParts { del_delay: 0, ..ConfigParts::USUAL });
    assert_eq!(bench.find(40_010).len(), 0);
    let mut second = second.into_iter();
    bench.end(second.next().expect("there are some"));
    assert_eq!(bench.find(41_000).len(), 0);
    bench.reload(&ConfigParts { del_delay: 600, ..ConfigParts::USUAL });
    assert_eq!(bench.find(40_010).len(), 0, "nothing comes back");
    bench.end(second.next().expect("there are some"));
    assert_eq!(bench.find(41_001)[0]["state"], "closed");

    // How much is logged.
    let debug = |bench: &Bench| bench.lines("requests GET /healthz");
    assert_eq!((bench.status("/healthz"), debug(&bench)), (200, 0));
    bench.reload(&ConfigParts { rest: "[syslog]\ndebug_level = 10", ..ConfigParts::USUAL });
    assert_eq!(bench.status("/healthz"), 200);
    wait_until("the request is logged", || debug(&bench) == 1);
    bench.reload(&ConfigParts::USUAL);
    assert_eq!((bench.status("/healthz"), debug(&bench)), (200, 1));

    // Host and port.
    bench.reload(&ConfigParts { port: 8081, ..ConfigParts::USUAL });
    let at = |ip, port| (ip, port).into();
    let gateway = bench.lab.gateway();
    let loopback = "127.0.0.1".parse().expect("an address");
    assert_eq!(lab::http::get(gateway, at(loopback, 8081), "/healthz").status, 200);
    wait_until("the old port is closed", || Client::try_connect(gateway, at(loopback, 8080)).is_err());
    assert_eq!((bench.client.get("/healthz").status, outside.get("/healthz").status), (200, 200));
    bench.reload(&ConfigParts { port: 8081, host: "100.64.2.1", ..ConfigParts::USUAL });
    let (gateway, public) = (bench.lab.gateway(), bench.lab.public(0));
    assert_eq!(lab::http::get(bench.lab.server(), at(public, 8081), "/healthz").status, 200);
    wait_until("the old address is closed", || Client::try_connect(gateway, at(loopback, 8081)).is_err());
    assert_eq!((bench.client.get("/healthz").status, outside.get("/healthz").status), (200, 200));
    // All addresses again; then an address that is in use, which changes nothing.
    bench.reload(&ConfigParts { port: 8081, ..ConfigParts::USUAL });
    assert_eq!(lab::http::get(bench.lab.gateway(), at(loopback, 8081), "/healthz").status, 200);
    bench.reload(&ConfigParts { port: 8081, host: "100.64.2.1", ..ConfigParts::USUAL });
    let taken = bench.lab.gateway().enter(|| TcpListener::bind("127.0.0.1:8081")).expect("it is free");
    let every = ConfigParts { port: 8081, key_name: "src_ip", ..ConfigParts::USUAL };
    bench.reload_text(&every.text(), "the old configuration stays in force");
    drop(taken);
    assert_eq!(lab::http::get(bench.lab.server(), at(public, 8081), "/nat_port/40001").status, 200);
    println!("reload: ip_acl, key_name, filter, del_delay, log level, port and host have each changed");
    drop((first, second));
}

#[test]
fn an_invalid_file_changes_nothing() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    let server = bench.lab.listen(bench.lab.server_at(443));
    let open = bench.connect(&server, 40_000);
    let taken = bench.lab.gateway().enter(|| TcpListener::bind("0.0.0.0:8090")).expect("it is free");
    let file = bench.daemon.config_path().display().to_string();
    // All other keys differ as well and must not take effect.
    let another = ConfigParts {
        key_name: "src_ip",
        del_delay: 0,
        ip_acl: "10.0.0.1,",
        filter: "dst_port = 80",
        ..ConfigParts::USUAL
    };
    let text = another.text();
    let line = |text: &str, of: &str| 1 + text.lines().position(|line| line.starts_with(of)).expect("there");
    let bad = [
        (text.replace("del_delay = 0", "del_delay = never"), "del_delay"),
        (text.replace("key_name = src_ip", "key_name = port"), "key_name"),
        (text.replace("ip_acl = 10.0.0.1,", "ip_acl = 10.0.0.300,"), "ip_acl"),
        (text.replace("[http_server]", "[http_server"), "[http_server"),
    ];
    for (text, wrong) in &bad {
        let expected_text = format!("{file}:{}:", line(text, wrong));
        bench.reload_text(text, "the old configuration stays in force");
        assert!(
            bench.daemon.stderr().contains(&expected_text),
            "no {expected_text} in:\n{}",
            bench.daemon.stderr()
        );
        check_unchanged(&mut bench);
    }
    bench.reload_text(&ConfigParts { port: 8090, ..another }.text(), "the old configuration stays in force");
    assert_eq!(bench.lines("cannot listen on 0.0.0.0 port 8090"), 1);
    check_unchanged(&mut bench);
    std::fs::remove_file(&file).expect("it is there");
    bench.daemon.signal(Signal::SIGHUP);
    wait_until("the daemon says so", || bench.lines("the old configuration stays in force") == bad.len() + 2);
    check_unchanged(&mut bench);

    // The next valid file takes effect.
    bench.reload(&ConfigParts { key_name: "src_ip", ..ConfigParts::USUAL });
    assert_eq!(bench.status("/src_ip/192.168.7.2"), 200);
    println!(
        "reload: {} files that cannot be used, each named with its line, changed nothing",
        bad.len() + 2
    );
    drop((open, taken));
}

fn check_unchanged(bench: &mut Bench) {
    assert_eq!((bench.status("/nat_port/40000"), bench.status("/src_ip/192.168.7.2")), (200, 400));
    assert_eq!(lab::http::get(bench.lab.gateway(), bench.daemon.local_addr(), "/readyz").status, 200);
}
