//! Connections that one namespace translates twice: the first inside host is returned, with what is between.

use lab::http::Stream;
use lab::{Daemon, Lab};
use serde_json::{Value, json};

use super::setup::{CONFIG, client, start_daemon};
use crate::binary::DAEMON;

/// Packets from inside are translated to 10.9.9.1 in zone 1, leave by one end of a link and come back by its
/// other end, where they are translated to the public address in zone 0.
const RULES: &str = "\
table ip zones {
    chain prerouting {
        type filter hook prerouting priority raw
        iifname { \"inside\", \"loop0\" } ct zone set 1
    }
}
table ip nat {
    chain postrouting {
        type nat hook postrouting priority 100
        oifname \"loop0\" meta l4proto tcp snat to 10.9.9.1:20000-29999
        oifname \"outside\" ip saddr 10.9.9.1 masquerade random
    }
}
";

/// A lab whose gateway translates twice.
fn lab_with_loop() -> Lab {
    let lab = Lab::builder().clients(2).ruleset("").build();
    let gateway = lab.gateway();
    for line in [
        // Both ends have the same address, so that nobody has to be asked for it.
        "link add loop0 address 02:00:00:00:00:01 type veth peer name loop1 address 02:00:00:00:00:01",
        "link set loop0 arp off up",
        "link set loop1 arp off up",
        // From inside everything goes into the loop; what comes out of it goes outside.
        "rule add iif inside to 198.51.100.0/24 lookup 100 priority 100",
        "route add default dev loop0 table 100",
        "rule add iif loop1 to 198.51.100.0/24 lookup 101 priority 101",
        "route add 198.51.100.0/24 dev outside table 101",
        // Replies to 10.9.9.1 go back through the loop, and inside from there.
        "rule add iif outside to 10.9.9.1 lookup 102 priority 102",
        "route add default dev loop1 table 102",
    ] {
        gateway.run("ip", &line.split(' ').collect::<Vec<_>>());
    }
    for device in ["all", "loop0", "loop1", "inside", "outside"] {
        gateway.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0");
    }
    gateway.nft(RULES);
    lab
}

/// The only match of a lookup.
fn one(client: &mut lab::http::Client, lookup: &str) -> Value {
    let answer = client.get(&format!("/v1/lookup?{lookup}")).json();
    let found = answer["matches"].as_array().unwrap();
    assert_eq!(found.len(), 1, "{lookup}: {answer:#}");
    assert_eq!((&answer["ambiguous"], &answer["complete"]), (&json!(false), &json!(true)));
    found[0].clone()
}

