//! Known traffic, lookups, overruns and corrections are counted exactly.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use lab::http::{Client, get};
use lab::{Lab, flows, traffic, wait_until};
use nfct::{Protocol, Query};
use nix::sys::signal::Signal;

use super::page::{Format, read};
use super::setup::{Bench, CONFIG};

#[test]
fn known_traffic_is_counted_exactly() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(2).servers(2).build();
    let servers = [lab.listen(lab.server_number(0, 443)), lab.listen(lab.server_number(1, 443))];
    let outside = lab.udp_server(lab.server_number(0, 443));
    let older: Vec<_> =
        (0..7).map(|index| lab.connect_to(&servers[0], lab.client_at(0, 40_000 + index))).collect();
    let mut bench = Bench::new(lab, CONFIG);
    let expect_dumped = [
        ("pynatconnd_mappings{state=\"live\"}", 7.0),
        ("pynatconnd_mappings_created_total{learnt=\"dump\"}", 7.0),
        ("pynatconnd_events_total{type=\"new\"}", 0.0),
        ("pynatconnd_ports_in_use{address=\"100.64.2.1\",protocol=\"tcp\"}", 7.0),
        ("pynatconnd_resyncs_total{outcome=\"whole\"}", 1.0),
        ("pynatconnd_resync_duration_seconds_count", 1.0),
    ];
    bench.expect(&expect_dumped);

    let lab = &bench.lab;
    let mut newer: Vec<_> =
        (0..20).map(|index| lab.connect_to(&servers[0], lab.client_at(1, 41_000 + index))).collect();
    // Three more to another server, which share their public ports with three of these.
    let shared: Vec<_> =
        (0..3).map(|index| lab.connect_to(&servers[1], lab.client_at(1, 41_000 + index))).collect();
    assert!(
        (0..3).all(|at| shared[at].peer == newer[at].peer),
        "the kernel reuses a port for another server"
    );
    let udp: Vec<_> = (0..5).map(|index| lab.udp_client(lab.client_at(0, 42_000 + index))).collect();
    for socket in &udp {
        traffic::udp_exchange(socket, &outside);
    }
    for connection in newer.drain(16..) {
        let from = connection.client.local_addr().expect("it is connected");
        connection.reset();
        assert!(flows::remove(&mut bench.query, &flows::tuple(Protocol::Tcp, from, servers[0].address())));
    }
    // One of two connections on a port: the port remains in use.
    let from = shared[0].client.local_addr().expect("it is connected");
    assert!(flows::remove(&mut bench.query, &flows::tuple(Protocol::Tcp, from, servers[1].address())));

    let samples = bench.expect(&[
        ("pynatconnd_table_complete", 1.0),
        ("pynatconnd_mappings{state=\"live\"}", 7.0 + 20.0 + 3.0 + 5.0 - 4.0 - 1.0),
        ("pynatconnd_mappings{state=\"closed\"}", 5.0),
        ("pynatconnd_mappings_created_total{learnt=\"dump\"}", 7.0),
        ("pynatconnd_mappings_created_total{learnt=\"event\"}", 28.0),
        ("pynatconnd_mappings_deleted_total", 0.0),
        ("pynatconnd_mappings_expired_total", 0.0),
        ("pynatconnd_events_total{type=\"new\"}", 28.0),
        ("pynatconnd_events_total{type=\"destroy\"}", 5.0),
        ("pynatconnd_malformed_messages_total", 0.0),
        ("pynatconnd_outside_addresses", 1.0),
        ("pynatconnd_ports_in_use{address=\"100.64.2.1\",protocol=\"tcp\"}", 7.0 + 20.0 - 4.0),
        ("pynatconnd_ports_in_use{address=\"100.64.2.1\",protocol=\"udp\"}", 5.0),
        ("pynatconnd_overruns_total", 0.0),
        ("pynatconnd_socket_drops_total", 0.0),
        ("pynatconnd_receive_buffer_bytes", f64::from(128 << 20)),
        ("pynatconnd_sweep_corrections_total", 0.0),
    ]);
    // The kernel counts every connection of the namespace, including these requests.
    let sysctl = |name: &str| -> f64 {
        let value = bench.lab.gateway().read_sysctl(&format!("net.netfilter.nf_conntrack_{name}"));
        value.expect("connection tracking is on").parse().expect("a number")
    };
    assert_eq!(samples["pynatconnd_conntrack_entries_limit"], sysctl("max"));
    assert!(samples["pynatconnd_conntrack_entries"] >= 30.0);
    let mut client = Client::connect(bench.lab.gateway(), bench.daemon.local_addr());
    wait_until("the kernel's count is reported", || {
        let before = sysctl("count");
        let reported =
            read(client.get("/metrics").text(), Format::Prometheus)["pynatconnd_conntrack_entries"];
        reported == before && before == sysctl("count")
    });
    println!(
        "35 mappings made before and after the start, 5 ended, 3 on shared ports: {} series, all true",
        samples.len()
    );
    drop((older, newer, shared, udp));
}

