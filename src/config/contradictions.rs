//! Warnings about values that are valid, but do not go together.

use nfct::Protocol;

use super::{
    conditions::{AddressSet, Condition, PortRange},
    error::KeyLocation,
    names::Warning,
    types::{Config, FilterConfig},
};

/// Warns about values of a file that do not go together. `set` has the locations of the keys that it sets.
pub(super) fn find(config: &Config, set: &[KeyLocation]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |keys: &[&'static str], text: String| {
        // The last one in the file: only with that one they do not go together.
        let of_keys = set.iter().filter(|location| keys.contains(&location.key));
        if let Some(location) = of_keys.max_by_key(|location| location.line) {
            warnings.push((location.line.unwrap_or(0), format!("{location}: {text}")));
        }
    };
    let (del_delay, life_span) = (config.data.del_delay, config.data.life_span);
    if del_delay > life_span {
        let text = format!(
            "del_delay ({}) is more than life_span ({}), so a cleanup removes closed mappings that del_delay would \
             still keep: set life_span to at least {0}",
            del_delay.as_secs_f64(),
            life_span.as_secs_f64()
        );
        warn(&["del_delay", "life_span"], text);
    }
    let accepting_nothing = accepting_nothing(&config.filter);
    for key in &accepting_nothing {
        let text = "the exceptions leave no value, so no connection is tracked".to_owned();
        warn(&[*key], text);
    }
    if accepting_nothing.is_empty() {
        if let Some((keys, text)) = never_together(&config.filter) {
            warn(&keys, format!("{text}, so no connection is tracked: remove one of these conditions"));
        }
    }
    warnings
}

/// The conditions whose exceptions contain every accepted value.
fn accepting_nothing(filter: &FilterConfig) -> Vec<&'static str> {
    fn is_so<T>(condition: &Condition<T>, contains: impl Fn(&T, &T) -> bool) -> bool {
        let is_excepted = |value| condition.except.iter().any(|except| contains(except, value));
        !condition.only.is_empty() && condition.only.iter().all(is_excepted)
    }
    let FilterConfig { src_ip, src_port, nat_ip, nat_port, dst_ip, dst_port, protocol, nat_only: _ } = filter;
    let network_contains = |except: &AddressSet, value: &AddressSet| match (except, value) {
        (AddressSet::Network(except), AddressSet::Network(value)) => {
            except.contains(value.ip()) && except.prefix() <= value.prefix()
        }
        _ => except == value,
    };
    let range_contains =
        |except: &PortRange, value: &PortRange| except.first <= value.first && value.last <= except.last;
    let mut keys = Vec::new();
    for (key, condition) in [("src_ip", src_ip), ("nat_ip", nat_ip), ("dst_ip", dst_ip)] {
        keys.extend(is_so(condition, network_contains).then_some(key));
    }
    for (key, condition) in [("src_port", src_port), ("nat_port", nat_port), ("dst_port", dst_port)] {
        keys.extend(is_so(condition, range_contains).then_some(key));
    }
    keys.extend(is_so(protocol, |except, value| except == value).then_some("protocol"));
    keys
}

/// The conditions that no connection can meet together, and why.
fn never_together(filter: &FilterConfig) -> Option<(Vec<&'static str>, String)> {
    let addresses = [("src_ip", &filter.src_ip), ("nat_ip", &filter.nat_ip), ("dst_ip", &filter.dst_ip)];
    let of_addresses = addresses.into_iter().map(|(key, condition)| (key, families(condition)));
    let of_protocol = ("protocol", protocol_families(&filter.protocol));
    let families: Vec<_> = of_addresses.chain([of_protocol]).collect();
    let only = |family: [bool; 2]| families.iter().find(|(_, of)| *of == family).map(|(key, _)| *key);
    if let (Some(v4), Some(v6)) = (only([true, false]), only([false, true])) {
        let text = format!("{v4} accepts only IPv4 and {v6} only IPv6");
        return Some((vec![v4, v6], text));
    }
    let ports =
        [("src_port", &filter.src_port), ("nat_port", &filter.nat_port), ("dst_port", &filter.dst_port)];
    let (key, _) = ports.into_iter().find(|(key, condition)| {
        let has_port = |protocol: &Protocol| match protocol {
            Protocol::Other(_) => false,
            // The identifier of an echo counts as the port of its source.
            Protocol::Icmp | Protocol::Icmpv6 => *key != "dst_port",
            _ => true,
        };
        !condition.only.is_empty()
            && !filter.protocol.only.is_empty()
            && !filter.protocol.only.iter().any(has_port)
    })?;
    Some((vec!["protocol", key], format!("no protocol of this list has a {key}")))
}

/// Whether a condition accepts addresses of IPv4, and of IPv6.
fn families(condition: &Condition<AddressSet>) -> [bool; 2] {
    [true, false].map(|v4| {
        let is_of_family = |set: &AddressSet| match set {
            AddressSet::Network(network) => network.is_ipv4() == v4,
            AddressSet::Interface(_) => true,
        };
        let is_all = |set: &AddressSet| {
            matches!(set, AddressSet::Network(network) if network.prefix() == 0) && is_of_family(set)
        };
        (condition.only.is_empty() || condition.only.iter().any(is_of_family))
            && !condition.except.iter().any(is_all)
    })
}

/// The same of protocols: ICMP is of one family.
fn protocol_families(condition: &Condition<Protocol>) -> [bool; 2] {
    [Protocol::Icmpv6, Protocol::Icmp].map(|of_other_family| {
        condition.only.is_empty() || condition.only.iter().any(|protocol| *protocol != of_other_family)
    })
}
