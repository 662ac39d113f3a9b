//! Addresses of IPv6 that devices make themselves, and change often: the names of their leases name them.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::thread;
use std::time::Duration;

use lab::{Lab, wait_until};
use tempfile::TempDir;

use crate::devices::Crowd;
use crate::scene::Scene;
use crate::server::{DNSMASQ, Running};
use crate::{Millis, Random, amount, has, now};

/// A connection was opened that much after the neighbour was seen, or before it was seen last: it must be known.
const SLACK: Millis = 200;

/// When a neighbour was seen with this MAC address first and last.
type Seen = BTreeMap<(IpAddr, String), (Millis, Millis)>;

#[test]
fn a_lease_names_the_addresses_that_a_device_makes_itself() {
    if !has(&["bash", "udhcpc", "dnsmasq"]) {
        return;
    }
    let folder = TempDir::with_prefix("pynatconnd-names-").unwrap();
    let lab = Lab::builder().ipv6().build();
    let mut crowd = Crowd::new(&lab, folder.path(), 2, 0, DNSMASQ.lease);
    // The gateway is a neighbour of the devices only.
    lab.client().run("ip", &["-6", "address", "flush", "dev", "eth0", "scope", "global"]);
    for device in &crowd.devices {
        let route = ["-6", "route", "add", "default", "via", "fd00:7::1", "dev", &device.interface, "onlink"];
        let metric = format!("2{}", device.interface.trim_start_matches('d'));
        lab.client().run("ip", &[&route[..], &["metric", &metric]].concat());
    }
    let running = Running::start(&DNSMASQ, &lab, folder.path(), 20);
    let names = format!("dnsmasq = {}\nneighbours = yes", running.file().display());
    let mut scene = Scene::new(lab, folder.path(), &names);
    scene.start_daemon();
    scene.daemon().wait_for_line("names: dnsmasq is followed");
    scene.daemon().wait_for_line("names: neighbours is followed");
    crowd.come_all(&scene.lab);
    wait_until("both devices have a lease", || {
        crowd.listen();
        crowd.users().len() == 2
    });
    // Its lease is read.
    thread::sleep(Duration::from_millis(1_000));

    let mut random = Random(88_172_645_463_325_252);
    let mut addresses: [VecDeque<IpAddr>; 2] = Default::default();
    let mut seen = Seen::new();
    let rounds = amount(14, 120);
    for _ in 0..rounds {
        for (place, own) in addresses.iter_mut().enumerate() {
            renew_address(&scene.lab, &crowd.devices[place].interface, own, &mut random);
        }
        for _ in 0..12 {
            for (place, own) in addresses.iter().enumerate() {
                // The older one is still used, too.
                let address = own[random.below(own.len())];
                let device = &crowd.devices[place];
                scene.connect(&device.interface, address, device.session);
            }
            look(&scene.lab, &mut seen);
            thread::sleep(Duration::from_millis(30));
        }
    }
    scene.settle();

    let (mut right, mut uncertain, mut unnamed, mut due) = (0, 0, 0, 0);
    for opened in scene.opened.clone() {
        let Some(session) = opened.sender else { continue };
        let path = format!("/v1/history?from=-1h&nat_port={}", opened.port);
        let answer = scene.get(&path).json();
        // The packet may have waited for its neighbour in vain.
        let Some(mapping) = answer["matches"].get(0) else { continue };
        let host = &mapping["host"];
        let session = &crowd.sessions[session];
        let mac = &crowd.devices[session.device].mac;
        let times = seen.get(&(opened.address, mac.clone()));
        let must_know =
            times.is_some_and(|(first, last)| first + SLACK < opened.before && opened.after < last - SLACK);
        let context = || format!("{opened:?} of {session:?}, seen {times:?}: {mapping}");
        if host["certain"] == true {
            assert_eq!(host["mac"], **mac, "a wrong device: {}", context());
            match host["name"].as_str() {
                Some(name) => assert_eq!(name, session.name, "a wrong name: {}", context()),
                None => unnamed += 1,
            }
            right += 1;
        } else {
            assert!(!must_know, "the neighbour was known: {}", context());
            uncertain += 1;
        }
        due += usize::from(must_know);
    }
    println!(
        "privacy addresses: {} addresses of 2 devices, {} connections: {right} right ({unnamed} without a name), \
         {uncertain} not certain; {due} had to be known",
        2 * rounds,
        right + uncertain
    );
    assert!(due > 0 && right > uncertain && unnamed == 0);
}

/// Gives a device another address, and takes the oldest but two.
fn renew_address(lab: &Lab, interface: &str, own: &mut VecDeque<IpAddr>, random: &mut Random) {
    let mut word = || random.below(0xffff) as u16 | 0x100;
    let new = Ipv6Addr::new(0xfd00, 7, 0, 0, word(), word(), word(), word());
    lab.client().run("ip", &["-6", "address", "add", &format!("{new}/128"), "dev", interface, "nodad"]);
    own.push_back(new.into());
    if own.len() > 2 {
        if let Some(old) = own.pop_front() {
            lab.client().run("ip", &["-6", "address", "del", &format!("{old}/128"), "dev", interface]);
        }
    }
}

/// Notes what is in the gateway's neighbour table.
fn look(lab: &Lab, seen: &mut Seen) {
    let before = now();
    let shown = lab.gateway().run("ip", &["-6", "neigh", "show", "dev", "inside"]);
    let after = now();
    for line in shown.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mac = words.iter().position(|word| *word == "lladdr").and_then(|place| words.get(place + 1));
        let (Some(Ok(address)), Some(mac)) = (words.first().map(|word| word.parse()), mac) else { continue };
        let times = seen.entry((address, (*mac).to_owned())).or_insert((after, before));
        times.1 = before;
    }
}
