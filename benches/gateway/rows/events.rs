//! What an event costs: rows 1 to 4. Connections are made in the kernel's table, each a NEW event, and the
//! table is flushed, each a DESTROY event; one listener at a time reads them.

use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use super::{Bench, CONFIG, Gateway};
use crate::lab::http::Client;
use crate::lab::{Daemon, Netns};
use crate::load;
use crate::machine;
use crate::meter::{self, Listener};
use crate::peers::Peer;
use crate::report::{Row, Target, ratios};

/// What `del_delay` is by default, and a moment more.
const KEPT: Duration = Duration::from_millis(10_500);
/// `conntrack` is slower than a flush; it gets so much room that it loses nothing all the same.
const BUFFER_OF_CONNTRACK: &str = "536870912";

/// A peer, ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What one burst was to one listener.
struct Burst {
    /// µs of CPU for one event, of each kind and of both.
    new: f64,
    destroy: f64,
    both: f64,
    /// Events a second as they were made.
    created: f64,
    removed: f64,
    /// Times that the kernel found the listener's buffer full.
    dropped: u64,
}

/// So many NEW at full speed, then as many DESTROY, and what they cost the process `pid`. With `pause` it
/// has read the ones before the others come.
fn send(bench: &Bench, netns: &Netns, pid: u32, events: u32, pause: bool) -> Burst {
    let listener = Listener::new(netns, pid);
    let each = f64::from(events);
    let micros = |cpu: Duration| cpu.as_secs_f64() * 1e6 / each;
    let start = meter::cpu(pid);
    let creating = machine::on(&bench.cpus.load, || load::make(netns, 0..events));
    if pause {
        listener.wait_drained();
    }
    let middle = meter::cpu(pid);
    let removing = machine::on(&bench.cpus.load, || load::flush(netns));
    listener.wait_drained();
    let end = meter::cpu(pid);
    Burst {
        new: micros(middle.saturating_sub(start)),
        destroy: micros(end.saturating_sub(middle)),
        both: micros(end.saturating_sub(start)) / 2.0,
        created: each / creating.as_secs_f64(),
        removed: each / removing.as_secs_f64(),
        dropped: listener.dropped(),
    }
}

/// Checks how many mappings the daemon has put into its table since it started. Connections to the daemon
/// itself are some, too.
fn check_created(netns: &Netns, daemon: &Daemon, expected: u32) {
    let answer = Client::connect(netns, daemon.local_addr()).get("/nagios").json();
    let created = answer["number_of_created_items"].as_u64().expect("/nagios has it");
    let expected = u64::from(expected);
    assert!((expected..expected + 50).contains(&created), "{created} mappings instead of {expected}");
}

