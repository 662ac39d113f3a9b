//! Those with a network namespace need root and ip(8).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use ipnetwork::IpNetwork;
use nix::sched::{CloneFlags, setns, unshare};
use parking_lot::{Condvar, Mutex};

use super::*;
use crate::outlet::{Stop, Taker};

/// What a source has said, and is not over.
#[derive(Default)]
struct Heard {
    state: Mutex<State>,
    changed: Condvar,
    /// The source cannot say anything as long as this is locked.
    gate: Mutex<()>,
}

#[derive(Default)]
struct State {
    holds: BTreeMap<IpNetwork, Mac>,
    listed: Option<BTreeMap<IpNetwork, Mac>>,
    lists: Vec<Option<Millis>>,
    reports: Vec<Report>,
}

impl Taker for Heard {
    fn take(&self, report: Report, _: Millis) {
        drop(self.gate.lock());
        let mut state = self.state.lock();
        let State { holds, listed, lists, reports } = &mut *state;
        reports.push(report.clone());
        match report {
            Report::ListBegins { missed_since } => {
                lists.push(missed_since);
                *listed = Some(BTreeMap::new());
            }
            Report::Holds(claim) => {
                listed.as_mut().unwrap_or(holds).insert(claim.net, claim.host.mac.unwrap());
            }
            Report::Ends { net, at } => {
                assert!(at.is_none() && listed.is_none());
                holds.remove(&net);
            }
            Report::ListEnds => *holds = listed.take().unwrap(),
            Report::Stops { .. } | Report::Followed => {}
        }
        self.changed.notify_all();
    }
}

impl Heard {
    #[track_caller]
    fn wait_until(&self, what: &str, condition: impl Fn(&State) -> bool) {
        let mut state = self.state.lock();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !condition(&state) {
            let timed_out = self.changed.wait_until(&mut state, deadline).timed_out();
            assert!(!timed_out, "{what}: {} hold, lists: {:?}", state.holds.len(), state.lists);
        }
    }

    #[track_caller]
    fn wait_for(&self, address: &str, mac: Option<&str>) {
        let net: IpNetwork = address.parse().unwrap();
        let mac: Option<Mac> = mac.map(|mac| mac.parse().unwrap());
        self.wait_until(&format!("{address} {mac:?}"), |state| {
            state.listed.is_none() && state.holds.get(&net).copied() == mac
        });
    }
}

/// Runs this in a network namespace of its own, which goes with its last thread and socket.
fn in_a_namespace(test: impl FnOnce() + Send) {
    let inside = || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() || Command::new("ip").arg("-V").output().is_err() {
            println!("skipped: needs root and ip(8)");
            return;
        }
        ip("link set lo up");
        test();
    };
    if let Err(panic) = thread::scope(|scope| scope.spawn(inside).join()) {
        std::panic::resume_unwind(panic);
    }
}

/// Another namespace: the threads that enter it are in it.
fn another_namespace() -> File {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    };
    thread::scope(|scope| scope.spawn(make).join()).unwrap()
}

fn in_namespace<T: Send>(namespace: &File, f: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        f()
    };
    thread::scope(|scope| scope.spawn(inside).join()).unwrap()
}

