//! `/v1/lookup`: the fields, waiting, and many lookups in one request.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use lab::http::Response;
use lab::{Daemon, Lab, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::setup::{
    client, ctnetlink, ids_of_the_kernel, lines, lookups_begun, make_connections, numbers, start_daemon,
};

/// Lookups, the connections they find, newest first, and whether the result is ambiguous.
const LOOKUPS: [(&str, &[usize], bool); 45] = [
    ("", &[7, 6, 5, 4, 3, 2, 1, 0], true),
    // Each field alone.
    ("nat_ip=100.64.2.2", &[3], false),
    ("nat_ip=::ffff:100.64.2.2", &[3], false),
    ("nat_ip=100.64.2.0/30", &[7, 6, 5, 3, 2, 1, 0], true),
    ("nat_ip=100.64.2.2%2F31", &[3], false),
    ("nat_ip=2001:db8::2", &[4], false),
    ("nat_ip=::/0", &[4], false),
    ("nat_ip=0.0.0.0/0", &[7, 6, 5, 3, 2, 1, 0], true),
    // The public end of a translated destination.
    ("nat_ip=203.0.113.9", &[3], false),
    ("nat_ip=203.0.113.9&nat_port=443", &[3], false),
    ("nat_ip=203.0.113.9&nat_port=50003", &[], false),
    ("nat_port=443", &[3], false),
    ("nat_port=50001", &[5, 1, 0], true),
    ("nat_port=50002", &[2], false),
    ("nat_port=77", &[7], false),
    ("protocol=udp", &[2], false),
    ("protocol=UDP", &[2], false),
    ("protocol=17", &[2], false),
    ("protocol=icmp", &[7], false),
    ("protocol=gre", &[], false),
    ("dst_ip=203.0.113.9", &[3], false),
    ("dst_ip=198.51.100.2/31", &[1], false),
    ("dst_ip=2001:db8::/32", &[4], false),
    ("dst_port=53", &[2], false),
    ("dst_port=443", &[6, 5, 4, 3, 1, 0], true),
    ("src_ip=192.168.7.3", &[1], false),
    ("src_ip=192.168.7.8/29", &[6], false),
    ("src_ip=fd00:7::2", &[4], false),
    ("src_ip=fd00:7::/64", &[4], false),
    ("src_port=40001", &[5, 0], true),
    ("server_ip=198.51.100.1", &[7, 6, 5, 3, 2, 0], true),
    ("server_port=8443", &[3], false),
    ("zone=5", &[5], false),
    ("zone=6", &[], false),
    ("state=closed", &[6], false),
    ("state=live", &[7, 5, 4, 3, 2, 1, 0], true),
    ("state=any&nat_port=50009", &[6], false),
    // Together.
    ("nat_ip=100.64.2.1&nat_port=50001", &[5, 1, 0], true),
    ("nat_ip=100.64.2.1&nat_port=50001&zone=0", &[1, 0], true),
    ("nat_ip=100.64.2.1&nat_port=50001&zone=0&dst_ip=198.51.100.2", &[1], false),
    ("nat_port=50001&protocol=udp", &[], false),
    ("src_ip=192.168.7.2&dst_port=443&server_port=443", &[5, 0], true),
    ("src_ip=192.168.7.2&src_port=40004&state=live", &[3], false),
    ("nat_port=50009&state=live", &[], false),
    (
        "nat_ip=100.64.2.2&nat_port=50003&protocol=tcp&dst_ip=203.0.113.9&dst_port=443&src_ip=192.168.7.2\
         &src_port=40004&server_ip=198.51.100.1&server_port=8443&zone=0&state=live&wait=0",
        &[3],
        false,
    ),
];

/// The same lookup for `POST`.
fn as_json(query: &str) -> Value {
    let fields = query.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| {
        let value = value.replace("%2F", "/");
        (name.to_owned(), value.parse::<u16>().map_or(json!(value), |number| json!(number)))
    });
    Value::Object(fields.collect())
}

