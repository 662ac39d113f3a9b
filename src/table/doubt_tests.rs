//! The table compared with a model of the kernel that suppresses, reorders and repeats events:
//! what the table calls live without a doubt is live in the kernel.

use std::time::Duration;

use nfct::{Flow, Status, Tuple};
use proptest::prelude::*;

use super::*;
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::{Doubt, Mapping};

const DEL_DELAY: u64 = 3_000;
/// The kernel's timeout of each connection, in seconds.
const TIMEOUT: u32 = 5;

fn stamp(milliseconds: u64) -> Stamp {
    Stamp { monotonic: 1_000_000 + milliseconds, wall: 1_700_000_000_000 + milliseconds }
}

/// Two hosts share two public ports towards two servers. The kernel gives the same tuples the
/// same id.
fn flow(host: u8, port: u16, server: u8) -> Flow {
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

/// Applies a DESTROY event of `flow`, and its NEW event after it.
fn overtaken(table: &mut Table, flow: &Flow, at: u64) {
    assert_eq!(table.close(flow, stamp(at)), CloseResult::WasUnknown);
    assert!(table.open(flow, stamp(at)));
}

fn only_live(table: &Table, at: u64) -> Mapping {
    let mut live = Vec::new();
    table.scan(Cursor::START, stamp(at), |mapping| live.extend(Some(mapping).filter(Mapping::is_live)));
    assert_eq!(live.len(), 1, "{live:?}");
    live[0]
}

#[test]
fn a_new_event_after_the_destroy_event_is_doubtful_until_it_is_verified() {
    // Also if no lookup sees closed mappings any more.
    for del_delay in [Duration::ZERO, Duration::from_secs(10)] {
        let mut table = Table::new(Key::NatPort, del_delay);
        let flow = flow(2, 1, 1);
        overtaken(&mut table, &flow, 0);
        table.expire(stamp(1), 9);
        assert_eq!(only_live(&table, 1).doubt, Doubt::Doubtful);
        let asked = table.asked(stamp(2));
        assert_eq!(table.take_requested(9), [flow.reply]);
        assert_eq!(table.verified(&flow.reply, Some(&flow), asked, stamp(2)), Verified::Live);
        assert_eq!(only_live(&table, 2).doubt, Doubt::None, "the id was used again at once");
        table.close(&flow, stamp(3));
        table.open(&flow, stamp(4));
        let asked = table.asked(stamp(5));
        assert_eq!(table.verified(&flow.reply, None, asked, stamp(5)), Verified::Ended);
        assert_eq!(table.live(), 0);
        assert_eq!(table.missing_ends(), 0, "nothing is missing");
    }
}

#[test]
fn a_late_event_of_a_dying_entry_does_not_replace_a_live_mapping() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let (live, mut dying) = (flow(2, 1, 1), flow(3, 1, 1));
    dying.status = Status(1 << 9);
    table.collect_changes(true);
    table.open(&live, stamp(0));
    assert!(table.open(&dying, stamp(1)));
    assert!(!table.open(&dying, stamp(1)), "it is stored already");
    let mapping = only_live(&table, 2);
    assert_eq!((mapping.original, mapping.doubt), (live.original, Doubt::Doubtful));
    assert_eq!(table.closed(), 1, "who had the port is known");
    let asked = table.asked(stamp(3));
    table.verified(&live.reply, Some(&live), asked, stamp(3));
    assert_eq!(only_live(&table, 3).doubt, Doubt::None);
    let changes = table.take_changes().changes;
    assert!(matches!(changes[..], [Change::Opened(_), Change::Opened(_), Change::Closed(_)]), "{changes:?}");
}

#[test]
fn an_end_that_no_event_tells_is_evidence_unless_the_event_comes_later() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let end = |table: &mut Table, flow: &Flow| {
        table.open(flow, stamp(0));
        let asked = table.asked(stamp(1));
        assert_eq!(table.verified(&flow.reply, None, asked, stamp(1)), Verified::Ended);
    };
    end(&mut table, &flow(2, 1, 1));
    assert_eq!(table.missing_ends(), 0, "its event may have been lost");
    table.set_expects_ends(true);
    end(&mut table, &flow(2, 1, 2));
    end(&mut table, &flow(2, 2, 2));
    assert_eq!(table.missing_ends(), 2);
    assert_eq!(table.close(&flow(2, 1, 2), stamp(2)), CloseResult::Stale);
    assert_eq!((table.take_missing_ends(), table.missing_ends()), (1, 0));
}

