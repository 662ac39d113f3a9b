//! What ended while events were lost or off, or before the daemon started: a mapping of which the daemon cannot know. It does not say
//! for sure that there was none until whatever ended then would no longer be answered anyway.

use std::time::{Duration, Instant};

use lab::http::Stream;
use lab::{Daemon, Lab, flows, wait_until, wait_within};
use nfct::{Protocol, Query, Tuple};

use super::alone::alone;
use super::binary::DAEMON;
use super::scene::{PORT, Questions, RESYNC, Scene, UdpFlow, config, ctnetlink, set_events};

/// A buffer for a handful of events. `del_delay` is longer than a legacy lookup waits.
const SMALL: &str = "del_delay = 8\n[netlink]\nreceive_buffer = 4K\nreceive_buffer_max = 4K\n";
const DEL_DELAY: Duration = Duration::from_secs(8);

/// Entries that overrun such a buffer.
const MANY: u16 = 3000;

fn numbered(lab: &Lab, number: u16) -> (Tuple, Tuple) {
    let src = ([10, 0, 0, 2], 10_000 + number).into();
    flows::source_nat(Protocol::Tcp, src, lab.server_at(9999), (lab.public(0), 10_000 + number).into())
}

/// What a daemon misses while it is stopped.
fn overrun(lab: &Lab, query: &mut Query, daemon: &Daemon, meanwhile: impl FnOnce(&mut Query)) -> Instant {
    daemon.stop();
    (0..MANY).for_each(|number| flows::create(query, &numbered(lab, number)));
    meanwhile(query);
    let lost_at = Instant::now();
    daemon.go_on();
    daemon.wait_for_line("conntrack events lost");
    lost_at
}

#[test]
fn after_a_loss_the_recently_closed_are_unknown() {
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let Scene { lab, server, daemon } = Scene::build(1, config(SMALL));
    let mut questions = Questions::to(&lab, &daemon);
    questions.wait_ready();
    let mut query = ctnetlink(&lab);
    let known = UdpFlow::begin(&lab, lab.client_at(0, 40_001), &server);
    assert_eq!(questions.look_up(&known.named()).live(), [known.src]);
    let mut unknown = None;
    let lost_at = overrun(&lab, &mut query, &daemon, |query| {
        let flow = UdpFlow::begin(&lab, lab.client_at(0, 40_002), &server);
        flow.delete(query);
        known.delete(query);
        unknown = Some(flow);
    });
    let unknown = unknown.expect("it has begun");
    // From the first answer on.
    let first = questions.look_up(&unknown.named());
    questions.wait_ready();
    let ready_after = lost_at.elapsed();
    let after_resync = questions.look_up(&unknown.named());
    let live = questions.look_up(&format!("{}&state=live", unknown.named()));
    let by_port = questions.look_up(&format!("nat_port={}&state=live", unknown.public.port()));
    let (auth, auth_complete) = questions.auth(unknown.public, Some(unknown.server));
    let of_known = questions.look_up(&format!("{}&state=live", known.named()));
    let legacy = questions.legacy(unknown.public.port());
    let legacy_after = lost_at.elapsed();
    wait_within(DEL_DELAY + RESYNC, "what has ended is known again", || {
        let answer = questions.look_up(&unknown.named());
        assert!(answer.matches.is_empty(), "{answer:?}");
        answer.complete
    });
    let complete_after = lost_at.elapsed();
    println!(
        "a flow that began and ended during a loss: at first complete {}, after the resync of {ready_after:.1?} {}, for good after \
         {complete_after:.1?}; live ones {} and {}; auth {auth_complete}; legacy {legacy:?} after {legacy_after:.1?}",
        first.complete, after_resync.complete, live.complete, by_port.complete
    );
    assert!(first.live().is_empty() && of_known.live().is_empty());
    assert!(!first.complete && !after_resync.complete, "a mapping that has just ended is unknown");
    assert!(live.complete && by_port.complete && of_known.complete, "all that is live is known");
    assert_eq!((auth, auth_complete), (None, false));
    // Within 5 seconds it cannot know; but on a machine so busy that `del_delay` passed meanwhile, it can.
    assert!(legacy == Err(503) || legacy_after > DEL_DELAY, "{legacy:?}");
    assert!(complete_after >= DEL_DELAY);
    // What has ended would no longer be answered.
    assert_eq!(questions.legacy(unknown.public.port()), Err(404));
}

