//! What the kernel counts about conntrack as a whole.
//!
//! The C library has nothing for these; they are the messages
//! `IPCTNL_MSG_CT_GET_STATS`, `IPCTNL_MSG_CT_GET_STATS_CPU` and
//! `IPCTNL_MSG_EXP_GET_STATS_CPU`.

use nfct_sys as sys;

use crate::wire::{Malformed, Message, u32_be};

/// How full the table of one network namespace is.
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
    /// The most that there may be (`net.netfilter.nf_conntrack_max`); 0 is no
    /// limit. Kernels before 4.18 do not say.
    pub limit: Option<u32>,
}

/// What one processor has counted since the namespace began (`conntrack -S`).
/// Counters that the kernel no longer keeps, or does not keep yet, are 0.
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
    /// Packets that would have made an entry that was already there.
    pub found: u32,
    /// Packets that could not be tracked.
    pub invalid: u32,
    /// Entries that were put into the table by request, not by a packet (of all
    /// entries before 4.9).
    pub insert: u32,
    /// Entries that could not be put in: another one with the same tuple was faster.
    pub insert_failed: u32,
    /// Packets dropped because no entry could be made or put in.
    pub drop: u32,
    /// Entries removed to make room while the table was full.
    pub early_drop: u32,
    /// ICMP messages about no known connection, and other packets in error.
    pub error: u32,
    /// Look-ups begun anew because the table was resized.
    pub search_restart: u32,
    /// Clashes of two packets of one new connection that could be settled (5.11).
    pub clash_resolve: u32,
    /// Entries not put in because their hash bucket was too long (5.15).
    pub chain_toolong: u32,
}

/// What one processor has counted about expectations since the namespace began.
///
/// ```no_run
/// let mut made = 0;
/// for cpu in nfct::Query::open()?.expect_cpu_statistics()? {
///     made += cpu?.create;
/// }
/// println!("{made} expectations");
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ExpectCpuStatistics {
    /// The processor's number.
    pub cpu: u16,
    /// Connections that an expectation foretold.
    pub new: u32,
    /// Expectations made.
    pub create: u32,
    /// Expectations removed.
    pub delete: u32,
}

/// Hands each number of a message to `set`.
fn numbers(message: &Message<'_>, mut set: impl FnMut(u32, u32)) -> Result<(), Malformed> {
    for attribute in message.attributes()? {
        let (kind, value) = attribute?;
        // Padding and what later kernels may add in other sizes is not ours.
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
            let place = match kind {
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
            *place = number;
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