fn check(lab: &Lab, daemon: &Daemon) {
    let mut client = client(lab, daemon);
    let address = daemon.addr_on(lab.public(0));
    let mut events =
        Stream::connect(lab.server(), address, "/v1/events?nat_ip=100.64.2.1&protocol=tcp&state=live", &[]);
    let server = lab.listen(lab.server_at(443));
    let mut open = Vec::new();
    for host in 0..2 {
        let from = lab.client_at(host, 40_001);
        let connection = lab.connect_to(&server, from);
        let public = connection.peer;
        assert_eq!(public.ip(), lab.public(0));
        let outer = one(&mut client, &format!("nat_ip=100.64.2.1&nat_port={}&protocol=tcp", public.port()));
        let via = &outer["via"];
        assert_eq!((&outer["src_ip"], &outer["src_port"]), (&json!(from.ip()), &json!(40_001)), "{outer}");
        assert_eq!(
            (&outer["zone"], &outer["reply_zone"], &outer["inside"]),
            (&json!(1), &json!(0), &json!("src"))
        );
        assert_eq!(via.as_array().unwrap().len(), 1, "{outer}");
        assert_eq!((&via[0]["src_ip"], &via[0]["zone"]), (&json!("10.9.9.1"), &json!(0)), "{outer}");
        // The inner mapping has the intermediate address as its public one.
        let middle = via[0]["src_port"].as_u64().unwrap();
        let inner = one(&mut client, &format!("nat_ip=10.9.9.1&nat_port={middle}"));
        assert_eq!((&inner["src_ip"], inner.get("via")), (&json!(from.ip()), None), "{inner}");
        // The same from the other routes.
        let auth = client.request(
            "GET",
            "/v1/auth",
            &[
                ("X-Real-IP", "100.64.2.1"),
                ("X-Real-Port", &public.port().to_string()),
                ("X-Protocol", "tcp"),
            ],
            b"",
        );
        let header = |name| auth.header(name).unwrap_or_default().to_owned();
        assert_eq!(header("X-Nat-Src-Ip"), from.ip().to_string());
        assert_eq!((header("X-Nat-Src-Port"), header("X-Nat-Zone")), ("40001".into(), "1".into()));
        assert_eq!(header("X-Nat-Ambiguous"), "0");
        let legacy = client.get(&format!("/nat_port/{}", public.port())).json();
        assert_eq!((&legacy["src_ip"], &legacy["src_port"]), (&json!(from.ip()), &json!(40_001)));
        let debug = client.get("/debug").json();
        assert_eq!(debug[public.port().to_string()], legacy);
        let event = loop {
            let event = events.next_json();
            if event["mapping"]["nat_port"] == public.port() {
                break event;
            }
        };
        assert_eq!((&event["mapping"]["src_ip"], &event["mapping"]["via"]), (&json!(from.ip()), via));
        let lines = client.get(&format!("/v1/mappings?nat_port={}", public.port()));
        let line: Value = serde_json::from_str(lines.text()).expect("one line");
        assert_eq!((&line["src_ip"], &line["via"]), (&json!(from.ip()), via));
        open.push((connection, public, middle));
    }

    // The inner mapping of the first ends, as when it expires first. The answer stays right.
    let (_, public, middle) = &open[0];
    lab.gateway().run("conntrack", &["-D", "-p", "tcp", "--reply-port-dst", &middle.to_string()]);
    let lookup = format!("nat_ip=100.64.2.1&nat_port={}&protocol=tcp", public.port());
    let outer = one(&mut client, &lookup);
    assert_eq!((&outer["src_ip"], &outer["state"]), (&json!("192.168.7.2"), &json!("live")));
}

#[test]
fn the_first_inside_host_is_found_behind_two_translations() {
    if !lab::require() {
        return;
    }
    let lab = lab_with_loop();
    check(&lab, &start_daemon(&lab));
}

#[test]
fn an_inner_mapping_is_checked_with_the_kernel_like_the_outer_one() {
    if !lab::require() {
        return;
    }
    let lab = lab_with_loop();
    // The kernel does not report the end of a connection that is older than every listener.
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "2");
    let server = lab.listen(lab.server_at(443));
    let connection = lab.connect_to(&server, lab.client_at(1, 40_002));
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    daemon.wait_for_line("the table equals the kernel's");
    let mut client = client(&lab, &daemon);
    let lookup = format!("nat_ip=100.64.2.1&nat_port={}&protocol=tcp", connection.peer.port());
    let outer = one(&mut client, &lookup);
    assert_eq!((&outer["src_ip"], &outer["via"][0]["src_ip"]), (&json!("192.168.7.3"), &json!("10.9.9.1")));
    let middle = outer["via"][0]["src_port"].to_string();
    lab.gateway().run("conntrack", &["-D", "-p", "tcp", "--reply-port-dst", &middle]);
    // The lookup of the outer mapping notices the end of the inner one.
    assert_eq!(one(&mut client, &lookup)["src_ip"], "192.168.7.3", "it was the inside host until then");
    let inner = client.get(&format!("/v1/mappings?nat_ip=10.9.9.1&nat_port={middle}"));
    let inner: Value = serde_json::from_str(inner.text()).expect("one line");
    assert_eq!((&inner["src_ip"], &inner["state"]), (&json!("192.168.7.3"), &json!("closed")));
}
