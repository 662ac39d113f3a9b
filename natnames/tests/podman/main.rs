//! Follows the containers of a real Podman, and compares what is known of them with what Podman says.

#![allow(unreachable_pub, dead_code, reason = "the daemon's tests have the engine too")]

mod engine;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use engine::{Podman, succeeded};
use natnames::source::containers::Containers;
use natnames::{Fact, Limits, Mac, Millis, Names};

fn follow(socket: &Path) -> Names {
    let limits = Limits { facts: 10_000, keep: 3_600_000 };
    let names = Names::start(vec![Box::new(Containers::podman(socket.to_owned()))], limits).unwrap();
    wait_until("the list", || names.status()[0].is_followed.then_some(()));
    names
}

fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn now() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis() as Millis
}

/// Who had an address.
struct Known {
    name: Option<String>,
    mac: Option<Mac>,
    fact: Fact,
    is_certain: bool,
}

fn found(names: &Names, address: IpAddr, at: Millis) -> Option<Known> {
    let book = names.book();
    let found = book.at(address, at).found?;
    Some(Known {
        name: found.name.map(str::to_owned),
        mac: found.mac,
        fact: found.fact.clone(),
        is_certain: found.is_certain,
    })
}

fn name(names: &Names, address: IpAddr, at: Millis) -> Option<String> {
    found(names, address, at).and_then(|found| found.name)
}

fn wait_for_name(names: &Names, address: IpAddr, expected: Option<&str>) -> Option<Known> {
    wait_until(&format!("{address} is {expected:?}"), || {
        let found = found(names, address, now());
        (found.as_ref().and_then(|found| found.name.as_deref()) == expected).then_some(found)
    })
}

/// What is known of a container is what Podman says of it.
fn compare(podman: &Podman, names: &Names, container: &str, network: &str) -> Vec<IpAddr> {
    let inspected = podman.inspect(container);
    let (addresses, mac) = inspected.addresses(network);
    for address in &addresses {
        let found = wait_for_name(names, *address, Some(container)).unwrap();
        let started = inspected.time("StartedAt");
        // Its first packets can be older than the moment at which it is said to have started.
        assert!(found.fact.began.earliest < started, "{container} {address}");
        assert!(found.is_certain);
        assert!(found.fact.began.latest > started);
        assert_eq!(found.mac.unwrap().to_string(), mac);
        assert_eq!(found.fact.host.labels["image"], "localhost/natnames-test:latest");
        assert_eq!(found.fact.host.labels["container"], inspected.0["Id"].as_str().unwrap()[..12]);
        assert_eq!(name(names, *address, found.fact.began.earliest - 1), None);
    }
    addresses
}

#[test]
fn what_is_known_of_containers_is_what_podman_says() {
    let podman = match Podman::start() {
        Ok(podman) => podman,
        Err(reason) => return println!("skipped: {reason}"),
    };
    podman.must(&[
        "network",
        "create",
        "--subnet",
        "10.213.7.0/24",
        "--ipv6",
        "--subnet",
        "fd00:213:7::/64",
        "n1",
    ]);
    podman.must(&["network", "create", "--subnet", "10.213.8.0/24", "n2"]);
    podman.start_container("one", &["--network", "n1", "--label", "tier=front"]);
    let names = follow(&podman.socket());

    // What ran before, and what is started later.
    let one = compare(&podman, &names, "one", "n1");
    assert_eq!(one.len(), 2);
    assert_eq!(found(&names, one[0], now()).unwrap().fact.host.labels["tier"], "front");
    podman.start_container("two", &["--network", "n1"]);
    let two = compare(&podman, &names, "two", "n1");
    let started = podman.inspect("two").time("StartedAt");
    assert_eq!(found(&names, two[0], now()).unwrap().fact.began.latest, started + 1);

    // Another name, and a signal that ends nothing.
    let before = now();
    podman.must(&["rename", "two", "deux"]);
    podman.must(&["kill", "-s", "HUP", "deux"]);
    for address in &two {
        wait_for_name(&names, *address, Some("deux"));
        assert_eq!(name(&names, *address, before - 1).as_deref(), Some("two"));
    }

    // Another network, for some time.
    for _ in 0..5 {
        let before = now();
        podman.must(&["network", "connect", "n2", "deux"]);
        let (addresses, _) = podman.inspect("deux").addresses("n2");
        let connected = wait_for_name(&names, addresses[0], Some("deux")).unwrap();
        assert!((before..=now() + 1).contains(&connected.fact.began.latest));
        podman.must(&["network", "disconnect", "n2", "deux"]);
        wait_for_name(&names, addresses[0], None);
        assert_eq!(name(&names, addresses[0], connected.fact.began.latest).as_deref(), Some("deux"));
        assert_eq!(name(&names, two[0], now()).as_deref(), Some("deux"));
    }

    // A restart is another time. It can have other addresses.
    let first_start = podman.inspect("deux").time("StartedAt");
    podman.must(&["stop", "-t", "0", "deux"]);
    let finished = podman.inspect("deux").time("FinishedAt");
    two.iter().for_each(|address| drop(wait_for_name(&names, *address, None)));
    podman.must(&["start", "deux"]);
    let started = podman.inspect("deux").time("StartedAt");
    assert!(finished < started);
    for address in compare(&podman, &names, "deux", "n1") {
        assert_eq!(found(&names, address, started + 1).unwrap().fact.began.latest, started + 1);
    }
    assert_eq!(name(&names, two[0], first_start + 1).as_deref(), Some("two"));
    assert_eq!(name(&names, two[0], finished - 1).as_deref(), Some("deux"));

    // Short lives leave nobody.
    for _ in 0..5 {
        succeeded(&podman.run_container(&["--rm", "--network", "n1"], &["true"]));
    }
    podman.start_container("three", &["--network", "n1"]);
    let three = compare(&podman, &names, "three", "n1");
    for last in 2..=250_u8 {
        let address = IpAddr::from([10, 213, 7, last]);
        if let Some(name) = name(&names, address, now()) {
            let is_held = one.contains(&address) || three.contains(&address) || name == "deux";
            assert!(is_held, "{address} {name}");
        }
    }

    // Removal, and the end of the service.
    let last = now();
    podman.must(&["rm", "-f", "-t", "0", "one", "deux", "three"]);
    for address in one.iter().chain(&three) {
        wait_for_name(&names, *address, None);
    }
    assert_eq!(name(&names, one[1], last).as_deref(), Some("one"));
    drop(podman);
    wait_until("the end", || (!names.status()[0].is_followed).then_some(()));
    assert_eq!(names.book().at(one[0], now() + 1).gaps, [0]);
}
