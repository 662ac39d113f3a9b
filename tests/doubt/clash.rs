//! Clash resolution: two first packets of one UDP socket race, and NAT chooses a different public port for each.
//! The kernel inserts the entry of the second packet by its reply tuple only. It sends no NEW event for it, hides
//! it from dumps, and drops it after a second with a DESTROY event.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lab::http::Client;
use lab::{Daemon, Lab, flows, wait_until, wait_within};
use nfct::{Family, Protocol, Query};
use nix::sys::signal::Signal;

use super::alone::alone;
use super::binary::DAEMON;
use super::heard::Heard;
use super::lookups::{Answer, LIMIT, client, dumps, fully_named, look_up, wait_complete};
use super::race::{Racers, resolved_clashes, two_processors};
use super::scene::ctnetlink;

/// Racing sockets under each rule.
const SOCKETS: u16 = 3000;
/// The kernel drops the entry of a clash after a second. An answer that comes later than this is not judged.
const IN_TIME: Duration = Duration::from_millis(900);
/// Legacy lookups that find nothing may wait for seconds, so only so many are sent.
const LEGACY: usize = 16;

/// A lookup by port alone names a public port and nothing else.
const WIDE: &str = "\
[filter]
nat_only = yes

[data]
key_name = nat_port
del_delay = 2
sweep_interval = 3600

[http_server]
port = 0
";

/// With this filter, a lookup by port alone names the whole reply tuple.
const NARROW: &str = "\
[filter]
nat_ip = 100.64.2.1
dst_ip = 198.51.100.1
dst_port = 443

[data]
key_name = nat_port
del_delay = 2
sweep_interval = 3600

[http_server]
port = 0
";

/// Results of one kind of lookup.
#[derive(Debug, Default)]
struct Tally {
    asked: usize,
    /// Another host was named.
    wrong: Vec<String>,
    /// The right host was not found, and the answer does not say that it cannot know.
    absent: Vec<String>,
    /// The right host was not found, and the answer says that it cannot know.
    doubtful: usize,
}

impl Tally {
    /// Judges a lookup of `/v1/lookup`.
    fn judge(&mut self, arrival: &Arrival, answer: &Answer) {
        self.asked += 1;
        let is_closed = answer.live().is_empty();
        match answer.best() {
            Some(best) if best.inside() == arrival.inside && best.is_live() => {}
            Some(_) | None if is_closed && !answer.complete => self.doubtful += 1,
            Some(best) => self.wrong.push(format!("{arrival}: {best:?}")),
            None => self.absent.push(arrival.to_string()),
        }
    }

    /// Judges a lookup of `/nat_port/N`.
    fn judge_legacy(&mut self, arrival: &Arrival, answer: Result<IpAddr, u16>) {
        self.asked += 1;
        match answer {
            Ok(found) if found == arrival.inside.ip() => {}
            Ok(found) => self.wrong.push(format!("{arrival}: {found}")),
            Err(503) => self.doubtful += 1,
            Err(status) => self.absent.push(format!("{arrival}: {status}")),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, wrong, absent, doubtful } = self;
        let (wrong, absent) = (wrong.len(), absent.len());
        write!(f, "{asked} asked, {wrong} wrong host, {absent} absent, {doubtful} doubtful")
    }
}

/// A datagram that has reached the server.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    inside: SocketAddr,
    public: SocketAddr,
    sent: Instant,
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.inside, self.public)
    }
}

/// A gateway whose rules let two packets of one socket clash, and a server.
struct Clashes {
    lab: Lab,
    server: UdpSocket,
    target: SocketAddr,
    racers: Racers,
    query: Query,
    sockets: u16,
}

impl Clashes {
    fn under(masquerade: &str, cpus: [usize; 2]) -> Self {
        let rules = format!(
            "table ip nat {{\nchain postrouting {{\ntype nat hook postrouting priority 100\n\
             ip saddr 192.168.7.0/24 oifname \"outside\" meta l4proto udp {masquerade}\n}}\n}}\n"
        );
        let lab = Lab::builder().clients(2).ruleset(rules).build();
        let target = lab.server_at(443);
        let server = lab.udp_server(target);
        let racers = Racers::new(lab.client(), cpus);
        let query = ctnetlink(&lab);
        Self { lab, server, target, racers, query, sockets: 0 }
    }

