//! A mapping as `/v1` writes it.

use std::net::IpAddr;

use serde::{Serialize, Serializer};

use crate::fields::{Field, KernelFields, PerDirection};
use crate::mapping::{Host, Layer4, Mapping, Traced};
use crate::question::Question;

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
    /// Which of them is behind the public end: `src` or `server`.
    inside: &'static str,
    zone: u16,
    /// The zone of the packets that the server sends. Only if it is not `zone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_zone: Option<u16>,
    /// The addresses between the public end and the inside host, from outside to inside. Only if the
    /// connection is translated more than once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    via: Vec<Via>,
    /// Only for ICMP and ICMPv6, whose identifiers are in the port fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp: Option<IcmpFields>,
    id: u32,
    #[serde(flatten)]
    kernel: KernelValues,
    nat: Vec<&'static str>,
    state: &'static str,
    opened: Time,
    closed: Option<Time>,
    learnt: &'static str,
}

/// What the kernel's entry had, if the request asks for it and the kernel answered.
#[derive(Debug, Default, Serialize)]
struct KernelValues {
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<Counter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<Counter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<u16>>,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
struct Counter {
    original: u64,
    reply: u64,
}

impl From<PerDirection> for Counter {
    fn from(PerDirection { original, reply }: PerDirection) -> Self {
        Counter { original, reply }
    }
}

/// An address to which the source, or the server, is translated on the way.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Via {
    Source { src_ip: IpAddr, src_port: Option<u16>, zone: u16 },
    Server { server_ip: IpAddr, server_port: Option<u16>, zone: u16 },
}

#[derive(Debug, Serialize)]
struct IcmpFields {
    #[serde(rename = "type")]
    kind: u8,
    code: u8,
}

impl Match {
    /// A mapping that matches `question`. The question tells which end the inside host is at.
    pub(super) fn new(traced: &Traced, question: &Question) -> Self {
        let mapping = &traced.mapping;
        let (source, server) = (traced.source_host(), traced.server_host());
        let is_source = question.public_ends(mapping).next().is_none_or(|end| end.is_source);
        let of_source = |Host { ip, port, zone }| Via::Source { src_ip: ip, src_port: port, zone };
        let of_server = |Host { ip, port, zone }| Via::Server { server_ip: ip, server_port: port, zone };
        let translations = [("src", mapping.is_source_nat()), ("dst", mapping.is_destination_nat())];
        let (zone, reply_zone) = (source.zone, server.zone);
        Match {
            protocol: mapping.original.protocol.to_string(),
            l3: if mapping.src_ip().is_ipv4() { "ipv4" } else { "ipv6" },
            src_ip: source.ip,
            src_port: source.port,
            dst_ip: mapping.dst_ip(),
            dst_port: mapping.dst_port(),
            nat_ip: mapping.nat_ip(),
            nat_port: mapping.nat_port(),
            server_ip: server.ip,
            server_port: mapping.server_port().and(server.port),
            inside: if is_source { "src" } else { "server" },
            zone,
            reply_zone: (zone != reply_zone).then_some(reply_zone),
            via: traced.source_via().map(of_source).chain(traced.server_via().map(of_server)).collect(),
            icmp: match mapping.original.layer4 {
                Layer4::Icmp { kind, code, .. } => Some(IcmpFields { kind, code }),
                _ => None,
            },
            id: mapping.id,
            kernel: KernelValues::default(),
            nat: translations.into_iter().filter_map(|(name, is)| is.then_some(name)).collect(),
            state: if mapping.is_live() { "live" } else { "closed" },
            opened: Time(mapping.opened.wall),
            closed: mapping.closed.map(|closed| Time(closed.wall)),
            learnt: mapping.source.as_str(),
        }
    }

    /// Adds the fields that the request asks for: of a live mapping those of the kernel's entry, of a
    /// closed one what its end reported.
    pub(super) fn add_fields(&mut self, asked: &[Field], mapping: &Mapping, entry: Option<&KernelFields>) {
        let values = &mut self.kernel;
        for field in asked {
            match (field, entry) {
                (Field::Mark, None) => values.mark = mapping.mark,
                (Field::Mark, Some(entry)) => values.mark = Some(entry.mark),
                (Field::Packets, Some(entry)) => values.packets = entry.packets.map(Counter::from),
                (Field::Bytes, Some(entry)) => values.bytes = entry.bytes.map(Counter::from),
                (Field::TcpState, Some(entry)) => values.tcp_state = entry.tcp_state.clone(),
                (Field::Labels, Some(entry)) => values.labels = Some(entry.labels.clone()),
                (Field::Timeout, Some(entry)) => {
                    values.timeout = entry.timeout.map(|timeout| timeout.as_secs())
                }
                (Field::Status, Some(entry)) => values.status = Some(entry.status.clone()),
                (_, None) => {}
            }
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
