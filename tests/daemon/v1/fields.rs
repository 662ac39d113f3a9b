//! `fields`: what the kernel's entries have at the moment of a lookup.

use std::io::{Read, Write};

use lab::Lab;
use lab::traffic::Connection;
use nfct::{Conntrack, Labels, Protocol};
use serde_json::{Value, json};

use super::setup::{TestConnection, client, ctnetlink, start_daemon};

/// Sends a thousand bytes, to which a rule of the gateway gives a mark.
fn set_mark(lab: &Lab, connection: &mut Connection, mark: u32) {
    lab.gateway().nft(&format!(
        "table ip marks {{\n chain forward {{\n type filter hook forward priority 0\n }}\n}}\n\
         flush table ip marks\nadd rule ip marks forward ct mark set {mark}\n"
    ));
    connection.client.write_all(&[b'x'; 1000]).expect("it is open");
    connection.server.read_exact(&mut [0; 1000]).expect("the data comes");
}

#[test]
fn fields_have_the_values_of_this_moment() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    lab.gateway().sysctl("net.netfilter.nf_conntrack_acct", "1");
    let daemon = start_daemon(&lab);
    let mut client = client(&lab, &daemon);
    let server = lab.listen(lab.server_at(443));
    let mut connection = lab.connect_to(&server, lab.client_at(0, 40001));

    let mut one = |rest: &str| -> Value {
        let answer = client.get(&format!("/v1/lookup?nat_ip=100.64.2.1&nat_port=40001{rest}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["matches"][0].clone()
    };
    let names = ["mark", "packets", "bytes", "tcp_state", "labels", "timeout", "status"];
    let before = one("");
    assert!(names.iter().all(|name| before.get(name).is_none()), "{before}");
    let only = one("&fields=labels,mark");
    let got: Vec<_> = names.iter().filter(|name| only.get(name).is_some()).collect();
    assert_eq!(got, [&"mark", &"labels"]);
    assert_eq!((&only["mark"], &only["labels"]), (&json!(0), &json!([])));

    let all = "&fields=mark,packets,bytes,tcp_state,labels,timeout,status";
    let first = one(all);
    assert_eq!(first["tcp_state"], "ESTABLISHED");
    // The handshake: SYN, SYN-ACK and ACK.
    assert_eq!(first["packets"], json!({"original": 2, "reply": 1}));
    let status: Vec<&str> =
        first["status"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    for name in ["seen_reply", "assured", "confirmed", "src_nat"] {
        assert!(status.contains(&name), "{status:?}");
    }
    let timeout = first["timeout"].as_u64().unwrap();
    let limit: u64 = lab
        .gateway()
        .read_sysctl("net.netfilter.nf_conntrack_tcp_timeout_established")
        .unwrap()
        .parse()
        .unwrap();
    assert!(timeout > limit / 2 && timeout <= limit, "{timeout} of {limit}");

    // No event reports these changes to the daemon.
    set_mark(&lab, &mut connection, 77);
    let later = one(all);
    assert_eq!(later["mark"], 77);
    let bytes = |of: &Value| of["bytes"]["original"].as_u64().unwrap();
    assert!(bytes(&later) >= bytes(&first) + 1000, "{first} {later}");

    // POST takes a list too. The fields are those of each lookup.
    let body = json!([
        {"nat_port": 40001, "fields": ["mark", "tcp_state"]},
        {"nat_port": 40001, "fields": "mark"},
        {"nat_port": 40001},
    ]);
    let answers = client.request("POST", "/v1/lookup", &[], body.to_string().as_bytes()).json();
    let marks: Vec<_> = (0..3).map(|at| answers[at]["matches"][0].get("mark").cloned()).collect();
    assert_eq!(marks, [Some(json!(77)), Some(json!(77)), None]);
    assert_eq!(answers[0]["matches"][0]["tcp_state"], "ESTABLISHED");
    assert_eq!(answers[1]["matches"][0].get("tcp_state"), None);
    for invalid in [json!([]), json!([7]), json!(["mark,bytes"]), json!(["colour"]), json!("")] {
        let body = json!([{"fields": invalid}]).to_string();
        let answer = client.request("POST", "/v1/lookup", &[], body.as_bytes());
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(answer.status == 400 && error.starts_with("lookup 0: fields: found "), "{invalid}: {error}");
    }

    // Of a closed mapping, the mark at its end, which its event reports.
    set_mark(&lab, &mut connection, 78);
    lab.gateway().run("conntrack", &["-D", "-p", "tcp", "--orig-port-src", "40001"]);
    let answer = client.get(&format!("/v1/lookup?nat_port=40001{all}")).json();
    let closed = &answer["matches"][0];
    assert_eq!((&closed["state"], &closed["mark"]), (&json!("closed"), &json!(78)));
    assert!(names[1..].iter().all(|name| closed.get(name).is_none()), "{closed}");
}

#[test]
fn labels_and_states_are_shown_as_conntrack_does() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    // A rule with labels makes the kernel keep them.
    lab.gateway().nft(
        "table ip labels {\n chain forward {\n type filter hook forward priority 0\n ct label set 3\n }\n}\n",
    );
    let daemon = start_daemon(&lab);
    let mut client = client(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    let made =
        TestConnection::new(Protocol::Tcp, "192.168.7.2:40001", "198.51.100.1:443", "100.64.2.1:50001");
    let mut entry: Conntrack = made.entry();
    let mut labels = Labels::new(127).unwrap();
    labels.set(3).unwrap().set(127).unwrap();
    entry.set_labels(labels).set_tcp_state(nfct::TcpState::FinWait);
    query.create(&entry).unwrap();
    let udp = TestConnection::new(Protocol::Udp, "192.168.7.3:40001", "198.51.100.1:53", "100.64.2.1:50002");
    udp.create(&mut query);

    let answer = client.get("/v1/lookup?nat_port=50001&fields=labels,tcp_state,packets,bytes").json();
    let found = &answer["matches"][0];
    assert_eq!((&found["labels"], &found["tcp_state"]), (&json!([3, 127]), &json!("FIN_WAIT")));
    // The kernel does not count packets here.
    assert_eq!((found.get("packets"), found.get("bytes")), (None, None));
    let answer = client.get("/v1/lookup?nat_port=50002&fields=tcp_state,status").json();
    let found = &answer["matches"][0];
    assert_eq!(found.get("tcp_state"), None);
    assert!(found["status"].as_array().unwrap().contains(&json!("assured")));
}
