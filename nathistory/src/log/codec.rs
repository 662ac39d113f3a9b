//! Entries as bytes. All numbers are little-endian.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry::Entry;
use crate::gap::Reason;
use crate::record::{Counters, End, Known, Moment, Record};

const OPENED: u8 = 1;
const CLOSED: u8 = 2;
const SEEN: u8 = 3;
const RECONCILE: u8 = 4;
const RECONCILED: u8 = 5;
const GAP: u8 = 6;
const GAP_ENDS: u8 = 7;
const ALIVE: u8 = 8;
const REMOVED: u8 = 9;
const SWEPT: u8 = 10;
const RECONCILING: u8 = 11;

// What a record has. The lowest eight bits belong to the ends in the order source, NAT, destination, server:
// whether the address is of version 6, and whether there is a port.
const HAS_DST: u32 = 1 << 8;
const HAS_SERVER: u32 = 1 << 9;
/// The server is the destination, which is not translated.
const SERVER_IS_DST: u32 = 1 << 10;
/// The source is not translated.
const NAT_IS_SRC: u32 = 1 << 11;
const HAS_ZONES: u32 = 1 << 12;
const HAS_MARK: u32 = 1 << 13;
const HAS_CLOSED: u32 = 1 << 14;
const HAS_COUNTERS: u32 = 1 << 15;
const LACKS_ID: u32 = 1 << 16;

/// Appends an entry.
pub(super) fn encode(entry: &Entry, out: &mut Vec<u8>) {
    match entry {
        Entry::Opened(record) => encode_record(OPENED, record, out),
        Entry::Closed(record) => encode_record(CLOSED, record, out),
        Entry::Seen(record) => encode_record(SEEN, record, out),
        Entry::Reconcile { since } => encode_time(RECONCILE, *since, out),
        Entry::Reconciling { since } => encode_time(RECONCILING, *since, out),
        Entry::Reconciled { at } => encode_time(RECONCILED, *at, out),
        Entry::Gap(gap) => encode_json(GAP, gap, out),
        Entry::GapEnds { reason, at, detail } => encode_json(GAP_ENDS, &(reason, at, detail), out),
        Entry::Alive { at } => encode_time(ALIVE, *at, out),
        Entry::Swept { at } => encode_time(SWEPT, *at, out),
        Entry::Removed(removal) => encode_json(REMOVED, removal, out),
    }
}

fn encode_time(tag: u8, time: i64, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&time.to_le_bytes());
}

// Gaps and removals are rare.
fn encode_json(tag: u8, value: &impl Serialize, out: &mut Vec<u8>) {
    let json = serde_json::to_vec(value).unwrap_or_default();
    out.push(tag);
    out.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&json);
}

