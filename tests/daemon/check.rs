//! check_pynatconnd on a healthy daemon, a failing one, and other servers: the status, the line, and the
//! performance data.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lab::{Lab, Netns, flows};
use nfct::{Protocol, Query};

use super::binary::DAEMON;

const OK: i32 = 0;
const WARNING: i32 = 1;
const CRITICAL: i32 = 2;
const UNKNOWN: i32 = 3;

const CONFIG: &str = "\
[filter]
dst_port = 443

[data]
key_name = nat_port

[http_server]
host = ::
ip_acl = 127.0.0.1, ::1
";

/// Runs check_pynatconnd and returns its status and output.
fn run(netns: Option<&Netns>, arguments: &[&str]) -> (i32, String) {
    let program = env!("CARGO_BIN_EXE_check_pynatconnd");
    let output = match netns {
        Some(netns) => netns.command(program).args(arguments).output(),
        None => Command::new(program).args(arguments).output(),
    };
    let output = output.expect("it can be started");
    assert!(output.stderr.is_empty(), "monitoring reads standard output alone: {output:?}");
    let text = String::from_utf8(output.stdout).expect("it is text");
    (output.status.code().expect("it ends by itself"), text)
}

/// Checks a daemon: the status, the text, and the performance data.
fn check(netns: &Netns, address: SocketAddr, arguments: &[&str]) -> (i32, String, Vec<(String, String)>) {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let arguments = [&["-H", host.as_str(), "-p", port.as_str()], arguments].concat();
    let (status, text) = run(Some(netns), &arguments);
    let line = text.strip_suffix('\n').expect("a line");
    assert!(!line.contains('\n') && line.len() < 512, "one line: {line}");
    let word = ["OK", "WARNING", "CRITICAL", "UNKNOWN"][usize::try_from(status).expect("a status")];
    let line = line.strip_prefix(&format!("PYNATCONND {word}: ")).unwrap_or_else(|| panic!("{line}"));
    let (text, data) = line.split_once(" | ").unwrap_or((line, ""));
    let data = data.split_whitespace().map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or_else(|| panic!("no performance data: {pair}"));
        (name.to_owned(), value.to_owned())
    });
    (status, text.to_owned(), data.collect())
}

#[test]
fn the_status_follows_how_full_the_tables_are() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    daemon.wait_for_line("equals the kernel's");
    let netns = lab.gateway();
    let address = daemon.addr_on([127, 0, 0, 1].into());
    let mut query = netns.enter(Query::open).expect("ctnetlink is available");
    let mut made = 0;
    let mut make_until = |number: u16| {
        for port in made..number {
            let (src, nat) = (lab.client_at(0, 1024 + port), (lab.public(0), 1024 + port).into());
            flows::create(&mut query, &flows::source_nat(Protocol::Udp, src, lab.server_at(443), nat));
        }
        made = number;
    };
    make_until(645);
    let (status, text, data) = check(netns, address, &[]);
    assert_eq!(status, OK, "{text}");
    assert!(text.starts_with("645 mappings, connection tracking "), "{text}");
    assert!(text.ends_with(" % full, ports of 100.64.2.1 udp 1.0 % in use"), "{text}");
    let names: Vec<_> = data.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["usage", "mappings", "conntrack", "ports", "overruns", "time"]);
    let value = |name: &str| data.iter().find(|(known, _)| known == name).expect("it is there").1.as_str();
    assert_eq!(value("usage"), "1.00%;80;90;0;100");
    assert_eq!(value("mappings"), "645;;;0");
    assert_eq!(value("ports"), "645;;;0;64512");
    assert_eq!(value("overruns"), "0c");
    let (entries, limit) = value("conntrack").split_once(";;;0;").expect("the limit is reported");
    assert!(entries.parse::<u32>().expect("a number") >= 645, "{data:?}");
    assert_eq!(
        limit,
        netns.read_sysctl("net.netfilter.nf_conntrack_max").expect("connection tracking is on")
    );
    let time = value("time").strip_suffix("s;;;0").expect("seconds").parse::<f64>().expect("a number");
    assert!((0.0..10.0).contains(&time), "{data:?}");

    for (arguments, expected) in [
        (&["-w", "0.5", "-c", "2"][..], WARNING),
        (&["-w", "0.1", "-c", "0.5"], CRITICAL),
        (&["-w", "@0:5"], WARNING),
        (&["-w", "5:", "-c", "3:"], CRITICAL),
        (&["--warning", "~:5", "--critical", "10", "--timeout", "5"], OK),
    ] {
        assert_eq!(check(netns, address, arguments).0, expected, "{arguments:?}");
    }
    let address6 = daemon.addr_on("::1".parse().expect("an address"));
    assert_eq!(check(netns, address6, &[]).0, OK);
    let port = address.port().to_string();
    assert_eq!(run(Some(netns), &["-H", "[::1]", "-p", &port]).0, OK);

    // The ports run out.
    for (number, expected) in [(51_000, OK), (52_000, WARNING), (58_500, CRITICAL)] {
        make_until(number);
        let (status, text, _) = check(netns, address, &[]);
        assert_eq!(status, expected, "{number}: {text}");
    }

    // A client outside ip_acl.
    let outside = daemon.addr_on(lab.public(0));
    let (status, text, data) = check(lab.server(), outside, &[]);
    assert_eq!((status, data.len()), (UNKNOWN, 0));
    assert!(text.contains("add it to ip_acl"), "{text}");

    // A daemon that hangs.
    daemon.stop();
    let begun = Instant::now();
    let (status, text, _) = check(netns, address, &["-t", "0.3"]);
    assert_eq!(status, CRITICAL);
    assert_eq!(text, format!("no response from 127.0.0.1 port {} within 0.3 s", address.port()));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    daemon.go_on();

    // A daemon that has ended.
    drop(daemon);
    let (status, text, _) = check(netns, address, &[]);
    assert_eq!(status, CRITICAL, "{text}");
    assert!(text.starts_with(&format!("cannot connect to 127.0.0.1 port {}: ", address.port())), "{text}");
}