#[test]
fn each_field_filters_alone_and_with_others() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = start_daemon(&lab);
    let mut client = client(&lab, &daemon);
    make_connections(&mut ctnetlink(&lab), &mut client);

    let check = |answer: &Value, expected: &[usize], ambiguous: bool, what: &str| {
        assert_eq!(numbers(answer["matches"].as_array().unwrap()), expected, "{what}");
        assert_eq!(answer["ambiguous"], ambiguous, "{what}");
        assert_eq!(answer["truncated"], Value::Null, "{what}");
        // Without a live match it also depends on how long the daemon has known what closes.
        let is_live = |found: &Value| found["state"] == "live";
        if what.contains("state=live") || answer["matches"].as_array().unwrap().iter().any(is_live) {
            assert_eq!(answer["complete"], true, "{what}");
        }
    };
    for (query, expected, ambiguous) in LOOKUPS {
        let answer = client.get(&format!("/v1/lookup?{query}"));
        assert_eq!(answer.status, if expected.is_empty() { 404 } else { 200 }, "{query}");
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
        check(&answer.json(), expected, ambiguous, query);

        let head = client.request("HEAD", &format!("/v1/lookup?{query}"), &[], b"");
        assert_eq!((head.status, head.body.len()), (answer.status, 0), "{query}");
        assert_eq!(head.header("Content-Length"), answer.header("Content-Length"), "{query}");

        if !query.contains("wait") {
            let mappings = lines(&client.get(&format!("/v1/mappings?{query}")));
            let shown: BTreeSet<_> = numbers(&mappings).into_iter().collect();
            assert_eq!(shown, expected.iter().copied().collect(), "{query}");
            assert_eq!(mappings.len(), expected.len(), "{query}");
        }
    }

    // All of them in one request, with results in their order.
    let body = Value::from(LOOKUPS.map(|(query, ..)| as_json(query)).to_vec()).to_string();
    let answers = client.request("POST", "/v1/lookup", &[], body.as_bytes());
    assert_eq!(answers.status, 200, "{}", answers.text());
    let answers = answers.json();
    assert_eq!(answers.as_array().unwrap().len(), LOOKUPS.len());
    for ((query, expected, ambiguous), answer) in LOOKUPS.iter().zip(answers.as_array().unwrap()) {
        check(answer, expected, *ambiguous, query);
    }
}

#[test]
fn a_match_has_every_documented_field() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = start_daemon(&lab);
    let mut client = client(&lab, &daemon);
    let begun = jiff::Timestamp::from_millisecond(jiff::Timestamp::now().as_millisecond()).unwrap();
    make_connections(&mut ctnetlink(&lab), &mut client);
    let ended = jiff::Timestamp::now();

    let ids: BTreeSet<_> = ids_of_the_kernel(&lab);
    let mut one = |query: &str| {
        let answer = client.get(&format!("/v1/lookup?{query}")).json();
        assert_eq!(answer["matches"].as_array().unwrap().len(), 1, "{query}");
        let mut mapping = answer["matches"][0].clone();
        // Values that differ from run to run.
        let fields = mapping.as_object_mut().unwrap();
        let id = fields.remove("id").unwrap().as_u64().unwrap();
        let mut times = Vec::new();
        for name in ["opened", "closed"] {
            if let Some(text) = fields[name].as_str() {
                assert!(text.len() == 24 && text.ends_with('Z'), "{text}");
                let time: jiff::Timestamp = text.parse().unwrap();
                assert!((begun..=ended).contains(&time), "{begun} {time} {ended}");
                times.push(time);
                fields.insert(name.into(), json!("then"));
            }
        }
        assert!(times.is_sorted(), "{times:?}");
        (id, mapping)
    };
    let (id, mapping) = one("nat_ip=100.64.2.1&nat_port=50001&zone=0&server_ip=198.51.100.1");
    assert!(ids.contains(&id));
    let plain = json!({"protocol": "tcp", "l3": "ipv4", "src_ip": "192.168.7.2", "src_port": 40001,
        "dst_ip": "198.51.100.1", "dst_port": 443, "nat_ip": "100.64.2.1", "nat_port": 50001,
        "server_ip": "198.51.100.1", "server_port": 443, "inside": "src", "zone": 0, "nat": ["src"], "state": "live",
        "opened": "then", "closed": null, "learnt": "event"});
    assert_eq!(mapping, plain);
    // Source and destination NAT: the response has the real server.
    let both = json!({"protocol": "tcp", "l3": "ipv4", "src_ip": "192.168.7.2", "src_port": 40004,
        "dst_ip": "203.0.113.9", "dst_port": 443, "nat_ip": "100.64.2.2", "nat_port": 50003,
        "server_ip": "198.51.100.1", "server_port": 8443, "inside": "src", "zone": 0, "nat": ["src", "dst"],
        "state": "live", "opened": "then", "closed": null, "learnt": "event"});
    assert_eq!(one("nat_ip=100.64.2.2").1, both);
    let mut server = both.clone();
    server["inside"] = json!("server");
    assert_eq!(one("nat_ip=203.0.113.9&nat_port=443").1, server, "the same mapping by its other public end");
    let six = one("nat_port=50004").1;
    assert_eq!((&six["l3"], &six["nat_ip"]), (&json!("ipv6"), &json!("2001:db8::2")));
    let echo = one("protocol=icmp").1;
    assert_eq!((&echo["src_port"], &echo["nat_port"]), (&json!(77), &json!(77)));
    assert_eq!((&echo["dst_port"], &echo["server_port"]), (&Value::Null, &Value::Null));
    assert_eq!(echo["icmp"], json!({"type": 8, "code": 0}));
    let (id, closed) = one("state=closed");
    assert!(!ids.contains(&id));
    assert_eq!((&closed["state"], &closed["closed"]), (&json!("closed"), &json!("then")));
}

