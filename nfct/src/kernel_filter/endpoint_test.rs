//! A test of one address or port of an event.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::direction::{Direction, Endpoint, Logic};
use crate::network::Network;

/// A test of the address or the port of one endpoint, for [`KernelFilter::any_of`](crate::KernelFilter::any_of).
///
/// ```
/// use nfct::{Direction, Endpoint, EndpointTest, Logic};
/// let web = EndpointTest::ports(Direction::Original, Endpoint::Destination, Logic::Only, [80..=80, 443..=443]);
/// # let _ = web;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointTest {
    pub(super) direction: Direction,
    pub(super) endpoint: Endpoint,
    pub(super) logic: Logic,
    pub(super) values: Values,
}

/// What an endpoint is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Values {
    Networks(Vec<Network>),
    /// The first and the last port of each range.
    Ports(Vec<(u16, u16)>),
}

impl EndpointTest {
    /// The endpoint's address is in one of these networks, or in none of them. A network
    /// is an address and the number of its leading bits that count.
    ///
    /// ```
    /// use nfct::{Direction, Endpoint, EndpointTest, Logic};
    /// let private = [("10.0.0.0".parse().unwrap(), 8), ("fd00::".parse().unwrap(), 8)];
    /// let test = EndpointTest::networks(Direction::Original, Endpoint::Source, Logic::Only, private);
    /// # let _ = test;
    /// ```
    pub fn networks(
        direction: Direction,
        endpoint: Endpoint,
        logic: Logic,
        networks: impl IntoIterator<Item = (IpAddr, u8)>,
    ) -> Self {
        let networks = networks.into_iter().map(|(address, bits)| Network::new(address, bits)).collect();
        Self { direction, endpoint, logic, values: Values::Networks(networks) }
    }

    /// The endpoint's port is in one of these ranges, or in none of them. An event of a
    /// protocol without ports passes in both cases.
    ///
    /// ```
    /// use nfct::{Direction, Endpoint, EndpointTest, Logic};
    /// let high = EndpointTest::ports(Direction::Reply, Endpoint::Destination, Logic::Except, [0..=1023]);
    /// # let _ = high;
    /// ```
    pub fn ports(
        direction: Direction,
        endpoint: Endpoint,
        logic: Logic,
        ranges: impl IntoIterator<Item = RangeInclusive<u16>>,
    ) -> Self {
        let ranges = ranges.into_iter().map(RangeInclusive::into_inner).collect();
        Self { direction, endpoint, logic, values: Values::Ports(ranges) }
    }
}