#[test]
fn an_incomplete_table_is_a_warning() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "0");
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    let address = daemon.addr_on([127, 0, 0, 1].into());
    let (status, text, _) = check(lab.gateway(), address, &[]);
    assert_eq!(status, WARNING, "{text}");
    assert!(text.contains("the table is not complete"), "{text}");
    assert_eq!(check(lab.gateway(), address, &["-c", "200:"]).0, CRITICAL);
}

#[test]
fn a_server_that_is_not_the_daemon_is_recognized() {
    for (answer, expected) in [
        ("", CRITICAL),
        ("SSH-2.0-x\r\n", CRITICAL),
        ("HTTP/1.0 500 Internal Server Error\r\n\r\n", CRITICAL),
        ("HTTP/1.0 200 OK\r\nContent-Length: 50\r\n\r\npynatconnd_table_complete 1\n", CRITICAL),
        ("HTTP/1.0 404 Not Found\r\n\r\nNot found", UNKNOWN),
        ("HTTP/1.0 200 OK\r\n\r\n<html>", UNKNOWN),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is available");
        let port = listener.local_addr().expect("it is bound").port().to_string();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a request comes");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a request");
                request.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).expect("it reads");
            String::from_utf8(request).expect("it is text")
        });
        let (status, text) = run(None, &["-p", &port]);
        assert_eq!(status, expected, "{answer:?}: {text}");
        let request = server.join().expect("the server has responded");
        assert!(request.starts_with("GET /metrics HTTP/1.0\r\nHost: 127.0.0.1:"), "{request}");
    }
}

#[test]
fn wrong_usage_is_unknown_and_explained() {
    for (arguments, expected) in [
        (&["-w", "x"][..], "--warning: found \"x\", expected a range such as 80,"),
        (&["-c", "90:80"], "--critical: found \"90:80\", expected a range that does not begin above its end"),
        (&["-t", "0"], "--timeout: found \"0\", expected seconds, more than 0"),
        (&["-t", "soon"], "--timeout: found \"soon\", expected seconds"),
        (&["-p", "70000"], "invalid value '70000' for '--port <PORT>'"),
        (&["-x"], "unexpected argument '-x' found"),
        (&["metrics"], "unexpected argument 'metrics' found"),
    ] {
        let (status, text) = run(None, arguments);
        assert_eq!(status, UNKNOWN, "{arguments:?}");
        assert!(text.starts_with(&format!("PYNATCONND UNKNOWN: {expected}")), "{arguments:?}: {text}");
    }
    let version = format!("check_pynatconnd {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(None, &["--version"]), (UNKNOWN, version));
    let (status, help) = run(None, &["--help"]);
    assert_eq!(status, UNKNOWN);
    assert!(["-H", "-p", "-w", "-c", "-t"].iter().all(|option| help.contains(option)), "{help}");
}
