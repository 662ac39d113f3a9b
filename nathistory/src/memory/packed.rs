//! A record in 56 bytes.

use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::DefaultHashBuilder;

use crate::record::{End, Known, Moment, Record};

/// The longer addresses, which records name by their place.
#[derive(Debug, Default, Clone)]
pub(super) struct Addresses {
    places: Vec<Ipv6Addr>,
    free: Vec<u32>,
}

/// A record that is open: without its end, and without counters, which are known at the end.
///
/// What tells connections apart comes first, so that a comparison reads one line of the processor's cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed {
    /// The source's, NAT's, destination's and server's address. One of version 6 is a place in [`Addresses`].
    ips: [u32; 4],
    ports: [u16; 4],
    /// Four bits each for: the address is of version 6, there is a port. Then the flags below.
    flags: u16,
    zone: u16,
    reply_zone: u16,
    protocol: u8,
    known: u8,
    id: u32,
    mark: u32,
    at: i64,
    since: i64,
}

/// The public ends by which a record is found, numbered 0 and 1. A mapping of ICMP can have the same one twice.
pub(super) fn found_by(record: &Record) -> impl Iterator<Item = (u32, End)> + use<> {
    let mut first = None;
    let ends = (0..).zip(record.public_ends().map(|end| end.public));
    ends.filter(move |(_, end)| first.replace(*end) != Some(*end))
}

/// The first link of the chain of a public end. Few ends have the same fingerprint by chance; these share a chain. So
/// nothing else must be loaded from memory to add a link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    pub(super) fingerprint: u32,
    pub(super) first: u32,
}

/// The fingerprint of a public end.
pub(super) fn fingerprint(hasher: &DefaultHashBuilder, end: &End) -> u32 {
    let mut hash = hasher.build_hasher();
    hash.write_u32(end.port.map_or(0, |port| u32::from(port) + 1));
    write_ip(&mut hash, end);
    (hash.finish() >> 32) as u32
}

/// The hash by which a fingerprint is found.
pub(super) fn spread(fingerprint: u32) -> u64 {
    u64::from(fingerprint).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Hashes an address.
pub(super) fn write_ip(hash: &mut impl Hasher, end: &End) {
    match end.ip {
        IpAddr::V4(ip) => hash.write_u32(ip.into()),
        IpAddr::V6(ip) => hash.write_u128(ip.into()),
    }
}

const HAS_DST: u16 = 1 << 8;
const HAS_SERVER: u16 = 1 << 9;
const HAS_MARK: u16 = 1 << 10;
const HAS_SINCE: u16 = 1 << 11;
const HAS_ID: u16 = 1 << 12;

impl Addresses {
    fn add(&mut self, ip: Ipv6Addr) -> u32 {
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = ip;
            return place;
        }
        self.places.push(ip);
        u32::try_from(self.places.len() - 1).expect("fewer than 2^32 addresses fit into memory")
    }
}

impl Packed {
    pub(super) fn new(record: &Record, addresses: &mut Addresses) -> Self {
        let mut packed = Self {
            ips: [0; 4],
            ports: [0; 4],
            flags: 0,
            zone: record.zone,
            reply_zone: record.reply_zone,
            protocol: record.protocol,
            known: record.opened.known as u8,
            id: record.id.unwrap_or_default(),
            mark: record.mark.unwrap_or_default(),
            at: record.opened.at,
            since: record.opened.since.unwrap_or_default(),
        };
        for (place, end) in [Some(record.src), Some(record.nat), record.dst, record.server].iter().enumerate()
        {
            let Some(end) = end else { continue };
            packed.ips[place] = match end.ip {
                IpAddr::V4(ip) => ip.into(),
                IpAddr::V6(ip) => {
                    packed.flags |= 1 << place;
                    addresses.add(ip)
                }
            };
            if let Some(port) = end.port {
                packed.flags |= 1 << (place + 4);
                packed.ports[place] = port;
            }
        }
        for (flag, set) in [
            (HAS_DST, record.dst.is_some()),
            (HAS_SERVER, record.server.is_some()),
            (HAS_MARK, record.mark.is_some()),
            (HAS_SINCE, record.opened.since.is_some()),
            (HAS_ID, record.id.is_some()),
        ] {
            if set {
                packed.flags |= flag;
            }
        }
        packed
    }

