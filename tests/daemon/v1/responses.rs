//! Refusals with their hints, `/healthz` and `/readyz`.

use lab::http::Client;
use lab::{Lab, wait_until};
use serde_json::json;

use super::setup::{CONFIG, client, start_daemon};
use crate::binary::DAEMON;

#[test]
fn an_invalid_request_is_refused_with_a_hint() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = start_daemon(&lab);
    let mut client = client(&lab, &daemon);
    for (path, error, hint) in [
        ("/v1/lookup?natport=1", r#"unknown field "natport""#, "did you mean nat_port?"),
        (
            "/v1/lookup?nat_port=65536",
            r#"nat_port: found "65536""#,
            "expected a whole number from 0 to 65535",
        ),
        ("/v1/lookup?nat_port=", r#"nat_port: found """#, "expected a whole number from 0 to 65535"),
        (
            "/v1/mappings?src_ip=192.168.7.0/33",
            r#"src_ip: found "192.168.7.0/33""#,
            "expected an IP address, or a network such as 192.168.7.0/24",
        ),
        ("/v1/events?state=dead", r#"state: found "dead""#, "expected live, closed or any"),
        ("/v1/lookup?nat_port=1&nat_port=1", "nat_port is given twice", "give each field once"),
        ("/v1/mappings?wait=1", "wait is not supported here", "leave it out, or use /v1/lookup"),
        ("/v1/events?wait=1", "wait is not supported here", "leave it out, or use /v1/lookup"),
        ("/v1/mappings?fields=mark", "fields is not supported here", "leave it out, or use /v1/lookup"),
        ("/v1/events?fields=mark", "fields is not supported here", "leave it out, or use /v1/lookup"),
        (
            "/v1/lookup?fields=mark,colour",
            r#"fields: found "colour""#,
            "expected any of mark, packets, bytes, tcp_state, labels, timeout, status, separated by commas",
        ),
    ] {
        let answer = client.get(path);
        assert_eq!((answer.status, answer.header("Content-Type")), (400, Some("application/json")), "{path}");
        assert_eq!(answer.json(), json!({"error": error, "hint": hint}), "{path}");
    }
    let hint = client.get("/v1/lookup?nothing_like_it=1").json()["hint"].clone();
    assert!(hint.as_str().unwrap().starts_with("the fields are nat_ip, nat_port, "), "{hint}");

    for path in ["/v1", "/v1/", "/v1/lookups", "/v1/lookup/"] {
        let answer = client.get(path);
        assert_eq!((answer.status, &answer.json()["error"]), (404, &json!("no such route")), "{path}");
    }
    for (path, allow) in [
        ("/v1/lookup", "GET, HEAD, POST, OPTIONS"),
        ("/v1/mappings", "GET, HEAD, OPTIONS"),
        ("/v1/events", "GET, HEAD, OPTIONS"),
        ("/v1/auth", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("/v1/auth/shop", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
    ] {
        let options = client.request("OPTIONS", path, &[], b"");
        assert_eq!((options.status, options.header("Allow"), options.text()), (204, Some(allow), ""));
        let refusal = client.request("TRACE", path, &[], b"");
        assert_eq!((refusal.status, refusal.header("Allow")), (405, Some(allow)), "{path}");
        assert_eq!(refusal.json()["hint"], "use a method of the Allow header");
    }
    let answer = client.request("HEAD", "/v1/mappings", &[], b"");
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("application/x-ndjson")));
    assert_eq!(client.get("/v1/openapi.json").text(), include_str!("../../../doc/openapi.json"));

    let with = |path: &str, headers: &[(&str, &str)], body: &[u8]| {
        Client::connect(lab.server(), daemon.addr_on(lab.public(0))).request("GET", path, headers, body)
    };
    let answer = with("/v1/lookup", &[], b"?");
    assert_eq!((answer.status, &answer.json()["hint"]), (413, &json!("send the request without a body")));
    // Too many header lines, and too long ones.
    let names: Vec<String> = (0..32).map(|number| format!("X-{number}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    let long = "x".repeat(16 * 1024);
    for headers in [&many[..], &[("X-Long", &long)]] {
        let answer = with("/v1/lookup", headers, b"");
        assert_eq!(
            (answer.status, &answer.json()["hint"]),
            (431, &json!("send fewer or shorter header lines"))
        );
    }
    assert_eq!(with("/v1/lookup", &many[..31], b"").status, 404);
    // A far longer header is refused before it is read completely.
    let hundreds: Vec<_> = many.iter().cycle().take(400).copied().collect();
    assert_eq!(with("/v1/lookup", &hundreds, b"").status, 431);

    // From inside, which ip_acl does not contain.
    for path in ["/v1/lookup", "/v1/none", "/v1/auth", "/healthz", "/readyz"] {
        let answer = lab::http::get(lab.client(), daemon.addr_on(lab.public(0)), path);
        let expected = json!({"error": "this client is not allowed", "hint": "add its address to ip_acl in [http_server]"});
        assert_eq!((answer.status, answer.json()), (403, expected), "{path}");
    }
}

#[test]
fn ready_means_that_the_table_equals_the_kernels() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    // While the kernel reports no events, the table may lack connections opened since the last dump.
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "0");
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    let mut client = client(&lab, &daemon);
    assert_eq!(client.get("/healthz").json(), json!({"healthy": true}));
    let answer = client.get("/readyz");
    assert_eq!((answer.status, &answer.json()["error"]), (503, &json!("the table is incomplete")));
    // The reason that lasts comes before a resync.
    let hint = "net.netfilter.nf_conntrack_events is 0: set it to 1";
    wait_until("the reason is named", || client.get("/readyz").json()["hint"] == hint);
    let metrics = client.get("/metrics");
    assert!(metrics.text().contains("pynatconnd_table_incomplete{reason=\"events_off\"} 1\n"));
    assert!(metrics.text().contains("pynatconnd_table_incomplete{reason=\"rules\"} 0\n"));
    assert_eq!(client.get("/v1/lookup?nat_port=1").json()["complete"], false);
    let auth = client.request("GET", "/v1/auth", &[("X-Real-IP", "100.64.2.1"), ("X-Real-Port", "1")], b"");
    assert_eq!((auth.status, auth.header("X-Nat-Complete")), (204, Some("0")));

    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "1");
    wait_until("the daemon is ready", || client.get("/readyz").status == 200);
    assert_eq!(client.get("/readyz").json(), json!({"ready": true}));
    assert_eq!(client.get("/v1/lookup?nat_port=1&state=live").json()["complete"], true);
}
