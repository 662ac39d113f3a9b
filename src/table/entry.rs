//! A mapping as the table stores it: flat, of one size, without pointers.

use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nfct::{Flow, Layer4, Protocol, Tuple};

use crate::clock::Stamp;
use crate::mapping::{Doubt, Mapping, Source};
use crate::tuples::Tuples;

/// An address of one family, as entries and index keys store it.
pub(super) trait Address: Copy + Ord + Hash + std::fmt::Debug + Into<IpAddr> {
    /// What index keys without an address store.
    const UNSET: Self;

    /// The highest address.
    const LAST: Self;

    /// `None` for an address of the other family.
    fn from_ip(address: IpAddr) -> Option<Self>;
}

impl Address for Ipv4Addr {
    const UNSET: Self = Ipv4Addr::UNSPECIFIED;
    const LAST: Self = Ipv4Addr::BROADCAST;

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }
}

impl Address for Ipv6Addr {
    const UNSET: Self = Ipv6Addr::UNSPECIFIED;
    const LAST: Self = Ipv6Addr::from_bits(u128::MAX);

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }
    }
}

/// A [`Tuple`] without padding: 16 bytes with IPv4 addresses, 40 with IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PackedTuple<A> {
    pub(super) src: A,
    pub(super) dst: A,
    /// Source port, source key or ICMP identifier.
    src_l4: u16,
    /// Destination port, destination key, or ICMP type and code.
    dst_l4: u16,
    zone: u16,
    protocol: u8,
}

impl<A: Address> PackedTuple<A> {
    /// `None` if an address is of the other family.
    pub(super) fn pack(tuple: &Tuple) -> Option<Self> {
        let (src_l4, dst_l4) = match tuple.layer4 {
            Layer4::Ports { src, dst } | Layer4::Keys { src, dst } => (src, dst),
            Layer4::Icmp { id, kind, code } => (id, u16::from_be_bytes([kind, code])),
            _ => (0, 0),
        };
        Some(PackedTuple {
            src: A::from_ip(tuple.src)?,
            dst: A::from_ip(tuple.dst)?,
            src_l4,
            dst_l4,
            zone: tuple.zone,
            protocol: tuple.protocol.number(),
        })
    }

    pub(super) fn unpack(&self) -> Tuple {
        let protocol = self.protocol();
        let layer4 = match protocol {
            Protocol::Icmp | Protocol::Icmpv6 => {
                let [kind, code] = self.dst_l4.to_be_bytes();
                Layer4::Icmp { id: self.src_l4, kind, code }
            }
            Protocol::Gre => Layer4::Keys { src: self.src_l4, dst: self.dst_l4 },
            Protocol::Other(_) => Layer4::None,
            _ => Layer4::Ports { src: self.src_l4, dst: self.dst_l4 },
        };
        Tuple { src: self.src.into(), dst: self.dst.into(), protocol, layer4, zone: self.zone }
    }

    pub(super) fn protocol(&self) -> Protocol {
        Protocol::from(self.protocol)
    }

    pub(super) fn zone(&self) -> u16 {
        self.zone
    }

    /// The source port, or the ICMP identifier.
    pub(super) fn src_port(&self) -> u16 {
        self.src_l4
    }

    /// The destination port; 0 for ICMP, which has none.
    pub(super) fn dst_port(&self) -> u16 {
        if self.is_icmp() { 0 } else { self.dst_l4 }
    }

    /// The port of a public end, which is the tuple's destination, or the ICMP
    /// identifier.
    pub(super) fn nat_port(&self) -> u16 {
        if self.is_icmp() { self.src_l4 } else { self.dst_l4 }
    }

    /// A tuple with ports, in zone 0, of no protocol.
    pub(super) fn with_ports(src: (A, u16), dst: (A, u16)) -> Self {
        PackedTuple { src: src.0, dst: dst.0, src_l4: src.1, dst_l4: dst.1, zone: 0, protocol: 0 }
    }

    /// The same tuple of a protocol.
    pub(super) fn of_protocol(&self, protocol: Protocol) -> Self {
        Self { protocol: protocol.number(), ..*self }
    }

    /// The same tuple in a zone.
    pub(super) fn in_zone(&self, zone: u16) -> Self {
        Self { zone, ..*self }
    }

    /// Whether it is the same tuple, in this or another zone.
    pub(super) fn is_equal_in_another_zone(&self, other: &Self) -> bool {
        self.in_zone(other.zone) == *other
    }

    /// The source port; 0 for ICMP, which has none.
    pub(super) fn peer_port(&self) -> u16 {
        if self.is_icmp() { 0 } else { self.src_l4 }
    }

    fn is_icmp(&self) -> bool {
        matches!(self.protocol(), Protocol::Icmp | Protocol::Icmpv6)
    }
}

/// A [`Stamp`] in twelve bytes: 48 bits of milliseconds last 8,900 years.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackedStamp {
    high: [u16; 2],
    low: [u32; 2],
}

