//! What is asked about mappings: any subset of their fields.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nfct::{Layer4, Protocol, Tuple};

use crate::filter::Filter;
use crate::mapping::Mapping;

/// Which lives are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lives {
    /// Those that go on.
    Live,
    /// Those that ended and are still kept.
    Closed,
    /// Both.
    #[default]
    Any,
}

/// A question; a field that is not set does not matter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Question {
    /// The inside host, or its network.
    pub src_ip: Option<IpNetwork>,
    /// The inside host's port.
    pub src_port: Option<u16>,
    /// The public address, or its network.
    pub nat_ip: Option<IpNetwork>,
    /// The public port.
    pub nat_port: Option<u16>,
    /// The address that the inside host asked for, or its network.
    pub dst_ip: Option<IpNetwork>,
    /// The port that the inside host asked for.
    pub dst_port: Option<u16>,
    /// The host that answers, or its network.
    pub server_ip: Option<IpNetwork>,
    /// The answering host's port.
    pub server_port: Option<u16>,
    /// The transport protocol.
    pub protocol: Option<Protocol>,
    /// The conntrack zone, of either direction.
    pub zone: Option<u16>,
    /// Which lives are meant.
    pub lives: Lives,
}

impl Question {
    /// Whether a mapping is an answer.
    pub fn matches(&self, mapping: &Mapping) -> bool {
        let in_network =
            |network: Option<IpNetwork>, address| network.is_none_or(|net| net.contains(address));
        let is_port = |asked: Option<u16>, port| asked.is_none() || asked == port;
        let lives = match self.lives {
            Lives::Live => mapping.is_live(),
            Lives::Closed => !mapping.is_live(),
            Lives::Any => true,
        };
        lives
            && self.protocol.is_none_or(|protocol| protocol == mapping.original.protocol)
            && is_port(self.nat_port, mapping.nat_port())
            && is_port(self.src_port, mapping.src_port())
            && is_port(self.dst_port, mapping.dst_port())
            && is_port(self.server_port, mapping.server_port())
            && in_network(self.nat_ip, mapping.nat_ip())
            && in_network(self.src_ip, mapping.src_ip())
            && in_network(self.dst_ip, mapping.dst_ip())
            && in_network(self.server_ip, mapping.server_ip())
            && self.zone.is_none_or(|zone| zone == mapping.original.zone || zone == mapping.reply.zone)
    }

    /// The reply tuples that an answer must have one of, where the question and
    /// the filter together name everything in them: the public address and
    /// port, and the answering host and its port (those asked for, unless the
    /// destination is translated). Without a protocol TCP and UDP are meant.
    /// Empty where they do not name everything.
    pub fn reply_tuples(&self, filter: &Filter) -> Vec<Tuple> {
        let nat_ip = one_address(self.nat_ip).or(filter.nat_ip());
        let nat_port = self.nat_port.or(filter.nat_port());
        let server_ip = one_address(self.server_ip).or(one_address(self.dst_ip)).or(filter.dst_ip());
        let server_port = self.server_port.or(self.dst_port).or(filter.dst_port());
        let (Some(dst), Some(dst_port), Some(src), Some(src_port)) =
            (nat_ip, nat_port, server_ip, server_port)
        else {
            return Vec::new();
        };
        if self.lives == Lives::Closed || src.is_ipv4() != dst.is_ipv4() {
            return Vec::new();
        }
        let protocols = match self.protocol {
            Some(protocol) => vec![protocol],
            None => vec![Protocol::Tcp, Protocol::Udp],
        };
        let layer4 = Layer4::Ports { src: src_port, dst: dst_port };
        protocols
            .into_iter()
            .filter(|protocol| {
                matches!(
                    protocol,
                    Protocol::Tcp | Protocol::Udp | Protocol::UdpLite | Protocol::Sctp | Protocol::Dccp
                )
            })
            .map(|protocol| Tuple { src, dst, protocol, layer4, zone: self.zone.unwrap_or(0) })
            .collect()
    }
}

/// The address of a network that holds just one.
pub fn one_address(network: Option<IpNetwork>) -> Option<IpAddr> {
    network
        .filter(|network| network.prefix() == if network.is_ipv4() { 32 } else { 128 })
        .map(|network| network.ip())
}
