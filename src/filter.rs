//! Which connections are tracked: those that meet every condition of
//! `[filter]`.

use std::net::IpAddr;

use nfct::{Direction, Endpoint, Flow, KernelFilter};

use crate::config;
use crate::tuples::{KeyValue, PublicEnd, Tuples};

/// The conditions in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    conditions: Vec<(config::Key, KeyValue)>,
    nat_only: bool,
}

impl Filter {
    /// The conditions that a configuration sets. Without any, every connection is
    /// tracked.
    pub fn new(config: &config::FilterConfig) -> Self {
        use config::Key;
        let addresses =
            [(Key::SrcIp, config.src_ip), (Key::NatIp, config.nat_ip), (Key::DstIp, config.dst_ip)];
        let ports = [
            (Key::SrcPort, config.src_port),
            (Key::NatPort, config.nat_port),
            (Key::DstPort, config.dst_port),
        ];
        let conditions = addresses
            .into_iter()
            .filter_map(|(key, address)| Some((key, KeyValue::Ip(address?))))
            .chain(ports.into_iter().filter_map(|(key, port)| Some((key, KeyValue::Port(port?)))))
            .collect();
        Self { conditions, nat_only: config.nat_only }
    }

    /// The source address that every tracked connection has, if one is set.
    pub fn src_ip(&self) -> Option<IpAddr> {
        self.address(config::Key::SrcIp)
    }

    /// The source port that every tracked connection has, if one is set.
    pub fn src_port(&self) -> Option<u16> {
        self.port(config::Key::SrcPort)
    }

    /// The public address that every tracked connection has, if one is set.
    pub fn nat_ip(&self) -> Option<IpAddr> {
        self.address(config::Key::NatIp)
    }

    /// The public port that every tracked connection has, if one is set.
    pub fn nat_port(&self) -> Option<u16> {
        self.port(config::Key::NatPort)
    }

    /// The destination address that every tracked connection has, if one is set.
    pub fn dst_ip(&self) -> Option<IpAddr> {
        self.address(config::Key::DstIp)
    }

    /// The destination port that every tracked connection has, if one is set.
    pub fn dst_port(&self) -> Option<u16> {
        self.port(config::Key::DstPort)
    }

    /// The conditions as a socket filter, so that events of other connections
    /// never wake the daemon. It may pass more than [`matches`](Self::matches)
    /// accepts, never less: it does not check whether the destination is translated,
    /// nor whether a public address and port are of the same end.
    pub fn kernel_filter(&self) -> KernelFilter {
        const SOURCE: (Direction, Endpoint) = (Direction::Original, Endpoint::Source);
        const DESTINATION: (Direction, Endpoint) = (Direction::Original, Endpoint::Destination);
        const PUBLIC: [(Direction, Endpoint); 2] = [(Direction::Reply, Endpoint::Destination), DESTINATION];
        self.conditions.iter().fold(KernelFilter::new(), |filter, (key, value)| {
            let places = match key {
                config::Key::SrcIp | config::Key::SrcPort => &[SOURCE][..],
                config::Key::DstIp | config::Key::DstPort => &[DESTINATION],
                config::Key::NatIp | config::Key::NatPort => &PUBLIC,
            };
            match value {
                KeyValue::Ip(address) => filter.address_in(places.iter().copied(), *address),
                KeyValue::Port(port) => filter.port_in(places.iter().copied(), *port),
            }
        })
    }

    fn address(&self, key: config::Key) -> Option<IpAddr> {
        self.conditions.iter().find(|(known, _)| *known == key).and_then(|(_, value)| match value {
            KeyValue::Ip(address) => Some(*address),
            KeyValue::Port(_) => None,
        })
    }

    fn port(&self, key: config::Key) -> Option<u16> {
        self.conditions.iter().find(|(known, _)| *known == key).and_then(|(_, value)| match value {
            KeyValue::Port(port) => Some(*port),
            KeyValue::Ip(_) => None,
        })
    }

    /// Whether the connection of an event or of a dump is tracked.
    #[inline]
    pub fn matches_flow(&self, flow: &Flow) -> bool {
        (self.conditions.is_empty() && !self.nat_only) || self.matches(&Tuples::from(flow))
    }

    /// Whether a connection with these tuples is tracked. Its public address and port
    /// are those of either end, but both of the same end.
    pub fn matches(&self, tuples: &Tuples) -> bool {
        (!self.nat_only || tuples.is_source_nat() || tuples.is_destination_nat())
            && self.conditions.iter().all(|(key, value)| is_public(*key) || tuples.key(*key) == Some(*value))
            && (self.is_public_end(&tuples.source_end())
                || (tuples.is_destination_nat() && self.is_public_end(&tuples.destination_end())))
    }

    /// Whether the public address and port of the conditions, if they are set, are
    /// those of the source's end. The legacy routes know only this end.
    pub fn is_for_legacy(&self, tuples: &Tuples) -> bool {
        self.is_public_end(&tuples.source_end())
    }

    /// Whether an end has the public address and port of the conditions.
    fn is_public_end(&self, end: &PublicEnd) -> bool {
        self.conditions.iter().all(|(key, value)| match (key, value) {
            (config::Key::NatIp, KeyValue::Ip(address)) => end.ip == *address,
            (config::Key::NatPort, KeyValue::Port(port)) => end.port == Some(*port),
            _ => true,
        })
    }
}

