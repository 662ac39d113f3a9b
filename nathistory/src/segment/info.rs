//! What the footer of a segment says about it, as JSON.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::gap::Gap;
use crate::removal::Removal;
use crate::time::Millis;

/// The version of the columns and of this description. More columns do not change it.
pub(super) const SCHEMA: u32 = 1;
/// The most public addresses that a description lists.
pub(super) const MOST_ADDRESSES: usize = 1_024;

/// What is known of a segment as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Info {
    /// The version of the format.
    pub(crate) schema: u32,
    /// The name of the gateway.
    pub(crate) gateway: String,
    /// The number of its first seal.
    pub(crate) first: u64,
    /// The number of its last seal; equal to `first` unless it was merged.
    pub(crate) last: u64,
    /// The begin of its span. It has all mappings that were open at any moment of the span.
    pub(crate) from: Millis,
    /// The end of its span.
    pub(crate) to: Millis,
    /// The end of the span before it. Some mappings can have begun a little earlier, and the span with them.
    #[serde(default)]
    pub(crate) begins: Option<Millis>,
    /// The gaps that touch its span, and those of which the history learnt in it.
    #[serde(default)]
    pub(crate) gaps: Vec<Gap>,
    /// The segments that were removed during its span.
    #[serde(default)]
    pub(crate) removed: Vec<Removal>,
    /// The last moment at which all mappings that are open at its end were known to be open.
    #[serde(default)]
    pub(crate) swept: Option<Millis>,
    /// The SHA-256 of the segment before it, in hexadecimal digits.
    pub(crate) previous: Option<String>,
    /// Of a merged segment, the hashes that the `previous` of the next one can have instead of its own: that
    /// of its last input, and those that this one stood for.
    #[serde(default)]
    pub(crate) stands_for: Vec<String>,
    /// The number of its rows. `write` counts them.
    pub(crate) rows: u64,
    /// The number of its rows whose mapping was open at the end. `write` counts them.
    pub(crate) open_rows: u64,
    /// Its public addresses, unless there are too many. `write` collects them.
    pub(crate) nat_ips: Option<Vec<IpAddr>>,
}

impl Info {
    /// The description of one seal without gaps.
    pub(crate) fn new(gateway: impl Into<String>, seal: u64, from: Millis, to: Millis) -> Self {
        Self {
            schema: SCHEMA,
            gateway: gateway.into(),
            first: seal,
            last: seal,
            from,
            to,
            gaps: Vec::new(),
            removed: Vec::new(),
            swept: None,
            begins: None,
            previous: None,
            stands_for: Vec::new(),
            rows: 0,
            open_rows: 0,
            nat_ips: None,
        }
    }
}
