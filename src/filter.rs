//! Which connections are tracked: those that meet every condition of
//! `[filter]`.

use nfct::Flow;

use crate::clock::Stamp;
use crate::config;
use crate::mapping::{KeyValue, Learnt, Mapping};

/// The conditions in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    conditions: Vec<(config::Key, KeyValue)>,
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
        Self { conditions }
    }

    /// Whether a connection is tracked.
    pub fn matches(&self, flow: &Flow) -> bool {
        if self.conditions.is_empty() {
            return true;
        }
        let never = Stamp { monotonic: 0, wall: 0 };
        let mapping = Mapping {
            original: flow.original,
            reply: flow.reply,
            id: flow.id,
            mark: flow.mark,
            opened: never,
            closed: None,
            learnt: Learnt::Event,
        };
        self.conditions.iter().all(|(key, value)| mapping.key(*key) == Some(*value))
    }
}

/// `dst_ip=198.51.100.1 dst_port=443`, or `everything`.
impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.conditions.is_empty() {
            return f.write_str("everything");
        }
        for (at, (key, value)) in self.conditions.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            match value {
                KeyValue::Ip(address) => write!(f, "{space}{key}={address}")?,
                KeyValue::Port(port) => write!(f, "{space}{key}={port}")?,
            }
        }
        Ok(())
    }
}
