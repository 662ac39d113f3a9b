//! The new interface, asked over HTTP on a running daemon: what each filter finds, what waits, what streams, and
//! what is refused.

mod lab;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use lab::http::{Client, Response, Stream};
use lab::{Daemon, Lab, PATIENCE, wait_until};
use nfct::{Conntrack, Layer4, Protocol, Query, Status, Tuple};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

/// `nat_only` leaves the tests' own questions out of the table.
const CONFIG: &str = "\
[filter]
nat_only = yes

[data]
key_name = nat_port
del_delay = 3600

[http_server]
host = 0.0.0.0
ip_acl = 198.51.100.0/24, 127.0.0.1
";

/// A lab with a daemon that has read the kernel's table.
fn gateway(lab: &Lab) -> Daemon {
    let daemon = Daemon::start(lab.gateway(), CONFIG);
    daemon.wait_for_line("the table equals the kernel's");
    daemon
}

/// A client in the server's place.
fn client(lab: &Lab, daemon: &Daemon) -> Client {
    Client::connect(lab.server(), daemon.addr_on(lab.public(0)))
}

/// A socket that makes and removes connections in the gateway's kernel.
fn maker(lab: &Lab) -> Query {
    lab.gateway().enter(Query::open).expect("root may ask the kernel")
}

/// A connection as the kernel is told of it: who, whom, as whom, and who answers.
#[derive(Debug, Clone, Copy)]
struct Made {
    protocol: Protocol,
    src: SocketAddr,
    dst: SocketAddr,
    nat: SocketAddr,
    server: SocketAddr,
    zone: u16,
    mark: u32,
}

impl Made {
    fn new(protocol: Protocol, src: &str, dst: &str, nat: &str) -> Self {
        let [src, dst, nat] = [src, dst, nat].map(|address| address.parse().expect("an address and port"));
        Self { protocol, src, dst, nat, server: dst, zone: 0, mark: 0 }
    }

    fn entry(&self) -> Conntrack {
        let tuple = |from: SocketAddr, to: SocketAddr, kind| {
            let layer4 = match self.protocol {
                Protocol::Icmp => Layer4::Icmp { id: self.src.port(), kind, code: 0 },
                _ => Layer4::Ports { src: from.port(), dst: to.port() },
            };
            Tuple { src: from.ip(), dst: to.ip(), protocol: self.protocol, layer4, zone: self.zone }
        };
        let mut entry = Conntrack::new().expect("there is memory");
        entry.set_tuples(&tuple(self.src, self.dst, 8), &tuple(self.server, self.nat, 0)).unwrap();
        // CONFIRMED, ASSURED and SEEN_REPLY.
        entry.set_timeout(Duration::from_secs(3600)).set_status(Status(8 | 4 | 2)).set_mark(self.mark);
        if self.protocol == Protocol::Tcp {
            entry.set_tcp_state(3);
        }
        entry
    }

    fn make(&self, query: &mut Query) {
        query.create(&self.entry()).unwrap_or_else(|error| panic!("{error}: {self:?}"));
    }

    fn remove(&self, query: &mut Query) {
        assert!(query.delete(&self.entry()).unwrap_or_else(|error| panic!("{error}: {self:?}")), "{self:?}");
    }
}

/// The connections of the tests below, in the order in which they begin; the one at [`CLOSED`] ends.
fn connections() -> [Made; 8] {
    use Protocol::{Icmp, Tcp, Udp};
    let https = Made::new(Tcp, "192.168.7.2:40001", "198.51.100.1:443", "100.64.2.1:50001");
    [
        Made { mark: 7, ..https },
        // The same public address and port, another server.
        Made::new(Tcp, "192.168.7.3:40002", "198.51.100.2:443", "100.64.2.1:50001"),
        Made::new(Udp, "192.168.7.2:40003", "198.51.100.1:53", "100.64.2.1:50002"),
        Made {
            server: "198.51.100.1:8443".parse().unwrap(),
            ..Made::new(Tcp, "192.168.7.2:40004", "203.0.113.9:443", "100.64.2.2:50003")
        },
        Made::new(Tcp, "[fd00:7::2]:40005", "[2001:db8::1]:443", "[2001:db8::2]:50004"),
        Made { zone: 5, ..https },
        Made::new(Tcp, "192.168.7.9:40009", "198.51.100.1:443", "100.64.2.1:50009"),
        Made::new(Icmp, "192.168.7.2:77", "198.51.100.1:0", "100.64.2.1:77"),
    ]
}

