//! A mapping as the Python program wrote it: as `json.dumps(…, sort_keys=True, indent=4)` does.
//!
//! The text is written piece by piece, because this is part of every legacy lookup.

use std::time::Instant;

use super::time;
use crate::http::json;
use crate::mapping::Traced;

/// More bytes than a mapping has.
const MAX_LENGTH: usize = 512;

/// The text of a mapping, written at this moment.
pub(super) fn to_json(traced: &Traced, now: Instant) -> Vec<u8> {
    let (mapping, source) = (&traced.mapping, traced.source_host());
    let mut text = Vec::with_capacity(MAX_LENGTH);
    text.extend_from_slice(b"{\n    \"dst_ip\": \"");
    json::address(&mut text, mapping.dst_ip());
    text.extend_from_slice(b"\",\n    \"dst_port\": ");
    json::number_or_null(&mut text, mapping.dst_port());
    text.extend_from_slice(b",\n    \"nat_ip\": \"");
    json::address(&mut text, mapping.nat_ip());
    text.extend_from_slice(b"\",\n    \"nat_port\": ");
    json::number_or_null(&mut text, mapping.nat_port());
    text.extend_from_slice(b",\n    \"protocol\": [\n        \"");
    text.extend_from_slice(if mapping.src_ip().is_ipv4() { b"ipv4" } else { b"ipv6" });
    text.extend_from_slice(b"\",\n        \"");
    text.extend_from_slice(mapping.original.protocol.name().unwrap_or("unknown").as_bytes());
    text.extend_from_slice(b"\"\n    ],\n    \"sig_type\": \"new\",\n    \"src_ip\": \"");
    json::address(&mut text, source.ip);
    text.extend_from_slice(b"\",\n    \"src_port\": ");
    json::number_or_null(&mut text, source.port);
    text.extend_from_slice(b",\n    \"time\": \"");
    time::write_local(mapping.opened.wall, now, &mut text);
    text.extend_from_slice(b"\"\n}");
    text
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use nfct::{Layer4, Tuple};
    use serde::Serialize;

    use super::*;
    use crate::clock::Stamp;
    use crate::mapping::{Doubt, Mapping, Source};
    use crate::tuples::Tuples;

    fn traced(src: (IpAddr, u16), dst: (IpAddr, u16), nat: (IpAddr, u16)) -> Traced {
        let (original, reply) = (Tuple::udp(src, dst), Tuple::udp(dst, nat));
        let opened = Stamp { monotonic: 1, wall: 1_795_246_467_123 };
        let mapping = Mapping {
            tuples: Tuples { original, reply },
            id: 1,
            mark: None,
            opened,
            closed: None,
            source: Source::Event,
            doubt: Doubt::None,
            sequence: 1,
        };
        Traced { mapping, source: Vec::new(), destination: Vec::new() }
    }

    fn as_python(text: &[u8]) -> String {
        let value: serde_json::Value = serde_json::from_slice(text).unwrap();
        let mut expected = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut expected, formatter);
        value.serialize(&mut serializer).unwrap();
        String::from_utf8(expected).unwrap()
    }

    #[test]
    fn the_text_is_indented_and_sorted_json() {
        let end = |address: &str, port| (address.parse().unwrap(), port);
        let v4 = traced(end("192.168.7.2", 0), end("198.51.100.1", 7), end("100.64.2.10", 65535));
        let v6 = traced(end("fd00:7::2", 10), end("2001:db8::1", 443), end("2001:db8::2", 9999));
        let mut gre = traced(end("10.0.0.1", 0), end("255.0.200.9", 0), end("100.99.9.10", 0));
        gre.mapping.tuples.original.layer4 = Layer4::None;
        gre.mapping.tuples.reply.layer4 = Layer4::None;
        for traced in [&v4, &v6, &gre] {
            let text = to_json(traced, Instant::now());
            assert!(text.len() < MAX_LENGTH);
            assert_eq!(String::from_utf8(text.clone()).unwrap(), as_python(&text));
        }
        let value: serde_json::Value = serde_json::from_slice(&to_json(&v6, Instant::now())).unwrap();
        assert_eq!((&value["src_ip"], &value["nat_port"]), (&"fd00:7::2".into(), &9999.into()));
        let value: serde_json::Value = serde_json::from_slice(&to_json(&gre, Instant::now())).unwrap();
        assert_eq!((&value["dst_ip"], &value["dst_port"]), (&"255.0.200.9".into(), &serde_json::Value::Null));
    }
}
