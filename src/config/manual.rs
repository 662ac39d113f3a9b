//! What pynatconnd.conf(5) says of each section and key. The build script makes the page from this file, so
//! it uses nothing of the crate; a test holds it against the table of known keys.

/// A section of the file.
pub struct Section {
    /// Its name, without brackets.
    pub name: &'static str,
    /// What it is for.
    pub text: &'static str,
    /// Its keys, in the order of the table.
    pub keys: &'static [Key],
}

/// A key of a section.
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What a value is, with its unit.
    pub kind: &'static str,
    /// What is in force without it.
    pub default: Absent,
    /// A value that a file may have.
    pub example: &'static str,
    /// What it does.
    pub text: &'static str,
    /// What a reload changes.
    pub reload: &'static str,
}

/// What is in force where the file says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// The same as this text.
    Is(&'static str),
    /// No condition.
    Unset,
    /// The file must say it.
    Required,
}

use Absent::{Is, Required, Unset};

const ADDRESS: &str = "IPv4 or IPv6 address";
const PORT: &str = "port, 0 to 65535";
const SECONDS: &str = "seconds, a number of 0 or more, fractions allowed";
const INTERVAL: &str = "seconds, a number of 1 or more, fractions allowed";
const BYTES: &str = "bytes, 4K to 1023M; K is 1024 and M is 1024 K";
const YES_OR_NO: &str = "yes or no";

const FILTER_RELOAD: &str = "Mappings that no longer meet the conditions are dropped, and the kernel's table is \
    read for those that do now.";
const NEXT_COMPARISON: &str = "At once: the table is compared, and the next time is counted from then.";