impl From<Stamp> for PackedStamp {
    fn from(Stamp { monotonic, wall }: Stamp) -> Self {
        PackedStamp {
            high: [(monotonic >> 32) as u16, (wall >> 32) as u16],
            low: [monotonic as u32, wall as u32],
        }
    }
}

impl From<PackedStamp> for Stamp {
    fn from(PackedStamp { high, low }: PackedStamp) -> Self {
        let join = |at: usize| u64::from(high[at]) << 32 | u64::from(low[at]);
        Stamp { monotonic: join(0), wall: join(1) }
    }
}

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

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// [`PackedMapping::around`] without neighbours: [`NONE`] combined with itself.
pub(super) const ALONE: u32 = 0;

#[derive(Debug, Clone, Copy)]
pub(super) struct PackedMapping<A> {
    pub(super) original: PackedTuple<A>,
    pub(super) reply: PackedTuple<A>,
    pub(super) opened: PackedStamp,
    /// When it closed. While it is live: when the kernel last told of it, and the
    /// timeout that the kernel named then.
    pub(super) closed_or_told: PackedStamp,
    pub(super) id: u32,
    pub(super) mark: u32,
    /// The slot that closed after this one, or the next free one. While it is live and suspect:
    /// the number of the last entry when it was last suspected.
    pub(super) next: u32,
    /// The slots of the lifetimes with the same reply tuple that closed before and after this one, or
    /// [`NONE`], combined by XOR.
    pub(super) around: u32,
    /// Counts entries, and orders those that opened in the same millisecond.
    pub(super) sequence: u32,
    /// The last dump that contained it, or during which it opened. For closed entries: the
    /// number of the closing.
    pub(super) dump_number: u16,
    /// The slot's state, the mapping's source, and the bits below.
    pub(super) flags: u8,
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
/// The timeout of an entry whose report names none.
const UNKNOWN_TIMEOUT: u64 = 10_000;

impl<A: Address> PackedMapping<A> {
    /// What free slots hold.
    pub(super) const FREE: Self = {
        let empty = PackedTuple { src: A::UNSET, dst: A::UNSET, src_l4: 0, dst_l4: 0, zone: 0, protocol: 0 };
        PackedMapping {
            original: empty,
            reply: empty,
            opened: PackedStamp { high: [0; 2], low: [0; 2] },
            closed_or_told: PackedStamp { high: [0; 2], low: [0; 2] },
            id: 0,
            mark: 0,
            next: NONE,
            around: ALONE,
            sequence: 0,
            dump_number: 0,
            flags: SlotState::Free as u8,
        }
    };

