//! How many ports of the public addresses are in use.
//!
//! Nothing is counted when mappings open and close: each event would pay for
//! another hash table, and clients read the numbers only every few seconds.
//! Instead the table is walked, one slice under each hold of its lock.

use std::net::IpAddr;

use hashbrown::HashMap;
use nfct::Error;

use super::shared::Tracker;
use crate::table::{Cursor, Transport};

/// Public addresses that are counted at most; others are left out.
const MAX_ADDRESSES: usize = 65_536;

/// Ports of a public address that are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortsInUse {
    /// The address.
    pub address: IpAddr,
    /// Ports of TCP.
    pub tcp: u32,
    /// Ports of UDP.
    pub udp: u32,
}

impl Tracker {
    /// The public addresses of live mappings with their ports in use, sorted by
    /// the number of ports of the protocol with more, greatest first.
    ///
    /// # Errors
    /// When the daemon can no longer follow the kernel.
    pub async fn ports_in_use(&self) -> Result<Vec<PortsInUse>, Error> {
        let mut found: HashMap<IpAddr, PortsInUse> = HashMap::new();
        let mut count = |address, transport| {
            if found.len() == MAX_ADDRESSES && !found.contains_key(&address) {
                return;
            }
            let used = found.entry(address).or_insert(PortsInUse { address, tcp: 0, udp: 0 });
            match transport {
                Transport::Tcp => used.tcp += 1,
                Transport::Udp => used.udp += 1,
            }
        };
        let mut next = self.read(|table, _| table.scan_ports(Cursor::START, &mut count)).await?.value;
        while let Some(cursor) = next {
            tokio::task::yield_now().await;
            next = self.lock().table.scan_ports(cursor, &mut count);
        }
        let mut found: Vec<_> = found.into_values().collect();
        found.sort_unstable_by_key(|used| (std::cmp::Reverse(used.tcp.max(used.udp)), used.address));
        Ok(found)
    }
}