    /// Opens the next socket of the two hosts in turn, and sends two datagrams at once. Returns what reaches
    /// the server. The kernel drops a packet whose clash it cannot resolve.
    fn race(&mut self) -> Vec<Arrival> {
        let inside = self.lab.client_at((self.sockets % 2) as u8, 20_000 + self.sockets / 2);
        self.sockets += 1;
        let socket = self.lab.client().enter(|| {
            let socket = UdpSocket::bind(inside)?;
            socket.connect(self.target)?;
            Ok::<_, std::io::Error>(socket)
        });
        let socket = socket.unwrap_or_else(|error| panic!("cannot bind UDP {inside}: {error}"));
        let (sent, name) = (Instant::now(), inside.to_string());
        self.racers.send(&Arc::new(socket), name.as_bytes());
        let mut arrivals = Vec::new();
        while arrivals.len() < 2 {
            // Longer for the first: most often both come.
            let patience = Duration::from_millis(if arrivals.is_empty() { 100 } else { 5 });
            self.server.set_read_timeout(Some(patience)).expect("the socket is open");
            let mut text = [0; 32];
            let Ok((length, public)) = self.server.recv_from(&mut text) else { break };
            // A datagram of an earlier socket may have come too late.
            if text[..length] == *name.as_bytes() {
                arrivals.push(Arrival { inside, public, sent });
            }
        }
        arrivals
    }

    /// The same. `None` unless both datagrams arrive, from different public ports.
    fn race_for_two_ports(&mut self) -> Option<[Arrival; 2]> {
        let arrivals: [Arrival; 2] = self.race().try_into().ok()?;
        (arrivals[0].public != arrivals[1].public).then_some(arrivals)
    }

    /// Ends the entry of a socket that is in the kernel's table in both directions.
    fn end(&mut self, inside: SocketAddr) {
        flows::remove(&mut self.query, &flows::tuple(Protocol::Udp, inside, self.target));
    }

    fn daemon(&self, config: &str) -> Daemon {
        let daemon = DAEMON.start(self.lab.gateway(), config);
        wait_complete(&self.lab, &daemon);
        daemon
    }
}

/// The inside host or the status, and when it came.
type LegacyAnswer = (Result<IpAddr, u16>, Instant);

/// The inside host of a public port as the legacy route returns it, or the status.
fn legacy(client: &mut Client, port: u16) -> Result<IpAddr, u16> {
    let answer = client.get(&format!("/nat_port/{port}"));
    if answer.status != 200 {
        return Err(answer.status);
    }
    Ok(answer.json()["src_ip"].as_str().and_then(|ip| ip.parse().ok()).expect("an address"))
}

