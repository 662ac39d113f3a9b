//! Who the inside hosts are: sources that change while connections come and go.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use lab::flows::{self, create, remove};
use lab::http::{Client, Response, get};
use lab::{Daemon, Lab, wait_until};
use nfct::{Protocol, Query};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::binary::DAEMON;

const PHONE: &str = "02:00:00:00:00:01";
const LAPTOP: &str = "02:00:00:00:00:02";

/// A gateway with a lease file, and a history.
struct Bench {
    lab: Lab,
    query: Query,
    directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        let lab = Lab::builder().clients(2).ipv6().build();
        lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "1");
        let query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
        let bench = Self { lab, query, directory: TempDir::with_prefix("pynatconnd-names-").unwrap() };
        bench.lease("");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What dnsmasq would have in its file.
    fn lease(&self, lines: &str) {
        let (new, path) = (self.path("new"), self.path("leases"));
        fs::write(&new, lines).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn start(&self, names: &str) -> Daemon {
        let config = format!(
            "[filter]\nnat_only = yes\n[data]\nkey_name = nat_port\n[http_server]\nhost = ::\nport = 0\nip_acl = \
             ::1, 192.168.7.0/24\n[history]\npath = {}\n[names]\ndnsmasq = {}\n{names}\n",
            self.path("history").display(),
            self.path("leases").display(),
        );
        let daemon = DAEMON.start(self.lab.gateway(), config);
        daemon.wait_for_line("equals the kernel's");
        daemon.wait_for_line("names: dnsmasq is followed");
        daemon
    }

    fn flow(&mut self, client: u8, port: u16) {
        let (inside, public) = (self.lab.client_at(client, port), (self.lab.public(0), port).into());
        let flow = flows::source_nat(Protocol::Tcp, inside, self.lab.server_at(443), public);
        create(&mut self.query, &flow);
    }

    /// Begins connections until one certainly is this host's, and returns its port.
    fn flow_of(&mut self, daemon: &Daemon, name: &str, from: u16) -> u64 {
        for port in from..from + 300 {
            self.flow(0, port);
            if self.name(daemon, &format!("/v1/lookup?nat_port={port}")) == name {
                return port.into();
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("{name} is not known")
    }

    fn end(&mut self, client: u8, port: u16) {
        let from = self.lab.client_at(client, port);
        assert!(remove(&mut self.query, &flows::tuple(Protocol::Tcp, from, self.lab.server_at(443))));
    }

    fn get(&self, daemon: &Daemon, path: &str) -> Response {
        get(self.lab.gateway(), daemon.local_addr(), path)
    }

    /// The host of the only match.
    fn host(&self, daemon: &Daemon, path: &str) -> Value {
        let answer = self.get(daemon, path).json();
        assert_eq!(answer["matches"].as_array().map(Vec::len), Some(1), "{path}: {answer}");
        answer["matches"][0]["host"].clone()
    }

    fn name(&self, daemon: &Daemon, path: &str) -> String {
        let host = self.host(daemon, path);
        let certain = if host["certain"] == true { "" } else { "?" };
        format!("{}{certain}", host["name"].as_str().unwrap_or("nobody"))
    }

    /// The public ports of what a question finds.
    fn ports(&self, daemon: &Daemon, path: &str) -> Vec<u64> {
        let answer = self.get(daemon, path).json();
        let mut ports: Vec<u64> = answer["matches"]
            .as_array()
            .unwrap_or_else(|| panic!("{path}: {answer}"))
            .iter()
            .map(|found| found["nat_port"].as_u64().unwrap())
            .collect();
        ports.sort_unstable();
        ports
    }
}

fn lease(mac: &str, address: &str, name: &str) -> String {
    format!("4102444800 {mac} {address} {name} 01:{mac}\n")
}

/// Waits until the daemon has heard of it.
fn wait_for_name(bench: &Bench, daemon: &Daemon, port: u16, name: &str) {
    wait_until("the name is known", || {
        bench.name(daemon, &format!("/v1/lookup?nat_port={port}&state=live")).starts_with(name)
    });
}

fn metric(bench: &Bench, daemon: &Daemon, name: &str) -> String {
    let page = bench.get(daemon, "/metrics").text().to_owned();
    let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {page}"));
    line.rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn the_host_of_a_mapping_is_who_had_the_address_when_it_opened() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    let address = bench.lab.client_at(0, 1).ip().to_string();
    let daemon = bench.start("");
    bench.flow(0, 1000);
    assert_eq!(bench.host(&daemon, "/v1/lookup?nat_port=1000"), Value::Null);
    bench.lease(&lease(PHONE, &address, "phone"));
    // It is known of now, and not of the begin of the connection, unless both were within a second.
    wait_for_name(&bench, &daemon, 1000, "phone");
    bench.flow(0, 1001);
    wait_for_name(&bench, &daemon, 1001, "phone");
    // What happens so shortly before a change is not certain: the file does not say when it happened.
    thread::sleep(Duration::from_millis(150));
    bench.lease(&lease(LAPTOP, &address, "laptop"));
    let laptop = bench.flow_of(&daemon, "laptop", 1100);
    assert_eq!(bench.name(&daemon, "/v1/lookup?nat_port=1001"), "phone");
    let host = bench.host(&daemon, &format!("/v1/lookup?nat_port={laptop}"));
    assert_eq!((&host["mac"], &host["source"]), (&LAPTOP.into(), &"dnsmasq".into()));
    assert_eq!(host["client_id"], "01020000000002", "{host}");

    // The device, by each of its names; also while nothing else is asked.
    assert_eq!(bench.ports(&daemon, "/v1/lookup?host=LAPTOP&state=live"), [laptop]);
    assert!(bench.ports(&daemon, &format!("/v1/lookup?mac={PHONE}")).contains(&1001));
    assert_eq!(bench.ports(&daemon, "/v1/lookup?host=nobody"), [] as [u64; 0]);
    assert_eq!(bench.ports(&daemon, &format!("/v1/lookup?nat_port={laptop}&mac={PHONE}")), [] as [u64; 0]);
    let mappings = bench.get(&daemon, "/v1/mappings?host=laptop").text().to_owned();
    assert_eq!(mappings.lines().count(), 1, "{mappings}");

    // A web server gets headers.
    let mut client = Client::connect(bench.lab.gateway(), daemon.local_addr());
    let public = bench.lab.public(0).to_string();
    let headers = [("X-Real-IP", &*public), ("X-Real-Port", &laptop.to_string())];
    let answer = client.request("GET", "/v1/auth", &headers, b"");
    assert_eq!(
        (answer.header("x-nat-host"), answer.header("x-nat-host-certain")),
        (Some("laptop"), Some("1"))
    );
    assert_eq!(answer.header("x-nat-host-mac"), Some(LAPTOP));

    // The past has them too, also after the daemon was killed.
    bench.end(0, 1001);
    let past = |port: u64| format!("/v1/history?nat_port={port}&from=-1h");
    let asked = |daemon: &Daemon, port| bench.name(daemon, &past(port));
    wait_until("the end is in the history", || {
        bench.get(&daemon, &past(1001)).json()["matches"][0]["state"] == "closed"
    });
    assert_eq!((asked(&daemon, 1001), asked(&daemon, laptop)), ("phone".into(), "laptop".into()));
    assert_eq!(bench.ports(&daemon, &format!("/v1/history?mac={LAPTOP}&from=-1h")), [laptop]);
    wait_until("the names are written", || fs::read_dir(bench.path("history/names")).unwrap().count() > 0);
    // What was appended is synced each second.
    let written = || {
        let log = fs::read(bench.path("history/names/names-0000000001.log")).unwrap();
        String::from_utf8_lossy(&log).contains("laptop")
    };
    wait_until("the laptop is written", written);
    daemon.signal(Signal::SIGKILL);
    drop(daemon);
    // Meanwhile the address passes on.
    bench.lease(&lease(PHONE, &address, "phone"));
    let daemon = bench.start("");
    let asked = |port| bench.name(&daemon, &past(port));
    assert_eq!((asked(1001), asked(laptop)), ("phone".to_owned(), "laptop".to_owned()));
    bench.flow_of(&daemon, "phone", 1500);
    assert_eq!(metric(&bench, &daemon, "pynatconnd_names_followed"), "1");
}

#[test]
fn only_clients_of_the_access_list_see_names() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    let address = bench.lab.client_at(0, 1).ip().to_string();
    bench.lease(&lease(PHONE, &address, "phone"));
    let daemon = bench.start("");
    bench.flow(0, 1000);
    wait_for_name(&bench, &daemon, 1000, "phone");
    let inside = bench.lab.client();
    let there = daemon.addr_on("192.168.7.1".parse().unwrap());
    for path in ["/v1/lookup?nat_port=1000", "/v1/mappings", "/v1/history?nat_port=1000&from=-1h"] {
        let answer = get(inside, there, path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.text().contains("phone") && !answer.text().contains("\"host\""), "{}", answer.text());
        assert!(bench.get(&daemon, path).text().contains("\"phone\""), "{path}");
    }
    for path in ["/v1/lookup?host=phone", "/v1/mappings?host=phone", "/v1/events?mac=0:0:0:0:0:0"] {
        let refused = get(inside, there, path);
        assert_eq!(refused.status, 403, "{path}: {}", refused.text());
    }
    // Both are meant.
    assert_eq!(bench.ports(&daemon, &format!("/v1/lookup?host=phone&mac={PHONE}")), [1000]);
    assert_eq!(bench.ports(&daemon, &format!("/v1/lookup?host=phone&mac={LAPTOP}")), [] as [u64; 0]);
    // The answers of the Python version stay as they were.
    assert!(!bench.get(&daemon, "/nat_port/1000").text().contains("phone"));

    // With the next request after a reload, it may.
    let config = fs::read_to_string(daemon.config_path()).unwrap();
    daemon.rewrite_config(&format!("{config}acl = 192.168.7.0/24,\n"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_line("configuration reloaded");
    assert!(get(inside, there, "/v1/lookup?nat_port=1000").text().contains("phone"));
    assert!(!bench.get(&daemon, "/v1/lookup?nat_port=1000").text().contains("phone"));
}

#[test]
fn a_source_that_cannot_be_followed_makes_names_uncertain_and_comes_back() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    let address = bench.lab.client_at(0, 1).ip().to_string();
    bench.lease(&lease(PHONE, &address, "phone"));
    let daemon = bench.start("neighbours = yes");
    daemon.wait_for_line("names: neighbours is followed");
    bench.flow(0, 1000);
    wait_for_name(&bench, &daemon, 1000, "phone");
    assert_eq!(bench.name(&daemon, "/v1/lookup?nat_port=1000"), "phone");
    // A real neighbour: its MAC address is known, and that of the lease is another one.
    let server = bench.lab.listen(bench.lab.server_at(443));
    let connection = bench.lab.connect_to(&server, bench.lab.client_at(0, 2000));
    let mac = neighbour(&bench.lab, &address);
    wait_until("both are shown", || {
        let host = bench.host(&daemon, "/v1/lookup?nat_port=2000&state=live");
        host["mac"] == PHONE && host["others"][0]["mac"] == *mac
    });
    drop(connection);
    // Another host of IPv6 has the MAC address of a lease.
    bench.lease(&lease(&mac, &address, "phone"));
    for port in 3000.. {
        bench.flow(0, port);
        if bench.host(&daemon, &format!("/v1/lookup?nat_port={port}"))["mac"] == *mac {
            break;
        }
    }
    let server6 = bench.lab.listen(bench.lab.server6_at(443));
    let connection = bench.lab.connect_to(&server6, bench.lab.client6_at(0, 2001));
    wait_until("the lease names the address of IPv6", || {
        bench.host(&daemon, "/v1/lookup?nat_port=2001&state=live")["name"] == "phone"
    });
    drop(connection);
}

fn neighbour(lab: &Lab, address: &str) -> String {
    let shown = lab.gateway().run("ip", &["neigh", "show", address]);
    let mut words = shown.split_whitespace().skip_while(|word| *word != "lladdr");
    words.nth(1).unwrap_or_else(|| panic!("{shown}")).to_owned()
}

#[test]
fn what_was_kept_is_named_if_it_cannot_be_used() {
    if !lab::require() {
        return;
    }
    let bench = Bench::new();
    let daemon = bench.start("");
    let config = fs::read_to_string(daemon.config_path()).unwrap();
    drop(daemon);
    fs::remove_dir_all(bench.path("history/names")).unwrap();
    fs::write(bench.path("history/names"), "no directory").unwrap();
    let mut daemon = DAEMON.builder(config).spawn(bench.lab.gateway());
    assert_eq!(daemon.wait().code(), Some(78), "{}", daemon.stderr());
    assert!(daemon.stderr().contains("history/names cannot be used"), "{}", daemon.stderr());
}

#[test]
fn a_question_about_a_host_keeps_its_other_conditions_and_says_what_is_not_known() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    let [first, second] = [0, 1].map(|client| bench.lab.client_at(client, 1).ip().to_string());
    let lines = format!("{first},box,,c-1\n{second},other,,c-1\n192.168.0.0/16,office\n");
    fs::write(bench.path("names.csv"), lines).unwrap();
    let daemon = bench.start(&format!("file = {}", bench.path("names.csv").display()));
    daemon.wait_for_line("names: file is followed");
    bench.flow(0, 1000);
    bench.flow(1, 1001);
    assert_eq!(bench.ports(&daemon, "/v1/lookup?host=c-1"), [1000, 1001]);
    let narrow = format!("/v1/lookup?host=c-1&src_ip={first}");
    assert_eq!(bench.ports(&daemon, &narrow), [1000]);
    assert_eq!(bench.ports(&daemon, "/v1/lookup?host=c-1&server_port=444"), [] as [u64; 0]);
    // A lookup that waits gets the first connection of this host, and not that of another.
    let (gateway, address) = (bench.lab.gateway().name().to_owned(), daemon.local_addr());
    let mut waiting = Command::new("ip")
        .args(["netns", "exec", &gateway, "curl", "-s"])
        .arg(format!("http://{address}/v1/lookup?host=box&src_port=1003&wait=20000"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("it waits", || metric(&bench, &daemon, "pynatconnd_http_places{kind=\"wait\"}") == "1");
    bench.flow(1, 1002);
    bench.flow(0, 1003);
    let mut text = String::new();
    waiting.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    waiting.wait().unwrap();
    assert!(text.contains("\"nat_port\":1003"), "{text}");
    // A name of a network is that of addresses without another one.
    assert_eq!(bench.ports(&daemon, "/v1/lookup?host=office"), [] as [u64; 0]);
    let refused = bench.get(&daemon, "/v1/history?host=office&from=-1h");
    assert_eq!((refused.status, refused.text().contains("has a network")), (400, true), "{}", refused.text());
    assert_eq!(bench.get(&daemon, "/v1/history?host=office&nat_port=1000&from=-1h").status, 404);
    // One of several lookups that cannot be answered spoils no other.
    let mut client = Client::connect(bench.lab.gateway(), daemon.local_addr());
    let body = br#"[{"host":"box"},{"nat_port":1001}]"#;
    let answers = client.request("POST", "/v1/lookup", &[], body).json();
    assert_eq!(answers[0]["matches"][0]["host"]["subscriber"], "c-1", "{answers}");
    assert_eq!(answers[1]["matches"][0]["host"]["name"], "other", "{answers}");
    // Before the daemon's first start, nobody knew who had an address.
    let past = bench.get(&daemon, "/v1/history?host=box&from=-1h").json();
    assert_eq!(
        (&past["complete"], past["matches"].as_array().map(Vec::len)),
        (&false.into(), Some(2)),
        "{past}"
    );
    let gaps = past["gaps"].to_string();
    assert!(gaps.contains("file was not followed") && gaps.contains("dnsmasq was not followed"), "{gaps}");
    // Nobody with this name is known; the history has gaps nevertheless.
    let nobody = bench.get(&daemon, "/v1/history?host=nobody&from=-1h");
    assert_eq!((nobody.status, &nobody.json()["complete"]), (404, &false.into()));
}
