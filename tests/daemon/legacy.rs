//! The legacy interface: responses while connections open and close.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use lab::http::Client;
use lab::traffic::{self, Connection};
use lab::{Daemon, Lab, Netns, wait_until};
use nfct::Query;
use socket2::SockRef;

use super::usual::{
    FOREVER, INSIDE, INSIDE6, TestConfig, USUAL, create, delete_all, delete_from, fill, get, inside_host,
    read_to_end, status,
};

#[test]
fn tcp_precedes_udp_and_either_can_be_selected() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = TestConfig { data: FOREVER, ..USUAL }.start(&lab);
    let server = lab.listen(lab.server_at(443));
    let udp_server = lab.udp_server(lab.server_at(443));
    let from = lab.client_at(0, 40001);
    let protocol = |query: &str| {
        let response = get(&lab, &daemon, &format!("/nat_port/40001{query}"));
        match response.status {
            200 => response.json()["protocol"][1].as_str().unwrap().to_owned(),
            status => status.to_string(),
        }
    };

    let connection = lab.connect_to(&server, from);
    assert_eq!((connection.peer.port(), &*protocol("")), (40001, "tcp"));
    assert_eq!(protocol("?protocol=udp"), "404");
    let udp = lab.udp_client(from);
    assert_eq!(traffic::udp_exchange(&udp, &udp_server).port(), 40001);
    // The newer mapping is UDP.
    for (query, expected) in [
        ("", "tcp"),
        ("?protocol=tcp", "tcp"),
        ("?protocol=udp", "udp"),
        ("?x=1&protocol=udp", "udp"),
        ("?x=udp", "tcp"),
        ("?protocol=x", "400"),
        ("?protocol=", "400"),
        ("?protocol=icmp", "400"),
    ] {
        assert_eq!(protocol(query), expected, "{query:?}");
    }
    let refusal = get(&lab, &daemon, "/nat_port/40001?protocol=x");
    assert_eq!(refusal.text(), "protocol: found \"x\", expected tcp or udp\n");

    // Live mappings precede closed ones.
    delete_from(&lab, from);
    for (query, expected) in [("", "udp"), ("?protocol=tcp", "tcp")] {
        assert_eq!(protocol(query), expected, "{query:?}");
    }
}

#[test]
fn each_key_can_be_looked_up() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().ipv6().build();
    let daemons = ["src_ip", "src_port", "nat_ip", "nat_port", "dst_ip", "dst_port"]
        .map(|key| (key, TestConfig { key, filter: "", ..USUAL }.start(&lab)));
    let servers = [lab.listen(lab.server_at(443)), lab.listen(lab.server6_at(8443))];
    let _open = lab.connect_to(&servers[0], lab.client_at(0, 40001));
    let _open6 = lab.connect_to(&servers[1], lab.client6_at(0, 40002));
    let values = [
        ["192.168.7.2", "40001", "100.64.2.1", "40001", "198.51.100.1", "443"],
        ["fd00:7::2", "40002", "2001:db8::2", "40002", "2001:db8::1", "8443"],
    ];
    for (at, (key, daemon)) in daemons.iter().enumerate() {
        for (values, family) in values.iter().zip(["ipv4", "ipv6"]) {
            for path in [format!("/{key}/{}", values[at]), format!("/{}", values[at])] {
                let response = get(&lab, daemon, &path);
                assert_eq!(response.status, 200, "{path}: {}", response.text());
                let mapping = response.json();
                let shown = |name: &str| mapping[name].to_string().trim_matches('"').to_owned();
                let given = ["src_ip", "src_port", "nat_ip", "nat_port", "dst_ip", "dst_port"].map(shown);
                assert_eq!(given, *values, "{path}");
                assert_eq!(mapping["protocol"][0], family);
            }
        }
        let (missing, bad) = match key.ends_with("_port") {
            true => ("1", ["x", "192.168.7.2", "4.3", "::"]),
            false => ("203.0.113.1", ["x", "192.168.7", "192.168.7.2.1", "443"]),
        };
        assert_eq!(status(&lab, daemon, &format!("/{key}/{missing}")), 404);
        for bad in bad {
            let response = get(&lab, daemon, &format!("/{key}/{bad}"));
            assert_eq!(response.status, 400, "{key} {bad}");
            assert!(response.text().starts_with(&format!("{key}: found \"{bad}\", expected ")));
            assert_eq!(response.text().lines().count(), 1);
        }
        let other = daemons[(at + 1) % daemons.len()].0;
        assert_eq!(get(&lab, daemon, &format!("/{other}/{missing}")).text(), "Mismatch");
    }
    // An address has several forms, and a path may be percent-encoded.
    for form in ["FD00:7::2", "fd00:7:0:0:0:0:0:2", "fd00%3A7%3a%3A2"] {
        assert_eq!(inside_host(&lab, &daemons[0].1, &format!("/src_ip/{form}")), "fd00:7::2 40002");
    }
    assert_eq!(inside_host(&lab, &daemons[0].1, "/src_ip/::ffff:192.168.7.2"), "192.168.7.2 40001");
    // The newest of several.
    let _newer = lab.connect_to(&servers[0], lab.client_at(0, 40003));
    assert_eq!(inside_host(&lab, &daemons[0].1, "/src_ip/192.168.7.2"), "192.168.7.2 40003");
    assert_eq!(inside_host(&lab, &daemons[3].1, "/nat_port/40001"), "192.168.7.2 40001");
}

