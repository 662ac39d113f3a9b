//! Conditions of `[filter]`: lists of addresses, ports and protocols, with exceptions.

use std::{fmt, net::IpAddr};

use ipnetwork::IpNetwork;
use nfct::Protocol;

use super::{
    acl,
    dialect::ConfigValue,
    values::{Found, Notes, Written, without_underscores},
};

/// What a condition accepts: the values of one list, but none of another one. Without any value, it is no
/// condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition<T> {
    /// The accepted values. If this is empty, every value is accepted that is not excepted.
    pub only: Vec<T>,
    /// The values that are not accepted, written with `!`.
    pub except: Vec<T>,
}

impl<T> Default for Condition<T> {
    fn default() -> Self {
        Self { only: Vec::new(), except: Vec::new() }
    }
}

/// One single accepted value.
impl<T> From<T> for Condition<T> {
    fn from(value: T) -> Self {
        Self { only: vec![value], except: Vec::new() }
    }
}

/// Addresses in a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressSet {
    /// Those of a network, without host bits. A single address is a network too.
    Network(IpNetwork),
    /// Those that the interface with this name has now, written with `@`.
    Interface(String),
}

/// Ports in a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port, not below the lowest one.
    pub last: u16,
}

impl<T> Condition<T> {
    /// Whether it is no condition.
    pub fn is_empty(&self) -> bool {
        self.only.is_empty() && self.except.is_empty()
    }
}

impl From<IpAddr> for AddressSet {
    fn from(address: IpAddr) -> Self {
        Self::Network(address.into())
    }
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

impl fmt::Display for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) if is_one_address(network) => network.ip().fmt(f),
            Self::Network(network) => network.fmt(f),
            Self::Interface(name) => write!(f, "@{name}"),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { first, last } if first == last => first.fmt(f),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

fn is_one_address(network: &IpNetwork) -> bool {
    network.prefix() == if network.is_ipv4() { 32 } else { 128 }
}

/// Reads a list. Each member is an exception if it begins with `!`.
fn list<T>(
    value: &ConfigValue,
    mut parse: impl FnMut(&str) -> Result<T, Found>,
) -> Result<Condition<T>, Found> {
    let members = match value {
        ConfigValue::Text(member) => std::slice::from_ref(member),
        ConfigValue::List(members) if members.is_empty() => return Err(value.to_string().into()),
        ConfigValue::List(members) => members,
    };
    let mut condition = Condition::default();
    for member in members {
        match member.trim_start().strip_prefix('!') {
            Some(excepted) => condition.except.push(parse(excepted)?),
            None => condition.only.push(parse(member)?),
        }
    }
    Ok(condition)
}

pub(super) fn addresses(value: &ConfigValue, notes: &mut Notes) -> Result<Condition<AddressSet>, Found> {
    list(value, |member| match member.trim().strip_prefix('@') {
        Some(name) if is_interface(name) => Ok(AddressSet::Interface(name.to_owned())),
        Some(_) => Err(member.trim().to_owned().into()),
        None => Ok(AddressSet::Network(acl::network(member, notes)?)),
    })
}

/// Whether the kernel accepts the name for an interface. Characters with a meaning in the file are left out.
fn is_interface(name: &str) -> bool {
    /// `IFNAMSIZ`, without the null byte at the end.
    const LONGEST: usize = 15;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-+=~@".contains(c);
    (1..=LONGEST).contains(&name.len()) && name.chars().all(allowed) && !matches!(name, "." | "..")
}

pub(super) fn ports(value: &ConfigValue, _: &mut Notes) -> Result<Condition<PortRange>, Found> {
    list(value, |member| port_range(member).ok_or_else(|| member.to_owned().into()))
}

/// A port or a range. A minus sign is part of a number, so it separates two only after a digit.
fn port_range(text: &str) -> Option<PortRange> {
    let port = |text: &str| {
        let number: i64 = without_underscores(text)?.parse().ok()?;
        u16::try_from(number).ok()
    };
    if let Some(port) = port(text) {
        return Some(port.into());
    }
    let (first, last) = text.split_once('-')?;
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(PortRange { first, last })
}

