//! The gateway: three network namespaces, the links and addresses between them, and the rules of its NAT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::netns::{Netns, remove_stale};
use super::wait::PATIENCE;

/// The prefix of every namespace's name; the process id follows.
pub const PREFIX: &str = "pynatconnd-lab-";

/// Masquerading rules, as most gateways have them.
pub const MASQUERADE: &str = "\
table ip nat {
    chain postrouting {
        type nat hook postrouting priority 100
        ip saddr 192.168.7.0/24 oifname \"outside\" masquerade
    }
}
";

/// The same for IPv6.
pub const MASQUERADE6: &str = "\
table ip6 nat {
    chain postrouting {
        type nat hook postrouting priority 100
        ip6 saddr fd00:7::/64 oifname \"outside\" masquerade
    }
}
";

/// Settings of a lab; see [`Lab::builder`].
pub struct LabBuilder {
    clients: u8,
    publics: u8,
    servers: u8,
    ipv6: bool,
    ruleset: Option<String>,
}

impl LabBuilder {
    /// The number of the client's addresses, from 192.168.7.2 (and fd00:7::2) upwards.
    pub fn clients(mut self, number: u8) -> Self {
        assert!((1..=253).contains(&number), "192.168.7.0/24 has 253 client addresses, found {number}");
        self.clients = number;
        self
    }

    /// The number of the gateway's public addresses, from 100.64.2.1 upwards. Masquerading uses the first.
    pub fn public_addresses(mut self, number: u8) -> Self {
        assert!((1..=254).contains(&number), "100.64.2.0/24 has 254 addresses, found {number}");
        self.publics = number;
        self
    }

    /// The number of the server's addresses, from 198.51.100.1 upwards.
    pub fn servers(mut self, number: u8) -> Self {
        assert!((1..=254).contains(&number), "198.51.100.0/24 has 254 addresses, found {number}");
        self.servers = number;
        self
    }

    /// Adds IPv6, translated to 2001:db8::2 by NAT66.
    pub fn ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }

    /// Replaces [`MASQUERADE`] (and [`MASQUERADE6`]) with these rules, each statement on its own line. The
    /// gateway's links are `inside` and `outside`. Packets that match no rule are routed unchanged.
    pub fn ruleset(mut self, rules: impl Into<String>) -> Self {
        self.ruleset = Some(rules.into());
        self
    }

    /// Creates the lab. Panics with the reason when that fails.
    pub fn build(self) -> Lab {
        self.try_build().unwrap_or_else(|error| panic!("cannot create the lab: {error}"))
    }

    /// Creates the lab.
    pub fn try_build(self) -> Result<Lab, String> {
        static STALE: Once = Once::new();
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        STALE.call_once(|| remove_stale(PREFIX));
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let create = |role| Netns::create(format!("{PREFIX}{}-{number}-{role}", std::process::id()));

        let lab = Lab {
            client: create("client")?,
            gateway: create("gateway")?,
            server: create("server")?,
            clients: self.clients,
            publics: self.publics,
            servers: self.servers,
            ipv6: self.ipv6,
        };
        if self.ipv6 {
            for netns in lab.namespaces() {
                netns.try_sysctl("net.ipv6.conf.all.disable_ipv6", "0")?;
                // Duplicate address detection would delay the addresses by seconds.
                netns.try_sysctl("net.ipv6.conf.all.accept_dad", "0")?;
                netns.try_sysctl("net.ipv6.conf.default.accept_dad", "0")?;
            }
            lab.gateway.try_sysctl("net.ipv6.conf.all.forwarding", "1")?;
        }
        lab.gateway.try_sysctl("net.ipv4.ip_forward", "1")?;
        for (netns, script) in [
            (&lab.gateway, lab.gateway_links()),
            (&lab.client, lab.client_links()),
            (&lab.server, lab.server_links()),
        ] {
            netns.feed("ip", &["-batch", "-"], &script)?;
        }
        let rules = self.ruleset.unwrap_or_else(|| {
            if self.ipv6 { [MASQUERADE, MASQUERADE6].concat() } else { MASQUERADE.to_owned() }
        });
        lab.gateway.try_nft(&rules)?;
        lab.wait_for_links()?;
        Ok(lab)
    }
}

/// A gateway between a client and a server. Dropping it removes all three.
pub struct Lab {
    client: Netns,
    gateway: Netns,
    server: Netns,
    clients: u8,
    publics: u8,
    servers: u8,
    ipv6: bool,
}

impl Lab {
    /// A masquerading gateway with one client, one public and one server address, IPv4 only.
    pub fn builder() -> LabBuilder {
        LabBuilder { clients: 1, publics: 1, servers: 1, ipv6: false, ruleset: None }
    }

    /// The namespace of the inside hosts.
    pub fn client(&self) -> &Netns {
        &self.client
    }

    /// The namespace that does the NAT and in which the daemon runs.
    pub fn gateway(&self) -> &Netns {
        &self.gateway
    }

    /// The namespace of the hosts outside.
    pub fn server(&self) -> &Netns {
        &self.server
    }

