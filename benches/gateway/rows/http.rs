//! Rows 6, 7, 14 and 15: lookups per second. The servers have one half of the processors, wrk the other; in row 14 both
//! have all of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::bench::{Bench, CONFIG, Gateway};
use crate::load::{self, LASTING, PASSING, Pace, Sender};
use crate::machine;
use crate::meter::Listener;
use crate::report::{Row, Target, ratios};
use crate::web::{self, BareServer, LEGACY, Nginx, Path, Served};
use lab::Daemon;
use lab::http::{Client, Response};

/// Persistent connections of wrk.
const CONNECTIONS: usize = 64;
/// New connections per second in row 7.
const ARRIVING: u32 = 50_000;
/// Connections opened at once, like a batch of packets from a network card.
const TOGETHER: u32 = 16;

/// A gateway and a daemon that has received the NEW events of this number of connections.
pub fn serving(bench: &Bench, mappings: u32) -> (Gateway, Daemon) {
    serving_as(bench, mappings, CONFIG)
}

pub(super) fn serving_as(bench: &Bench, mappings: u32, config: &str) -> (Gateway, Daemon) {
    let gateway = Gateway::new();
    let daemon = machine::on(&bench.cpus.measured, || gateway.daemon(config));
    load::make(gateway.netns(), 0..mappings);
    Listener::new(gateway.netns(), daemon.pid()).wait_drained();
    (gateway, daemon)
}

fn load_with_wrk(bench: &Bench, gateway: &Gateway, address: std::net::SocketAddr) -> Result<Served, String> {
    load_on(bench, gateway, address, &LEGACY)
}

/// Loads a server with lookups by a path.
pub(super) fn load_on(
    bench: &Bench,
    gateway: &Gateway,
    address: std::net::SocketAddr,
    path: &Path,
) -> Result<Served, String> {
    let time = Duration::from_secs(if bench.quick { 2 } else { 10 });
    machine::on(&bench.cpus.load, || {
        let threads = bench.cpus.load.len();
        web::wrk(gateway.netns(), address, threads, CONNECTIONS, path, &LASTING.ports(), time)
    })
}

/// The daemon, nginx and a bare hyper server, each in each round.
struct Compared {
    ours: Vec<Served>,
    theirs: Vec<Served>,
    barely: Vec<Served>,
    /// The size of a body in bytes.
    body: usize,
}

impl Compared {
    /// A row that begins with the rates.
    fn row(&self, number: &'static str, what: String) -> Row {
        let (ours, theirs, barely) = (rate(&self.ours), rate(&self.theirs), rate(&self.barely));
        Row::new(number, what)
            .figure("pynatconnd", "a second", &ours)
            .figure("nginx, a fixed body", "a second", &theirs)
            .target("times nginx", "×", &ratios(&ours, &theirs), Target::AtLeast(0.8))
            .figure("a bare hyper server, a fixed body", "a second", &barely)
            .target("times a bare hyper server", "×", &ratios(&ours, &barely), Target::AtLeast(0.95))
    }
}

fn compare(bench: &Bench, gateway: &Gateway, daemon: &Daemon) -> Result<Compared, String> {
    let netns = gateway.netns();
    let path = format!("/nat_port/{}", LASTING.ports().start);
    let answer = Client::connect(netns, daemon.local_addr()).get(&path);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let workers = bench.cpus.measured.len();
    let nginx = machine::on(&bench.cpus.measured, || Nginx::start(netns, workers, answer.text()))?;
    let bare = machine::on(&bench.cpus.measured, || BareServer::start(netns, answer.text()));
    // The same headers and the same body.
    let same = Client::connect(netns, bare.address()).get(&path);
    let names =
        |response: &Response| response.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!((names(&same), &same.body), (names(&answer), &answer.body));

    let (mut ours, mut theirs, mut barely) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds(5) {
        theirs.push(load_with_wrk(bench, gateway, nginx.address())?);
        barely.push(load_with_wrk(bench, gateway, bare.address())?);
        ours.push(load_with_wrk(bench, gateway, daemon.local_addr())?);
    }
    Ok(Compared { ours, theirs, barely, body: answer.body.len() })
}

fn of(all: &[Served], what: fn(&Served) -> f64) -> Vec<f64> {
    all.iter().map(what).collect()
}

fn rate(all: &[Served]) -> Vec<f64> {
    of(all, |served| served.rate)
}

fn p99(all: &[Served]) -> Vec<f64> {
    of(all, |served| served.p99)
}

/// Row 6.
pub fn at_rest(bench: &Bench) -> Result<Vec<Row>, String> {
    let mappings = bench.many(1_000_000);
    let (gateway, daemon) = serving(bench, mappings);
    let compared = compare(bench, &gateway, &daemon)?;
    drop(daemon);

    // Mappings from a dump are verified with the kernel at each lookup.
    let daemon = machine::on(&bench.cpus.measured, || gateway.daemon(CONFIG));
    let mut found = Vec::new();
    for _ in 0..bench.rounds(5) {
        found.push(load_with_wrk(bench, &gateway, daemon.local_addr())?);
    }

    let row = compared.row("6", format!("lookups with {mappings} mappings, {CONNECTIONS} connections"));
    let Compared { ours, theirs, barely, body } = compared;
    let row = row
        .figure("pynatconnd, median", "ms", &of(&ours, |served| served.median))
        .figure("pynatconnd, 99 of 100", "ms", &p99(&ours))
        .figure("nginx, 99 of 100", "ms", &p99(&theirs))
        .figure("a bare hyper server, 99 of 100", "ms", &p99(&barely))
        .target("times nginx, 99 of 100", "×", &ratios(&p99(&ours), &p99(&theirs)), Target::AtMost(1.2))
        .figure("pynatconnd, mappings older than it", "a second", &rate(&found))
        .target(
            "times those that it saw begin",
            "×",
            &ratios(&rate(&found), &rate(&ours)),
            Target::AtLeast(0.65),
        )
        .note(format!(
            "each server on {} cores, wrk on {}; a body has {body} bytes",
            bench.cpus.measured.len(),
            bench.cpus.load.len(),
        ));
    Ok(vec![row])
}

