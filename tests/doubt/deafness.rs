//! A daemon that the kernel tells nothing, or only a part: events switched off while it runs, the switch hidden from
//! it, events masked by rules that it cannot read.

use std::thread;
use std::time::{Duration, Instant};

use lab::{Lab, wait_until, wait_within};
use nix::sys::signal::Signal;

use super::alone::{alone, amount};
use super::binary::DAEMON;
use super::masks::has;
use super::scene::{PORT, Questions, RESYNC, Scene, UdpFlow, config, ctnetlink, set_events};

#[test]
fn events_switched_off_count_from_the_next_answer_on() {
    const ROUNDS: u32 = 5;
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let Scene { lab, server, daemon } = Scene::build(1, config(""));
    let mut questions = Questions::to(&lab, &daemon);
    let (mut complete, mut ready, mut absent, mut missed) = (0, 0, 0, 0);
    let mut legacy = Ok(server.local_addr().expect("it is bound"));
    for round in 0..ROUNDS {
        questions.wait_ready();
        wait_within(RESYNC, "what is live is known", || questions.look_up("nat_port=1&state=live").complete);
        set_events(&lab, "0");
        complete += u32::from(questions.look_up("nat_port=1&state=live").complete);
        set_events(&lab, "1");
        questions.wait_ready();
        set_events(&lab, "0");
        ready += u32::from(questions.is_ready());
        let first = 40_001 + 100 * u16::try_from(round).expect("it is small");
        let flows = UdpFlow::begin_all(&lab, 0, first..first + 20, &server);
        // Before anything is read again, the kernel knows them.
        absent += flows.iter().filter(|flow| questions.look_up(&flow.named()).live() != [flow.src]).count();
        if round == 0 {
            legacy = questions.legacy(1);
        }
        set_events(&lab, if round % 2 == 0 { "1" } else { "2" });
        questions.wait_ready();
        for flow in &flows {
            let answer = questions.look_up(&format!("nat_port={}&state=live", flow.public.port()));
            missed += u32::from(answer.live() != [flow.src] || !answer.complete);
        }
    }
    println!(
        "events switched off {ROUNDS} times: the next answer called complete {complete}, the table ready {ready}; of {} flows \
         {absent} not found by name, {missed} not by port after the resync; the legacy route said {legacy:?}",
        20 * ROUNDS
    );
    assert_eq!((complete, ready, absent, missed, legacy), (0, 0, 0, 0, Err(503)));
}

/// Runs a program with no parameter of connection tracking to be seen.
const HIDDEN: &[&str] =
    &["unshare", "-m", "sh", "-c", "mount -t tmpfs none /proc/sys/net/netfilter && exec \"$@\"", "sh"];

#[test]
fn without_the_switch_to_read_only_an_event_shows_that_the_kernel_reports() {
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().build();
    let server = lab.udp_server(lab.server_at(PORT));
    let old = UdpFlow::begin(&lab, lab.client_at(0, 40_001), &server);
    set_events(&lab, "0");
    let daemon = DAEMON.builder(config("")).under(HIDDEN.iter().copied()).start(lab.gateway());
    let mut questions = Questions::to(&lab, &daemon);
    wait_until("a dump has found the old flow", || !questions.live_mappings("").is_empty());
    let unheard = UdpFlow::begin(&lab, lab.client_at(0, 40_002), &server);
    let called_complete = (0..200)
        .filter(|_| {
            thread::sleep(Duration::from_millis(5));
            questions.is_ready() || questions.look_up("nat_port=1&state=live").complete
        })
        .count();
    let found = questions.look_up(&unheard.named()).live() == [unheard.src];
    println!(
        "switch hidden, and off: called complete {called_complete} of 200 times; the old flow is {}, the new one {}",
        if questions.look_up(&old.named()).live() == [old.src] { "found" } else { "absent" },
        if found { "found" } else { "absent" }
    );
    assert_eq!((called_complete, found), (0, true));
    // The first event is that of a flow that begins now.
    set_events(&lab, "1");
    let heard = UdpFlow::begin(&lab, lab.client_at(0, 40_003), &server);
    questions.wait_ready();
    for flow in [&old, &unheard, &heard] {
        assert_eq!(questions.look_up(&format!("nat_port={}", flow.public.port())).live(), [flow.src]);
    }
}

/// One of the rules of iptables' own kernel interface, which no listener to nftables hears of.
struct LegacyMask<'a> {
    lab: &'a Lab,
    told: &'static str,
}

