//! Connections that never send an event: they began while the kernel told nobody. Each way into the table leaves
//! them doubtful, and every question about them asks the kernel.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use lab::http::get;
use lab::{Daemon, Lab, flows, wait_within};
use nfct::{Protocol, Query};
use nix::sys::signal::Signal;

use super::alone::alone;
use super::binary::DAEMON;
use super::scene::{PORT, Questions, RESYNC, Scene, UdpFlow, config, ctnetlink, set_events};

const FLOWS: u16 = 40;

/// Flows that never send an event.
fn silent(lab: &Lab, server: &UdpSocket) -> Vec<UdpFlow> {
    set_events(lab, "0");
    UdpFlow::begin_all(lab, 0, 40_001..40_001 + FLOWS, server)
}

/// Deletes the flows, which are in the table, and asks about each in one of several ways.
fn check_that_none_is_live_afterwards(what: &str, lab: &Lab, daemon: &Daemon, flows: &[UdpFlow]) {
    let mut questions = Questions::to(lab, daemon);
    let mut query = ctnetlink(lab);
    flows.iter().for_each(|flow| flow.delete(&mut query));
    let mut wrong = [0; 5];
    for (number, flow) in flows.iter().enumerate() {
        let by_port = format!("nat_port={}", flow.public.port());
        let by_host = format!("src_ip={}&src_port={}&state=live", flow.src.ip(), flow.src.port());
        let kind = number % 5;
        wrong[kind] += u32::from(match kind {
            0 => !questions.look_up(&flow.named()).live().is_empty(),
            1 => !questions.look_up(&by_port).live().is_empty(),
            2 => !questions.look_up(&by_host).live().is_empty(),
            3 => !questions.live_mappings(&by_port).is_empty(),
            // With a `del_delay` of 0, these routes say nothing of what has ended.
            _ => questions.legacy(flow.public.port()).is_ok(),
        });
    }
    let [named, by_port, by_host, listed, legacy] = wrong;
    println!(
        "{what}, then ended: of {} each still live: named {named}, by port {by_port}, by inside host {by_host}, \
         listed {listed}, legacy {legacy}",
        FLOWS / 5
    );
    assert_eq!(wrong, [0; 5], "{what}");
}

#[test]
fn flows_that_enter_by_a_wider_filter_are_verified() {
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().build();
    let server = lab.udp_server(lab.server_at(444));
    let flows = silent(&lab, &server);
    set_events(&lab, "2");
    let config = |filter: &str| {
        format!("[filter]\nnat_only = yes\n{filter}[data]\nkey_name = nat_port\ndel_delay = 0\n")
    };
    let daemon = DAEMON.start(lab.gateway(), config("dst_port = 443\n"));
    let mut questions = Questions::to(&lab, &daemon);
    questions.wait_ready();
    assert!(questions.live_mappings("").is_empty());
    daemon.rewrite_config(&config(""));
    daemon.signal(Signal::SIGHUP);
    wait_within(RESYNC, "a dump has found all", || questions.live_mappings("").len() == flows.len());
    questions.wait_ready();
    check_that_none_is_live_afterwards("found after a reload to a wider filter", &lab, &daemon, &flows);
}

/// `back` is when the events are switched on again: before or after a dump finds the flows.
fn check_flows_that_began_while_events_were_off(what: &str, back: fn(&Lab, &dyn Fn())) {
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let Scene { lab, server, daemon } = Scene::build(1, config("del_delay = 0\nsweep_interval = 5\n"));
    let mut questions = Questions::to(&lab, &daemon);
    questions.wait_ready();
    let flows = silent(&lab, &server);
    back(&lab, &|| {
        let listed = || Questions::to(&lab, &daemon).live_mappings("").len();
        wait_within(RESYNC, "a dump has found all", || listed() == flows.len());
    });
    questions.wait_ready();
    check_that_none_is_live_afterwards(what, &lab, &daemon, &flows);
}

#[test]
fn flows_that_a_dump_found_while_events_were_off_are_verified() {
    check_flows_that_began_while_events_were_off("found while events were off", |lab, wait_for_the_dump| {
        wait_for_the_dump();
        set_events(lab, "2");
    });
}

#[test]
fn flows_that_began_while_events_were_off_are_verified_when_a_later_dump_finds_them() {
    check_flows_that_began_while_events_were_off("begun while events were off", |lab, wait_for_the_dump| {
        set_events(lab, "2");
        wait_for_the_dump();
    });
}

