//! What a source knows of a host.

use std::collections::BTreeMap;

use crate::mac::Mac;
use crate::text::clean;

/// What a source knows of a host. What it does not know is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Host {
    /// Its name: a lease's host name, a container's name.
    pub name: Option<String>,
    /// The MAC address of its interface.
    pub mac: Option<Mac>,
    /// Who pays for it: a login of PPPoE or RADIUS, a customer's number.
    pub subscriber: Option<String>,
    /// The identifier that a DHCP client sent, in hexadecimal digits; of DHCPv6 the DUID.
    pub client_id: Option<String>,
    /// What else the source tells, such as a container's image and its labels.
    pub labels: BTreeMap<String, String>,
}

/// The most labels that are kept of a host.
const MOST_LABELS: usize = 32;

impl Host {
    /// A host with this name.
    pub fn named(name: &str) -> Self {
        Self { name: clean(name), ..Self::default() }
    }

    /// The same host, with texts that harm nobody: see [`clean`].
    pub fn cleaned(self) -> Self {
        let text = |text: Option<String>| text.and_then(|text| clean(&text));
        let labels = self.labels.into_iter().take(MOST_LABELS);
        Self {
            name: text(self.name),
            // Loopback and tunnels have zeros.
            mac: self.mac.filter(|mac| mac.0 != [0; 6]),
            subscriber: text(self.subscriber),
            client_id: text(self.client_id),
            labels: labels.filter_map(|(key, value)| Some((clean(&key)?, clean(&value)?))).collect(),
        }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