/// 3,000 racing sockets of two hosts, each datagram looked up on arrival. `shared` ends each socket's entries at
/// once, so that its public ports pass to the other host.
fn look_up_on_arrival(masquerade: &str, shared: bool) {
    if !lab::require() {
        return;
    }
    let Some(cpus) = two_processors() else { return };
    let _alone = alone();
    let mut clashes = Clashes::under(masquerade, cpus);
    let [wide, narrow] = [WIDE, NARROW].map(|config| DAEMON.start(clashes.lab.gateway(), config));
    [&wide, &narrow].into_iter().for_each(|daemon| wait_complete(&clashes.lab, daemon));
    let mut by_name = client(&clashes.lab, &wide);
    let mut by_filter = client(&clashes.lab, &narrow);
    let [mut named, mut port_alone, mut filtered, mut slow] = [(); 4].map(|()| Tally::default());
    let (mut forced, mut lost, mut late) = (0, 0, 0);
    let mut waiting: Vec<(Arrival, JoinHandle<LegacyAnswer>)> = Vec::new();
    let mut hosts: HashMap<u16, HashSet<IpAddr>> = HashMap::new();
    let before = resolved_clashes(&mut clashes.query);
    let begun = Instant::now();
    for _ in 0..SOCKETS {
        let arrivals = clashes.race();
        lost += 2 - arrivals.len();
        forced += usize::from(arrivals.len() == 2 && arrivals[0].public != arrivals[1].public);
        for arrival in &arrivals {
            let port = arrival.public.port();
            hosts.entry(port).or_default().insert(arrival.inside.ip());
            // By port alone first: the answer to the other may teach the daemon the mapping.
            let alone = look_up(&mut by_name, &format!("nat_port={port}"));
            let all = fully_named(Protocol::Udp, arrival.public, clashes.target);
            let whole = look_up(&mut by_name, &all);
            let old = legacy(&mut by_filter, port);
            if arrival.sent.elapsed() > IN_TIME {
                late += 1;
                continue;
            }
            if alone.best().is_none() && waiting.len() < LEGACY {
                let mut client = client(&clashes.lab, &wide);
                let ask = move || (legacy(&mut client, port), Instant::now());
                waiting.push((*arrival, thread::spawn(ask)));
            }
            port_alone.judge(arrival, &alone);
            named.judge(arrival, &whole);
            filtered.judge_legacy(arrival, old);
        }
        if shared {
            for arrival in &arrivals {
                // The entry of a clash ends with the first reply, the other one by force.
                clashes.server.send_to(b".", arrival.public).expect("sent");
            }
            arrivals.iter().for_each(|arrival| clashes.end(arrival.inside));
        }
    }
    let took = begun.elapsed();
    let resolved = resolved_clashes(&mut clashes.query) - before;
    for (arrival, answer) in waiting {
        let (answer, at) = answer.join().expect("the lookup was answered");
        match answer {
            // After a second another host may have the port.
            Ok(host) if hosts[&arrival.public.port()].contains(&host) => slow.asked += 1,
            // And after a second nobody.
            Err(404) if at > arrival.sent + IN_TIME => slow.asked += 1,
            answer => slow.judge_legacy(&arrival, answer),
        }
    }
    let reused = hosts.values().filter(|hosts| hosts.len() > 1).count();
    println!(
        "{masquerade}: {SOCKETS} sockets in {took:.1?}; {forced} got two public ports, {resolved} clashes resolved, \
         {lost} packets lost, {late} looked up too late, {reused} ports of both hosts\n\
         fully named: {named}\nby port alone: {port_alone}\n/nat_port, the filter names the rest: {filtered}\n\
         /nat_port, not found by port alone: {slow}"
    );
    assert!(forced > 0 && named.asked > 0, "no race was forced");
    assert!(!shared || reused > 0, "no public port passed to the other host");
    let mut faults = Vec::new();
    for (what, tally) in
        [("fully named", &named), ("by port alone", &port_alone), ("filter", &filtered), ("legacy", &slow)]
    {
        let must_know = matches!(what, "fully named" | "filter") && tally.doubtful > 0;
        if !tally.wrong.is_empty() || !tally.absent.is_empty() || must_know {
            let some = |all: &[String]| all.iter().take(3).cloned().collect::<Vec<_>>().join("\n");
            faults.push(format!("{what}: {tally}\n{}\n{}", some(&tally.wrong), some(&tally.absent)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn both_public_ports_of_a_clash_are_found_on_arrival_under_random() {
    look_up_on_arrival("masquerade random", false);
}

#[test]
fn both_public_ports_of_a_clash_are_found_on_arrival_under_fully_random() {
    look_up_on_arrival("masquerade fully-random", false);
}

#[test]
fn two_hosts_that_clash_in_one_port_range_are_not_mistaken() {
    look_up_on_arrival("masquerade to :20000-20999 random", true);
}

/// Nobody asks for these clashes while they live: the daemon knows them by their DESTROY events alone.
#[test]
fn the_end_of_a_clash_tells_whose_port_it_was() {
    const WANTED: usize = 50;
    if !lab::require() {
        return;
    }
    let Some(cpus) = two_processors() else { return };
    let _alone = alone();
    let mut clashes = Clashes::under("masquerade fully-random", cpus);
    // Longer than it takes until all have ended.
    let daemon = clashes.daemon(&WIDE.replace("del_delay = 2", "del_delay = 5"));
    let mut heard = Heard::listen(&clashes.lab, &daemon);
    let mut client = client(&clashes.lab, &daemon);
    let mut forced: Vec<[Arrival; 2]> = Vec::new();
    while forced.len() < WANTED && clashes.sockets < SOCKETS {
        forced.extend(clashes.race_for_two_ports());
    }
    println!("{} of {} sockets got two public ports", forced.len(), clashes.sockets);
    assert!(!forced.is_empty(), "no race was forced");

    // Which of the two ports is that of the clash: the kernel has the other entry in both directions.
    let ended: Vec<Arrival> = forced
        .iter()
        .flatten()
        .filter(|arrival| {
            let original = flows::tuple(Protocol::Udp, arrival.inside, clashes.target);
            let entry = clashes.query.get_by_original(&original).expect("the kernel answers");
            entry.is_none_or(|entry| entry.reply.dst_port() != Some(arrival.public.port()))
        })
        .copied()
        .collect();
    assert_eq!(ended.len(), forced.len(), "one entry of two is complete");

    // A dump makes the kernel collect what has expired.
    let mut absent = ended.clone();
    let collected = |arrival: &Arrival| {
        let answer = look_up(&mut client, &format!("nat_port={}", arrival.public.port()));
        answer.best().is_some_and(|best| best.inside() == arrival.inside && !best.is_live())
    };
    let mut collected = collected;
    let deadline = Instant::now() + lab::PATIENCE;
    while !absent.is_empty() && Instant::now() < deadline {
        let dump = clashes.query.dump(Family::Ipv4).expect("the table can be read");
        dump.for_each(|flow| _ = flow.expect("the table can be read"));
        thread::sleep(Duration::from_millis(50));
        absent.retain(|arrival| !collected(arrival));
    }
    heard.catch_up(&clashes.lab, &mut clashes.query);
    let unheard: Vec<String> = ended
        .iter()
        .filter_map(|arrival| {
            let names = heard.names(|mapping| mapping.public() == arrival.public);
            (names != ["opened", "closed"]).then(|| format!("{arrival}: heard {names:?}"))
        })
        .collect();
    println!(
        "{} clashes ended unasked: {} not found closed, {} not heard",
        ended.len(),
        absent.len(),
        unheard.len()
    );
    assert!(absent.is_empty(), "not found after their end: {absent:?}");
    assert!(unheard.is_empty(), "{unheard:#?}");
}

/// The same, for lookups that wait.
#[test]
fn a_lookup_that_waits_hears_the_end_of_a_clash() {
    const WANTED: usize = 10;
    if !lab::require() {
        return;
    }
    let Some(cpus) = two_processors() else { return };
    let _alone = alone();
    let mut clashes = Clashes::under("masquerade fully-random", cpus);
    let daemon = clashes.daemon(WIDE);
    let mut waiting = Vec::new();
    while waiting.len() < WANTED && clashes.sockets < SOCKETS {
        let Some(arrivals) = clashes.race_for_two_ports() else { continue };
        for arrival in arrivals {
            let mut client = client(&clashes.lab, &daemon);
            client.stream().set_read_timeout(Some(3 * lab::PATIENCE)).expect("the connection is open");
            // The first port is found at once, that of the clash at its end.
            let fields = format!("nat_port={}&wait=8000", arrival.public.port());
            let ask = move || {
                let begun = Instant::now();
                (look_up(&mut client, &fields), begun.elapsed())
            };
            waiting.push((arrival, thread::spawn(ask)));
        }
    }
    assert!(!waiting.is_empty(), "no race was forced");
    wait_until("all lookups are answered", || {
        let dump = clashes.query.dump(Family::Ipv4).expect("the table can be read");
        dump.for_each(|flow| _ = flow.expect("the table can be read"));
        thread::sleep(Duration::from_millis(50));
        waiting.iter().all(|(_, thread)| thread.is_finished())
    });
    let (mut longest, mut faults) = (Duration::ZERO, Vec::new());
    let number = waiting.len();
    for (arrival, thread) in waiting {
        let (answer, took) = thread.join().expect("the lookup was answered");
        longest = longest.max(took);
        // At the end of the time the daemon looks once more, which is not to hear.
        let in_time = took < Duration::from_secs(7);
        if !in_time || answer.best().is_none_or(|best| best.inside() != arrival.inside) {
            faults.push(format!("{arrival}: {answer:?} after {took:.1?}"));
        }
    }
    println!("{number} lookups that wait, half of them for a clash: the longest took {longest:.1?}");
    assert!(faults.is_empty(), "{} of {number}:\n{}", faults.len(), faults.join("\n"));
}

/// The kernel counts clashes. After one, a connection that is not found may exist, if it may be one of UDP.
#[test]
fn only_udp_is_doubtful_after_a_clash_and_not_for_long() {
    if !lab::require() {
        return;
    }
    let Some(cpus) = two_processors() else { return };
    let _alone = alone();
    let mut clashes = Clashes::under("masquerade fully-random", cpus);
    let daemon = clashes.daemon(WIDE);
    let mut client = client(&clashes.lab, &daemon);
    let mut is_complete = |fields: &str| {
        let answer = look_up(&mut client, fields);
        assert!(answer.matches.is_empty(), "{answer:?}");
        answer.complete
    };
    for _ in 0..10 {
        while clashes.race_for_two_ports().is_none() {
            assert!(clashes.sockets < SOCKETS, "no race was forced");
        }
        assert!(!is_complete("nat_port=1"), "any protocol");
        assert!(!is_complete("nat_port=1&protocol=udp"));
        assert!(is_complete("nat_port=1&protocol=tcp"));
    }
    wait_within(LIMIT, "UDP is not doubtful either", || is_complete("nat_port=1&protocol=udp"));
    println!("10 clashes of {} sockets made UDP doubtful", clashes.sockets);
}

/// A dump does not have the entry of a clash.
#[test]
fn a_dump_does_not_end_a_clash() {
    const WANTED: usize = 10;
    if !lab::require() {
        return;
    }
    let Some(cpus) = two_processors() else { return };
    let _alone = alone();
    let mut clashes = Clashes::under("masquerade fully-random", cpus);
    let daemon = clashes.daemon(WIDE);
    let mut client = client(&clashes.lab, &daemon);
    let (mut tally, mut late, mut forced) = (Tally::default(), 0, 0);
    while forced < WANTED && clashes.sockets < SOCKETS {
        let Some(arrivals) = clashes.race_for_two_ports() else { continue };
        forced += 1;
        for arrival in &arrivals {
            let named = fully_named(Protocol::Udp, arrival.public, clashes.target);
            look_up(&mut client, &named);
        }
        let before = dumps(&mut client);
        // Another value makes the daemon read the kernel's table.
        let changed = WIDE.replace("del_delay = 2", &format!("del_delay = {}", 2 + forced));
        daemon.rewrite_config(&changed);
        daemon.signal(Signal::SIGHUP);
        wait_until("the kernel's table is read again", || dumps(&mut client) > before);
        for arrival in &arrivals {
            let answer = look_up(&mut client, &format!("nat_port={}", arrival.public.port()));
            if arrival.sent.elapsed() > IN_TIME {
                late += 1;
            } else {
                tally.judge(arrival, &answer);
            }
        }
    }
    println!("{forced} clashes and a dump: {tally}; {late} lookups too late");
    assert!(tally.asked > 0, "no race was forced");
    assert!(tally.wrong.is_empty() && tally.absent.is_empty() && tally.doubtful == 0, "{tally:#?}");
}
