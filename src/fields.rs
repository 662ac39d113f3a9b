//! What the kernel's entry of a connection has besides its tuples, for lookups that
//! ask for it. It changes with every packet, so the table does not keep it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A part of a kernel's entry that a lookup can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The connection mark.
    Mark,
    /// The number of packets, if the kernel counts them.
    Packets,
    /// The number of bytes, if the kernel counts them.
    Bytes,
    /// The state of a TCP connection.
    TcpState,
    /// The connection labels.
    Labels,
    /// The time until the entry expires, if no packet comes.
    Timeout,
    /// The status flags.
    Status,
}

impl Field {
    /// All of them.
    pub const ALL: [Field; 7] = [
        Field::Mark,
        Field::Packets,
        Field::Bytes,
        Field::TcpState,
        Field::Labels,
        Field::Timeout,
        Field::Status,
    ];

    /// Its name in requests and responses.
    pub fn as_str(self) -> &'static str {
        match self {
            Field::Mark => "mark",
            Field::Packets => "packets",
            Field::Bytes => "bytes",
            Field::TcpState => "tcp_state",
            Field::Labels => "labels",
            Field::Timeout => "timeout",
            Field::Status => "status",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not the name of a [`Field`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownField;

impl FromStr for Field {
    type Err = UnknownField;

    fn from_str(text: &str) -> Result<Self, UnknownField> {
        Self::ALL.into_iter().find(|field| field.as_str() == text).ok_or(UnknownField)
    }
}

/// A number for each direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerDirection {
    /// That of the packets of the host that began the connection.
    pub original: u64,
    /// That of the replies.
    pub reply: u64,
}

/// What the kernel's entry of a connection had when it was queried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFields {
    /// The kernel's conntrack id.
    pub id: u32,
    /// The connection mark; 0 if none is set.
    pub mark: u32,
    /// Packets, if `net.netfilter.nf_conntrack_acct` was 1 when the connection began.
    pub packets: Option<PerDirection>,
    /// Bytes, IP headers included, if the kernel counts packets.
    pub bytes: Option<PerDirection>,
    /// The name of the state of a TCP connection, as the tool conntrack prints it.
    pub tcp_state: Option<String>,
    /// The numbers of the labels that are set.
    pub labels: Vec<u16>,
    /// The time until the entry expires, if no packet comes.
    pub timeout: Option<Duration>,
    /// The names of the status flags, in small letters. A flag without a name is a
    /// number such as `0x10000`.
    pub status: Vec<String>,
}