/// Rows 1 and 2.
pub fn cpu(bench: &Bench) -> Result<Vec<Row>, String> {
    let gateway = Gateway::new();
    let netns = gateway.netns();
    let events = bench.many(1_000_000);
    let (mut ours, mut limit, mut tool) = (Vec::new(), Vec::new(), Vec::new());
    let mut forgetting = Vec::new();
    let mut lost = [0; 3];
    for _ in 0..bench.rounds(5) {
        let peer = Running(machine::on(&bench.cpus.measured, || Peer::Events.start(netns)));
        limit.push(send(bench, netns, peer.0.id(), events, true));
        drop(peer);

        let daemon = machine::on(&bench.cpus.measured, || gateway.daemon(CONFIG));
        ours.push(send(bench, netns, daemon.pid(), events, true));
        check_created(netns, &daemon, events);
        let before = meter::cpu(daemon.pid());
        thread::sleep(KEPT);
        let after = meter::cpu(daemon.pid()).saturating_sub(before);
        forgetting.push(after.as_secs_f64() * 1e6 / f64::from(events));
        drop(daemon);

        let peer = machine::on(&bench.cpus.measured, || {
            let command = netns.command("conntrack");
            command
                .args(["-E", "-e", "NEW,DESTROY", "-b", BUFFER_OF_CONNTRACK])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
        });
        let peer = Running(peer.map_err(|error| format!("conntrack can't be started: {error}"))?);
        tool.push(send(bench, netns, peer.0.id(), events, true));
    }
    for (lost, bursts) in lost.iter_mut().zip([&ours, &limit, &tool]) {
        *lost = bursts.iter().map(|burst| burst.dropped).sum::<u64>();
    }
    let of = |bursts: &[Burst], what: fn(&Burst) -> f64| bursts.iter().map(what).collect::<Vec<f64>>();
    let both = |bursts: &[Burst]| of(bursts, |burst| burst.both);
    let first = Row::new("1", "CPU for one event, user and system")
        .figure("pynatconnd", "µs", &both(&ours))
        .figure("`recvmmsg`, no parsing", "µs", &both(&limit))
        .target("times `recvmmsg`", "×", &ratios(&both(&ours), &both(&limit)), Target::AtMost(1.6))
        .figure("pynatconnd, NEW", "µs", &of(&ours, |burst| burst.new))
        .figure("`recvmmsg`, NEW", "µs", &of(&limit, |burst| burst.new))
        .figure("pynatconnd, DESTROY", "µs", &of(&ours, |burst| burst.destroy))
        .figure("`recvmmsg`, DESTROY", "µs", &of(&limit, |burst| burst.destroy))
        .figure("pynatconnd, forgetting one after `del_delay`", "µs", &forgetting)
        .note(format!(
            "{events} NEW and as many DESTROY a round; buffers found full: pynatconnd {}, recvmmsg {}, conntrack {}",
            lost[0], lost[1], lost[2]
        ));
    let second = Row::new("2", "the same, against the usual tool")
        .figure("`conntrack -E -e NEW,DESTROY`", "µs", &both(&tool))
        .target("times `conntrack`", "×", &ratios(&both(&ours), &both(&tool)), Target::AtMost(0.5));
    Ok(vec![first, second])
}

/// Row 3.
pub fn filtered(bench: &Bench) -> Result<Vec<Row>, String> {
    let gateway = Gateway::new();
    let netns = gateway.netns();
    let events = bench.many(1_000_000);
    let elsewhere = format!("[filter]\nnat_ip = 203.0.113.1\n{CONFIG}");
    let (mut held_back, mut all) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(5) {
        for (config, samples, known) in [(elsewhere.as_str(), &mut held_back, 0), (CONFIG, &mut all, events)]
        {
            let daemon = machine::on(&bench.cpus.measured, || gateway.daemon(config));
            let burst = send(bench, netns, daemon.pid(), events, false);
            samples.push(2.0 * burst.both * f64::from(events) / 1e6);
            check_created(netns, &daemon, known);
        }
    }
    let percent: Vec<f64> = ratios(&held_back, &all).iter().map(|ratio| 100.0 * ratio).collect();
    let row = Row::new("3", format!("CPU for {events} NEW and DESTROY that don't match `[filter]`"))
        .figure("pynatconnd, none matches", "s", &held_back)
        .figure("pynatconnd, all match", "s", &all)
        .target("of the unfiltered", "%", &percent, Target::AtMost(2.0));
    Ok(vec![row])
}

/// Row 4.
pub fn burst(bench: &Bench) -> Result<Vec<Row>, String> {
    let gateway = Gateway::new();
    let netns = gateway.netns();
    let events = bench.many(1_000_000);
    let mut bursts = Vec::new();
    let mut overruns = Vec::new();
    for _ in 0..bench.rounds(3) {
        let daemon = gateway.daemon(CONFIG);
        let burst = send(bench, netns, daemon.pid(), events, false);
        let told = daemon.stderr().lines().filter(|line| line.contains("dropped events")).count();
        overruns.push((told as u64).max(burst.dropped) as f64);
        bursts.push(burst);
    }
    let of = |what: fn(&Burst) -> f64| bursts.iter().map(what).collect::<Vec<f64>>();
    let row = Row::new("4", format!("{events} NEW at full speed, then a flush; default configuration"))
        .target("overruns", "", &overruns, Target::AtMost(0.0))
        .figure("NEW, as the kernel made them", "a second", &of(|burst| burst.created))
        .figure("DESTROY", "a second", &of(|burst| burst.removed));
    Ok(vec![row])
}
