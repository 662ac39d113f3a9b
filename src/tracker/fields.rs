//! The kernel's entries of single connections, for lookups that ask for more than the
//! table keeps.

use std::time::Duration;

use nfct::{Conntrack, Direction, Tuple};

use super::shared::Tracker;
use crate::fields::{KernelFields, PerDirection};

/// How long a lookup waits for the kernel's reply.
const KERNEL_TIMEOUT: Duration = Duration::from_secs(1);

impl Tracker {
    /// What the kernel's entries with these reply tuples have now; `None` for those
    /// that it does not have, and for all if it does not reply within a second.
    pub async fn kernel_entries(&self, replies: &[Tuple]) -> Option<Vec<Option<KernelFields>>> {
        self.stats.kernel_queries.add(replies.len());
        let replies = replies.to_vec();
        let reply = async {
            let mut query = self.query.clone().lock_owned().await;
            let mut get = move |reply: &Tuple| query.get(Direction::Reply, reply);
            let run = move || {
                let entries = replies.iter().map(&mut get);
                entries.map(|entry| Ok(entry?.as_ref().map(read))).collect::<Result<Vec<_>, nfct::Error>>()
            };
            tokio::task::spawn_blocking(run).await
        };
        match tokio::time::timeout(KERNEL_TIMEOUT, reply).await {
            Ok(Ok(Ok(entries))) => Some(entries),
            Ok(Ok(Err(error))) => {
                log::debug!("{error}");
                None
            }
            Ok(Err(_)) | Err(_) => {
                log::debug!("no reply from the kernel in time: cannot read the entries of a lookup");
                None
            }
        }
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
