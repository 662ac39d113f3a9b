//! Connections that are translated twice on this gateway: the mappings further
//! inside.
//!
//! A packet can pass the NAT of one network namespace more than once, for example in
//! two conntrack zones. The outer mapping then begins at the public end of the inner
//! one: its tuple is the reverse of the inner mapping's, apart from the zone.

use super::family::FamilyTable;
use super::heads::ProtocolClass;
use super::index::MAX_CHAIN_WALK;
use super::packed::{Address, PackedTuple};
use super::store::Table;
use crate::clock::Stamp;
use crate::mapping::{Mapping, Traced};

/// The maximum number of mappings further inside that are followed.
const MAX_INNER: usize = 4;
/// The maximum number of zones in which the next mapping is searched.
const MAX_ZONES: usize = 256;

impl Table {
    /// A mapping with the mappings further inside on both of its sides: at most four
    /// on each.
    pub fn trace(&self, mapping: Mapping, now: Stamp) -> Traced {
        Traced {
            mapping,
            source: self.inner(&mapping, now, Self::inner_of_source),
            destination: self.inner(&mapping, now, Self::inner_of_destination),
        }
    }

    /// Follows a mapping inwards. Allocates only if there is something.
    fn inner(
        &self,
        mapping: &Mapping,
        now: Stamp,
        step: impl Fn(&Self, &Mapping, Stamp) -> Option<Mapping>,
    ) -> Vec<Mapping> {
        let mut inner: Vec<Mapping> = Vec::new();
        let mut from = *mapping;
        while let Some(found) = step(self, &from, now).filter(|_| inner.len() < MAX_INNER) {
            let is_known = |known: &Mapping| (known.id, known.sequence) == (found.id, found.sequence);
            if is_known(mapping) || inner.iter().any(is_known) {
                break;
            }
            inner.push(found);
            from = found;
        }
        inner
    }

    /// The mapping that translated the source to this mapping's source. It is live, or
    /// it closed while this one was live.
    fn inner_of_source(&self, outer: &Mapping, now: Stamp) -> Option<Mapping> {
        if outer.src_ip().is_ipv4() {
            self.v4.inner_of_source(outer, now)
        } else {
            self.v6.inner_of_source(outer, now)
        }
    }

    /// The mapping that translates the destination of this mapping's packets once
    /// more. It is live, or it closed while this one was live.
    fn inner_of_destination(&self, outer: &Mapping, now: Stamp) -> Option<Mapping> {
        if !outer.is_destination_nat() {
            return None;
        }
        if outer.src_ip().is_ipv4() {
            self.v4.inner_of_destination(outer, now)
        } else {
            self.v6.inner_of_destination(outer, now)
        }
    }
}

impl<A: Address> FamilyTable<A> {
    fn inner_of_source(&self, outer: &Mapping, now: Stamp) -> Option<Mapping> {
        if !self.publics.may_contain(A::from_ip(outer.src_ip())?) {
            return None;
        }
        let reply = PackedTuple::<A>::pack(&outer.original.reversed())?;
        let found = self
            .zones_with_0()
            .take(MAX_ZONES)
            .flat_map(|zone| self.tuple_index.all(&reply.in_zone(zone), &self.entries))
            .take(MAX_CHAIN_WALK)
            .filter(|slot| self.entries.get(*slot).is_source_nat());
        self.newest_of_its_time(found, outer, now)
    }

    fn inner_of_destination(&self, outer: &Mapping, now: Stamp) -> Option<Mapping> {
        let original = PackedTuple::<A>::pack(&outer.reply.reversed())?;
        let class = ProtocolClass::of(original.protocol());
        let (public, peer) = (Some(original.dst), Some(original.src));
        let peer_port = Some(original.peer_port());
        let walk = self.forwards.walk(class, original.nat_port(), public, peer, peer_port);
        let found = walk
            .take(MAX_CHAIN_WALK)
            .filter(|slot| self.entries.get(*slot).original().is_equal_in_another_zone(&original));
        self.newest_of_its_time(found, outer, now)
    }