    /// The inside address number `index` (0 is 192.168.7.2) with a port. The kernel chooses a port for port 0.
    pub fn client_at(&self, index: u8, port: u16) -> SocketAddr {
        assert!(index < self.clients, "the lab has {} client addresses", self.clients);
        (Ipv4Addr::new(192, 168, 7, 2 + index), port).into()
    }

    /// The inside IPv6 address number `index` (0 is fd00:7::2) with a port.
    pub fn client6_at(&self, index: u8, port: u16) -> SocketAddr {
        assert!(self.ipv6 && index < self.clients, "the lab has {} client addresses", self.clients);
        (Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 2 + u16::from(index)), port).into()
    }

    /// The gateway's public address number `index` (0 is 100.64.2.1).
    pub fn public(&self, index: u8) -> IpAddr {
        assert!(index < self.publics, "the lab has {} public addresses", self.publics);
        Ipv4Addr::new(100, 64, 2, 1 + index).into()
    }

    /// The gateway's public IPv6 address, 2001:db8::2.
    pub fn public6(&self) -> IpAddr {
        assert!(self.ipv6, "the lab has no IPv6");
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).into()
    }

    /// The first server address, 198.51.100.1, with a port.
    pub fn server_at(&self, port: u16) -> SocketAddr {
        self.server_number(0, port)
    }

    /// The server address number `index` (0 is 198.51.100.1) with a port.
    pub fn server_number(&self, index: u8, port: u16) -> SocketAddr {
        assert!(index < self.servers, "the lab has {} server addresses", self.servers);
        (Ipv4Addr::new(198, 51, 100, 1 + index), port).into()
    }

    /// The server's IPv6 address, 2001:db8::1, with a port.
    pub fn server6_at(&self, port: u16) -> SocketAddr {
        assert!(self.ipv6, "the lab has no IPv6");
        (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), port).into()
    }

    /// The gateway's conntrack entries, one per line, in the format of /proc/net/nf_conntrack and
    /// `conntrack -L -o extended`.
    pub fn conntrack(&self) -> Vec<String> {
        let table = self
            .gateway
            .read_proc_net("nf_conntrack")
            .unwrap_or_else(|_| self.gateway.run("conntrack", &["-L", "-o", "extended"]));
        table.lines().map(str::to_owned).collect()
    }

    fn namespaces(&self) -> [&Netns; 3] {
        [&self.client, &self.gateway, &self.server]
    }

    fn gateway_links(&self) -> String {
        // The two devices of a link get different indexes. With equal ones the kernel assumes a device without a
        // peer, and its link watch delays the link by a second.
        let mut script = format!(
            "link add inside index 11 type veth peer name eth0 index 21 netns {}\n\
             link add outside index 12 type veth peer name eth0 index 22 netns {}\n\
             address add 192.168.7.1/24 dev inside\n",
            self.client.name(),
            self.server.name()
        );
        for index in 0..self.publics {
            script += &format!("address add {}/24 dev outside\n", self.public(index));
        }
        if self.ipv6 {
            script += &format!(
                "address add fd00:7::1/64 dev inside nodad\naddress add {}/64 dev outside nodad\n",
                self.public6()
            );
        }
        script + "link set inside up\nlink set outside up\nroute add 198.51.100.0/24 dev outside\n"
    }

    fn client_links(&self) -> String {
        let mut script = String::new();
        for index in 0..self.clients {
            script += &format!("address add {}/24 dev eth0\n", self.client_at(index, 0).ip());
            if self.ipv6 {
                script += &format!("address add {}/64 dev eth0 nodad\n", self.client6_at(index, 0).ip());
            }
        }
        script += "link set eth0 up\nroute add default via 192.168.7.1\n";
        if self.ipv6 {
            script += "route add default via fd00:7::1\n";
        }
        script
    }

    fn server_links(&self) -> String {
        let mut script = String::new();
        for index in 0..self.servers {
            script += &format!("address add {}/24 dev eth0\n", self.server_number(index, 0).ip());
        }
        // The server has a route to the inside hosts for packets that are not translated.
        script +=
            "link set eth0 up\nroute add 100.64.2.0/24 dev eth0\nroute add 192.168.7.0/24 via 100.64.2.1\n";
        if self.ipv6 {
            script += &format!(
                "address add {}/64 dev eth0 nodad\nroute add fd00:7::/64 via {}\n",
                self.server6_at(0).ip(),
                self.public6()
            );
        }
        script
    }

    /// A link drops packets until the kernel's link watch has detected its carrier.
    fn wait_for_links(&self) -> Result<(), String> {
        for netns in self.namespaces() {
            let start = Instant::now();
            loop {
                let links = netns.feed("ip", &["-oneline", "link", "show", "type", "veth"], "")?;
                if links.lines().all(|link| link.contains("state UP")) {
                    break;
                }
                if start.elapsed() > PATIENCE {
                    return Err(format!("the links of {} stay down:\n{links}", netns.name()));
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }
}
