//! Lives of one tuple, one after another. The kernel often gives the next life of a tuple the same id again, because
//! the id is computed from the tuple and the entry's address in memory.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use lab::{Lab, flows, traffic, wait_until};
use nfct::{Protocol, Query, Tuple};
use nix::sys::signal::Signal;

use super::alone::alone;
use super::binary::DAEMON;
use super::heard::Heard;
use super::lookups::{Answer, client, dumps, fully_named, look_up, wait_dumped, wait_ready};
use super::race::{on_processor, processors};
use super::scene::{config, ctnetlink};

const DATA: &str = "del_delay = 30\nsweep_interval = 3600\n";

/// Translated connections, some of whose events the kernel does not send.
const RULES: &str = "\
table ip nat {
    chain postrouting {
        type nat hook postrouting priority 100
        ip saddr 192.168.7.0/24 oifname \"outside\" masquerade
    }
}
table inet masks {
    chain prerouting {
        type filter hook prerouting priority -150
        udp dport 1001 ct event set new
        udp dport 1002 ct event set destroy
    }
}
";
/// The server's port whose connections have no DESTROY event.
const NO_DESTROY: u16 = 1001;
/// The server's port whose connections have no NEW event.
const NO_NEW: u16 = 1002;

/// Longer than a NEW event may take to be applied.
const OVERTAKEN: Duration = Duration::from_millis(1100);

/// The wall clock as the daemon writes it.
fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// Inside host, public address and tuples of connection `number` to the server's port 443.
fn connection(lab: &Lab, number: u16) -> (SocketAddr, SocketAddr, (Tuple, Tuple)) {
    let (inside, public) = (lab.client_at(0, 30_000 + number), (lab.public(0), 50_000 + number).into());
    (inside, public, flows::source_nat(Protocol::Udp, inside, lab.server_at(443), public))
}

fn id(query: &mut Query, original: &Tuple) -> u32 {
    let entry = query.get_by_original(original).expect("the kernel answers");
    entry.unwrap_or_else(|| panic!("{original} has no entry")).id
}

/// The only live mapping of an answer began at `since` or later.
fn is_newer(answer: &Answer, since: &str) -> bool {
    let live: Vec<_> = answer.live_matches().collect();
    live.len() == 1 && live[0].opened.as_str() >= since
}

