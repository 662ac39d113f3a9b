//! The lab works, without the daemon: real NAT, real connection tracking, and no leftovers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::mpsc;

use lab::http::Client;
use lab::{Lab, traffic};

#[test]
fn tcp_arrives_from_the_public_address_and_is_tracked() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let server = lab.listen(lab.server_at(443));
    let mut connection = lab.connect_to(&server, lab.client_at(0, 40001));

    assert_eq!(connection.client.local_addr().unwrap(), lab.client_at(0, 40001));
    assert_eq!(connection.peer, (lab.public(0), 40001).into());
    connection.client.write_all(b"hello").unwrap();
    let mut greeting = [0; 5];
    connection.server.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello");

    let flows = lab.conntrack();
    let mapping = "src=192.168.7.2 dst=198.51.100.1 sport=40001 dport=443 \
                   src=198.51.100.1 dst=100.64.2.1 sport=443 dport=40001";
    assert!(flows.iter().any(|flow| flow.contains(mapping)), "{flows:#?}");
}

#[test]
fn each_client_address_gets_its_own_public_port() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(3).build();
    let server = lab.listen(lab.server_at(443));
    let connections: Vec<_> =
        (0..3).map(|index| lab.connect_to(&server, lab.client_at(index, 40001))).collect();
    let mut ports: Vec<_> = connections.iter().map(|connection| connection.peer.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 3);
    connections.into_iter().for_each(traffic::Connection::reset);
}

#[test]
fn a_custom_ruleset_sets_the_public_address_and_port() {
    if !lab::require() {
        return;
    }
    let rules = "\
table ip nat {
    chain postrouting {
        type nat hook postrouting priority 100
        ip daddr 198.51.100.1 tcp dport 443 snat to 100.64.2.2:20000-20001
    }
}
";
    let lab = Lab::builder().public_addresses(2).servers(2).ruleset(rules).build();
    let server = lab.listen(lab.server_at(443));
    let peer = lab.connect_to(&server, lab.client_at(0, 40001)).peer;
    assert_eq!(peer.ip(), lab.public(1));
    assert!((20000..=20001).contains(&peer.port()), "{peer}");

    let untouched = lab.listen(lab.server_number(1, 80));
    assert_eq!(lab.connect_to(&untouched, lab.client_at(0, 40002)).peer, lab.client_at(0, 40002));
}

#[test]
fn ipv6_is_translated_too() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(2).ipv6().build();
    let server = lab.listen(lab.server6_at(443));
    let connection = lab.connect_to(&server, lab.client6_at(1, 40001));
    assert_eq!(connection.peer, (lab.public6(), 40001).into());
    let flows = lab.conntrack();
    assert!(flows.iter().any(|flow| flow.starts_with("ipv6") && flow.contains("sport=40001")), "{flows:#?}");

    let server = lab.listen(lab.server_at(443));
    assert_eq!(lab.connect_to(&server, lab.client_at(1, 40001)).peer.ip(), lab.public(0));
}

#[test]
fn udp_is_translated_in_both_directions() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let server = lab.udp_server(lab.server_at(53));
    let client = lab.udp_client(lab.client_at(0, 40001));
    assert_eq!(traffic::udp_exchange(&client, &server), (lab.public(0), 40001).into());
    assert!(lab.conntrack().iter().any(|flow| flow.contains("udp") && flow.contains("dport=53")));
}

#[test]
fn an_accept_loop_accepts_every_connection() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let (send, peers) = mpsc::channel();
    let server = lab.listen(lab.server_at(443)).accept_loop(move |_, peer| send.send(peer).unwrap());
    let from: Vec<_> = (0..50).map(|offset| lab.client_at(0, 40001 + offset)).collect();
    let to = server.address();
    let open: Vec<_> =
        lab.client().enter(|| from.iter().map(|from| traffic::connect(*from, to).unwrap()).collect());
    let seen: Vec<_> = open.iter().map(|_| peers.recv_timeout(lab::PATIENCE).unwrap().port()).collect();
    assert_eq!(seen, from.iter().map(|address| address.port()).collect::<Vec<_>>());
}

