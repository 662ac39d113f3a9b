//! Limits on the number of mappings: what they cost is said, and nothing that is known is lost.

use lab::flows::{self, create, source_nat};
use lab::http::Client;
use lab::{Daemon, Lab, PATIENCE, wait_within};
use nfct::{Protocol, Query, Tuple};

use super::binary::DAEMON;

/// A limit of the tests, and more than that.
const MAX: u16 = 1000;
const MORE: u16 = 1500;

fn config(data: &str) -> String {
    format!("[filter]\nnat_only = yes\n[data]\nkey_name = nat_port\nsweep_interval = 3600\n{data}")
}

struct Bench {
    lab: Lab,
    daemon: Daemon,
    query: Query,
}

impl Bench {
    fn new(data: &str) -> Self {
        let lab = Lab::builder().clients(2).build();
        let daemon = DAEMON.start(lab.gateway(), config(data));
        daemon.wait_for_line("equals the kernel's");
        let query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
        Self { lab, daemon, query }
    }

    /// A connection with the public port 20000 + `number`.
    fn flow(&self, number: u16) -> (Tuple, Tuple) {
        let inside = self.lab.client_at(0, 10_000 + number);
        let public = (self.lab.public(0), 20_000 + number);
        source_nat(Protocol::Tcp, inside, self.lab.server_at(443), public.into())
    }

    fn begin(&mut self, numbers: std::ops::Range<u16>) {
        for number in numbers {
            let flow = self.flow(number);
            create(&mut self.query, &flow);
        }
    }

    fn end(&mut self, numbers: std::ops::Range<u16>) {
        for number in numbers {
            let (original, _) = self.flow(number);
            assert!(flows::remove(&mut self.query, &original));
        }
    }

    fn client(&self) -> Client {
        Client::connect(self.lab.gateway(), self.daemon.local_addr())
    }

    fn metric(&self, name: &str) -> f64 {
        let answer = self.client().get("/metrics");
        let value = answer.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} of {}", answer.text())).parse().expect("a number")
    }

    /// The state of the only match of a public port, if there is one, and whether the answer is complete.
    fn look_up(&self, client: &mut Client, number: u16) -> (Option<String>, bool) {
        let answer = client.get(&format!("/v1/lookup?nat_port={}&protocol=tcp", 20_000 + number)).json();
        let state = answer["matches"][0]["state"].as_str().map(str::to_owned);
        (state, answer["complete"].as_bool().expect("yes or no"))
    }
}

#[test]
fn of_too_many_closed_mappings_the_oldest_are_forgotten_and_the_answers_say_so() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new(&format!("del_delay = 6\nmax_closed = {MAX}\n"));
    let absence_is_certain = |bench: &Bench| {
        wait_within(PATIENCE, "absence is certain", || bench.look_up(&mut bench.client(), 0) == (None, true));
    };
    absence_is_certain(&bench);
    bench.begin(0..MORE);
    bench.end(0..MAX);
    let mut client = bench.client();
    assert_eq!(bench.look_up(&mut client, 0).0.as_deref(), Some("closed"), "so many are kept");
    assert_eq!(bench.metric("pynatconnd_mappings_forgotten_total"), 0.0);
    // The others cost the oldest.
    bench.end(MAX..MORE);
    let surplus = MORE - MAX;
    wait_within(PATIENCE, "the surplus is removed", || {
        bench.metric("pynatconnd_mappings_forgotten_total") == f64::from(surplus)
    });
    let mut client = bench.client();
    assert_eq!(bench.look_up(&mut client, surplus - 1), (None, false), "it may have been forgotten");
    assert_eq!(client.get(&format!("/nat_port/{}", 20_000 + surplus - 1)).status, 503);
    assert_eq!(bench.look_up(&mut client, surplus).0.as_deref(), Some("closed"), "the newest are kept");
    assert_eq!(bench.metric("pynatconnd_mappings{state=\"closed\"}"), f64::from(MAX));
    assert_eq!(client.get("/readyz").status, 200, "all live ones are there");
    bench.daemon.wait_for_line("closed ones are removed before del_delay is over");
    bench.daemon.wait_for_line("kept for the whole del_delay again");
    absence_is_certain(&bench);
}

