//! A mapping as the table stores it: flat, of one size, without pointers.

use nfct::{Flow, Protocol};

use super::chunks::NONE;
use super::moment::Moment;
use super::packed::{Address, PackedTuple, PackedTuples, is_source_nat};
use crate::clock::Stamp;
use crate::mapping::Source;

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum SlotState {
    Free = 0,
    Live = 1,
    Closed = 2,
    /// A closed entry that lookups no longer see; its slot becomes free when it
    /// expires.
    Removed = 3,
}

/// [`PackedMapping::around`] without neighbours: [`NONE`] combined with itself.
pub(super) const ALONE: u32 = 0;

/// One lifetime. With IPv4 addresses it fills one line of the processor's cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackedMapping<A: Address> {
    /// Source and destination, original and reply.
    addresses: [A; 4],
    pub(super) id: u32,
    /// The connection mark at its end. While it is live: the timeout in seconds that the kernel named
    /// when it last told of it.
    mark_or_timeout: u32,
    /// The next free slot. While it is live and suspect: the number of the last entry when it was last
    /// suspected.
    pub(super) next: u32,
    /// The slots of the lifetimes with the same reply tuple that closed before and after this one, or
    /// [`NONE`], combined by XOR.
    pub(super) around: u32,
    /// Counts entries, and orders those that opened in the same millisecond.
    pub(super) sequence: u32,
    /// What follows the addresses in a tuple, original and reply.
    layer4: [[u16; 2]; 2],
    zones: [u16; 2],
    pub(super) opened: Moment,
    /// When it closed. While it is live: when the kernel last told of it.
    closed_or_told: Moment,
    /// The last dump that contained it, or during which it opened. For closed entries: the
    /// number of the closing.
    pub(super) dump_number: u16,
    protocol: u8,
    /// The slot's state, the mapping's source, and the bits below.
    pub(super) flags: u8,
    _alignment: [A::Alignment; 0],
}

const STATE: u8 = 0b11;
const SOURCE: u8 = 0b1100;
/// No event proves that the kernel reports it: it may end without a DESTROY event.
const UNREPORTED: u8 = 0b1_0000;
const WAS_NEWEST: u8 = 0b10_0000;
/// It must be verified with the kernel once.
const SUSPECT: u8 = 0b100_0000;
/// Of closed entries: the mark is that at the end.
const HAS_FINAL_MARK: u8 = 0b1000_0000;
/// Of live entries: others had the same public address and port when it was stored, or have
/// come since.
const SHARES_PORT: u8 = HAS_FINAL_MARK;
/// The timeout in seconds of an entry whose report names none.
const UNKNOWN_TIMEOUT: u32 = 10;

impl<A: Address> PackedMapping<A> {
    /// What free slots hold.
    pub(super) const FREE: Self = PackedMapping {
        addresses: [A::UNSET; 4],
        id: 0,
        mark_or_timeout: 0,
        next: NONE,
        around: ALONE,
        sequence: 0,
        layer4: [[0; 2]; 2],
        zones: [0; 2],
        opened: Moment::ZERO,
        closed_or_told: Moment::ZERO,
        dump_number: 0,
        protocol: 0,
        flags: SlotState::Free as u8,
        _alignment: [],
    };

    /// Becomes a live mapping with the tuples of `flow`, which the kernel has told of now.
    pub(super) fn set(
        &mut self,
        tuples: &PackedTuples<A>,
        flow: &Flow,
        source: Source,
        opened: Moment,
        now: Stamp,
    ) {
        let PackedTuples { original, reply, .. } = tuples;
        self.addresses = [original.src, original.dst, reply.src, reply.dst];
        self.id = flow.id;
        self.next = NONE;
        self.around = ALONE;
        self.layer4 = [original.layer4(), reply.layer4()];
        self.zones = [original.zone(), reply.zone()];
        self.opened = opened;
        self.protocol = original.protocol().number();
        self.flags = SlotState::Live as u8 | (source as u8) << 2 | UNREPORTED;
        self.set_told(flow, now);
    }

