//! MAC addresses.

use std::fmt;
use std::str::FromStr;

/// The address of a network interface, of six bytes as Ethernet and Wi-Fi have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of these bytes; `None` unless there are six that are not all zero, as loopback and tunnels have
    /// them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 6] = bytes.try_into().ok()?;
        (bytes != [0; 6]).then_some(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text that is no MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a MAC address such as 00:16:3e:5a:01:2f")]
pub struct NoMac;

impl FromStr for Mac {
    type Err = NoMac;

    /// Reads six bytes in hexadecimal digits with `:` or `-` between them, each with one digit or two.
    fn from_str(text: &str) -> Result<Self, NoMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len())).ok_or(NoMac)?;
            if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(NoMac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| NoMac)?;
        }
        if parts.next().is_some() {
            return Err(NoMac);
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (text, written) in [
            ("00:16:3e:5a:01:2f", "00:16:3e:5a:01:2f"),
            ("0:16:3E:5a:1:2F", "00:16:3e:5a:01:2f"),
            ("00-16-3e-5a-01-2f", "00:16:3e:5a:01:2f"),
        ] {
            assert_eq!(text.parse::<Mac>().unwrap().to_string(), written);
        }
        for text in ["", "00:16:3e:5a:01", "00:16:3e:5a:01:2f:00", "00:16:3e:5a:01:+f", "x"] {
            assert_eq!(text.parse::<Mac>(), Err(NoMac), "{text}");
        }
    }
}
