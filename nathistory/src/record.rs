//! One mapping of the history.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::time::Millis;

/// ICMP and ICMPv6: the port of an end is the identifier of the echo.
const ICMP: [u8; 2] = [1, 58];

/// An address and a port. The port is the identifier of an ICMP echo, and `None` for protocols without ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct End {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: Option<u16>,
}

/// How a moment is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Known {
    /// The kernel's own timestamp.
    Kernel,
    /// An event of the kernel, received at that moment.
    Event,
    /// A dump of the kernel's table had the mapping at that moment: it opened no later.
    Dump,
    /// It lies between two moments that are known.
    Range,
}

/// When a mapping opened or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Moment {
    /// The moment; of a range, its end.
    pub at: Millis,
    /// How it is known.
    pub known: Known,
    /// The begin of a range; `None` if it is not a range.
    pub since: Option<Millis>,
}

/// Packets and bytes of the original and of the reply direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Counters {
    /// Packets of each direction.
    pub packets: [u64; 2],
    /// Bytes of each direction.
    pub bytes: [u64; 2],
}

/// One lifetime of one mapping. The four ends are those of the connection's tuples: the original
/// tuple goes from `src` to `dst`, the reply tuple from `server` to `nat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    /// The IP protocol number.
    pub protocol: u8,
    /// The conntrack zone of the original direction.
    pub zone: u16,
    /// The conntrack zone of the reply direction.
    pub reply_zone: u16,
    /// The host that began the connection.
    pub src: End,
    /// What the connection was begun to; `None` if destinations are not recorded.
    pub dst: Option<End>,
    /// The public end of a translated source; equal to `src` if the source is not translated.
    pub nat: End,
    /// The host that answers; equal to `dst` if the destination is not translated.
    pub server: Option<End>,
    /// The kernel's conntrack id of this lifetime. A later one can have the same. `None` if it is not known: segments
    /// of days do not keep it.
    pub id: Option<u32>,
    /// The connection mark at its end.
    pub mark: Option<u32>,
    /// When it opened.
    pub opened: Moment,
    /// When it closed; `None` if it was open when the history last knew of it.
    pub closed: Option<Moment>,
    /// What was transferred, if the kernel counts that; known at the end.
    pub counters: Option<Counters>,
}

/// A public end of a connection, and the host behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicEnd {
    /// The public address and port.
    pub public: End,
    /// The host behind it.
    pub inside: End,
    /// Whether it is the end of the host that began the connection.
    pub is_source: bool,
}

impl Known {
    /// All.
    pub const ALL: [Known; 4] = [Known::Kernel, Known::Event, Known::Dump, Known::Range];

    /// Its name in answers and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Known::Kernel => "kernel",
            Known::Event => "event",
            Known::Dump => "dump",
            Known::Range => "range",
        }
    }
}

impl Moment {
    /// A moment that the kernel's timestamp tells.
    pub fn kernel(at: Millis) -> Self {
        Self { at, known: Known::Kernel, since: None }
    }

    /// The moment at which an event was received.
    pub fn event(at: Millis) -> Self {
        Self { at, known: Known::Event, since: None }
    }

    /// A moment at which a dump had the mapping.
    pub fn dump(at: Millis) -> Self {
        Self { at, known: Known::Dump, since: None }
    }

    /// A moment between two others.
    pub fn range(since: Millis, at: Millis) -> Self {
        Self { at, known: Known::Range, since: Some(since.min(at)) }
    }

    /// The earliest moment that it can be, as far as that is known.
    pub fn earliest(&self) -> Millis {
        self.since.unwrap_or(self.at)
    }
}

impl Record {
    /// Whether the source is translated, address or port.
    pub fn is_source_nat(&self) -> bool {
        self.nat != self.src
    }

    /// Whether the destination is translated, address or port.
    pub fn is_destination_nat(&self) -> bool {
        self.server != self.dst
    }

    /// The public ends: where the source is translated, where the destination is translated, or both. If
    /// neither is, the source's end, which is not translated, is the only one.
    pub fn public_ends(&self) -> impl Iterator<Item = PublicEnd> + use<> {
        self.source_end().into_iter().chain(self.destination_end())
    }

    /// That of the public ends at which the host that began the connection is.
    #[inline]
    pub fn source_end(&self) -> Option<PublicEnd> {
        let is_source = self.is_source_nat() || !self.is_destination_nat();
        is_source.then_some(PublicEnd { public: self.nat, inside: self.src, is_source: true })
    }

