//! Twenty thousand connections of thirty hosts that reuse a few public ports as fast as the kernel allows. Every
//! lookup finds the right host: at accept, while the connection is open, right after its end, and after
//! `del_delay`. The clients send the server their inside address, which is the expected result.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use lab::http::Client;
use lab::traffic::TcpServer;
use lab::{Daemon, DaemonBinary, Lab, flows, traffic};
use nfct::{Family, Protocol, Query};
use serde::Deserialize;
use socket2::SockRef;

const DAEMON: DaemonBinary = DaemonBinary::at(env!("CARGO_BIN_EXE_pynatconnd"));

/// Connections of each of the two protocols.
const CONNECTIONS: usize = 10_000;
const HOSTS: u8 = 30;
/// Threads per protocol on each side.
const THREADS: usize = 6;
/// Ports that the hosts of a client thread use one after the other.
const PORTS: u16 = (CONNECTIONS / THREADS / HOSTS as usize) as u16 + 1;
/// One of this many closed connections is looked up again after `del_delay`.
const SAMPLED: usize = 4;
/// A time after which a closed connection is no longer found: more than `del_delay`.
const OVER: Duration = Duration::from_secs(12);

const RULES: &str = "\
table ip nat {
    chain postrouting {
        type nat hook postrouting priority 100
        ip saddr 192.168.7.0/24 oifname \"outside\" meta l4proto { tcp, udp } masquerade to :20000-20999
    }
}
";

const CONFIG: &str = "\
[filter]
dst_ip = 198.51.100.1
dst_port = 443

[data]
key_name = nat_port
del_delay = 10

[http_server]
host = 0.0.0.0
ip_acl = 100.64.2.0/24, 198.51.100.0/24, 127.0.0.1
";

/// A connection as its client and server know it.
#[derive(Debug, Clone, Copy)]
struct Known {
    protocol: Protocol,
    /// The inside address and port, sent by the client.
    inside: SocketAddr,
    /// The public address and port, seen by the server.
    public: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Live,
    Closed,
}

#[derive(Debug, Deserialize)]
struct Match {
    src_ip: std::net::IpAddr,
    src_port: u16,
    nat_ip: std::net::IpAddr,
    nat_port: u16,
    state: State,
}

impl Match {
    fn inside(&self) -> SocketAddr {
        (self.src_ip, self.src_port).into()
    }

    fn is(&self, known: &Known) -> bool {
        self.inside() == known.inside && SocketAddr::from((self.nat_ip, self.nat_port)) == known.public
    }
}

#[derive(Debug, Deserialize)]
struct Reply {
    matches: Vec<Match>,
    ambiguous: bool,
    complete: bool,
}

impl Reply {
    fn live(&self) -> impl Iterator<Item = &Match> {
        self.matches.iter().filter(|one| one.state == State::Live)
    }

    /// Whether this connection is live, and no other.
    fn is_the_only_live(&self, known: &Known) -> bool {
        self.live().count() == 1
            && self.matches[0].is(known)
            && self.matches[0].state == State::Live
            && !self.ambiguous
    }

    fn has(&self, known: &Known, state: Option<State>) -> bool {
        self.matches.iter().any(|one| one.is(known) && state.is_none_or(|state| one.state == state))
    }
}

/// The results of the lookups at one stage of the connections.
#[derive(Debug, Default)]
struct Tally {
    lookups: usize,
    wrong: Vec<String>,
    absent: Vec<String>,
}

impl Tally {
    fn right(&mut self) {
        self.lookups += 1;
    }

    fn wrong(&mut self, known: &Known, what: impl fmt::Debug) {
        self.lookups += 1;
        self.wrong.push(format!("{known:?}: {what:?}"));
    }

    fn absent(&mut self, known: &Known, what: &str) {
        self.lookups += 1;
        self.absent.push(format!("{known:?}: {what}"));
    }

    fn add(&mut self, other: Tally) {
        self.lookups += other.lookups;
        self.wrong.extend(other.wrong);
        self.absent.extend(other.absent);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lookups, {} wrong, {} absent", self.lookups, self.wrong.len(), self.absent.len())
    }
}

