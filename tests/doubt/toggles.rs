//! Everything that makes the daemon doubt, mixed: rules that mask events, events switched off and on, reloads to a narrower
//! and a wider filter, a hash table that is resized. Meanwhile hosts share a few public ports, and each answer is
//! compared with what is true at that moment.

use std::collections::{BTreeMap, HashSet};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Daemon, Lab, StopOnDrop};
use nfct::Query;
use nix::sys::signal::Signal;

use super::alone::{alone, amount};
use super::binary::DAEMON;
use super::lookups::Match;
use super::masks::{NO_MASK, mask};
use super::scene::{Questions, RESYNC, ctnetlink, exchange, named, resize_there_and_back, set_events};

/// The disturbances come at least as often.
const ANSWERS_A_ROUND: u32 = 150;
const HOSTS: u8 = 5;
/// Public ports, which the flows to each server share.
const PORTS: std::ops::RangeInclusive<u16> = 40_001..=40_006;
/// At most so many live flows to each server, so that a port is free for the next one.
const MOST: usize = 4;
/// The filter excludes the servers' port 444 at times.
const SERVERS: [(u8, u16); 4] = [(0, 443), (1, 443), (0, 444), (1, 444)];

const RULES: &str = "\
table ip nat {
    chain postrouting {
        type nat hook postrouting priority 100
        ip protocol udp oifname \"outside\" snat to 100.64.2.1:40001-40006
    }
}
";

fn narrow(is_narrow: bool) -> String {
    let filter = if is_narrow { "dst_port = 443\n" } else { "" };
    format!(
        "[filter]\nnat_only = yes\n{filter}[data]\nkey_name = nat_port\ndel_delay = 2\nsweep_interval = 30\n"
    )
}

/// Numbers that look random, the same in each run (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % limit as u64).expect("it is below the limit")
    }
}

/// A live flow.
struct Open {
    src: SocketAddr,
    /// Keeps the inside port.
    _socket: UdpSocket,
}

/// What is true: the live flows by public address and server. Nothing but this changes them.
struct Truth<'a> {
    lab: &'a Lab,
    servers: Vec<UdpSocket>,
    query: Query,
    live: BTreeMap<(SocketAddr, SocketAddr), Open>,
    begun: u32,
}

impl<'a> Truth<'a> {
    fn new(lab: &'a Lab) -> Self {
        let servers = SERVERS.map(|(number, port)| lab.udp_server(lab.server_number(number, port)));
        Self { lab, servers: servers.into(), query: ctnetlink(lab), live: BTreeMap::new(), begun: 0 }
    }

    fn server(&self, number: usize) -> SocketAddr {
        self.servers[number].local_addr().expect("it is bound")
    }

    /// Begins a flow, or ends one.
    fn change(&mut self, random: &mut Random) {
        let number = random.below(self.servers.len());
        let server = self.server(number);
        let of_server: Vec<_> = self.live.keys().filter(|(_, other)| *other == server).copied().collect();
        if of_server.len() >= MOST || (random.below(2) == 0 && !of_server.is_empty()) {
            let key = of_server[random.below(of_server.len())];
            let open = self.live.remove(&key).expect("it is live");
            let original = lab::flows::tuple(nfct::Protocol::Udp, open.src, server);
            assert!(lab::flows::remove(&mut self.query, &original), "{original} has ended by itself");
        } else {
            let host = u8::try_from(random.below(HOSTS.into())).expect("it is small");
            // The port passes on to the next flow only after all others have been used.
            let port = u16::try_from(10_000 + self.begun % 20_000).expect("a port");
            self.begun += 1;
            let src = self.lab.client_at(host, port);
            let socket = self.lab.udp_client(src);
            let public = exchange(&socket, &self.servers[number]);
            let before = self.live.insert((public, server), Open { src, _socket: socket });
            assert!(before.is_none(), "{public} is used twice");
        }
    }

    /// Whether a mapping that is called live is one.
    fn has(&self, mapping: &Match) -> bool {
        self.live.get(&(mapping.public(), mapping.server())).is_some_and(|open| open.src == mapping.inside())
    }

    /// The live flows of a public port that no filter excludes.
    fn on_port(&self, port: u16) -> HashSet<SocketAddr> {
        let on_port =
            self.live.iter().filter(|((public, server), _)| public.port() == port && server.port() == 443);
        on_port.map(|(_, open)| open.src).collect()
    }
}

/// What the answers were worth.
#[derive(Debug, Default)]
struct Worth {
    answers: u32,
    complete: u32,
    /// Another host than the one that is live there.
    wrong: u32,
    /// A flow that has ended, called live.
    dead: u32,
    /// A live flow missing in an answer that calls itself complete.
    unsaid: u32,
    /// A live flow missing in one that does not.
    said: u32,
    /// A live flow that was not found although the question named it whole.
    absent: u32,
}

impl Worth {
    fn count_live(&mut self, truth: &Truth, live: &[&Match]) {
        for mapping in live.iter().filter(|mapping| !truth.has(mapping)) {
            // Somebody else is live there.
            match truth.live.contains_key(&(mapping.public(), mapping.server())) {
                true => self.wrong += 1,
                false => self.dead += 1,
            }
        }
    }

    fn count_missing(&mut self, missing: usize, complete: bool) {
        let missing = u32::try_from(missing).expect("it is small");
        *(if complete { &mut self.unsaid } else { &mut self.said }) += missing;
    }

