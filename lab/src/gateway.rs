//! The gateway: three network namespaces, the links and addresses between them, and the rules of its NAT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::netns::{Netns, remove_stale};
use super::wait::PATIENCE;

/// What every namespace's name begins with; the process id follows.
pub const PREFIX: &str = "pynatconnd-lab-";

/// The rules of a gateway that hides its inside: what most gateways have.
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

/// What [`Lab::builder`] makes a lab of.
pub struct LabBuilder {
    clients: u8,
    publics: u8,
    servers: u8,
    ipv6: bool,
    ruleset: Option<String>,
}

impl LabBuilder {
    /// How many addresses the client has, 192.168.7.2 and on (and fd00:7::2 and on).
    pub fn clients(mut self, number: u8) -> Self {
        assert!((1..=253).contains(&number), "192.168.7.0/24 has room for 1 to 253 clients");
        self.clients = number;
        self
    }

    /// How many public addresses the gateway has, 100.64.2.1 and on. Masquerading takes the first.
    pub fn public_addresses(mut self, number: u8) -> Self {
        assert!((1..=254).contains(&number), "100.64.2.0/24 has room for 1 to 254 addresses");
        self.publics = number;
        self
    }

    /// How many addresses the server has, 198.51.100.1 and on.
    pub fn servers(mut self, number: u8) -> Self {
        assert!((1..=254).contains(&number), "198.51.100.0/24 has room for 1 to 254 addresses");
        self.servers = number;
        self
    }

    /// Adds IPv6, hidden behind 2001:db8::2 by NAT66.
    pub fn ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }

    /// Rules for the gateway in place of [`MASQUERADE`] (and [`MASQUERADE6`]), each statement on its own
    /// line. Its links are called `inside` and `outside`. What the rules leave alone is routed as it is.
    pub fn ruleset(mut self, rules: impl Into<String>) -> Self {
        self.ruleset = Some(rules.into());
        self
    }

    /// Makes the lab; panics, saying what failed, when the machine doesn't let it.
    pub fn build(self) -> Lab {
        self.try_build().unwrap_or_else(|error| panic!("cannot make the lab: {error}"))
    }

    /// Makes the lab.
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
                // Else an address is of no use for the first seconds of its life.
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

/// A gateway with a client behind it and a server before it. Dropping it leaves nothing of them.
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
    /// A lab of one client address, one public address and one server address, IPv4 only, masquerading.
    pub fn builder() -> LabBuilder {
        LabBuilder { clients: 1, publics: 1, servers: 1, ipv6: false, ruleset: None }
    }

    /// The namespace of the hosts inside.
    pub fn client(&self) -> &Netns {
        &self.client
    }

    /// The namespace that does the NAT; the daemon belongs here.
    pub fn gateway(&self) -> &Netns {
        &self.gateway
    }

    /// The namespace of the hosts outside.
    pub fn server(&self) -> &Netns {
        &self.server
    }

    /// The inside address number `index` (from 0: 192.168.7.2) with a port; port 0 is one of the kernel's choice.
    pub fn client_at(&self, index: u8, port: u16) -> SocketAddr {
        assert!(index < self.clients, "the lab has {} client addresses", self.clients);
        (Ipv4Addr::new(192, 168, 7, 2 + index), port).into()
    }

    /// The inside IPv6 address number `index` (from 0: fd00:7::2) with a port.
    pub fn client6_at(&self, index: u8, port: u16) -> SocketAddr {
        assert!(self.ipv6 && index < self.clients, "the lab has {} client addresses", self.clients);
        (Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 2 + u16::from(index)), port).into()
    }

    /// The gateway's public address number `index` (from 0: 100.64.2.1).
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

    /// The server address number `index` (from 0: 198.51.100.1) with a port.
    pub fn server_number(&self, index: u8, port: u16) -> SocketAddr {
        assert!(index < self.servers, "the lab has {} server addresses", self.servers);
        (Ipv4Addr::new(198, 51, 100, 1 + index), port).into()
    }

    /// The server's IPv6 address, 2001:db8::1, with a port.
    pub fn server6_at(&self, port: u16) -> SocketAddr {
        assert!(self.ipv6, "the lab has no IPv6");
        (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), port).into()
    }

    /// What the gateway's kernel tracks, one line a flow, as /proc/net/nf_conntrack and `conntrack -L -o extended`
    /// write it.
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
        // The two ends of a link get different indexes: the kernel takes equal ones for a device without a
        // peer, and its link watch then lets a second pass before the link carries anything.
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
        // The inside has its route too: what the rules leave alone is to arrive.
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

    /// A link drops what it is given until the kernel's link watch has seen its carrier.
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
