//! Rows 1 to 4: the cost of an event. Connections open, with one NEW event each, and close, with one DESTROY
//! event each. One listener at a time reads them.

use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::{Bench, CONFIG, Gateway};
use crate::load;
use crate::machine;
use crate::meter::{self, Listener};
use crate::peers::{Peer, Running};
use crate::report::{Row, Target, ratios};
use lab::http::Client;
use lab::{Daemon, Netns};

/// Events of each kind in a burst.
const EVENTS: u32 = 1_000_000;
/// Slightly more than the default of `del_delay`.
const KEPT: Duration = Duration::from_millis(10_500);
/// `conntrack` is slower than a flush. This receive buffer is large enough that it loses nothing. Its own
/// option for the buffer affects another of its sockets (1.4.7).
const BUFFER_OF_CONNTRACK: u32 = 1 << 30;
/// A number of events that certainly fits the daemon's default receive buffer.
const BACKLOG: u32 = 80_000;

/// The figures of one burst for one listener.
pub(super) struct Burst {
    /// Seconds of CPU for all events, and for each kind.
    cpu: f64,
    new: f64,
    destroy: f64,
    /// Events that were read.
    read: f64,
    /// Events per second, as generated.
    created: f64,
    removed: f64,
    /// Events that the kernel dropped because the listener's buffer was full.
    pub(super) dropped: u64,
}

impl Burst {
    /// µs of CPU for one event.
    pub(super) fn each(&self) -> f64 {
        self.cpu * 1e6 / self.read
    }
}

/// The source of events.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Entries are created through ctnetlink and flushed: the fastest way.
    Entries,
    /// Packets go through the NAT, and the kernel ends their connections by timeout. No program is involved.
    Packets,
}

/// Generates this number of NEW events at full speed, then as many DESTROY events, and measures what they
/// cost the process `pid`. With `pause` it has read the first before the others come.
pub(super) fn send(bench: &Bench, gateway: &Gateway, pid: u32, origin: Origin, pause: bool) -> Burst {
    let (lab, netns) = (gateway.lab(), gateway.netns());
    let events = bench.many(EVENTS);
    let listener = Listener::new(netns, pid);
    let dropped = listener.dropped();
    let start = meter::cpu(pid);
    let creating = machine::on(&bench.cpus.load, || match origin {
        Origin::Entries => load::make(netns, 0..events),
        Origin::Packets => load::make_by_packets(lab, events),
    });
    if pause {
        listener.wait_drained();
    }
    let middle = meter::cpu(pid);
    let removing = machine::on(&bench.cpus.load, || match origin {
        Origin::Entries => load::flush(netns),
        Origin::Packets => load::end_by_address(lab),
    });
    listener.wait_drained();
    let end = meter::cpu(pid);
    let dropped = listener.dropped() - dropped;
    Burst {
        cpu: end.saturating_sub(start).as_secs_f64(),
        new: middle.saturating_sub(start).as_secs_f64(),
        destroy: end.saturating_sub(middle).as_secs_f64(),
        read: f64::from(2 * events) - dropped as f64,
        created: f64::from(events) / creating.as_secs_f64(),
        removed: f64::from(events) / removing.as_secs_f64(),
        dropped,
    }
}

/// µs of CPU for one event when all of them are already in the receive buffer: reading without waking.
fn backlog(bench: &Bench, netns: &Netns, pid: u32) -> f64 {
    let listener = Listener::new(netns, pid);
    let process = Pid::from_raw(pid.try_into().expect("a process id is positive"));
    let stopped = |work: &dyn Fn()| {
        kill(process, Signal::SIGSTOP).expect("the process is ours");
        work();
        kill(process, Signal::SIGCONT).expect("the process is ours");
        listener.wait_drained();
    };
    let start = meter::cpu(pid);
    stopped(&|| {
        machine::on(&bench.cpus.load, || load::make(netns, 0..BACKLOG));
    });
    stopped(&|| {
        load::flush(netns);
    });
    let cpu = meter::cpu(pid).saturating_sub(start);
    assert_eq!(listener.dropped(), 0, "the buffer has room for them");
    cpu.as_secs_f64() * 1e6 / f64::from(2 * BACKLOG)
}

/// Checks the number of mappings that the daemon has created since its start. Connections to the daemon
/// are mappings too.
fn check_created(netns: &Netns, daemon: &Daemon, expected: u32) {
    let answer = Client::connect(netns, daemon.local_addr()).get("/nagios").json();
    let created = answer["number_of_created_items"].as_u64().expect("/nagios has it");
    let expected = u64::from(expected);
    assert!((expected..expected + 50).contains(&created), "{created} mappings instead of {expected}");
}

fn all(bursts: &[Burst], what: impl Fn(&Burst) -> f64) -> Vec<f64> {
    bursts.iter().map(what).collect()
}

fn dropped(bursts: &[Burst]) -> u64 {
    bursts.iter().map(|burst| burst.dropped).sum()
}

