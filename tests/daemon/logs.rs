//! The log is worth reading: the start is logged with what runs and what it follows, and traffic, lookups and
//! events are not. `metrics` tests what an overrun logs.

use std::fs;

use lab::Lab;
use lab::http::{Client, get};

use super::binary::DAEMON;

const CONFIG: &str = "\
[filter]
dst_ip = 198.51.100.1
dst_port = 443
nat_only = yes

[data]
key_name = nat_port

[netlink]
receive_buffer = 2M

[http_server]
host = 0.0.0.0
ip_acl = 127.0.0.1
";

#[test]
fn the_start_is_logged_and_traffic_is_not() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let server = lab.listen(lab.server_at(443));
    let older: Vec<_> =
        (0..3).map(|index| lab.connect_to(&server, lab.client_at(0, 40_000 + index))).collect();
    let daemon = DAEMON.builder(CONFIG).start(lab.gateway());
    daemon.wait_for_line("equals the kernel's");
    let address = daemon.local_addr();

    let maps = fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).expect("the daemon runs");
    let library = maps.split(['/', '\n']).find(|part| part.starts_with("libnetfilter_conntrack.so"));
    let library = library.expect("the library is loaded");
    let first = format!(
        "pynatconnd {} ({library}, built against libnetfilter_conntrack {}) tracks connections with dst_ip \
         198.51.100.1, dst_port 443 that are translated; lookup key nat_port",
        env!("CARGO_PKG_VERSION"),
        nfct::LIBRARY_VERSION
    );
    let expected = [
        ("pynatconnd::daemon] ", first.as_str()),
        ("pynatconnd::daemon] ", "subscribed to conntrack events, receive buffer 4096 KiB"),
        ("pynatconnd::daemon] ", &format!("listening on http://{}", daemon.addr())),
        ("pynatconnd::tracker] ", "the table equals the kernel's: 3 mappings from "),
    ];
    let log = daemon.stderr();
    assert_eq!(log.lines().count(), expected.len(), "{log}");
    for (place, text) in expected {
        let line = log.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text} in {log}"));
        assert!(line.contains(&format!(" INFO  {place}{text}")), "{line}");
    }
    assert!(
        log.lines().any(|line| line.contains(" kernel entries, read in ") && line.ends_with(" ms")),
        "{log}"
    );

    let newer: Vec<_> =
        (0..50).map(|index| lab.connect_to(&server, lab.client_at(0, 41_000 + index))).collect();
    let mut client = Client::connect(lab.gateway(), address);
    for port in 41_000..41_050 {
        assert_eq!(client.get(&format!("/nat_port/{port}")).status, 200);
        assert_eq!(client.get(&format!("/v1/lookup?nat_port={port}")).status, 200);
        assert_eq!(client.get(&format!("/nat_port/{}", port + 1000)).status, 404);
    }
    assert_eq!(client.get("/metrics").status, 200);
    assert_eq!(daemon.stderr(), log, "at this level normal operation is not logged");
    assert_eq!(get(lab.server(), daemon.addr_on(lab.public(0)), "/nat_port/1").status, 403);
    daemon.wait_for_line("refused 198.51.100.1 /nat_port/1: not in ip_acl");
    assert_eq!(daemon.stderr().lines().count(), expected.len() + 1);
    drop((older, newer));
}

#[test]
fn at_debug_requests_are_logged_and_events_are_not() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let server = lab.listen(lab.server_at(443));
    let daemon = DAEMON.builder(CONFIG).arg("-l").arg("debug").start(lab.gateway());
    daemon.wait_for_line("equals the kernel's");
    let before = daemon.stderr();
    let open: Vec<_> =
        (0..20).map(|index| lab.connect_to(&server, lab.client_at(0, 41_000 + index))).collect();
    let mut client = Client::connect(lab.gateway(), daemon.local_addr());
    assert_eq!(client.get("/nat_port/41019").status, 200);
    daemon.wait_for_line(" requests GET /nat_port/41019");
    let log = daemon.stderr();
    assert_eq!(log.lines().count(), before.lines().count() + 1, "{log}");
    drop(open);
}