    pub(super) fn record(&self, addresses: &Addresses) -> Record {
        let has = |flag: u16| self.flags & flag != 0;
        let end = |place: usize| self.end(place, addresses);
        Record {
            protocol: self.protocol,
            zone: self.zone,
            reply_zone: self.reply_zone,
            src: end(0),
            dst: has(HAS_DST).then(|| end(2)),
            nat: end(1),
            server: has(HAS_SERVER).then(|| end(3)),
            id: has(HAS_ID).then_some(self.id),
            mark: has(HAS_MARK).then_some(self.mark),
            opened: self.opened(),
            closed: None,
            counters: None,
        }
    }

    fn end(&self, place: usize, addresses: &Addresses) -> End {
        let ip = if self.flags & (1 << place) == 0 {
            IpAddr::V4(Ipv4Addr::from(self.ips[place]))
        } else {
            IpAddr::V6(addresses.places[self.ips[place] as usize])
        };
        End { ip, port: (self.flags & (1 << (place + 4)) != 0).then_some(self.ports[place]) }
    }

    /// When it opened.
    pub(super) fn opened(&self) -> Moment {
        let since = (self.flags & HAS_SINCE != 0).then_some(self.since);
        Moment { at: self.at, known: Known::ALL[usize::from(self.known)], since }
    }

    /// Whether both have the same tuples and id. What differs most often is compared first.
    pub(super) fn is_same_connection(&self, record: &Record, addresses: &Addresses) -> bool {
        let has = |flag: u16| self.flags & flag != 0;
        let is_end = |place: usize, end: &End| self.is_end(place, end, addresses);
        let is_optional = |place: usize, flag: u16, end: &Option<End>| match end {
            Some(end) => has(flag) && is_end(place, end),
            None => !has(flag),
        };
        has(HAS_ID).then_some(self.id) == record.id
            && is_end(0, &record.src)
            && is_end(1, &record.nat)
            && is_optional(2, HAS_DST, &record.dst)
            && is_optional(3, HAS_SERVER, &record.server)
            && (self.protocol, self.zone, self.reply_zone)
                == (record.protocol, record.zone, record.reply_zone)
    }

    #[inline]
    fn is_end(&self, place: usize, end: &End, addresses: &Addresses) -> bool {
        let is_v6 = self.flags & (1 << place) != 0;
        let is_ip = match end.ip {
            IpAddr::V4(ip) => !is_v6 && self.ips[place] == u32::from(ip),
            IpAddr::V6(ip) => is_v6 && addresses.places[self.ips[place] as usize] == ip,
        };
        is_ip && (self.flags & (1 << (place + 4)) != 0).then_some(self.ports[place]) == end.port
    }

    /// Gives the places of its addresses back.
    pub(super) fn release(&self, addresses: &mut Addresses) {
        let places = (0..4).filter(|place| self.flags & (1 << place) != 0);
        addresses.free.extend(places.map(|place| self.ips[place]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_small_as_the_memory_wants() {
        assert_eq!(size_of::<Packed>(), 56);
    }

    #[test]
    fn a_record_is_the_same_when_unpacked() {
        let mut addresses = Addresses::default();
        let v6 = End { ip: "2001:db8::1".parse().unwrap(), port: Some(9) };
        let v4 = End { ip: "192.0.2.1".parse().unwrap(), port: None };
        let mut record = Record {
            protocol: 58,
            zone: 1,
            reply_zone: 2,
            src: v6,
            dst: None,
            nat: v4,
            server: None,
            id: Some(u32::MAX),
            mark: Some(0),
            opened: Moment::range(-5, 7),
            closed: None,
            counters: None,
        };
        assert_eq!(Packed::new(&record, &mut addresses).record(&addresses), record);
        (record.dst, record.server, record.mark, record.id) = (Some(v4), Some(v6), None, None);
        record.opened = Moment::kernel(7);
        let packed = Packed::new(&record, &mut addresses);
        assert_eq!(packed.record(&addresses), record);
        let places = addresses.places.len();
        packed.release(&mut addresses);
        Packed::new(&record, &mut addresses);
        assert_eq!(addresses.places.len(), places);
    }
}
