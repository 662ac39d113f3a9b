//! The files in doc/monitoring work: promtool accepts the configuration and the alerts, the alerts fire as
//! expected on recorded series, and a real Prometheus that scrapes a daemon answers every query of the
//! dashboard and raises an alert when events are lost.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lab::http::Client;
use lab::{Lab, Netns, flows, wait_until, wait_within};
use nfct::{Protocol, Query};
use serde_json::Value;
use tempfile::TempDir;

use super::documents::DAEMON;

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/doc/monitoring");
const ALERTS: &str = include_str!("../../doc/monitoring/alerts.yml");
const DASHBOARD: &str = include_str!("../../doc/monitoring/dashboard.json");

const CONFIG: &str = "\
[filter]
dst_port = 443

[data]
key_name = nat_port

[netlink]
receive_buffer = 16K
";

#[test]
fn promtool_accepts_the_configuration_and_the_alerts() {
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ] {
        let output = Command::new("promtool").args(arguments).current_dir(DIRECTORY).output();
        let output = output.unwrap_or_else(|error| {
            panic!(
                "this test needs promtool, of the package prometheus: {error}: `make setup test` installs it"
            )
        });
        let output_text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {arguments:?}: {output_text}");
    }
}

#[test]
fn every_alert_is_tested_and_explained() {
    let tests = fs::read_to_string(Path::new(DIRECTORY).join("alerts_test.yml")).expect("it is there");
    let guide = fs::read_to_string(Path::new(DIRECTORY).join("README.md")).expect("it is there");
    let alerts: Vec<_> = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 5);
    for alert in alerts {
        let named = format!("alertname: {alert}\n");
        let tested = tests.match_indices(&named).map(|(at, _)| {
            let rest = tests[at..].lines().nth(2).expect("what is expected follows");
            !rest.contains("[]")
        });
        let tested: BTreeSet<bool> = tested.collect();
        assert_eq!(tested.len(), 2, "{alert} has to be quiet once and to fire once");
        assert!(guide.contains(&format!("`{alert}`")), "README.md does not explain {alert}");
    }
}

/// A Prometheus that scrapes and evaluates once per second.
struct Prometheus {
    child: Child,
    _directory: TempDir,
    client: Client,
}

impl Prometheus {
    fn start(netns: &Netns, target: SocketAddr) -> Self {
        const ADDRESS: &str = "127.0.0.1:9090";
        let directory = TempDir::with_prefix("pynatconnd-prometheus-").expect("a directory can be created");
        let config = fs::read_to_string(Path::new(DIRECTORY).join("prometheus.yml")).expect("it is there");
        let config = config
            .replace("- alerts.yml", &format!("- {DIRECTORY}/alerts.yml"))
            .replace("100.64.2.1:8080", &target.to_string());
        assert!(config.contains(&target.to_string()) && config.contains(DIRECTORY), "{config}");
        let config = format!("global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n{config}");
        let path = directory.path().join("prometheus.yml");
        fs::write(&path, config).expect("it can be written");
        let child = netns
            .command("prometheus")
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("this test needs prometheus: {error}: `make setup test` installs it")
            });
        let mut client = None;
        wait_within(lab::PATIENCE * 3, "Prometheus is ready", || {
            client = Client::try_connect(netns, ADDRESS.parse().expect("an address")).ok();
            let ready = client.as_mut().map(|client| client.try_request("GET", "/-/ready", &[], b""));
            matches!(ready, Some(Ok(answer)) if answer.status == 200)
        });
        Self { child, _directory: directory, client: client.expect("it is ready") }
    }

    /// The result of a query: series with their last value.
    fn query(&mut self, query: &str) -> Vec<Value> {
        let encoded: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let answer = self.client.get(&format!("/api/v1/query?query={encoded}"));
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        answer.json()["data"]["result"].as_array().expect("a list").clone()
    }

    /// The single value of a query, if there is one.
    fn value(&mut self, query: &str) -> Option<f64> {
        let result = self.query(query);
        assert!(result.len() < 2, "{query}: {result:?}");
        result.first().map(|series| series["value"][1].as_str().expect("text").parse().expect("a number"))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The dashboard's queries, with its variables filled in as Grafana does.
fn dashboard_queries() -> Vec<String> {
    fn collect(value: &Value, queries: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                queries.extend(fields.get("expr").map(|query| query.as_str().expect("text").to_owned()));
                fields.values().for_each(|value| collect(value, queries));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, queries)),
            _ => {}
        }
    }
    let mut queries = Vec::new();
    collect(&serde_json::from_str(DASHBOARD).expect("the dashboard is JSON"), &mut queries);
    let fill = |query: String| {
        query
            .replace("$__rate_interval", "10s")
            .replace("$__interval", "10s")
            .replace("$job", "pynatconnd")
            .replace("$instance", ".*")
    };
    queries.into_iter().map(fill).collect()
}