/// The stages at which connections are looked up.
#[derive(Debug, Default)]
struct Tallies {
    at_accept: Tally,
    open: Tally,
    closed: Tally,
    over: Tally,
}

impl Tallies {
    fn all(&self) -> [&Tally; 4] {
        [&self.at_accept, &self.open, &self.closed, &self.over]
    }

    fn add(&mut self, other: Tallies) {
        self.at_accept.add(other.at_accept);
        self.open.add(other.open);
        self.closed.add(other.closed);
        self.over.add(other.over);
    }
}

/// A client outside.
struct LookupClient(Client);

impl LookupClient {
    /// The inside host behind a public port, through the legacy interface.
    fn by_port(&mut self, known: &Known) -> Option<SocketAddr> {
        #[derive(Deserialize)]
        struct LegacyReply {
            src_ip: std::net::IpAddr,
            src_port: u16,
        }
        let answer = self.0.get(&format!("/nat_port/{}?protocol={}", known.public.port(), known.protocol));
        match answer.status {
            200 => {
                let shown: LegacyReply = serde_json::from_slice(&answer.body).expect("a mapping");
                Some((shown.src_ip, shown.src_port).into())
            }
            404 => None,
            other => panic!("{other} {}", answer.text()),
        }
    }

    /// The mappings of the five-tuple that the server sees.
    fn by_five_tuple(&mut self, known: &Known, state: &str) -> Reply {
        let (ip, port) = (known.public.ip(), known.public.port());
        self.lookup(&format!(
            "protocol={}&nat_ip={ip}&nat_port={port}&dst_ip=198.51.100.1&dst_port=443&state={state}",
            known.protocol
        ))
    }

    /// The mappings of an inside address and port.
    fn by_source(&mut self, known: &Known) -> Reply {
        let (ip, port) = (known.inside.ip(), known.inside.port());
        self.lookup(&format!("protocol={}&src_ip={ip}&src_port={port}", known.protocol))
    }

    fn lookup(&mut self, fields: &str) -> Reply {
        let answer = self.0.get(&format!("/v1/lookup?{fields}"));
        assert!(matches!(answer.status, 200 | 404), "{fields}: {} {}", answer.status, answer.text());
        let answer: Reply = serde_json::from_slice(&answer.body).expect("an answer");
        assert!(answer.complete, "no event was lost");
        answer
    }

    /// Looks up a live connection in all three ways.
    fn check_live_connection(&mut self, known: &Known, tally: &mut Tally) {
        let by_port = self.by_port(known);
        let by_five_tuple = self.by_five_tuple(known, "any");
        let by_source = self.by_source(known);
        check_live(known, by_port, &by_five_tuple, &by_source, tally);
    }
}

fn check_live(
    known: &Known,
    by_port: Option<SocketAddr>,
    by_five_tuple: &Reply,
    by_source: &Reply,
    tally: &mut Tally,
) {
    match by_port {
        Some(found) if found == known.inside => tally.right(),
        Some(found) => tally.wrong(known, found),
        None => tally.absent(known, "by port"),
    }
    for (answer, how) in [(by_five_tuple, "by tuple"), (by_source, "by source")] {
        match answer {
            answer if answer.is_the_only_live(known) => tally.right(),
            answer if answer.live().count() == 0 => tally.absent(known, how),
            answer => tally.wrong(known, answer),
        }
    }
}

/// What the threads share.
struct Run<'a> {
    lab: &'a Lab,
    daemon: &'a Daemon,
    begun: [AtomicUsize; 2],
    /// The hosts whose datagrams arrived.
    served: Mutex<HashSet<SocketAddr>>,
    /// The hosts that used each public port, in order.
    hosts: Mutex<HashMap<(Protocol, u16), Vec<SocketAddr>>>,
    /// Lookups by port after a connection's end that found another connection, which must be a later one.
    later: Mutex<Vec<(Known, SocketAddr)>>,
    /// Notifies each client that its connection is closed and its public port is free.
    done: Vec<mpsc::Sender<()>>,
    /// Connections to look up again after `del_delay`.
    ended: mpsc::Sender<(Known, Instant)>,
    /// Connections whose end was left to the kernel.
    left: Mutex<Vec<Known>>,
}

