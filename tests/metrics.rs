//! `/metrics` tells the truth: known traffic, known look-ups, a known loss and known corrections are counted
//! exactly. Both formats are what they say they are, by promtool and by a strict reader of this file.

mod lab;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use lab::http::{Client, Response, get};
use lab::{Daemon, Lab, flows, traffic, wait_until};
use nfct::{Protocol, Query};
use nix::sys::signal::Signal;

const CONFIG: &str = "\
[filter]
dst_port = 443

[data]
key_name = nat_port
del_delay = 3600

[http_server]
host = 0.0.0.0
ip_acl = 127.0.0.1
";

const LISTED: &str = include_str!("../doc/monitoring/README.md");

const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0";

/// What a page says: the value of each series, written as it stands there, with its labels in order.
type Samples = BTreeMap<String, f64>;

/// How a family may differ from one format to the other.
#[derive(Clone, Copy, PartialEq)]
enum Format {
    Prometheus,
    OpenMetrics,
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A series in pieces: the name, and the labels with `le` apart.
fn pieces(series: &str) -> (&str, Vec<(&str, &str)>) {
    let Some((name, rest)) = series.split_once('{') else { return (series, Vec::new()) };
    let labels = rest.strip_suffix('}').unwrap_or_else(|| panic!("no end of labels: {series}"));
    let labels = labels.split(',').map(|pair| {
        let (name, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("no label: {series}"));
        let value = value.strip_suffix('"').unwrap_or_else(|| panic!("no label: {series}"));
        assert!(is_name(name) && !value.contains(['"', '\\', '\n']), "{series}");
        (name, value)
    });
    (name, labels.collect())
}

/// Reads a page and panics at whatever is not in order.
fn read(page: &str, format: Format) -> Samples {
    let body = match format {
        Format::OpenMetrics => page.strip_suffix("# EOF\n").expect("OpenMetrics has an end"),
        Format::Prometheus => page,
    };
    assert!(body.ends_with('\n') && !body.contains("# EOF") && !body.contains("\n\n"), "{body}");
    let (mut samples, mut families) = (Samples::new(), BTreeSet::new());
    let (mut family, mut kind, mut described) = (String::new(), String::new(), Vec::new());
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (word, name, text) =
                (words.next().unwrap(), words.next().unwrap().to_owned(), words.next().unwrap());
            assert!(is_name(&name), "{line}");
            match word {
                "HELP" => {
                    assert!(families.insert(name.clone()), "{name} is there twice");
                    assert!(text.ends_with('.') && text.len() > 5 && !text.contains(['"', '\\']), "{line}");
                    (family, described) = (name, vec!["HELP"]);
                    continue;
                }
                "TYPE" => {
                    assert_eq!(described, ["HELP"], "{line}");
                    kind = text.to_owned();
                    let known = ["counter", "gauge", "histogram"];
                    let info = format == Format::OpenMetrics && kind == "info";
                    assert!(known.contains(&text) || info, "{line}");
                    let total = name.ends_with("_total");
                    assert_eq!(total, format == Format::Prometheus && kind == "counter", "{line}");
                }
                "UNIT" => {
                    assert!(format == Format::OpenMetrics, "{line}");
                    assert!(family.ends_with(&format!("_{text}")), "{line}");
                }
                _ => panic!("what is {line:?}?"),
            }
            assert_eq!(name, family, "{line}");
            described.push(if word == "TYPE" { "TYPE" } else { "UNIT" });
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a series and a value");
        let (name, labels) = pieces(series);
        assert!(described.contains(&"TYPE") && is_name(name), "{line}");
        let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line} in {family}"));
        let allowed: &[&str] = match (kind.as_str(), format) {
            ("counter", Format::OpenMetrics) => &["_total"],
            ("info", _) => &["_info"],
            ("histogram", _) => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(allowed.contains(&suffix), "{line} in the {kind} {family}");
        assert_eq!(suffix == "_bucket", labels.iter().any(|(name, _)| *name == "le"), "{line}");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(value.is_finite() && (kind == "gauge" || value >= 0.0), "{line}");
        assert!(samples.insert(series.to_owned(), value).is_none(), "{series} is there twice");
    }
    check_histograms(&samples);
    samples
}

