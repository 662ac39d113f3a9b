//! Another listener asks for reliable delivery and does not read: the kernel delivers events that this listener
//! could not get again and again, to all listeners.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Lab, StopOnDrop, flows, wait_until};
use nfct::{EventKind, Events, Family, Groups, Notification, Protocol, Query, Received, Tuple};

use super::alone::alone;
use super::binary::DAEMON;
use super::heard::Heard;
use super::lookups::{client, fully_named, look_up, wait_ready};
use super::scene::{config, ctnetlink};

const DATA: &str = "del_delay = 1\nsweep_interval = 3600\n";
const DEL_DELAY: Duration = Duration::from_secs(1);

/// A listener with reliable delivery whose receive buffer is full. The kernel keeps the entries whose end it could
/// not report to this listener.
struct Stuck {
    events: Events,
    read: Instant,
}

impl Stuck {
    fn listen(lab: &Lab, query: &mut Query, groups: Groups) -> Self {
        let events = lab.gateway().enter(|| Events::subscribe(groups)).expect("subscribed");
        events.set_reliable(true).expect("the kernel has reliable delivery");
        events.set_receive_buffer(4096).expect("the buffer can be set");
        for number in 0..100 {
            let filling = connection(lab, number, 444).2;
            flows::create(query, &filling);
            assert!(flows::remove(query, &filling.0));
        }
        Self { events, read: Instant::now() }
    }

    /// Reads what fits into the receive buffer, from time to time: the kernel then repeats the next events.
    fn read_slowly(&mut self) {
        if self.read.elapsed() > Duration::from_millis(20) {
            self.read = Instant::now();
            while self.events.receive(|_| ()).expect("events can be received") != Received::Nothing {}
        }
    }
}

/// Inside host, public address and tuples of a connection to the server.
fn connection(lab: &Lab, number: u16, to: u16) -> (SocketAddr, SocketAddr, (Tuple, Tuple)) {
    let (inside, public) = (lab.client_at(0, 30_000 + number), (lab.public(0), 50_000 + number).into());
    (inside, public, flows::source_nat(Protocol::Udp, inside, lab.server_at(to), public))
}

/// How often each event of each original tuple comes, until `over`. Events that come again may never stop.
fn count(mut events: Events, over: &AtomicBool) -> HashMap<(EventKind, Tuple), u32> {
    let mut counts = HashMap::new();
    let mut left = None;
    while left != Some(0) {
        if left.is_none() && over.load(Ordering::Relaxed) {
            left = Some(events.most_waiting().expect("the socket is open"));
        }
        match events.next_within(Duration::from_millis(50)).expect("events can be received") {
            Some(Notification::Event(event)) => {
                *counts.entry((event.kind, event.flow.original)).or_default() += 1
            }
            Some(Notification::Overrun) => panic!("the receive buffer of the observer is too small"),
            Some(_) => {}
            None if left.is_some() => break,
            None => {}
        }
        left = left.map(|left| left.saturating_sub(1));
    }
    counts
}

fn observer(lab: &Lab) -> Events {
    let events =
        lab.gateway().enter(|| Events::subscribe(Groups::NEW | Groups::DESTROY)).expect("subscribed");
    events.set_receive_buffer(64 << 20).expect("the buffer can be set");
    events
}

