//! Which connections are tracked: those that meet every condition of
//! `[filter]`.

use std::net::IpAddr;

use nfct::Flow;

use crate::clock::Stamp;
use crate::config;
use crate::mapping::{KeyValue, Learnt, Mapping};

/// The conditions in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    conditions: Vec<(config::Key, KeyValue)>,
    nat_only: bool,
}

impl Filter {
    /// The conditions that a configuration sets; none tracks everything.
    pub fn new(config: &config::Filter) -> Self {
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

    /// Whether a connection is tracked.
    pub fn matches(&self, flow: &Flow) -> bool {
        if self.conditions.is_empty() && !self.nat_only {
            return true;
        }
        let never = Stamp { monotonic: 0, wall: 0 };
        self.matches_mapping(&Mapping {
            original: flow.original,
            reply: flow.reply,
            id: flow.id,
            mark: flow.mark,
            opened: never,
            closed: None,
            learnt: Learnt::Event,
            silent: false,
            sequence: 0,
        })
    }

    /// Whether a mapping in the table is still one to be tracked.
    pub fn matches_mapping(&self, mapping: &Mapping) -> bool {
        (!self.nat_only || mapping.is_source_nat() || mapping.is_destination_nat())
            && self.conditions.iter().all(|(key, value)| mapping.key(*key) == Some(*value))
    }
}

/// `dst_ip=198.51.100.1 dst_port=443`, or `everything`.
impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.conditions.is_empty() {
            f.write_str("everything")?;
        }
        for (at, (key, value)) in self.conditions.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            match value {
                KeyValue::Ip(address) => write!(f, "{space}{key}={address}")?,
                KeyValue::Port(port) => write!(f, "{space}{key}={port}")?,
            }
        }
        if self.nat_only { f.write_str(" that is translated") } else { Ok(()) }
    }
}
