//! `/v1/history`: who was behind a public address and port in the past.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use lab::http::Client;
use lab::{Daemon, Lab};
use nfct::Protocol;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::setup::{
    CLOSED, CONFIG, TestConnection, client, connections, ctnetlink, make_connections, numbers,
};
use crate::binary::DAEMON;

/// A daemon that keeps a history in a directory, with further lines of `[history]`.
fn start(lab: &Lab, directory: &Path, more: &str) -> Daemon {
    let path = directory.join("history");
    let daemon =
        DAEMON.start(lab.gateway(), format!("{CONFIG}\n[history]\npath = {}\n{more}", path.display()));
    daemon.wait_for_line("the table equals the kernel's");
    daemon
}

fn ask(client: &mut Client, query: &str) -> Value {
    let response = client.get(&format!("/v1/history?{query}"));
    let answer = response.json();
    assert!(matches!(response.status, 200 | 404), "{query}: {answer:#}");
    let has_matches = !answer["matches"].as_array().unwrap().is_empty();
    assert_eq!(response.status == 200, has_matches, "{query}: {answer:#}");
    answer
}

fn found(answer: &Value) -> Vec<usize> {
    let mut found = numbers(answer["matches"].as_array().unwrap());
    found.sort_unstable();
    found
}

#[test]
fn what_the_table_knows_and_no_longer_knows_is_in_the_history_at_once() {
    if !lab::require() {
        return;
    }
    let directory = TempDir::with_prefix("pynatconnd-history-").unwrap();
    let lab = Lab::builder().build();
    let daemon = start(&lab, directory.path(), "gateway = gw1");
    let mut query = ctnetlink(&lab);
    let mut client = client(&lab, &daemon);
    make_connections(&mut query, &mut client);
    for (fields, expected) in [
        ("nat_ip=100.64.2.1&nat_port=50001", &[0, 1, 5][..]),
        ("nat_ip=100.64.2.1&nat_port=50001&zone=5", &[5]),
        ("nat_ip=100.64.2.1&nat_port=50001&dst_ip=198.51.100.2", &[1]),
        ("nat_port=50001&src_ip=192.168.7.3", &[1]),
        ("nat_port=50002", &[2]),
        ("nat_port=50002&protocol=udp", &[2]),
        ("nat_port=50002&protocol=tcp", &[]),
        // Both ends of a connection whose source and destination are translated.
        ("nat_ip=100.64.2.2", &[3]),
        ("nat_ip=203.0.113.9&nat_port=443", &[3]),
        ("nat_ip=2001:db8::2", &[4]),
        ("nat_port=50009", &[CLOSED]),
        ("nat_port=77&protocol=icmp", &[7]),
        ("src_ip=192.168.7.2", &[0, 2, 3, 5, 7]),
    ] {
        for time in ["at=now&skew=60", "from=-1m", "at=-30s&skew=40.5"] {
            let answer = ask(&mut client, &format!("{fields}&{time}"));
            assert_eq!(found(&answer), expected, "{fields}&{time}: {answer:#}");
        }
    }
    let answer = ask(&mut client, "nat_ip=100.64.2.1&nat_port=50009&from=-1m");
    let mapping = &answer["matches"][0];
    for (member, expected) in [
        ("protocol", json!("tcp")),
        ("src_ip", json!("192.168.7.9")),
        ("nat_port", json!(50009)),
        ("inside", json!("src")),
        ("nat", json!(["src"])),
        ("state", json!("closed")),
        ("gateway", json!("gw1")),
    ] {
        assert_eq!(mapping[member], expected, "{member}: {answer:#}");
    }
    assert!(matches!(mapping["opened_known"].as_str(), Some("kernel" | "event")), "{answer:#}");
    assert!(matches!(mapping["closed_known"].as_str(), Some("kernel" | "event")), "{answer:#}");
    assert_eq!(answer["ambiguous"], false);

    // Without a seam: each connection is found as soon as it is there, and its end as soon as it ended.
    for round in 0..50 {
        let made = connections()[0];
        made.delete(&mut query);
        let ended = ask(&mut client, "nat_port=50001&zone=0&src_ip=192.168.7.2&from=-1h");
        let all = ended["matches"].as_array().unwrap();
        assert!(
            all.len() == round + 1 && all.iter().all(|found| found["state"] == "closed"),
            "{round}: {ended:#}"
        );
        made.create(&mut query);
        let begun = ask(&mut client, "nat_port=50001&zone=0&src_ip=192.168.7.2&at=now&skew=0");
        let live = begun["matches"].as_array().unwrap().iter().filter(|found| found["state"] == "live");
        assert_eq!(live.count(), 1, "{round}: {begun:#}");
    }
    // What closed before is forgotten by the table only.
    let lookups = ["result=\"found\"", "result=\"not_found\""].map(|result| {
        let page = client.get("/metrics").text().to_owned();
        page.lines().any(|line| line.contains("route=\"history\"") && line.contains(result))
    });
    assert_eq!(lookups, [true, true]);
}