#[test]
fn known_lookups_are_counted_by_route_and_result() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let server = lab.listen(lab.server_at(443));
    // It may end without a DESTROY event, so the daemon checks with the kernel.
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "0");
    let silent = lab.connect_to(&server, lab.client_at(0, 40_001));
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "1");
    let mut bench = Bench::new(lab, CONFIG);
    let known = bench.lab.connect_to(&server, bench.lab.client_at(0, 40_002));
    let (silent, known) = (silent.peer.port(), known.peer.port());
    let requests_before = get(bench.lab.gateway(), bench.daemon.local_addr(), "/nagios").json();
    bench.answers.insert(("nagios", 200), 1);
    assert_eq!(requests_before["http_stat"]["no_of_requests"], 0);

    for (path, status, times) in [
        (format!("/nat_port/{known}"), 200, 3),
        (format!("/{known}?protocol=tcp"), 200, 2),
        (format!("/nat_port/{silent}"), 200, 1),
        ("/nat_port/1".to_owned(), 404, 2),
        ("/nat_port/70000".to_owned(), 404, 1),
        ("/nat_port/x".to_owned(), 400, 1),
        ("/src_port/1".to_owned(), 400, 1),
        ("/nat_port/1?protocol=x".to_owned(), 400, 1),
        // Not a lookup.
        ("/a/b/c".to_owned(), 404, 1),
    ] {
        for _ in 0..times {
            assert_eq!(bench.ask("legacy", "GET", &path, "").status, status, "{path}");
        }
    }
    assert_eq!(bench.ask("legacy", "PUT", "/nat_port/1", "").status, 405);
    assert_eq!(bench.ask("legacy", "HEAD", &format!("/nat_port/{known}"), "").status, 200);

    // What closed before the daemon's start is not known for del_delay, and the response says so.
    let mut undecided = 0.0;
    let tuple = "nat_ip=100.64.2.1&dst_ip=198.51.100.1&dst_port=443";
    for (query, status, times) in [
        (format!("nat_port={known}"), 200, 2),
        // The daemon queries the kernel before it responds that there is none.
        (format!("protocol=tcp&nat_port=39999&{tuple}"), 404, 1),
        ("nat_port=39999".to_owned(), 404, 1),
        // One lookup, however often it searches.
        ("nat_port=39999&wait=50".to_owned(), 404, 1),
        ("natport=1".to_owned(), 400, 1),
    ] {
        for _ in 0..times {
            let answer = bench.ask("lookup", "GET", &format!("/v1/lookup?{query}"), "");
            assert_eq!(answer.status, status, "{query}");
            undecided += f64::from(u8::from(status == 404 && answer.json()["complete"] == false));
        }
    }
    let three = format!("[{{\"nat_port\":{known}}},{{\"nat_port\":1}},{{\"nat_port\":{known}}}]");
    let answer = bench.ask("lookup", "POST", "/v1/lookup", &three);
    assert_eq!(answer.status, 200);
    undecided += f64::from(u8::from(answer.json()[1]["complete"] == false));
    assert_eq!(bench.ask("lookup", "POST", "/v1/lookup", "[{\"nat_port\":1},{\"x\":1}]").status, 400);
    assert_eq!(bench.ask("lookup", "POST", "/v1/lookup", "no list").status, 400);

    let known_text = known.to_string();
    for headers in [
        &[("X-Real-IP", "100.64.2.1"), ("X-Real-Port", known_text.as_str())][..],
        &[("X-Real-IP", "100.64.2.1"), ("X-Real-Port", "1")],
        &[("X-Real-IP", "100.64.2.1"), ("X-Real-Port", "x")],
        &[],
    ] {
        let answer = bench.client.request("GET", "/v1/auth", headers, b"");
        assert_eq!(bench.count("auth", answer).status, 204);
    }
    for (route, path, status) in [
        ("mappings", "/v1/mappings", 200),
        ("mappings", "/v1/mappings?x=1", 400),
        ("debug", "/debug", 200),
        ("health", "/healthz", 200),
        ("health", "/readyz", 200),
        ("other", "/v1/openapi.json", 200),
        ("other", "/v1/nothing", 404),
    ] {
        assert_eq!(bench.ask(route, "GET", path, "").status, status, "{path}");
    }
    // From outside ip_acl.
    let address = bench.daemon.addr_on(bench.lab.public(0));
    for (route, path) in [("legacy", "/nat_port/1"), ("metrics", "/metrics"), ("lookup", "/v1/lookup")] {
        let answer = get(bench.lab.server(), address, path);
        assert_eq!(bench.count(route, answer).status, 403, "{path}");
    }

    let samples = bench.expect(&[
        ("pynatconnd_lookups_total{route=\"legacy\",result=\"found\"}", 7.0),
        ("pynatconnd_lookups_total{route=\"legacy\",result=\"not_found\"}", 3.0),
        ("pynatconnd_lookups_total{route=\"legacy\",result=\"bad\"}", 3.0),
        ("pynatconnd_lookups_total{route=\"lookup\",result=\"found\"}", 4.0),
        ("pynatconnd_lookups_total{route=\"lookup\",result=\"not_found\"}", 4.0 - undecided),
        ("pynatconnd_lookups_total{route=\"lookup\",result=\"undecided\"}", undecided),
        ("pynatconnd_lookups_total{route=\"lookup\",result=\"bad\"}", 3.0),
        ("pynatconnd_lookups_total{route=\"auth\",result=\"found\"}", 1.0),
        ("pynatconnd_lookups_total{route=\"auth\",result=\"undecided\"}", 1.0),
        ("pynatconnd_lookups_total{route=\"auth\",result=\"bad\"}", 2.0),
        ("pynatconnd_auth_not_found_total{reason=\"unknown_port\"}", 1.0),
        ("pynatconnd_auth_not_found_total{reason=\"unknown_address\"}", 0.0),
        ("pynatconnd_http_refused_total", 3.0),
    ]);
    // A response of /metrics does not count itself.
    *bench.answers.get_mut(&("metrics", 200)).expect("it was requested") -= 1;
    let (mut by_route, mut by_status) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    for ((route, status), count) in &bench.answers {
        let route = format!("pynatconnd_http_request_duration_seconds_count{{route=\"{route}\"}}");
        *by_route.entry(route).or_default() += count;
        let status = format!("pynatconnd_http_responses_total{{status=\"{status}\"}}");
        *by_status.entry(status).or_default() += count;
    }
    for (prefix, counted) in [
        ("pynatconnd_http_request_duration_seconds_count", by_route),
        ("pynatconnd_http_responses_total", by_status),
    ] {
        let reported: BTreeMap<_, _> = samples
            .iter()
            .filter(|(series, value)| series.starts_with(prefix) && **value != 0.0)
            .map(|(series, value)| (series.clone(), *value as u64))
            .collect();
        assert_eq!(reported, counted);
    }
    // The mapping that may end silently, and the one that does not exist. The first one is also verified
    // in the background.
    assert!(samples["pynatconnd_kernel_questions_total"] >= 2.0);
    let statistics = bench.ask("nagios", "GET", "/nagios", "").json();
    let statistics = &statistics["http_stat"];
    assert_eq!(statistics["successful_replies"], 12);
    assert_eq!(statistics["unsuccessful_replies"], 8);
    assert_eq!(statistics["bad_requests"], 5);
    assert_eq!(statistics["no_of_requests"], 25 + 3);
    println!(
        "28 lookups by 3 routes with 3 results, and {} responses: each counted once",
        bench.answers.values().sum::<u64>()
    );
}

