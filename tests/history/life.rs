//! What the generator knows of a flow, and how it and the judge choose.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

/// A moment that lies between two others, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Between {
    pub(crate) from: i64,
    pub(crate) to: i64,
}

/// One flow: who held a public address and port, and when.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    /// The name of the protocol.
    pub(crate) protocol: &'static str,
    pub(crate) public: (IpAddr, u16),
    /// The host behind it, which no other flow has.
    pub(crate) inside: IpAddr,
    pub(crate) zone: u16,
    pub(crate) begun: Between,
    /// `None` while it is there.
    pub(crate) ended: Option<Between>,
}

impl Life {
    /// Whether it was certainly there from `from` to `to`.
    pub(crate) fn was_there(&self, from: i64, to: i64) -> bool {
        self.begun.to < from && self.ended.is_none_or(|ended| ended.from > to)
    }

    /// Whether it can have been there at some moment from `from` to `to`.
    pub(crate) fn may_have_been_there(&self, from: i64, to: i64) -> bool {
        self.begun.from <= to && self.ended.is_none_or(|ended| ended.to >= from)
    }
}

/// The wall clock.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_millis() as i64
}

/// A xorshift generator: the same numbers in each run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