/// The metrics named in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("pynatconnd_") || word.starts_with("process_")).collect()
}

#[test]
fn prometheus_answers_the_dashboard_and_raises_alerts() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    daemon.wait_for_line("equals the kernel's");
    let mut prometheus = Prometheus::start(lab.gateway(), daemon.local_addr());
    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
    let mut make = |ports: std::ops::Range<u16>| {
        for port in ports {
            let (src, nat) = (lab.client_at(0, 20_000 + port), (lab.public(0), 30_000 + port).into());
            flows::create(&mut query, &flows::source_nat(Protocol::Tcp, src, lab.server_at(443), nat));
        }
    };
    make(0..3);
    let mut client = Client::connect(lab.gateway(), daemon.local_addr());
    for route in ["/nat_port/30001", "/v1/lookup?nat_port=30001"] {
        assert_eq!(client.get(route).status, 200);
    }
    let counted = |what: &str| format!("sum(pynatconnd_{what})");
    wait_until("Prometheus has seen it", || prometheus.value(&counted("lookups_total")) == Some(2.0));
    wait_until("it has seen it twice", || {
        prometheus.value("sum(count_over_time(pynatconnd_mappings{state=\"live\"}[10s]))") >= Some(3.0)
    });
    assert_eq!(prometheus.value("up{job=\"pynatconnd\"}"), Some(1.0));
    assert_eq!(prometheus.value("pynatconnd_mappings{state=\"live\"}"), Some(3.0));

    // Every metric of the alerts and the dashboard exists, and every query has a result.
    let known = prometheus.client.get("/api/v1/label/__name__/values").json()["data"].clone();
    let known: BTreeSet<_> = known.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let queries = dashboard_queries();
    assert!(queries.len() > 20, "{queries:#?}");
    for name in queries.iter().flat_map(|query| names(query)).chain(names(ALERTS)) {
        assert!(known.contains(name), "there is no metric {name}");
    }
    for query in &queries {
        let found = prometheus.query(query);
        // Nothing has restarted.
        assert_eq!(found.is_empty(), query.starts_with("changes(process_start_time"), "{query}: {found:?}");
    }
    let metrics = known.iter().filter(|name| name.starts_with("pynatconnd_")).count();

    let firing = |prometheus: &mut Prometheus| {
        let alerts = prometheus.client.get("/api/v1/alerts").json()["data"]["alerts"].clone();
        let firing = alerts.as_array().expect("a list").iter().filter(|alert| alert["state"] == "firing");
        firing
            .map(|alert| alert["labels"]["alertname"].as_str().expect("text").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(firing(&mut prometheus), Vec::<String>::new());
    daemon.stop();
    make(3..500);
    daemon.go_on();
    daemon.wait_for_line("equals the kernel's again");
    wait_until("the alert fires", || firing(&mut prometheus) == ["PynatconndEventsLost"]);
    println!(
        "{} queries of the dashboard answered, {metrics} metrics; lost events have raised an alert",
        queries.len()
    );
}