/// Buckets grow, the last is all, and there are as many as are counted.
fn check_histograms(samples: &Samples) {
    let mut histograms: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (series, value) in samples {
        let (name, labels) = pieces(series);
        let Some(name) = name.strip_suffix("_bucket") else { continue };
        let le = labels.iter().find(|(name, _)| *name == "le").expect("a bucket has a bound").1;
        let le = if le == "+Inf" { f64::INFINITY } else { le.parse().expect("a bound is a number") };
        let rest: Vec<_> = labels
            .iter()
            .filter(|(name, _)| *name != "le")
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        let rest = if rest.is_empty() { String::new() } else { format!("{{{}}}", rest.join(",")) };
        histograms.entry(format!("{name}_count{rest}")).or_default().push((le, *value));
    }
    assert!(histograms.len() > 2, "{histograms:?}");
    for (count, mut buckets) in histograms {
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{count}: {buckets:?}");
        let last = buckets.last().expect("there is one");
        assert!(last.0.is_infinite(), "{count}: {buckets:?}");
        assert_eq!(last.1, samples[&count], "{count}");
    }
}

/// A daemon in a lab, and a connection on which is asked.
struct Bench {
    lab: Lab,
    daemon: Daemon,
    client: Client,
    query: Query,
    /// Answers by route and by status, as this test has had them.
    answers: BTreeMap<(&'static str, u16), u64>,
}

impl Bench {
    fn new(lab: Lab, config: &str) -> Self {
        let daemon = Daemon::start(lab.gateway(), config);
        daemon.wait_for_line("equals the kernel's");
        let client = Client::connect(lab.gateway(), daemon.local_addr());
        let query = lab.gateway().enter(Query::open).expect("ctnetlink is there");
        Self { lab, daemon, client, query, answers: BTreeMap::new() }
    }

    fn count(&mut self, route: &'static str, answer: Response) -> Response {
        *self.answers.entry((route, answer.status)).or_default() += 1;
        answer
    }

    fn ask(&mut self, route: &'static str, method: &str, path: &str, body: &str) -> Response {
        let answer = self.client.request(method, path, &[], body.as_bytes());
        self.count(route, answer)
    }