/// Row 1.
pub fn against_the_limit(bench: &Bench) -> Result<Vec<Row>, String> {
    let gateway = Gateway::new();
    let netns = gateway.netns();
    let events = f64::from(bench.many(EVENTS));
    let (mut ours, mut limit) = (Vec::new(), Vec::new());
    let (mut our_backlog, mut limit_backlog, mut forgetting) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds(5) {
        let peer = Running(machine::on(&bench.cpus.measured, || Peer::Events.start(netns)));
        limit_backlog.push(backlog(bench, netns, peer.pid()));
        limit.push(send(bench, &gateway, peer.pid(), Origin::Entries, true));
        drop(peer);

        let daemon = machine::on(&bench.cpus.measured, || gateway.daemon(CONFIG));
        our_backlog.push(backlog(bench, netns, daemon.pid()));
        drop(daemon);
        let daemon = machine::on(&bench.cpus.measured, || gateway.daemon(CONFIG));
        ours.push(send(bench, &gateway, daemon.pid(), Origin::Entries, true));
        check_created(netns, &daemon, bench.many(EVENTS));
        let before = meter::cpu(daemon.pid());
        thread::sleep(KEPT);
        let after = meter::cpu(daemon.pid()).saturating_sub(before);
        forgetting.push(after.as_secs_f64() * 1e6 / events);
    }
    let each = |bursts: &[Burst]| all(bursts, Burst::each);
    let new = |bursts: &[Burst]| all(bursts, |burst| burst.new * 1e6 / events);
    let destroy = |bursts: &[Burst]| all(bursts, |burst| burst.destroy * 1e6 / events);
    let row = Row::new("1", "CPU for one event, user and system")
        .figure("pynatconnd", "µs", &each(&ours))
        .figure("`recvmmsg`, no parsing", "µs", &each(&limit))
        .target("times `recvmmsg`", "×", &ratios(&each(&ours), &each(&limit)), Target::AtMost(1.2))
        .figure("pynatconnd, NEW", "µs", &new(&ours))
        .figure("`recvmmsg`, NEW", "µs", &new(&limit))
        .figure("pynatconnd, DESTROY", "µs", &destroy(&ours))
        .figure("`recvmmsg`, DESTROY", "µs", &destroy(&limit))
        .figure("pynatconnd, all of them queued already", "µs", &our_backlog)
        .figure("`recvmmsg`, all of them queued already", "µs", &limit_backlog)
        .target(
            "times `recvmmsg`, all of them queued already",
            "×",
            &ratios(&our_backlog, &limit_backlog),
            Target::AtMost(1.3),
        )
        .figure("pynatconnd, forgetting one after `del_delay`", "µs", &forgetting)
        .figure("NEW, as the kernel made them", "a second", &all(&ours, |burst| burst.created))
        .note(format!("{events} NEW and as many DESTROY a round, {BACKLOG} of each where queued already"))
        .note(format!("dropped events: pynatconnd {}, `recvmmsg` {}", dropped(&ours), dropped(&limit)));
    Ok(vec![row])
}

/// Row 2. `conntrack` looks up the name of the program that created an entry, so here packets create them.
pub fn against_conntrack(bench: &Bench) -> Result<Vec<Row>, String> {
    let gateway = Gateway::new();
    let netns = gateway.netns();
    let (mut ours, mut tool) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(5) {
        let peer = machine::on(&bench.cpus.measured, || start_conntrack(netns))?;
        tool.push(send(bench, &gateway, peer.pid(), Origin::Packets, true));
        drop(peer);
        let daemon = machine::on(&bench.cpus.measured, || gateway.daemon(CONFIG));
        ours.push(send(bench, &gateway, daemon.pid(), Origin::Packets, true));
        check_created(netns, &daemon, bench.many(EVENTS));
    }
    let each = |bursts: &[Burst]| all(bursts, Burst::each);
    let row = Row::new("2", "CPU for one event that a packet made")
        .figure("pynatconnd", "µs", &each(&ours))
        .figure("`conntrack -E -e NEW,DESTROY`", "µs", &each(&tool))
        .target("times `conntrack`", "×", &ratios(&each(&ours), &each(&tool)), Target::AtMost(0.5))
        .figure("NEW, as the kernel made them", "a second", &all(&ours, |burst| burst.created))
        .note(format!("dropped events: pynatconnd {}, `conntrack` {}", dropped(&ours), dropped(&tool)));
    Ok(vec![row])
}

fn start_conntrack(netns: &Netns) -> Result<Running, String> {
    machine::with_default_buffer(BUFFER_OF_CONNTRACK, || {
        let command = netns.command("conntrack").args(["-E", "-e", "NEW,DESTROY"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let running = Running(child.map_err(|error| format!("conntrack cannot be started: {error}"))?);
        Listener::new(netns, running.pid());
        Ok(running)
    })
}

/// Row 3.
pub fn filtered(bench: &Bench) -> Result<Vec<Row>, String> {
    let gateway = Gateway::new();
    let netns = gateway.netns();
    let events = bench.many(EVENTS);
    let elsewhere = format!("[filter]\nnat_ip = 203.0.113.1\n{CONFIG}");
    let (mut held_back, mut all) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(5) {
        for (config, samples, known) in [(elsewhere.as_str(), &mut held_back, 0), (CONFIG, &mut all, events)]
        {
            let daemon = machine::on(&bench.cpus.measured, || gateway.daemon(config));
            let burst = send(bench, &gateway, daemon.pid(), Origin::Entries, false);
            samples.push(burst.cpu);
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
    let events = bench.many(EVENTS);
    let mut bursts = Vec::new();
    let mut overruns = Vec::new();
    for _ in 0..bench.rounds(3) {
        let daemon = gateway.daemon(CONFIG);
        let burst = send(bench, &gateway, daemon.pid(), Origin::Entries, false);
        let logged = daemon.stderr().lines().filter(|line| line.contains("conntrack events lost")).count();
        overruns.push((logged as u64).max(burst.dropped) as f64);
        bursts.push(burst);
    }
    let row = Row::new("4", format!("{events} NEW at full speed, then a flush; default configuration"))
        .target("overruns", "", &overruns, Target::AtMost(0.0))
        .figure("NEW, as the kernel made them", "a second", &all(&bursts, |burst| burst.created))
        .figure("DESTROY", "a second", &all(&bursts, |burst| burst.removed));
    Ok(vec![row])
}
