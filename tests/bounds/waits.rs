//! Lookups that wait: for a match, and for the table to be complete.

use std::thread;
use std::time::{Duration, Instant};

use lab::flows::{create, remove, source_nat};
use lab::wait_within;
use nfct::{Protocol, Query, Tuple};

use super::observer::observe;
use super::scene::{LONG, Scene, amount, numbered, status_and_json, statuses};

const LOOKUP: &str = "/v1/lookup?nat_ip=100.64.8.0&nat_port=10007";

/// A short connection to another server than the others.
fn passing(number: u32) -> (Tuple, Tuple) {
    let inside = std::net::Ipv4Addr::from(0x0a40_0000 + number);
    let public = ([100, 64, 10, (number >> 14) as u8], 20_000 + (number % 16_384) as u16).into();
    source_nat(Protocol::Tcp, (inside, 6000).into(), ([198, 51, 100, 2], 443).into(), public)
}

/// The daemon's processor time.
fn processor_time(scene: &Scene) -> Duration {
    Duration::from_secs_f64(scene.metric("process_cpu_seconds_total"))
}

/// Opens and closes connections, 2,000 a second if the machine can; returns the daemon's processor time meanwhile.
fn pass(scene: &Scene, flows: u32) -> Duration {
    let before = processor_time(scene);
    let begun = Instant::now();
    let mut query = scene.lab.gateway().enter(Query::open).expect("ctnetlink is available");
    for number in 0..flows {
        let tuples = passing(number);
        create(&mut query, &tuples);
        remove(&mut query, &tuples.0);
        let due = Duration::from_micros(500) * number;
        thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    processor_time(scene) - before
}

#[test]
fn a_lookup_that_waits_without_an_index_costs_only_the_changes_that_match() {
    const WAITERS: u8 = 100;
    let Some(scene) = Scene::new("nat_port") else { return };
    scene.fill(numbered, 0..amount(100_000, 1_000_000));
    let flows = amount(4_000, 20_000);
    let lost = scene.losses();
    let alone = pass(&scene, flows);
    let ask = |number: u8| format!("/v1/lookup?dst_ip=203.0.113.{number}&state=live&wait=60000");
    let (_, (waiting, woken)) = observe(&scene, LOOKUP, "10.0.0.7", || {
        thread::scope(|scope| {
            let waiters: Vec<_> = (0..WAITERS)
                .map(|number| {
                    let scene = &scene;
                    scope.spawn(move || {
                        let mut client = scene.client(1 + number % 4);
                        client.stream().set_read_timeout(Some(2 * LONG)).unwrap();
                        status_and_json(&client.get(&ask(number)))
                    })
                })
                .collect();
            let all_wait = || scene.metric("pynatconnd_http_places{kind=\"wait\"}") == f64::from(WAITERS);
            wait_within(LONG, "all wait", all_wait);
            // Their first lookups scan the table.
            let none_scans = || scene.metric("pynatconnd_http_places{kind=\"scan\"}") == 0.0;
            wait_within(LONG, "all have looked up", none_scans);
            let waiting = pass(&scene, flows);
            // Each gets its connection as soon as there is one.
            let mut query = scene.lab.gateway().enter(Query::open).expect("ctnetlink is available");
            for number in 0..WAITERS {
                let (src, server) = (([10, 99, 0, number], 7000).into(), ([203, 0, 113, number], 443).into());
                let public = ([100, 64, 11, 1], 30_000 + u16::from(number)).into();
                create(&mut query, &source_nat(Protocol::Udp, src, server, public));
            }
            let woken: Vec<_> = waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
            (waiting, woken)
        })
    });
    for (number, (status, answer)) in woken.iter().enumerate() {
        assert_eq!(*status, 200, "{answer}");
        assert_eq!(answer["matches"].as_array().unwrap().len(), 1, "{answer}");
        assert_eq!(answer["matches"][0]["src_ip"], format!("10.99.0.{number}"));
    }
    println!(
        "{flows} connections: {alone:?} of processor time alone, {waiting:?} with {WAITERS} lookups that wait"
    );
    assert!(waiting < 4 * alone + Duration::from_secs(1), "{alone:?} {waiting:?}");
    scene.check_losses(lost);
}

#[test]
fn a_lookup_that_waits_without_an_index_finds_nothing_at_its_end() {
    let Some(scene) = Scene::new("nat_port") else { return };
    let begun = Instant::now();
    let answer = scene.client(1).get("/v1/lookup?dst_ip=203.0.113.1&protocol=tcp&state=live&wait=700");
    assert!(begun.elapsed() >= Duration::from_millis(700));
    let (status, answer) = status_and_json(&answer);
    assert_eq!(
        (status, &answer["matches"], &answer["complete"]),
        (404, &serde_json::json!([]), &true.into())
    );
}

#[test]
fn lookups_that_wait_for_the_table_are_limited_and_others_go_on() {
    let Some(scene) = Scene::new("nat_port") else { return };
    scene.fill(numbered, 0..1000);
    // The table is not complete until the end.
    scene.lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "0");
    wait_within(LONG, "the table is incomplete", || scene.metric("pynatconnd_table_complete") == 0.0);
    let questions = amount(300, 2000);
    let before = scene.resident();
    let waiting =
        scene.silent(1, questions, "GET /nat_port/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    // What is known is still answered, from another client and from the same one.
    for number in [1, 2] {
        assert_eq!(scene.client(number).get("/nat_port/10007").status, 200);
        assert_eq!(scene.client(number).get("/healthz").status, 200);
    }
    let answered = statuses(&waiting, LONG);
    assert!(answered.iter().flatten().all(|status| *status == 503), "{answered:?}");
    let refused = scene.metric("pynatconnd_http_places_refused_total{kind=\"incomplete\"}");
    println!("{questions} questions: {refused} answered at once");
    assert!(refused >= (questions - 96) as f64 / 2.0, "{refused}");
    scene.check_memory(before, scene.resident(), 0);
}