#[test]
fn a_restart_is_a_gap_that_answers_name() {
    if !lab::require() {
        return;
    }
    let directory = TempDir::with_prefix("pynatconnd-history-").unwrap();
    let lab = Lab::builder().build();
    let mut daemon = start(&lab, directory.path(), "");
    let mut query = ctnetlink(&lab);
    let [lasting, ended, ..] = connections();
    for made in [lasting, ended] {
        made.create(&mut query);
    }
    let before = ask(&mut client(&lab, &daemon), "nat_port=50001&at=now");
    assert_eq!(found(&before), [0, 1]);
    assert_eq!(before["ambiguous"], true);
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
    ended.delete(&mut query);
    thread::sleep(Duration::from_millis(1100));
    let daemon = start(&lab, directory.path(), "");
    let mut client = client(&lab, &daemon);
    let now = ask(&mut client, "nat_port=50001&at=now&skew=0");
    assert_eq!((found(&now), &now["complete"]), (vec![0], &json!(true)), "{now:#}");
    // It continues with its own begin.
    let first = |answer: &Value, number: usize| {
        let matches = answer["matches"].as_array().unwrap();
        matches.iter().find(|found| numbers([*found]) == [number]).unwrap()["opened"].clone()
    };
    assert_eq!(first(&now, 0), first(&before, 0));
    let all = ask(&mut client, "nat_port=50001&from=-1h");
    assert_eq!((found(&all), &all["complete"]), (vec![0, 1], &json!(false)), "{all:#}");
    let reasons: Vec<_> = all["gaps"].as_array().unwrap().iter().map(|gap| &gap["reason"]).collect();
    assert!(
        reasons.contains(&&json!("not_running")) && reasons.contains(&&json!("before_history")),
        "{all:#}"
    );
    let closed = all["matches"].as_array().unwrap().iter().find(|found| numbers([*found]) == [1]).unwrap();
    assert_eq!((&closed["state"], &closed["closed_known"]), (&json!("closed"), &json!("range")), "{all:#}");
    assert!(closed["closed_after"].as_str() < closed["closed"].as_str(), "{all:#}");
}

#[test]
fn each_question_is_recorded_and_one_that_cannot_be_is_refused() {
    if !lab::require() {
        return;
    }
    let directory = TempDir::with_prefix("pynatconnd-history-").unwrap();
    let audit = directory.path().join("audit.log");
    let lab = Lab::builder().build();
    let daemon = start(&lab, directory.path(), &format!("audit = {}", audit.display()));
    connections()[0].create(&mut ctnetlink(&lab));
    let mut client = client(&lab, &daemon);
    ask(&mut client, "nat_port=50001&at=now");
    ask(&mut client, "nat_port=1&from=-1m");
    // It is no question, so it tells nothing.
    assert_eq!(client.get("/v1/history?nat_port=1").status, 400);
    let lines = |path: &Path| -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    };
    let recorded = lines(&audit);
    assert_eq!(recorded.len(), 2, "{recorded:#?}");
    for (line, query, answers) in
        [(&recorded[0], "nat_port=50001&at=now", 1), (&recorded[1], "nat_port=1&from=-1m", 0)]
    {
        assert_eq!(line["step"], "answer", "{line:#}");
        assert_eq!((&line["query"], &line["answers"]), (&json!(query), &json!(answers)), "{line:#}");
        assert_eq!(line["client"], "198.51.100.1", "{line:#}");
    }
    assert_eq!(fs::metadata(&audit).unwrap().permissions().mode() & 0o137, 0);

    // A rotated file is opened again.
    let rotated = directory.path().join("audit.log.1");
    fs::rename(&audit, &rotated).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_line("configuration reloaded");
    ask(&mut client, "nat_port=50001&at=now");
    assert_eq!((lines(&rotated).len(), lines(&audit).len()), (2, 1));

    // A directory cannot be written to.
    fs::remove_file(&audit).unwrap();
    fs::create_dir(&audit).unwrap();
    daemon.signal(Signal::SIGHUP);
    lab::wait_until("the question is refused", || {
        client.get("/v1/history?nat_port=50001&at=now").status == 503
    });
    let refused = client.get("/v1/history?nat_port=50001&at=now").json();
    assert_eq!(refused["error"], "the question cannot be recorded, so it is not answered");
    daemon.wait_for_line("a question about the history has no answer: audit: ");
    // Lookups go on.
    assert_eq!(client.get("/v1/lookup?nat_port=50001").status, 200);
}

