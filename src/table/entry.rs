//! A mapping as the table stores it: flat, of one size, without pointers.

use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nfct::{Flow, Layer4, Protocol, Tuple};

use crate::clock::Stamp;
use crate::mapping::{Learnt, Mapping};

/// An address of one family, as entries and keys hold it.
pub(super) trait Address: Copy + Eq + Hash + std::fmt::Debug + Into<IpAddr> {
    /// What keys without an address hold.
    const UNSET: Self;

    /// `None` for an address of the other family.
    fn of(address: IpAddr) -> Option<Self>;
}

impl Address for Ipv4Addr {
    const UNSET: Self = Ipv4Addr::UNSPECIFIED;

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }
}

impl Address for Ipv6Addr {
    const UNSET: Self = Ipv6Addr::UNSPECIFIED;

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }
    }
}

/// A [`Tuple`] without air: 16 bytes with IPv4 addresses, 40 with IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Packed<A> {
    pub(super) src: A,
    pub(super) dst: A,
    /// Source port or key, or the ICMP identifier.
    near: u16,
    /// Destination port or key, or ICMP type and code.
    far: u16,
    zone: u16,
    protocol: u8,
}

impl<A: Address> Packed<A> {
    /// `None` where an address is of the other family.
    pub(super) fn of(tuple: &Tuple) -> Option<Self> {
        let (near, far) = match tuple.layer4 {
            Layer4::Ports { src, dst } | Layer4::Keys { src, dst } => (src, dst),
            Layer4::Icmp { id, kind, code } => (id, u16::from_be_bytes([kind, code])),
            _ => (0, 0),
        };
        Some(Packed {
            src: A::of(tuple.src)?,
            dst: A::of(tuple.dst)?,
            near,
            far,
            zone: tuple.zone,
            protocol: tuple.protocol.number(),
        })
    }

    fn unpack(&self) -> Tuple {
        let protocol = self.protocol();
        let layer4 = match protocol {
            Protocol::Icmp | Protocol::Icmpv6 => {
                let [kind, code] = self.far.to_be_bytes();
                Layer4::Icmp { id: self.near, kind, code }
            }
            Protocol::Gre => Layer4::Keys { src: self.near, dst: self.far },
            Protocol::Other(_) => Layer4::None,
            _ => Layer4::Ports { src: self.near, dst: self.far },
        };
        Tuple { src: self.src.into(), dst: self.dst.into(), protocol, layer4, zone: self.zone }
    }

    pub(super) fn protocol(&self) -> Protocol {
        Protocol::from(self.protocol)
    }

    /// The port at the sender's end, or the ICMP identifier.
    pub(super) fn near_port(&self) -> u16 {
        self.near
    }

    /// The port at the receiver's end; 0 for ICMP, which has none.
    pub(super) fn far_port(&self) -> u16 {
        if self.is_icmp() { 0 } else { self.far }
    }

    /// Of a reply tuple the public port, or the identifier that the outside sees.
    pub(super) fn nat_port(&self) -> u16 {
        if self.is_icmp() { self.near } else { self.far }
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

/// Whether a slot is in use, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    Free = 0,
    Live = 1,
    Closed = 2,
    /// Closed, and not to be answered any more.
    Dropped = 3,
}

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<A> {
    pub(super) original: Packed<A>,
    pub(super) reply: Packed<A>,
    pub(super) opened: PackedStamp,
    /// Meaningless while it lives.
    pub(super) closed: PackedStamp,
    pub(super) id: u32,
    pub(super) mark: u32,
    /// The slot that closed after this one, or the next free one.
    pub(super) next: u32,
    /// Counts entries: of two that opened in the same millisecond the later.
    pub(super) sequence: u32,
    /// The dump during which it was last seen, or opened.
    pub(super) epoch: u16,
    /// State, how it was learnt, whether it may end without an event, and
    /// whether it was the newest.
    pub(super) flags: u8,
}

const STATE: u8 = 0b11;
const LEARNT: u8 = 0b1100;
const SILENT: u8 = 0b1_0000;
const NEWEST: u8 = 0b10_0000;

impl<A: Address> Entry<A> {
    /// What free slots hold.
    pub(super) const FREE: Self = {
        let nothing = Packed { src: A::UNSET, dst: A::UNSET, near: 0, far: 0, zone: 0, protocol: 0 };
        Entry {
            original: nothing,
            reply: nothing,
            opened: PackedStamp { high: [0; 2], low: [0; 2] },
            closed: PackedStamp { high: [0; 2], low: [0; 2] },
            id: 0,
            mark: 0,
            next: NONE,
            sequence: 0,
            epoch: 0,
            flags: State::Free as u8,
        }
    };

