//! A line of a segment: one public end of one mapping.

use std::cmp::Ordering;

use crate::record::{End, Record};
use crate::text::address_order;

/// One public end of one mapping. A mapping whose source and destination are both translated has two rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    /// The public address and port: what segments are sorted by.
    pub(crate) public: End,
    /// Whether it is the end of the host that began the connection.
    pub(crate) is_source: bool,
    pub(crate) record: Record,
}

impl Row {
    /// The rows of a mapping.
    pub(crate) fn of(record: Record) -> impl Iterator<Item = Row> {
        record.public_ends().map(move |end| Row { public: end.public, is_source: end.is_source, record })
    }

    /// That of the rows of a mapping which has this end.
    #[inline]
    pub(crate) fn at(record: Record, is_source: bool) -> Option<Row> {
        let end = if is_source { record.source_end() } else { record.destination_end() };
        end.map(|end| Row { public: end.public, is_source, record })
    }

    /// The order of a segment: public address as text, port, protocol, begin; then what tells lifetimes apart.
    #[inline]
    pub(crate) fn order(&self, other: &Row) -> Ordering {
        let sorted = |row: &Row| (row.public.port, row.record.protocol, row.record.opened.at);
        address_order(self.public.ip, other.public.ip)
            .then_with(|| sorted(self).cmp(&sorted(other)))
            .then_with(|| {
                let rest = |row: &Row| {
                    let Record { zone, reply_zone, src, dst, nat, server, id, opened, .. } = row.record;
                    let begin = (opened.since, opened.known as u8);
                    (begin, (zone, reply_zone), (src, dst, nat, server), row.is_source, id)
                };
                rest(self).cmp(&rest(other))
            })
    }
}