/// Everything that a file may have.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "syslog",
        text: "With this section, even an empty one, the daemon logs to syslog beside standard error.",
        keys: &[
            Key {
                name: "local_facility",
                kind: "whole number, 0 to 7",
                default: Is("0"),
                example: "3",
                text: "Which of syslog's facilities local0 to local7.",
                reload: "From the next line on.",
            },
            Key {
                name: "debug_level",
                kind: "whole number, 0 to 10",
                default: Is("4"),
                example: "7",
                text: "How much is logged, to standard error too: 0 errors, 1 and 2 warnings, 3 to 5 \
                    information, 6 to 8 debug, 9 and 10 everything. Without the section it is 4.",
                reload: "From the next line on.",
            },
        ],
    },
    Section {
        name: "filter",
        text: "Which connections are tracked: those that meet every condition that is set. Without any, all. \
            Set nat_ip, or nat_only to yes: otherwise connections that are not translated are tracked too, and \
            one to the gateway itself may be answered.",
        keys: &[
            Key {
                name: "src_ip",
                kind: ADDRESS,
                default: Unset,
                example: "192.168.7.2",
                text: "The inside host, before translation.",
                reload: FILTER_RELOAD,
            },
            Key {
                name: "src_port",
                kind: PORT,
                default: Unset,
                example: "40001",
                text: "The inside host's port, before translation.",
                reload: FILTER_RELOAD,
            },
            Key {
                name: "nat_ip",
                kind: ADDRESS,
                default: Unset,
                example: "100.64.2.1",
                text: "The public address, after translation.",
                reload: FILTER_RELOAD,
            },
            Key {
                name: "nat_port",
                kind: PORT,
                default: Unset,
                example: "40001",
                text: "The public port, after translation.",
                reload: FILTER_RELOAD,
            },
            Key {
                name: "dst_ip",
                kind: ADDRESS,
                default: Unset,
                example: "198.51.100.1",
                text: "What the inside host talks to.",
                reload: FILTER_RELOAD,
            },
            Key {
                name: "dst_port",
                kind: PORT,
                default: Unset,
                example: "443",
                text: "The port that the inside host talks to.",
                reload: FILTER_RELOAD,
            },
            Key {
                name: "nat_only",
                kind: YES_OR_NO,
                default: Is("no"),
                example: "yes",
                text: "Whether connections that are not translated at all are left out.",
                reload: FILTER_RELOAD,
            },
        ],
    },
    Section {
        name: "data",
        text: "What is asked by, and how long mappings are kept.",
        keys: &[
            Key {
                name: "key_name",
                kind: "one of src_ip, src_port, nat_ip, nat_port, dst_ip, dst_port",
                default: Required,
                example: "nat_port",
                text: "What GET /KEY_NAME/VALUE, GET /VALUE and GET /debug answer by. The routes under /v1 are \
                    asked by any field.",
                reload: "An index by the new key is made; then it is answered by.",
            },
            Key {
                name: "del_delay",
                kind: SECONDS,
                default: Is("10"),
                example: "30",
                text: "How long a closed mapping is still answered.",
                reload: "At once, for mappings that have closed already too.",
            },
            Key {
                name: "garbage_cleaner_interval",
                kind: INTERVAL,
                default: Is("3600"),
                example: "600",
                text: "Time between two cleanings, which drop closed mappings that are older than life_span.",
                reload: NEXT_COMPARISON,
            },
            Key {
                name: "life_span",
                kind: SECONDS,
                default: Is("3600"),
                example: "86400",
                text: "How long ago a closed mapping must have begun to be dropped by a cleaning.",
                reload: "With the next cleaning.",
            },
            Key {
                name: "sweep_interval",
                kind: INTERVAL,
                default: Is("300"),
                example: "60",
                text: "Time between two comparisons of the table with the kernel's, which find connections that \
                    ended without an event.",
                reload: NEXT_COMPARISON,
            },
        ],
    },
    Section {
        name: "netlink",
        text: "How the kernel's events are received.",
        keys: &[
            Key {
                name: "receive_buffer",
                kind: BYTES,
                default: Is("64M"),
                example: "128M",
                text: "Room for events that are not read yet. It is memory only while something waits in it; \
                    the kernel counts it double. net.core.rmem_max does not bound it.",
                reload: "At once if it is another; otherwise what a loss has made of it stays.",
            },
            Key {
                name: "receive_buffer_max",
                kind: BYTES,
                default: Is("512M"),
                example: "256M",
                text: "Each loss of events doubles the room, up to this.",
                reload: "At the next loss.",
            },
            Key {
                name: "reliable",
                kind: YES_OR_NO,
                default: Is("no"),
                example: "yes",
                text: "With yes the kernel drops a new connection's packet rather than its event when the room \
                    is full: nothing is lost, but a daemon that is too slow slows the gateway down.",
                reload: "At once.",
            },
        ],
    },
    Section {
        name: "threading",
        text: "How the daemon ends.",
        keys: &[Key {
            name: "join_timeout",
            kind: SECONDS,
            default: Is("5"),
            example: "2.5",
            text: "How long requests under way have to finish when the daemon is told to end.",
            reload: "At the end.",
        }],
    },
    Section {
        name: "http_server",
        text: "Where questions are taken, and from whom.",
        keys: &[
            Key {
                name: "host",
                kind: "address or host name",
                default: Is("127.0.0.1"),
                example: "0.0.0.0",
                text: "The address to listen on, or a name of one or several; :: is both families. The option \
                    --ip wins over it.",
                reload: "At once: it listens on the new address, then no longer on the old one. Open \
                    connections stay.",
            },
            Key {
                name: "port",
                kind: "port, 1 to 65535, or 0 to let the kernel choose",
                default: Is("8080"),
                example: "8081",
                text: "The port to listen on; one below 1024 needs CAP_NET_BIND_SERVICE. The option --port wins \
                    over it.",
                reload: "As host.",
            },
            Key {
                name: "ip_acl",
                kind: "addresses and networks, separated by commas",
                default: Is("127.0.0.0/8, ::1/128"),
                example: "198.51.100.0/24, 127.0.0.1, ::1",
                text: "Which clients are answered; any other gets 403. A single comma is nobody.",
                reload: "With the next request, on open connections too.",
            },
        ],
    },
];