#[test]
fn a_repeated_destroy_event_neither_revives_a_mapping_nor_ends_the_next_one() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(1));
    let flow = flow(2, 1, 1);
    table.collect_changes(true);
    table.open(&flow, stamp(0));
    for at in (100..20_000).step_by(100) {
        table.close(&flow, stamp(at));
        table.expire(stamp(at), 9);
    }
    assert_eq!((table.live(), table.closed()), (0, 0));
    assert_eq!(table.take_changes().changes.len(), 2, "opened and closed once");
    table.open(&flow, stamp(20_000));
    assert_eq!(table.close(&flow, stamp(20_100)), CloseResult::Stale);
    assert_eq!(only_live(&table, 20_100).doubt, Doubt::Doubtful);
    let asked = table.asked(stamp(20_200));
    table.verified(&flow.reply, None, asked, stamp(20_200));
    assert_eq!(table.live(), 0);
}

#[test]
fn a_repeated_new_event_changes_nothing_and_an_id_that_comes_back_is_a_new_lifetime() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let mut first = flow(2, 1, 1);
    table.collect_changes(true);
    for at in 0..1000 {
        table.open(&first, stamp(at));
    }
    assert_eq!(table.take_changes().changes.len(), 1);
    // Its end was suppressed, and its timeout has passed.
    table.open(&first, stamp(9_000));
    let changes = table.take_changes().changes;
    assert!(matches!(changes[..], [Change::Closed(_), Change::Opened(_)]), "{changes:?}");
    assert_eq!(only_live(&table, 9_000).opened, stamp(9_000));
    // The kernel's timestamps tell lifetimes apart at once, in events, dumps and replies.
    let at = |milliseconds| Some((stamp(milliseconds).wall) * 1_000_000);
    first.start = at(9_100);
    table.open(&first, stamp(9_101));
    first.start = at(9_200);
    table.begin_dump();
    assert!(table.merge(&first, stamp(9_201), stamp(9_201)));
    drop(table.end_dump());
    first.start = at(9_300);
    let asked = table.asked(stamp(9_301));
    assert_eq!(table.verified(&first.reply, Some(&first), asked, stamp(9_301)), Verified::Added);
    assert_eq!(table.take_changes().changes.len(), 6);
    assert_eq!(only_live(&table, 9_400).opened, stamp(9_300));
}

#[test]
fn mappings_without_an_event_and_with_a_rival_are_doubtful() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let flow = |host, server| flow(host, 1, server);
    table.begin_dump();
    table.merge(&flow(2, 1), stamp(0), stamp(0));
    drop(table.end_dump());
    assert_eq!((only_live(&table, 0).doubt, table.unreported()), (Doubt::Unreported, 1));
    table.open(&flow(2, 1), stamp(1));
    assert_eq!((only_live(&table, 1).doubt, table.unreported()), (Doubt::None, 0));
    assert_eq!(only_live(&table, 4_999).doubt, Doubt::None);
    assert_eq!(only_live(&table, 5_001).doubt, Doubt::Doubtful, "its timeout has passed");
    let mut long = flow(2, 1);
    long.timeout = Some(60);
    table.verified(&long.reply, Some(&long), table.asked(stamp(5_002)), stamp(5_002));
    let doubts = |table: &Table, at| {
        let mut doubts = Vec::new();
        table.scan(Cursor::START, stamp(at), |mapping| doubts.push(mapping.doubt));
        doubts
    };
    table.open(&flow(3, 2), stamp(5_003));
    assert_eq!(doubts(&table, 5_004), [Doubt::Doubtful; 2], "another host has the same public port");
    table.close(&flow(3, 2), stamp(5_005));
    table.open(&flow(2, 2), stamp(5_006));
    assert_eq!(doubts(&table, 5_007)[0], Doubt::None, "the same host on the same port, to another server");
}

fn doubt_at(table: &Table, at: u64) -> Doubt {
    only_live(table, at).doubt
}

#[test]
fn a_mapping_that_opened_while_events_were_missing_stays_doubtful() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    table.open(&flow(2, 1, 1), stamp(0));
    table.set_trusts_events(false);
    assert_eq!(table.distrust(Cursor::START), Some(Cursor { is_v4: false, slot: 0 }));
    assert_eq!(doubt_at(&table, 1), Doubt::Unreported, "it was live when events were first missing");
    table.close(&flow(2, 1, 1), stamp(2));
    table.open(&flow(3, 2, 1), stamp(3));
    table.set_trusts_events(true);
    assert_eq!(doubt_at(&table, 4), Doubt::Unreported, "it opened while events were missing");
    let asked = table.asked(stamp(5));
    table.verified(&flow(3, 2, 1).reply, Some(&flow(3, 2, 1)), asked, stamp(5));
    assert_eq!(doubt_at(&table, 6), Doubt::Unreported, "a query does not tell whether its end is reported");
    table.open(&flow(3, 2, 1), stamp(7));
    assert_eq!(table.unreported(), 0, "a later life, whose end is reported");
}

