//! Entries that have expired but that the kernel has not collected yet. It hides them from its own listing.

use std::thread;
use std::time::{Duration, SystemTime};

use lab::{Daemon, Lab};

use super::alone::alone;
use super::binary::DAEMON;
use super::scene::{PORT, Questions, UdpFlow, config, exchange};

const FLOWS: u16 = 30;

/// The kernel's shortest possible time, and what it may take longer: it counts ticks.
const TIMEOUT: Duration = Duration::from_secs(1);
const TICKS: Duration = Duration::from_millis(100);

fn lab(clients: u8) -> Lab {
    let lab = Lab::builder().clients(clients).servers(2).build();
    for name in
        ["udp_timeout", "udp_timeout_stream", "tcp_timeout_close", "tcp_timeout_time_wait", "timestamp"]
    {
        lab.gateway().sysctl(&format!("net.netfilter.nf_conntrack_{name}"), "1");
    }
    lab
}

/// The kernel's entries, with the expired ones that it has not collected yet, which no listing shows.
fn entries(lab: &Lab) -> String {
    lab.gateway().read_sysctl("net.netfilter.nf_conntrack_count").expect("connection tracking is on")
}

fn start(lab: &Lab) -> Daemon {
    let daemon = DAEMON.start(lab.gateway(), config("del_delay = 60\n"));
    daemon.wait_for_line("equals the kernel's");
    daemon
}

#[test]
fn an_expired_udp_flow_is_not_live_and_closed_when_it_expired() {
    /// How late the last question is: later than the time may differ.
    const LATE: Duration = Duration::from_secs(5);
    const TOLERANCE: Duration = Duration::from_secs(2);
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = lab(1);
    let server = lab.udp_server(lab.server_at(PORT));
    let daemon = start(&lab);
    let mut questions = Questions::to(&lab, &daemon);
    let flows = UdpFlow::begin_all(&lab, 0, 40_001..40_001 + FLOWS, &server);
    let expiry = SystemTime::now() + TIMEOUT;
    thread::sleep(TIMEOUT + TICKS);
    let before = entries(&lab);
    // A third of them is asked about at once by name, a third by port. The last third waits.
    let third = usize::from(FLOWS / 3);
    let by_port = |flow: &UdpFlow| format!("nat_port={}", flow.public.port());
    let live =
        |questions: &mut Questions, fields: &str| usize::from(!questions.look_up(fields).live().is_empty());
    let named: usize = flows[..third].iter().map(|flow| live(&mut questions, &flow.named())).sum();
    let ported: usize = flows[third..2 * third].iter().map(|flow| live(&mut questions, &by_port(flow))).sum();
    thread::sleep(LATE);
    let later = entries(&lab);
    let late: usize = flows[2 * third..].iter().map(|flow| live(&mut questions, &by_port(flow))).sum();
    // How far `closed` is from the expiry. `None` if it is missing.
    let off: Vec<Option<Duration>> = flows
        .iter()
        .map(|flow| {
            let answer = questions.look_up(&by_port(flow));
            let closed = answer.matches.first().and_then(|one| one.closed.as_deref()).map(read_time)?;
            Some(closed.duration_since(expiry).unwrap_or_else(|early| early.duration()))
        })
        .collect();
    let most = off.iter().flatten().max();
    let wrong = off.iter().filter(|off| off.is_none_or(|off| off > TOLERANCE)).count();
    println!(
        "expired UDP flows, of {third} each called live: named {named}, by port {ported}, {LATE:.0?} later {late}; `closed` is off by \
         up to {most:.1?}, missing or off by more than {TOLERANCE:.0?} for {wrong} of {FLOWS}; the kernel had {before} entries, then {later}"
    );
    assert_eq!((named, ported, late, wrong), (0, 0, 0, 0));
}

/// A time of an answer: `2026-11-21T09:12:30.385Z`.
fn read_time(text: &str) -> SystemTime {
    let time: jiff::Timestamp = text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"));
    time.into()
}

#[test]
fn an_expired_tcp_connection_is_not_live() {
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = lab(1);
    let server = lab.listen(lab.server_at(PORT));
    let daemon = start(&lab);
    let mut questions = Questions::to(&lab, &daemon);
    let mut called_live = [0; 2];
    // Once reset right after its beginning, once when its state was told long ago.
    for (round, age) in [Duration::ZERO, Duration::from_secs(10)].into_iter().enumerate() {
        let first = 40_001 + 100 * u16::try_from(round).expect("it is small");
        let connections: Vec<_> =
            (first..first + FLOWS).map(|port| lab.connect_to(&server, lab.client_at(0, port))).collect();
        thread::sleep(age);
        let public: Vec<_> = connections.iter().map(|connection| connection.peer).collect();
        connections.into_iter().for_each(lab::traffic::Connection::reset);
        thread::sleep(TIMEOUT + TICKS);
        for peer in &public {
            let answer = questions.look_up(&format!("protocol=tcp&nat_port={}", peer.port()));
            called_live[round] += u32::from(!answer.live().is_empty());
        }
    }
    let [young, old] = called_live;
    println!("expired TCP connections called live: {young} of {FLOWS} young ones, {old} of {FLOWS} old ones");
    assert_eq!(called_live, [0, 0]);
}

#[test]
fn an_expired_mapping_does_not_beat_one_that_lives() {
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = lab(2);
    let [first, second] = [0, 1].map(|number| lab.udp_server(lab.server_number(number, PORT)));
    let daemon = start(&lab);
    let mut questions = Questions::to(&lab, &daemon);
    // The one that lives is the older one, kept alive by its packets.
    let living = UdpFlow::begin_all(&lab, 0, 40_001..40_001 + FLOWS, &first);
    let expired = UdpFlow::begin_all(&lab, 1, 40_001..40_001 + FLOWS, &second);
    for (one, other) in living.iter().zip(&expired) {
        assert_eq!(one.public, other.public, "both have the same public port");
    }
    let end = std::time::Instant::now() + TIMEOUT + TICKS;
    let keep = || {
        for flow in &living {
            exchange(&flow.socket, &first);
        }
    };
    while std::time::Instant::now() < end {
        keep();
        thread::sleep(TIMEOUT / 10);
    }
    let (mut by_port, mut legacy, mut auth) = (0, 0, 0);
    for (number, flow) in living.iter().enumerate() {
        assert_eq!(exchange(&flow.socket, &first), flow.public, "it lives");
        // The first question would close the expired one, so each flow gets one.
        match number % 3 {
            0 => {
                let answer = questions.look_up(&format!("nat_port={}", flow.public.port()));
                by_port += u32::from(answer.live() != [flow.src]);
            }
            1 => legacy += u32::from(questions.legacy(flow.public.port()) != Ok(flow.src)),
            _ => auth += u32::from(questions.auth(flow.public, None).0 != Some(flow.src)),
        }
    }
    println!(
        "an expired mapping on the public port of a living one, of {} each wrong: by port {by_port}, legacy {legacy}, auth {auth}",
        FLOWS / 3
    );
    assert_eq!((by_port, legacy, auth), (0, 0, 0));
}