/// The messages that the kernel dropped for the daemon's event socket, as /proc/net/netlink shows.
fn kernel_drops(lab: &Lab) -> u64 {
    const NETFILTER: &str = "12";
    /// NEW and DESTROY events of connections.
    const EVENTS: u32 = 0b101;
    let sockets = lab.gateway().read_proc_net("netlink").expect("it can be read");
    let mut lines = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let head = lines.next().expect("it has a header line");
    let column = |name: &str| head.iter().position(|column| *column == name).expect("the column is there");
    let (protocol, groups, drops) = (column("Eth"), column("Groups"), column("Drops"));
    let listeners: Vec<_> =
        lines.filter(|socket| socket[protocol] == NETFILTER && listens(socket[groups], EVENTS)).collect();
    assert_eq!(listeners.len(), 1, "{sockets}");
    listeners[0][drops].parse().expect("a number")
}

/// Whether a socket with these groups, in hexadecimal, listens to all of `wanted`.
fn listens(groups: &str, wanted: u32) -> bool {
    u32::from_str_radix(groups, 16).is_ok_and(|groups| groups & wanted == wanted)
}

#[test]
fn a_known_overrun_is_counted_and_logged_once() {
    const MADE: u16 = 500;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let config = format!("{CONFIG}\n[netlink]\nreceive_buffer = 16K\n");
    let mut bench = Bench::new(lab, &config);
    bench.daemon.stop();
    for port in 0..MADE {
        let (src, nat) = (bench.lab.client_at(0, 20_000 + port), (bench.lab.public(0), 30_000 + port).into());
        let tuples = flows::source_nat(Protocol::Tcp, src, bench.lab.server_at(443), nat);
        flows::create(&mut bench.query, &tuples);
    }
    let drops = kernel_drops(&bench.lab);
    assert!((1..u64::from(MADE)).contains(&drops), "{drops} of {MADE} dropped");
    bench.daemon.go_on();
    let line = bench.daemon.wait_for_line("equals the kernel's again");
    assert!(line.contains(&format!(" {drops} events lost, receive buffer 64 KiB")), "{line}");

    let (drops, made) = (drops as f64, f64::from(MADE));
    assert_eq!(kernel_drops(&bench.lab) as f64, drops);
    let samples = bench.expect(&[
        ("pynatconnd_socket_drops_total", drops),
        ("pynatconnd_overruns_total", 1.0),
        ("pynatconnd_events_total{type=\"new\"}", made - drops),
        ("pynatconnd_mappings_created_total{learnt=\"event\"}", made - drops),
        ("pynatconnd_mappings_created_total{learnt=\"dump\"}", drops),
        ("pynatconnd_mappings{state=\"live\"}", made),
        ("pynatconnd_ports_in_use{address=\"100.64.2.1\",protocol=\"tcp\"}", made),
        ("pynatconnd_receive_buffer_bytes", 65_536.0),
        ("pynatconnd_table_complete", 1.0),
        ("pynatconnd_sweep_corrections_total", 0.0),
    ]);
    let resyncs = samples["pynatconnd_resyncs_total{outcome=\"whole\"}"]
        + samples["pynatconnd_resyncs_total{outcome=\"disturbed\"}"];
    assert!(resyncs >= 2.0);
    assert_eq!(samples["pynatconnd_resync_duration_seconds_count"], resyncs);
    let log = bench.daemon.stderr();
    for text in ["conntrack events lost", "equals the kernel's again"] {
        assert_eq!(log.matches(text).count(), 1, "{log}");
    }
    println!("{MADE} made, {drops} lost: {line}");
}