#[test]
fn a_response_is_never_older_than_its_request() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = TestConfig { data: "del_delay = 0", ..USUAL }.start(&lab);
    // The daemon must read all events of the time it was stopped before it responds to the later request.
    for _ in 0..5 {
        for (change, status) in [(&(|| fill(&lab, 4000)) as &dyn Fn(), 200), (&|| delete_all(&lab), 404)] {
            daemon.stop();
            change();
            // A new connection: an older one could have timed out by now.
            let mut client = Client::connect(lab.gateway(), daemon.local_addr());
            client.send(b"GET /nat_port/4000 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            daemon.go_on();
            assert_eq!(client.read_response("GET").unwrap().status, status);
        }
    }
}

#[test]
fn a_closed_mapping_is_found_for_del_delay() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let [at_once, second, hour] =
        ["del_delay = 0", "del_delay = 1", FOREVER].map(|data| TestConfig { data, ..USUAL }.start(&lab));
    let server = lab.listen(lab.server_at(443));
    let from = lab.client_at(0, 40001);
    let _open = lab.connect_to(&server, from);
    for daemon in [&at_once, &second, &hour] {
        assert_eq!(status(&lab, daemon, "/nat_port/40001"), 200);
    }

    let before = Instant::now();
    delete_from(&lab, from);
    assert_eq!(status(&lab, &at_once, "/nat_port/40001"), 404);
    wait_until("the mapping is gone after a second", || status(&lab, &second, "/nat_port/40001") == 404);
    assert!(before.elapsed() >= Duration::from_secs(1), "{:?}", before.elapsed());
    assert_eq!(inside_host(&lab, &hour, "/nat_port/40001"), "192.168.7.2 40001");

    let counted = |daemon: &Daemon| {
        let statistics = get(&lab, daemon, "/nagios").json();
        ["number_of_created_items", "number_of_deleted_items", "shared_data_size", "expired_data"]
            .map(|name| statistics[name].as_u64().unwrap())
    };
    assert_eq!(counted(&at_once), [1, 1, 0, 0]);
    assert_eq!(counted(&second), [1, 1, 0, 0]);
    assert_eq!(counted(&hour), [1, 0, 1, 0]);
    assert_eq!(get(&lab, &at_once, "/debug").text(), "{}");
    assert!(get(&lab, &hour, "/debug").json().get("40001").is_some());
}

/// Gives every inside host the public port 20000, as long as the connections differ in other fields.
const ONE_PORT: &str = "\
table ip nat {
    chain postrouting {
        type nat hook postrouting priority 100
        ip protocol tcp oifname \"outside\" snat to 100.64.2.1:20000
    }
}
";

#[test]
fn the_end_of_an_older_mapping_does_not_affect_a_newer_one() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(3).ruleset(ONE_PORT).build();
    let [short, long] = ["del_delay = 0", FOREVER].map(|data| TestConfig { data, ..USUAL }.start(&lab));
    let answered = |daemon: &Daemon| inside_host(&lab, daemon, "/nat_port/20000");
    let ports = [443, 444, 445].map(|port| lab.listen(lab.server_at(port)));
    let hosts = [0, 1, 2].map(|host| lab.client_at(host, 40001));
    let connect = |host: usize, port: usize| {
        let connection = lab.connect_to(&ports[port], hosts[host]);
        assert_eq!(connection.peer, (lab.public(0), 20000).into());
        connection
    };

    // Three live mappings share the public address and port.
    let [older, middle, newer] = [0, 1, 2].map(|at| connect(at, at));
    for daemon in [&short, &long] {
        assert_eq!(answered(daemon), "192.168.7.4 40001");
    }
    delete_from(&lab, hosts[0]);
    for daemon in [&short, &long] {
        assert_eq!(answered(daemon), "192.168.7.4 40001");
    }
    // The newest live mapping, although a newer one is closed.
    delete_from(&lab, hosts[2]);
    for daemon in [&short, &long] {
        assert_eq!(answered(daemon), "192.168.7.3 40001");
    }
    delete_from(&lab, hosts[1]);
    assert_eq!(status(&lab, &short, "/nat_port/20000"), 404);
    assert_eq!(answered(&long), "192.168.7.4 40001");
    drop([older, middle, newer]);
}