#[test]
fn after_a_time_without_events_the_recently_closed_are_unknown() {
    const DEL_DELAY: Duration = Duration::from_secs(5);
    const DUMPS: &str = "pynatconnd_resyncs_total{outcome=\"whole\"}";
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let Scene { lab, server, daemon } = Scene::build(1, config("del_delay = 5\n"));
    let mut questions = Questions::to(&lab, &daemon);
    questions.wait_ready();
    wait_within(DEL_DELAY + RESYNC, "all that has ended is known", || {
        questions.look_up("nat_port=1").complete
    });
    set_events(&lab, "0");
    let before = questions.metric(DUMPS);
    assert!(!questions.look_up("nat_port=1&state=live").complete);
    // The next dump is five seconds later.
    wait_until("the kernel's table is read", || questions.metric(DUMPS) > before);
    let unknown = UdpFlow::begin(&lab, lab.client_at(0, 40_001), &server);
    unknown.delete(&mut ctnetlink(&lab));
    let told_again = Instant::now();
    set_events(&lab, "1");
    questions.wait_ready();
    let absent = questions.look_up(&unknown.named());
    let live = questions.look_up(&format!("{}&state=live", unknown.named()));
    let legacy = questions.legacy(unknown.public.port());
    let legacy_after = told_again.elapsed();
    wait_within(DEL_DELAY + RESYNC, "what has ended is known again", || {
        questions.look_up(&unknown.named()).complete
    });
    println!(
        "a flow that began and ended while events were off: complete {}, live ones {}; legacy {legacy:?} after \
         {legacy_after:.1?}; for good after {:.1?}",
        absent.complete,
        live.complete,
        told_again.elapsed()
    );
    assert!(absent.matches.is_empty() && live.matches.is_empty(), "{absent:?}");
    assert!(live.complete, "all that is live is known");
    assert!(legacy_after > DEL_DELAY || (legacy, absent.complete) == (Err(503), false), "{legacy:?}");
    assert_eq!(questions.legacy(unknown.public.port()), Err(404));
}

#[test]
fn listeners_hear_of_a_loss_before_anything_later() {
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let Scene { lab, server, daemon } = Scene::build(1, config(SMALL));
    let mut questions = Questions::to(&lab, &daemon);
    questions.wait_ready();
    let mut query = ctnetlink(&lab);
    let mut events = Stream::connect(lab.gateway(), daemon.local_addr(), "/v1/events?protocol=udp", &[]);
    let before = UdpFlow::begin(&lab, lab.client_at(0, 40_001), &server);
    let line = events.next_json();
    assert_eq!(
        (line["event"].as_str(), line["mapping"]["src_port"].as_u64()),
        (Some("opened"), Some(40_001))
    );
    overrun(&lab, &mut query, &daemon, |query| {
        UdpFlow::begin(&lab, lab.client_at(0, 40_002), &server).delete(query);
    });
    questions.wait_ready();
    before.delete(&mut query);
    let after = UdpFlow::begin(&lab, lab.client_at(0, 40_003), &server);
    let mut heard = Vec::new();
    while heard.last().is_none_or(|line: &serde_json::Value| line["mapping"]["src_port"] != 40_003) {
        heard.push(events.next_json());
    }
    let lost = heard.iter().position(|line| line["event"] == "lost");
    println!("{} was heard after a loss, `lost` at {lost:?}: {:?}", heard.len(), lost.map(|at| &heard[at]));
    assert_eq!(questions.look_up(&after.named()).live(), [after.src]);
    let lost = &heard[lost.expect("listeners hear that the kernel's events were lost")];
    assert_eq!(lost["cause"], "kernel", "{lost}");
    assert!(lost["count"].as_u64().is_some_and(|count| count > 0), "{lost}");
    // The later ones come after it: the end of the first flow, which was told, and the beginning of the last.
    let later = heard.iter().position(|line| line["event"] != "lost");
    assert_eq!(heard[0]["event"], "lost", "a later line came before it, at {later:?}");
}

#[test]
fn after_a_start_only_what_is_live_is_known_at_once() {
    const DEL_DELAY: Duration = Duration::from_secs(3);
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().build();
    let server = lab.udp_server(lab.server_at(PORT));
    let old = UdpFlow::begin(&lab, lab.client_at(0, 40_001), &server);
    let ended = UdpFlow::begin(&lab, lab.client_at(0, 40_002), &server);
    ended.delete(&mut ctnetlink(&lab));
    let started = Instant::now();
    let daemon = DAEMON.start(lab.gateway(), config("del_delay = 3\n"));
    let mut questions = Questions::to(&lab, &daemon);
    questions.wait_ready();
    let by_port = |flow: &UdpFlow| format!("nat_port={}", flow.public.port());
    let found = [questions.look_up(&old.named()), questions.look_up(&by_port(&old))];
    let live = questions.look_up(&format!("{}&state=live", by_port(&ended)));
    let absent = questions.look_up(&ended.named());
    let asked_after = started.elapsed();
    wait_within(DEL_DELAY + RESYNC, "what has ended is known", || questions.look_up(&ended.named()).complete);
    let complete_after = started.elapsed();
    println!(
        "{asked_after:.1?} after a start: found ones complete {:?}, no live one {}, none at all {}; for good after {complete_after:.1?}",
        found.each_ref().map(|answer| answer.complete),
        live.complete,
        absent.complete
    );
    assert!(found.iter().all(|answer| answer.complete && answer.live() == [old.src]), "{found:?}");
    assert!(live.complete && live.matches.is_empty(), "{live:?}");
    assert!(absent.matches.is_empty() && (!absent.complete || asked_after > DEL_DELAY), "{absent:?}");
    assert!(complete_after >= DEL_DELAY);
}
