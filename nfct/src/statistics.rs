//! The kernel's counters of connection tracking.
//!
//! The C library has no functions for them. The messages are
//! `IPCTNL_MSG_CT_GET_STATS`, `IPCTNL_MSG_CT_GET_STATS_CPU` and
//! `IPCTNL_MSG_EXP_GET_STATS_CPU`.

use nfct_sys as sys;

use crate::wire::{Malformed, Message, u32_be};

/// The number of entries in one network namespace, and its limit.
///
/// ```no_run
/// let count: nfct::Count = nfct::Query::open()?.count()?;
/// if let Some(limit) = count.limit.filter(|limit| *limit > 0) {
///     println!("{} %", u64::from(count.entries) * 100 / u64::from(limit));
/// }
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Count {
    /// Entries now (`net.netfilter.nf_conntrack_count`).
    pub entries: u32,
    /// The limit (`net.netfilter.nf_conntrack_max`); 0 means no limit. Kernels
    /// before 4.18 do not report it.
    pub limit: Option<u32>,
}

/// The counters of one processor since the network namespace was created
/// (`conntrack -S`). A counter that the kernel does not keep is 0.
///
/// ```no_run
/// let mut dropped = 0;
/// for cpu in nfct::Query::open()?.cpu_statistics()? {
///     dropped += cpu?.drop;
/// }
/// println!("{dropped} packets dropped");
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CpuStatistics {
    /// The processor's number.
    pub cpu: u16,
    /// Packets for which the kernel wanted to create an entry that already existed.
    pub found: u32,
    /// Packets that could not be tracked.
    pub invalid: u32,
    /// Entries inserted by a request, not by a packet (before 4.9: all entries).
    pub insert: u32,
    /// Entries that were not inserted because another entry has the same tuple.
    pub insert_failed: u32,
    /// Packets dropped because no entry could be created or inserted.
    pub drop: u32,
    /// Entries removed for new ones while the table was full.
    pub early_drop: u32,
    /// ICMP messages about an unknown connection, and other erroneous packets.
    pub error: u32,
    /// Lookups that were restarted because the table was resized.
    pub search_restart: u32,
    /// Resolved clashes between two packets of one new connection (from 5.11).
    pub clash_resolve: u32,
    /// Entries not inserted because their hash chain was too long (from 5.15).
    pub chain_toolong: u32,
}

/// The counters of one processor for expectations since the network namespace was
/// created.
///
/// ```no_run
/// let mut created = 0;
/// for cpu in nfct::Query::open()?.expect_cpu_statistics()? {
///     created += cpu?.create;
/// }
/// println!("{created} expectations");
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ExpectCpuStatistics {
    /// The processor's number.
    pub cpu: u16,
    /// Connections that were expected.
    pub new: u32,
    /// Expectations created.
    pub create: u32,
    /// Expectations removed.
    pub delete: u32,
}

/// Passes each number of a message to `set`.
fn numbers(message: &Message<'_>, mut set: impl FnMut(u32, u32)) -> Result<(), Malformed> {
    for attribute in message.attributes()? {
        let (kind, value) = attribute?;
        // Padding, and attributes of other sizes that later kernels may add, are skipped.
        if value.len() == 4 {
            set(kind.into(), u32_be(kind, value)?);
        }
    }
    Ok(())
}

impl Count {
    pub(crate) fn read(message: &Message<'_>) -> Result<Self, Malformed> {
        let mut count = Self::default();
        numbers(message, |kind, number| match kind {
            sys::CTA_STATS_GLOBAL_ENTRIES => count.entries = number,
            sys::CTA_STATS_GLOBAL_MAX_ENTRIES => count.limit = Some(number),
            _ => {}
        })?;
        Ok(count)
    }
}

impl CpuStatistics {
    pub(crate) fn read(message: &Message<'_>) -> Result<Self, Malformed> {
        let mut statistics = Self { cpu: message.resource()?, ..Self::default() };
        numbers(message, |kind, number| {
            let counter = match kind {
                sys::CTA_STATS_FOUND => &mut statistics.found,
                sys::CTA_STATS_INVALID => &mut statistics.invalid,
                sys::CTA_STATS_INSERT => &mut statistics.insert,
                sys::CTA_STATS_INSERT_FAILED => &mut statistics.insert_failed,
                sys::CTA_STATS_DROP => &mut statistics.drop,
                sys::CTA_STATS_EARLY_DROP => &mut statistics.early_drop,
                sys::CTA_STATS_ERROR => &mut statistics.error,
                sys::CTA_STATS_SEARCH_RESTART => &mut statistics.search_restart,
                sys::CTA_STATS_CLASH_RESOLVE => &mut statistics.clash_resolve,
                sys::CTA_STATS_CHAIN_TOOLONG => &mut statistics.chain_toolong,
                _ => return,
            };
            *counter = number;
        })?;
        Ok(statistics)
    }
}

impl ExpectCpuStatistics {
    pub(crate) fn read(message: &Message<'_>) -> Result<Self, Malformed> {
        let mut statistics = Self { cpu: message.resource()?, ..Self::default() };
        numbers(message, |kind, number| match kind {
            sys::CTA_STATS_EXP_NEW => statistics.new = number,
            sys::CTA_STATS_EXP_CREATE => statistics.create = number,
            sys::CTA_STATS_EXP_DELETE => statistics.delete = number,
            _ => {}
        })?;
        Ok(statistics)
    }
}
