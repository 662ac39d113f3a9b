//! The kernel's entries of single connections, for lookups that ask for more than the
//! table keeps.

use nfct::{Conntrack, Direction, Query, Tuple};

use super::shared::Tracker;
use super::verifier::MAX_TOGETHER;
use crate::fields::{KernelFields, PerDirection};

impl Tracker {
    /// What the kernel's entries with these reply tuples have now; `None` for those
    /// that it does not have, and for all if it does not reply within a second.
    pub async fn kernel_entries(&self, replies: &[Tuple]) -> Option<Vec<Option<KernelFields>>> {
        self.stats.kernel_queries.add(replies.len());
        let mut entries = Vec::with_capacity(replies.len());
        for part in replies.chunks(MAX_TOGETHER) {
            let part = part.to_vec();
            let read_all = move |query: &mut Query| {
                let found = part.iter().map(|reply| query.get(Direction::Reply, reply));
                found.map(|entry| Ok(entry?.as_ref().map(read))).collect::<Result<Vec<_>, _>>()
            };
            entries.extend(self.verifier.run(read_all).await?);
        }
        Some(entries)
    }
}

/// Reads an entry of the kernel. It leaves out a mark of 0, and labels if none is set.
pub(super) fn read(entry: &Conntrack) -> KernelFields {
    let counters = entry.counters(Direction::Original).zip(entry.counters(Direction::Reply));
    let status = entry.status().unwrap_or_default().to_string();
    KernelFields {
        id: entry.id().unwrap_or(0),
        mark: entry.mark().unwrap_or(0),
        packets: counters
            .map(|(original, reply)| PerDirection { original: original.packets, reply: reply.packets }),
        bytes: counters
            .map(|(original, reply)| PerDirection { original: original.bytes, reply: reply.bytes }),
        tcp_state: entry.tcp_state().map(|state| state.to_string()),
        labels: entry.labels().map(|labels| labels.iter().collect()).unwrap_or_default(),
        timeout: entry.timeout(),
        status: status.split('|').filter(|name| *name != "0").map(str::to_ascii_lowercase).collect(),
    }
}