fn encode_record(tag: u8, record: &Record, out: &mut Vec<u8>) {
    let mut ends = [Some(record.src), Some(record.nat), record.dst, record.server];
    let mut flags = 0;
    if record.nat == record.src {
        flags |= NAT_IS_SRC;
        ends[1] = None;
    }
    if record.dst.is_some() {
        flags |= HAS_DST;
    }
    if record.server.is_some() {
        flags |= HAS_SERVER;
        if record.server == record.dst {
            flags |= SERVER_IS_DST;
            ends[3] = None;
        }
    }
    for (place, end) in ends.iter().enumerate() {
        if let Some(end) = end {
            flags |= (u32::from(end.ip.is_ipv6()) | u32::from(end.port.is_some()) << 1) << (2 * place);
        }
    }
    for (flag, set) in [
        (HAS_ZONES, record.zone != 0 || record.reply_zone != 0),
        (HAS_MARK, record.mark.is_some()),
        (HAS_CLOSED, record.closed.is_some()),
        (HAS_COUNTERS, record.counters.is_some()),
        (LACKS_ID, record.id.is_none()),
    ] {
        if set {
            flags |= flag;
        }
    }
    out.push(tag);
    out.extend_from_slice(&flags.to_le_bytes());
    out.push(record.protocol);
    if let Some(id) = record.id {
        out.extend_from_slice(&id.to_le_bytes());
    }
    for end in ends.into_iter().flatten() {
        match end.ip {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
        if let Some(port) = end.port {
            out.extend_from_slice(&port.to_le_bytes());
        }
    }
    if flags & HAS_ZONES != 0 {
        out.extend_from_slice(&record.zone.to_le_bytes());
        out.extend_from_slice(&record.reply_zone.to_le_bytes());
    }
    if let Some(mark) = record.mark {
        out.extend_from_slice(&mark.to_le_bytes());
    }
    encode_moment(&record.opened, out);
    if let Some(closed) = &record.closed {
        encode_moment(closed, out);
    }
    if let Some(counters) = &record.counters {
        for number in counters.packets.iter().chain(&counters.bytes) {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
}

fn encode_moment(moment: &Moment, out: &mut Vec<u8>) {
    out.push(moment.known as u8 | u8::from(moment.since.is_some()) << 7);
    out.extend_from_slice(&moment.at.to_le_bytes());
    if let Some(since) = moment.since {
        out.extend_from_slice(&since.to_le_bytes());
    }
}

/// Takes the next entry; `None` if the bytes are none.
pub(super) fn decode(input: &mut &[u8]) -> Option<Entry> {
    let tag = u8::from_le_bytes(take(input)?);
    Some(match tag {
        OPENED => Entry::Opened(decode_record(input)?),
        CLOSED => Entry::Closed(decode_record(input)?),
        SEEN => Entry::Seen(decode_record(input)?),
        RECONCILE => Entry::Reconcile { since: i64::from_le_bytes(take(input)?) },
        RECONCILING => Entry::Reconciling { since: i64::from_le_bytes(take(input)?) },
        RECONCILED => Entry::Reconciled { at: i64::from_le_bytes(take(input)?) },
        GAP => Entry::Gap(decode_json(input)?),
        GAP_ENDS => {
            let (reason, at, detail): (Reason, i64, Option<String>) = decode_json(input)?;
            Entry::GapEnds { reason, at, detail }
        }
        ALIVE => Entry::Alive { at: i64::from_le_bytes(take(input)?) },
        SWEPT => Entry::Swept { at: i64::from_le_bytes(take(input)?) },
        REMOVED => Entry::Removed(decode_json(input)?),
        _ => return None,
    })
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(*first)
}

fn decode_json<T: DeserializeOwned>(input: &mut &[u8]) -> Option<T> {
    let length = u32::from_le_bytes(take(input)?) as usize;
    let (json, rest) = input.split_at_checked(length)?;
    *input = rest;
    serde_json::from_slice(json).ok()
}

fn decode_record(input: &mut &[u8]) -> Option<Record> {
    let flags = u32::from_le_bytes(take(input)?);
    let has = |flag: u32| flags & flag != 0;
    let protocol = u8::from_le_bytes(take(input)?);
    let id = if has(LACKS_ID) { None } else { Some(u32::from_le_bytes(take(input)?)) };
    let src = decode_end(flags, input)?;
    let nat = if has(NAT_IS_SRC) { src } else { decode_end(flags >> 2, input)? };
    let dst = if has(HAS_DST) { Some(decode_end(flags >> 4, input)?) } else { None };
    let server = if has(SERVER_IS_DST) {
        dst
    } else if has(HAS_SERVER) {
        Some(decode_end(flags >> 6, input)?)
    } else {
        None
    };
    let (zone, reply_zone) = if has(HAS_ZONES) {
        (u16::from_le_bytes(take(input)?), u16::from_le_bytes(take(input)?))
    } else {
        (0, 0)
    };
    let mark = if has(HAS_MARK) { Some(u32::from_le_bytes(take(input)?)) } else { None };
    let opened = decode_moment(input)?;
    let closed = if has(HAS_CLOSED) { Some(decode_moment(input)?) } else { None };
    let counters = if has(HAS_COUNTERS) {
        let mut number = || Some(u64::from_le_bytes(take(input)?));
        Some(Counters { packets: [number()?, number()?], bytes: [number()?, number()?] })
    } else {
        None
    };
    Some(Record { protocol, zone, reply_zone, src, dst, nat, server, id, mark, opened, closed, counters })
}

fn decode_end(flags: u32, input: &mut &[u8]) -> Option<End> {
    let ip = if flags & 1 != 0 {
        IpAddr::V6(Ipv6Addr::from(take::<16>(input)?))
    } else {
        IpAddr::V4(Ipv4Addr::from(take::<4>(input)?))
    };
    let port = if flags & 2 != 0 { Some(u16::from_le_bytes(take(input)?)) } else { None };
    Some(End { ip, port })
}

fn decode_moment(input: &mut &[u8]) -> Option<Moment> {
    let byte = u8::from_le_bytes(take(input)?);
    let known = *Known::ALL.get(usize::from(byte & 0x7f))?;
    let at = i64::from_le_bytes(take(input)?);
    let since = if byte & 0x80 != 0 { Some(i64::from_le_bytes(take(input)?)) } else { None };
    Some(Moment { at, known, since })
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::gap::Gap;
    use crate::removal::Removal;

    fn ends() -> impl Strategy<Value = End> {
        (any::<IpAddr>(), any::<Option<u16>>()).prop_map(|(ip, port)| End { ip, port })
    }

    fn moments() -> impl Strategy<Value = Moment> {
        (any::<i64>(), 0..4usize, any::<Option<i64>>()).prop_map(|(at, known, since)| Moment {
            at,
            known: Known::ALL[known],
            since,
        })
    }

    fn records() -> impl Strategy<Value = Record> {
        let counters = any::<Option<([u64; 2], [u64; 2])>>();
        let numbers = (any::<(u8, u16, u16, u32, Option<u32>)>(), counters);
        let places = (ends(), option::of(ends()), ends(), option::of(ends()), any::<(bool, bool)>());
        (numbers, places, moments(), option::of(moments())).prop_map(
            |((numbers, counters), (src, dst, nat, server, plain), opened, closed)| {
                let (protocol, zone, reply_zone, id, mark) = numbers;
                let nat = if plain.0 { src } else { nat };
                let server = if plain.1 { dst } else { server };
                let counters = counters.map(|(packets, bytes)| Counters { packets, bytes });
                Record {
                    protocol,
                    zone,
                    reply_zone,
                    src,
                    dst,
                    nat,
                    server,
                    id: Some(id),
                    mark,
                    opened,
                    closed,
                    counters,
                }
            },
        )
    }

    fn decoded(bytes: &[u8]) -> Option<Entry> {
        let mut rest = bytes;
        decode(&mut rest).filter(|_| rest.is_empty())
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_was_written(record in records(), kind in 0..3usize) {
            let kinds = [Entry::Opened, Entry::Closed, Entry::Seen];
            let entry = kinds[kind](record);
            let mut bytes = Vec::new();
            encode(&entry, &mut bytes);
            for length in 0..bytes.len() {
                prop_assert_eq!(decoded(&bytes[..length]), None);
            }
            prop_assert_eq!(decoded(&bytes), Some(entry));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let mut rest = &bytes[..];
            while decode(&mut rest).is_some() {}
        }
    }

    #[test]
    fn rare_entries_are_read_as_they_were_written() {
        let gap = Gap { from: 1, to: None, reason: Reason::EventsLost, detail: Some("ä".into()) };
        let removal = Removal { first: 1, last: 2, from: 3, to: 4, hashes: vec!["00".into()], at: 5 };
        for entry in [
            Entry::Reconcile { since: -1 },
            Entry::Reconciling { since: 3 },
            Entry::Reconciled { at: i64::MAX },
            Entry::Gap(gap),
            Entry::GapEnds { reason: Reason::NotWritten, at: 9, detail: None },
            Entry::Alive { at: 0 },
            Entry::Swept { at: -1 },
            Entry::Removed(removal),
        ] {
            let mut bytes = Vec::new();
            encode(&entry, &mut bytes);
            assert_eq!(decoded(&bytes), Some(entry));
        }
    }

    #[test]
    fn a_usual_record_is_small() {
        let end = |last: u8, port| End { ip: [203, 0, 113, last].into(), port: Some(port) };
        let record = Record {
            protocol: 6,
            zone: 0,
            reply_zone: 0,
            src: end(1, 1),
            dst: Some(end(2, 2)),
            nat: end(3, 3),
            server: Some(end(2, 2)),
            id: Some(4),
            mark: None,
            opened: Moment::event(5),
            closed: None,
            counters: None,
        };
        let mut bytes = Vec::new();
        encode(&Entry::Opened(record), &mut bytes);
        assert_eq!(bytes.len(), 37);
    }
}