/// Sends a request in another thread, and returns once the daemon has begun the lookup.
fn get_meanwhile(lab: &Lab, daemon: &Daemon, path: &str) -> thread::JoinHandle<(Response, Duration)> {
    let mut watching = client(lab, daemon);
    let before = lookups_begun(&mut watching);
    let mut client = client(lab, daemon);
    client.stream().set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    let path = path.to_owned();
    let request = thread::spawn(move || {
        let begun = Instant::now();
        (client.get(&path), begun.elapsed())
    });
    wait_until("the lookup has begun", || lookups_begun(&mut watching) > before);
    request
}

#[test]
fn wait_delays_the_response_until_a_match_or_the_timeout() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let mut daemon = start_daemon(&lab);
    let mut client = client(&lab, &daemon);
    let minute = Duration::from_secs(60);

    // The response comes as soon as the connection opens, and not when another one opens.
    let path = "/v1/lookup?nat_ip=100.64.2.1&nat_port=40001&protocol=tcp&wait=60000";
    let waiting = get_meanwhile(&lab, &daemon, path);
    let server = lab.listen(lab.server_at(443));
    let other = lab.connect_to(&server, lab.client_at(0, 40002));
    assert!(!waiting.is_finished());
    let connection = lab.connect_to(&server, lab.client_at(0, 40001));
    let (answer, took) = waiting.join().unwrap();
    assert_eq!((answer.status, &answer.json()["matches"][0]["src_port"]), (200, &json!(40001)));
    assert!(took < minute, "{took:?}");

    // The same for a connection that closes.
    let waiting = get_meanwhile(&lab, &daemon, "/v1/lookup?nat_port=40002&state=closed&wait=60000");
    lab.gateway().run("conntrack", &["-D", "-p", "tcp", "--orig-port-src", "40002"]);
    let (answer, took) = waiting.join().unwrap();
    assert_eq!((answer.status, &answer.json()["matches"][0]["state"]), (200, &json!("closed")));
    assert!(took < minute, "{took:?}");

    // An existing mapping is returned at once; without one the response comes at the timeout.
    let begun = Instant::now();
    assert_eq!(client.get("/v1/lookup?nat_port=40001&wait=60000").status, 200);
    assert!(begun.elapsed() < minute);
    let begun = Instant::now();
    let answer = client.get("/v1/lookup?nat_port=1&state=live&wait=300");
    assert_eq!(
        (answer.status, answer.json()),
        (404, json!({"matches": [], "ambiguous": false, "complete": true}))
    );
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(client.get("/v1/lookup?nat_port=1&wait=0").status, 404);
    assert_eq!(client.get("/v1/lookup?nat_port=1&wait=60001").status, 400);

    // Several wait at the same time: about one second, not the five seconds of waiting in turn.
    let body =
        br#"[{"nat_port": 1, "wait": 1000}, {"nat_port": 2, "wait": 1000}, {"nat_port": 3, "wait": 1000},
        {"nat_port": 4, "wait": 1000}, {"nat_port": 40001, "wait": 1000}, {"nat_port": 5, "wait": 1000}]"#;
    let begun = Instant::now();
    let answers = client.request("POST", "/v1/lookup", &[], body).json();
    let found: Vec<_> =
        answers.as_array().unwrap().iter().map(|answer| answer["matches"] != json!([])).collect();
    assert_eq!(found, [false, false, false, false, true, false]);
    let took = begun.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&took), "{took:?}");

    // When the daemon ends, waiting lookups get a response.
    let waiting = get_meanwhile(&lab, &daemon, "/v1/lookup?nat_port=1&wait=60000");
    daemon.signal(Signal::SIGTERM);
    let (answer, took) = waiting.join().unwrap();
    assert_eq!(answer.status, 404);
    assert!(took < minute, "{took:?}");
    assert!(daemon.wait().success());
    drop((connection, other));
}

