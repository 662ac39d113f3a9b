//! The result of the lookup of one tuple among many.

use crate::direction::Direction;
use crate::error::Error;
use crate::flow::Flow;

/// What [`Query::find_each`](crate::Query::find_each) found for one tuple.
///
/// ```
/// use nfct::{Direction, Found};
///
/// fn inside(found: &Found) -> Option<std::net::IpAddr> {
///     match found {
///         Found::Flow(Direction::Reply, flow) => Some(flow.original.src),
///         _ => None,
///     }
/// }
/// assert_eq!(inside(&Found::Nothing), None);
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Found {
    /// No entry has this tuple, in either direction.
    Nothing,
    /// The entry, and which of its two tuples it is. [`Direction::Original`] if it is
    /// both. The entry may be dying: see its [`status`](Flow::status).
    Flow(Direction, Flow),
    /// The lookup of this tuple failed. The other tuples are not affected.
    Failed(Error),
}
