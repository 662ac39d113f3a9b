//! One condition of a filter.

use super::endpoint_test::EndpointTest;
use crate::direction::Logic;
use crate::tuple::Protocol;

/// A condition that an event must meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// One of these.
    Any(Vec<EndpointTest>),
    Protocols(Logic, Vec<Protocol>),
    States(Logic, Protocol, Vec<u8>),
    /// Values, each with its mask.
    Marks(Logic, Vec<(u32, u32)>),
    Zones(Logic, Vec<u16>),
}