#[track_caller]
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn ip_batch(commands: &str) {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// What ip(8) shows of addresses that have a MAC address.
fn shown_by_ip() -> BTreeMap<IpNetwork, Mac> {
    let shown: serde_json::Value = serde_json::from_str(&ip("-j neigh show")).unwrap();
    let entries = shown.as_array().unwrap().iter();
    entries
        .filter_map(|entry| {
            Some((entry["dst"].as_str()?.parse().ok()?, entry["lladdr"].as_str()?.parse().ok()?))
        })
        .filter(|(net, _): &(IpNetwork, Mac)| is_global(net))
        .collect()
}

fn is_global(net: &IpNetwork) -> bool {
    !net.ip().is_multicast() && !net.to_string().starts_with("fe80")
}

/// Follows the neighbours of the calling thread's namespace while the test runs.
fn with_neighbours(neighbours: Neighbours, test: impl FnOnce(&Heard)) {
    struct StopOnDrop(Arc<Stop>);
    impl Drop for StopOnDrop {
        fn drop(&mut self) {
            self.0.stop();
        }
    }
    let (heard, stop) = (Arc::new(Heard::default()), Arc::new(Stop::new().unwrap()));
    let outlet = Outlet::new(heard.clone(), stop.clone(), crate::time::wall_clock);
    thread::scope(|scope| {
        let stop = StopOnDrop(stop);
        let mut neighbours = neighbours;
        let source = scope.spawn(move || neighbours.follow(&outlet));
        heard.wait_until("the first list", |state| {
            state.lists.first() == Some(&None) && state.listed.is_none()
        });
        test(&heard);
        drop(stop);
        let error = source.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{error}");
    });
}

#[test]
fn an_entry_comes_changes_and_goes() {
    in_a_namespace(|| {
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("link set v1 up");
        ip("neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0");
        with_neighbours(Neighbours::new(), |heard| {
            heard.wait_for("10.0.0.2", Some("02:00:00:00:00:02"));
            ip("neigh add 10.0.0.7 lladdr 02:00:00:00:00:07 dev v0 nud reachable");
            heard.wait_for("10.0.0.7", Some("02:00:00:00:00:07"));
            // Nothing new.
            let reports = heard.state.lock().reports.len();
            ip("neigh change 10.0.0.7 lladdr 02:00:00:00:00:07 dev v0 nud stale");
            ip("neigh change 10.0.0.7 lladdr 02:00:00:00:00:07 dev v0 nud permanent");
            ip("neigh add 10.0.0.8 lladdr ff:ff:ff:ff:ff:ff dev v0");
            ip("neigh add proxy 10.0.0.7 dev v0");
            ip("neigh del proxy 10.0.0.7 dev v0");
            ip("neigh add fe80::8 lladdr 02:00:00:00:00:08 dev v0");
            ip("neigh add fd00::7 lladdr 02:00:00:00:00:07 dev v0");
            heard.wait_for("fd00::7", Some("02:00:00:00:00:07"));
            assert_eq!(heard.state.lock().reports.len(), reports + 1);
            ip("neigh change 10.0.0.7 lladdr 02:00:00:00:00:77 dev v0 nud reachable");
            heard.wait_for("10.0.0.7", Some("02:00:00:00:00:77"));
            ip("neigh change 10.0.0.7 dev v0 nud failed");
            heard.wait_for("10.0.0.7", None);
            ip("neigh del fd00::7 dev v0");
            heard.wait_for("fd00::7", None);
            ip("link del v0");
            heard.wait_for("10.0.0.2", None);
            assert_eq!(heard.state.lock().lists, [None]);
        });
    });
}

#[test]
fn arp_and_neighbour_discovery_are_heard() {
    in_a_namespace(|| {
        let other = another_namespace();
        let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&other));
        ip("link add v0 type veth peer name v1");
        ip(&format!("link set v1 netns {path}"));
        in_namespace(&other, || {
            ip("link set v1 address 02:00:00:00:00:71");
            ip("addr add 10.0.0.7/24 dev v1");
            ip("addr add fd00::7/64 dev v1 nodad");
            ip("link set v1 up");
        });
        ip("addr add 10.0.0.1/24 dev v0");
        ip("addr add fd00::1/64 dev v0 nodad");
        ip("link set v0 up");
        with_neighbours(Neighbours::new(), |heard| {
            let knock = |from: &str, to: &str| UdpSocket::bind(from).unwrap().send_to(b"x", to).unwrap();
            knock("10.0.0.1:0", "10.0.0.7:9");
            heard.wait_for("10.0.0.7", Some("02:00:00:00:00:71"));
            knock("[fd00::1]:0", "[fd00::7]:9");
            heard.wait_for("fd00::7", Some("02:00:00:00:00:71"));
            // Nobody answers for this one.
            knock("10.0.0.1:0", "10.0.0.99:9");
            // Another device takes the addresses over, and tells it.
            in_namespace(&other, || {
                ip("link set v1 address 02:00:00:00:00:72");
            });
            ip("neigh flush dev v0");
            let ended = Report::Ends { net: "10.0.0.7".parse().unwrap(), at: None };
            heard.wait_until("it ends", |state| state.reports.contains(&ended));
            knock("10.0.0.1:0", "10.0.0.7:9");
            heard.wait_for("10.0.0.7", Some("02:00:00:00:00:72"));
            heard.wait_for("10.0.0.99", None);
        });
    });
}

