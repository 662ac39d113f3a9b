//! What a lookup searches for: any subset of a mapping's fields.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use nfct::{Protocol, Tuple};

use crate::config::Key;
use crate::filter::Filter;
use crate::mapping::Mapping;
use crate::tuples::{KeyValue, PublicEnd, Tuples};

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
    /// The host that began the connection, or its network.
    pub src_ip: Option<IpNetwork>,
    /// That host's port.
    pub src_port: Option<u16>,
    /// The public address of either end, or its network.
    pub nat_ip: Option<IpNetwork>,
    /// The public port of the same end.
    pub nat_port: Option<u16>,
    /// The far side of the same end, or its network: the host that answers, or the
    /// one that began a connection from outside.
    pub peer_ip: Option<IpNetwork>,
    /// The far side's port.
    pub peer_port: Option<u16>,
    /// The address that the connection was begun to, or its network.
    pub dst_ip: Option<IpNetwork>,
    /// The port that the connection was begun to.
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

    /// Whether the table has an index of what the question names.
    pub fn is_indexed(&self) -> bool {
        self.nat_port.is_some() || one_address(self.src_ip).is_some()
    }

    /// The same question about the connections of one host to one server with these tuples only. An index
    /// serves it.
    pub fn about(&self, tuples: &Tuples) -> Self {
        Question {
            src_ip: Some(tuples.src_ip().into()),
            src_port: tuples.src_port(),
            dst_ip: Some(tuples.dst_ip().into()),
            dst_port: tuples.dst_port(),
            protocol: Some(tuples.original.protocol),
            ..self.clone()
        }
    }

    /// The same question about no connection at all: no host has this address. An index serves it.
    pub fn about_nothing(&self) -> Self {
        Question { src_ip: Some(IpAddr::from(std::net::Ipv4Addr::UNSPECIFIED).into()), ..self.clone() }
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
        self.protocol.is_none_or(|protocol| protocol == tuples.original.protocol)
            && is_port(self.src_port, tuples.src_port())
            && is_port(self.dst_port, tuples.dst_port())
            && is_port(self.server_port, tuples.server_port())
            && in_network(self.src_ip, tuples.src_ip())
            && in_network(self.dst_ip, tuples.dst_ip())
            && in_network(self.server_ip, tuples.server_ip())
            && self.zone.is_none_or(|zone| zone == tuples.original.zone || zone == tuples.reply.zone)
            && (!self.names_an_end() || self.public_ends(tuples).next().is_some())
    }

    /// Whether the question names a public end or its far side.
    fn names_an_end(&self) -> bool {
        (self.nat_ip.is_some() || self.nat_port.is_some())
            || (self.peer_ip.is_some() || self.peer_port.is_some())
    }

    /// The public ends of a connection that the question can mean, the most likely one
    /// first. Without a public address or port in the question, all of them.
    pub fn public_ends(&self, tuples: &Tuples) -> impl Iterator<Item = PublicEnd> + use<'_> {
        tuples.public_ends().filter(|end| {
            is_port(self.nat_port, end.port)
                && in_network(self.nat_ip, end.ip)
                && is_port(self.peer_port, end.peer_port)
                && in_network(self.peer_ip, end.peer_ip)
        })
    }

    /// The tuples that packets from the far side to the public end of a matching
    /// connection can have, if the question and the filter together name every part:
    /// both addresses and both ports. Such a tuple is the reply tuple of a connection
    /// that began inside, and the original tuple of one that began outside; the kernel
    /// finds both by it.
    ///
    /// The far side is the one that the question names, or else the answering host (the
    /// original destination, unless the question names another) or the source of a
    /// connection that began outside. Without a protocol, there is one tuple each for
    /// TCP and UDP. A zone may be that of the other direction, so there is one tuple for
    /// the question's zone and one for zone 0; without a zone in the question, one for
    /// zone 0 and one for each of `zones`. The result is empty if a part is missing, or
    /// if the question accepts only closed mappings.
    pub fn outside_tuples(&self, filter: &Filter, zones: &[u16]) -> Vec<Tuple> {
        if self.state == StateFilter::Closed {
            return Vec::new();
        }
        let public = Part::new(self.nat_ip, self.nat_port).or(filter.nat_ip(), filter.nat_port());
        let peer = Part::new(self.peer_ip, self.peer_port);
        let src = Part::new(self.src_ip, self.src_port).or(filter.src_ip(), filter.src_port());
        let dst = Part::new(self.dst_ip, self.dst_port).or(filter.dst_ip(), filter.dst_port());
        let server = Part::new(self.server_ip, self.server_port);
        let begun_inside = (peer.or_part(server).or_part(dst), public);
        let begun_outside = (peer.or_part(src), public.or_part(dst));
        let mut ends: Vec<_> = [begun_inside, begun_outside]
            .into_iter()
            .filter_map(|(from, to)| Some((from.whole()?, to.whole()?)))
            .filter(|(from, to)| from.is_ipv4() == to.is_ipv4())
            .collect();
        ends.dedup();
        let protocols = match self.protocol {
            Some(protocol) => &[protocol][..],
            None => &[Protocol::Tcp, Protocol::Udp],
        };
        let has_ports = |protocol: &Protocol| {
            use Protocol::{Dccp, Sctp, Tcp, Udp, UdpLite};
            matches!(protocol, Tcp | Udp | UdpLite | Sctp | Dccp)
        };
        let mut asked = vec![0];
        match self.zone {
            Some(zone) => asked.insert(0, zone),
            None => asked.extend(zones),
        }
        asked.sort_unstable();
        asked.dedup();
        protocols
            .iter()
            .copied()
            .filter(has_ports)
            .flat_map(|protocol| ends.iter().map(move |ends| (protocol, ends)))
            .flat_map(|(protocol, (from, to))| {
                let tuple = Tuple::with_ports(protocol, *from, *to);
                asked.iter().map(move |zone| Tuple { zone: *zone, ..tuple })
            })
            .collect()
    }
}