#[test]
fn a_span_has_all_matches_and_a_moment_a_thousand() {
    const CONNECTIONS: u16 = 3000;
    if !lab::require() {
        return;
    }
    let directory = TempDir::with_prefix("pynatconnd-history-").unwrap();
    let audit = directory.path().join("audit.log");
    let lab = Lab::builder().build();
    let daemon = start(&lab, directory.path(), &format!("audit = {}", audit.display()));
    let mut query = ctnetlink(&lab);
    for number in 0..CONNECTIONS {
        let src = SocketAddr::new([10, 0, 0, (number % 250) as u8].into(), 10_000 + number);
        let nat = SocketAddr::new(lab.public(0), 20_000 + number);
        let server = lab.server_at(443);
        TestConnection { protocol: Protocol::Tcp, src, dst: server, nat, server, zone: 0, mark: 0 }
            .create(&mut query);
    }
    let mut client = client(&lab, &daemon);
    let answer = ask(&mut client, "nat_ip=100.64.2.1&from=-5m");
    let ports: BTreeSet<_> = answer["matches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| found["nat_port"].as_u64().unwrap())
        .collect();
    assert_eq!(ports.len(), usize::from(CONNECTIONS));
    assert_eq!(answer["matches"].as_array().unwrap().len(), usize::from(CONNECTIONS));
    assert_eq!((&answer["ambiguous"], &answer["truncated"]), (&json!(true), &Value::Null));
    let answer = ask(&mut client, "nat_ip=100.64.2.1&at=now");
    assert_eq!((answer["matches"].as_array().unwrap().len(), &answer["truncated"]), (1000, &json!(true)));

    // A client that is gone, and one that reads nothing, leave the places to others.
    let mut gone = Vec::new();
    for _ in 0..3 {
        let mut client = super::setup::client(&lab, &daemon);
        client.send(b"GET /v1/history?nat_ip=100.64.2.1&from=-5m HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        gone.push(client);
    }
    drop(gone);
    lab::wait_until("the places are free", || {
        let page = client.get("/metrics").text().to_owned();
        page.lines().any(|line| line == "pynatconnd_http_places{kind=\"history_span\"} 0")
    });
    let steps: Vec<Value> = fs::read_to_string(&audit)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["question"].as_u64() <= Some(2))
        .map(|line| json!([line["question"], line["step"], line["answers"].as_u64() > Some(900)]))
        .collect();
    let expected = [
        json!([1, "begin", false]),
        json!([1, "end", true]),
        json!([2, "begin", false]),
        json!([2, "end", true]),
    ];
    assert_eq!(steps, expected);

    let begun = Instant::now();
    for number in 0..1000 {
        let port = 20_000 + number * 3;
        let answer =
            client.get(&format!("/v1/history?nat_ip=100.64.2.1&nat_port={port}&at=-1s&skew=1")).json();
        assert!(answer["matches"].is_array());
    }
    println!("{:?} for each question about the last seconds", begun.elapsed() / 1000);
}

#[test]
fn without_a_path_there_is_no_history() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = super::setup::start_daemon(&lab);
    let response = client(&lab, &daemon).get("/v1/history?nat_port=1&at=now");
    assert_eq!((response.status, &response.json()["error"]), (404, &json!("no history is kept")));
}