pub(super) fn protocols(value: &ConfigValue, _: &mut Notes) -> Result<Condition<Protocol>, Found> {
    list(value, |member| member.trim().parse().map_err(|_| member.to_owned().into()))
}

impl<T: fmt::Display> Written for Condition<T> {
    fn written(&self) -> Option<String> {
        let only = self.only.iter().map(ToString::to_string);
        let members: Vec<_> = only.chain(self.except.iter().map(|value| format!("!{value}"))).collect();
        (!members.is_empty()).then(|| members.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a value is written as after it was read.
    fn written<T: fmt::Display>(
        read: fn(&ConfigValue, &mut Notes) -> Result<Condition<T>, Found>,
        text: &str,
    ) -> Option<String> {
        let value = crate::config::dialect::parse_value(text.trim()).expect("a value of the dialect");
        read(&value, &mut Notes::new()).ok().map(|condition| condition.written().expect("a condition"))
    }

    #[test]
    fn addresses_are_single_ones_networks_and_interfaces() {
        for (text, expected) in [
            (" 10.0.0.1 ", "10.0.0.1"),
            ("10.0.0.1/32", "10.0.0.1"),
            ("203.0.113.0/28, 198.51.100.7", "203.0.113.0/28, 198.51.100.7"),
            ("203.0.113.5/28", "203.0.113.0/28"),
            ("!10.9.0.0/16", "!10.9.0.0/16"),
            ("! 10.9.0.0/16,", "!10.9.0.0/16"),
            ("!10.9.1.1, 10.0.0.0/8, ::1", "10.0.0.0/8, ::1, !10.9.1.1"),
            ("@ppp0, !@br-lan.7, 2001:db8::/32", "@ppp0, 2001:db8::/32, !@br-lan.7"),
            ("::ffff:100.64.2.1", "100.64.2.1"),
            ("::ffff:100.64.2.0/120", "100.64.2.0/24"),
        ] {
            assert_eq!(written(addresses, text).as_deref(), Some(expected), "{text:?}");
        }
        for text in [
            "''",
            ",",
            "!",
            "10.1",
            "10",
            "010.0.0.1",
            "10.0.0.1 x",
            "10.0.0.1-10.0.0.5",
            "[::1]",
            "fe80::1%eth0",
            "10.0.0.0/33",
            "!!10.0.0.1",
            "@",
            "@.",
            "@a/b",
            "@a b",
            "@eth0:1",
            "@sixteenletters-x",
            "ppp0",
            "10.0.0.1, x",
            "::ffff:0.0.0.0/95",
        ] {
            assert_eq!(written(addresses, text), None, "{text:?}");
        }
    }

    #[test]
    fn ports_are_single_ones_and_ranges() {
        for (text, expected) in [
            ("0443", "443"),
            ("-0", "0"),
            ("80, 443, 8000-8100", "80, 443, 8000-8100"),
            ("8_000 - 8_100", "8000-8100"),
            ("0-65535", "0-65535"),
            ("7-7", "7"),
            ("!22, !0-1023", "!22, !0-1023"),
        ] {
            assert_eq!(written(ports, text).as_deref(), Some(expected), "{text:?}");
        }
        for text in [
            "''",
            ",",
            "-1",
            "65536",
            "80-",
            "-80",
            "90-80",
            "80-90-100",
            "1-65536",
            "0x50",
            "https",
            "80, x",
        ] {
            assert_eq!(written(ports, text), None, "{text:?}");
        }
    }

    #[test]
    fn protocols_are_names_and_numbers() {
        for (text, expected) in
            [("TCP", "tcp"), ("tcp, 17", "tcp, udp"), ("!50, !gre", "!50, !gre"), ("0", "0")]
        {
            assert_eq!(written(protocols, text).as_deref(), Some(expected), "{text:?}");
        }
        for text in ["''", ",", "256", "-1", "tpc", "tcp udp"] {
            assert_eq!(written(protocols, text), None, "{text:?}");
        }
    }
}
