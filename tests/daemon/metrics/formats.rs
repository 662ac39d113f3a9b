//! Both formats are valid, according to promtool and a strict parser.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use lab::Lab;
use tempfile::TempDir;

use super::page::{Format, pieces, read};
use super::setup::{Bench, CONFIG};

const LISTED: &str = include_str!("../../../doc/monitoring/README.md");

const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0";

#[test]
fn both_formats_are_valid() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().ipv6().build();
    let server = lab.listen(lab.server_at(443));
    let server6 = lab.listen(lab.server6_at(443));
    let history = TempDir::with_prefix("pynatconnd-history-").expect("a directory can be made");
    // Some metrics exist only with a history, some only with a source of names.
    let config =
        format!("{CONFIG}[history]\npath = {}\n[names]\nneighbours = yes\n", history.path().display());
    let mut bench = Bench::new(lab, &config);
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

/// Prometheus's check of names, units and descriptions.
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
    child.stdin.take().expect("it is a pipe").write_all(page.as_bytes()).expect("promtool reads its input");
    let output = child.wait_with_output().expect("promtool ends");
    let output_text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output_text.is_empty(), "{output_text}");
}