#[test]
fn the_whole_table_shows_what_lookups_find() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemons = ["del_delay = 0", FOREVER].map(|data| TestConfig { data, ..USUAL }.start(&lab));
    for daemon in &daemons {
        daemon.wait_for_line("the table equals the kernel's");
    }
    // Many mappings share a public port and, since they are read together, a millisecond. The table does not reuse its
    // slots in the order in which the connections come.
    for _ in 0..2 {
        lab.gateway().enter(|| {
            let mut query = Query::open().unwrap();
            (1..=300).for_each(|number| create(&lab, &mut query, [number, number, 20000 + number % 3]));
        });
        for daemon in &daemons {
            for (port, newest) in [(20000, 300), (20001, 298), (20002, 299)] {
                let found = get(&lab, daemon, &format!("/nat_port/{port}")).json();
                assert_eq!(found["src_port"], newest);
                assert_eq!(get(&lab, daemon, "/debug").json()[port.to_string()], found);
            }
        }
        delete_all(&lab);
        assert_eq!(get(&lab, &daemons[0], "/debug").text(), "{}");
        let table = get(&lab, &daemons[1], "/debug").json();
        for port in ["20000", "20001", "20002"] {
            assert_eq!(table[port], get(&lab, &daemons[1], &format!("/nat_port/{port}")).json());
        }
    }
}

#[test]
fn a_public_address_port_and_server_can_pass_from_host_to_host() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(2).ruleset(ONE_PORT).build();
    let [at_once, second, hour] =
        ["del_delay = 0", "del_delay = 1", FOREVER].map(|data| TestConfig { data, ..USUAL }.start(&lab));
    let server = lab.listen(lab.server_at(443));
    let mut open: Option<Connection> = None;
    // The last two are the same host with the same ports.
    for host in [0, 1, 0, 0] {
        if let Some(connection) = open.take() {
            let from = connection.client.local_addr().unwrap();
            SockRef::from(&connection.client).set_linger(Some(Duration::ZERO)).unwrap();
            drop(connection.client);
            // The server has received the reset, so it accepts the port from another host.
            read_to_end(&connection.server);
            delete_from(&lab, from);
        }
        let connection = lab.connect_to(&server, lab.client_at(host, 40001));
        assert_eq!(connection.peer, (lab.public(0), 20000).into());
        for daemon in [&at_once, &second, &hour] {
            let expected = format!("192.168.7.{} 40001", 2 + host);
            assert_eq!(inside_host(&lab, daemon, "/nat_port/20000"), expected);
        }
        open = Some(connection);
    }
    wait_until("the older mappings are removed", || {
        get(&lab, &second, "/nagios").json()["number_of_deleted_items"] == 3
    });
    for (daemon, size) in [(&at_once, 1), (&second, 1), (&hour, 4)] {
        assert_eq!(inside_host(&lab, daemon, "/nat_port/20000"), "192.168.7.2 40001");
        let statistics = get(&lab, daemon, "/nagios").json();
        assert_eq!(
            (&statistics["number_of_created_items"], &statistics["shared_data_size"]),
            (&4.into(), &size.into())
        );
    }
}

#[test]
fn old_mappings_expire_unless_they_are_live() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let data = "del_delay = 3600\ngarbage_cleaner_interval = 1\nlife_span = 1";
    let daemon = TestConfig { data, ..USUAL }.start(&lab);
    let server = lab.listen(lab.server_at(443));
    let before = Instant::now();
    let _open = [40001, 40002].map(|port| lab.connect_to(&server, lab.client_at(0, port)));
    delete_from(&lab, lab.client_at(0, 40002));

    wait_until("the closed mapping has expired", || {
        get(&lab, &daemon, "/nagios").json()["expired_data"] != 0
    });
    assert!(before.elapsed() > Duration::from_secs(1), "{:?}", before.elapsed());
    assert_eq!(status(&lab, &daemon, "/nat_port/40002"), 404);
    // The live one is older.
    assert_eq!(status(&lab, &daemon, "/nat_port/40001"), 200);
    let statistics = get(&lab, &daemon, "/nagios").json();
    assert_eq!((&statistics["expired_data"], &statistics["shared_data_size"]), (&1.into(), &1.into()));
    assert_eq!(statistics["number_of_deleted_items"], 0);
    assert!(get(&lab, &daemon, "/debug").json().get("40002").is_none());
}