const CLOSED: usize = 6;

/// Makes them one after the other, each in a millisecond of its own.
fn make_connections(query: &mut Query, client: &mut Client) {
    for (at, made) in connections().iter().enumerate() {
        made.make(query);
        if at == CLOSED {
            made.remove(query);
        }
        // Answered, the daemon knows it; times are told in milliseconds.
        assert_eq!(client.get("/v1/lookup").json()["matches"].as_array().unwrap().len(), at + 1);
        thread::sleep(Duration::from_millis(2));
    }
}

/// Which of [`connections`] these mappings are.
fn numbers<'a>(mappings: impl IntoIterator<Item = &'a Value>) -> Vec<usize> {
    let all = connections();
    let find = |mapping: &Value| {
        all.iter().position(|made| {
            mapping["src_ip"] == made.src.ip().to_string()
                && mapping["src_port"] == made.src.port()
                && mapping["zone"] == made.zone
        })
    };
    mappings
        .into_iter()
        .map(|mapping| find(mapping).unwrap_or_else(|| panic!("not ours: {mapping}")))
        .collect()
}

fn lines(answer: &Response) -> Vec<Value> {
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("application/x-ndjson")));
    answer.text().lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// Questions, the connections that answer them, newest first, and whether that is ambiguous.
const QUESTIONS: [(&str, &[usize], bool); 41] = [
    ("", &[7, 6, 5, 4, 3, 2, 1, 0], true),
    // Each field alone.
    ("nat_ip=100.64.2.2", &[3], false),
    ("nat_ip=::ffff:100.64.2.2", &[3], false),
    ("nat_ip=100.64.2.0/30", &[7, 6, 5, 3, 2, 1, 0], true),
    ("nat_ip=100.64.2.2%2F31", &[3], false),
    ("nat_ip=2001:db8::2", &[4], false),
    ("nat_ip=::/0", &[4], false),
    ("nat_ip=0.0.0.0/0", &[7, 6, 5, 3, 2, 1, 0], true),
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

/// The same question for `POST`.
fn as_json(query: &str) -> Value {
    let fields = query.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| {
        let value = value.replace("%2F", "/");
        (name.to_owned(), value.parse::<u16>().map_or(json!(value), |number| json!(number)))
    });
    Value::Object(fields.collect())
}

#[test]
fn every_field_narrows_alone_and_together() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = gateway(&lab);
    let mut client = client(&lab, &daemon);
    make_connections(&mut maker(&lab), &mut client);

    let check = |answer: &Value, expected: &[usize], ambiguous: bool, what: &str| {
        assert_eq!(numbers(answer["matches"].as_array().unwrap()), expected, "{what}");
        assert_eq!(answer["ambiguous"], ambiguous, "{what}");
        assert_eq!((&answer["complete"], &answer["truncated"]), (&json!(true), &Value::Null), "{what}");
    };
    for (query, expected, ambiguous) in QUESTIONS {
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

    // All of them at once, answered in their order.
    let body = Value::from(QUESTIONS.map(|(query, ..)| as_json(query)).to_vec()).to_string();
    let answers = client.request("POST", "/v1/lookup", &[], body.as_bytes());
    assert_eq!(answers.status, 200, "{}", answers.text());
    let answers = answers.json();
    assert_eq!(answers.as_array().unwrap().len(), QUESTIONS.len());
    for ((query, expected, ambiguous), answer) in QUESTIONS.iter().zip(answers.as_array().unwrap()) {
        check(answer, expected, *ambiguous, query);
    }
}

#[test]
fn a_match_tells_all_there_is() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = gateway(&lab);
    let mut client = client(&lab, &daemon);
    let begun = jiff::Timestamp::from_millisecond(jiff::Timestamp::now().as_millisecond()).unwrap();
    make_connections(&mut maker(&lab), &mut client);
    let ended = jiff::Timestamp::now();

    let ids: BTreeSet<_> = ids_of_the_kernel(&lab);
    let mut one = |query: &str| {
        let answer = client.get(&format!("/v1/lookup?{query}")).json();
        assert_eq!(answer["matches"].as_array().unwrap().len(), 1, "{query}");
        let mut mapping = answer["matches"][0].clone();
        // What differs from run to run.
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
        "server_ip": "198.51.100.1", "server_port": 443, "zone": 0, "mark": 7, "nat": ["src"], "state": "live",
        "opened": "then", "closed": null, "learnt": "event"});
    assert_eq!(mapping, plain);
    // Both ends translated: the real server is told.
    let both = json!({"protocol": "tcp", "l3": "ipv4", "src_ip": "192.168.7.2", "src_port": 40004,
        "dst_ip": "203.0.113.9", "dst_port": 443, "nat_ip": "100.64.2.2", "nat_port": 50003,
        "server_ip": "198.51.100.1", "server_port": 8443, "zone": 0, "mark": 0, "nat": ["src", "dst"],
        "state": "live", "opened": "then", "closed": null, "learnt": "event"});
    assert_eq!(one("nat_ip=100.64.2.2").1, both);
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