/// Row 14: several threads of the daemon serve lookups at the same time.
pub fn shared(bench: &Bench) -> Result<Vec<Row>, String> {
    let mappings = bench.many(1_000_000);
    let bench = Bench { cpus: bench.cpus.shared(), ..*bench };
    let (gateway, daemon) = serving(&bench, mappings);
    let compared = compare(&bench, &gateway, &daemon)?;
    let row = compared
        .row("14", format!("lookups with {mappings} mappings, processors shared with wrk"))
        .note(format!("each server and wrk on the same {} cores", bench.cpus.measured.len()));
    Ok(vec![row])
}

/// Row 7.
pub fn under_load(bench: &Bench) -> Result<Vec<Row>, String> {
    let mappings = bench.many(1_000_000);
    let (gateway, daemon) = serving(bench, mappings);
    let listener = Listener::new(gateway.netns(), daemon.pid());
    let (mut at_rest, mut loaded, mut reached) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = 0;
    for _ in 0..bench.rounds(5) {
        at_rest.push(load_with_wrk(bench, &gateway, daemon.local_addr())?);

        let (served, last, rate) = load_while_flows_arrive(bench, &gateway, &daemon, next)?;
        next = last;
        reached.push(rate);
        loaded.push(served);
        // The short-lived connections must be gone, and their mappings removed, before the next round.
        thread::sleep(Duration::from_secs(if bench.quick { 1 } else { 15 }));
        listener.wait_drained();
    }
    let row = Row::new("7", format!("the same while {ARRIVING} flows a second arrive"))
        .figure("pynatconnd, flows arrive", "a second", &rate(&loaded))
        .figure("pynatconnd, at rest", "a second", &rate(&at_rest))
        .target("times at rest", "×", &ratios(&rate(&loaded), &rate(&at_rest)), Target::AtLeast(0.9))
        .figure("flows arrive, 99 of 100", "ms", &p99(&loaded))
        .figure("at rest, 99 of 100", "ms", &p99(&at_rest))
        .figure("flows that arrived", "a second", &reached)
        .note(format!("buffer found full {} times", listener.dropped()));
    Ok(vec![row])
}

/// Row 15.
pub fn with_history(bench: &Bench) -> Result<Vec<Row>, String> {
    let mappings = bench.many(1_000_000);
    // Without a history, and with one: at rest, and while connections arrive.
    let (mut at_rest, mut loaded) = (<[Vec<f64>; 2]>::default(), <[Vec<f64>; 2]>::default());
    let mut gaps = 0;
    for _ in 0..bench.rounds(5) {
        for with in [false, true] {
            let directory = tempfile::tempdir().map_err(|error| format!("a temporary directory: {error}"))?;
            let history = format!("[history]\npath = {}\n", directory.path().join("history").display());
            let config = format!("{CONFIG}{}", if with { &history } else { "" });
            let (gateway, daemon) = serving_as(bench, mappings, &config);
            at_rest[usize::from(with)].push(load_with_wrk(bench, &gateway, daemon.local_addr())?.rate);
            let (served, ..) = load_while_flows_arrive(bench, &gateway, &daemon, 0)?;
            loaded[usize::from(with)].push(served.rate);
            gaps += usize::from(daemon.stderr().contains("entries came faster"));
        }
    }
    let row = |what: String, [without, with]: &[Vec<f64>; 2]| {
        Row::new("15", what)
            .figure("with a history", "a second", with)
            .figure("without", "a second", without)
            .target("times without", "×", &ratios(with, without), Target::AtLeast(0.9))
    };
    let loaded = row(format!("the same while {ARRIVING} flows a second arrive"), &loaded)
        .note(format!("the history was too slow in {gaps} rounds"));
    Ok(vec![row(format!("lookups with {mappings} mappings and a history"), &at_rest), loaded])
}

/// Lookups while short-lived connections arrive, from this number on. Returns the next number and the connections per
/// second, too.
fn load_while_flows_arrive(
    bench: &Bench,
    gateway: &Gateway,
    daemon: &Daemon,
    first: u32,
) -> Result<(Served, u32, f64), String> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let arriving =
            scope.spawn(|| machine::on(&bench.cpus.load, || gateway.netns().enter(|| arrive(first, &stop))));
        let served = load_with_wrk(bench, gateway, daemon.local_addr());
        stop.store(true, Ordering::Relaxed);
        let (next, rate) = arriving.join().expect("connections can be created");
        Ok((served?, next, rate))
    })
}

/// Opens short-lived connections from this number on until `stop` is set. Returns the next number and the
/// connections per second.
fn arrive(first: u32, stop: &AtomicBool) -> (u32, f64) {
    let mut sender = Sender::new();
    let pace = Pace::new(ARRIVING);
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        let number = first + made;
        sender.make(&PASSING, number..number + TOGETHER);
        made += TOGETHER;
        pace.wait(made);
    }
    sender.check();
    (first + made, pace.reached(made))
}
