//! The conditions in force.

use std::fmt;
use std::net::IpAddr;

use nfct::Flow;

use super::ranges::{self, Ranges};
use super::test::Test;
use crate::addresses::Interfaces;
use crate::config::{AddressSet, Condition, FilterConfig, Key, PortRange};
use crate::tuples::{PublicEnd, Tuples};

/// The conditions in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    config: FilterConfig,
    pub(super) src_ip: Test<IpAddr>,
    pub(super) src_port: Test<u16>,
    pub(super) nat_ip: Test<IpAddr>,
    pub(super) nat_port: Test<u16>,
    pub(super) dst_ip: Test<IpAddr>,
    pub(super) dst_port: Test<u16>,
    pub(super) protocol: Test<u8>,
    /// Whether nothing is excluded.
    accepts_all: bool,
}

impl Filter {
    /// The conditions that a configuration sets, with the addresses that interfaces have now.
    /// Without any condition, every connection is tracked.
    pub fn new(config: &FilterConfig, interfaces: &Interfaces) -> Self {
        let addresses = |condition: &Condition<AddressSet>| {
            test(condition, |set| match set {
                AddressSet::Network(network) => vec![ranges::of_network(*network)],
                AddressSet::Interface(name) => {
                    interfaces.of(name).map(|address| (address, address)).collect()
                }
            })
        };
        let ports = |condition: &Condition<PortRange>| test(condition, |range| [(range.first, range.last)]);
        let mut filter = Self {
            src_ip: addresses(&config.src_ip),
            src_port: ports(&config.src_port),
            nat_ip: addresses(&config.nat_ip),
            nat_port: ports(&config.nat_port),
            dst_ip: addresses(&config.dst_ip),
            dst_port: ports(&config.dst_port),
            protocol: test(&config.protocol, |protocol| [(protocol.number(), protocol.number())]),
            config: config.clone(),
            accepts_all: false,
        };
        let addresses = [&filter.src_ip, &filter.nat_ip, &filter.dst_ip];
        let ports = [&filter.src_port, &filter.nat_port, &filter.dst_port];
        filter.accepts_all = !config.nat_only
            && addresses.into_iter().all(Test::is_none)
            && ports.into_iter().all(Test::is_none)
            && filter.protocol.is_none();
        filter
    }

    /// The same conditions with the addresses that interfaces have now.
    #[must_use]
    pub fn with_addresses(&self, interfaces: &Interfaces) -> Self {
        Self::new(&self.config, interfaces)
    }

    /// The names of the interfaces whose addresses are in a condition.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        let FilterConfig { src_ip, nat_ip, dst_ip, .. } = &self.config;
        let sets = [src_ip, nat_ip, dst_ip]
            .into_iter()
            .flat_map(|condition| condition.only.iter().chain(&condition.except));
        sets.filter_map(|set| match set {
            AddressSet::Network(_) => None,
            AddressSet::Interface(name) => Some(name.as_str()),
        })
    }

    /// The condition of the public address in words, if it has a list and none of these
    /// interfaces has an accepted address.
    pub fn foreign_public_address(&self, interfaces: &Interfaces) -> Option<String> {
        self.nat_ip.only.as_ref()?;
        let has_one = interfaces.all().any(|address| self.nat_ip.accepts(Some(address)));
        (!has_one).then(|| Words(&self.config.nat_ip).to_string())
    }

    /// The source address that every tracked connection has, if there is only one.
    pub fn src_ip(&self) -> Option<IpAddr> {
        self.src_ip.single()
    }

    /// The source port that every tracked connection has, if there is only one.
    pub fn src_port(&self) -> Option<u16> {
        self.src_port.single()
    }

    /// The public address that every tracked connection has, if there is only one.
    pub fn nat_ip(&self) -> Option<IpAddr> {
        self.nat_ip.single()
    }

    /// The public port that every tracked connection has, if there is only one.
    pub fn nat_port(&self) -> Option<u16> {
        self.nat_port.single()
    }

    /// The destination address that every tracked connection has, if there is only one.
    pub fn dst_ip(&self) -> Option<IpAddr> {
        self.dst_ip.single()
    }

    /// The destination port that every tracked connection has, if there is only one.
    pub fn dst_port(&self) -> Option<u16> {
        self.dst_port.single()
    }

    /// Whether the connection of an event or of a dump is tracked.
    #[inline]
    pub fn matches_flow(&self, flow: &Flow) -> bool {
        self.accepts_all || self.matches(&Tuples::from(flow))
    }

    /// Whether a connection with these tuples is tracked. Its public address and port
    /// are those of either end, but both of the same end.
    pub fn matches(&self, tuples: &Tuples) -> bool {
        self.accepts_all
            || ((!self.config.nat_only || tuples.is_source_nat() || tuples.is_destination_nat())
                && self.protocol.accepts(Some(tuples.original.protocol.number()))
                && self.src_ip.accepts(Some(tuples.src_ip()))
                && self.src_port.accepts(tuples.src_port())
                && self.dst_ip.accepts(Some(tuples.dst_ip()))
                && self.dst_port.accepts(tuples.dst_port())
                && (self.lists_end(&tuples.source_end())
                    || (tuples.is_destination_nat() && self.lists_end(&tuples.destination_end())))
                && !self.excepts_an_end(tuples))
    }

    /// Whether the lists of public addresses and ports, if they are set, have those of the
    /// source's end. The legacy routes know only this end.
    pub fn is_for_legacy(&self, tuples: &Tuples) -> bool {
        self.lists_end(&tuples.source_end())
    }

    /// Whether the lists of public addresses and ports have those of an end.
    fn lists_end(&self, end: &PublicEnd) -> bool {
        self.nat_ip.lists(Some(end.ip)) && self.nat_port.lists(end.port)
    }

    /// Whether a public address or port is an exception, of either end. The end of a source
    /// that is not translated is not public if the destination is translated.
    fn excepts_an_end(&self, tuples: &Tuples) -> bool {
        if self.nat_ip.except.is_empty() && self.nat_port.except.is_empty() {
            return false;
        }
        let is_excepted =
            |end: PublicEnd| self.nat_ip.excepts(Some(end.ip)) || self.nat_port.excepts(end.port);
        let is_destination_nat = tuples.is_destination_nat();
        ((tuples.is_source_nat() || !is_destination_nat) && is_excepted(tuples.source_end()))
            || (is_destination_nat && is_excepted(tuples.destination_end()))
    }
}

