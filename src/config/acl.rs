//! Access lists: addresses and networks, in the syntax of Python's `ipaddress` module. Host bits are masked
//! with a warning; Python rejects them.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;

use super::{
    dialect::ConfigValue,
    error::Quoted,
    values::{Found, Notes, Written},
};

/// Reads a list, or a single entry without a comma.
pub(super) fn networks(value: &ConfigValue, notes: &mut Notes) -> Result<Vec<IpNetwork>, Found> {
    let entries = match value {
        ConfigValue::Text(entry) => std::slice::from_ref(entry),
        ConfigValue::List(entries) => entries,
    };
    if entries.is_empty() {
        notes.push("the list is empty: no client is allowed".to_owned());
    }
    entries.iter().map(|entry| network(entry, notes)).collect()
}

/// Reads an address or a network. An IPv4 one that is written as IPv6 (`::ffff:a.b.c.d`) is read as IPv4.
pub(super) fn network(entry: &str, notes: &mut Notes) -> Result<IpNetwork, Found> {
    let entry = entry.trim();
    let invalid = || Found::from(entry.to_owned());
    let (address, mask) = match entry.split_once('/') {
        Some((address, mask)) => (address, Some(mask)),
        None => (entry, None),
    };
    let address: IpAddr = address.parse().map_err(|_| invalid())?;
    let prefix = match mask {
        None => Some(if address.is_ipv4() { 32 } else { 128 }),
        Some(mask) => prefix_length(mask, address.is_ipv4()),
    };
    let (address, prefix) = match as_ipv4(address, prefix) {
        Some(read) => read,
        None => {
            let hint = "an IPv4 network that is written as IPv6 has a prefix from 96 to 128";
            return Err(Found { hint: Some(hint.to_owned()), ..invalid() });
        }
    };
    let network = prefix.and_then(|prefix| IpNetwork::new(address, prefix).ok()).ok_or_else(invalid)?;
    let masked = IpNetwork::new(network.network(), network.prefix()).map_err(|_| invalid())?;
    if masked != network {
        notes.push(format!("{} has host bits, read as {masked}", Quoted(entry)));
    }
    Ok(masked)
}

/// An IPv4 address that is written as IPv6, and its prefix, as IPv4; all others unchanged. `None` if the prefix
/// is too short for that.
fn as_ipv4(address: IpAddr, prefix: Option<u8>) -> Option<(IpAddr, Option<u8>)> {
    const MAPPED: u8 = 96;
    match (address, address.to_canonical()) {
        (IpAddr::V6(_), v4 @ IpAddr::V4(_)) => match prefix {
            Some(prefix) => Some((v4, Some(prefix.checked_sub(MAPPED)?))),
            None => Some((v4, None)),
        },
        _ => Some((address, prefix)),
    }
}

/// The prefix length after the slash: digits or, for IPv4, a netmask or its complement.
fn prefix_length(mask: &str, v4: bool) -> Option<u8> {
    if !mask.is_empty() && mask.bytes().all(|byte| byte.is_ascii_digit()) {
        return mask.parse().ok();
    }
    let mask = u32::from(mask.parse::<Ipv4Addr>().ok().filter(|_| v4)?);
    let length_of =
        |mask: u32| (mask.leading_ones() + mask.trailing_zeros() >= 32).then(|| mask.leading_ones());
    length_of(mask).or_else(|| length_of(!mask)).and_then(|length| u8::try_from(length).ok())
}

impl Written for Vec<IpNetwork> {
    fn written(&self) -> Option<String> {
        Some(match self.as_slice() {
            [] => ",".to_owned(),
            // The comma makes it a list for ConfigObj too.
            [only] => format!("{only},"),
            several => several.iter().map(IpNetwork::to_string).collect::<Vec<_>>().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entry: &str) -> Option<String> {
        network(entry, &mut Notes::new()).ok().map(|network| network.to_string())
    }

    #[test]
    fn every_form_of_an_entry_is_accepted() {
        for (entry, expected) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
            ("10.0.0.0/0.255.255.255", "10.0.0.0/8"),
            ("0.0.0.0/0.0.0.0", "0.0.0.0/0"),
            ("10.0.0.1/255.255.255.255", "10.0.0.1/32"),
            ("10.0.0.0/08", "10.0.0.0/8"),
            (" 10.0.0.1 ", "10.0.0.1/32"),
            ("::1", "::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("::ffff:127.0.0.0/104", "127.0.0.0/8"),
            ("::ffff:7f00:1", "127.0.0.1/32"),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
            ("::fffe:1.2.3.4", "::fffe:102:304/128"),
        ] {
            assert_eq!(read(entry).as_deref(), Some(expected), "{entry}");
        }
    }

    #[test]
    fn other_forms_are_rejected() {
        for entry in [
            "",
            "10.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/255.0.255.0",
            "10.0.0.0 /8",
            "10.0.0.0/8/8",
            "::/129",
            "::/255.0.0.0",
            "fe80::1%eth0",
            "localhost",
            "::ffff:127.0.0.0/129",
            "::ffff:127.0.0.0/255.0.0.0",
        ] {
            assert_eq!(read(entry), None, "{entry}");
        }
        let found = network("::ffff:127.0.0.0/95", &mut Notes::new()).unwrap_err();
        assert!(found.hint.is_some_and(|hint| hint.ends_with("a prefix from 96 to 128")));
    }

    #[test]
    fn host_bits_are_masked_with_a_warning() {
        let mut notes = Notes::new();
        assert_eq!(network("127.0.0.1/8", &mut notes).unwrap().to_string(), "127.0.0.0/8");
        assert_eq!(network("2001:db8::1/64", &mut notes).unwrap().to_string(), "2001:db8::/64");
        assert_eq!(notes[0], "\"127.0.0.1/8\" has host bits, read as 127.0.0.0/8");
        assert_eq!(notes.len(), 2);
    }
}