#[test]
fn a_batch_of_lookups_is_limited_and_an_invalid_one_is_named() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = start_daemon(&lab);
    let before = lookups_begun(&mut client(&lab, &daemon));
    let post = |headers: &[(&str, &str)], body: &[u8]| {
        client(&lab, &daemon).request("POST", "/v1/lookup", headers, body)
    };
    let thousand = |count| serde_json::to_vec(&vec![json!({"nat_port": 1}); count]).unwrap();

    let answer = post(&[], &thousand(1001));
    assert_eq!(answer.status, 413);
    assert_eq!(answer.json()["error"], "1001 lookups in one request, at most 1000");
    for (body, error, hint) in [
        (r#"[{}, {}, {"natport": 1}]"#, r#"lookup 2: unknown field "natport""#, "did you mean nat_port?"),
        (r#"[{"wait": 60001}]"#, r#"lookup 0: wait: found "60001""#, "expected milliseconds, 0 to 60000"),
        (r#"[{}, 7]"#, "lookup 1: a lookup must be a JSON object", r#"write {"nat_port": 40001}"#),
        (
            r#"{"nat_port": 1}"#,
            "the body is not a list of lookups: invalid type: map, expected a sequence at line 1 column 0",
            r#"write [{"nat_ip": "100.64.2.1", "nat_port": 40001}]"#,
        ),
    ] {
        let answer = post(&[], body.as_bytes());
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.json(), json!({"error": error, "hint": hint}));
    }
    assert_eq!(post(&[], b"").status, 400);
    // None of these began a lookup.
    assert_eq!(lookups_begun(&mut client(&lab, &daemon)), before);
    assert_eq!(post(&[], b"[]").json(), json!([]));
    assert_eq!(post(&[], &thousand(1000)).json().as_array().unwrap().len(), 1000);

    // A body of a megabyte is read and refused for its content; a longer one is refused for its size.
    const MEGABYTE: usize = 1024 * 1024;
    assert_eq!(post(&[], &vec![b' '; MEGABYTE]).status, 400);
    let error = "the body is larger than 1 MiB";
    // Refused for its Content-Length before the body is sent.
    let mut announced = client(&lab, &daemon);
    let header = "POST /v1/lookup HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n";
    announced.send(format!("{header}Content-Length: {}\r\n\r\n", MEGABYTE + 1).as_bytes()).unwrap();
    let answer = announced.read_response("POST").unwrap();
    assert_eq!((answer.status, &answer.json()["error"]), (413, &json!(error)));
    // Without Content-Length it is refused while it is read.
    let mut chunked = client(&lab, &daemon);
    let chunk = [format!("{:x}\r\n", MEGABYTE + 1).into_bytes(), vec![b' '; MEGABYTE + 1]].concat();
    chunked.send(b"POST /v1/lookup HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    // The daemon may close the connection before everything is sent.
    let _ = chunked.send(&chunk);
    let answer = chunked.read_response("POST").unwrap();
    assert_eq!((answer.status, &answer.json()["error"]), (413, &json!(error)));
}
