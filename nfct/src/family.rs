//! The address family: the network layer of an entry.

use std::net::IpAddr;

/// The address family of entries.
///
/// ```no_run
/// let mut query = nfct::Query::open()?;
/// println!("{} over IPv6", query.dump(nfct::Family::Ipv6)?.count());
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Family {
    /// IPv4 and IPv6.
    #[default]
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

impl Family {
    pub(crate) fn number(self) -> u8 {
        let number = match self {
            Family::Any => libc::AF_UNSPEC,
            Family::Ipv4 => libc::AF_INET,
            Family::Ipv6 => libc::AF_INET6,
        };
        number as u8
    }

    /// The family of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }

    /// Whether an address is of this family.
    pub(crate) fn has(self, address: IpAddr) -> bool {
        self == Family::Any || self == Family::of(address)
    }
}
