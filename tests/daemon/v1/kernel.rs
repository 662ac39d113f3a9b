//! Connections that the table does not have: the kernel is queried for both directions and in the zones that
//! a connection can have.

use std::net::{SocketAddr, TcpListener};

use lab::http::Client;
use lab::{Lab, PATIENCE, traffic, wait_within};
use nfct::Protocol;
use serde_json::{Value, json};

use super::setup::{CONFIG, TestConnection, client, ctnetlink, start_daemon};
use crate::binary::DAEMON;

/// A port forward; masquerading; and a zone for what one inside host sends.
const RULES: &str = "\
table ip zones {
    chain prerouting {
        type filter hook prerouting priority raw
        iifname \"inside\" ip saddr 192.168.7.3 ct original zone set 7
    }
}
table ip nat {
    chain prerouting {
        type nat hook prerouting priority -100
        iifname \"outside\" tcp dport 8443 dnat to 192.168.7.2:443
    }
    chain postrouting {
        type nat hook postrouting priority 100
        ip saddr 192.168.7.0/24 oifname \"outside\" masquerade
    }
}
";

/// The only match of a lookup, which the kernel must have been queried for.
fn from_kernel(client: &mut Client, lookup: &str) -> Value {
    let answer = client.get(&format!("/v1/lookup?{lookup}")).json();
    let found = answer["matches"].as_array().unwrap();
    assert_eq!(found.len(), 1, "{lookup}: {answer}");
    assert_eq!((&answer["complete"], &found[0]["learnt"]), (&json!(false), &json!("kernel")), "{lookup}");
    found[0].clone()
}

#[test]
fn a_connection_that_no_event_reported_is_found_in_either_direction_and_in_its_zone() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(2).ruleset(RULES).build();
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "0");
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    let mut client = client(&lab, &daemon);
    // The next dump comes five seconds after the first one, and could find the connections too.
    wait_within(PATIENCE, "the kernel's table was read", || {
        client.get("/metrics").text().contains("\npynatconnd_table_incomplete{reason=\"resync\"} 0\n")
    });
    assert_eq!(client.get("/v1/lookup?nat_port=1").json()["complete"], false);

    // Begun outside.
    let inner = lab.client().enter(|| TcpListener::bind(lab.client_at(0, 443))).unwrap();
    let public = SocketAddr::new(lab.public(0), 8443);
    let outer = lab.server().enter(|| traffic::connect(lab.server_at(50_000), public)).unwrap();
    let accepted = inner.accept().unwrap();
    // Begun inside: in zone 7 in the original direction, in zone 0 in the reply direction.
    let server = lab.listen(lab.server_at(443));
    let tenant = lab.connect_to(&server, lab.client_at(1, 40_002));

    for lookup in [
        "nat_ip=100.64.2.1&nat_port=8443&src_ip=198.51.100.1&src_port=50000",
        "dst_ip=100.64.2.1&dst_port=8443&src_ip=198.51.100.1&src_port=50000&protocol=tcp",
    ] {
        let found = from_kernel(&mut client, lookup);
        assert_eq!((&found["server_ip"], &found["server_port"]), (&json!("192.168.7.2"), &json!(443)));
    }
    let headers = [
        ("X-Real-IP", "100.64.2.1"),
        ("X-Real-Port", "8443"),
        ("X-Dst-IP", "198.51.100.1"),
        ("X-Dst-Port", "50000"),
    ];
    let auth = client.request("GET", "/v1/auth", &headers, b"");
    assert_eq!(
        (auth.header("X-Nat-Src-Ip"), auth.header("X-Nat-Complete")),
        (Some("192.168.7.2"), Some("0"))
    );

    let named = "nat_ip=100.64.2.1&nat_port=40002&dst_ip=198.51.100.1&dst_port=443";
    for zone in ["", "&zone=7", "&zone=0"] {
        let found = from_kernel(&mut client, &format!("{named}{zone}"));
        assert_eq!(
            (&found["src_ip"], &found["zone"], &found["reply_zone"]),
            (&json!("192.168.7.3"), &json!(7), &json!(0))
        );
    }
    assert_eq!(client.get(&format!("/v1/lookup?{named}&zone=8")).status, 404);
    drop((outer, accepted, tenant));
}

#[test]
fn with_more_zones_than_are_searched_a_lookup_that_names_none_is_not_complete() {
    const SEARCHED: u16 = 16;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = start_daemon(&lab);
    let mut client = client(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    let mut is_complete = |lookup: &str| {
        let answer = client.get(&format!("/v1/lookup?{lookup}&protocol=tcp&state=live")).json();
        assert_eq!(answer["matches"], json!([]), "{lookup}");
        answer["complete"] == true
    };
    let absent = "nat_ip=100.64.2.1&nat_port=50009&dst_ip=198.51.100.1&dst_port=443";
    for zone in 1..=SEARCHED + 1 {
        assert!(is_complete(absent), "{} zones", zone - 1);
        let usual =
            TestConnection::new(Protocol::Tcp, "192.168.7.2:40001", "198.51.100.1:443", "100.64.2.1:50001");
        TestConnection { zone, ..usual }.create(&mut query);
    }
    assert!(!is_complete(absent), "it may be in the zone that is not searched");
    assert!(is_complete(&format!("{absent}&zone=17")));
    // A port alone is not searched in any zone: the table is complete.
    assert!(is_complete("nat_port=50009"));
    assert_eq!(client.get("/nat_port/50009?protocol=tcp").status, 404);
}
