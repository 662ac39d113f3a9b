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
    /// The record's place, closed ones first; then whether it is the second public end.
    record: u32,
    is_second: bool,
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
    let places = sorted(frozen);
    // The order of the rows has nothing to do with that of the records.
    let rows = places.chunks(TOGETHER).flat_map(|places| {
        places.iter().for_each(|place| frozen.sealed.closed.warm(place.record as usize));
        places.iter().filter_map(|place| row(frozen, place)).map(Ok)
    });
    segment::write(disk, Kind::Sealed, info, &mut Supplied::new(rows))
}

fn record(frozen: &Frozen, place: usize) -> Option<Record> {
    let sealed = &frozen.sealed;
    sealed.closed.get(place).or_else(|| Some(sealed.open.get(place - sealed.closed.len())))
}

fn row(frozen: &Frozen, place: &Place) -> Option<Row> {
    Row::of(record(frozen, place.record as usize)?).nth(usize::from(place.is_second))
}

fn sorted(frozen: &Frozen) -> Vec<Place> {
    let count = frozen.sealed.len();
    let mut ranks: HashMap<IpAddr, u64> = HashMap::new();
    let mut places = Vec::with_capacity(count);
    for place in 0..count {
        let (Some(record), Ok(number)) = (record(frozen, place), u32::try_from(place)) else { continue };
        for (which, row) in Row::of(record).enumerate() {
            // First the address's number in the order of its appearance.
            let next = ranks.len() as u64;
            let rank = *ranks.entry(row.public.ip).or_insert(next);
            let port = row.public.port.map_or(0, |port| u64::from(port) + 1);
            let end = rank << 32 | port << 8 | u64::from(record.protocol);
            places.push(Place { end, opened: record.opened.at, record: number, is_second: which == 1 });
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
