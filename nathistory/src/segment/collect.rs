//! Splits the rows of a row group into columns.

use std::net::IpAddr;

use parquet::errors::ParquetError;

use crate::record::Record;
use crate::row::Row;
use crate::segment::chunk::{Context, Repeating, Value, Varying, Word, Written};
use crate::segment::columns::Column;
use crate::segment::encode::Integer;

/// The places of the words of each column in [`WORDS`](crate::segment::chunk::WORDS): `server` and `src`; `none` and
/// what is translated; how a moment is known.
pub(super) const INSIDE: usize = 0;
pub(super) const NAT: usize = 2;
pub(super) const KNOWN: usize = 6;

/// The values of one column.
pub(super) trait Chunk {
    /// Writes them as pages, and forgets them.
    fn write(&mut self, context: &mut Context<'_>) -> Result<Written, ParquetError>;
}

impl<V: Value> Chunk for Repeating<V> {
    fn write(&mut self, context: &mut Context<'_>) -> Result<Written, ParquetError> {
        Repeating::write(self, context)
    }
}

impl<V: Value + Integer> Chunk for Varying<V> {
    fn write(&mut self, context: &mut Context<'_>) -> Result<Written, ParquetError> {
        Varying::write(self, context)
    }
}

type Words = Repeating<Word>;

/// The values of all columns.
#[derive(Default)]
pub(crate) struct Columns {
    pub(super) nat_ip: Repeating<IpAddr>,
    pub(super) nat_port: Varying<i32>,
    pub(super) protocol: Repeating<i32>,
    pub(super) opened: Varying<i64>,
    pub(super) duration: Varying<i64>,
    pub(super) inside: Words,
    pub(super) src_ip: Repeating<IpAddr>,
    pub(super) src_port: Varying<i32>,
    pub(super) dst_ip: Repeating<IpAddr>,
    pub(super) dst_port: Repeating<i32>,
    pub(super) server_ip: Repeating<IpAddr>,
    pub(super) server_port: Repeating<i32>,
    pub(super) source_nat_ip: Repeating<IpAddr>,
    pub(super) source_nat_port: Varying<i32>,
    pub(super) zone: Repeating<i32>,
    pub(super) reply_zone: Repeating<i32>,
    pub(super) id: Varying<i32>,
    pub(super) mark: Repeating<i32>,
    pub(super) nat: Words,
    pub(super) opened_known: Words,
    pub(super) opened_after: Varying<i64>,
    pub(super) closed_known: Words,
    pub(super) closed_after: Varying<i64>,
    pub(super) counters: [Varying<i64>; 4],
}

impl Columns {
    pub(super) fn push(&mut self, row: &Row) {
        let Record { protocol, zone, reply_zone, src, dst, nat, server, id, mark, opened, closed, counters } =
            row.record;
        let port = |port: Option<u16>| port.map(i32::from);
        self.nat_ip.push(Some(row.public.ip));
        self.nat_port.push(port(row.public.port));
        self.protocol.push(Some(protocol.into()));
        self.opened.push(Some(opened.at));
        self.duration.push(closed.map(|closed| closed.at.wrapping_sub(opened.at)));
        self.inside.push(Some(Word(INSIDE + usize::from(row.is_source))));
        self.src_ip.push(Some(src.ip));
        self.src_port.push(port(src.port));
        self.dst_ip.push(dst.map(|dst| dst.ip));
        self.dst_port.push(port(dst.and_then(|dst| dst.port)));
        let other = server.filter(|server| Some(*server) != dst);
        self.server_ip.push(other.map(|server| server.ip));
        self.server_port.push(port(other.and_then(|server| server.port)));
        let source_nat = (!row.is_source && nat != src).then_some(nat);
        self.source_nat_ip.push(source_nat.map(|end| end.ip));
        self.source_nat_port.push(port(source_nat.and_then(|end| end.port)));
        self.zone.push(Some(zone.into()));
        self.reply_zone.push((reply_zone != zone).then_some(reply_zone.into()));
        self.id.push(id.map(|id| id as i32));
        self.mark.push(mark.map(|mark| mark as i32));
        let translated = usize::from(nat != src) + 2 * usize::from(server != dst);
        self.nat.push(Some(Word(NAT + translated)));
        self.opened_known.push(Some(Word(KNOWN + opened.known as usize)));
        self.opened_after.push(opened.since);
        self.closed_known.push(closed.map(|closed| Word(KNOWN + closed.known as usize)));
        self.closed_after.push(closed.and_then(|closed| closed.since));
        let [packets_original, packets_reply, bytes_original, bytes_reply] = &mut self.counters;
        let counted = |direction: fn(&crate::record::Counters) -> u64| {
            counters.as_ref().map(|counters| direction(counters) as i64)
        };
        packets_original.push(counted(|counters| counters.packets[0]));
        packets_reply.push(counted(|counters| counters.packets[1]));
        bytes_original.push(counted(|counters| counters.bytes[0]));
        bytes_reply.push(counted(|counters| counters.bytes[1]));
    }

    /// All, in the order of [`Column::ALL`].
    pub(super) fn chunks(&mut self) -> [&mut dyn Chunk; Column::ALL.len()] {
        let [packets_original, packets_reply, bytes_original, bytes_reply] = &mut self.counters;
        [
            &mut self.nat_ip,
            &mut self.nat_port,
            &mut self.protocol,
            &mut self.opened,
            &mut self.duration,
            &mut self.inside,
            &mut self.src_ip,
            &mut self.src_port,
            &mut self.dst_ip,
            &mut self.dst_port,
            &mut self.server_ip,
            &mut self.server_port,
            &mut self.source_nat_ip,
            &mut self.source_nat_port,
            &mut self.zone,
            &mut self.reply_zone,
            &mut self.id,
            &mut self.mark,
            &mut self.nat,
            &mut self.opened_known,
            &mut self.opened_after,
            &mut self.closed_known,
            &mut self.closed_after,
            packets_original,
            packets_reply,
            bytes_original,
            bytes_reply,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Known;
    use crate::segment::chunk::WORDS;

    #[test]
    fn the_words_are_where_they_are_looked_for() {
        assert_eq!(WORDS[INSIDE..NAT], ["server", "src"]);
        assert_eq!(WORDS[NAT..KNOWN], ["none", "src", "dst", "src+dst"]);
        assert_eq!(WORDS[KNOWN..], Known::ALL.map(Known::as_str));
        assert!((0..).zip(Known::ALL).all(|(place, known)| known as usize == place));
    }
}
