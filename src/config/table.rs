//! The table of configuration keys: one row for each key, with everything that the project knows about it.
//!
//! These rows define how a key is read and written, the suggestions for misspelt names, the manual page
//! pynatconnd.conf(5), the sample file `pynatconnd.conf` and the table in `doc/OPERATIONS.md`. The build script
//! compiles this file too, to make the manual page, with a stub for [`Field`]. So this file must not use
//! anything else.
#![allow(dead_code, reason = "the program, the build script and the tests each use only a part")]

use KeyDefault::{Is, Required, Unset};

use super::field::{Field, field};

/// A section of the file.
pub(crate) struct KnownSection {
    /// Its name, without brackets.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) help: &'static str,
    /// What the sample file sets.
    pub(crate) sample: Sample,
    /// Its keys, in the order of all documents.
    pub(crate) keys: &'static [KnownKey],
}

/// A key of a section.
pub(crate) struct KnownKey {
    /// Its name.
    pub(crate) name: &'static str,
    /// What a value must be, in the documents and after "expected" in errors.
    pub(crate) expects: &'static str,
    /// What applies if the file does not set the key.
    pub(crate) default: KeyDefault,
    /// A valid value that differs from the default.
    pub(crate) example: &'static str,
    /// The reader of the value, and the field of `Config` that it fills.
    pub(crate) field: Field,
    /// What the key does.
    pub(crate) help: &'static str,
    /// When a reload puts another value into effect.
    pub(crate) reload: &'static str,
}

/// What applies if the file does not set a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyDefault {
    /// This value, written as in a file.
    Is(&'static str),
    /// Nothing: the field stays empty.
    Unset,
    /// The file must set the key.
    Required,
}

/// Which lines of a section the sample file sets; the others are commented out. It always sets a required key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sample {
    /// The header and all keys.
    Keys,
    /// Only the header.
    Header,
    /// Nothing, because the header alone has an effect.
    Nothing,
}

const ADDRESSES: &str = "an IPv4 address with four numbers, an IPv6 address, a network such as 203.0.113.0/28, @ and the \
    name of an interface, or several of these, separated by commas; with ! before it, an exception";
const PORTS: &str = "a port from 0 to 65535, a range such as 8000-8100, or several of these, separated by commas; with ! \
    before it, an exception";
const PROTOCOLS: &str = "tcp, udp, udplite, sctp, dccp, icmp, icmpv6, gre, a number from 0 to 255, or several of these, \
    separated by commas; with ! before it, an exception";
const SECONDS: &str = "a number of seconds, 0 or more; fractions are allowed";
const INTERVAL: &str = "a number of seconds, 1 or more; fractions are allowed";
const BYTES: &str = "a number of bytes from 4K to 1023M; K is 1024 bytes and M is 1024K";
const DISK_SIZE: &str = "a number of bytes, 1M or more; K is 1024 bytes, M is 1024K and G is 1024M";
const PATH: &str = "a path that begins with /; it may have letters, digits, and / . _ - + @ : ~";
const PATHS: &str =
    "paths that begin with /, separated by commas; they may have letters, digits, and / . _ - + @ : ~";
const COUNT: &str = "a whole number from 1000 to 1000000000";
const YES_OR_NO: &str = "yes or no";
/// For the option `--ip` too.
pub(crate) const HOST: &str = "one host name or IP address";

const RESTART: &str = "Takes effect after a restart; a reload warns about it.";
const NEXT_LINE: &str = "Takes effect with the next log line.";
const FILTER_RELOAD: &str = "Takes effect at once: mappings that no longer match are removed, and connections that \
    match now are read from the kernel.";

/// The section whose header alone has an effect.
pub(crate) const SYSLOG: &str = "syslog";