    /// The mapping among these slots that was live together with `outer`: the newest
    /// live one, or else the newest closed one.
    fn newest_of_its_time(
        &self,
        slots: impl Iterator<Item = u32>,
        outer: &Mapping,
        now: Stamp,
    ) -> Option<Mapping> {
        let overlaps = |inner: &Mapping| {
            outer.closed.is_none_or(|closed| inner.opened.monotonic <= closed.monotonic)
                && inner.closed.is_none_or(|closed| closed.monotonic >= outer.opened.monotonic)
        };
        slots
            .filter_map(|slot| self.visible(slot, now))
            .filter(overlaps)
            .max_by_key(|inner| (inner.is_live(), inner.age_rank()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nfct::{Flow, Tuple};

    use super::*;
    use crate::config::Key;
    use crate::mapping::Host;

    fn stamp(milliseconds: u64) -> Stamp {
        Stamp { monotonic: 1_000_000 + milliseconds, wall: 1_700_000_000_000 + milliseconds }
    }

    const SERVER: ([u8; 4], u16) = ([198, 51, 100, 1], 443);

    /// A connection whose source 10.0.0.`from` becomes 10.0.0.`to`, in a zone.
    fn step(from: u8, to: u8, zone: u16, id: u32) -> Flow {
        let tuple =
            |host: u8| Tuple { zone, ..Tuple::tcp(([10, 0, 0, host], 1000 + u16::from(host)), SERVER) };
        let mut flow = Flow::new(tuple(from), tuple(to).reversed());
        flow.id = id;
        flow
    }

    fn table(flows: &[Flow]) -> Table {
        let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
        for (at, flow) in flows.iter().enumerate() {
            table.open(flow, stamp(at as u64));
        }
        table
    }

    /// The source host behind the public end 10.0.0.`public`, and what is between.
    fn trace(table: &mut Table, public: u8, now: Stamp) -> (Host, Vec<Host>) {
        let question = crate::question::Question {
            nat_ip: Some(std::net::IpAddr::from([10, 0, 0, public]).into()),
            nat_port: Some(1000 + u16::from(public)),
            ..Default::default()
        };
        let found = table.find(&question, 1000, now).unwrap();
        let traced = table.trace(found[0], now);
        (traced.source_host(), traced.source_via().collect())
    }

    fn host(number: u8, zone: u16) -> Host {
        Host { ip: [10, 0, 0, number].into(), port: Some(1000 + u16::from(number)), zone }
    }

    #[test]
    fn the_host_furthest_inside_is_found_in_a_bounded_number_of_steps() {
        let table_of = |steps: u8| {
            let flows: Vec<_> = (0..steps).map(|at| step(at, at + 1, at.into(), at.into())).collect();
            table(&flows)
        };
        assert_eq!(trace(&mut table_of(1), 1, stamp(9)), (host(0, 0), vec![]));
        assert_eq!(trace(&mut table_of(2), 2, stamp(9)), (host(0, 0), vec![host(1, 1)]));
        assert_eq!(trace(&mut table_of(3), 3, stamp(9)), (host(0, 0), vec![host(2, 2), host(1, 1)]));
        let bounded = trace(&mut table_of(9), 9, stamp(9));
        assert_eq!((bounded.0, bounded.1.len()), (host(4, 4), MAX_INNER));
        // Two mappings that begin at each other's public end.
        let mut circle = table(&[step(1, 2, 0, 1), step(2, 1, 5, 2)]);
        assert_eq!(trace(&mut circle, 2, stamp(9)), (host(2, 5), vec![host(1, 0)]));
    }

    #[test]
    fn a_mapping_without_translation_is_no_step() {
        let plain = step(1, 1, 3, 1);
        assert_eq!(trace(&mut table(&[plain]), 1, stamp(9)), (host(1, 3), vec![]));
        assert_eq!(trace(&mut table(&[plain, step(1, 2, 0, 2)]), 2, stamp(9)), (host(1, 0), vec![]));
    }

    #[test]
    fn only_a_mapping_of_the_same_time_and_far_side_is_a_step() {
        // The intermediate port had another user before.
        let (before, inner, outer) = (step(7, 2, 1, 1), step(1, 2, 1, 2), step(2, 3, 0, 3));
        let mut table = table(&[before]);
        table.close(&before, stamp(1));
        table.open(&outer, stamp(3));
        assert_eq!(trace(&mut table, 3, stamp(4)), (host(2, 0), vec![]));
        table.open(&inner, stamp(3));
        assert_eq!(trace(&mut table, 3, stamp(4)), (host(1, 1), vec![host(2, 0)]));
        // The inner mapping closes first; both stay known as closed.
        table.close(&inner, stamp(5));
        assert_eq!(trace(&mut table, 3, stamp(6)).0, host(1, 1));
        table.close(&outer, stamp(7));
        let later = step(7, 2, 1, 9);
        table.open(&later, stamp(8));
        assert_eq!(trace(&mut table, 3, stamp(9)).0, host(1, 1));
        // Another far side.
        let other = {
            let mut flow = step(4, 5, 1, 4);
            (flow.original.dst, flow.reply.src) = ([198, 51, 100, 2].into(), [198, 51, 100, 2].into());
            flow
        };
        table.open(&other, stamp(9));
        table.open(&step(5, 6, 0, 5), stamp(9));
        assert_eq!(trace(&mut table, 6, stamp(9)), (host(5, 0), vec![]));
    }

    #[test]
    fn a_destination_that_is_translated_twice_is_followed() {
        let client = ([198, 51, 100, 9], 50_000);
        let tuple = |to: ([u8; 4], u16), zone| Tuple { zone, ..Tuple::tcp(client, to) };
        let forward = |to, then, zone, id| {
            let mut flow = Flow::new(tuple(to, zone), tuple(then, zone).reversed());
            flow.id = id;
            flow
        };
        let (public, middle, inside) =
            (([100, 64, 2, 1], 443), ([10, 0, 0, 1], 8443), ([192, 168, 7, 2], 9443));
        let mut table = table(&[forward(public, middle, 0, 1), forward(middle, inside, 4, 2)]);
        let question = crate::question::Question {
            nat_ip: Some(std::net::IpAddr::from(public.0).into()),
            nat_port: Some(public.1),
            ..Default::default()
        };
        let found = table.find(&question, 1000, stamp(9)).unwrap();
        let traced = table.trace(found[0], stamp(9));
        let host = |(ip, port): ([u8; 4], u16), zone| Host { ip: ip.into(), port: Some(port), zone };
        assert_eq!(traced.server_host(), host(inside, 4));
        assert_eq!(traced.server_via().collect::<Vec<_>>(), [host(middle, 0)]);
        let end = question.public_ends(&found[0]).next().unwrap();
        assert_eq!(traced.inside_host(&end), host(inside, 4));
    }
}