impl Run<'_> {
    fn lookups(&self) -> LookupClient {
        let public = self.lab.public(0);
        LookupClient(Client::connect(self.lab.server(), self.daemon.addr_on(public)))
    }

    /// The number of the next connection of a protocol; `None` after the last.
    fn next(&self, protocol: Protocol) -> Option<usize> {
        let number = self.begun[usize::from(protocol == Protocol::Udp)].fetch_add(1, Ordering::Relaxed);
        (number < CONNECTIONS).then_some(number)
    }

    fn note_host(&self, known: &Known) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry((known.protocol, known.public.port())).or_default().push(known.inside);
    }

    /// Client and server have closed a connection: deletes its entry or leaves that to the kernel, frees the
    /// port for the next host, and looks the connection up.
    fn end(
        &self,
        known: &Known,
        number: usize,
        client: usize,
        query: &mut Query,
        lookups: &mut LookupClient,
    ) -> Tally {
        // Few of UDP, and none towards the end: their entries remain for some seconds.
        let leave = match known.protocol {
            Protocol::Udp => number % 15 == 0 && number < CONNECTIONS / 2,
            _ => number % 3 == 0,
        };
        if leave {
            self.left.lock().unwrap_or_else(PoisonError::into_inner).push(*known);
        } else {
            let server = self.lab.server_at(443);
            flows::remove(query, &flows::tuple(known.protocol, known.inside, server));
            if number % SAMPLED == 1 {
                self.ended.send((*known, Instant::now())).expect("a thread looks it up later");
            }
        }
        self.done[client].send(()).expect("the client waits for it");

        let mut tally = Tally::default();
        match lookups.by_port(known) {
            Some(found) if found == known.inside => tally.right(),
            Some(found) => {
                tally.right();
                self.later.lock().unwrap_or_else(PoisonError::into_inner).push((*known, found));
            }
            None => tally.absent(known, "by port, after its end"),
        }
        let state = (!leave).then_some(State::Closed);
        let answers =
            [lookups.by_five_tuple(known, if leave { "any" } else { "closed" }), lookups.by_source(known)];
        for answer in answers {
            match answer {
                answer if answer.has(known, state) => tally.right(),
                answer if answer.has(known, None) => tally.wrong(known, answer),
                _ => tally.absent(known, "after its end"),
            }
        }
        tally
    }
}

/// The first data of a client: its inside address and the number of its thread.
fn greeting(inside: SocketAddr, client: usize) -> Vec<u8> {
    format!("{:<32}", format!("{inside} {client}")).into_bytes()
}

fn parse_greeting(text: &[u8]) -> (SocketAddr, usize) {
    let text = std::str::from_utf8(text).expect("text").trim();
    let (inside, client) = text.split_once(' ').expect("an address and a number");
    (inside.parse().expect("an address"), client.parse().expect("a number"))
}

/// The inside addresses and ports of one client thread: all hosts in turn on the same port.
fn sources(lab: &Lab, thread: usize) -> Vec<SocketAddr> {
    let first = 20_000 + thread as u16 * PORTS;
    (first..first + PORTS).flat_map(|port| (0..HOSTS).map(move |host| lab.client_at(host, port))).collect()
}

fn tcp_client(sources: &[SocketAddr], target: SocketAddr, client: usize, done: &mpsc::Receiver<()>) {
    for inside in sources {
        let mut stream = traffic::connect(*inside, target).expect("connected");
        stream.write_all(&greeting(*inside, client)).expect("the server reads");
        stream.read_exact(&mut [0]).expect("the server answers");
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("the socket is open");
        drop(stream);
        done.recv_timeout(lab::PATIENCE).expect("the server has seen the end");
    }
}

fn tcp_server(run: &Run<'_>, server: &TcpServer) -> Tallies {
    let (mut lookups, mut tallies) = (run.lookups(), Tallies::default());
    let mut query = run.lab.gateway().enter(Query::open).expect("ctnetlink is available");
    while let Some(number) = run.next(Protocol::Tcp) {
        let (mut stream, public) = server.accept();
        let mut known = Known { protocol: Protocol::Tcp, inside: public, public };
        let (by_port, by_five_tuple) = (lookups.by_port(&known), lookups.by_five_tuple(&known, "any"));
        let mut text = [0; 32];
        stream.read_exact(&mut text).expect("the client sends its address");
        let (inside, client) = parse_greeting(&text);
        known.inside = inside;
        run.note_host(&known);
        let by_source = lookups.by_source(&known);
        check_live(&known, by_port, &by_five_tuple, &by_source, &mut tallies.at_accept);
        lookups.check_live_connection(&known, &mut tallies.open);
        stream.write_all(b".").expect("the client reads");
        await_reset(&mut stream);
        tallies.closed.add(run.end(&known, number, client, &mut query, &mut lookups));
    }
    tallies
}