/// The ids of what the kernel tracks, as the tool conntrack shows them.
fn ids_of_the_kernel(lab: &Lab) -> BTreeSet<u64> {
    let id = |line: &str| line.split_whitespace().find_map(|word| word.strip_prefix("id=")?.parse().ok());
    ["ipv4", "ipv6"]
        .into_iter()
        .flat_map(|family| {
            let table = lab.gateway().run("conntrack", &["-L", "-o", "id", "-f", family]);
            table.lines().map(|line| id(line).expect("an id")).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn the_streamed_table_is_what_conntrack_shows() {
    const CONNECTIONS: u16 = 10_000;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = gateway(&lab);
    let mut query = maker(&lab);
    for number in 0..CONNECTIONS {
        let from = SocketAddr::new([10, 0, (number >> 8) as u8, number as u8].into(), 40001);
        let nat = SocketAddr::new(lab.public(0), 20_000 + number);
        let server = lab.server_at(443);
        let protocol = if number % 3 == 0 { Protocol::Udp } else { Protocol::Tcp };
        let mark = number.into();
        Made { protocol, src: from, dst: server, nat, server, zone: number % 2, mark }.make(&mut query);
    }
    connections()[4].make(&mut query);

    let table = client(&lab, &daemon).get("/v1/mappings?state=live");
    let mut ours = BTreeSet::new();
    for mapping in lines(&table) {
        let [src, dst, nat, server] = ["src", "dst", "nat", "server"].map(|end| {
            let address: IpAddr = mapping[format!("{end}_ip")].as_str().unwrap().parse().unwrap();
            (address, mapping[format!("{end}_port")].as_u64().unwrap())
        });
        let protocol = mapping["protocol"].as_str().unwrap().to_owned();
        let number = |name: &str| mapping[name].as_u64().unwrap();
        let zone = number("zone");
        assert!(
            ours.insert((protocol, src, dst, server, nat, number("mark"), zone, number("id"))),
            "{mapping}"
        );
    }

    let mut theirs = BTreeSet::new();
    for family in ["ipv4", "ipv6"] {
        for line in lab.gateway().run("conntrack", &["-L", "-o", "id", "-f", family]).lines() {
            let values = |name: &str| -> Vec<&str> {
                let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
                pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).collect()
            };
            let address = |name: &str, at: usize| values(name)[at].parse::<IpAddr>().unwrap();
            let port = |name: &str, at: usize| values(name)[at].parse::<u64>().unwrap();
            // The test's own questions are not translated.
            if values("src")[0] == values("dst")[1] {
                continue;
            }
            theirs.insert((
                line.split_whitespace().next().unwrap().to_owned(),
                (address("src", 0), port("sport", 0)),
                (address("dst", 0), port("dport", 0)),
                (address("src", 1), port("sport", 1)),
                (address("dst", 1), port("dport", 1)),
                port("mark", 0),
                values("zone").first().map_or(0, |zone| zone.parse().unwrap()),
                port("id", 0),
            ));
        }
    }
    assert_eq!(theirs.len(), usize::from(CONNECTIONS) + 1);
    assert!(ours == theirs, "{} of ours, {} of theirs", ours.len(), theirs.len());

    // A look-up shows a thousand of them, and says that there are more.
    let answer = client(&lab, &daemon).get("/v1/lookup").json();
    assert_eq!(answer["matches"].as_array().unwrap().len(), 1000);
    assert_eq!((&answer["truncated"], &answer["ambiguous"]), (&json!(true), &json!(true)));
    println!("{} mappings streamed, all as conntrack shows them", ours.len());
}

/// How many look-ups the daemon has begun.
fn questions(client: &mut Client) -> u64 {
    client.get("/nagios").json()["http_stat"]["no_of_requests"].as_u64().expect("a counter")
}

/// Asks in another thread, and returns once the daemon has begun to answer.
fn ask_meanwhile(lab: &Lab, daemon: &Daemon, path: &str) -> thread::JoinHandle<(Response, Duration)> {
    let mut watching = client(lab, daemon);
    let before = questions(&mut watching);
    let mut client = client(lab, daemon);
    client.stream().set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    let path = path.to_owned();
    let asking = thread::spawn(move || {
        let begun = Instant::now();
        (client.get(&path), begun.elapsed())
    });
    wait_until("the question is being answered", || questions(&mut watching) > before);
    asking
}

#[test]
fn wait_holds_the_answer_until_there_is_a_match_or_the_time_is_over() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let mut daemon = gateway(&lab);
    let mut client = client(&lab, &daemon);
    let minute = Duration::from_secs(60);

    // Answered as soon as the connection opens; others that open meanwhile are no reason.
    let path = "/v1/lookup?nat_ip=100.64.2.1&nat_port=40001&protocol=tcp&wait=60000";
    let waiting = ask_meanwhile(&lab, &daemon, path);
    let server = lab.listen(lab.server_at(443));
    let other = lab.connect_to(&server, lab.client_at(0, 40002));
    assert!(!waiting.is_finished());
    let connection = lab.connect_to(&server, lab.client_at(0, 40001));
    let (answer, took) = waiting.join().unwrap();
    assert_eq!((answer.status, &answer.json()["matches"][0]["src_port"]), (200, &json!(40001)));
    assert!(took < minute, "{took:?}");

    // One that closes, too.
    let waiting = ask_meanwhile(&lab, &daemon, "/v1/lookup?nat_port=40002&state=closed&wait=60000");
    lab.gateway().run("conntrack", &["-D", "-p", "tcp", "--orig-port-src", "40002"]);
    let (answer, took) = waiting.join().unwrap();
    assert_eq!((answer.status, &answer.json()["matches"][0]["state"]), (200, &json!("closed")));
    assert!(took < minute, "{took:?}");

    // What is there is answered at once, what isn't at the end of the time.
    let begun = Instant::now();
    assert_eq!(client.get("/v1/lookup?nat_port=40001&wait=60000").status, 200);
    assert!(begun.elapsed() < minute);
    let begun = Instant::now();
    let answer = client.get("/v1/lookup?nat_port=1&wait=300");
    assert_eq!(
        (answer.status, answer.json()),
        (404, json!({"matches": [], "ambiguous": false, "complete": true}))
    );
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(client.get("/v1/lookup?nat_port=1&wait=0").status, 404);
    assert_eq!(client.get("/v1/lookup?nat_port=1&wait=60001").status, 400);

    // Several wait together as long as the longest alone: far from the five seconds that they would in turn.
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

    // The daemon's end answers who waits.
    let waiting = ask_meanwhile(&lab, &daemon, "/v1/lookup?nat_port=1&wait=60000");
    daemon.signal(Signal::SIGTERM);
    let (answer, took) = waiting.join().unwrap();
    assert_eq!(answer.status, 404);
    assert!(took < minute, "{took:?}");
    assert!(daemon.wait().success());
    drop((connection, other));
}

#[test]
fn many_questions_are_bounded_and_a_bad_one_is_named() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = gateway(&lab);
    let before = questions(&mut client(&lab, &daemon));
    let post = |headers: &[(&str, &str)], body: &[u8]| {
        client(&lab, &daemon).request("POST", "/v1/lookup", headers, body)
    };
    let thousand = |count| serde_json::to_vec(&vec![json!({"nat_port": 1}); count]).unwrap();

    let answer = post(&[], &thousand(1001));
    assert_eq!(answer.status, 413);
    assert_eq!(answer.json()["error"], "1001 questions, of at most 1000");
    for (body, error, hint) in [
        (
            r#"[{}, {}, {"natport": 1}]"#,
            r#"question 2: there is no field "natport""#,
            "did you mean nat_port?",
        ),
        (r#"[{"wait": 60001}]"#, r#"question 0: wait: found "60001""#, "expected milliseconds, 0 to 60000"),
        (r#"[{}, 7]"#, "question 1: a question is no JSON object", r#"write {"nat_port": 40001}"#),
        (
            r#"{"nat_port": 1}"#,
            "no list of questions: invalid type: map, expected a sequence at line 1 column 0",
            r#"write [{"nat_ip": "100.64.2.1", "nat_port": 40001}]"#,
        ),
    ] {
        let answer = post(&[], body.as_bytes());
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.json(), json!({"error": error, "hint": hint}));
    }
    assert_eq!(post(&[], b"").status, 400);
    // Of none of these was a question asked.
    assert_eq!(questions(&mut client(&lab, &daemon)), before);
    assert_eq!(post(&[], b"[]").json(), json!([]));
    assert_eq!(post(&[], &thousand(1000)).json().as_array().unwrap().len(), 1000);

    // A megabyte is taken, if only to be refused for what it says; more is not.
    const MEGABYTE: usize = 1024 * 1024;
    assert_eq!(post(&[], &vec![b' '; MEGABYTE]).status, 400);
    let error = "more than 1 MiB of questions";
    // Refused for its Content-Length before it is sent.
    let mut announced = client(&lab, &daemon);
    let header = "POST /v1/lookup HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n";
    announced.send(format!("{header}Content-Length: {}\r\n\r\n", MEGABYTE + 1).as_bytes()).unwrap();
    let answer = announced.read_response("POST").unwrap();
    assert_eq!((answer.status, &answer.json()["error"]), (413, &json!(error)));
    // And as it comes, where it does not say.
    let mut chunked = client(&lab, &daemon);
    let chunk = [format!("{:x}\r\n", MEGABYTE + 1).into_bytes(), vec![b' '; MEGABYTE + 1]].concat();
    chunked.send(b"POST /v1/lookup HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    // The daemon may have closed before it was all sent.
    let _ = chunked.send(&chunk);
    let answer = chunked.read_response("POST").unwrap();
    assert_eq!((answer.status, &answer.json()["error"]), (413, &json!(error)));
}

#[test]
fn events_tell_in_order_what_opens_and_closes() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let mut daemon = gateway(&lab);
    let address = daemon.addr_on(lab.public(0));
    let open = |path, headers: &[(&str, &str)]| {
        let stream = Stream::connect(lab.server(), address, path, headers);
        assert_eq!(stream.head.status, 200);
        stream
    };
    let mut all = open("/v1/events", &[]);
    let mut udp = open("/v1/events?protocol=udp", &[("Accept", "application/x-ndjson")]);
    let mut closed = open("/v1/events?state=closed&src_ip=192.168.7.0/29", &[("Accept", "*/*")]);
    let mut sent =
        open("/v1/events?nat_port=50001&zone=0", &[("Accept", "text/html, text/event-stream;q=0.9")]);
    assert_eq!(all.head.header("Content-Type"), Some("application/x-ndjson"));
    assert_eq!(sent.head.header("Content-Type"), Some("text/event-stream"));
    assert_eq!(sent.head.header("Cache-Control"), Some("no-store"));

    let mut query = maker(&lab);
    let made = connections();
    made.iter().for_each(|one| one.make(&mut query));
    made.iter().for_each(|one| one.remove(&mut query));

    let mut expected = Vec::new();
    for (event, state) in [("opened", "live"), ("closed", "closed")] {
        for number in 0..made.len() {
            let line = all.next_json();
            assert_eq!((&line["event"], &line["mapping"]["state"]), (&json!(event), &json!(state)));
            assert_eq!(numbers([&line["mapping"]]), [number]);
            assert_eq!(line["mapping"]["closed"].is_string(), event == "closed");
            expected.push(line);
        }
    }
    let only = |test: &dyn Fn(&Value) -> bool| -> Vec<Value> {
        expected.iter().filter(|line| test(&line["mapping"])).cloned().collect()
    };
    for line in only(&|mapping| mapping["protocol"] == "udp") {
        assert_eq!(udp.next_json(), line);
    }
    let inside = |mapping: &Value| {
        mapping["src_ip"].as_str().unwrap().starts_with("192.168.7.") && mapping["src_ip"] != "192.168.7.9"
    };
    for line in only(&|mapping| mapping["state"] == "closed" && inside(mapping)) {
        assert_eq!(closed.next_json(), line);
    }
    for line in only(&|mapping| mapping["nat_port"] == 50001 && mapping["zone"] == 0) {
        assert_eq!(sent.next_line(), Some(format!("event: {}", line["event"].as_str().unwrap())));
        let data = sent.next_line().expect("data follows");
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").expect("data")).unwrap();
        assert_eq!(data, line["mapping"]);
        assert_eq!(sent.next_line().as_deref(), Some(""));
    }

    // The daemon's end is the stream's, in good order.
    daemon.signal(Signal::SIGTERM);
    for stream in [&mut all, &mut udp, &mut closed, &mut sent] {
        assert_eq!(stream.next_line(), None);
    }
    assert!(daemon.wait().success());
}

/// What a reader of events has seen.
#[derive(Debug, Default)]
struct Seen {
    opened: u64,
    closed: u64,
    lost: u64,
    markers: u64,
}

impl Seen {
    fn total(&self) -> u64 {
        self.opened + self.closed + self.lost
    }

    fn read(&mut self, stream: &mut Stream) {
        let line = stream.next_json();
        match line["event"].as_str() {
            Some("opened") => self.opened += 1,
            Some("closed") => self.closed += 1,
            Some("lost") => {
                self.lost += line["count"].as_u64().expect("a count");
                self.markers += 1;
            }
            Some("alive") => {}
            _ => panic!("{line}"),
        }
    }
}

#[test]
fn a_slow_reader_is_told_how_many_events_it_lost_and_slows_nobody() {
    /// Connections of a round: fewer events than there are batches that a reader may be behind.
    const ROUND: u64 = 30;
    const ROUNDS: u64 = 350;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    // What waits in the kernel for a reader is kept small, so that a reader is soon a slow one.
    lab.gateway().sysctl("net.ipv4.tcp_wmem", "4096 16384 65536");
    let daemon = gateway(&lab);
    let address = daemon.addr_on(lab.public(0));
    let server = lab.listen(lab.server_at(443));
    let known = lab.connect_to(&server, lab.client_at(0, 40001));
    let mut asking = client(&lab, &daemon);
    assert_eq!(asking.get("/v1/lookup?nat_port=40001").status, 200);

    let slow = lab.server().enter(|| -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_recv_buffer_size(16 * 1024)?;
        socket.connect_timeout(&address.into(), PATIENCE)?;
        Ok(socket.into())
    });
    let slow = slow.expect("the daemon can be reached");
    let mut slow = Stream::open(slow, "/v1/events?dst_port=4433", &[]);
    let mut fast = Stream::connect(lab.server(), address, "/v1/events?dst_port=4433", &[]);
    let (mut slowly, mut quickly) = (Seen::default(), Seen::default());

    let mut query = maker(&lab);
    let begun = Instant::now();
    for round in 0..ROUNDS {
        for number in 0..ROUND {
            let number = u16::try_from(round * ROUND + number).unwrap();
            let nat = SocketAddr::new(lab.public(0), 50_000);
            let from = SocketAddr::new([10, 0, (number >> 8) as u8, number as u8].into(), 40001);
            let server = SocketAddr::new([203, 0, (number >> 8) as u8, number as u8].into(), 4433);
            let protocol = Protocol::Tcp;
            let made = Made { protocol, src: from, dst: server, nat, server, zone: 0, mark: 0 };
            made.make(&mut query);
            made.remove(&mut query);
        }
        // A reader that keeps up gets everything; so each round is passed on before the next begins.
        while quickly.total() < 2 * ROUND * (round + 1) {
            quickly.read(&mut fast);
        }
        // Look-ups are answered all the while.
        let answer = asking.get("/v1/lookup?nat_ip=100.64.2.1&nat_port=40001&state=live");
        assert_eq!((answer.status, &answer.json()["matches"][0]["src_port"]), (200, &json!(40001)));
        // Who takes nothing at all for ten seconds is disconnected, however slow this machine is.
        if round % 10 == 0 {
            slowly.read(&mut slow);
        }
    }
    let all = 2 * ROUND * ROUNDS;
    println!("{all} events in {:?}", begun.elapsed());
    assert_eq!((quickly.opened, quickly.closed, quickly.lost), (all / 2, all / 2, 0));

    while slowly.total() < all {
        slowly.read(&mut slow);
    }
    println!("the slow reader: {slowly:?}");
    assert_eq!(slowly.total(), all);
    assert!(slowly.lost > 0 && slowly.markers > 0);

    // From here on it gets everything again.
    let made = Made {
        dst: "203.0.113.1:4433".parse().unwrap(),
        server: "203.0.113.1:4433".parse().unwrap(),
        ..connections()[0]
    };
    made.make(&mut query);
    for stream in [&mut slow, &mut fast] {
        let line = stream.next_json();
        assert_eq!((&line["event"], &line["mapping"]["nat_port"]), (&json!("opened"), &json!(50001)));
    }
    drop(known);
}