    /// The tuple of the packets from the client, before NAT.
    #[inline]
    pub(super) fn original(&self) -> PackedTuple<A> {
        let [src, dst, ..] = self.addresses;
        PackedTuple::new(src, dst, self.layer4[0], self.zones[0], self.protocol)
    }

    /// The tuple of the packets from the server.
    #[inline]
    pub(super) fn reply(&self) -> PackedTuple<A> {
        let [.., src, dst] = self.addresses;
        PackedTuple::new(src, dst, self.layer4[1], self.zones[1], self.protocol)
    }

    pub(super) fn protocol(&self) -> Protocol {
        Protocol::from(self.protocol)
    }

    pub(super) fn state(&self) -> SlotState {
        match self.flags & STATE {
            0 => SlotState::Free,
            1 => SlotState::Live,
            2 => SlotState::Closed,
            _ => SlotState::Removed,
        }
    }

    pub(super) fn set_state(&mut self, state: SlotState) {
        self.flags = self.flags & !STATE | state as u8;
    }

    /// Whether this is a closed lifetime, which lookups may see no longer.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state(), SlotState::Closed | SlotState::Removed)
    }

    /// Whether this is a lifetime of the connection with these tuples and this conntrack id.
    pub(super) fn has(&self, tuples: &PackedTuples<A>, id: u32) -> bool {
        self.id == id && self.reply() == tuples.reply && self.original() == tuples.original
    }

    pub(super) fn source(&self) -> Source {
        match (self.flags & SOURCE) >> 2 {
            0 => Source::Event,
            1 => Source::Dump,
            _ => Source::Kernel,
        }
    }

    /// Whether it opened no earlier than every entry that was stored before it.
    pub(super) fn was_newest(&self) -> bool {
        self.flags & WAS_NEWEST != 0
    }

    pub(super) fn set_was_newest(&mut self, was_newest: bool) {
        self.set_flag(WAS_NEWEST, was_newest);
    }

    /// Stores the mark that the DESTROY event reports, if there was one. For closed entries.
    pub(super) fn set_final_mark(&mut self, mark: Option<u32>) {
        self.mark_or_timeout = mark.unwrap_or_default();
        self.set_flag(HAS_FINAL_MARK, mark.is_some());
    }

    /// Whether others may have the same public address and port. For live entries.
    pub(super) fn shares_port(&self) -> bool {
        self.flags & SHARES_PORT != 0
    }

    pub(super) fn set_shares_port(&mut self) {
        self.set_flag(SHARES_PORT, true);
    }

    /// Whether it may end without a DESTROY event.
    pub(super) fn is_unreported(&self) -> bool {
        self.flags & UNREPORTED != 0
    }

    pub(super) fn set_unreported(&mut self, unreported: bool) {
        self.set_flag(UNREPORTED, unreported);
    }

    /// Whether it must be verified with the kernel once.
    pub(super) fn is_suspect(&self) -> bool {
        self.flags & SUSPECT != 0
    }

    pub(super) fn set_suspect(&mut self, suspect: bool) {
        self.set_flag(SUSPECT, suspect);
    }

    fn set_flag(&mut self, flag: u8, value: bool) {
        self.flags = self.flags & !flag | if value { flag } else { 0 };
    }

    /// When it closed; has no meaning while it is live.
    pub(super) fn closed(&self) -> Moment {
        self.closed_or_told
    }

    pub(super) fn set_closed(&mut self, closed: Moment) {
        self.closed_or_told = closed;
    }

    /// The connection mark at its end, if an event reported that.
    pub(super) fn final_mark(&self) -> Option<u32> {
        (self.is_closed() && self.flags & HAS_FINAL_MARK != 0).then_some(self.mark_or_timeout)
    }

    /// Notes that the kernel has told of it now. For live mappings.
    pub(super) fn set_told(&mut self, flow: &Flow, now: Stamp) {
        self.closed_or_told = Moment::monotonic_only(now.monotonic);
        self.mark_or_timeout = flow.timeout.unwrap_or(UNKNOWN_TIMEOUT);
    }

    /// Notes that the kernel told of it at an earlier moment, unless it has done so since.
    pub(super) fn set_told_if_newer(&mut self, flow: &Flow, read: Stamp) {
        if read.monotonic >= self.closed_or_told.monotonic() {
            self.set_told(flow, read);
        }
    }

    /// The milliseconds since the kernel last told of it, and the timeout in milliseconds
    /// that the kernel named then. For live mappings.
    pub(super) fn told(&self, now: Stamp) -> (u64, u64) {
        (
            now.monotonic.saturating_sub(self.closed_or_told.monotonic()),
            u64::from(self.mark_or_timeout) * 1000,
        )
    }

    /// The same as [`Tuples::is_source_nat`](crate::tuples::Tuples::is_source_nat).
    pub(super) fn is_source_nat(&self) -> bool {
        is_source_nat(&self.original(), &self.reply())
    }

    /// The same as [`Mapping::age_rank`](crate::mapping::Mapping::age_rank).
    pub(super) fn age_rank(&self) -> (u64, u32) {
        (self.opened.monotonic(), self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use nfct::{Layer4, Tuple};

    use super::super::moment::Offsets;
    use super::super::shards::CellHash;
    use super::*;

    #[test]
    fn an_entry_fills_one_cache_line_or_almost_two() {
        assert_eq!((size_of::<PackedMapping<Ipv4Addr>>(), size_of::<PackedMapping<Ipv6Addr>>()), (64, 112));
        assert_eq!(align_of::<PackedMapping<Ipv4Addr>>(), 64);
    }

    #[test]
    fn flags_do_not_overlap() {
        let tuple = Tuple {
            src: "10.0.0.1".parse().unwrap(),
            dst: "10.0.0.2".parse().unwrap(),
            protocol: Protocol::Tcp,
            layer4: Layer4::Ports { src: 1, dst: 2 },
            zone: 0,
        };
        let mut flow = Flow::new(tuple, tuple);
        flow.id = 1;
        flow.timeout = Some(u32::MAX);
        let now = Stamp { monotonic: (1 << 42) - 1, wall: 1_795_246_463_007 };
        let mut offsets = Offsets::default();
        let moment = offsets.moment(now);
        let tuples = PackedTuples::<Ipv4Addr>::pack(&flow, |_| CellHash::ZERO).unwrap();
        for source in [Source::Event, Source::Dump, Source::Kernel] {
            for (unreported, suspect) in [(false, false), (false, true), (true, false), (true, true)] {
                let mut entry = PackedMapping::FREE;
                entry.set(&tuples, &flow, source, moment, now);
                assert!(entry.is_unreported() && !entry.is_suspect());
                entry.set_unreported(unreported);
                entry.set_suspect(suspect);
                for state in [SlotState::Live, SlotState::Closed, SlotState::Removed, SlotState::Free] {
                    entry.set_state(state);
                    assert_eq!((entry.state(), entry.source()), (state, source));
                    assert_eq!((entry.is_unreported(), entry.is_suspect()), (unreported, suspect));
                    assert_eq!(offsets.stamp(entry.opened), now);
                    assert_eq!((entry.original(), entry.reply()), (tuples.original, tuples.reply));
                }
            }
        }
        let mut entry = PackedMapping::FREE;
        entry.set(&tuples, &flow, Source::Event, moment, now);
        assert_eq!(entry.told(now), (0, u64::from(u32::MAX) * 1000));
        entry.set_closed(moment);
        assert_eq!(offsets.stamp(entry.closed()), now);
        entry.set_shares_port();
        assert_eq!((entry.final_mark(), entry.shares_port()), (None, true));
        entry.set_state(SlotState::Closed);
        entry.set_final_mark(None);
        assert_eq!(entry.final_mark(), None);
        entry.set_final_mark(Some(7));
        assert_eq!(entry.final_mark(), Some(7));
    }
}