#[test]
fn after_lost_changes_everything_is_read_anew() {
    in_a_namespace(|| {
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        let mut neighbours = Neighbours::new();
        neighbours.receive_buffer = 4096;
        with_neighbours(neighbours, |heard| {
            ip("neigh add 10.9.9.1 lladdr 02:09:00:00:00:01 dev v0");
            ip("neigh add 10.9.9.2 lladdr 02:09:00:00:00:02 dev v0");
            heard.wait_for("10.9.9.2", Some("02:09:00:00:00:02"));
            let begun = crate::time::wall_clock();
            let gate = heard.gate.lock();
            let flood: String = (0..20_000_u32)
                .map(|i| {
                    let (high, low) = (i >> 8, i & 0xff);
                    format!("neigh add 10.1.{high}.{low} lladdr 02:01:00:00:{high:02x}:{low:02x} dev v0\n")
                })
                .collect();
            ip_batch(&flood);
            ip("neigh del 10.9.9.1 dev v0");
            ip("neigh change 10.9.9.2 lladdr 02:09:00:00:00:ff dev v0");
            drop(gate);
            let expected = shown_by_ip();
            assert_eq!(expected.len(), 20_001);
            heard.wait_until("as ip(8) shows it", |state| state.listed.is_none() && state.holds == expected);
            {
                let state = heard.state.lock();
                let missed_since = state.lists.get(1).copied().flatten().unwrap();
                assert!((begun - 10_000..=crate::time::wall_clock()).contains(&missed_since));
                // What changed meanwhile can have changed at any moment of it.
                let changed = state.reports.iter().rev().find_map(|report| match report {
                    Report::Holds(claim) if claim.net.to_string() == "10.9.9.2/32" => Some(claim.clone()),
                    _ => None,
                });
                let changed = changed.unwrap();
                assert!(changed.since == Some(missed_since) && changed.within > 0, "{changed:?}");
            }
            // And it goes on.
            let lists = heard.state.lock().lists.len();
            ip("neigh del 10.1.0.1 dev v0");
            heard.wait_for("10.1.0.1", None);
            assert_eq!(heard.state.lock().lists.len(), lists);
        });
    });
}

#[test]
fn a_flood_that_never_waits_ends_as_ip_shows_it() {
    in_a_namespace(|| {
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        let mut neighbours = Neighbours::new();
        neighbours.receive_buffer = 4096;
        with_neighbours(neighbours, |heard| {
            let mut flood = String::new();
            for round in 0..10 {
                for i in 0..1_000_u32 {
                    let (high, low) = (i >> 8, i & 0xff);
                    let mac = format!("02:01:00:{round:02x}:{high:02x}:{low:02x}");
                    flood.push_str(&format!("neigh replace 10.1.{high}.{low} lladdr {mac} dev v0\n"));
                    if i % 3 == 0 {
                        flood.push_str(&format!("neigh del 10.1.{high}.{low} dev v0\n"));
                    }
                }
            }
            ip_batch(&flood);
            let expected = shown_by_ip();
            heard.wait_until("as ip(8) shows it", |state| state.listed.is_none() && state.holds == expected);
        });
    });
}

#[test]
fn an_address_on_two_interfaces_is_of_the_one_confirmed_last() {
    let address: IpAddr = "192.168.1.1".parse().unwrap();
    let mac = |last| Mac::from_bytes(&[2, 0, 0, 0, 0, last]);
    let told = |interface, last: u8, age| Neighbour { interface, address, mac: mac(last), age };
    let gone = |interface| Neighbour { interface, address, mac: None, age: 0 };
    let holds = |last| Some(Report::Holds(claim(address, mac(last).unwrap())));
    let ends = Some(Report::Ends { net: address.into(), at: None });
    let mut table = Table::new();
    assert_eq!(table.apply_at(told(1, 1, 0), 100), holds(1));
    assert_eq!(table.apply_at(told(2, 2, 50), 110), None);
    assert_eq!(table.apply_at(told(2, 2, 0), 120), holds(2));
    assert_eq!(table.apply_at(told(1, 1, 25), 125), None);
    assert_eq!(table.apply_at(gone(1), 130), None);
    assert_eq!(table.apply_at(told(1, 1, 0), 130), holds(1));
    assert_eq!(table.apply_at(told(2, 2, 0), 130), holds(2));
    assert_eq!(table.apply_at(gone(2), 140), holds(1));
    assert_eq!(table.apply_at(gone(2), 140), None);
    assert_eq!(table.apply_at(gone(1), 150), ends);
    assert_eq!(table.apply_at(gone(1), 150), None);
    assert!(table.entries.is_empty());
}
