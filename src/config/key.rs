//! The six keys of a connection. `[filter]` can match them, and a lookup can name them.

use std::{fmt, str::FromStr};

use super::error::Unknown;

/// An address or a port of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Key {
    /// The inside host's address.
    #[default]
    SrcIp,
    /// The inside host's port.
    SrcPort,
    /// The public address after translation.
    NatIp,
    /// The public port after translation.
    NatPort,
    /// The address that the inside host connects to.
    DstIp,
    /// The port that the inside host connects to.
    DstPort,
}

impl Key {
    /// All keys, in the order of all documents.
    pub const ALL: [Key; 6] = [Key::SrcIp, Key::SrcPort, Key::NatIp, Key::NatPort, Key::DstIp, Key::DstPort];

    pub(super) const EXPECTED: &str = "one of src_ip, src_port, nat_ip, nat_port, dst_ip, dst_port";

    /// The name in files, requests and responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Key::SrcIp => "src_ip",
            Key::SrcPort => "src_port",
            Key::NatIp => "nat_ip",
            Key::NatPort => "nat_port",
            Key::DstIp => "dst_ip",
            Key::DstPort => "dst_port",
        }
    }

    /// Whether the value is a port; otherwise it is an address.
    pub const fn is_port(self) -> bool {
        matches!(self, Key::SrcPort | Key::NatPort | Key::DstPort)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Key {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Key, Unknown> {
        let key = Key::ALL.into_iter().find(|key| key.as_str() == name);
        key.ok_or_else(|| Unknown::new(name, Key::EXPECTED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_to_its_key() {
        for key in Key::ALL {
            assert_eq!(key.as_str().parse::<Key>().unwrap(), key);
            assert_eq!(key.is_port(), key.to_string().ends_with("_port"));
            assert!(Key::EXPECTED.contains(key.as_str()));
        }
        let error = "NAT_PORT".parse::<Key>().unwrap_err();
        assert_eq!(error.to_string(), format!("found \"NAT_PORT\", expected {}", Key::EXPECTED));
    }
}