#[test]
fn the_end_of_an_unknown_lifetime_makes_the_live_one_doubtful_once() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    table.collect_changes(true);
    let (live, unknown) = (flow(2, 1, 1), flow(3, 1, 1));
    table.open(&live, stamp(0));
    assert_eq!(table.close(&unknown, stamp(1)), CloseResult::WasUnknown);
    assert_eq!((doubt_at(&table, 2), table.closed()), (Doubt::Doubtful, 1));
    let changes = table.take_changes().changes;
    assert!(matches!(changes[..], [Change::Opened(_), Change::Opened(_), Change::Closed(_)]), "{changes:?}");
    assert_eq!(table.take_requested(9), [live.reply]);
    let asked = table.asked(stamp(3));
    assert_eq!(table.verified(&live.reply, Some(&live), asked, stamp(3)), Verified::Live);
    assert_eq!(doubt_at(&table, 4), Doubt::None);
    // And so does the NEW event of a live mapping that comes again.
    table.open(&live, stamp(5));
    assert_eq!((doubt_at(&table, 6), table.take_requested(9)), (Doubt::Doubtful, vec![live.reply]));
}

#[test]
fn a_mapping_closed_when_the_kernel_says_so() {
    let at = |milliseconds| Some(stamp(milliseconds).wall * 1_000_000);
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let mut known = flow(2, 1, 1);
    table.open(&known, stamp(0));
    known.stop = at(4_000);
    table.close(&known, stamp(9_000));
    let mut closed = Vec::new();
    table.scan(Cursor::START, stamp(9_001), |mapping| closed.extend(mapping.closed));
    assert_eq!(closed, [stamp(4_000)]);
    table.scan(Cursor::START, stamp(14_000), |mapping| panic!("del_delay is over: {mapping:?}"));
    // An unknown one that nobody can look up any more is not stored.
    let mut unknown = flow(3, 2, 1);
    unknown.stop = at(4_000);
    assert_eq!(table.close(&unknown, stamp(14_000)), CloseResult::Stale);
    unknown.stop = at(4_001);
    assert_eq!(table.close(&unknown, stamp(14_000)), CloseResult::WasUnknown);
}

#[test]
fn what_has_closed_is_remembered_for_two_seconds_although_no_lookup_finds_it() {
    let flow = flow(2, 1, 1);
    for (at, known) in [(2_000, true), (2_001, false)] {
        let mut table = Table::new(Key::NatPort, Duration::ZERO);
        table.open(&flow, stamp(0));
        table.close(&flow, stamp(1));
        table.scan(Cursor::START, stamp(1), |mapping| panic!("found: {mapping:?}"));
        table.expire(stamp(at), 9);
        let expected = if known { CloseResult::Stale } else { CloseResult::WasUnknown };
        assert_eq!(table.close(&flow, stamp(at)), expected, "after {at} ms");
    }
}

#[test]
fn closing_protocols_are_verified_again_after_their_shortest_timeout() {
    use nfct::Protocol::{Dccp, Sctp, Tcp, Udp};
    for (protocol, limit) in [(Tcp, 10_000), (Sctp, 1_000), (Dccp, 1_000), (Udp, u64::MAX)] {
        let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
        let mut flow = flow(2, 1, 1);
        (flow.original.protocol, flow.reply.protocol) = (protocol, protocol);
        flow.timeout = Some(100);
        table.open(&flow, stamp(0));
        let at_limit = if limit == u64::MAX { Doubt::None } else { Doubt::Aged };
        let limit = limit.min(99_999);
        assert_eq!(doubt_at(&table, limit - 1), Doubt::None, "{protocol}");
        assert_eq!(doubt_at(&table, limit), at_limit, "{protocol}");
        table.verified(&flow.reply, Some(&flow), table.asked(stamp(limit)), stamp(limit));
        assert_eq!(doubt_at(&table, limit + 1), Doubt::None, "{protocol}");
    }
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let mut tcp = flow(2, 1, 1);
    (tcp.original.protocol, tcp.reply.protocol, tcp.timeout) = (Tcp, Tcp, Some(100));
    table.set_closing_timeout(Duration::from_secs(3));
    table.open(&tcp, stamp(0));
    assert_eq!(doubt_at(&table, 3_000), Doubt::Aged, "the kernel's setting is shorter");
}