#[test]
fn a_full_table_says_that_it_is_incomplete_until_there_is_room_again() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new(&format!("max_mappings = {MAX}\n"));
    // Closed ones make room for live ones.
    bench.begin(0..MAX - 100);
    bench.end(0..200);
    bench.begin(0..200);
    let mut client = bench.client();
    assert_eq!(bench.look_up(&mut client, 0), (Some("live".to_owned()), true));
    assert_eq!(client.get("/readyz").status, 200);
    assert_eq!(bench.metric("pynatconnd_mappings_refused_total"), 0.0);

    bench.begin(MAX - 100..MORE);
    let mut client = bench.client();
    assert_eq!(bench.look_up(&mut client, MORE - 1), (None, false));
    assert_eq!(client.get(&format!("/nat_port/{}", 20_000 + MORE - 1)).status, 503);
    bench.daemon.wait_for_line("max_mappings is reached, further connections are ignored");
    let ready = client.get("/readyz");
    assert!(ready.status == 503 && ready.text().contains("max_mappings"), "{}", ready.text());
    assert_eq!(bench.metric("pynatconnd_table_incomplete{reason=\"full\"}"), 1.0);
    assert_eq!(bench.metric("pynatconnd_mappings{state=\"live\"}"), f64::from(MAX));
    assert_eq!(bench.metric("pynatconnd_mappings_refused_total"), f64::from(MORE - MAX));
    assert_eq!(
        bench.look_up(&mut bench.client(), 0).0.as_deref(),
        Some("live"),
        "what is stored is answered"
    );

    // Fewer connections: a resync finds those that were ignored.
    bench.end(0..MORE - 500);
    wait_within(PATIENCE, "the table is complete", || bench.client().get("/readyz").status == 200);
    let mut client = bench.client();
    for number in [MORE - 500, MORE - 1] {
        assert_eq!(bench.look_up(&mut client, number), (Some("live".to_owned()), true));
    }
    assert_eq!(bench.metric("pynatconnd_table_incomplete{reason=\"full\"}"), 0.0);
}

#[test]
fn thousands_of_flows_on_one_port_do_not_slow_the_lookup_of_another_host_there() {
    const MANY: u16 = 6000;
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new("del_delay = 600\n");
    let public = (bench.lab.public(0), 33_333);
    let server =
        |number: u16| std::net::SocketAddr::new([198, 18, (number >> 8) as u8, number as u8].into(), 443);
    let udp = |bench: &Bench, number| {
        source_nat(Protocol::Udp, bench.lab.client_at(0, 33_333), server(number), public.into())
    };
    let tcp = source_nat(Protocol::Tcp, bench.lab.client_at(1, 44_444), server(7), public.into());
    create(&mut bench.query, &tcp);
    for number in 0..MANY {
        let flow = udp(&bench, number);
        create(&mut bench.query, &flow);
    }
    let headers = [
        ("X-Real-IP", public.0.to_string()),
        ("X-Real-Port", "33333".to_owned()),
        ("X-Dst-IP", server(7).ip().to_string()),
        ("X-Dst-Port", "443".to_owned()),
        ("X-Protocol", "tcp".to_owned()),
    ];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut client = bench.client();
    let mut auth = |headers: &[(&str, &str)]| {
        let answer = client.request("GET", "/v1/auth", headers, b"");
        let header = |name| answer.header(name).map(str::to_owned);
        (header("x-nat-src-ip"), header("x-nat-ambiguous"))
    };
    let host = |client| Some(bench.lab.client_at(client, 0).ip().to_string());
    assert_eq!(auth(&headers), (host(1), Some("0".to_owned())));
    assert_eq!(auth(&headers[..4]), (host(1), Some("1".to_owned())), "the UDP flow could be meant too");
    assert_eq!(auth(&headers[..2]).1.as_deref(), Some("1"), "and all other ones");

    // They end, and the other host's connection is found behind them.
    for number in 0..MANY {
        let (original, _) = udp(&bench, number);
        assert!(flows::remove(&mut bench.query, &original));
    }
    assert_eq!(auth(&headers[..2]).0, host(1));
    let mut client = bench.client();
    let answer = client.get("/nat_port/33333");
    assert!(answer.status == 200 && answer.text().contains(&host(1).unwrap()), "{}", answer.text());
}