#[test]
fn known_corrections_and_failed_reloads_are_counted() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "0");
    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
    let tuples: Vec<_> = (0..10)
        .map(|port| {
            let (src, nat) = (lab.client_at(0, 20_000 + port), (lab.public(0), 30_000 + port).into());
            flows::source_nat(Protocol::Udp, src, lab.server_at(443), nat)
        })
        .collect();
    tuples.iter().for_each(|tuples| flows::create(&mut query, tuples));
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "1");
    let mut bench = Bench::new(lab, CONFIG);
    let started = bench.metrics()["pynatconnd_config_last_reload_success_timestamp_seconds"];
    for (original, _) in &tuples[..4] {
        assert!(flows::remove(&mut query, original));
    }
    bench.expect(&[
        ("pynatconnd_mappings{state=\"live\"}", 10.0),
        ("pynatconnd_sweep_corrections_total", 0.0),
        ("pynatconnd_config_last_reload_successful", 1.0),
    ]);

    bench.daemon.rewrite_config("[data]\nkey_name = nothing\n");
    bench.daemon.signal(Signal::SIGHUP);
    wait_until("the reload has failed", || {
        bench.metrics()["pynatconnd_config_last_reload_successful"] == 0.0
    });
    assert_eq!(bench.metrics()["pynatconnd_config_last_reload_success_timestamp_seconds"], started);

    bench.daemon.rewrite_config(&CONFIG.replace("[http_server]", "sweep_interval = 299\n[http_server]"));
    bench.daemon.signal(Signal::SIGHUP);
    wait_until("the sweep is complete", || bench.metrics()["pynatconnd_sweep_corrections_total"] == 4.0);
    bench.daemon.wait_for_line("is in force");
    let samples = bench.expect(&[
        ("pynatconnd_sweep_corrections_total", 4.0),
        ("pynatconnd_mappings{state=\"live\"}", 6.0),
        ("pynatconnd_mappings{state=\"closed\"}", 4.0),
        ("pynatconnd_ports_in_use{address=\"100.64.2.1\",protocol=\"udp\"}", 6.0),
        ("pynatconnd_config_last_reload_successful", 1.0),
        ("pynatconnd_events_total{type=\"destroy\"}", 0.0),
    ]);
    assert!(samples["pynatconnd_config_last_reload_success_timestamp_seconds"] > started);
}