    /// What the daemon says now.
    fn metrics(&mut self) -> Samples {
        let answer = self.ask("metrics", "GET", "/metrics", "");
        assert_eq!(answer.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        read(answer.text(), Format::Prometheus)
    }

    /// Holds it against what must be; nothing else of these names may be there but with 0.
    fn expect(&mut self, expected: &[(&str, f64)]) -> Samples {
        let samples = self.metrics();
        for (series, value) in expected {
            assert_eq!(samples.get(*series), Some(value), "{series} of {samples:#?}");
        }
        let of = |series: &str| series.split('{').next().unwrap_or_default().to_owned();
        let names: BTreeSet<_> = expected.iter().map(|(series, _)| of(series)).collect();
        for (series, value) in &samples {
            let meant = expected.iter().any(|(expected, _)| expected == series);
            assert!(meant || !names.contains(&of(series)) || *value == 0.0, "{series} is {value}");
        }
        samples
    }
}

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
    // Three that share their public ports with three of these: they go to another server.
    let shared: Vec<_> =
        (0..3).map(|index| lab.connect_to(&servers[1], lab.client_at(1, 41_000 + index))).collect();
    assert!((0..3).all(|at| shared[at].peer == newer[at].peer), "the kernel gives a port to two servers");
    let udp: Vec<_> = (0..5).map(|index| lab.udp_client(lab.client_at(0, 42_000 + index))).collect();
    for socket in &udp {
        traffic::udp_exchange(socket, &outside);
    }
    for connection in newer.drain(16..) {
        let from = connection.client.local_addr().expect("it is connected");
        connection.reset();
        assert!(flows::remove(&mut bench.query, &flows::tuple(Protocol::Tcp, from, servers[0].address())));
    }
    // One of two on a port: the port is in use all the same.
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
    // The kernel counts every connection of the namespace, these questions too.
    let sysctl = |name: &str| -> f64 {
        let value = bench.lab.gateway().read_sysctl(&format!("net.netfilter.nf_conntrack_{name}"));
        value.expect("it tracks").parse().expect("a number")
    };
    assert_eq!(samples["pynatconnd_conntrack_entries_limit"], sysctl("max"));
    assert!(samples["pynatconnd_conntrack_entries"] >= 30.0);
    let mut client = Client::connect(bench.lab.gateway(), bench.daemon.local_addr());
    wait_until("the kernel's count is told", || {
        let before = sysctl("count");
        let told = read(client.get("/metrics").text(), Format::Prometheus)["pynatconnd_conntrack_entries"];
        told == before && before == sysctl("count")
    });
    println!(
        "35 mappings made before and after the start, 5 ended, 3 on shared ports: {} series, all true",
        samples.len()
    );
    drop((older, newer, shared, udp));
}

#[test]
fn known_look_ups_are_counted_by_route_and_result() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let server = lab.listen(lab.server_at(443));
    // It may end without a word, so the kernel is asked for it.
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
        // No look-ups.
        ("/a/b/c".to_owned(), 404, 1),
    ] {
        for _ in 0..times {
            assert_eq!(bench.ask("legacy", "GET", &path, "").status, status, "{path}");
        }
    }
    assert_eq!(bench.ask("legacy", "PUT", "/nat_port/1", "").status, 405);
    assert_eq!(bench.ask("legacy", "HEAD", &format!("/nat_port/{known}"), "").status, 200);

    // A kernel that is too busy to be asked within a second is no failure: the answer says so.
    let mut undecided = 0.0;
    let whole = "nat_ip=100.64.2.1&dst_ip=198.51.100.1&dst_port=443";
    for (query, status, times) in [
        (format!("nat_port={known}"), 200, 2),
        // The kernel is asked before it is said that there is none.
        (format!("protocol=tcp&nat_port=39999&{whole}"), 404, 1),
        ("nat_port=39999".to_owned(), 404, 1),
        // One look-up, however often it looks.
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
    assert_eq!(bench.ask("lookup", "POST", "/v1/lookup", &three).status, 200);
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
        ("pynatconnd_lookups_total{route=\"auth\",result=\"not_found\"}", 1.0),
        ("pynatconnd_lookups_total{route=\"auth\",result=\"bad\"}", 2.0),
        // The silent mapping, and what nobody has.
        ("pynatconnd_kernel_questions_total", 2.0),
        ("pynatconnd_http_refused_total", 3.0),
    ]);
    // The answer that says it is not counted in itself.
    *bench.answers.get_mut(&("metrics", 200)).expect("it was asked") -= 1;
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
        let said: BTreeMap<_, _> = samples
            .iter()
            .filter(|(series, value)| series.starts_with(prefix) && **value != 0.0)
            .map(|(series, value)| (series.clone(), *value as u64))
            .collect();
        assert_eq!(said, counted);
    }
    let statistics = bench.ask("nagios", "GET", "/nagios", "").json();
    let statistics = &statistics["http_stat"];
    assert_eq!(statistics["successful_replies"], 12);
    assert_eq!(statistics["unsuccessful_replies"], 8);
    assert_eq!(statistics["bad_requests"], 5);
    assert_eq!(statistics["no_of_requests"], 25 + 3);
    println!(
        "28 look-ups by 3 routes with 3 results, and {} answers: each counted once",
        bench.answers.values().sum::<u64>()
    );
}

/// Messages that the kernel dropped for the daemon's event socket, by its own word.
fn kernel_drops(lab: &Lab) -> u64 {
    const NETFILTER: &str = "12";
    let sockets = lab.gateway().read_proc_net("netlink").expect("it can be read");
    let mut lines = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let head = lines.next().expect("it has a head");
    let column = |name: &str| head.iter().position(|column| *column == name).expect("the column is there");
    let (protocol, groups, drops) = (column("Eth"), column("Groups"), column("Drops"));
    let listeners: Vec<_> =
        lines.filter(|socket| socket[protocol] == NETFILTER && socket[groups] != "00000000").collect();
    assert_eq!(listeners.len(), 1, "{sockets}");
    listeners[0][drops].parse().expect("a number")
}