#[test]
fn each_life_is_heard_although_its_id_comes_again() {
    const LIVES: usize = 500;
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().build();
    let daemon = DAEMON.start(lab.gateway(), config(DATA));
    wait_ready(&lab, &daemon);
    let mut heard = Heard::listen(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    let (inside, public, tuples) = connection(&lab, 0);
    let (mut ids, mut last) = (Vec::new(), String::new());
    on_processor(processors()[0], || {
        for life in 0..=LIVES {
            last = now();
            flows::create(&mut query, &tuples);
            ids.push(id(&mut query, &tuples.0));
            assert!(life == LIVES || flows::remove(&mut query, &tuples.0));
        }
    });
    let answer = look_up(&mut client(&lab, &daemon), &fully_named(Protocol::Udp, public, lab.server_at(443)));
    heard.catch_up(&lab, &mut query);
    let lines = heard.lines(|mapping| mapping.inside() == inside);
    let again = ids.windows(2).filter(|ids| ids[0] == ids[1]).count();
    println!(
        "{} lives, {again} of them with the id of the one before; {} lines heard",
        LIVES + 1,
        lines.len()
    );
    assert!(again > 0, "no id came again");
    let events: Vec<&str> = lines.iter().map(|line| line.event.as_str()).collect();
    assert_eq!(events, ["opened", "closed"].repeat(LIVES + 1)[..2 * LIVES + 1]);
    for (number, life) in lines.chunks(2).enumerate() {
        assert_eq!(life[0].mapping.id, ids[number]);
        assert!(life.iter().all(|line| line.mapping.opened == life[0].mapping.opened), "{life:?}");
    }
    assert!(is_newer(&answer, &last), "opened at {last} or later: {answer:?}");
}

/// An entry that began while the kernel did not track events ends without a DESTROY event. Its tuple begins again
/// at once, with the same id.
#[test]
fn a_life_without_a_destroy_event_does_not_hide_the_next() {
    const CONNECTIONS: u16 = 5;
    const EVENTS: &str = "net.netfilter.nf_conntrack_events";
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().build();
    let mut query = ctnetlink(&lab);
    let cpu = processors()[0];
    let (mut again, mut faults) = (0, Vec::new());
    for number in 0..CONNECTIONS {
        let (inside, public, tuples) = connection(&lab, number);
        lab.gateway().sysctl(EVENTS, "0");
        let before = on_processor(cpu, || {
            flows::create(&mut query, &tuples);
            id(&mut query, &tuples.0)
        });
        lab.gateway().sysctl(EVENTS, "1");
        let daemon = DAEMON.start(lab.gateway(), config(DATA));
        wait_ready(&lab, &daemon);
        let mut heard = Heard::listen(&lab, &daemon);
        // A NEW event may have been queued just before the dump has found the same life.
        thread::sleep(OVERTAKEN);
        let mut since = String::new();
        let after = on_processor(cpu, || {
            assert!(flows::remove(&mut query, &tuples.0));
            since = now();
            flows::create(&mut query, &tuples);
            id(&mut query, &tuples.0)
        });
        again += usize::from(before == after);
        let named = fully_named(Protocol::Udp, public, lab.server_at(443));
        let answer = look_up(&mut client(&lab, &daemon), &named);
        heard.catch_up(&lab, &mut query);
        let names = heard.names(|mapping| mapping.inside() == inside);
        if names != ["closed", "opened"] || !is_newer(&answer, &since) {
            faults
                .push(format!("{inside}, ids {before}, {after}: heard {names:?}, since {since}: {answer:?}"));
        }
    }
    println!("{CONNECTIONS} second lives, {again} with the id of the first: {} hidden", faults.len());
    assert!(again > 0, "no id came again");
    assert!(faults.is_empty(), "{}", faults[..faults.len().min(3)].join("\n"));
}

/// The same for a DESTROY event that a rule masks.
fn begin_again_after_a_masked_end(connections: u16, age: Duration, timestamps: &str) {
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().ruleset(RULES).build();
    lab.gateway().sysctl("net.netfilter.nf_conntrack_timestamp", timestamps);
    let daemon = DAEMON.start(lab.gateway(), config(DATA));
    wait_dumped(&lab, &daemon);
    let mut heard = Heard::listen(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    let target = lab.server_at(NO_DESTROY);
    let server = lab.udp_server(target);
    let (mut again, mut faults) = (0, Vec::new());
    for number in 0..connections {
        let inside = lab.client_at(0, 30_000 + number);
        let socket = lab.udp_client(inside);
        let original = flows::tuple(Protocol::Udp, inside, target);
        let mut since = String::new();
        let (ids, public) = on_processor(processors()[0], || {
            traffic::udp_exchange(&socket, &server);
            let before = id(&mut query, &original);
            thread::sleep(age);
            assert!(flows::remove(&mut query, &original));
            since = now();
            let public = traffic::udp_exchange(&socket, &server);
            ([before, id(&mut query, &original)], public)
        });
        again += usize::from(ids[0] == ids[1]);
        let answer = look_up(&mut client(&lab, &daemon), &fully_named(Protocol::Udp, public, target));
        heard.catch_up(&lab, &mut query);
        let names = heard.names(|mapping| mapping.inside() == inside);
        if names != ["opened", "closed", "opened"] || !is_newer(&answer, &since) {
            faults.push(format!("{inside}, ids {ids:?}: heard {names:?}, since {since}: {answer:?}"));
        }
    }
    println!(
        "{connections} second lives after a masked end, {again} with the id of the first: {} hidden",
        faults.len()
    );
    assert!(again > 0, "no id came again");
    assert!(faults.is_empty(), "{}", faults[..faults.len().min(3)].join("\n"));
}

#[test]
fn a_masked_end_does_not_hide_a_life_that_begins_later() {
    begin_again_after_a_masked_end(5, OVERTAKEN, "0");
}

/// The kernel says when a life began.
#[test]
fn a_masked_end_does_not_hide_the_next_life_if_the_kernel_keeps_timestamps() {
    begin_again_after_a_masked_end(32, Duration::from_millis(2), "1");
}

/// A NEW event does not carry the kernel's start time, and the daemon may receive it later. A dump and a query do
/// carry it.
#[test]
fn a_start_time_that_a_dump_or_a_query_tells_is_no_other_life() {
    const CONNECTIONS: u16 = 50;
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().build();
    lab.gateway().sysctl("net.netfilter.nf_conntrack_timestamp", "1");
    let daemon = DAEMON.start(lab.gateway(), config(DATA));
    wait_ready(&lab, &daemon);
    let mut heard = Heard::listen(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    daemon.stop();
    for number in 0..CONNECTIONS {
        flows::create(&mut query, &connection(&lab, number).2);
    }
    // The time by which the daemon learns of them too late.
    thread::sleep(Duration::from_millis(50));
    daemon.go_on();
    let mut asker = client(&lab, &daemon);
    let before = dumps(&mut asker);
    daemon.rewrite_config(&config(&DATA.replace("del_delay = 30", "del_delay = 31")));
    daemon.signal(Signal::SIGHUP);
    wait_until("the kernel's table is read again", || dumps(&mut asker) > before);
    let named = |number| fully_named(Protocol::Udp, connection(&lab, number).1, lab.server_at(443));
    let answers: Vec<Answer> = (0..CONNECTIONS).map(|number| look_up(&mut asker, &named(number))).collect();
    heard.catch_up(&lab, &mut query);
    let mut faults = Vec::new();
    for (number, answer) in (0..CONNECTIONS).zip(answers) {
        let inside = connection(&lab, number).0;
        let names = heard.names(|mapping| mapping.inside() == inside);
        if names != ["opened"] || answer.matches.len() != 1 {
            faults.push(format!("{inside}: heard {names:?}: {answer:?}"));
        }
    }
    println!("{CONNECTIONS} lives and a dump with start times: {} taken for others", faults.len());
    assert!(faults.is_empty(), "{}", faults[..faults.len().min(3)].join("\n"));
}

/// A rule masks the NEW event. The DESTROY event alone tells whose port it was.
#[test]
fn clients_hear_of_a_mapping_whose_new_event_was_not_sent() {
    const CONNECTIONS: u16 = 20;
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().ruleset(RULES).build();
    let daemon = DAEMON.start(lab.gateway(), config(DATA));
    wait_dumped(&lab, &daemon);
    let mut heard = Heard::listen(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    let target = lab.server_at(NO_NEW);
    let server = lab.udp_server(target);
    let mut asker = client(&lab, &daemon);
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let inside = lab.client_at(0, 30_000 + number);
            let socket = lab.udp_client(inside);
            let public = traffic::udp_exchange(&socket, &server);
            let mut client = client(&lab, &daemon);
            let fields = format!("nat_port={}&wait=8000", public.port());
            let waiting = thread::spawn(move || {
                let begun = Instant::now();
                (look_up(&mut client, &fields), begun.elapsed())
            });
            (inside, waiting)
        })
        .collect();
    // Requests that come later are answered: those before them have begun to wait.
    (0..50).for_each(|_| _ = look_up(&mut asker, "nat_port=1"));
    let early = connections.iter().filter(|(_, waiting)| waiting.is_finished()).count();
    for (inside, _) in &connections {
        assert!(flows::remove(&mut query, &flows::tuple(Protocol::Udp, *inside, target)));
    }
    heard.catch_up(&lab, &mut query);
    wait_until("all lookups are answered", || connections.iter().all(|(_, waiting)| waiting.is_finished()));
    let (mut unheard, mut unwaited, mut longest) = (Vec::new(), Vec::new(), Duration::ZERO);
    for (inside, waiting) in connections {
        let names = heard.names(|mapping| mapping.inside() == inside);
        if names != ["opened", "closed"] {
            unheard.push(format!("{inside}: {names:?}"));
        }
        let (answer, took) = waiting.join().expect("the lookup was answered");
        longest = longest.max(took);
        // At the end of the time the daemon looks once more, which is not to hear.
        let in_time = took < Duration::from_secs(7);
        if !in_time || answer.best().is_none_or(|best| best.inside() != inside) {
            unwaited.push(format!("{inside}: {answer:?} after {took:.1?}"));
        }
    }
    println!(
        "{CONNECTIONS} mappings without NEW, {early} found before their end: {} not heard by events, {} not by \
         lookups that wait, the longest for {longest:.1?}",
        unheard.len(),
        unwaited.len()
    );
    unheard.truncate(3);
    unwaited.truncate(3);
    assert!(unheard.is_empty() && unwaited.is_empty(), "{unheard:#?}\n{unwaited:#?}");
}