    fn ask(&mut self, truth: &Truth, questions: &mut Questions, random: &mut Random) {
        self.answers += 1;
        let port = PORTS.start() + u16::try_from(random.below(PORTS.len())).expect("it is small");
        let public = SocketAddr::new(truth.lab.public(0), port);
        let server = truth.server(random.below(truth.servers.len()));
        let kind = random.below(5);
        if kind < 2 {
            let answer = questions.look_up(&named(public, server));
            self.complete += u32::from(answer.complete);
            self.count_live(truth, &answer.live_matches().collect::<Vec<_>>());
            let is_missing = truth.live.contains_key(&(public, server)) && answer.live().is_empty();
            // The filter may exclude the others.
            if is_missing && server.port() == 443 {
                self.absent += 1;
                self.count_missing(1, answer.complete);
            }
        } else if kind < 4 {
            let state = if kind == 2 { "" } else { "&state=live" };
            let answer = questions.look_up(&format!("nat_port={port}{state}"));
            self.complete += u32::from(answer.complete);
            self.count_live(truth, &answer.live_matches().collect::<Vec<_>>());
            let found: HashSet<_> = answer.live().into_iter().collect();
            self.count_missing(truth.on_port(port).difference(&found).count(), answer.complete);
        } else {
            let (host, complete) = questions.auth(public, Some(server));
            self.complete += u32::from(complete);
            if let Some(open) = truth.live.get(&(public, server)).filter(|_| server.port() == 443) {
                // It may name a closed mapping only if it does not know of a live one.
                match host {
                    Some(host) if host != open.src => self.wrong += 1,
                    Some(_) => {}
                    None => {
                        self.absent += 1;
                        self.count_missing(1, complete);
                    }
                }
            }
        }
    }
}

/// What the asking and the disturbing thread tell each other.
#[derive(Default)]
struct Pace {
    answers: AtomicU32,
    rounds: AtomicU32,
    /// The disturbing thread waits for the daemon, so the other one asks only now and then.
    is_waiting: AtomicBool,
    end: AtomicBool,
}

/// Waits until `number` more answers have been given, so that none of the changes goes unnoticed by all of them.
fn wait_for_answers(pace: &Pace, number: usize) {
    let before = pace.answers.load(Ordering::Relaxed);
    let until = before + u32::try_from(number).expect("it is small");
    while pace.answers.load(Ordering::Relaxed) < until && !pace.end.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_micros(200));
    }
}

/// Changes something that makes the daemon doubt, again and again. Returns how often it did what.
fn disturb(lab: &Lab, daemon: &Daemon, pace: &Pace) -> BTreeMap<&'static str, u32> {
    let mut random = Random(2);
    let mut questions = Questions::to(lab, daemon);
    let mut done = BTreeMap::<_, u32>::new();
    let mut is_narrow = false;
    while !pace.end.load(Ordering::Relaxed) {
        pace.is_waiting.store(true, Ordering::Relaxed);
        let what = match random.below(8) {
            0 => {
                lab.gateway().nft(&mask(
                    "ip saddr 192.168.7.2 ct event set new\nip saddr 192.168.7.3 ct event set 0x0",
                ));
                "masks"
            }
            1 => {
                lab.gateway().nft(&mask("ip daddr 198.51.100.2 ct event set destroy"));
                "other masks"
            }
            2 => {
                set_events(lab, "0");
                "events off"
            }
            3 => {
                is_narrow = !is_narrow;
                daemon.rewrite_config(&narrow(is_narrow));
                daemon.signal(Signal::SIGHUP);
                "reloads"
            }
            4 => {
                if resize_there_and_back() {
                    "resizes"
                } else {
                    "no resizes"
                }
            }
            _ => {
                lab.gateway().nft(NO_MASK);
                set_events(lab, if random.below(2) == 0 { "1" } else { "2" });
                // With nothing in the way the table becomes complete.
                let begun = Instant::now();
                while !questions.is_ready() && !pace.end.load(Ordering::Relaxed) {
                    assert!(begun.elapsed() < RESYNC, "the table does not become complete");
                    thread::sleep(Duration::from_millis(2));
                }
                "all told again"
            }
        };
        *done.entry(what).or_default() += 1;
        pace.is_waiting.store(false, Ordering::Relaxed);
        pace.rounds.fetch_add(1, Ordering::Relaxed);
        wait_for_answers(pace, 10 + random.below(100));
    }
    done
}

#[test]
fn no_answer_is_wrong_and_every_doubt_is_said() {
    let number = amount(10_000, 300_000);
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().clients(HOSTS).servers(2).ruleset(RULES).build();
    for name in ["udp_timeout", "udp_timeout_stream"] {
        lab.gateway().sysctl(&format!("net.netfilter.nf_conntrack_{name}"), "600");
    }
    let daemon = DAEMON.start(lab.gateway(), narrow(false));
    let mut questions = Questions::to(&lab, &daemon);
    questions.wait_ready();
    let mut truth = Truth::new(&lab);
    let mut random = Random(1);
    let mut worth = Worth::default();
    let pace = Pace::default();
    let begun = Instant::now();
    let done = thread::scope(|scope| {
        let disturber = scope.spawn(|| disturb(&lab, &daemon, &pace));
        let stop = StopOnDrop(&pace.end);
        while !disturber.is_finished()
            && (worth.answers < number || pace.rounds.load(Ordering::Relaxed) < number / ANSWERS_A_ROUND)
        {
            if random.below(3) == 0 {
                truth.change(&mut random);
            }
            worth.ask(&truth, &mut questions, &mut random);
            pace.answers.store(worth.answers, Ordering::Relaxed);
            if pace.is_waiting.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        drop(stop);
        disturber.join().expect("the disturber finished")
    });
    println!("{worth:?} in {:.1?}; {} flows; {done:?}", begun.elapsed(), truth.begun);
    assert!(worth.answers >= number && worth.complete > number / 20, "hardly ever complete");
    assert_eq!((worth.wrong, worth.dead, worth.unsaid, worth.absent), (0, 0, 0, 0));
}