#[test]
fn what_is_not_understood_is_refused_with_a_hint() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = gateway(&lab);
    let mut client = client(&lab, &daemon);
    for (path, error, hint) in [
        ("/v1/lookup?natport=1", r#"there is no field "natport""#, "did you mean nat_port?"),
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
        ("/v1/lookup?nat_port=1&nat_port=1", "nat_port is there twice", "name each field once"),
        ("/v1/mappings?wait=1", "wait has no meaning here", "leave it out, or ask /v1/lookup"),
        ("/v1/events?wait=1", "wait has no meaning here", "leave it out, or ask /v1/lookup"),
    ] {
        let answer = client.get(path);
        assert_eq!((answer.status, answer.header("Content-Type")), (400, Some("application/json")), "{path}");
        assert_eq!(answer.json(), json!({"error": error, "hint": hint}), "{path}");
    }
    let hint = client.get("/v1/lookup?nothing_like_it=1").json()["hint"].clone();
    assert!(hint.as_str().unwrap().starts_with("the fields are nat_ip, nat_port, "), "{hint}");

    for path in ["/v1", "/v1/", "/v1/lookups", "/v1/lookup/"] {
        let answer = client.get(path);
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (404, &json!("there is no such route")),
            "{path}"
        );
    }
    for (path, allow) in [
        ("/v1/lookup", "GET, HEAD, POST, OPTIONS"),
        ("/v1/mappings", "GET, HEAD, OPTIONS"),
        ("/v1/events", "GET, HEAD, OPTIONS"),
        ("/v1/auth", "GET, HEAD, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
    ] {
        let options = client.request("OPTIONS", path, &[], b"");
        assert_eq!((options.status, options.header("Allow"), options.text()), (204, Some(allow), ""));
        let refusal = client.request("DELETE", path, &[], b"");
        assert_eq!((refusal.status, refusal.header("Allow")), (405, Some(allow)), "{path}");
        assert_eq!(refusal.json()["hint"], "use one of those in the Allow header");
    }
    let answer = client.request("HEAD", "/v1/mappings", &[], b"");
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("application/x-ndjson")));
    assert_eq!(client.get("/v1/openapi.json").text(), include_str!("../doc/openapi.json"));

    let with = |path: &str, headers: &[(&str, &str)], body: &[u8]| {
        Client::connect(lab.server(), daemon.addr_on(lab.public(0))).request("GET", path, headers, body)
    };
    let answer = with("/v1/lookup", &[], b"?");
    assert_eq!((answer.status, &answer.json()["hint"]), (413, &json!("only POST /v1/lookup takes a body")));
    // Too many lines, and too long ones.
    let names: Vec<String> = (0..32).map(|number| format!("X-{number}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    let long = "x".repeat(16 * 1024);
    for headers in [&many[..], &[("X-Long", &long)]] {
        let answer = with("/v1/lookup", headers, b"");
        assert_eq!((answer.status, &answer.json()["hint"]), (431, &json!("send fewer headers")));
    }
    assert_eq!(with("/v1/lookup", &many[..31], b"").status, 404);
    // What is far beyond is cut off before it is read whole.
    let hundreds: Vec<_> = many.iter().cycle().take(400).copied().collect();
    assert_eq!(with("/v1/lookup", &hundreds, b"").status, 431);

    // From inside, which ip_acl does not have.
    for path in ["/v1/lookup", "/v1/none", "/v1/auth", "/healthz", "/readyz"] {
        let answer = lab::http::get(lab.client(), daemon.addr_on(lab.public(0)), path);
        let expected =
            json!({"error": "this client may not ask", "hint": "add its address to ip_acl in [http_server]"});
        assert_eq!((answer.status, answer.json()), (403, expected), "{path}");
    }
}

#[test]
fn auth_answers_in_headers_and_never_with_an_error() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = gateway(&lab);
    let mut client = client(&lab, &daemon);
    make_connections(&mut maker(&lab), &mut client);
    let names =
        ["X-Nat-Found", "X-Nat-Src-Ip", "X-Nat-Src-Port", "X-Nat-Ambiguous", "X-Nat-Complete", "X-Nat-Error"];
    let mut ask = |headers: &[(&str, &str)]| -> Vec<Option<String>> {
        let answer = client.request("GET", "/v1/auth", headers, b"");
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{headers:?}");
        names.iter().map(|name| answer.header(name).map(str::to_owned)).collect()
    };
    let found = |ip: &str, port: &str, ambiguous: &str| -> Vec<Option<String>> {
        [Some("1"), Some(ip), Some(port), Some(ambiguous), Some("1"), None]
            .map(|value| value.map(str::to_owned))
            .into()
    };
    let not_found: Vec<_> =
        [Some("0"), None, None, None, Some("1"), None].map(|value| value.map(str::to_owned)).into();

    // One; one that closed; IPv6; IPv4 that an IPv6 socket shows; none.
    let one = [("X-Real-IP", "100.64.2.1"), ("X-Real-Port", "50002")];
    assert_eq!(ask(&one), found("192.168.7.2", "40003", "0"));
    assert_eq!(ask(&[one[0], ("X-Real-Port", "50009")]), found("192.168.7.9", "40009", "0"));
    assert_eq!(
        ask(&[("X-Real-IP", "2001:db8::2"), ("X-Real-Port", "50004")]),
        found("fd00:7::2", "40005", "0")
    );
    assert_eq!(ask(&[("X-Real-IP", "::ffff:100.64.2.1"), one[1]]), found("192.168.7.2", "40003", "0"));
    assert_eq!(ask(&[one[0], ("X-Real-Port", "50008")]), not_found);
    // An echo is no client of a web server.
    assert_eq!(ask(&[one[0], ("X-Real-Port", "77")]), not_found);

    // Three share a port: the newest is told, and that there are others; the destination tells them apart. It is
    // that of the real server.
    let shared = [("X-Real-IP", "100.64.2.1"), ("X-Real-Port", "50001")];
    assert_eq!(ask(&shared), found("192.168.7.2", "40001", "1"));
    let to = |ip, port| [shared[0], shared[1], ("X-Dst-IP", ip), ("X-Dst-Port", port)];
    assert_eq!(ask(&to("198.51.100.2", "443")), found("192.168.7.3", "40002", "0"));
    assert_eq!(ask(&to("198.51.100.1", "443")), found("192.168.7.2", "40001", "1"));
    assert_eq!(ask(&to("198.51.100.2", "80")), not_found);
    assert_eq!(
        ask(&[shared[0], shared[1], ("X-Dst-IP", "198.51.100.2")]),
        found("192.168.7.3", "40002", "0")
    );
    let behind = [("X-Real-IP", "100.64.2.2"), ("X-Real-Port", "50003"), ("X-Dst-IP", "198.51.100.1")];
    assert_eq!(ask(&behind), found("192.168.7.2", "40004", "0"));
    assert_eq!(ask(&[behind[0], behind[1], ("X-Dst-IP", "203.0.113.9")]), not_found);

    // What makes no sense is said in a header.
    for (headers, error) in [
        (&[][..], "X-Real-IP is missing"),
        (&[one[1]], "X-Real-IP is missing"),
        (&[one[0]], "X-Real-Port is missing"),
        (&[("X-Real-IP", "unix:"), one[1]], "x-real-ip: expected an IP address"),
        (&[("X-Real-IP", "100.64.2.0/24"), one[1]], "x-real-ip: expected an IP address"),
        (&[one[0], ("X-Real-Port", "65536")], "x-real-port: expected a port"),
        (&[one[0], ("X-Real-Port", "")], "x-real-port: expected a port"),
        (&[one[0], one[1], ("X-Dst-IP", "gateway")], "x-dst-ip: expected an IP address"),
        (&[one[0], one[1], ("X-Dst-Port", "https")], "x-dst-port: expected a port"),
    ] {
        let answer = ask(headers);
        assert_eq!((answer[0].as_deref(), answer[5].as_deref()), (Some("0"), Some(error)), "{headers:?}");
        assert_eq!(answer[1..5], [None, None, None, None]);
    }
}

#[test]
fn ready_is_a_table_that_equals_the_kernels() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    // While the kernel tells of nothing, the table may lack what has begun since the last dump.
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "0");
    let daemon = Daemon::start(lab.gateway(), CONFIG);
    let mut client = client(&lab, &daemon);
    assert_eq!(client.get("/healthz").json(), json!({"healthy": true}));
    let answer = client.get("/readyz");
    assert_eq!(
        (answer.status, &answer.json()["error"]),
        (503, &json!("the kernel's table is still being read"))
    );
    assert_eq!(client.get("/v1/lookup?nat_port=1").json()["complete"], false);
    let auth = client.request("GET", "/v1/auth", &[("X-Real-IP", "100.64.2.1"), ("X-Real-Port", "1")], b"");
    assert_eq!((auth.status, auth.header("X-Nat-Complete")), (204, Some("0")));

    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "1");
    wait_until("the daemon is ready", || client.get("/readyz").status == 200);
    assert_eq!(client.get("/readyz").json(), json!({"ready": true}));
    assert_eq!(client.get("/v1/lookup?nat_port=1").json()["complete"], true);
}
