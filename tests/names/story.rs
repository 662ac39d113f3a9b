//! What happens: devices come and go and connect, the DHCP server and the daemon are restarted, the lease file is away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use lab::Lab;
use serde_json::Value;
use tempfile::TempDir;

use crate::devices::Crowd;
use crate::judge::{Asked, Judge, Outage};
use crate::scene::{Opened, Scene};
use crate::server::{Running, Server};
use crate::truth::{self, Hold};
use crate::{Millis, Random, amount, has, now};

/// The pool begins here.
const FIRST: u8 = 10;
/// A file that is away for less than a second was renamed, for a source.
const GRACE: Millis = 2_000;

struct Story {
    server: &'static Server,
    scene: Scene,
    crowd: Crowd,
    running: Running,
    outages: Vec<Outage>,
    asked: Vec<Asked>,
    random: Random,
    last: u8,
}

pub(crate) fn tell(server: &'static Server) {
    let folder = TempDir::with_prefix("pynatconnd-names-").unwrap();
    let lab = Lab::builder().build();
    // Kea and dhcpd wait with the next renewal of what has been used half.
    let (devices, last) = amount((12, 17), (200, 129));
    let has_dhclient = has(&["dhclient"]);
    let crowd =
        Crowd::new(&lab, folder.path(), devices, if has_dhclient { 5 } else { 0 }, server.lease.min(40_000));
    let running = Running::start(server, &lab, folder.path(), last);
    let names = format!("{} = {}\nneighbours = yes", server.key, running.file().display());
    let mut scene = Scene::new(lab, folder.path(), &names);
    scene.start_daemon();
    let mut story = Story {
        server,
        scene,
        crowd,
        running,
        outages: Vec::new(),
        asked: Vec::new(),
        random: Random(88_172_645_463_325_252),
        last,
    };
    let begun = now();
    story.wait_until_followed();
    story.outages.push(Outage {
        sources: vec![server.key, "neighbours"],
        from: 0,
        surely_from: 0,
        surely_to: 0,
        to: now(),
    });
    story.crowd.come_all(&story.scene.lab);
    story.pass(amount(6_000, 40_000));
    story.lose_file();
    story.pass(amount(3_000, 30_000));
    story.lose_daemon();
    story.pass(amount(3_000, 30_000));
    story.running.restart(&story.scene.lab);
    story.pass(amount(4_000, 35_000));
    if amount(false, true) {
        story.lose_daemon();
        story.pass(15_000);
        story.lose_file();
        story.pass(15_000);
    }
    story.scene.settle();
    println!("{}: {} s", server.program, (now() - begun) / 1_000);
    story.end();
}

impl Story {
    /// For some time, devices come and go and connect, and the daemon is asked.
    fn pass(&mut self, time: Millis) {
        let end = now() + time;
        while now() < end {
            self.tick(true);
            thread::sleep(Duration::from_millis(amount(10, 8)));
        }
    }

    fn tick(&mut self, is_asking: bool) {
        let Self { scene, crowd, random, .. } = self;
        if random.below(amount(4, 2)) == 0 {
            crowd.act(&scene.lab, random);
        } else {
            crowd.listen();
        }
        let users = crowd.users();
        if !users.is_empty() {
            let device = &crowd.devices[users[random.below(users.len())]];
            scene.connect(&device.interface, device.address.expect("it is a user"), device.session);
        }
        if random.below(2) == 0 {
            let pool = usize::from(self.last - FIRST) + 1;
            let address = Ipv4Addr::new(192, 168, 7, FIRST + random.below(pool) as u8);
            scene.pretend(address.into());
        }
        // What has just changed is yet to be told to the daemon.
        let settled = scene.opened.partition_point(|opened| opened.after < now() - 200);
        if is_asking && random.below(4) == 0 && settled > 0 {
            let place = random.below(settled);
            let route = if random.below(2) == 0 { "/v1/lookup?" } else { "/v1/history?from=-1h&" };
            self.ask(place, route);
        }
    }

    fn ask(&mut self, place: usize, route: &str) {
        let path = format!("{route}nat_port={}", self.scene.opened[place].port);
        let mut matches = self.matches(&path);
        assert!(matches.len() <= 1, "{path}: {matches:?}");
        self.asked.push(Asked { opened: place, path, mapping: matches.pop() });
    }

    fn matches(&mut self, path: &str) -> Vec<Value> {
        let answer = self.scene.get(path).json();
        answer["matches"].as_array().unwrap_or_else(|| panic!("{path}: {answer}")).clone()
    }

