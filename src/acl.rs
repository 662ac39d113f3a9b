//! The access list: which clients the daemon serves.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// The networks of the allowed clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    networks: Vec<IpNetwork>,
}

impl Acl {
    /// Allows only the clients in `networks`.
    pub fn new(networks: Vec<IpNetwork>) -> Self {
        Self { networks }
    }

    /// Whether `client` is allowed. An IPv4 client of an IPv6 socket has the
    /// address `::ffff:a.b.c.d` and is compared as IPv4.
    pub fn allows(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.networks.iter().any(|network| network.contains(client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_both_families_and_mapped_clients_are_compared() {
        let networks = ["192.168.248.0/24", "127.0.0.1", "2001:db8::/32"];
        let acl = Acl::new(networks.iter().map(|network| network.parse().unwrap()).collect());
        for (client, allowed) in [
            ("192.168.248.255", true),
            ("192.168.249.0", false),
            ("::ffff:192.168.248.7", true),
            ("::ffff:192.168.249.7", false),
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
            ("::1", false),
        ] {
            assert_eq!(acl.allows(client.parse().unwrap()), allowed, "{client}");
        }
        assert!(!Acl::new(Vec::new()).allows("127.0.0.1".parse().unwrap()));
    }
}