    /// That of the public ends at which the host that answers is.
    #[inline]
    pub fn destination_end(&self) -> Option<PublicEnd> {
        let (Some(dst), Some(server)) = (self.dst, self.server) else { return None };
        if dst == server {
            return None;
        }
        let identifier = self.nat.port.filter(|_| ICMP.contains(&self.protocol));
        let with_port = |end: End| End { ip: end.ip, port: end.port.or(identifier) };
        Some(PublicEnd { public: with_port(dst), inside: with_port(server), is_source: false })
    }

    /// The same record without what an inside host connected to. A translated destination is an end of the
    /// gateway's own, and stays.
    pub fn without_destination(self) -> Self {
        if self.is_destination_nat() { self } else { Self { dst: None, server: None, ..self } }
    }

    /// The earliest moment at which it can have been open.
    pub fn earliest(&self) -> Millis {
        self.opened.earliest()
    }

    /// Whether it was open, or can have been open, at some moment from `from` to `to`.
    pub fn overlaps(&self, from: Millis, to: Millis) -> bool {
        self.earliest() <= to && self.closed.is_none_or(|closed| closed.at >= from)
    }

    /// Whether both are the same lifetime, seen at different times: the tuples, the id and the begin are equal.
    pub fn is_same_lifetime(&self, other: &Record) -> bool {
        self.is_same_connection(other) && self.opened == other.opened
    }

    /// Whether both have the same tuples and the same conntrack id.
    pub fn is_same_connection(&self, other: &Record) -> bool {
        let key = |record: &Record| {
            let Record { protocol, zone, reply_zone, src, dst, nat, server, id, .. } = *record;
            (protocol, zone, reply_zone, id, src, dst, nat, server)
        };
        key(self) == key(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(ip: [u8; 4], port: u16) -> End {
        End { ip: ip.into(), port: Some(port) }
    }

    fn record() -> Record {
        Record {
            protocol: 6,
            zone: 0,
            reply_zone: 0,
            src: end([192, 168, 7, 2], 40_000),
            dst: Some(end([198, 51, 100, 1], 443)),
            nat: end([203, 0, 113, 9], 51_000),
            server: Some(end([198, 51, 100, 1], 443)),
            id: Some(7),
            mark: None,
            opened: Moment::event(1_000),
            closed: Some(Moment::range(2_000, 3_000)),
            counters: None,
        }
    }

    #[test]
    fn each_translated_end_is_public_and_has_a_host_behind_it() {
        let ends = |record: &Record| record.public_ends().collect::<Vec<_>>();
        let source = PublicEnd { public: record().nat, inside: record().src, is_source: true };
        assert_eq!(ends(&record()), [source]);
        let web = end([192, 168, 7, 80], 8080);
        let hairpin = Record { server: Some(web), ..record() };
        let destination = PublicEnd { public: end([198, 51, 100, 1], 443), inside: web, is_source: false };
        assert_eq!(ends(&hairpin), [source, destination]);
        let inbound = Record { nat: hairpin.src, ..hairpin };
        assert_eq!(ends(&inbound), [destination]);
        let plain = Record { nat: record().src, ..record() };
        assert_eq!(ends(&plain), [PublicEnd { public: record().src, ..source }]);
        // Without the destination, only what the gateway translates itself is left.
        assert_eq!(record().without_destination().dst, None);
        assert_eq!(ends(&record().without_destination()), [source]);
        assert_eq!(hairpin.without_destination(), hairpin);
        let echo = Record {
            protocol: 1,
            dst: Some(End { port: None, ..end([203, 0, 113, 9], 0) }),
            server: Some(End { port: None, ..web }),
            nat: record().src,
            ..record()
        };
        assert_eq!(ends(&echo)[0].public.port, Some(40_000));
    }

    #[test]
    fn a_mapping_overlaps_a_time_in_which_it_can_have_been_open() {
        let opened = Record { opened: Moment::range(500, 1_000), ..record() };
        for (from, to, expected) in
            [(0, 499, false), (0, 500, true), (700, 700, true), (3_000, 9_000, true), (3_001, 9_000, false)]
        {
            assert_eq!(opened.overlaps(from, to), expected, "{from} {to}");
        }
        assert!(Record { closed: None, ..opened }.overlaps(i64::MAX - 1, i64::MAX));
    }
}
