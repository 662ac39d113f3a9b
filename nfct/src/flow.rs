//! One conntrack entry as a plain value.

use std::time::{Duration, SystemTime};

use crate::tuple::Tuple;

/// What the kernel says of one entry; fields it left out are `None` (or 0 for
/// the mark, which the kernel leaves out when it is 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    pub fn started(&self) -> Option<SystemTime> {
        self.start.map(|nanoseconds| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds))
    }

    /// When it ended, if the kernel keeps time stamps.
    pub fn stopped(&self) -> Option<SystemTime> {
        self.stop.map(|nanoseconds| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds))
    }
}

/// State bits of an entry (`enum ip_conntrack_status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status(pub u32);

impl Status {
    /// The entry came from an expectation.
    pub const EXPECTED: Status = Status(nfct_sys::IPS_EXPECTED);
    /// Packets were seen in both directions.
    pub const SEEN_REPLY: Status = Status(nfct_sys::IPS_SEEN_REPLY);
    /// The kernel won't drop it early when the table is full.
    pub const ASSURED: Status = Status(nfct_sys::IPS_ASSURED);
    /// Its first packet has left; every entry of the table is confirmed.
    pub const CONFIRMED: Status = Status(nfct_sys::IPS_CONFIRMED);
    /// The source is translated.
    pub const SRC_NAT: Status = Status(nfct_sys::IPS_SRC_NAT);
    /// The destination is translated.
    pub const DST_NAT: Status = Status(nfct_sys::IPS_DST_NAT);
    /// The kernel is removing it.
    pub const DYING: Status = Status(nfct_sys::IPS_DYING);

    /// The entry came from an expectation (a helper's data connection).
    pub fn is_expected(self) -> bool {
        self.has(nfct_sys::IPS_EXPECTED)
    }

    /// Packets were seen in both directions.
    pub fn has_seen_reply(self) -> bool {
        self.has(nfct_sys::IPS_SEEN_REPLY)
    }

    /// The kernel won't drop it early when the table is full.
    pub fn is_assured(self) -> bool {
        self.has(nfct_sys::IPS_ASSURED)
    }

    /// The source is translated.
    pub fn is_source_nat(self) -> bool {
        self.has(nfct_sys::IPS_SRC_NAT)
    }

    /// The destination is translated.
    pub fn is_destination_nat(self) -> bool {
        self.has(nfct_sys::IPS_DST_NAT)
    }

    /// The kernel is removing it: it may still show in a dump.
    pub fn is_dying(self) -> bool {
        self.has(nfct_sys::IPS_DYING)
    }

    fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }
}

impl std::ops::BitOr for Status {
    type Output = Status;

    fn bitor(self, other: Status) -> Status {
        Status(self.0 | other.0)
    }
}
