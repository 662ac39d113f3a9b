//! Random entries: few ends, so that they are used again and again, and everything that can go wrong.

use std::net::IpAddr;

use nathistory::{Counters, End, Entry, Gap, Known, Millis, Moment, Question, Reason, Record};
use proptest::test_runner::{RngAlgorithm, TestRng};
use rand::Rng;

use crate::START;
use crate::model::Model;

const REASONS: [Reason; 6] = [
    Reason::NotRunning,
    Reason::EventsLost,
    Reason::NotReported,
    Reason::FilterChanged,
    Reason::RecorderBehind,
    Reason::NotWritten,
];

/// A generator.
pub struct Traffic {
    pub rng: TestRng,
    pub now: Millis,
    /// How far the clock goes on between two entries, at most.
    pub pace: Millis,
}

impl Traffic {
    pub fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self { rng: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes), now: START, pace: 2_000 }
    }

    pub fn chance(&mut self, one_in: u32) -> bool {
        self.rng.random_range(0..one_in) == 0
    }

    fn end(&mut self, addresses: &[&str], ports: std::ops::Range<u16>) -> End {
        let ip: IpAddr = addresses[self.rng.random_range(0..addresses.len())].parse().unwrap();
        End { ip, port: Some(self.rng.random_range(ports)) }
    }

    /// A connection: source NAT, destination NAT, both, or none.
    pub fn connection(&mut self) -> Record {
        let is_v6 = self.chance(6);
        let (inside, public, outside): (&[&str], &[&str], &[&str]) = if is_v6 {
            (&["fd00::2", "fd00::3"], &["2001:db8::9"], &["2001:db8:1::1", "2001:db8:1::2"])
        } else {
            (
                &["192.168.7.2", "192.168.7.3"],
                &["203.0.113.9", "203.0.113.10"],
                &["198.51.100.1", "198.51.100.20"],
            )
        };
        let mut src = self.end(inside, 40_000..40_004);
        let mut nat = self.end(public, 51_000..51_003);
        let mut dst = self.end(outside, 443..445);
        let mut server = dst;
        if self.chance(4) {
            server = self.end(inside, 8_080..8_082);
            dst = self.end(public, 80..82);
            if self.chance(2) {
                src = self.end(outside, 60_000..60_002);
                nat = src;
            }
        }
        let protocol = [6, 6, 17, 1, 47][self.rng.random_range(0..5)];
        if protocol == 1 {
            (dst.port, server.port) = (None, None);
        }
        if protocol == 47 {
            for end in [&mut src, &mut nat, &mut dst, &mut server] {
                end.port = None;
            }
        }
        let zone = if self.chance(5) { 3 } else { 0 };
        let record = Record {
            protocol,
            zone,
            reply_zone: if self.chance(2) { zone } else { 0 },
            src,
            dst: Some(dst),
            nat,
            server: Some(server),
            id: Some(self.rng.random_range(0..2)),
            mark: self.chance(3).then_some(9),
            opened: Moment::event(self.now),
            closed: None,
            counters: None,
        };
        if self.chance(8) { record.without_destination() } else { record }
    }

    fn opened(&mut self) -> Moment {
        let at = self.now - self.rng.random_range(0..40);
        match self.rng.random_range(0..4) {
            0 => Moment::kernel(at - self.rng.random_range(0..3_000)),
            1 => Moment::dump(at),
            _ => Moment::event(at),
        }
    }

    /// An open mapping of the model, or another connection.
    fn some_connection(&mut self, model: &Model) -> Record {
        let open = model.open().count();
        if open > 0 && !self.chance(5) {
            let place = self.rng.random_range(0..open);
            if let Some(record) = model.open().nth(place) {
                return *record;
            }
        }
        self.connection()
    }

    /// The next entry.
    pub fn entry(&mut self, model: &Model) -> Entry {
        loop {
            self.now += self.rng.random_range(1..=self.pace);
            let entry = self.any_entry(model);
            if !model.is_ambiguous(&entry) {
                return entry;
            }
        }
    }

    fn any_entry(&mut self, model: &Model) -> Entry {
        let now = self.now;
        let some_time_ago = now - self.rng.random_range(0..20_000);
        match self.rng.random_range(0..100) {
            0..40 => {
                let opened = self.opened();
                Entry::Opened(Record { opened, ..self.connection() })
            }
            40..75 => {
                let record = self.some_connection(model);
                let opened = self.opened();
                let closed = match self.rng.random_range(0..4) {
                    0 => Moment::range(some_time_ago, now),
                    1 => Moment::kernel(now - 1),
                    _ => Moment::event(now - self.rng.random_range(0..40)),
                };
                let counters = self.chance(2).then(|| Counters {
                    packets: [self.rng.random(), 1],
                    bytes: [0, self.rng.random_range(0..1_000)],
                });
                let mark = self.chance(3).then_some(8);
                // The model does not know which begins are in a segment; `rules` tests what that changes.
                let is_refined = |open: &Record| {
                    open.is_same_connection(&record)
                        && opened.known == Known::Kernel
                        && opened.at <= open.opened.at + 2
                };
                let opened = if model.open().any(is_refined) { Moment::event(opened.at) } else { opened };
                Entry::Closed(Record { opened, closed: Some(closed), counters, mark, ..record })
            }
            75..88 => {
                let record = self.some_connection(model);
                let opened = if self.chance(4) { self.opened() } else { Moment::dump(now) };
                Entry::Seen(Record { opened, ..record })
            }
            88 => Entry::Reconcile { since: some_time_ago.max(START) },
            89 => Entry::Reconciled { at: now },
            90..92 => {
                let reason = REASONS[self.rng.random_range(0..REASONS.len())];
                let to = self.chance(2).then_some(now);
                Entry::Gap(Gap { from: some_time_ago.max(START), to, reason, detail: None })
            }
            92..95 => {
                let reason = REASONS[self.rng.random_range(0..REASONS.len())];
                Entry::GapEnds { reason, at: now, detail: self.chance(2).then(|| "x".to_owned()) }
            }
            _ => Entry::Alive { at: now },
        }
    }

    /// What a daemon appends when it starts.
    pub fn start(&mut self, model: &Model, last_alive: Millis) -> Vec<Entry> {
        let now = self.now;
        let gap = Gap { from: last_alive, to: Some(now), reason: Reason::NotRunning, detail: None };
        let mut entries = vec![Entry::Gap(gap), Entry::Reconcile { since: last_alive }];
        let open: Vec<Record> = model.open().copied().collect();
        for record in open {
            if !self.chance(3) {
                entries.push(Entry::Seen(Record { opened: Moment::dump(now), ..record }));
            }
        }
        entries.push(Entry::Reconciled { at: now });
        entries.retain(|entry| !model.is_ambiguous(entry));
        entries
    }

    /// A question about some moments of what is in the model.
    pub fn question(&mut self, model: &Model) -> Question {
        let from = self.rng.random_range(START - 5_000..=self.now + 1_000);
        let to = match self.rng.random_range(0..4) {
            0 => self.rng.random_range(from..=self.now + 2_000),
            1 => from + 2_000,
            _ => from,
        };
        let mut question = Question::about(from, to);
        let like = if self.chance(2) { self.some_connection(model) } else { self.connection() };
        let ends: Vec<End> = like.public_ends().map(|end| end.public).collect();
        let end = ends[self.rng.random_range(0..ends.len())];
        match self.rng.random_range(0..6) {
            0..3 => (question.nat_ip, question.nat_port) = (Some(end.ip), end.port),
            3 => question.nat_ip = Some(end.ip),
            4 => (question.src_ip, question.src_port) = (Some(like.src.ip), like.src.port),
            _ => {}
        }
        question.protocol = self.chance(3).then_some(like.protocol);
        question.zone = self.chance(8).then_some(like.zone);
        if let Some(dst) = like.dst.filter(|_| self.rng.random_range(0..8) == 0) {
            (question.dst_ip, question.dst_port) = (Some(dst.ip), dst.port);
        }
        question
    }
}