/// The test of a condition; `ranges` has the values of one member of a list.
fn test<T, V: Ord + Copy, R: IntoIterator<Item = (V, V)>>(
    condition: &Condition<T>,
    ranges: impl Fn(&T) -> R,
) -> Test<V> {
    let set = |members: &[T]| members.iter().flat_map(&ranges).collect::<Ranges<V>>();
    Test { only: (!condition.only.is_empty()).then(|| set(&condition.only)), except: set(&condition.except) }
}

/// In words, such as `all connections` or `connections with dst_ip 198.51.100.1,
/// dst_port 443 that are translated`.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FilterConfig { src_ip, src_port, nat_ip, nat_port, dst_ip, dst_port, protocol, nat_only } =
            &self.config;
        let mut before = "connections with";
        let mut write = |key: &str, is_set: bool, words: &dyn fmt::Display| -> fmt::Result {
            if is_set {
                write!(f, "{} {key} {words}", std::mem::replace(&mut before, ","))?;
            }
            Ok(())
        };
        for (key, condition) in [(Key::SrcIp, src_ip), (Key::NatIp, nat_ip), (Key::DstIp, dst_ip)] {
            write(key.as_str(), !condition.is_empty(), &Words(condition))?;
        }
        for (key, condition) in [(Key::SrcPort, src_port), (Key::NatPort, nat_port), (Key::DstPort, dst_port)]
        {
            write(key.as_str(), !condition.is_empty(), &Words(condition))?;
        }
        write("protocol", !protocol.is_empty(), &Words(protocol))?;
        match (before, nat_only) {
            (",", false) => Ok(()),
            (",", true) => f.write_str(" that are translated"),
            (_, false) => f.write_str("all connections"),
            (_, true) => f.write_str("all translated connections"),
        }
    }
}

/// Members of a list that are named; others are counted.
const MAX_NAMED: usize = 8;

/// A condition in words, such as `10.0.0.0/8 or ::1 but not 10.0.0.1`.
struct Words<'a, T>(&'a Condition<T>);

impl<T: fmt::Display> fmt::Display for Words<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Condition { only, except } = self.0;
        write_members(f, only)?;
        match (only.is_empty(), except.is_empty()) {
            (_, true) => Ok(()),
            (true, false) => {
                f.write_str("not ")?;
                write_members(f, except)
            }
            (false, false) => {
                f.write_str(" but not ")?;
                write_members(f, except)
            }
        }
    }
}

fn write_members<T: fmt::Display>(f: &mut fmt::Formatter<'_>, members: &[T]) -> fmt::Result {
    for (at, member) in members.iter().take(MAX_NAMED).enumerate() {
        write!(f, "{}{member}", if at == 0 { "" } else { " or " })?;
    }
    match members.len().saturating_sub(MAX_NAMED) {
        0 => Ok(()),
        others => write!(f, " or {others} more"),
    }
}
