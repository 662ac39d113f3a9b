//! What the kernel says of conntrack in `/proc/sys`. In a container it may be
//! hidden: `None` then.

/// Whether the kernel tells of connections: 0 never, 1 always, 2 of those that
/// begin while somebody listens (its default since Linux 5.19).
pub fn conntrack_events() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_events").ok()?.trim().parse().ok()
}

/// How many buckets the kernel's table has; somebody may change it at any time.
pub fn conntrack_buckets() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_buckets").ok()?.trim().parse().ok()
}
