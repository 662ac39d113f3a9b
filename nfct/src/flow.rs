//! One conntrack entry as a plain value.

use std::time::{Duration, SystemTime};

use crate::state::Status;
use crate::tuple::Tuple;

/// What the kernel says of one entry; fields it left out are `None` (or 0 for
/// the mark, which the kernel leaves out when it is 0).
///
/// ```
/// use nfct::Flow;
///
/// /// Who is outside of a source NAT seen as whom.
/// fn translation(flow: &Flow) -> String {
///     format!("{} is {}", flow.reply.dst, flow.original.src)
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Flow {
    /// The connection as its first packet had it, before NAT.
    pub original: Tuple,
    /// What packets of the other side carry; behind a source NAT its
    /// destination is the public address and port.
    pub reply: Tuple,
    /// The kernel's id of this life of the connection (`conntrack -o id`).
    /// It is a keyed hash of the entry's address and original tuple, so a later
    /// connection may get the same one again.
    pub id: u32,
    /// State bits.
    pub status: Status,
    /// Connection mark, 0 when none is set.
    pub mark: u32,
    /// Seconds until the kernel forgets an idle entry.
    pub timeout: Option<u32>,
    /// Nanoseconds since the epoch when it began; only with
    /// `net.netfilter.nf_conntrack_timestamp=1`.
    pub start: Option<u64>,
    /// Nanoseconds since the epoch when it ended; in DESTROY events, with the
    /// same sysctl.
    pub stop: Option<u64>,
}

impl Flow {
    /// When it began, if the kernel keeps time stamps.
    ///
    /// ```no_run
    /// # let flow: nfct::Flow = unimplemented!();
    /// if let Some(age) = flow.started().and_then(|began| began.elapsed().ok()) {
    ///     println!("{} s old", age.as_secs());
    /// }
    /// ```
    pub fn started(&self) -> Option<SystemTime> {
        self.start.map(|nanoseconds| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds))
    }

    /// When it ended, if the kernel keeps time stamps.
    ///
    /// ```no_run
    /// # let flow: nfct::Flow = unimplemented!();
    /// if let (Some(began), Some(ended)) = (flow.started(), flow.stopped()) {
    ///     println!("{:?}", ended.duration_since(began));
    /// }
    /// ```
    pub fn stopped(&self) -> Option<SystemTime> {
        self.stop.map(|nanoseconds| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds))
    }
}
