//! The conditions as a socket filter, which the kernel runs.

use std::net::IpAddr;

use nfct::{Direction, Endpoint, EndpointTest, KernelFilter, Logic, Protocol};

use super::conditions::Filter;
use super::ranges::Ranges;
use super::test::Test;

/// An endpoint of one of the two tuples.
type Place = (Direction, Endpoint);

const SOURCE: Place = (Direction::Original, Endpoint::Source);
const DESTINATION: Place = (Direction::Original, Endpoint::Destination);
/// The destination after translation.
const SERVER: Place = (Direction::Reply, Endpoint::Source);
/// The source after translation.
const NAT: Place = (Direction::Reply, Endpoint::Destination);

impl Filter {
    /// The conditions as a socket filter, so that events of other connections
    /// never wake the daemon. It may pass more than [`matches`](Self::matches)
    /// accepts, never less: it does not check `nat_only`, nor ports of protocols without
    /// ports. Of public addresses and ports it does not check whether they are of the same end
    /// and whether that end is translated.
    pub fn kernel_filter(&self) -> KernelFilter {
        let filter = KernelFilter::new();
        let filter = with_protocols(filter, &self.protocol);
        let filter = with_test(filter, SOURCE, &self.src_port, ports);
        let filter = with_test(filter, DESTINATION, &self.dst_port, ports);
        let filter = with_public(filter, &self.nat_port, ports);
        let filter = with_test(filter, SOURCE, &self.src_ip, addresses);
        let filter = with_test(filter, DESTINATION, &self.dst_ip, addresses);
        with_public(filter, &self.nat_ip, addresses)
    }
}

type MakeTest<T> = fn(Place, Logic, &Ranges<T>) -> EndpointTest;

fn addresses((direction, endpoint): Place, logic: Logic, values: &Ranges<IpAddr>) -> EndpointTest {
    EndpointTest::networks(direction, endpoint, logic, values.networks())
}

fn ports((direction, endpoint): Place, logic: Logic, values: &Ranges<u16>) -> EndpointTest {
    EndpointTest::ports(direction, endpoint, logic, values.iter().map(|(first, last)| first..=last))
}

/// Adds the condition of one place.
fn with_test<T: Ord + Copy>(
    mut filter: KernelFilter,
    place: Place,
    test: &Test<T>,
    make: MakeTest<T>,
) -> KernelFilter {
    if let Some(only) = &test.only {
        filter = filter.any_of([make(place, Logic::Only, only)]);
    }
    if !test.except.is_empty() {
        filter = filter.any_of([make(place, Logic::Except, &test.except)]);
    }
    filter
}

/// Adds the condition of a public address or port, which can be that of either end.
fn with_public<T: Ord + Copy>(mut filter: KernelFilter, test: &Test<T>, make: MakeTest<T>) -> KernelFilter {
    if let Some(only) = &test.only {
        filter = filter.any_of([NAT, DESTINATION].map(|place| make(place, Logic::Only, only)));
    }
    if !test.except.is_empty() {
        // An end is certainly public if it is translated: if what is behind it is not one of the
        // exceptions, it differs.
        for (public, behind) in [(NAT, SOURCE), (DESTINATION, SERVER)] {
            filter = filter
                .any_of([make(public, Logic::Except, &test.except), make(behind, Logic::Only, &test.except)]);
        }
    }
    filter
}

fn with_protocols(mut filter: KernelFilter, test: &Test<u8>) -> KernelFilter {
    let protocols = |values: &Ranges<u8>| {
        values.iter().flat_map(|(first, last)| first..=last).map(Protocol::from).collect::<Vec<_>>()
    };
    if let Some(only) = &test.only {
        filter = filter.protocols(Logic::Only, protocols(only));
    }
    if !test.except.is_empty() {
        filter = filter.protocols(Logic::Except, protocols(&test.except));
    }
    filter
}
