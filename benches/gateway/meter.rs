//! Measurements of processes from outside, with the same instruments for the daemon and its peers.

use std::collections::HashSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use lab::Netns;

/// The limit for a listener to read all events.
const PATIENCE: Duration = Duration::from_secs(120);
/// `NETLINK_NETFILTER`
const NETFILTER: &str = "12";

/// The CPU time of all threads of a process, user and system, in nanoseconds of the scheduler; in
/// `/proc/PID/stat` ticks of 10 ms where the kernel does not record it.
pub fn cpu(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanoseconds: Vec<u64> = threads
        .filter_map(|thread| {
            let books = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            books.split(' ').next()?.parse().ok()
        })
        .collect();
    if nanoseconds.is_empty() {
        let ticks: u64 = stat(pid).iter().sum();
        return Duration::from_millis(10 * ticks);
    }
    Duration::from_nanos(nanoseconds.iter().sum())
}

/// User and system ticks of a process.
fn stat(pid: u32) -> [u64; 2] {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it may contain anything, but ends with the last bracket.
    let after = text.rsplit(')').next().unwrap_or_default();
    let mut ticks = after.split_whitespace().skip(11).map(|field| field.parse().unwrap_or(0));
    [ticks.next().unwrap_or(0), ticks.next().unwrap_or(0)]
}

/// Resident memory of a process in bytes.
pub fn resident(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// A process that listens to conntrack events.
pub struct Listener<'a> {
    netns: &'a Netns,
    pid: u32,
}

/// The kernel's data of its socket.
struct Socket {
    waiting: u64,
    dropped: u64,
}

impl<'a> Listener<'a> {
    /// Waits until the process listens.
    pub fn new(netns: &'a Netns, pid: u32) -> Self {
        let listener = Self { netns, pid };
        let start = Instant::now();
        while listener.socket().is_none() {
            assert!(start.elapsed() < PATIENCE, "process {pid} does not listen to events");
            thread::sleep(Duration::from_millis(2));
        }
        listener
    }

    /// Waits until it has read all events, and a moment longer for their processing.
    pub fn wait_drained(&self) {
        let start = Instant::now();
        let mut empty = 0;
        while empty < 3 {
            let waiting = self.socket().expect("the process still listens").waiting;
            empty = if waiting == 0 { empty + 1 } else { 0 };
            assert!(start.elapsed() < PATIENCE, "process {} does not read its events", self.pid);
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The number of messages that the kernel dropped because the receive buffer was full.
    pub fn dropped(&self) -> u64 {
        self.socket().expect("the process still listens").dropped
    }

    fn socket(&self) -> Option<Socket> {
        let own: HashSet<String> = fs::read_dir(format!("/proc/{}/fd", self.pid))
            .ok()?
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok()?.to_str().map(str::to_owned))
            .collect();
        let table = self.netns.read_proc_net("netlink").expect("the kernel lists netlink sockets");
        // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
        table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let &[_, NETFILTER, _, groups, waiting, _, _, _, dropped, inode, ..] = fields.as_slice() else {
                return None;
            };
            // NEW events of connections. The daemon also has sockets with other groups.
            let listens = u32::from_str_radix(groups, 16).is_ok_and(|groups| groups & 1 != 0);
            let ours = listens && own.contains(&format!("socket:[{inode}]"));
            ours.then(|| Socket {
                waiting: waiting.parse().unwrap_or(0),
                dropped: dropped.parse().unwrap_or(0),
            })
        })
    }
}

/// The value below which this fraction of the samples lies.
pub fn percentile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let at = ((samples.len() as f64 * share).ceil() as usize).clamp(1, samples.len().max(1));
    samples.get(at - 1).copied().unwrap_or(f64::NAN)
}