/// All sections and keys, in the order of all documents.
pub(crate) const SECTIONS: &[KnownSection] = &[
    KnownSection {
        name: SYSLOG,
        help: "With this section, even an empty one, the daemon also logs to syslog.",
        sample: Sample::Nothing,
        keys: &[
            KnownKey {
                name: "local_facility",
                expects: "a whole number from 0 to 7",
                default: Is("0"),
                example: "3",
                field: field!(values::facility => syslog.local_facility),
                help: "Syslog facility: one of local0 to local7.",
                reload: NEXT_LINE,
            },
            KnownKey {
                name: "debug_level",
                expects: "a whole number from 0 to 10",
                default: Is("4"),
                example: "7",
                field: field!(values::log_level => log_level),
                help: "Log level, for standard error too. 0 logs errors only; 1 and 2 add warnings, 3 to 5 \
                    information, 6 to 8 debug messages; 9 and 10 log everything. Without this section, the \
                    level is 4.",
                reload: NEXT_LINE,
            },
        ],
    },
    KnownSection {
        name: "filter",
        help: "Which connections are tracked: those that meet all conditions set here, or every connection if no \
            condition is set. Each condition can be a list: a connection meets it if its value is one of the list \
            and none of the exceptions; a list of exceptions alone accepts everything else. Set nat_ip, or set nat_only to yes. Otherwise the daemon also tracks connections \
            without NAT, and a lookup can return a connection to the gateway itself.",
        sample: Sample::Header,
        keys: &[
            KnownKey {
                name: "src_ip",
                expects: ADDRESSES,
                default: Unset,
                example: "192.168.7.0/24, !192.168.7.1",
                field: field!(conditions::addresses => filter.src_ip),
                help: "Address of the host that began the connection, before translation.",
                reload: FILTER_RELOAD,
            },
            KnownKey {
                name: "src_port",
                expects: PORTS,
                default: Unset,
                example: "40001",
                field: field!(conditions::ports => filter.src_port),
                help: "Port of the inside host, before translation.",
                reload: FILTER_RELOAD,
            },
            KnownKey {
                name: "nat_ip",
                expects: ADDRESSES,
                default: Unset,
                example: "203.0.113.0/28, 198.51.100.7",
                field: field!(conditions::addresses => filter.nat_ip),
                help: "Public address of either end: of a translated source, or of a translated destination (a \
                    connection that began outside). @ppp0 stands for the addresses that the interface ppp0 has, \
                    also when they change.",
                reload: FILTER_RELOAD,
            },
            KnownKey {
                name: "nat_port",
                expects: PORTS,
                default: Unset,
                example: "40001",
                field: field!(conditions::ports => filter.nat_port),
                help: "Public port of the same end.",
                reload: FILTER_RELOAD,
            },
            KnownKey {
                name: "dst_ip",
                expects: ADDRESSES,
                default: Unset,
                example: "198.51.100.1",
                field: field!(conditions::addresses => filter.dst_ip),
                help: "Address that the connection was begun to, before translation.",
                reload: FILTER_RELOAD,
            },
            KnownKey {
                name: "dst_port",
                expects: PORTS,
                default: Unset,
                example: "80, 443, 8000-8100",
                field: field!(conditions::ports => filter.dst_port),
                help: "Port that the connection was begun to, before translation.",
                reload: FILTER_RELOAD,
            },
            KnownKey {
                name: "protocol",
                expects: PROTOCOLS,
                default: Unset,
                example: "tcp, udp",
                field: field!(conditions::protocols => filter.protocol),
                help: "Transport protocol.",
                reload: FILTER_RELOAD,
            },
            KnownKey {
                name: "nat_only",
                expects: YES_OR_NO,
                default: Is("no"),
                example: "yes",
                field: field!(values::boolean => filter.nat_only),
                help: "Whether to track only connections that are translated.",
                reload: FILTER_RELOAD,
            },
        ],
    },
    KnownSection {
        name: "data",
        help: "The lookup key, and how long mappings are kept.",
        sample: Sample::Header,
        keys: &[
            KnownKey {
                name: "key_name",
                expects: "one of src_ip, src_port, nat_ip, nat_port, dst_ip, dst_port",
                default: Required,
                example: "nat_port",
                field: field!(values::key_name => data.key_name),
                help: "Key of the routes GET /KEY_NAME/VALUE, GET /VALUE and GET /debug. The routes below /v1 \
                    accept all six keys.",
                reload: "Takes effect as soon as the index for the new key is built.",
            },
            KnownKey {
                name: "del_delay",
                expects: SECONDS,
                default: Is("10"),
                example: "30",
                field: field!(values::seconds => data.del_delay),
                help: "How long the daemon still reports a closed mapping.",
                reload: "Takes effect at once, also for mappings that are closed already.",
            },
            KnownKey {
                name: "garbage_cleaner_interval",
                expects: INTERVAL,
                default: Is("3600"),
                example: "600",
                field: field!(values::interval => data.garbage_cleaner_interval),
                help: "Time between two cleanups. A cleanup removes closed mappings that are older than \
                    life_span.",
                reload: "Takes effect at once, counted from the last cleanup.",
            },
            KnownKey {
                name: "life_span",
                expects: SECONDS,
                default: Is("3600"),
                example: "86400",
                field: field!(values::seconds => data.life_span),
                help: "Age at which a cleanup removes a closed mapping, counted from the start of the \
                    connection.",
                reload: "Takes effect with the next cleanup.",
            },
            KnownKey {
                name: "sweep_interval",
                expects: INTERVAL,
                default: Is("300"),
                example: "60",
                field: field!(values::interval => data.sweep_interval),
                help: "Time between two comparisons of the table with the kernel's. A comparison finds \
                    connections that ended without a DESTROY event.",
                reload: "Takes effect at once: the daemon compares the table with the kernel's, and the new \
                    interval starts.",
            },
            KnownKey {
                name: "max_closed",
                expects: COUNT,
                default: Is("1000000"),
                example: "100000",
                field: field!(values::count => data.max_closed),
                help: "How many closed mappings are kept at most; each uses about 170 bytes. Beyond it those that \
                    closed first are removed before del_delay is over; in a burst, only once there are four times \
                    as many or the burst is over. Until that time is over, a lookup that \
                    finds nothing says that it cannot know.",
                reload: "Takes effect at once.",
            },
            KnownKey {
                name: "max_mappings",
                expects: COUNT,
                default: Is("16000000"),
                example: "4000000",
                field: field!(values::count => data.max_mappings),
                help: "How many mappings are kept at most, live and closed together. Closed ones are removed first. \
                    Beyond it the daemon ignores further connections and reports its table as incomplete. Set it \
                    to more than nf_conntrack_max.",
                reload: "Takes effect at once.",
            },
        ],
    },
    KnownSection {
        name: "netlink",
        help: "How the daemon receives the kernel's events.",
        sample: Sample::Header,
        keys: &[
            KnownKey {
                name: "receive_buffer",
                expects: BYTES,
                default: Is("64M"),
                example: "128M",
                field: field!(values::buffer => netlink.receive_buffer),
                help: "Size of the receive buffer, where events wait until the daemon reads them. It uses memory \
                    only while events wait. The kernel doubles this value; net.core.rmem_max does not limit it.",
                reload: "Another value takes effect at once. With the same value, a buffer that has grown after \
                    an overrun keeps its size.",
            },
            KnownKey {
                name: "receive_buffer_max",
                expects: BYTES,
                default: Is("512M"),
                example: "256M",
                field: field!(values::buffer => netlink.receive_buffer_max),
                help: "Size to which the receive buffer can grow. Each overrun (events lost because the buffer \
                    was full) doubles the buffer, up to this size.",
                reload: "Takes effect at the next overrun.",
            },
            KnownKey {
                name: "reliable",
                expects: YES_OR_NO,
                default: Is("no"),
                example: "yes",
                field: field!(values::boolean => netlink.reliable),
                help: "Whether the kernel repeats events that were lost because the receive buffer was full. \
                    No packet is held back for this. The begin of a connection is repeated with its next \
                    packet, the end by a timer; until then the ended entry counts against nf_conntrack_max. \
                    All listeners receive the repeated events. The daemon resyncs after an overrun in any \
                    case: better leave this at no, and enlarge receive_buffer.",
                reload: "Takes effect at once.",
            },
        ],
    },
    KnownSection {
        name: "threading",
        help: "How the daemon stops.",
        sample: Sample::Header,
        keys: &[KnownKey {
            name: "join_timeout",
            expects: SECONDS,
            default: Is("5"),
            example: "2.5",
            field: field!(values::seconds => join_timeout),
            help: "How long the daemon waits for open requests when it stops.",
            reload: "Takes effect when the daemon stops.",
        }],
    },
    KnownSection {
        name: "http_server",
        help: "Where the daemon listens, and which clients it serves.",
        sample: Sample::Keys,
        keys: &[
            KnownKey {
                name: "host",
                expects: HOST,
                default: Is("127.0.0.1"),
                example: "0.0.0.0",
                field: field!(values::host => http.host),
                help: "Address to listen on. A host name stands for all its addresses, 0.0.0.0 for every IPv4 \
                    address of this machine, and :: for every IPv4 and IPv6 address. The option --ip overrides \
                    it.",
                reload: "Takes effect at once: the daemon listens on the new address, then stops listening on \
                    the old one. Open connections stay open.",
            },
            KnownKey {
                name: "port",
                expects: "a port, 1 to 65535, or 0 to let the kernel choose",
                default: Is("8080"),
                example: "8081",
                field: field!(values::port => http.port),
                help: "Port to listen on. A port below 1024 requires CAP_NET_BIND_SERVICE. The option --port \
                    overrides it.",
                reload: "Takes effect at once, in the same way as host.",
            },
            KnownKey {
                name: "ip_acl",
                expects: "IP addresses or networks such as 10.0.0.0/8 or 2001:db8::/32, separated by commas",
                default: Is("127.0.0.0/8, ::1"),
                example: "198.51.100.0/24, 127.0.0.1, ::1",
                field: field!(acl::networks => http.ip_acl),
                help: "Clients that the daemon serves; by default, only this machine. All others get status 403. A \
                    comma alone allows no client.",
                reload: "Takes effect with the next request, also on open connections.",
            },
            KnownKey {
                name: "max_connections",
                expects: "a whole number from 16 to 65536",
                default: Is("1024"),
                example: "4096",
                field: field!(values::connections => http.max_connections),
                help: "Connections served at a time. One client can have three quarters of them. If all are in \
                    use, the connection that has had no request for the longest time is closed for a new one. \
                    More than 3000 need a higher LimitNOFILE= in the unit.",
                reload: "Takes effect with the next connection. Open connections stay open.",
            },
            KnownKey {
                name: "max_streams",
                expects: "a whole number from 1 to 32768",
                default: Is("256"),
                example: "512",
                field: field!(values::streams => http.max_streams),
                help: "Responses of /v1/events and /v1/mappings that are sent at a time, but at most half of \
                    max_connections. One client can have three quarters of them. Others get status 503. Each \
                    uses up to 0.2 MiB of memory.",
                reload: "Takes effect with the next stream. Open streams stay open.",
            },
        ],
    },
    KnownSection {
        name: "history",
        help: "With path, the daemon keeps a history of all mappings that are tracked: who had which public address and \
            port at which moment. It is personal data, so there is none by default.",
        sample: Sample::Header,
        keys: &[
            KnownKey {
                name: "path",
                expects: PATH,
                default: Unset,
                example: "/var/lib/pynatconnd",
                field: field!(history::path => history.path),
                help: "Directory of the history. Without it no history is kept. The daemon makes the directory if it \
                    does not exist. The service may write only below /var/lib/pynatconnd; another directory needs \
                    ReadWritePaths= in the unit.",
                reload: RESTART,
            },
            KnownKey {
                name: "sync_interval",
                expects: INTERVAL,
                default: Is("1"),
                example: "5",
                field: field!(values::interval => history.sync_interval),
                help: "How long what has happened can wait until it is safe from a power failure.",
                reload: "Takes effect at once.",
            },
            KnownKey {
                name: "retention_days",
                expects: "a whole number from 1 to 36500",
                default: Unset,
                example: "365",
                field: field!(values::days => history.retention_days),
                help: "After how many days the history is removed. Without it and retention_bytes, nothing is removed.",
                reload: RESTART,
            },
            KnownKey {
                name: "retention_bytes",
                expects: DISK_SIZE,
                default: Unset,
                example: "200G",
                field: field!(values::disk_size => history.retention_bytes),
                help: "How large the history may become. Beyond it the oldest part is removed.",
                reload: RESTART,
            },
            KnownKey {
                name: "destinations",
                expects: YES_OR_NO,
                default: Is("yes"),
                example: "no",
                field: field!(values::boolean => history.destinations),
                help: "Whether the history contains what inside hosts connected to. Without destinations, hosts that \
                    share a public port at the same time cannot be told apart.",
                reload: RESTART,
            },
            KnownKey {
                name: "gateway",
                expects: "one word of letters, digits, dots, underscores and hyphens",
                default: Unset,
                example: "nat-1.example",
                field: field!(history::gateway => history.gateway),
                help: "Name of this gateway in the history. Without it, it is the host name.",
                reload: RESTART,
            },
            KnownKey {
                name: "audit",
                expects: "syslog, or a path that begins with /; it may have letters, digits, and / . _ - + @ : ~",
                default: Unset,
                example: "/var/log/pynatconnd/audit.log",
                field: field!(history::audit => history.audit),
                help: "Where each query of the history is noted, as a line of JSON: a file, or syslog. Without it, \
                    queries are not noted.",
                reload: "Takes effect with the next query.",
            },
        ],
    },
    KnownSection {
        name: "names",
        help: "With one of these sources, answers say who the inside host is, now and at the moment asked about. It is \
            personal data, so no source is followed by default. Where sources disagree, answers show both, and the one that \
            is named first here decides.",
        sample: Sample::Header,
        keys: &[
            KnownKey {
                name: "file",
                expects: PATH,
                default: Unset,
                example: "/etc/pynatconnd.names",
                field: field!(history::path => names.file),
                help: "File of your own that names addresses or networks, as CSV or as lines of JSON.",
                reload: RESTART,
            },
            KnownKey {
                name: "socket",
                expects: PATH,
                default: Unset,
                example: "/run/pynatconnd/names.sock",
                field: field!(history::path => names.socket),
                help: "Unix socket that the daemon makes, and that takes such lines at any time: from RADIUS accounting, \
                    PPPoE or an inventory. The service may make it only below /run/pynatconnd.",
                reload: RESTART,
            },
            KnownKey {
                name: "podman",
                expects: PATH,
                default: Unset,
                example: "/run/podman/podman.sock",
                field: field!(history::path => names.podman),
                help: "Unix socket of Podman's service: names of containers.",
                reload: RESTART,
            },
            KnownKey {
                name: "docker",
                expects: PATH,
                default: Unset,
                example: "/run/docker.sock",
                field: field!(history::path => names.docker),
                help: "Unix socket of Docker: names of containers. Whoever may use it has all rights on the machine.",
                reload: RESTART,
            },
            KnownKey {
                name: "dnsmasq",
                expects: PATH,
                default: Unset,
                example: "/var/lib/misc/dnsmasq.leases",
                field: field!(history::path => names.dnsmasq),
                help: "Lease file of dnsmasq.",
                reload: RESTART,
            },
            KnownKey {
                name: "kea",
                expects: PATHS,
                default: Unset,
                example: "/var/lib/kea/kea-leases4.csv, /var/lib/kea/kea-leases6.csv",
                field: field!(history::paths => names.kea),
                help: "Lease files of Kea, as its memfile backend writes them.",
                reload: RESTART,
            },
            KnownKey {
                name: "dhcpd",
                expects: PATHS,
                default: Unset,
                example: "/var/lib/dhcp/dhcpd.leases",
                field: field!(history::paths => names.dhcpd),
                help: "Lease files of ISC dhcpd.",
                reload: RESTART,
            },
            KnownKey {
                name: "neighbours",
                expects: YES_OR_NO,
                default: Is("no"),
                example: "yes",
                field: field!(values::boolean => names.neighbours),
                help: "Whether the kernel's neighbour table tells MAC addresses. With it, an address that a device made \
                    itself (IPv6) has the name of the lease of the same device.",
                reload: RESTART,
            },
            KnownKey {
                name: "acl",
                expects: "IP addresses or networks such as 10.0.0.0/8 or 2001:db8::/32, separated by commas",
                default: Is("127.0.0.0/8, ::1"),
                example: "198.51.100.7, 127.0.0.1, ::1",
                field: field!(acl::networks => names.acl),
                help: "Clients that see names, and may ask by them; by default, only this machine. They must be in ip_acl \
                    too. All others get the same answers without names.",
                reload: "Takes effect with the next request.",
            },
            KnownKey {
                name: "keep_days",
                expects: "a whole number from 1 to 36500",
                default: Unset,
                example: "30",
                field: field!(values::days => names.keep_days),
                help: "After how many days a name of the past is forgotten. Without it, it is retention_days of [history].",
                reload: RESTART,
            },
            KnownKey {
                name: "max_facts",
                expects: COUNT,
                default: Is("1000000"),
                example: "100000",
                field: field!(values::count => names.max_facts),
                help: "The maximum number of names with their times in memory, about 1 KiB each. If it is reached, those \
                    that ended first are forgotten.",
                reload: RESTART,
            },
        ],
    },
];

/// All keys with their sections.
pub(crate) fn keys() -> impl Iterator<Item = (&'static KnownSection, &'static KnownKey)> {
    SECTIONS.iter().flat_map(|section| section.keys.iter().map(move |key| (section, key)))
}
