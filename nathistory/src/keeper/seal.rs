//! Makes a segment of what is frozen.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::disk::Disk;
use crate::error::Error;
use crate::record::Record;
use crate::row::Row;
use crate::segment::{self, Info, Kind, Supplied, Written};
use crate::state::Frozen;
use crate::text::address_order;

/// So many records are loaded from memory at the same time.
const TOGETHER: usize = 32;

/// Where a row is, with what it is sorted by: most rows are ordered without unpacking them.
struct Place {
    /// The public address's rank, the port and the protocol.
    end: u64,
    opened: i64,
    /// The record's place, closed ones first; then which of its public ends it is.
    record: u32,
    is_source: bool,
}

/// Makes a segment.
///
/// # Errors
/// Those of the disk.
pub(super) fn seal(
    disk: &dyn Disk,
    gateway: &str,
    frozen: &Frozen,
    previous: Option<String>,
) -> Result<Written, Error> {
    let sealed = &frozen.sealed;
    let mut info = Info::new(gateway, frozen.number, sealed.from, sealed.to);
    info.gaps.clone_from(&sealed.gaps);
    info.removed.clone_from(&sealed.removed);
    info.swept = sealed.swept;
    info.begins = Some(sealed.begins);
    info.previous = previous;
    segment::write(
        disk,
        Kind::Sealed,
        info,
        &mut Supplied::new(Rows { frozen, places: &sorted(frozen), next: 0 }),
    )
}

/// The rows in their order, which has nothing to do with that of the records.
struct Rows<'a> {
    frozen: &'a Frozen,
    places: &'a [Place],
    next: usize,
}

impl Iterator for Rows<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        let place = self.places.get(self.next)?;
        if self.next % TOGETHER == 0 {
            let together = self.places[self.next..].iter().take(TOGETHER);
            together.for_each(|place| self.frozen.sealed.closed.warm(place.record as usize));
        }
        self.next += 1;
        row(self.frozen, place)
    }
}

fn record(frozen: &Frozen, place: usize) -> Option<Record> {
    let sealed = &frozen.sealed;
    sealed.closed.get(place).or_else(|| Some(sealed.open.get(place - sealed.closed.len())))
}

fn row(frozen: &Frozen, place: &Place) -> Option<Row> {
    Row::at(record(frozen, place.record as usize)?, place.is_source)
}

fn sorted(frozen: &Frozen) -> Vec<Place> {
    let count = frozen.sealed.len();
    let mut ranks: HashMap<IpAddr, u64> = HashMap::new();
    let mut places = Vec::with_capacity(count);
    for place in 0..count {
        let (Some(record), Ok(number)) = (record(frozen, place), u32::try_from(place)) else { continue };
        for row in Row::of(record) {
            // First the address's number in the order of its appearance.
            let next = ranks.len() as u64;
            let rank = *ranks.entry(row.public.ip).or_insert(next);
            let port = row.public.port.map_or(0, |port| u64::from(port) + 1);
            let end = rank << 32 | port << 8 | u64::from(record.protocol);
            places.push(Place { end, opened: record.opened.at, record: number, is_source: row.is_source });
        }
    }
    // Then the rank: there are few addresses, and comparing them as text is slow.
    let mut addresses: Vec<(IpAddr, u64)> = ranks.into_iter().collect();
    addresses.sort_unstable_by(|(a, _), (b, _)| address_order(*a, *b));
    let mut rank_of = vec![0; addresses.len()];
    for (rank, (_, number)) in (0u64..).zip(&addresses) {
        if let Some(place) = usize::try_from(*number).ok().and_then(|number| rank_of.get_mut(number)) {
            *place = rank;
        }
    }
    for place in &mut places {
        let rank = rank_of.get((place.end >> 32) as usize).copied().unwrap_or_default();
        place.end = rank << 32 | place.end & 0xffff_ffff;
    }
    places.sort_unstable_by(|a, b| {
        (a.end, a.opened).cmp(&(b.end, b.opened)).then_with(|| match (row(frozen, a), row(frozen, b)) {
            (Some(a), Some(b)) => a.order(&b),
            _ => std::cmp::Ordering::Equal,
        })
    });
    places
}
