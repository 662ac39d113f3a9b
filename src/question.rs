//! What a lookup searches for: any subset of a mapping's fields.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nfct::{Layer4, Protocol, Tuple};

use crate::config::Key;
use crate::filter::Filter;
use crate::mapping::Mapping;
use crate::tuples::{KeyValue, Tuples};

/// The states that a lookup accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StateFilter {
    /// Live mappings.
    Live,
    /// Mappings that closed and are still kept.
    Closed,
    /// Both.
    #[default]
    Any,
}

/// What a lookup searches for. A field that is `None` accepts every value.
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
    /// The address that the inside host connected to, or its network.
    pub dst_ip: Option<IpNetwork>,
    /// The port that the inside host connected to.
    pub dst_port: Option<u16>,
    /// The host that answers, or its network.
    pub server_ip: Option<IpNetwork>,
    /// The answering host's port.
    pub server_port: Option<u16>,
    /// The transport protocol.
    pub protocol: Option<Protocol>,
    /// The conntrack zone of either direction.
    pub zone: Option<u16>,
    /// The accepted states.
    pub state: StateFilter,
}

impl Question {
    /// A search for live mappings by one key.
    pub fn by_key(key: Key, value: KeyValue, protocol: Option<Protocol>) -> Self {
        let (address, port) = match value {
            KeyValue::Ip(address) => (Some(address.into()), None),
            KeyValue::Port(port) => (None, Some(port)),
        };
        let mut question = Question { protocol, state: StateFilter::Live, ..Question::default() };
        match key {
            Key::SrcIp => question.src_ip = address,
            Key::SrcPort => question.src_port = port,
            Key::NatIp => question.nat_ip = address,
            Key::NatPort => question.nat_port = port,
            Key::DstIp => question.dst_ip = address,
            Key::DstPort => question.dst_port = port,
        }
        question
    }

    /// Whether a mapping matches.
    pub fn matches(&self, mapping: &Mapping) -> bool {
        let is_state = match self.state {
            StateFilter::Live => mapping.is_live(),
            StateFilter::Closed => !mapping.is_live(),
            StateFilter::Any => true,
        };
        is_state && self.matches_tuples(&mapping.tuples)
    }

    fn matches_tuples(&self, tuples: &Tuples) -> bool {
        let in_network =
            |network: Option<IpNetwork>, address| network.is_none_or(|network| network.contains(address));
        let is_port = |wanted: Option<u16>, port| wanted.is_none() || wanted == port;
        self.protocol.is_none_or(|protocol| protocol == tuples.original.protocol)
            && is_port(self.nat_port, tuples.nat_port())
            && is_port(self.src_port, tuples.src_port())
            && is_port(self.dst_port, tuples.dst_port())
            && is_port(self.server_port, tuples.server_port())
            && in_network(self.nat_ip, tuples.nat_ip())
            && in_network(self.src_ip, tuples.src_ip())
            && in_network(self.dst_ip, tuples.dst_ip())
            && in_network(self.server_ip, tuples.server_ip())
            && self.zone.is_none_or(|zone| zone == tuples.original.zone || zone == tuples.reply.zone)
    }

    /// The reply tuples that a matching connection can have, if the question and the
    /// filter together name every part: the public address and port, and the
    /// answering host and its port (the original destination, unless the question
    /// names another). Without a protocol, one each for TCP and UDP. The result is
    /// empty if a part is missing.
    pub fn outside_tuples(&self, filter: &Filter, _zones: &[u16]) -> Vec<Tuple> {
        let nat_ip = one_address(self.nat_ip).or(filter.nat_ip());
        let nat_port = self.nat_port.or(filter.nat_port());
        let server_ip = one_address(self.server_ip).or(one_address(self.dst_ip)).or(filter.dst_ip());
        let server_port = self.server_port.or(self.dst_port).or(filter.dst_port());
        let (Some(dst), Some(dst_port), Some(src), Some(src_port)) =
            (nat_ip, nat_port, server_ip, server_port)
        else {
            return Vec::new();
        };
        if self.state == StateFilter::Closed || src.is_ipv4() != dst.is_ipv4() {
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

/// The address of a network that has only one.
pub fn one_address(network: Option<IpNetwork>) -> Option<IpAddr> {
    network
        .filter(|network| network.prefix() == if network.is_ipv4() { 32 } else { 128 })
        .map(|network| network.ip())
}