    /// A live mapping with the tuples of `flow`.
    pub(super) fn new(tuples: &PackedTuples<A>, flow: &Flow, source: Source, now: Stamp) -> Self {
        PackedMapping {
            original: tuples.original,
            reply: tuples.reply,
            opened: moment(flow.start, now).unwrap_or(now).into(),
            closed_or_told: told(flow, now),
            id: flow.id,
            mark: flow.mark,
            next: NONE,
            around: ALONE,
            sequence: 0,
            dump_number: 0,
            flags: SlotState::Live as u8 | (source as u8) << 2 | UNREPORTED,
        }
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
        self.id == id && self.reply == tuples.reply && self.original == tuples.original
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
        self.mark = mark.unwrap_or(self.mark);
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
    pub(super) fn closed(&self) -> Stamp {
        self.closed_or_told.into()
    }

    pub(super) fn set_closed(&mut self, closed: Stamp) {
        self.closed_or_told = closed.into();
    }

    /// Notes that the kernel has told of it now.
    pub(super) fn set_told(&mut self, flow: &Flow, now: Stamp) {
        self.closed_or_told = told(flow, now);
    }

    /// Notes that the kernel told of it at an earlier moment, unless it has done so since.
    pub(super) fn set_told_if_newer(&mut self, flow: &Flow, read: Stamp) {
        if read.monotonic >= Stamp::from(self.closed_or_told).monotonic {
            self.set_told(flow, read);
        }
    }

    /// The milliseconds since the kernel last told of it, and the timeout in milliseconds
    /// that the kernel named then. For live mappings.
    pub(super) fn told(&self, now: Stamp) -> (u64, u64) {
        let Stamp { monotonic, wall: timeout } = self.closed_or_told.into();
        (now.monotonic.saturating_sub(monotonic), timeout)
    }

    /// Whether `flow`, which has the same tuples and the same id, began after this mapping
    /// opened: then it is a later lifetime. `None` if the kernel keeps no timestamps, or if
    /// the wall clock has gone back since that timestamp. A mapping may open a little later
    /// than its connection began, if an event reported it.
    pub(super) fn is_before(&self, flow: &Flow, now: Stamp) -> Option<bool> {
        let began = flow.start? / 1_000_000;
        (began <= now.wall).then(|| Stamp::from(self.opened).wall < began)
    }

    /// The same as [`Tuples::is_source_nat`](Tuples::is_source_nat).
    pub(super) fn is_source_nat(&self) -> bool {
        self.original.src != self.reply.dst || self.original.src_port() != self.reply.nat_port()
    }

    /// The same as [`Mapping::age_rank`].
    pub(super) fn age_rank(&self) -> (u64, u32) {
        (Stamp::from(self.opened).monotonic, self.sequence)
    }

    /// The mapping, with this doubt.
    pub(super) fn mapping(&self, doubt: Doubt) -> Mapping {
        Mapping {
            tuples: Tuples { original: self.original.unpack(), reply: self.reply.unpack() },
            id: self.id,
            mark: (self.state() != SlotState::Live && self.flags & HAS_FINAL_MARK != 0).then_some(self.mark),
            opened: self.opened.into(),
            closed: (self.state() != SlotState::Live).then(|| self.closed()),
            source: self.source(),
            doubt,
            sequence: self.sequence,
        }
    }
}

/// The moment of one of the kernel's timestamps, which are in nanoseconds since the Unix
/// epoch.
pub(super) fn moment(nanoseconds: Option<u64>, now: Stamp) -> Option<Stamp> {
    Some(now.back_to_wall(nanoseconds? / 1_000_000))
}

/// What a report of the kernel at `now` leaves in an entry: the moment, and the timeout in
/// milliseconds instead of the wall clock.
fn told(flow: &Flow, now: Stamp) -> PackedStamp {
    let timeout = flow.timeout.map_or(UNKNOWN_TIMEOUT, |seconds| u64::from(seconds) * 1000);
    Stamp { monotonic: now.monotonic, wall: timeout }.into()
}

/// Both tuples of a flow, packed.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackedTuples<A> {
    pub(super) original: PackedTuple<A>,
    pub(super) reply: PackedTuple<A>,
}

impl<A: Address> PackedTuples<A> {
    /// `None` if an address is of the other family.
    pub(super) fn pack(flow: &Flow) -> Option<Self> {
        Some(Self { original: PackedTuple::pack(&flow.original)?, reply: PackedTuple::pack(&flow.reply)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_survive_packing() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for (src, dst) in [("10.0.0.1", "255.255.255.255"), ("::1", "ffff::"), ("::ffff:10.0.0.1", "::")] {
            for protocol in 0..=255_u8 {
                let protocol = Protocol::from(protocol);
                let layer4 = match protocol {
                    Protocol::Icmp | Protocol::Icmpv6 => Layer4::Icmp { id: 65535, kind: 8, code: 255 },
                    Protocol::Gre => Layer4::Keys { src: 1, dst: 65535 },
                    Protocol::Other(_) => Layer4::None,
                    _ => Layer4::Ports { src: 65535, dst: 1 },
                };
                let tuple = Tuple { src: address(src), dst: address(dst), protocol, layer4, zone: 65535 };
                let (v4, v6) = (PackedTuple::<Ipv4Addr>::pack(&tuple), PackedTuple::<Ipv6Addr>::pack(&tuple));
                assert_eq!(v4.is_some(), tuple.src.is_ipv4());
                assert_eq!(
                    v4.map(|packed| packed.unpack()).or(v6.map(|packed| packed.unpack())),
                    Some(tuple)
                );
            }
        }
        assert_eq!((size_of::<PackedTuple<Ipv4Addr>>(), size_of::<PackedTuple<Ipv6Addr>>()), (16, 40));
        assert_eq!((size_of::<PackedMapping<Ipv4Addr>>(), size_of::<PackedMapping<Ipv6Addr>>()), (80, 128));
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
        let now = Stamp { monotonic: (1 << 48) - 1, wall: 1_795_246_463_007 };
        let tuples = PackedTuples::<Ipv4Addr>::pack(&flow).unwrap();
        for source in [Source::Event, Source::Dump, Source::Kernel] {
            for (unreported, suspect) in [(false, false), (false, true), (true, false), (true, true)] {
                let mut entry = PackedMapping::new(&tuples, &flow, source, now);
                assert!(entry.is_unreported() && !entry.is_suspect());
                entry.set_unreported(unreported);
                entry.set_suspect(suspect);
                for state in [SlotState::Live, SlotState::Closed, SlotState::Removed, SlotState::Free] {
                    entry.set_state(state);
                    let mapping = entry.mapping(Doubt::None);
                    assert_eq!((entry.state(), mapping.source), (state, source));
                    assert_eq!((entry.is_unreported(), entry.is_suspect()), (unreported, suspect));
                    assert_eq!(mapping.opened, now);
                }
            }
        }
        let mut entry = PackedMapping::new(&tuples, &flow, Source::Event, now);
        assert_eq!(entry.told(now), (0, u64::from(u32::MAX) * 1000));
        entry.set_closed(now);
        assert_eq!(entry.closed(), now);
        entry.set_shares_port();
        assert_eq!((entry.mapping(Doubt::None).mark, entry.shares_port()), (None, true));
        entry.set_state(SlotState::Closed);
        entry.set_final_mark(None);
        assert_eq!(entry.mapping(Doubt::None).mark, None);
        entry.set_final_mark(Some(7));
        assert_eq!(entry.mapping(Doubt::None).mark, Some(7));
    }
}