#[test]
fn a_known_loss_is_counted_and_told_of_once() {
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
        flows::make(&mut bench.query, &tuples);
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
fn known_corrections_are_counted_and_a_reload_that_failed_is_told() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "0");
    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is there");
    let tuples: Vec<_> = (0..10)
        .map(|port| {
            let (src, nat) = (lab.client_at(0, 20_000 + port), (lab.public(0), 30_000 + port).into());
            flows::source_nat(Protocol::Udp, src, lab.server_at(443), nat)
        })
        .collect();
    tuples.iter().for_each(|tuples| flows::make(&mut query, tuples));
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
    wait_until("the table was compared", || bench.metrics()["pynatconnd_sweep_corrections_total"] == 4.0);
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
fn labels_are_bounded_and_no_inside_host_is_told() {
    const ADDRESSES: u8 = 150;
    const SHOWN: usize = 100;
    if !lab::require() {
        return;
    }
    // Everything is tracked, translated or not.
    let lab = Lab::builder().build();
    let mut bench = Bench::new(lab, "[data]\nkey_name = nat_port\n");
    let server = bench.lab.server_at(443);
    for number in 0..ADDRESSES {
        // The later ones have more ports in use, and not all are translated.
        let public = Ipv4Addr::new(100, 64, 9, number);
        for port in 0..u16::from(number / 30 + 1) {
            let src = (Ipv4Addr::new(10, 7, 0, number), 20_000 + port).into();
            let tuples = flows::source_nat(Protocol::Tcp, src, server, (public, 30_000 + port).into());
            flows::make(&mut bench.query, &tuples);
        }
        let plain = (Ipv4Addr::new(10, 8, 0, number), 20_000).into();
        flows::make(&mut bench.query, &flows::source_nat(Protocol::Tcp, plain, server, plain));
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
            None => assert!(expected <= 2.0, "{series} has more than others that are shown"),
        }
    }
    let inside = samples.keys().find(|series| {
        series.contains("\"10.7.") || series.contains("\"10.8.") || series.contains("192.168.")
    });
    assert_eq!(inside, None);
    println!("{ADDRESSES} outside addresses: {} series", samples.len());
}

#[test]
fn both_formats_are_what_they_say() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().ipv6().build();
    let server = lab.listen(lab.server_at(443));
    let server6 = lab.listen(lab.server6_at(443));
    let mut bench = Bench::new(lab, CONFIG);
    let open = bench.lab.connect_to(&server, bench.lab.client_at(0, 40_001));
    let open6 = bench.lab.connect_to(&server6, bench.lab.client6_at(0, 40_001));
    bench.ask("legacy", "GET", "/nat_port/40001", "");

    let openmetrics = bench.client.request("GET", "/metrics", &[("Accept", OPENMETRICS)], b"");
    let plain = bench.client.request("GET", "/metrics", &[("Accept", "text/plain")], b"");
    assert_eq!(
        openmetrics.header("Content-Type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    for answer in [&openmetrics, &plain] {
        assert_eq!((answer.status, answer.header("Vary")), (200, Some("Accept")));
    }
    let (one, other) =
        (read(openmetrics.text(), Format::OpenMetrics), read(plain.text(), Format::Prometheus));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>(), "both say the same");
    for protocol in ["tcp", "udp"] {
        let series = format!("pynatconnd_ports_in_use{{address=\"2001:db8::2\",protocol=\"{protocol}\"}}");
        assert_eq!(one[&series], f64::from(u8::from(protocol == "tcp")), "{series}");
    }
    promtool(plain.text());

    let rows = LISTED.lines().filter(|line| line.starts_with("| `pynatconnd_"));
    let words = rows.flat_map(|row| row.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let listed: BTreeSet<_> = words.filter(|word| word.starts_with("pynatconnd_")).collect();
    let shown = other.keys().map(|series| pieces(series).0).filter(|name| name.starts_with("pynatconnd_"));
    let shown: BTreeSet<_> = shown
        .map(|name| {
            ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name)
        })
        .collect();
    assert_eq!(listed, shown, "doc/monitoring/README.md lists what there is");
    let head = bench.client.request("HEAD", "/metrics", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(bench.client.request("POST", "/metrics", &[], b"").status, 405);
    println!("{} series in both formats", one.len());
    drop((open, open6));
}

/// Prometheus' own check of names, units and descriptions.
fn promtool(page: &str) {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| {
        panic!("this test needs promtool, of the package prometheus: {error}: `make setup test` installs it")
    });
    child.stdin.take().expect("it is a pipe").write_all(page.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
