//! One condition of a filter.

use std::net::IpAddr;

use crate::direction::{Direction, Endpoint, Logic};
use crate::network::Network;
use crate::tuple::Protocol;

/// A condition that an event must meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// In one of these places.
    Address(Vec<(Direction, Endpoint)>, IpAddr),
    /// In one of these places.
    Port(Vec<(Direction, Endpoint)>, u16),
    Networks(Direction, Endpoint, Logic, Vec<Network>),
    Protocols(Logic, Vec<Protocol>),
    States(Logic, Protocol, Vec<u8>),
    /// Values, each with its mask.
    Marks(Logic, Vec<(u32, u32)>),
    Zones(Logic, Vec<u16>),
}