#[test]
fn all_conditions_of_the_filter_must_hold() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(2).servers(2).build();
    let all = "src_ip = 192.168.7.2\nsrc_port = 40001\nnat_ip = 100.64.2.1\nnat_port = 40001\n\
               dst_ip = 198.51.100.1\ndst_port = 443";
    let [all, two, port, everything] =
        [all, "src_ip = 192.168.7.3\ndst_ip = 198.51.100.2", "dst_port = 443", ""]
            .map(|filter| TestConfig { filter, ..USUAL }.start(&lab));
    all.wait_for_line("tracks connections with src_ip 192.168.7.2, ");
    everything.wait_for_line("tracks all connections");
    let servers =
        [(0, 443), (0, 444), (1, 443)].map(|(host, port)| lab.listen(lab.server_number(host, port)));
    // Public port, inside host, server.
    let open = [(40001, 0, 0), (40002, 0, 0), (40003, 1, 0), (40004, 0, 1), (40005, 1, 2)];
    let _open = open.map(|(port, host, server)| {
        let connection = lab.connect_to(&servers[server], lab.client_at(host, port));
        assert_eq!(connection.peer.port(), port);
        connection
    });
    let answered = |daemon: &Daemon| {
        let known = |port: &u16| status(&lab, daemon, &format!("/nat_port/{port}")) == 200;
        open.map(|(port, ..)| port).into_iter().filter(known).collect::<Vec<_>>()
    };
    assert_eq!(answered(&all), [40001]);
    assert_eq!(answered(&two), [40005]);
    assert_eq!(answered(&port), [40001, 40002, 40003, 40005]);
    assert_eq!(answered(&everything), [40001, 40002, 40003, 40004, 40005]);
    for (daemon, created) in [(&all, 1), (&two, 1), (&port, 4)] {
        assert_eq!(get(&lab, daemon, "/nagios").json()["number_of_created_items"], created);
    }
    // Everything includes the request's own connection.
    let mut client = Client::connect(lab.gateway(), everything.local_addr());
    let own = client.stream().local_addr().unwrap();
    assert_eq!(client.get(&format!("/nat_port/{}", own.port())).json()["src_ip"], "127.0.0.1");
}

#[test]
fn a_client_outside_the_acl_is_refused_for_every_request() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().ipv6().build();
    let acl = "192.168.7.0/24, fd00:7::/64";
    let daemon = TestConfig { host: "::", acl, ..USUAL }.start(&lab);
    let allowed = [INSIDE, INSIDE6].map(|address| (lab.client(), address.parse().unwrap()));
    let refused = [lab.public(0), lab.public6()].map(|address| (lab.server(), address));
    let ask_from = |(netns, address): (&Netns, IpAddr), method: &str, path: &str, body: &[u8]| {
        let mut client = Client::connect(netns, daemon.addr_on(address));
        client.request(method, path, &[("Connection", "close")], body)
    };
    let requests = [
        ("GET", "/nat_port/1", 404),
        ("GET", "/1", 404),
        ("GET", "/nat_port/x", 400),
        ("GET", "/banana/1", 400),
        ("GET", "/debug", 200),
        ("GET", "/nagios", 200),
        ("GET", "/", 404),
        ("POST", "/", 404),
        ("POST", "/debug", 405),
        ("DELETE", "/nat_port/1", 405),
        ("OPTIONS", "/nat_port/1", 200),
        ("HEAD", "/nat_port/1", 404),
    ];
    for (method, path, status) in requests {
        for from in allowed {
            assert_eq!(ask_from(from, method, path, b"").status, status, "{method} {path}");
        }
        for from in refused {
            for body in [&b""[..], b"{}"] {
                let response = ask_from(from, method, path, body);
                assert_eq!((response.status, response.header("Allow")), (403, None), "{method} {path}");
                assert_eq!(response.header("Content-Type"), Some("text/html"));
                assert_eq!(response.text(), if method == "HEAD" { "" } else { "Forbidden" });
            }
        }
    }
    // The list does not contain loopback either.
    assert_eq!(ask_from((lab.gateway(), "::1".parse().unwrap()), "GET", "/debug", b"").status, 403);
    daemon.wait_for_line("not in ip_acl");
    let statistics = ask_from(allowed[0], "GET", "/nagios", b"").json();
    let refusals = requests.len() * 4 + 1;
    assert_eq!(statistics["http_stat"]["unauthorized_requests"], refusals);
}