fn is_public(key: config::Key) -> bool {
    matches!(key, config::Key::NatIp | config::Key::NatPort)
}

/// In words, such as `all connections` or `connections with dst_ip 198.51.100.1,
/// dst_port 443 that are translated`.
impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.conditions.is_empty() {
            return f.write_str(if self.nat_only { "all translated connections" } else { "all connections" });
        }
        for (at, (key, value)) in self.conditions.iter().enumerate() {
            let before = if at == 0 { "connections with" } else { "," };
            match value {
                KeyValue::Ip(address) => write!(f, "{before} {key} {address}")?,
                KeyValue::Port(port) => write!(f, "{before} {key} {port}")?,
            }
        }
        if self.nat_only { f.write_str(" that are translated") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::unix::net::UnixDatagram;

    use nfct::{Event, EventKind, Layer4, Protocol, Tuple};
    use proptest::prelude::*;

    use super::*;

    fn destination_port(tuple: &Tuple) -> Option<u16> {
        match tuple.layer4 {
            Layer4::Ports { dst, .. } | Layer4::Keys { dst, .. } => Some(dst),
            _ => None,
        }
    }

    /// Few addresses and ports, so that conditions often match.
    fn addresses() -> impl Strategy<Value = IpAddr> {
        let some = ["10.0.0.1", "10.0.0.2", "255.255.255.255", "fd00::1", "fd00::2", "::ffff:10.0.0.1"];
        prop::sample::select(some.map(|address| address.parse().unwrap()).to_vec())
    }

    fn tuple(v6: bool) -> impl Strategy<Value = Tuple> {
        let some: &[&str] = if v6 {
            &["fd00::1", "fd00::2", "::ffff:10.0.0.1"]
        } else {
            &["10.0.0.1", "10.0.0.2", "255.255.255.255"]
        };
        let addresses = || {
            prop::sample::select(some.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect::<Vec<_>>())
        };
        let protocols = prop::sample::select(vec![1_u8, 6, 17, 33, 47, 58, 132, 136, 0, 50, 255]);
        let ports = || prop::sample::select(vec![0_u16, 1, 443, 65535]);
        (addresses(), addresses(), protocols, ports(), ports(), 0..3_u16).prop_map(
            |(src, dst, protocol, src_port, dst_port, zone)| {
                let protocol = Protocol::from(protocol);
                let layer4 = match protocol {
                    Protocol::Icmp | Protocol::Icmpv6 => {
                        Layer4::Icmp { id: src_port, kind: dst_port as u8, code: 0 }
                    }
                    Protocol::Gre => Layer4::Keys { src: src_port, dst: dst_port },
                    Protocol::Other(_) => Layer4::None,
                    _ => Layer4::Ports { src: src_port, dst: dst_port },
                };
                Tuple { src, dst, protocol, layer4, zone }
            },
        )
    }

    fn pairs() -> impl Strategy<Value = (Tuple, Tuple)> {
        any::<bool>().prop_flat_map(|v6| (tuple(v6), tuple(v6)))
    }

    fn filters() -> impl Strategy<Value = config::FilterConfig> {
        let address = || prop::option::weighted(0.3, addresses());
        let port = || prop::option::weighted(0.3, prop::sample::select(vec![0_u16, 1, 443, 65535]));
        (address(), port(), address(), port(), address(), port(), any::<bool>()).prop_map(
            |(src_ip, src_port, nat_ip, nat_port, dst_ip, dst_port, nat_only)| config::FilterConfig {
                src_ip,
                src_port,
                nat_ip,
                nat_port,
                dst_ip,
                dst_port,
                nat_only,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn the_socket_filter_passes_every_tracked_connection(
            config in filters(),
            (original, reply) in pairs(),
            new in any::<bool>(),
        ) {
            let mut flow = Flow::new(original, reply);
            flow.id = 1;
            let filter = Filter::new(&config);
            // A socket filter works on any kind of socket, so no netlink is needed.
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            filter.kernel_filter().attach(&receiver).unwrap();
            receiver.set_nonblocking(true).unwrap();
            let kind = if new { EventKind::New } else { EventKind::Destroy };
            let _ = sender.send(&nfct::wire::write_event(&Event::new(kind, flow)));
            let delivered = match receiver.recv(&mut [0; 4096]) {
                Ok(_) => true,
                Err(error) => {
                    prop_assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    false
                }
            };
            let matches = filter.matches_flow(&flow);
            prop_assert!(delivered || !matches);
            let has_ports = matches!(original.layer4, Layer4::Ports { .. } | Layer4::Keys { .. })
                && matches!(reply.layer4, Layer4::Ports { .. } | Layer4::Keys { .. });
            let is_public = |address: Option<IpAddr>, port: Option<u16>, tuple: &Tuple| {
                address.is_none_or(|address| address == tuple.dst)
                    && (port.is_none() || port == destination_port(tuple))
            };
            let in_either = |address, port| {
                is_public(address, port, &original) || is_public(address, port, &reply)
            };
            let is_exact = !config.nat_only && config.nat_ip.is_none() && config.nat_port.is_none();
            if has_ports && is_exact {
                prop_assert_eq!(delivered, matches, "for protocols with ports the socket filter is exact");
            }
            if has_ports && !(in_either(config.nat_ip, None) && in_either(None, config.nat_port)) {
                prop_assert!(!delivered, "a public address or port must be in one of the tuples");
            }
        }
    }
}
