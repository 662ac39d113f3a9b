//! `[filter]` with lists, networks, ranges, exceptions and protocols: which connections are in the table, and what
//! the others cost the daemon.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lab::http::Client;
use lab::{Daemon, Lab, flows};
use nfct::{Protocol, Query};

use super::usual::{TestConfig, USUAL};

/// A connection that is created through ctnetlink: the inside host's address and port, the server's, the public
/// one, and the protocol.
#[derive(Debug, Clone, Copy)]
struct Made(&'static str, &'static str, &'static str, Protocol);

impl Made {
    fn create(self, query: &mut Query) {
        let Made(src, dst, nat, protocol) = self;
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address and a port");
        flows::create(query, &flows::source_nat(protocol, at(src), at(dst), at(nat)));
    }
}

/// A daemon, and its connection for requests.
struct Bench {
    lab: Lab,
    daemon: Daemon,
    client: Client,
    query: Query,
}

impl Bench {
    fn new(filter: &'static str) -> Self {
        let lab = Lab::builder().build();
        let daemon = TestConfig { filter, ..USUAL }.start(&lab);
        daemon.wait_for_line("the table equals the kernel's");
        let client = Client::connect(lab.gateway(), daemon.local_addr());
        let query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
        Self { lab, daemon, client, query }
    }

    /// The public addresses and ports of the live mappings, sorted.
    fn mappings(&mut self) -> Vec<String> {
        let response = self.client.get("/v1/mappings?state=live");
        let lines = response.text().lines().filter(|line| !line.is_empty());
        let mut mappings: Vec<_> = lines
            .map(|line| {
                let mapping: serde_json::Value = serde_json::from_str(line).expect("a mapping");
                format!("{}:{}", mapping["nat_ip"].as_str().expect("an address"), mapping["nat_port"])
            })
            .collect();
        mappings.sort();
        mappings
    }

    /// The events that the kernel has delivered to the daemon.
    fn events(&mut self) -> f64 {
        let metrics = self.client.get("/metrics");
        let count = |kind: &str| -> f64 {
            let name = format!("pynatconnd_events_total{{type=\"{kind}\"}} ");
            let line = metrics.text().lines().find_map(|line| line.strip_prefix(&name));
            line.expect("the metric").parse().expect("a number")
        };
        count("new") + count("destroy")
    }

    /// How often the thread that reads events has slept.
    fn sleeps(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.daemon.pid())).expect("the daemon runs");
        let statuses = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
        let mut of_thread = statuses.filter(|status| status.starts_with("Name:\tnetfilter\n"));
        let status = of_thread.next().expect("the thread runs");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.expect("the count").trim().parse().expect("a number")
    }
}

#[test]
fn lists_networks_ranges_exceptions_and_protocols_select_connections() {
    use Protocol::{Sctp, Tcp, Udp};
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new(
        "nat_ip = 203.0.113.0/28, 198.51.100.7, ::ffff:100.64.2.1, !203.0.113.5\n\
         src_ip = 10.0.0.0/8, !10.9.0.0/16\n\
         dst_port = 80, 443, 8000-8100, !8050\n\
         protocol = tcp, udp",
    );
    let accepted = [
        Made("10.0.0.1:1001", "192.0.2.1:80", "203.0.113.0:1001", Tcp),
        Made("10.0.0.1:1002", "192.0.2.1:443", "203.0.113.15:1002", Udp),
        Made("10.255.0.1:1003", "192.0.2.1:8000", "198.51.100.7:1003", Tcp),
        Made("10.8.255.255:1004", "192.0.2.1:8100", "100.64.2.1:1004", Tcp),
    ];
    let excluded = [
        Made("10.0.0.1:2001", "192.0.2.1:80", "203.0.113.16:2001", Tcp),
        Made("10.0.0.1:2002", "192.0.2.1:80", "203.0.113.5:2002", Tcp),
        Made("10.0.0.1:2003", "192.0.2.1:80", "198.51.100.6:2003", Tcp),
        Made("11.0.0.1:2004", "192.0.2.1:80", "203.0.113.1:2004", Tcp),
        Made("10.9.0.1:2005", "192.0.2.1:80", "203.0.113.1:2005", Tcp),
        Made("10.9.255.255:2006", "192.0.2.1:80", "203.0.113.1:2006", Tcp),
        Made("10.0.0.1:2007", "192.0.2.1:8050", "203.0.113.1:2007", Tcp),
        Made("10.0.0.1:2008", "192.0.2.1:8101", "203.0.113.1:2008", Tcp),
        Made("10.0.0.1:2009", "192.0.2.1:7999", "203.0.113.1:2009", Udp),
        Made("10.0.0.1:2010", "192.0.2.1:80", "203.0.113.1:2010", Sctp),
    ];
    for made in accepted.iter().chain(&excluded) {
        made.create(&mut bench.query);
    }
    let mut expected: Vec<_> = accepted.iter().map(|Made(_, _, nat, _)| (*nat).to_owned()).collect();
    expected.sort();
    assert_eq!(bench.mappings(), expected);
    assert_eq!(bench.events(), accepted.len() as f64, "the kernel delivers no other event");
    // What was there before the daemon is selected in the same way.
    let text = fs::read_to_string(bench.daemon.config_path()).expect("the file is there");
    let second = super::binary::DAEMON.start(bench.lab.gateway(), text);
    second.wait_for_line("the table equals the kernel's");
    bench.client = Client::connect(bench.lab.gateway(), second.local_addr());
    assert_eq!(bench.mappings(), expected);
}