impl<'a> LegacyMask<'a> {
    /// Tells only these events of the first inside host's connections.
    fn set(lab: &'a Lab, told: &'static str) -> Self {
        let mask = Self { lab, told };
        mask.apply("-A");
        mask
    }

    fn apply(&self, verb: &str) {
        let rule =
            ["-t", "raw", verb, "PREROUTING", "-s", "192.168.7.2", "-j", "CT", "--ctevents", self.told];
        self.lab.gateway().run("iptables-legacy", &rule);
    }

    fn remove(self) {
        self.apply("-D");
    }
}

const NEW: &str = "pynatconnd_unreported_total{kind=\"new\"}";
const DESTROY: &str = "pynatconnd_unreported_total{kind=\"destroy\"}";

/// `told` is the only event that is told of the first inside host. `metric` counts what a sweep finds instead.
fn check_evidence(told: &'static str, metric: &str) {
    const FLOWS: u16 = 20;
    if !lab::require() || !has("iptables-legacy") {
        return;
    }
    let _alone = alone();
    let Scene { lab, server, daemon } = Scene::build(2, config("sweep_interval = 300\n"));
    let mut questions = Questions::to(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    questions.wait_ready();
    let before = [NEW, DESTROY].map(|name| questions.metric(name));
    let warnings = || {
        let log = daemon.stderr();
        log.lines().filter(|line| line.contains("WARN") && line.contains("event")).count()
    };
    let warned_before = warnings();
    let mask = LegacyMask::set(&lab, told);
    let flows = UdpFlow::begin_all(&lab, 0, 40_001..40_001 + FLOWS, &server);
    if told == "new" {
        flows.iter().for_each(|flow| flow.delete(&mut query));
    }
    // The kernel's table is read again. Later sweeps come by themselves.
    daemon.rewrite_config(&config("sweep_interval = 200\n"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_line("configuration reloaded");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) && questions.is_ready() {
        thread::sleep(Duration::from_millis(2));
    }
    let (is_noticed, took) = (!questions.is_ready(), begun.elapsed());
    let after = questions.metric(metric);
    // While only a part is told, everything is verified, and the table is swept every five seconds.
    let later = UdpFlow::begin_all(&lab, 0, 41_001..41_001 + FLOWS, &server);
    let by_port = |flow: &UdpFlow| format!("nat_port={}", flow.public.port());
    let begun = later.iter().map(|flow| questions.look_up(&by_port(flow)));
    let silent = begun.filter(|answer| answer.live().is_empty() && answer.complete).count();
    let is_listed = |questions: &mut Questions| {
        let listed: Vec<_> = questions.live_mappings("").into_iter().map(|one| one.inside()).collect();
        later.iter().all(|flow| listed.contains(&flow.src))
    };
    let begun = Instant::now();
    while is_noticed && !is_listed(&mut questions) {
        assert!(begun.elapsed() < RESYNC, "the table is not swept every five seconds");
        thread::sleep(Duration::from_millis(20));
    }
    if told == "destroy" {
        // That is evidence too, so the time after which events are trusted again begins anew.
        let all = f64::from(2 * FLOWS);
        wait_within(RESYNC, "later flows are evidence", || {
            questions.metric(NEW).is_some_and(|count| count >= all)
        });
    }
    later.iter().for_each(|flow| flow.delete(&mut query));
    let live = later.iter().filter(|flow| !questions.look_up(&by_port(flow)).live().is_empty()).count();
    let logged = warnings() - warned_before;
    println!(
        "only {told} told: noticed: {is_noticed}, after {took:.1?}; {metric} {after:?}, {logged} warnings; of {FLOWS} begun \
         later {silent} absent though complete, ended {live} called live"
    );
    assert!(is_noticed, "the table is still called complete");
    assert_eq!(before, [Some(0.0); 2]);
    assert!(after.is_some_and(|count| count >= f64::from(FLOWS)), "{after:?}");
    assert!(logged > 0, "no line of the log says it");
    assert_eq!((silent, live), (0, 0));
    // When all is told again, the table becomes complete again, after a minute in which nothing was missing.
    mask.remove();
    if amount(false, true) {
        if told == "destroy" {
            flows.iter().for_each(|flow| flow.delete(&mut query));
        }
        wait_within(Duration::from_secs(120), "all is told again", || questions.is_ready());
    }
}

#[test]
fn what_a_sweep_finds_that_no_destroy_told_is_evidence() {
    check_evidence("new", DESTROY);
}

#[test]
fn what_a_sweep_finds_that_no_new_told_is_evidence() {
    check_evidence("destroy", NEW);
}