fn await_reset(stream: &mut TcpStream) {
    let error = stream.read(&mut [0]).expect_err("the client ends with a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
}

fn udp_client(sources: &[SocketAddr], target: SocketAddr, client: usize, done: &mpsc::Receiver<()>) {
    for inside in sources {
        let socket = UdpSocket::bind(inside).expect("the port is free");
        socket.set_read_timeout(Some(lab::PATIENCE / 5)).expect("the socket is open");
        socket.connect(target).expect("there is a route");
        // The kernel drops a datagram when no public port is free, or when another takes the port at the same time.
        let answered = (0..5).any(|_| {
            socket.send(&greeting(*inside, client)).expect("sent");
            socket.recv(&mut [0]).is_ok()
        });
        assert!(answered, "the server answers {inside}");
        drop(socket);
        done.recv_timeout(lab::PATIENCE).expect("the server has seen the end");
    }
}

fn udp_server(run: &Run<'_>, server: &UdpSocket) -> Tallies {
    let (mut lookups, mut tallies) = (run.lookups(), Tallies::default());
    let mut query = run.lab.gateway().enter(Query::open).expect("ctnetlink is available");
    while let Some(number) = run.next(Protocol::Udp) {
        let (inside, client, public) = loop {
            let mut text = [0; 32];
            let (_, public) = server.recv_from(&mut text).expect("a datagram comes");
            let (inside, client) = parse_greeting(&text);
            // A client that waited too long for its reply has sent again.
            if run.served.lock().expect("no thread panicked").insert(inside) {
                break (inside, client, public);
            }
        };
        let known = Known { protocol: Protocol::Udp, inside, public };
        run.note_host(&known);
        lookups.check_live_connection(&known, &mut tallies.at_accept);
        server.send_to(b".", public).expect("sent");
        lookups.check_live_connection(&known, &mut tallies.open);
        tallies.closed.add(run.end(&known, number, client, &mut query, &mut lookups));
    }
    tallies
}

/// Looks up connections after `del_delay`: none may be found.
fn check_after_del_delay(lookups: &mut LookupClient, known: &Known, tally: &mut Tally) {
    match lookups.by_port(known) {
        Some(found) if found == known.inside => tally.wrong(known, "by port, long after its end"),
        _ => tally.right(),
    }
    for answer in [lookups.by_five_tuple(known, "any"), lookups.by_source(known)] {
        if answer.has(known, None) { tally.wrong(known, answer) } else { tally.right() }
    }
}

fn check_later(connect: impl Fn() -> LookupClient, ended: mpsc::Receiver<(Known, Instant)>) -> Tallies {
    let mut tallies = Tallies::default();
    let mut lookups = connect();
    for (known, at) in ended {
        let left = (at + OVER).saturating_duration_since(Instant::now());
        if !left.is_zero() {
            // The daemon closes a connection that is idle for so long.
            thread::sleep(left);
            lookups = connect();
        }
        check_after_del_delay(&mut lookups, &known, &mut tallies.over);
    }
    tallies
}

#[test]
fn a_rapidly_reused_public_port_always_belongs_to_the_right_host() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(HOSTS).ruleset(RULES).build();
    lab.gateway().sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "1");
    // Longer than any wait here, so that a connection looked up as open is open.
    for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
        lab.gateway().sysctl(&format!("net.netfilter.{timeout}"), &lab::PATIENCE.as_secs().to_string());
    }
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    // What closed before the daemon's start is not known for del_delay.
    let mut client = Client::connect(lab.gateway(), daemon.local_addr());
    lab::wait_until("the daemon knows what has closed", || {
        client.get("/v1/lookup?nat_port=1").json()["complete"] == true
    });
    let target = lab.server_at(443);
    let tcp = lab.listen(target);
    let udp = lab.udp_server(target);
    let (done, waiting): (Vec<_>, Vec<_>) = (0..2 * THREADS).map(|_| mpsc::channel()).unzip();
    let (ended, to_ask) = mpsc::channel();

    let begun = Instant::now();
    let clients: Vec<_> = waiting
        .into_iter()
        .enumerate()
        .map(|(client, done)| {
            let part = client % THREADS;
            let number = CONNECTIONS / THREADS + usize::from(part < CONNECTIONS % THREADS);
            let sources = sources(&lab, part)[..number].to_vec();
            let act = if client < THREADS { tcp_client } else { udp_client };
            lab.client().spawn(move || act(&sources, target, client, &done))
        })
        .collect();
    let mut tallies = Tallies::default();
    thread::scope(|scope| {
        let lookups = || LookupClient(Client::connect(lab.server(), daemon.addr_on(lab.public(0))));
        let later = scope.spawn(move || check_later(lookups, to_ask));
        let run = Run {
            lab: &lab,
            daemon: &daemon,
            begun: Default::default(),
            served: Mutex::default(),
            hosts: Mutex::default(),
            later: Mutex::default(),
            done,
            ended,
            left: Mutex::default(),
        };
        thread::scope(|scope| {
            let spawn = |number| match number % 2 {
                0 => scope.spawn(|| tcp_server(&run, &tcp)),
                _ => scope.spawn(|| udp_server(&run, &udp)),
            };
            let servers: Vec<_> = (0..2 * THREADS).map(spawn).collect();
            for server in servers {
                tallies.add(server.join().expect("the server finished"));
            }
        });
        clients.into_iter().for_each(|client| client.join().expect("the client finished"));
        let took = begun.elapsed();
        let Run { hosts, later: found_later, ended, left, .. } = run;
        drop(ended);

        // The kernel removes an expired entry when something visits it, such as a dump.
        let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
        let is_ours = |flow: nfct::Flow| flow.original.dst == target.ip();
        while query.dump(Family::Ipv4).expect("the table can be read").any(|flow| flow.is_ok_and(is_ours)) {
            assert!(begun.elapsed() < took + 3 * lab::PATIENCE, "the kernel keeps expired entries");
            thread::sleep(Duration::from_millis(100));
        }
        thread::sleep(OVER);
        let mut lookups = lookups();
        for known in left.into_inner().expect("no thread panicked") {
            check_after_del_delay(&mut lookups, &known, &mut tallies.over);
        }
        tallies.add(later.join().expect("the later lookups were made"));

        // A different connection found after a connection's end must have used the port after it.
        let hosts = hosts.into_inner().expect("no thread panicked");
        let found_later = found_later.into_inner().expect("no thread panicked");
        let number_of_later = found_later.len();
        for (known, found) in found_later {
            let hosts = &hosts[&(known.protocol, known.public.port())];
            let at = |who| hosts.iter().position(|host| *host == who);
            if at(found).is_none_or(|found| Some(found) <= at(known.inside)) {
                tallies.closed.wrong.push(format!("{known:?}: {found} by port, after its end"));
            }
        }
        let most = hosts.values().map(Vec::len).max().unwrap_or_default();
        println!(
            "churn: {} connections in {took:.1?} over {} public ports, up to {most} hosts on one; at accept {}; \
             open {}; closed {} (of a later one: {number_of_later}); over {}",
            hosts.values().map(Vec::len).sum::<usize>(),
            hosts.len(),
            tallies.at_accept,
            tallies.open,
            tallies.closed,
            tallies.over
        );
    });
    for tally in tallies.all() {
        let some = |all: &[String]| all.iter().take(10).cloned().collect::<Vec<_>>();
        assert!(
            tally.wrong.is_empty() && tally.absent.is_empty(),
            "{tally}\nwrong: {:#?}\nabsent: {:#?}",
            some(&tally.wrong),
            some(&tally.absent)
        );
    }
    assert_eq!(
        [&tallies.at_accept, &tallies.open, &tallies.closed].map(|tally| tally.lookups),
        [6 * CONNECTIONS; 3]
    );
}