    fn wait_until_followed(&mut self) {
        let begun = now();
        while !self.scene.is_followed(self.server.key) || !self.scene.is_followed("neighbours") {
            assert!(now() - begun < 20_000, "{}", self.scene.daemon().stderr());
            self.tick(false);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The daemon is killed. Devices come and go meanwhile.
    fn lose_daemon(&mut self) {
        // What was said in the last second is written.
        let from = now();
        self.scene.kill_daemon();
        let killed = now();
        while now() < killed + amount(1_500, 6_000) {
            self.tick(false);
            thread::sleep(Duration::from_millis(10));
        }
        let surely_to = now();
        self.scene.start_daemon();
        self.wait_until_followed();
        self.outages.push(Outage {
            sources: vec![self.server.key, "neighbours"],
            // What was known last was written up to ten seconds before.
            from: from - 11_000,
            surely_from: killed,
            surely_to,
            to: now(),
        });
    }

    /// The lease file cannot be read for some time. The server goes on to write it.
    fn lose_file(&mut self) {
        let (file, away) = (self.running.file(), self.running.file().with_extension("away"));
        let followed = |story: &Self| {
            let text = format!("names: {} is followed", story.server.key);
            story.scene.daemon().stderr().matches(&text).count()
        };
        let times = followed(self);
        let from = now();
        fs::rename(&file, &away).unwrap();
        self.pass(amount(4_000, 8_000));
        let is_new = self.server.renames && file.exists();
        let surely_to = now();
        if !is_new {
            fs::rename(&away, &file).unwrap();
        }
        let begun = now();
        while followed(self) == times && now() - begun < 40_000 {
            self.tick(true);
            thread::sleep(Duration::from_millis(10));
        }
        // A new file of the server's is followed at once.
        let surely_from = if is_new { surely_to } else { from + GRACE };
        self.outages.push(Outage { sources: vec![self.server.key], from, surely_from, surely_to, to: now() });
    }

    fn end(mut self) {
        let asked_meanwhile = self.asked.len();
        let questions = amount(800, 4_000);
        let opened = self.scene.opened.len();
        for _ in asked_meanwhile..questions.max(asked_meanwhile + questions / 2) {
            let place = self.random.below(opened);
            self.ask(place, "/v1/history?from=-1h&");
        }
        let end = now();
        self.crowd.listen();
        let holds = truth::holds(&self.crowd.sessions, &self.crowd.diary.events, end);
        let handovers = handovers(&holds);
        let macs: Vec<String> = self.crowd.devices.iter().map(|device| device.mac.clone()).collect();
        let sessions = std::mem::take(&mut self.crowd.sessions);
        let outages = std::mem::take(&mut self.outages);
        let mut by_address: BTreeMap<IpAddr, Vec<&Hold>> = BTreeMap::new();
        holds.iter().for_each(|hold| by_address.entry(hold.address).or_default().push(hold));
        let mut judge = Judge {
            macs: &macs,
            sessions: &sessions,
            holds: by_address,
            outages: &outages,
            exactness: self.server.exactness,
            counts: BTreeMap::new(),
            wrong: Vec::new(),
            unexplained: Vec::new(),
        };
        // Which connections are certainly whose, by name and by MAC address.
        let mut certain: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
        for (number, asked) in self.asked.iter().enumerate() {
            let opened = &self.scene.opened[asked.opened];
            // An end that was told later has no part of its second.
            let is_certain = judge.judge(asked, opened) && number >= asked_meanwhile;
            let Some(mapping) = asked.mapping.as_ref().filter(|_| is_certain) else { continue };
            for key in ["name", "mac"] {
                if let Some(whose) = mapping["host"][key].as_str() {
                    certain.entry(format!("{key}={whose}")).or_default().insert(opened.port);
                }
            }
        }
        let by_port: BTreeMap<u16, usize> =
            self.scene.opened.iter().enumerate().map(|(place, opened)| (opened.port, place)).collect();
        let (mut listed, mut missing) = (0, Vec::new());
        for (whose, ports) in certain.iter().take(amount(60, 400)) {
            let path = format!("/v1/history?from=-1h&{}", whose.replace("name=", "host="));
            let matches = self.matches(&path);
            let mut found = BTreeSet::new();
            for mapping in matches {
                let Some(place) = by_port.get(&(mapping["nat_port"].as_u64().unwrap() as u16)) else {
                    continue;
                };
                let opened: Opened = self.scene.opened[*place].clone();
                found.insert(opened.port);
                listed += 1;
                judge.judge(&Asked { opened: *place, path: path.clone(), mapping: Some(mapping) }, &opened);
            }
            for port in ports.difference(&found) {
                let asked = self.asked.iter().filter(|asked| self.scene.opened[asked.opened].port == *port);
                missing.push(format!("{path} lacks {port}: {:?}", asked.collect::<Vec<_>>()));
            }
        }
        println!(
            "{}: {} devices, {} leases, {handovers} handovers, {opened} connections ({} of devices), {} questions \
             ({asked_meanwhile} meanwhile), {listed} found by {} names and MAC addresses",
            self.server.program,
            macs.len(),
            holds.len(),
            self.scene.opened.iter().filter(|opened| opened.sender.is_some()).count(),
            self.asked.len(),
            certain.len(),
        );
        println!("{:#?}", judge.counts);
        println!(
            "wrong {}, unexplained {}, missing {}",
            judge.wrong.len(),
            judge.unexplained.len(),
            missing.len()
        );
        let first = |found: &[String]| found.iter().take(6).cloned().collect::<Vec<_>>().join("\n");
        assert!(judge.wrong.is_empty(), "wrong: {}", first(&judge.wrong));
        assert!(missing.is_empty(), "missing: {}", first(&missing));
        assert!(judge.unexplained.is_empty(), "unexplained: {}", first(&judge.unexplained));
        assert!(
            judge.counts.get("right").is_some_and(|right| *right > self.asked.len() / 5),
            "{:?}",
            judge.counts
        );
        assert!(handovers >= amount(5, 50), "{handovers}");
    }
}

/// How often an address passed from one device to another.
fn handovers(holds: &[Hold]) -> usize {
    let mut last: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let mut passed =
        |hold: &&Hold| last.insert(hold.address, hold.device).is_some_and(|before| before != hold.device);
    holds.iter().filter(|hold| passed(hold)).count()
}
