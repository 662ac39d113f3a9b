//! What tuples, selections and event filters have in common: which tuple, which
//! endpoint of it, and whether a list includes or excludes.

/// One of the two tuples of a connection.
///
/// ```
/// use nfct::{Direction, Endpoint, Selection};
/// let inside = "192.168.7.2".parse().unwrap();
/// let opened_by = Selection::all().address(Direction::Original, Endpoint::Source, inside);
/// # let _ = opened_by;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Direction {
    /// From the client to the server, before NAT: the direction of the first packet.
    Original,
    /// From the server to the client.
    Reply,
}

/// One endpoint of a tuple.
///
/// ```
/// use nfct::{Direction, Endpoint, Selection};
/// let server = "198.51.100.1".parse().unwrap();
/// let opened_to = Selection::all().address(Direction::Original, Endpoint::Destination, server);
/// # let _ = opened_to;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Where packets of this direction come from.
    Source,
    /// Where packets of this direction go to.
    Destination,
}

/// Whether a condition accepts only what it lists, or everything else.
///
/// ```
/// use nfct::{KernelFilter, Logic, Protocol};
/// let no_udp = KernelFilter::new().protocols(Logic::Except, [Protocol::Udp]);
/// # let _ = no_udp;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Logic {
    /// Only what is listed (`NFCT_FILTER_LOGIC_POSITIVE`).
    Only,
    /// All but what is listed (`NFCT_FILTER_LOGIC_NEGATIVE`).
    Except,
}
