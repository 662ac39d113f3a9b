//! Networks as 32-bit words with masks, for classic BPF programs and for
//! selections.

use std::net::IpAddr;

/// An address and the number of its leading bits that count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) is_ipv4: bool,
    /// Words in host byte order, each with its mask. Words without a bit that counts
    /// are left out; they are always the last ones.
    pub(crate) words: Vec<(u32, u32)>,
}

impl Network {
    pub(crate) fn new(address: IpAddr, bits: u8) -> Self {
        let masked = words(address).zip((0..).step_by(32)).map(|(word, before)| {
            let counting = u32::from(bits).saturating_sub(before).min(32);
            let mask = u32::MAX.checked_shl(32 - counting).unwrap_or(0);
            (word & mask, mask)
        });
        Self { is_ipv4: address.is_ipv4(), words: masked.filter(|(_, mask)| *mask != 0).collect() }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4
            && self.words.iter().zip(words(address)).all(|((word, mask), other)| other & mask == *word)
    }
}

/// The 32-bit words of an address in host byte order: one for IPv4, four for IPv6.
pub(crate) fn words(address: IpAddr) -> impl Iterator<Item = u32> {
    let (words, count) = match address {
        IpAddr::V4(address) => ([u32::from(address), 0, 0, 0], 1),
        IpAddr::V6(address) => {
            let number = u128::from(address);
            ([96, 64, 32, 0].map(|shift| (number >> shift) as u32), 4)
        }
    };
    words.into_iter().take(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_the_addresses_that_share_its_leading_bits() {
        let contains = |network: &str, bits, address: &str| {
            Network::new(network.parse().unwrap(), bits).contains(address.parse().unwrap())
        };
        assert!(contains("192.168.0.0", 16, "192.168.7.2"));
        assert!(!contains("192.168.0.0", 22, "192.168.7.2"));
        assert!(contains("10.0.0.1", 32, "10.0.0.1") && !contains("10.0.0.1", 32, "10.0.0.2"));
        assert!(contains("10.0.0.1", 0, "192.0.2.1"));
        assert!(contains("2001:db8::8", 127, "2001:db8::9") && !contains("2001:db8::8", 127, "2001:db8::a"));
        assert!(contains("fd00::", 9, "fd7f::1") && !contains("fd00::", 9, "fd80::1"));
        assert!(!contains("::", 0, "192.0.2.1") && !contains("0.0.0.0", 0, "::1"), "another family");
    }
}