#[test]
fn more_mappings_of_a_port_than_are_compared_are_doubtful() {
    for (number, doubt) in [(65, Doubt::None), (66, Doubt::Doubtful)] {
        let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
        // Of one host, so that none is a rival.
        for server in 0..number {
            table.open(&flow(2, 1, server), stamp(0));
        }
        let mut doubts = Vec::new();
        table.scan(Cursor::START, stamp(1), |mapping| doubts.push(mapping.doubt));
        assert_eq!(doubts, vec![doubt; number.into()], "{number}");
    }
}

#[test]
fn some_of_the_mappings_without_an_event_are_taken_in_turn() {
    const MAPPINGS: u16 = 3_000;
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    table.begin_dump();
    for port in 0..MAPPINGS {
        table.merge(&flow(2, port, 1), stamp(0), stamp(0));
    }
    drop(table.end_dump());
    let (mut taken, mut cursor) = (Vec::new(), Some(Cursor::START));
    while let Some(from) = cursor {
        let before = taken.len();
        cursor = table.unreported_in(from, 128, |reply| taken.push(reply));
        assert!(taken.len() - before <= 128, "{} at once", taken.len() - before);
    }
    taken.sort_by_key(|reply| reply.dst_port());
    let all: Vec<Tuple> = (0..MAPPINGS).map(|port| flow(2, port, 1).reply).collect();
    assert!(taken == all, "each one once");
}

#[test]
fn a_query_made_before_an_event_does_not_settle_the_doubt_that_the_event_raises() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(1));
    let flow = flow(2, 1, 1);
    table.open(&flow, stamp(0));
    // The kernel repeats its DESTROY event. The same tuples then get the same id.
    table.close(&flow, stamp(1));
    table.close(&flow, stamp(2));
    table.open(&flow, stamp(3));
    assert_eq!(table.take_requested(9), [flow.reply]);
    let asked = table.asked(stamp(4));
    // The kernel finds it, and then it ends.
    assert_eq!(table.close(&flow, stamp(5)), CloseResult::Stale);
    assert_eq!(table.verified(&flow.reply, Some(&flow), asked, stamp(6)), Verified::Live);
    assert_eq!(only_live(&table, 6).doubt, Doubt::Doubtful);
    assert_eq!(table.take_requested(9), [flow.reply], "it is verified again");
    // Its NEW event comes once more.
    let asked = table.asked(stamp(7));
    table.open(&flow, stamp(7));
    assert_eq!(table.verified(&flow.reply, None, asked, stamp(7)), Verified::Nothing);
    assert_eq!(table.take_requested(9), [flow.reply], "it is verified again");
    let asked = table.asked(stamp(7));
    assert_eq!(table.verified(&flow.reply, None, asked, stamp(7)), Verified::Ended);
}

#[test]
fn a_query_that_took_long_adds_nothing_that_has_closed_since() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let (flow, other) = (flow(2, 1, 1), flow(3, 2, 2));
    table.open(&flow, stamp(0));
    let asked = table.asked(stamp(1));
    for _ in 0..40_000 {
        table.open(&other, stamp(2));
        table.close(&other, stamp(2));
    }
    table.close(&flow, stamp(2));
    assert_eq!(table.verified(&flow.reply, Some(&flow), asked, stamp(3)), Verified::Nothing);
    assert_eq!(table.live(), 0);
}

#[test]
fn a_wall_clock_that_goes_back_makes_no_other_lifetime() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let mut flow = flow(2, 1, 1);
    flow.start = Some(stamp(24 * 3600 * 1000).wall * 1_000_000);
    table.begin_dump();
    assert!(table.merge(&flow, stamp(0), stamp(0)));
    table.begin_dump();
    assert!(!table.merge(&flow, stamp(1_000), stamp(1_000)));
    drop(table.end_dump());
    let asked = table.asked(stamp(2_000));
    assert_eq!(table.verified(&flow.reply, Some(&flow), asked, stamp(2_000)), Verified::Live);
}

#[test]
fn what_a_longer_del_delay_keeps_in_memory_is_not_due_yet() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(1));
    let flow = flow(2, 1, 1);
    table.open(&flow, stamp(0));
    table.close(&flow, stamp(0));
    assert_eq!(table.expire(stamp(1_500), 9), 1, "lookups no longer find it");
    table.set_del_delay(Duration::from_secs(60));
    assert_eq!(table.expire(stamp(10_000), 9), 0);
    assert_eq!(table.next_expiry(stamp(10_000)), Some(Duration::from_secs(50)));
    table.expire(stamp(60_000), 9);
    assert_eq!(table.next_expiry(stamp(60_000)), None);
}
