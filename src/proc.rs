//! What `/proc` shows about conntrack and about this process. A container may hide
//! it; the functions return `None` then.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::str::FromStr;
use std::time::Duration;

use procfs::WithCurrentSystemInfo;
use procfs::process::{LimitValue, MMapPath};

use crate::held;

/// Which connections the kernel reports: 0 none, 1 all, 2 those that begin while a
/// program subscribes (its default since Linux 5.19).
pub fn conntrack_events() -> Option<u32> {
    conntrack("events")
}

/// The same setting of one network namespace, read from an open file: this costs a
/// microsecond.
#[derive(Debug)]
pub struct EventsSetting(Option<File>);

impl EventsSetting {
    /// The setting of the network namespace of this thread.
    pub fn open() -> Self {
        Self(File::open(path("events")).ok())
    }

    /// Its value now; `None` if the system hides it.
    pub fn read(&self) -> Option<u32> {
        held::forbid("reading /proc");
        let mut text = [0; 16];
        let length = self.0.as_ref()?.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
    }
}

/// The kernel's counter of resolved clashes in one network namespace, read from an open file.
/// The same counter through netlink can block for seconds while another process empties the
/// kernel's table.
#[derive(Debug)]
pub struct ClashCounter(Option<File>);

impl ClashCounter {
    /// The counter of the network namespace of this thread.
    pub fn open() -> Self {
        Self(File::open("/proc/thread-self/net/stat/nf_conntrack").ok())
    }

    /// Its value now, of all processors; `None` if this kernel has no such file or no such
    /// column.
    pub fn read(&self) -> Option<u64> {
        held::forbid("reading /proc");
        let file = self.0.as_ref()?;
        let (mut text, mut part) = (Vec::new(), [0; 8192]);
        loop {
            match file.read_at(&mut part, text.len() as u64).ok()? {
                0 => break,
                length => text.extend_from_slice(&part[..length]),
            }
        }
        sum_of_column(std::str::from_utf8(&text).ok()?, "clashres")
    }
}

/// The sum of a column of hexadecimal numbers below a line of names.
fn sum_of_column(table: &str, name: &str) -> Option<u64> {
    let mut lines = table.lines();
    let column = lines.next()?.split_whitespace().position(|column| column == name)?;
    lines.map(|line| u64::from_str_radix(line.split_whitespace().nth(column)?, 16).ok()).sum()
}

/// The shortest timeout that a packet can give to a TCP connection, which is one of a
/// connection that closes or that has not opened.
pub fn shortest_tcp_timeout() -> Option<Duration> {
    let states =
        ["close", "close_wait", "fin_wait", "last_ack", "time_wait", "max_retrans", "unacknowledged"];
    let timeout = |state| conntrack::<u64>(&format!("tcp_timeout_{state}"));
    states.into_iter().filter_map(timeout).min().map(Duration::from_secs)
}

/// The name of this machine.
pub fn host_name() -> Option<String> {
    held::forbid("reading /proc");
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// The number of buckets of the kernel's table; it can change at any time.
pub fn conntrack_buckets() -> Option<u32> {
    conntrack("buckets")
}

/// The number of connections that the kernel tracks in this network namespace.
pub fn conntrack_entries() -> Option<u64> {
    conntrack("count")
}

/// The maximum number of connections that the kernel tracks.
pub fn conntrack_limit() -> Option<u64> {
    conntrack("max")
}

fn conntrack<T: FromStr>(name: &str) -> Option<T> {
    held::forbid("reading /proc");
    std::fs::read_to_string(path(name)).ok()?.trim().parse().ok()
}

fn path(name: &str) -> String {
    format!("/proc/sys/net/netfilter/nf_conntrack_{name}")
}

/// The resources that this process uses.
#[derive(Debug)]
pub struct Process {
    /// User and system CPU time.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
    /// Virtual memory in bytes.
    pub virtual_memory: u64,
    /// Open file descriptors.
    pub open_files: u64,
    /// The limit of open file descriptors.
    pub max_open_files: u64,
}

impl Process {
    /// Reads the current numbers.
    pub fn read() -> Option<Self> {
        held::forbid("reading /proc");
        let process = procfs::process::Process::myself().ok()?;
        let stat = process.stat().ok()?;
        let ticks = Duration::from_secs(stat.utime + stat.stime);
        Some(Self {
            cpu: ticks / u32::try_from(procfs::ticks_per_second()).ok()?.max(1),
            resident: stat.rss_bytes().get(),
            virtual_memory: stat.vsize,
            open_files: process.fd_count().ok()? as u64,
            max_open_files: match process.limits().ok()?.max_open_files.soft_limit {
                LimitValue::Value(limit) => limit,
                LimitValue::Unlimited => u64::MAX,
            },
        })
    }
}

/// The file that a shared library was loaded from, such as
/// `libnetfilter_conntrack.so.3.8.0` for `libnetfilter_conntrack.so`.
pub fn loaded_library(name: &str) -> Option<String> {
    let maps = procfs::process::Process::myself().ok()?.maps().ok()?;
    maps.into_iter().find_map(|map| match map.pathname {
        MMapPath::Path(path) => {
            Some(path.file_name()?.to_str()?.to_owned()).filter(|file| file.starts_with(name))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_summed() {
        let table = "entries  clashres found\n00000002  0000000a 00000001\n00000002  00000006 00000000\n";
        assert_eq!(sum_of_column(table, "clashres"), Some(16));
        assert_eq!(sum_of_column(table, "other"), None);
        assert_eq!(sum_of_column("entries clashres\n1", "clashres"), None);
        assert_eq!(sum_of_column("", "clashres"), None);
    }

    #[test]
    fn the_process_has_memory_files_and_libraries() {
        let process = Process::read().expect("/proc is mounted");
        assert!(process.resident > 1 << 20 && process.virtual_memory > process.resident, "{process:?}");
        assert!((3..process.max_open_files).contains(&process.open_files), "{process:?}");
        assert!(loaded_library("libc.so").is_some_and(|file| file.starts_with("libc.so.")));
        assert_eq!(loaded_library("libnothing.so"), None);
    }
}