/// More mappings of one public port than the daemon reads under one hold of its lock.
struct Crowd {
    query: Query,
    public: SocketAddr,
}

impl Crowd {
    const NUMBER: u16 = 5000;

    fn create(lab: &Lab) -> Self {
        let mut crowd = Self { query: ctnetlink(lab), public: (lab.public(0), 40_001).into() };
        set_events(lab, "0");
        for number in 0..Self::NUMBER {
            let (src, server) = (Self::src(number), Self::server(number));
            flows::create(&mut crowd.query, &flows::source_nat(Protocol::Tcp, src, server, crowd.public));
        }
        set_events(lab, "2");
        crowd
    }

    /// The inside host and port of one of them. The port tells its number.
    fn src(number: u16) -> SocketAddr {
        (Ipv4Addr::new(10, 0, 0, 2), 10_000 + number).into()
    }

    fn server(number: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        (Ipv4Addr::new(198, 18, high, low), PORT).into()
    }

    /// Deletes the one that an answer named. Returns whether it existed.
    fn delete(&mut self, src: SocketAddr) -> bool {
        let server = Self::server(src.port() - 10_000);
        flows::remove(&mut self.query, &flows::tuple(Protocol::Tcp, src, server))
    }
}

#[test]
fn a_key_with_thousands_of_mappings_is_verified() {
    const ROUNDS: usize = 30;
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().build();
    let mut crowd = Crowd::create(&lab);
    let daemon = DAEMON.start(lab.gateway(), config("del_delay = 0\n"));
    let mut questions = Questions::to(&lab, &daemon);
    questions.wait_ready();
    let mut deleted = HashSet::new();
    let (mut legacy, mut auth, mut v1, mut listed) = (0, 0, 0, 0);
    let public = crowd.public;
    // Deletes what the last answer named, so that a table that trusts itself names it again.
    for _ in 0..ROUNDS {
        let named = questions.legacy(public.port()).expect("thousands are live");
        legacy += u32::from(deleted.contains(&named));
        if deleted.insert(named) {
            assert!(crowd.delete(named), "{named} was deleted by nobody");
        }
        let named = questions.auth(public, None).0.expect("thousands are live");
        auth += u32::from(deleted.contains(&named));
        if deleted.insert(named) {
            assert!(crowd.delete(named), "{named} was deleted by nobody");
        }
    }
    for _ in 0..3 {
        let live = questions.look_up(&format!("nat_port={}&state=live", public.port())).live();
        assert!(live.len() > 500, "{} of thousands", live.len());
        v1 += live.iter().filter(|src| deleted.contains(src)).count();
        for src in live.into_iter().take(50).filter(|src| deleted.insert(*src)).collect::<Vec<_>>() {
            assert!(crowd.delete(src), "{src} was deleted by nobody");
        }
    }
    let live = questions.live_mappings(&format!("nat_port={}", public.port()));
    listed += live.iter().filter(|one| deleted.contains(&one.inside())).count();
    let number = usize::from(Crowd::NUMBER);
    println!(
        "{number} mappings of one port, {} deleted without an event: answered as live by legacy {legacy} and auth {auth} of \
         {ROUNDS}, by /v1/lookup {v1}; listed {listed}",
        deleted.len()
    );
    assert_eq!((legacy, auth, v1, listed), (0, 0, 0, 0));
    assert_eq!(live.len(), number - deleted.len(), "and all others are listed");
}

#[test]
fn debug_shows_nothing_that_has_ended() {
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().build();
    let server = lab.udp_server(lab.server_at(PORT));
    let flows = silent(&lab, &server);
    set_events(&lab, "2");
    let daemon = DAEMON.start(lab.gateway(), config("del_delay = 0\n"));
    let mut questions = Questions::to(&lab, &daemon);
    questions.wait_ready();
    let shown = || {
        let page = get(lab.gateway(), daemon.local_addr(), "/debug");
        assert_eq!(page.status, 200, "{}", page.text());
        let table = page.json();
        flows.iter().filter(|flow| table.get(flow.public.port().to_string()).is_some()).count()
    };
    assert_eq!(shown(), flows.len());
    let mut query = ctnetlink(&lab);
    flows[..30].iter().for_each(|flow| flow.delete(&mut query));
    let after = shown();
    println!("/debug shows {after} of {} flows after 30 of them ended without an event", flows.len());
    assert_eq!(after, flows.len() - 30);
}
