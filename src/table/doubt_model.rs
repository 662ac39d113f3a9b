//! The table compared with a model of the kernel that suppresses, reorders and repeats events:
//! what the table calls live without a doubt is live in the kernel.

use std::time::Duration;

use nfct::{Flow, Tuple};
use proptest::prelude::*;

use super::*;
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::{Doubt, Mapping};

const DEL_DELAY: u64 = 3_000;
/// The kernel's timeout of each connection, in seconds.
const TIMEOUT: u32 = 5;

pub(super) fn stamp(milliseconds: u64) -> Stamp {
    Stamp { monotonic: 1_000_000 + milliseconds, wall: 1_700_000_000_000 + milliseconds }
}

/// Two hosts share two public ports towards two servers. The kernel gives the same tuples the
/// same id.
pub(super) fn flow(host: u8, port: u16, server: u8) -> Flow {
    let inside = ([192, 168, 7, host], 1000 + port);
    let server = ([198, 51, 100, server], 443);
    let mut flow = Flow::new(Tuple::udp(inside, server), Tuple::udp(server, ([100, 64, 2, 1], port)));
    flow.id = u32::from(host) * 100 + u32::from(port) * 10 + u32::from(server.0[3]);
    flow.timeout = Some(TIMEOUT);
    flow
}

fn flows() -> impl Strategy<Value = Flow> {
    (2..4_u8, 1..3_u16, 1..3_u8).prop_map(|(host, port, server)| flow(host, port, server))
}

#[derive(Debug, Clone)]
enum Step {
    /// A connection begins, unless its reply tuple is taken. Whether the kernel reports its
    /// beginning and its end, and whether the events of both overtake each other.
    Begin {
        flow: Flow,
        reports_new: bool,
        reports_end: bool,
    },
    /// The connection with this reply tuple ends. Whether its NEW event comes only now, after
    /// its DESTROY event.
    End {
        flow: Flow,
        late_new: bool,
    },
    /// A packet of this connection extends its timeout.
    Packet(Flow),
    /// The kernel repeats its last DESTROY events.
    Repeat,
    Wait(u64),
    /// Rules begin or cease to suppress events; the tracker learns of it at once.
    Mask(bool),
    /// A dump, during which these steps happen, and which lacks some entries.
    Dump {
        meanwhile: Vec<Step>,
        lacks: u8,
    },
    /// Everything that is requested is verified.
    Verify,
    /// A query, whose reply is applied only after these steps.
    Query {
        flow: Flow,
        meanwhile: Vec<Step>,
    },
}

fn leaf() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (flows(), any::<bool>(), any::<bool>())
            .prop_map(|(flow, reports_new, reports_end)| Step::Begin { flow, reports_new, reports_end }),
        6 => (flows(), prop::bool::weighted(0.2)).prop_map(|(flow, late_new)| Step::End { flow, late_new }),
        3 => flows().prop_map(Step::Packet),
        2 => Just(Step::Repeat),
        3 => (1..2_000_u64).prop_map(Step::Wait),
        1 => (4_000..8_000_u64).prop_map(Step::Wait),
        2 => any::<bool>().prop_map(Step::Mask),
        2 => Just(Step::Verify),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let dump = (prop::collection::vec(leaf(), 0..5), 0..4_u8)
        .prop_map(|(meanwhile, lacks)| Step::Dump { meanwhile, lacks });
    let query = (flows(), prop::collection::vec(leaf(), 0..4))
        .prop_map(|(flow, meanwhile)| Step::Query { flow, meanwhile });
    prop::collection::vec(prop_oneof![10 => leaf(), 1 => dump, 2 => query], 0..60)
}

/// A connection that the kernel has.
#[derive(Debug, Clone)]
struct Entry {
    flow: Flow,
    reports_end: bool,
    /// Whether its NEW event is still to come.
    new_waits: bool,
    expires: u64,
}

impl Entry {
    /// The flow as the kernel tells it now: with the rest of its timeout.
    fn told(&self, now: u64) -> Flow {
        let mut flow = self.flow;
        flow.timeout = Some(((self.expires - now) / 1000) as u32);
        flow
    }
}

struct Kernel {
    entries: Vec<Entry>,
    /// DESTROY events that may be repeated.
    ended: Vec<Flow>,
    masks: bool,
    now: u64,
    table: Table,
}

impl Kernel {
    fn new() -> Self {
        Self {
            entries: Vec::new(),
            ended: Vec::new(),
            masks: false,
            now: 0,
            table: Table::new(Key::NatPort, Duration::from_millis(DEL_DELAY)),
        }
    }

    /// What a query finds. It removes an entry that has expired, which reports its end.
    fn get(&mut self, reply: &Tuple) -> Option<Flow> {
        let at = self.entries.iter().position(|entry| entry.flow.reply == *reply)?;
        if self.entries[at].expires <= self.now {
            self.end(at);
            return None;
        }
        Some(self.entries[at].told(self.now))
    }

    fn end(&mut self, at: usize) {
        let entry = self.entries.remove(at);
        if entry.new_waits {
            // Not reported at all until its end, or events in the wrong order.
            self.table.close(&entry.flow, stamp(self.now));
            self.table.open(&entry.flow, stamp(self.now));
        } else if entry.reports_end {
            self.table.close(&entry.flow, stamp(self.now));
            self.ended.push(entry.flow);
        }
    }

