//! Sets of addresses and ports.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// A set of values, as ranges that are sorted and do not overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ranges<T>(Vec<(T, T)>);

/// Each item is the first and the last value of a range.
impl<T: Ord + Copy> FromIterator<(T, T)> for Ranges<T> {
    fn from_iter<I: IntoIterator<Item = (T, T)>>(ranges: I) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_unstable();
        ranges.dedup_by(|(first, last), (_, last_before)| {
            let overlaps = *first <= *last_before;
            if overlaps {
                *last_before = (*last_before).max(*last);
            }
            overlaps
        });
        Self(ranges)
    }
}

impl<T: Ord + Copy> Ranges<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub(super) fn contains(&self, value: T) -> bool {
        let before = self.0.partition_point(|(first, _)| *first <= value);
        before > 0 && value <= self.0[before - 1].1
    }

    /// The value, if there is only one.
    pub(super) fn single(&self) -> Option<T> {
        match self.0.as_slice() {
            [(first, last)] if first == last => Some(*first),
            _ => None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (T, T)> {
        self.0.iter().copied()
    }
}

impl Ranges<IpAddr> {
    /// The set as networks: addresses, each with the number of bits that count. Networks
    /// that overlap contain each other, so each range is a network.
    pub(super) fn networks(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        self.iter().map(|(first, last)| {
            let prefix = match (first, last) {
                (IpAddr::V4(first), IpAddr::V4(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
                (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
                _ => unreachable!("a network has one family"),
            };
            (first, prefix as u8)
        })
    }
}

/// The first and the last address of a network.
pub(super) fn of_network(network: IpNetwork) -> (IpAddr, IpAddr) {
    (network.network(), network.broadcast())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_contains_what_one_of_its_ranges_contains(
            ranges in prop::collection::vec((0..40_u16, 0..5_u16), 0..8),
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(first, more)| (first, first + more)).collect();
            let set: Ranges<u16> = ranges.iter().copied().collect();
            let all: Vec<_> = (0..50).filter(|value| ranges.iter().any(|(first, last)| (first..=last).contains(&value))).collect();
            prop_assert_eq!((0..50).filter(|value| set.contains(*value)).collect::<Vec<_>>(), all.clone());
            prop_assert_eq!(set.single(), if all.len() == 1 { Some(all[0]) } else { None });
            prop_assert_eq!(set.is_empty(), all.is_empty());
        }

        #[test]
        fn a_set_of_networks_is_those_that_are_in_no_other(
            networks in prop::collection::vec((any::<bool>(), 0..=255_u8, 0..=8_u8), 0..8),
        ) {
            let networks: Vec<IpNetwork> = networks.into_iter().map(|(v4, byte, prefix)| {
                let address: IpAddr = if v4 { [byte, 0, 0, 0].into() } else { [u16::from(byte) << 8, 0, 0, 0, 0, 0, 0, 0].into() };
                let network = IpNetwork::new(address, prefix).unwrap();
                IpNetwork::new(network.network(), prefix).unwrap()
            }).collect();
            let set: Ranges<IpAddr> = networks.iter().copied().map(of_network).collect();
            let contains = |outer: &IpNetwork, inner: &IpNetwork| {
                outer.contains(inner.ip()) && outer.prefix() <= inner.prefix()
            };
            let mut outer: Vec<_> = networks.iter()
                .filter(|inner| !networks.iter().any(|outer| outer != *inner && contains(outer, inner)))
                .map(|network| (network.ip(), network.prefix()))
                .collect();
            outer.sort();
            outer.dedup();
            prop_assert_eq!(set.networks().collect::<Vec<_>>(), outer);
        }
    }
}
