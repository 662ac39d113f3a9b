//! The truth: what the DHCP clients of the devices say.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::path::PathBuf;

use crate::Millis;

/// For how long a client can have an address before its script says so.
const SLOW: Millis = 3_000;

/// What the script of a client wrote.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// When the script began.
    pub(crate) begun: Millis,
    /// When it had done what it was to do.
    pub(crate) done: Millis,
    /// The number of the session.
    pub(crate) session: usize,
    pub(crate) has: Option<IpAddr>,
    /// The length of the lease, in milliseconds.
    pub(crate) lease: Millis,
}

/// A run of a DHCP client.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) device: usize,
    pub(crate) name: String,
    pub(crate) started: Millis,
    /// When it was told to release its address.
    pub(crate) released: Option<Millis>,
    /// When it was killed.
    pub(crate) killed: Option<Millis>,
}

/// A device had an address.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    pub(crate) device: usize,
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// It did not have it before.
    pub(crate) earliest: Millis,
    /// It certainly had it from then on,
    pub(crate) from: Millis,
    /// until then.
    pub(crate) to: Millis,
    /// It did not have it after that.
    pub(crate) latest: Millis,
}

impl Hold {
    /// Whether it can have had the address at some moment of this span.
    pub(crate) fn may_touch(&self, from: Millis, to: Millis) -> bool {
        self.earliest <= to && from <= self.latest
    }

    /// Whether it had the address in all of this span.
    pub(crate) fn covers(&self, from: Millis, to: Millis) -> bool {
        self.from <= from && to < self.to
    }
}

/// The file in which the scripts write.
pub(crate) struct Diary {
    pub(crate) path: PathBuf,
    read: u64,
    pub(crate) events: Vec<Event>,
}

impl Diary {
    pub(crate) fn new(path: PathBuf) -> Self {
        File::create(&path).unwrap();
        Self { path, read: 0, events: Vec::new() }
    }

    /// Reads what is new, and returns it.
    pub(crate) fn read_on(&mut self) -> Vec<Event> {
        let mut file = File::open(&self.path).unwrap();
        file.seek(SeekFrom::Start(self.read)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        let new: Vec<Event> = text[..whole].lines().filter_map(event).collect();
        self.events.extend(new.iter().cloned());
        new
    }
}

/// `BEGUN DONE SESSION REASON ADDRESS LEASE`, in microseconds and seconds.
fn event(line: &str) -> Option<Event> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [begun, done, session, reason, address, lease] = fields[..] else { panic!("{line:?}") };
    let millis = |text: &str| text.parse::<Millis>().unwrap() / 1_000;
    let has = match reason.to_ascii_lowercase().as_str() {
        "bound" | "renew" | "rebind" | "reboot" => Some(address.parse().unwrap()),
        "deconfig" | "expire" | "fail" | "release" | "stop" => None,
        _ => return None,
    };
    Some(Event {
        begun: millis(begun),
        done: millis(done),
        session: session.parse().unwrap(),
        has,
        lease: lease.parse::<Millis>().unwrap_or(0) * 1_000,
    })
}

/// Who had which address, in the order of time.
pub(crate) fn holds(sessions: &[Session], events: &[Event], end: Millis) -> Vec<Hold> {
    let mut holds = Vec::new();
    for (number, session) in sessions.iter().enumerate() {
        let mut open: Option<(Hold, Millis)> = None;
        let close = |open: &mut Option<(Hold, Millis)>, to, latest, holds: &mut Vec<Hold>| {
            if let Some((mut hold, _)) = open.take() {
                (hold.to, hold.latest) = (to, latest);
                holds.push(hold);
            }
        };
        let (mut last_word, mut lease) = (session.started, 0);
        for event in events.iter().filter(|event| event.session == number) {
            lease = lease.max(event.lease);
            if let Some((_, until)) = open.as_mut().filter(|(hold, _)| Some(hold.address) == event.has) {
                *until = event.done + event.lease;
                last_word = event.begun;
                continue;
            }
            // What it was told to release it can have lost at once. What the server took from it, since its last word.
            let lost = session.released.filter(|at| *at <= event.done).unwrap_or(last_word);
            close(&mut open, lost, event.done, &mut holds);
            if let Some(address) = event.has {
                let hold = Hold {
                    device: session.device,
                    name: session.name.clone(),
                    address,
                    earliest: (event.begun - SLOW).max(session.started),
                    from: event.done,
                    to: end,
                    latest: end,
                };
                open = Some((hold, event.done + event.lease));
            }
            last_word = event.begun;
        }
        if let (Some((_, until)), Some(killed)) = (&open, session.killed) {
            // It can have renewed its lease just before. Servers write whole seconds.
            let until = (*until).max(killed + lease);
            close(&mut open, killed, until + 1_000, &mut holds);
        }
        close(&mut open, end, end, &mut holds);
    }
    holds.sort_by_key(|hold| hold.from);
    // Nobody had an address before the one before can have lost it, or after the next one had it.
    for later in 0..holds.len() {
        for earlier in 0..later {
            if holds[earlier].address == holds[later].address {
                let (from, to) = (holds[later].from, holds[earlier].to);
                holds[earlier].latest = holds[earlier].latest.min(from);
                holds[later].earliest = holds[later].earliest.max(to).min(from);
            }
        }
    }
    holds
}