#[test]
fn an_excluded_event_costs_the_daemon_nothing() {
    const NUMBER: u16 = 5000;
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new(
        "nat_ip = 203.0.113.0/28, 198.51.100.7\nsrc_ip = !10.9.0.0/16\n\
         dst_port = 80, 443, 8000-8100\nprotocol = tcp, udp",
    );
    let at = |ip: [u8; 4], port| SocketAddr::from((ip, port));
    let (inside, public, server) = ([10, 0, 0, 1], [203, 0, 113, 1], [192, 0, 2, 1]);
    type Make<'a> = &'a dyn Fn(u16) -> (Protocol, [SocketAddr; 3]);
    // Each excluded by another condition.
    let kinds: [(&str, Make<'_>); 5] = [
        ("a network", &|port| {
            (Protocol::Tcp, [at(inside, port), at(server, 80), at([203, 0, 113, 16], port)])
        }),
        ("an exception", &|port| {
            (Protocol::Tcp, [at([10, 9, 0, 1], port), at(server, 80), at(public, port)])
        }),
        ("a list of ports", &|port| (Protocol::Tcp, [at(inside, port), at(server, 8101), at(public, port)])),
        ("a protocol", &|port| (Protocol::Sctp, [at(inside, port), at(server, 80), at(public, port)])),
        ("nothing", &|port| (Protocol::Tcp, [at(inside, port), at(server, 443), at(public, port)])),
    ];
    for (by, make) in kinds {
        let (events, sleeps, begun) = (bench.events(), bench.sleeps(), Instant::now());
        for port in 1..=NUMBER {
            let (protocol, [src, dst, nat]) = make(port);
            flows::create(&mut bench.query, &flows::source_nat(protocol, src, dst, nat));
            assert!(flows::remove(&mut bench.query, &flows::tuple(protocol, src, dst)));
        }
        let (slept, took) = (bench.sleeps() - sleeps, begun.elapsed());
        let delivered = bench.events() - events;
        println!("{NUMBER} connections excluded by {by}: {delivered} events, {slept} sleeps in {took:?}");
        if by == "nothing" {
            assert_eq!(delivered, 2.0 * f64::from(NUMBER));
        } else {
            assert_eq!(delivered, 0.0, "by {by}");
            // It looks whether it is still there once a second.
            assert!(slept <= 8 + 4 * took.as_secs(), "by {by}: slept {slept} times in {took:?}");
        }
    }
}

#[test]
fn a_list_that_is_too_long_for_the_kernel_is_checked_by_the_daemon() {
    if !lab::require() {
        return;
    }
    let hosts: Vec<_> = (0..3000).map(|host| format!("10.{}.{}.1", host / 256, host % 256)).collect();
    let filter = format!("src_ip = {}\ndst_port = 443", hosts.join(", "));
    let mut bench = Bench::new(filter.leak());
    bench.daemon.wait_for_line("lists are too long for the kernel's filter");
    for made in [
        Made("10.0.0.1:1001", "192.0.2.1:443", "100.64.2.1:1001", Protocol::Tcp),
        Made("10.11.183.1:1002", "192.0.2.1:443", "100.64.2.1:1002", Protocol::Tcp),
        // The kernel does not exclude these any more.
        Made("10.11.184.1:2001", "192.0.2.1:443", "100.64.2.1:2001", Protocol::Tcp),
        Made("10.0.0.2:2002", "192.0.2.1:443", "100.64.2.1:2002", Protocol::Tcp),
        // But this.
        Made("10.0.0.1:2003", "192.0.2.1:80", "100.64.2.1:2003", Protocol::Tcp),
    ] {
        made.create(&mut bench.query);
    }
    assert_eq!(bench.mappings(), ["100.64.2.1:1001", "100.64.2.1:1002"]);
    assert_eq!(bench.events(), 4.0);
    // A reload to a longer one does not say so again.
    let text = fs::read_to_string(bench.daemon.config_path()).expect("the file is there");
    bench.daemon.rewrite_config(&text.replace("dst_port = 443", "dst_port = 80, 443"));
    bench.daemon.signal(nix::sys::signal::Signal::SIGHUP);
    bench.daemon.wait_for_line("is in force");
    lab::wait_within(Duration::from_secs(20), "the table has the other port", || bench.mappings().len() == 3);
    assert_eq!(bench.daemon.stderr().matches("too long for the kernel's filter").count(), 1);
}