#[test]
fn labels_are_bounded_and_reveal_no_inside_host() {
    const ADDRESSES: u8 = 150;
    const SHOWN: usize = 100;
    if !lab::require() {
        return;
    }
    // All connections are tracked, translated or not.
    let lab = Lab::builder().build();
    let mut bench = Bench::new(lab, "[data]\nkey_name = nat_port\n");
    let server = bench.lab.server_at(443);
    for number in 0..ADDRESSES {
        // Later addresses have more ports in use, and some connections are not translated.
        let public = Ipv4Addr::new(100, 64, 9, number);
        for port in 0..u16::from(number / 30 + 1) {
            let src = (Ipv4Addr::new(10, 7, 0, number), 20_000 + port).into();
            let tuples = flows::source_nat(Protocol::Tcp, src, server, (public, 30_000 + port).into());
            flows::create(&mut bench.query, &tuples);
        }
        let plain = (Ipv4Addr::new(10, 8, 0, number), 20_000).into();
        flows::create(&mut bench.query, &flows::source_nat(Protocol::Tcp, plain, server, plain));
    }
    let samples = bench.expect(&[("pynatconnd_outside_addresses", f64::from(ADDRESSES))]);
    let ports: Vec<_> =
        samples.iter().filter(|(series, _)| series.starts_with("pynatconnd_ports_in_use{")).collect();
    assert_eq!(ports.len(), 2 * SHOWN);
    for number in 0..ADDRESSES {
        let series = format!("pynatconnd_ports_in_use{{address=\"100.64.9.{number}\",protocol=\"tcp\"}}");
        let expected = f64::from(number / 30 + 1);
        match samples.get(&series) {
            Some(shown) => assert_eq!(*shown, expected, "{series}"),
            None => assert!(expected <= 2.0, "{series} has more ports in use than others that are shown"),
        }
    }
    let inside = samples.keys().find(|series| {
        series.contains("\"10.7.") || series.contains("\"10.8.") || series.contains("192.168.")
    });
    assert_eq!(inside, None);
    println!("{ADDRESSES} public addresses: {} series", samples.len());
}
