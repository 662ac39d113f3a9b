//! Many mappings that share a port, and many that come and go.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use lab::flows::{self, create, source_nat};
use lab::http::Client;
use lab::wait_within;
use nfct::{Protocol, Query, Tuple};
use nix::sys::signal::Signal;

use super::observer::observe;
use super::scene::{LONG, Scene, amount, config, crowded, numbered};

/// A lookup on a crowded port may take this many times as long as one elsewhere.
const FACTOR: u32 = 8;
/// The public end that the flows of a crowd share.
const CROWDED: ([u8; 4], u16) = ([100, 64, 9, 9], 7000);

/// How long this many lookups take, the shortest of some attempts.
fn time(mut lookup: impl FnMut()) -> Duration {
    let attempt = |_| {
        let begun = Instant::now();
        (0..100).for_each(|_| lookup());
        begun.elapsed()
    };
    (0..5).map(attempt).min().expect("some attempts")
}

/// UDP flow number `number` of one inside host from one port.
fn udp(number: u32) -> (Tuple, Tuple) {
    let server = Ipv4Addr::from(u32::from(Ipv4Addr::new(203, 0, 0, 0)) + number);
    let inside = SocketAddr::from(([10, 128, 0, 1], 7000));
    source_nat(Protocol::Udp, inside, (server, 443).into(), CROWDED.into())
}

fn remove(query: &mut Query, flows: impl Fn(u32) -> (Tuple, Tuple), numbers: std::ops::Range<u32>) {
    for number in numbers {
        assert!(flows::remove(query, &flows(number).0));
    }
}

/// The headers of a web server for a client of these ends.
fn headers(public: SocketAddr, server: SocketAddr) -> Vec<(&'static str, String)> {
    vec![
        ("X-Real-IP", public.ip().to_string()),
        ("X-Real-Port", public.port().to_string()),
        ("X-Dst-IP", server.ip().to_string()),
        ("X-Dst-Port", server.port().to_string()),
    ]
}

fn auth(client: &mut Client, headers: &[(&'static str, String)], src_ip: &str) {
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let answer = client.request("GET", "/v1/auth", &headers, b"");
    assert_eq!(answer.header("x-nat-src-ip"), Some(src_ip));
}

#[test]
fn thousands_of_flows_from_one_port_do_not_slow_those_who_share_it() {
    let Some(scene) = Scene::new("nat_port") else { return };
    let flows = amount(6000, 60_000);
    let server = SocketAddr::from(([203, 0, 0, 5], 443));
    let mut query = scene.lab.gateway().enter(Query::open).expect("ctnetlink is available");
    // Another host's TCP connection on the port, and one on another port.
    let inside = |port| SocketAddr::from(([10, 7, 7, 7], port));
    let elsewhere = SocketAddr::from(([100, 64, 9, 8], 7001));
    create(&mut query, &source_nat(Protocol::Tcp, inside(5000), server, CROWDED.into()));
    create(&mut query, &source_nat(Protocol::Tcp, inside(5001), server, elsewhere));
    scene.fill(udp, 0..flows);
    let lost = scene.losses();
    let path = "/v1/lookup?nat_ip=100.64.9.9&nat_port=7000&dst_ip=203.0.0.5&dst_port=443&protocol=tcp";
    let mut client = scene.client(1);
    observe(&scene, path, "10.7.7.7", || {
        let usual = time(|| auth(&mut client, &headers(elsewhere, server), "10.7.7.7"));
        let shared = time(|| auth(&mut client, &headers(CROWDED.into(), server), "10.7.7.7"));
        println!("100 × /v1/auth on a port with {flows} flows: {shared:?}, elsewhere {usual:?}");
        assert!(shared < usual * FACTOR);
    });
    scene.check_losses(lost);
}

#[test]
fn closed_mappings_of_a_port_do_not_slow_the_lookup_of_the_live_one() {
    let Some(scene) = Scene::with(&config("nat_port", "del_delay = 600\n")) else { return };
    let flows = amount(20_000, 200_000);
    let mut query = scene.lab.gateway().enter(Query::open).expect("ctnetlink is available");
    create(&mut query, &numbered(1));
    create(&mut query, &crowded(0));
    scene.fill(crowded, 1..flows);
    remove(&mut query, crowded, 1..flows);
    let lost = scene.losses();
    let mut client = scene.client(1);
    observe(&scene, "/v1/lookup?nat_port=7000&state=live", "10.128.0.0", || {
        let mut lookup = |path: &str, src_ip: &str| {
            let answer = client.get(path);
            assert!(answer.status == 200 && answer.text().contains(src_ip), "{}", answer.text());
        };
        let usual = time(|| lookup("/nat_port/10001", "10.0.0.1"));
        let shared = time(|| lookup("/nat_port/7000", "10.128.0.0"));
        println!(
            "100 legacy lookups of a port with {flows} closed mappings: {shared:?}, elsewhere {usual:?}"
        );
        assert!(shared < usual * FACTOR);
    });
    scene.check_losses(lost);
}

#[test]
fn mappings_that_come_and_go_use_no_more_memory_than_max_closed_allows() {
    const PART: u32 = 10_000;
    let Some(scene) = Scene::with(&config("nat_port", "del_delay = 600\nmax_closed = 20000\n")) else {
        return;
    };
    let parts = amount(30, 400);
    let mut query = scene.lab.gateway().enter(Query::open).expect("ctnetlink is available");
    create(&mut query, &numbered(7));
    let (before, lost) = (scene.resident(), scene.losses());
    let (most, ()) = observe(&scene, "/v1/lookup?nat_ip=100.64.8.0&nat_port=10007", "10.0.0.7", || {
        for part in 1..=parts {
            let numbers = part * PART..(part + 1) * PART;
            scene.fill(numbered, numbers.clone());
            remove(&mut query, numbered, numbers);
            wait_within(LONG, "the oldest are forgotten", || {
                scene.metric("pynatconnd_mappings{state=\"closed\"}") <= 20_000.0
            });
        }
    });
    let forgotten = scene.metric("pynatconnd_mappings_forgotten_total");
    assert!(forgotten >= f64::from((parts - 3) * PART), "{forgotten}");
    assert!(most < before + (24 << 20), "{} MiB more than before", (most - before) >> 20);
    scene.check_memory(before, most, 0);
    scene.check_losses(lost);
}

#[test]
fn the_memory_of_many_mappings_is_given_back_when_they_are_gone() {
    let Some(scene) = Scene::with(&config("nat_port", "del_delay = 600\n")) else { return };
    let flows = amount(300_000, 1_000_000);
    let mut query = scene.lab.gateway().enter(Query::open).expect("ctnetlink is available");
    let (before, lost) = (scene.resident(), scene.losses());
    scene.fill(numbered, 0..flows);
    remove(&mut query, numbered, 7..flows);
    remove(&mut query, numbered, 0..6);
    let grown = scene.resident() - before;
    assert!(grown > u64::from(flows) * 100, "{grown} bytes for {flows} closed mappings");
    let (most, ()) = observe(&scene, "/v1/lookup?nat_ip=100.64.8.0&nat_port=10006", "10.0.0.6", || {
        scene.daemon.rewrite_config(&config("nat_port", "del_delay = 1\n"));
        scene.daemon.signal(Signal::SIGHUP);
        wait_within(LONG, "the closed ones are gone", || {
            scene.metric("pynatconnd_mappings{state=\"closed\"}") == 0.0
        });
    });
    scene.check_memory(before, most.min(before), 0);
    scene.check_losses(lost);
}