    fn verify(&mut self, reply: Tuple) {
        let asked = self.table.asked(stamp(self.now));
        let found = self.get(&reply);
        self.table.verified(&reply, found.as_ref(), asked, stamp(self.now));
    }

    fn apply(&mut self, step: &Step) {
        self.now += 1;
        match step {
            Step::Begin { flow, reports_new, reports_end } => {
                // A new connection removes an entry with its tuples that has expired.
                if self.get(&flow.reply).is_some() {
                    return;
                }
                let (reports_new, reports_end) = match self.masks {
                    true => (*reports_new, *reports_end),
                    false => (true, true),
                };
                let expires = self.now + u64::from(TIMEOUT) * 1000;
                self.entries.push(Entry { flow: *flow, reports_end, new_waits: false, expires });
                if reports_new {
                    self.table.open(flow, stamp(self.now));
                }
            }
            Step::End { flow, late_new: true } if !self.masks && self.get(&flow.reply).is_none() => {
                self.entries.push(Entry {
                    flow: *flow,
                    reports_end: true,
                    new_waits: true,
                    expires: u64::MAX,
                });
                self.end(self.entries.len() - 1);
            }
            Step::End { flow, .. } => {
                if let Some(at) = self.entries.iter().position(|entry| entry.flow.reply == flow.reply) {
                    self.end(at);
                }
            }
            Step::Packet(flow) => {
                let now = self.now;
                let entry = self.entries.iter_mut().find(|entry| entry.flow.reply == flow.reply);
                if let Some(entry) = entry.filter(|entry| entry.expires > now) {
                    entry.expires = entry.expires.max(now + u64::from(TIMEOUT) * 1000);
                }
            }
            Step::Repeat => {
                // The kernel repeats an event after a tenth of a second.
                let again: Vec<Flow> = self.ended.iter().rev().take(2).copied().collect();
                for _ in 0..2 {
                    for flow in &again {
                        self.table.close(flow, stamp(self.now));
                    }
                }
            }
            Step::Wait(milliseconds) => {
                self.now += milliseconds;
                self.ended.clear();
            }
            Step::Mask(masks) => {
                // What began under the rules may end unreported, also after they are gone.
                self.masks = *masks;
                self.table.set_trusts_events(!masks);
                let mut cursor = Some(Cursor::START).filter(|_| *masks);
                while let Some(from) = cursor {
                    cursor = self.table.distrust(from);
                }
            }
            Step::Dump { meanwhile, lacks } => {
                self.table.begin_dump();
                let now = self.now;
                let dumped: Vec<Flow> = self
                    .entries
                    .iter()
                    .filter(|entry| entry.expires > now)
                    .map(|entry| entry.told(now))
                    .skip((*lacks).into())
                    .collect();
                meanwhile.iter().for_each(|step| self.apply(step));
                for flow in &dumped {
                    self.table.merge(flow, stamp(now), stamp(self.now));
                }
                let (mut unseen, mut cursor) = (Vec::new(), Some(Cursor::START));
                while let Some(from) = cursor {
                    cursor = self.table.unseen(from, |reply| unseen.push(reply));
                }
                unseen.into_iter().for_each(|reply| self.verify(reply));
                drop(self.table.end_dump());
            }
            Step::Verify => {
                for reply in self.table.take_requested(usize::MAX) {
                    self.verify(reply);
                }
            }
            Step::Query { flow, meanwhile } => {
                let asked = self.table.asked(stamp(self.now));
                let found = self.get(&flow.reply);
                meanwhile.iter().for_each(|step| self.apply(step));
                self.table.verified(&flow.reply, found.as_ref(), asked, stamp(self.now));
            }
        }
        self.table.expire(stamp(self.now), usize::MAX);
    }

    fn live(&self) -> Vec<Mapping> {
        let (mut live, mut cursor) = (Vec::new(), Some(Cursor::START));
        while let Some(from) = cursor {
            let on = |mapping: Mapping| live.extend(Some(mapping).filter(Mapping::is_live));
            cursor = self.table.scan(from, stamp(self.now), on);
        }
        live
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn what_is_live_without_a_doubt_is_live_in_the_kernel(steps in steps()) {
        let mut kernel = Kernel::new();
        for step in &steps {
            kernel.apply(step);
            for mapping in kernel.live() {
                if mapping.doubt < Doubt::Doubtful {
                    let found = kernel.get(&mapping.reply);
                    prop_assert_eq!(found.map(|flow| flow.original), Some(mapping.original), "{:?}", mapping);
                }
            }
            // A lookup by all fields verifies what is doubtful, and queries what is absent.
            for entry in kernel.entries.clone() {
                let live = kernel.live();
                let known = live.iter().find(|mapping| mapping.reply == entry.flow.reply);
                if known.is_none_or(|mapping| mapping.doubt >= Doubt::Doubtful) {
                    kernel.verify(entry.flow.reply);
                }
                let now = kernel.now;
                let truth = kernel.entries.iter().find(|other| {
                    other.flow.reply == entry.flow.reply && other.expires > now
                });
                let truth = truth.map(|entry| entry.flow.original);
                let answer = kernel.live().into_iter().find(|mapping| mapping.reply == entry.flow.reply);
                prop_assert_eq!(answer.map(|mapping| mapping.original), truth);
            }
        }
    }
}
