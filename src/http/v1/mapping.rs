//! A mapping as `/v1` writes it.

use std::net::IpAddr;

use natnames::{Millis, Span, Who};
use serde::Serialize;

use super::host::Hosts;
use crate::fields::{Field, KernelFields, PerDirection};
use crate::http::json;
use crate::mapping::{Host, Layer4, Mapping, Protocol, Source, Traced};
use crate::question::Question;

/// A mapping that matches a request.
#[derive(Debug)]
pub(super) struct Match<'a> {
    traced: &'a Traced,
    /// Whether the host behind the public end is the source; otherwise it is the server.
    is_source: bool,
    kernel: KernelValues,
}

/// What the kernel's entry had, if the request asks for it and the kernel answered.
#[derive(Debug, Default)]
struct KernelValues {
    mark: Option<u32>,
    packets: Option<Counter>,
    bytes: Option<Counter>,
    tcp_state: Option<String>,
    labels: Option<Vec<u16>>,
    /// In seconds.
    timeout: Option<u64>,
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

impl KernelValues {
    /// Writes the members that have a value.
    fn write(&self, out: &mut Vec<u8>) {
        fn member(out: &mut Vec<u8>, name: &str, value: Option<&impl Serialize>) {
            if let Some(value) = value {
                json::text(out, name);
                json::value(out, value);
            }
        }
        member(out, r#","mark":"#, self.mark.as_ref());
        member(out, r#","packets":"#, self.packets.as_ref());
        member(out, r#","bytes":"#, self.bytes.as_ref());
        member(out, r#","tcp_state":"#, self.tcp_state.as_ref());
        member(out, r#","labels":"#, self.labels.as_ref());
        member(out, r#","timeout":"#, self.timeout.as_ref());
        member(out, r#","status":"#, self.status.as_ref());
    }
}

impl<'a> Match<'a> {
    /// A mapping that matches `question`. The question tells which end the inside host is at.
    pub(super) fn new(traced: &'a Traced, question: &Question) -> Self {
        let end = question.public_ends(&traced.mapping).next();
        Self { traced, is_source: end.is_none_or(|end| end.is_source), kernel: KernelValues::default() }
    }

    /// Adds the fields that the request asks for: of a live mapping those of the kernel's entry, of a
    /// closed one what its end reported.
    pub(super) fn add_fields(&mut self, asked: &[Field], entry: Option<&KernelFields>) {
        let values = &mut self.kernel;
        for field in asked {
            match (field, entry) {
                (Field::Mark, None) => values.mark = self.traced.mapping.mark,
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

    /// Whether the inside host is who is meant, if somebody is.
    pub(super) fn is_of(&self, who: &[Who], hosts: &Hosts) -> bool {
        let mapping = &self.traced.mapping;
        who.is_empty() || hosts.is(who, self.inside().ip, opened(mapping), mapping.is_live())
    }

    /// The host behind the public end.
    fn inside(&self) -> Host {
        if self.is_source { self.traced.source_host() } else { self.traced.server_host() }
    }

    /// Writes it as a JSON object, with who the inside host is.
    pub(super) fn write(&self, out: &mut Vec<u8>, hosts: &Hosts) {
        let mapping = &self.traced.mapping;
        let (source, server) = (self.traced.source_host(), self.traced.server_host());
        let protocol = mapping.original.protocol;
        write_protocol(out, protocol, mapping.src_ip());
        json::end(out, [r#""src_ip":""#, r#"","src_port":"#], source.ip, source.port);
        json::end(out, [r#","dst_ip":""#, r#"","dst_port":"#], mapping.dst_ip(), mapping.dst_port());
        json::end(out, [r#","nat_ip":""#, r#"","nat_port":"#], mapping.nat_ip(), mapping.nat_port());
        let server_port = mapping.server_port().and(server.port);
        json::end(out, [r#","server_ip":""#, r#"","server_port":"#], server.ip, server_port);
        json::text(
            out,
            if self.is_source { r#","inside":"src","zone":"# } else { r#","inside":"server","zone":"# },
        );
        json::number(out, source.zone);
        // The zone of the packets that the server sends.
        if server.zone != source.zone {
            json::text(out, r#","reply_zone":"#);
            json::number(out, server.zone);
        }
        if !self.traced.is_alone() {
            self.write_via(out);
        }
        // The identifiers of ICMP and ICMPv6 are in the port fields.
        if let Layer4::Icmp { kind, code, .. } = mapping.original.layer4 {
            json::text(out, r#","icmp":{"type":"#);
            json::number(out, kind);
            json::text(out, r#","code":"#);
            json::number(out, code);
            json::text(out, "}");
        }
        json::text(out, r#","id":"#);
        json::number(out, mapping.id);
        self.kernel.write(out);
        write_nat(out, mapping.is_source_nat(), mapping.is_destination_nat());
        json::text(out, if mapping.is_live() { r#""live","opened":"# } else { r#""closed","opened":"# });
        json::time(out, mapping.opened.wall);
        json::text(out, r#","closed":"#);
        match mapping.closed {
            Some(closed) => json::time(out, closed.wall),
            None => json::text(out, "null"),
        }
        json::text(out, r#","learnt":""#);
        json::text(out, mapping.source.as_str());
        json::text(out, r#"""#);
        if !hosts.are_hidden() {
            hosts.write(out, self.inside().ip, opened(mapping), mapping.is_live());
        }
        json::text(out, "}");
    }

    /// Writes the addresses to which the source or the server is translated on the way, from outside to inside.
    fn write_via(&self, out: &mut Vec<u8>) {
        let mut begin = r#","via":[{"#;
        let mut write = |names, Host { ip, port, zone }| {
            json::text(out, begin);
            json::end(out, names, ip, port);
            json::text(out, r#","zone":"#);
            json::number(out, zone);
            begin = "},{";
        };
        let source_names = [r#""src_ip":""#, r#"","src_port":"#];
        let server_names = [r#""server_ip":""#, r#"","server_port":"#];
        self.traced.source_via().for_each(|host| write(source_names, host));
        self.traced.server_via().for_each(|host| write(server_names, host));
        json::text(out, "}]");
    }
}

/// When a mapping can have opened. One that no event told of has been there for a time that is not known, and so has one of
/// which only the end was told: that is the moment of both then.
pub(super) fn opened(mapping: &Mapping) -> Span {
    let latest = millis(mapping.opened.wall);
    let is_end = mapping.closed.is_some_and(|closed| closed.wall == mapping.opened.wall);
    let is_known = mapping.source == Source::Event && !is_end;
    Span { earliest: if is_known { latest } else { Millis::MIN }, latest }
}

/// A moment, as names have it.
fn millis(wall: u64) -> Millis {
    Millis::try_from(wall).unwrap_or(Millis::MAX)
}

/// Writes the begin of a mapping: the protocols of the transport and of the network layer.
#[inline]
pub(super) fn write_protocol(out: &mut Vec<u8>, protocol: Protocol, src: IpAddr) {
    json::text(out, r#"{"protocol":""#);
    match protocol.name() {
        Some(name) => json::text(out, name),
        None => json::number(out, protocol.number()),
    }
    json::text(out, if src.is_ipv4() { r#"","l3":"ipv4","# } else { r#"","l3":"ipv6","# });
}

/// Writes what is translated, and the name of the state that follows.
#[inline]
pub(super) fn write_nat(out: &mut Vec<u8>, is_source_nat: bool, is_destination_nat: bool) {
    json::text(
        out,
        match (is_source_nat, is_destination_nat) {
            (true, false) => r#","nat":["src"],"state":"#,
            (false, true) => r#","nat":["dst"],"state":"#,
            (true, true) => r#","nat":["src","dst"],"state":"#,
            (false, false) => r#","nat":[],"state":"#,
        },
    );
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::clock::Stamp;
    use crate::mapping::Doubt;
    use crate::tuples::Tuples;
    use nfct::Tuple;

    fn mapping(original: Tuple, reply: Tuple) -> Mapping {
        Mapping {
            tuples: Tuples { original, reply },
            id: u32::MAX,
            mark: None,
            opened: Stamp { monotonic: 1, wall: 1_795_246_463_007 },
            closed: None,
            source: Source::Event,
            doubt: Doubt::None,
            sequence: 1,
        }
    }

    fn written(found: &Match<'_>) -> String {
        let mut out = Vec::new();
        found.write(&mut out, &Hosts::default());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_mapping_has_the_documented_members() {
        let server = ([198, 51, 100, 1], 443);
        let original = Tuple::tcp(([192, 168, 7, 2], 40000), server);
        let reply = Tuple::tcp(server, ([203, 0, 113, 9], 51000));
        let traced = Traced { mapping: mapping(original, reply), source: vec![], destination: vec![] };
        assert_eq!(
            written(&Match::new(&traced, &Question::default())),
            concat!(
                r#"{"protocol":"tcp","l3":"ipv4","src_ip":"192.168.7.2","src_port":40000,"#,
                r#""dst_ip":"198.51.100.1","dst_port":443,"nat_ip":"203.0.113.9","nat_port":51000,"#,
                r#""server_ip":"198.51.100.1","server_port":443,"inside":"src","zone":0,"id":4294967295,"#,
                r#""nat":["src"],"state":"live","opened":"2026-11-21T07:34:23.007Z","closed":null,"#,
                r#""learnt":"event"}"#
            )
        );
    }

    #[test]
    fn it_opened_at_a_known_moment_only_if_its_begin_was_told() {
        let server = ([198, 51, 100, 1], 443);
        let event = mapping(
            Tuple::tcp(([192, 168, 7, 2], 40000), server),
            Tuple::tcp(server, ([203, 0, 113, 9], 51000)),
        );
        let is_known = |mapping: &Mapping| opened(mapping).earliest == opened(mapping).latest;
        assert!(is_known(&event));
        let later = Stamp { monotonic: 5, wall: event.opened.wall + 4 };
        assert!(is_known(&Mapping { closed: Some(later), ..event }));
        assert!(!is_known(&Mapping { closed: Some(event.opened), ..event }));
        assert!(!is_known(&Mapping { source: Source::Dump, ..event }));
    }

    #[test]
    fn what_is_rare_is_written_too() {
        let at = |last, zone| Tuple {
            zone,
            ..Tuple::icmp_echo(
                "fd00::1".parse::<IpAddr>().unwrap(),
                format!("fd00::{last}").parse::<IpAddr>().unwrap(),
                7,
            )
        };
        let closed = Some(Stamp { monotonic: 2, wall: 0 });
        let outer = Mapping { closed, mark: Some(5), source: Source::Dump, ..mapping(at(2, 3), at(4, 0)) };
        let inner = |zone| Mapping { closed, ..mapping(at(5, zone), at(6, 9)) };
        let traced = Traced { mapping: outer, source: vec![inner(3)], destination: vec![inner(4)] };
        let mut found = Match::new(&traced, &Question::default());
        found.add_fields(&[Field::Mark], None);
        assert_eq!(
            written(&found),
            concat!(
                r#"{"protocol":"icmpv6","l3":"ipv6","src_ip":"fd00::1","src_port":7,"dst_ip":"fd00::2","#,
                r#""dst_port":null,"nat_ip":"fd00::4","nat_port":7,"server_ip":"fd00::1","server_port":null,"#,
                r#""inside":"src","zone":3,"reply_zone":9,"#,
                r#""via":[{"src_ip":"fd00::1","src_port":7,"zone":3},"#,
                r#"{"server_ip":"fd00::1","server_port":7,"zone":0}],"icmp":{"type":128,"code":0},"#,
                r#""id":4294967295,"mark":5,"nat":["src","dst"],"state":"closed","#,
                r#""opened":"2026-11-21T07:34:23.007Z","closed":"1970-01-01T00:00:00.000Z","learnt":"dump"}"#
            )
        );
    }
}
