//! Row 13: the complete table over HTTP, against the tool that lists the kernel's table and against a plain
//! copy of the same bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use super::http;
use crate::bench::{Bench, PATIENCE};
use crate::machine;
use crate::peers::{Peer, Running};
use crate::report::{Row, Target, ratios};
use lab::Netns;
use lab::http::Client;

/// After this time without news of a mapping, the daemon verifies it with the kernel before it lists it.
const TRUSTED: Duration = Duration::from_secs(11);

pub fn measure(bench: &Bench) -> Result<Vec<Row>, String> {
    let mappings = bench.many(1_000_000);
    let (gateway, daemon) = http::serving(bench, mappings);
    let netns = gateway.netns();
    let mut copy = Running(machine::on(&bench.cpus.measured, || Peer::Copy.start(netns)));
    let mut port = String::new();
    let output = copy.0.stdout.take().expect("it is a pipe");
    BufReader::new(output).read_line(&mut port).expect("its output is text");
    let copy_at = SocketAddr::from((Ipv4Addr::LOCALHOST, port.trim().parse().expect("it prints its port")));

    let mut lines = 0;
    Client::connect(netns, daemon.local_addr()).get_lines("/v1/mappings", |_| lines += 1);
    assert!(lines >= mappings, "/v1/mappings has {lines} lines for {mappings} mappings");

    let (mut list, mut tool, mut of_list) = (Vec::new(), Vec::new(), Vec::new());
    let (mut debug, mut of_debug) = (Vec::new(), Vec::new());
    let mut verified = Vec::new();
    for _ in 0..bench.rounds(5) {
        thread::sleep(TRUSTED);
        verified.push(fetch(bench, netns, daemon.local_addr(), &request("/v1/mappings")));
        for (path, reads, copies) in
            [("/v1/mappings", &mut list, &mut of_list), ("/debug", &mut debug, &mut of_debug)]
        {
            let read = fetch(bench, netns, daemon.local_addr(), &request(path));
            assert!(read.status.contains(" 200 "), "{path}: {}", read.status);
            // The copy has the response's header too, so that both transfer the same number of bytes.
            let copied = fetch(bench, netns, copy_at, format!("{}\n", read.bytes).as_bytes());
            assert_eq!(copied.bytes, read.bytes, "{path} and its copy");
            reads.push(read);
            copies.push(copied);
        }
        let start = Instant::now();
        let status = machine::on(&bench.cpus.measured, || {
            let command = netns.command("conntrack").args(["-L", "-o", "extended,id"]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).status()
        });
        tool.push(start.elapsed().as_secs_f64());
        let status = status.map_err(|error| format!("conntrack cannot be started: {error}"))?;
        assert!(status.success(), "conntrack -L: {status}");
    }
    let seconds = |reads: &[Fetched]| reads.iter().map(|read| read.seconds).collect::<Vec<_>>();
    let rate = |reads: &[Fetched]| {
        reads.iter().map(|read| read.bytes as f64 / 1e6 / read.seconds).collect::<Vec<_>>()
    };
    let (listed, checked, shown) = (seconds(&list), seconds(&verified), seconds(&debug));
    let row = Row::new("13", format!("`/v1/mappings` of {mappings} mappings, until it is received"))
        .figure("pynatconnd", "s", &listed)
        .figure("`conntrack -L -o extended,id`", "s", &tool)
        .target("times `conntrack -L`", "×", &ratios(&listed, &tool), Target::AtMost(0.5))
        .figure("pynatconnd, each verified first", "s", &checked)
        .figure("times `conntrack -L`", "×", &ratios(&checked, &tool))
        .figure("pynatconnd", "MB a second", &rate(&list))
        .figure("a plain copy", "MB a second", &rate(&of_list))
        .figure("times a plain copy", "×", &ratios(&listed, &seconds(&of_list)));
    let of_legacy = Row::new("13", "`/debug` of the same table")
        .figure("pynatconnd", "s", &shown)
        .figure("pynatconnd", "MB a second", &rate(&debug))
        .figure("a plain copy", "MB a second", &rate(&of_debug))
        .figure("times a plain copy", "×", &ratios(&shown, &seconds(&of_debug)));
    Ok(vec![row, of_legacy])
}

/// A request for a body that is not divided into chunks and ends with the connection.
fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.0\r\n\r\n").into_bytes()
}

/// What a server sent until it closed the connection.
struct Fetched {
    status: String,
    bytes: u64,
    seconds: f64,
}

/// Sends a request and receives everything, on the load's processors.
fn fetch(bench: &Bench, netns: &Netns, address: SocketAddr, request: &[u8]) -> Fetched {
    machine::on(&bench.cpus.load, || {
        netns.enter(|| {
            let mut buffer = vec![0; 1 << 18];
            let (mut bytes, mut status) = (0, String::new());
            let start = Instant::now();
            let mut stream = TcpStream::connect(address).expect("the server listens");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
            stream.write_all(request).expect("the server reads");
            loop {
                let read = stream.read(&mut buffer).expect("the server sends");
                if bytes == 0 {
                    let text = String::from_utf8_lossy(&buffer[..read.min(100)]);
                    status = text.lines().next().unwrap_or_default().to_owned();
                }
                if read == 0 {
                    return Fetched { status, bytes, seconds: start.elapsed().as_secs_f64() };
                }
                bytes += read as u64;
            }
        })
    })
}
