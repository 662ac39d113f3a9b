//! A mapping as `/v1` writes it.

use std::net::IpAddr;

use serde::{Serialize, Serializer};

use crate::mapping::{Layer4, Mapping};

/// A mapping that matches a request.
#[derive(Debug, Serialize)]
pub(super) struct Match {
    protocol: String,
    l3: &'static str,
    src_ip: IpAddr,
    src_port: Option<u16>,
    dst_ip: IpAddr,
    dst_port: Option<u16>,
    nat_ip: IpAddr,
    nat_port: Option<u16>,
    server_ip: IpAddr,
    server_port: Option<u16>,
    zone: u16,
    /// Only if the two directions are in different zones.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_zone: Option<u16>,
    /// Only for ICMP and ICMPv6, whose identifiers are in the port fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp: Option<IcmpFields>,
    id: u32,
    mark: u32,
    nat: Vec<&'static str>,
    state: &'static str,
    opened: Time,
    closed: Option<Time>,
    learnt: &'static str,
}

#[derive(Debug, Serialize)]
struct IcmpFields {
    #[serde(rename = "type")]
    kind: u8,
    code: u8,
}

impl From<&Mapping> for Match {
    fn from(mapping: &Mapping) -> Self {
        let translations = [("src", mapping.is_source_nat()), ("dst", mapping.is_destination_nat())];
        let (zone, reply_zone) = (mapping.original.zone, mapping.reply.zone);
        Match {
            protocol: mapping.original.protocol.to_string(),
            l3: if mapping.src_ip().is_ipv4() { "ipv4" } else { "ipv6" },
            src_ip: mapping.src_ip(),
            src_port: mapping.src_port(),
            dst_ip: mapping.dst_ip(),
            dst_port: mapping.dst_port(),
            nat_ip: mapping.nat_ip(),
            nat_port: mapping.nat_port(),
            server_ip: mapping.server_ip(),
            server_port: mapping.server_port(),
            zone,
            reply_zone: (zone != reply_zone).then_some(reply_zone),
            icmp: match mapping.original.layer4 {
                Layer4::Icmp { kind, code, .. } => Some(IcmpFields { kind, code }),
                _ => None,
            },
            id: mapping.id,
            mark: mapping.mark,
            nat: translations.into_iter().filter_map(|(name, is)| is.then_some(name)).collect(),
            state: if mapping.is_live() { "live" } else { "closed" },
            opened: Time(mapping.opened.wall),
            closed: mapping.closed.map(|closed| Time(closed.wall)),
            learnt: mapping.source.as_str(),
        }
    }
}

/// Milliseconds since the Unix epoch, written as RFC 3339 in UTC.
#[derive(Debug)]
struct Time(u64);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let milliseconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::MAX);
        serializer.collect_str(&format_args!("{time:.3}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_utc_with_milliseconds() {
        assert_eq!(serde_json::to_string(&Time(1_795_246_463_007)).unwrap(), r#""2026-11-21T07:34:23.007Z""#);
        assert_eq!(serde_json::to_string(&Time(0)).unwrap(), r#""1970-01-01T00:00:00.000Z""#);
        assert!(serde_json::to_string(&Time(u64::MAX)).is_ok());
    }
}
