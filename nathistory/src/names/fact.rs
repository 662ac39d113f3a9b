//! A line of the table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::time::Millis;

/// Who had an address, from when, until when, and who says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameFact {
    /// Its number. A later line with the same number replaces this one.
    pub key: u64,
    /// The address, or a network such as `10.0.0.0/24`.
    pub net: String,
    /// The kind of the source, such as `dnsmasq`.
    pub source: String,
    /// Where the source is, such as the path of its file.
    pub place: String,
    /// The host's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The MAC address of its interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Who pays for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscriber: Option<String>,
    /// The identifier of its DHCP client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// What else the source told.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
    /// It began at this moment at the earliest.
    pub began_after: Millis,
    /// It began at this moment at the latest.
    pub began: Millis,
    /// When that was learnt.
    pub learnt: Millis,
    /// It ended at this moment at the earliest, if it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_after: Option<Millis>,
    /// It ended at this moment at the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Millis>,
    /// When it ends unless it is renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
}

/// A time in which a source was not followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameGap {
    /// The kind of the source.
    pub source: String,
    /// Where the source is.
    pub place: String,
    /// Its begin.
    pub from: Millis,
    /// Its end.
    pub to: Millis,
}

/// What is appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "nearly all are facts")]
pub enum NameEntry {
    /// A fact, or more of what is known of one.
    Fact(NameFact),
    /// A time in which a source was not followed.
    Gap(NameGap),
    /// All sources that were followed were still followed at this moment.
    Alive {
        /// The moment.
        at: Millis,
    },
}

impl NameFact {
    /// When it ended or will, as far as that is known.
    pub(super) fn end(&self) -> Millis {
        self.ended.into_iter().chain(self.until).min().unwrap_or(Millis::MAX)
    }
}