    /// A life that goes on, with the tuples that `flow` has.
    pub(super) fn new(tuples: &Tuples<A>, flow: &Flow, learnt: Learnt, silent: bool, now: Stamp) -> Self {
        let opened = match flow.start {
            Some(nanoseconds) => now.back_to_wall(nanoseconds / 1_000_000),
            None => now,
        };
        Entry {
            original: tuples.original,
            reply: tuples.reply,
            opened: opened.into(),
            closed: opened.into(),
            id: flow.id,
            mark: flow.mark,
            next: NONE,
            sequence: 0,
            epoch: 0,
            flags: State::Live as u8 | (learnt as u8) << 2 | u8::from(silent) << 4,
        }
    }

    pub(super) fn state(&self) -> State {
        match self.flags & STATE {
            0 => State::Free,
            1 => State::Live,
            2 => State::Closed,
            _ => State::Dropped,
        }
    }

    pub(super) fn set_state(&mut self, state: State) {
        self.flags = self.flags & !STATE | state as u8;
    }

    fn learnt(&self) -> Learnt {
        match (self.flags & LEARNT) >> 2 {
            0 => Learnt::Event,
            1 => Learnt::Dump,
            _ => Learnt::Kernel,
        }
    }

    /// Whether it began no earlier than anything that was entered before it.
    pub(super) fn was_newest(&self) -> bool {
        self.flags & NEWEST != 0
    }

    pub(super) fn set_was_newest(&mut self, newest: bool) {
        self.flags = self.flags & !NEWEST | if newest { NEWEST } else { 0 };
    }

    /// Its end will be told.
    pub(super) fn set_told(&mut self) {
        self.flags &= !SILENT;
    }

    /// As [`Mapping::age_rank`].
    pub(super) fn age_rank(&self) -> (u64, u32) {
        (Stamp::from(self.opened).monotonic, self.sequence)
    }

    pub(super) fn mapping(&self) -> Mapping {
        Mapping {
            original: self.original.unpack(),
            reply: self.reply.unpack(),
            id: self.id,
            mark: self.mark,
            opened: self.opened.into(),
            closed: (self.state() != State::Live).then(|| self.closed.into()),
            learnt: self.learnt(),
            silent: self.flags & SILENT != 0,
            sequence: self.sequence,
        }
    }
}

/// Both tuples of a flow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tuples<A> {
    pub(super) original: Packed<A>,
    pub(super) reply: Packed<A>,
}

impl<A: Address> Tuples<A> {
    /// `None` where the flow is not wholly of this family.
    pub(super) fn of(flow: &Flow) -> Option<Self> {
        Some(Self { original: Packed::of(&flow.original)?, reply: Packed::of(&flow.reply)? })
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
                let (v4, v6) = (Packed::<Ipv4Addr>::of(&tuple), Packed::<Ipv6Addr>::of(&tuple));
                assert_eq!(v4.is_some(), tuple.src.is_ipv4());
                assert_eq!(
                    v4.map(|packed| packed.unpack()).or(v6.map(|packed| packed.unpack())),
                    Some(tuple)
                );
            }
        }
        assert_eq!((size_of::<Packed<Ipv4Addr>>(), size_of::<Packed<Ipv6Addr>>()), (16, 40));
        assert_eq!((size_of::<Entry<Ipv4Addr>>(), size_of::<Entry<Ipv6Addr>>()), (76, 124));
    }

    #[test]
    fn flags_are_kept_apart() {
        let tuple = Tuple {
            src: "10.0.0.1".parse().unwrap(),
            dst: "10.0.0.2".parse().unwrap(),
            protocol: Protocol::Tcp,
            layer4: Layer4::Ports { src: 1, dst: 2 },
            zone: 0,
        };
        let mut flow = Flow::new(tuple, tuple);
        flow.id = 1;
        let now = Stamp { monotonic: (1 << 48) - 1, wall: 1_795_246_463_007 };
        for learnt in [Learnt::Event, Learnt::Dump, Learnt::Kernel] {
            for silent in [false, true] {
                let mut entry =
                    Entry::new(&Tuples::<Ipv4Addr>::of(&flow).unwrap(), &flow, learnt, silent, now);
                for state in [State::Live, State::Closed, State::Dropped, State::Free] {
                    entry.set_state(state);
                    let mapping = entry.mapping();
                    assert_eq!((entry.state(), mapping.learnt, mapping.silent), (state, learnt, silent));
                    assert_eq!(mapping.opened, now);
                }
                entry.set_told();
                assert!(!entry.mapping().silent);
            }
        }
    }
}