/// The kernel repeats one event all the time. Once the listener reads, it repeats all the others.
fn end_mappings_of_a_stuck_listener(reads_at_last: bool) {
    const CONNECTIONS: u16 = 300;
    /// Connections that begin again while the DESTROY event of the first life comes again.
    const AGAIN: u16 = 100;
    const LASTS: Duration = Duration::from_secs(8);
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().build();
    let daemon = DAEMON.start(lab.gateway(), config(DATA));
    wait_ready(&lab, &daemon);
    let mut heard = Heard::listen(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    let events = observer(&lab);
    let mut stuck = Stuck::listen(&lab, &mut query, Groups::DESTROY);
    let over = AtomicBool::new(false);
    let (counts, mut found_again, mut not_live, lookups) = thread::scope(|scope| {
        let _stop = StopOnDrop(&over);
        let observer = scope.spawn(|| count(events, &over));
        let all: Vec<_> = (0..CONNECTIONS).map(|number| connection(&lab, number, 443)).collect();
        all.iter().for_each(|(_, _, tuples)| flows::create(&mut query, tuples));
        all.iter().for_each(|(_, _, tuples)| assert!(flows::remove(&mut query, &tuples.0)));
        let (again, gone) = all.split_at(usize::from(AGAIN));
        again.iter().for_each(|(_, _, tuples)| flows::create(&mut query, tuples));

        wait_until("the client hears of every end", || {
            heard
                .names(|mapping| mapping.target().port() == 443)
                .iter()
                .filter(|name| *name == "closed")
                .count()
                >= usize::from(CONNECTIONS)
        });
        let ended: HashMap<SocketAddr, Instant> = heard
            .lines(|mapping| mapping.target().port() == 443)
            .into_iter()
            .filter(|line| line.event == "closed")
            .map(|line| (line.mapping.inside(), line.at))
            .collect();
        let (mut found_again, mut not_live, mut lookups) = (Vec::new(), Vec::new(), 0);
        let mut asker = client(&lab, &daemon);
        let begun = Instant::now();
        while begun.elapsed() < LASTS {
            if reads_at_last && begun.elapsed() > LASTS / 2 {
                stuck.read_slowly();
            }
            for (inside, public, _) in gone {
                if ended[inside].elapsed() < DEL_DELAY {
                    continue;
                }
                lookups += 1;
                let answer = look_up(&mut asker, &format!("nat_port={}", public.port()));
                if answer.best().is_some() {
                    found_again.push((*inside, ended[inside].elapsed(), answer));
                }
            }
            for (inside, public, _) in again {
                lookups += 1;
                let named = fully_named(Protocol::Udp, *public, lab.server_at(443));
                let answer = look_up(&mut asker, &named);
                if answer.live().first() != Some(inside) {
                    not_live.push((*inside, answer));
                }
            }
        }
        over.store(true, Ordering::Relaxed);
        (observer.join().expect("events were received"), found_again, not_live, lookups)
    });
    let mut query = ctnetlink(&lab);
    let waiting = query.dump_dying().expect("the entries can be read").count();
    heard.catch_up(&lab, &mut query);
    let mut unheard = Vec::new();
    for number in 0..CONNECTIONS {
        let inside = connection(&lab, number, 443).0;
        let names = heard.names(|mapping| mapping.inside() == inside && mapping.target().port() == 443);
        let right: &[&str] =
            if number < AGAIN { &["opened", "closed", "opened"] } else { &["opened", "closed"] };
        if names != right {
            unheard.push(format!("{inside}: {names:?}"));
        }
    }
    let repeated = counts.iter().filter(|((kind, _), times)| *kind == EventKind::Destroy && **times > 1);
    let (flows, times) = repeated.fold((0, 0), |(flows, all), (_, times)| (flows + 1, all + times - 1));
    println!(
        "{flows} DESTROY events came again, {times} times; {waiting} entries wait for the listener; of {lookups} \
         lookups {} found an ended mapping after del_delay, {} did not find a live one; lines of {} mappings wrong",
        found_again.len(),
        not_live.len(),
        unheard.len()
    );
    assert!(flows > 0, "no event came again");
    found_again.truncate(3);
    not_live.truncate(3);
    unheard.truncate(3);
    assert!(
        found_again.is_empty() && not_live.is_empty() && unheard.is_empty(),
        "{found_again:#?}\n{not_live:#?}\n{unheard:#?}"
    );
}

#[test]
fn a_destroy_event_that_comes_again_and_again_revives_nothing_and_ends_nothing() {
    end_mappings_of_a_stuck_listener(false);
}

#[test]
fn a_destroy_event_that_comes_again_later_revives_nothing_and_ends_nothing() {
    end_mappings_of_a_stuck_listener(true);
}

#[test]
fn a_new_event_that_comes_again_opens_nothing() {
    const PACKETS: u32 = 5000;
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().build();
    let daemon = DAEMON.start(lab.gateway(), config(DATA));
    wait_ready(&lab, &daemon);
    let mut heard = Heard::listen(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    let events = observer(&lab);
    let stuck = Stuck::listen(&lab, &mut query, Groups::NEW | Groups::DESTROY);
    let over = AtomicBool::new(false);
    let inside = lab.client_at(0, 40_000);
    let target = lab.server_at(443);
    let original = flows::tuple(Protocol::Udp, inside, target);
    let counts = thread::scope(|scope| {
        let _stop = StopOnDrop(&over);
        let observer = scope.spawn(|| count(events, &over));
        let socket = lab.udp_client(inside);
        let _server = lab.udp_server(target);
        for _ in 0..PACKETS {
            socket.send_to(b"again", target).expect("the way is open");
        }
        assert!(query.get_by_original(&original).expect("the kernel answers").is_some());
        over.store(true, Ordering::Relaxed);
        observer.join().expect("events were received")
    });
    drop(stuck);
    heard.catch_up(&lab, &mut query);
    let opened = heard.names(|mapping| mapping.inside() == inside);
    let times = counts.get(&(EventKind::New, original)).copied().unwrap_or_default();
    println!("{PACKETS} packets of one flow: {times} NEW events, {} lines", opened.len());
    assert!(times > 1, "the NEW event did not come again");
    assert_eq!(opened, ["opened"]);
    query.flush(Family::Any).expect("the table can be emptied");
}