/// What is known of an address and a port.
#[derive(Debug, Clone, Copy)]
struct Part {
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl Part {
    fn new(network: Option<IpNetwork>, port: Option<u16>) -> Self {
        Self { address: one_address(network), port }
    }

    /// With `address` and `port` where they are not known yet.
    fn or(self, address: Option<IpAddr>, port: Option<u16>) -> Self {
        Self { address: self.address.or(address), port: self.port.or(port) }
    }

    fn or_part(self, other: Self) -> Self {
        self.or(other.address, other.port)
    }

    fn whole(self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.address?, self.port?))
    }
}

fn in_network(network: Option<IpNetwork>, address: IpAddr) -> bool {
    network.is_none_or(|network| network.contains(address))
}

fn is_port(wanted: Option<u16>, port: Option<u16>) -> bool {
    wanted.is_none() || wanted == port
}

/// The address of a network that has only one.
pub fn one_address(network: Option<IpNetwork>) -> Option<IpAddr> {
    network
        .filter(|network| network.prefix() == if network.is_ipv4() { 32 } else { 128 })
        .map(|network| network.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::Interfaces;
    use crate::config::{AddressSet, FilterConfig};

    fn network(text: &str) -> Option<IpNetwork> {
        Some(text.parse().unwrap())
    }

    fn tuples(question: &Question, filter: FilterConfig, zones: &[u16]) -> Vec<String> {
        let tuples = question.outside_tuples(&Filter::new(&filter, &Interfaces::default()), zones);
        tuples.iter().map(|tuple| format!("{} zone {}", Tuple { zone: 0, ..*tuple }, tuple.zone)).collect()
    }

    fn no_filter() -> FilterConfig {
        FilterConfig::default()
    }

    #[test]
    fn a_question_that_names_both_sides_names_the_kernels_tuples() {
        let question = Question {
            nat_ip: network("100.64.2.1"),
            nat_port: Some(40001),
            peer_ip: network("198.51.100.1"),
            peer_port: Some(443),
            protocol: Some(Protocol::Tcp),
            ..Question::default()
        };
        let tuple = "tcp 198.51.100.1:443 -> 100.64.2.1:40001 zone ";
        let in_zones = |zones: &[u16]| zones.iter().map(|zone| format!("{tuple}{zone}")).collect::<Vec<_>>();
        assert_eq!(tuples(&question, no_filter(), &[]), in_zones(&[0]));
        assert_eq!(tuples(&question, no_filter(), &[7, 0, 3]), in_zones(&[0, 3, 7]));
        let zoned = Question { zone: Some(7), ..question.clone() };
        assert_eq!(tuples(&zoned, no_filter(), &[3]), in_zones(&[0, 7]));
        assert_eq!(
            tuples(&Question { zone: Some(0), ..question.clone() }, no_filter(), &[3]),
            in_zones(&[0])
        );
        let both = tuples(&Question { protocol: None, ..question.clone() }, no_filter(), &[]);
        assert_eq!(both, [format!("{tuple}0"), format!("{tuple}0").replace("tcp", "udp")]);

        // The far side under other names, and the rest from the filter.
        let server = Question { peer_ip: None, peer_port: None, ..question.clone() };
        let server = Question { server_ip: question.peer_ip, dst_port: Some(443), ..server };
        assert_eq!(tuples(&server, no_filter(), &[]), in_zones(&[0]));
        let public = |addresses: &[&str]| {
            let mut filter = no_filter();
            filter.nat_ip.only =
                addresses.iter().map(|address| AddressSet::Network(address.parse().unwrap())).collect();
            tuples(&Question { nat_ip: None, ..question.clone() }, filter, &[])
        };
        assert_eq!(public(&["100.64.2.1"]), in_zones(&[0]));
        // With several addresses the filter does not tell which one.
        assert_eq!(public(&["100.64.2.1", "100.64.2.2"]), [] as [String; 0]);
        assert_eq!(public(&["100.64.2.0/31"]), [] as [String; 0]);

        // A part is missing, is a network, or is of another family; only closed mappings; no ports.
        for lacking in [
            Question { nat_ip: None, ..question.clone() },
            Question { nat_ip: network("100.64.2.0/31"), ..question.clone() },
            Question { nat_ip: network("2001:db8::1"), ..question.clone() },
            Question { peer_port: None, ..question.clone() },
            Question { state: StateFilter::Closed, ..question.clone() },
            Question { protocol: Some(Protocol::Icmp), ..question.clone() },
        ] {
            assert_eq!(tuples(&lacking, no_filter(), &[]), [] as [String; 0], "{lacking:?}");
        }
    }

    #[test]
    fn the_source_of_a_connection_from_outside_is_its_far_side() {
        let question = Question {
            nat_ip: network("100.64.2.1"),
            nat_port: Some(8443),
            src_ip: network("198.51.100.1"),
            src_port: Some(50000),
            protocol: Some(Protocol::Tcp),
            ..Question::default()
        };
        let tuple = ["tcp 198.51.100.1:50000 -> 100.64.2.1:8443 zone 0"];
        assert_eq!(tuples(&question, no_filter(), &[]), tuple);
        let by_destination = Question { nat_ip: None, nat_port: None, ..question };
        let by_destination =
            Question { dst_ip: network("100.64.2.1"), dst_port: Some(8443), ..by_destination };
        assert_eq!(tuples(&by_destination, no_filter(), &[]), tuple);
    }
}