#[test]
fn two_labs_are_isolated_from_each_other() {
    if !lab::require() {
        return;
    }
    let (one, other) = (Lab::builder().build(), Lab::builder().build());
    let servers = [one.listen(one.server_at(443)), other.listen(other.server_at(443))];
    let _open = one.connect_to(&servers[0], one.client_at(0, 40001));
    assert_eq!(one.conntrack().len(), 1);
    assert_eq!(other.conntrack().len(), 0);
    let _open = other.connect_to(&servers[1], other.client_at(0, 40001));
    assert_eq!(other.conntrack().len(), 1);

    one.gateway().sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", "77");
    let read =
        |lab: &Lab| lab.gateway().read_sysctl("net.netfilter.nf_conntrack_tcp_timeout_established").unwrap();
    assert_eq!(read(&one), "77");
    assert_ne!(read(&other), "77");
}

#[test]
fn threads_and_children_run_in_their_namespace() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let listed = |text: String| text.contains("198.51.100.1");
    assert!(listed(lab.server().run("ip", &["address"])));
    assert!(!listed(lab.client().run("ip", &["address"])));
    let child = lab.server().command("ip").args(["-4", "address"]).output().unwrap();
    assert!(listed(String::from_utf8(child.stdout).unwrap()));
    let address = lab.server_at(80);
    assert!(lab.server().spawn(move || TcpListener::bind(address)).join().unwrap().is_ok());
    assert!(TcpListener::bind(address).is_err(), "the test's own thread has stayed outside");

    let complaint = catch_unwind(AssertUnwindSafe(|| lab.gateway().nft("table ip nat {\n  nonsense\n}\n")));
    let complaint = complaint.unwrap_err();
    assert!(complaint.downcast_ref::<String>().unwrap().contains("syntax error"), "{complaint:?}");
}

#[test]
fn nothing_is_left_behind_even_after_a_panic() {
    if !lab::require() {
        return;
    }
    let exist = |names: &[String]| {
        let listed = Command::new("ip").args(["netns", "list"]).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        listed.lines().filter(|line| names.iter().any(|name| line.split(' ').next() == Some(name))).count()
    };
    let mut names = Vec::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::builder().build();
        names = [lab.client(), lab.gateway(), lab.server()].map(|netns| netns.name().to_owned()).to_vec();
        assert_eq!(exist(&names), 3);
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(exist(&names), 0);
}

#[test]
fn namespaces_of_a_dead_process_are_removed() {
    if !lab::require() {
        return;
    }
    // A process that has been waited for no longer exists.
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    // A prefix of this test: another lab that starts meanwhile would remove the namespace first.
    let prefix = format!("pynatconnd-gone-{}-", std::process::id());
    let name = format!("{prefix}{}-client", gone.id());
    assert!(Command::new("ip").args(["netns", "add", &name]).status().unwrap().success());
    let mut forgotten = Command::new("ip")
        .args(["netns", "exec", &name, "sleep", "600"])
        .spawn()
        .expect("ip has been run before");
    let inside = || Command::new("ip").args(["netns", "pids", &name]).output().unwrap().stdout;
    lab::wait_until("the sleeper is in the namespace", || !inside().is_empty());

    lab::remove_stale(&prefix);
    forgotten.wait().unwrap();
    let listed = Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert!(!String::from_utf8(listed.stdout).unwrap().contains(&name));
}

#[test]
fn the_http_client_reads_every_form_of_response() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let listener = lab.gateway().enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080))).unwrap();
    let answers: [&[u8]; 5] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nX-One: 1\r\n\r\n{\"a\":1}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\n\r\nuntil the end",
    ];
    let server = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        let mut requests = Vec::new();
        for answer in answers {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            requests.push(String::from_utf8(request).unwrap());
            stream.write_all(answer).unwrap();
        }
        (peer, requests)
    });

    let mut client = Client::connect(lab.server(), (lab.public(0), 8080).into());
    let first = client.get("/one");
    assert_eq!((first.status, first.header("x-one"), first.json()["a"].as_i64()), (200, Some("1"), Some(1)));
    assert_eq!(client.get("/two").text(), "abcde");
    assert_eq!(client.request("DELETE", "/three", &[("X-A", "b")], b"").status, 404);
    let head = client.request("HEAD", "/four", &[], b"");
    assert_eq!((head.header("Content-Length"), head.body.len()), (Some("99"), 0));
    assert_eq!(client.get("/five").text(), "until the end");
    assert!(client.is_closed());
    let (peer, requests) = server.join().unwrap();
    assert_eq!(peer.ip(), lab.server_at(0).ip(), "the request came from the server's namespace");
    assert_eq!(requests[2], "DELETE /three HTTP/1.1\r\nHost: 100.64.2.1:8080\r\nX-A: b\r\n\r\n");
}
