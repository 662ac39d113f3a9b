//! How many ports of the outside addresses are in use.
//!
//! Nothing is counted as mappings come and go: that would cost every event
//! another hash table, and whoever asks asks every some seconds. The table is
//! walked instead, a slice under each hold of its lock.

use std::net::IpAddr;

use hashbrown::HashMap;
use nfct::Error;

use super::Tracker;
use crate::table::{Place, Transport};

/// Outside addresses that are told apart; further ones are left out.
const MOST_ADDRESSES: usize = 65_536;

/// Ports in use of one outside address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortsInUse {
    /// The address.
    pub address: IpAddr,
    /// Those of TCP.
    pub tcp: u32,
    /// Those of UDP.
    pub udp: u32,
}

impl Tracker {
    /// The outside addresses that live mappings are translated to, with their
    /// ports in use; those with the most ports of one protocol come first.
    ///
    /// # Errors
    /// When the kernel can't be followed any more.
    pub async fn ports_in_use(&self) -> Result<Vec<PortsInUse>, Error> {
        let mut found: HashMap<IpAddr, PortsInUse> = HashMap::new();
        let mut count = |address, transport| {
            if found.len() == MOST_ADDRESSES && !found.contains_key(&address) {
                return;
            }
            let used = found.entry(address).or_insert(PortsInUse { address, tcp: 0, udp: 0 });
            match transport {
                Transport::Tcp => used.tcp += 1,
                Transport::Udp => used.udp += 1,
            }
        };
        let mut next = self.ask(|table, _| table.scan_ports(Place::START, &mut count)).await?.value;
        while let Some(place) = next {
            tokio::task::yield_now().await;
            next = self.lock().table.scan_ports(place, &mut count);
        }
        let mut found: Vec<_> = found.into_values().collect();
        found.sort_unstable_by_key(|used| (std::cmp::Reverse(used.tcp.max(used.udp)), used.address));
        Ok(found)
    }
}
