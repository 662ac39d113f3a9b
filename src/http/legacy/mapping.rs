//! A mapping as the Python program writes it.

use std::net::IpAddr;

use serde::Serialize;

use crate::mapping::Traced;

/// A mapping with the Python program's fields, in alphabetical order.
#[derive(Serialize)]
pub(super) struct LegacyMapping {
    dst_ip: IpAddr,
    dst_port: Option<u16>,
    nat_ip: IpAddr,
    nat_port: Option<u16>,
    protocol: [&'static str; 2],
    sig_type: &'static str,
    src_ip: IpAddr,
    src_port: Option<u16>,
    time: String,
}

impl From<&Traced> for LegacyMapping {
    fn from(traced: &Traced) -> Self {
        let (mapping, source) = (&traced.mapping, traced.source_host());
        let layer3 = if mapping.src_ip().is_ipv4() { "ipv4" } else { "ipv6" };
        LegacyMapping {
            dst_ip: mapping.dst_ip(),
            dst_port: mapping.dst_port(),
            nat_ip: mapping.nat_ip(),
            nat_port: mapping.nat_port(),
            protocol: [layer3, mapping.original.protocol.name().unwrap_or("unknown")],
            sig_type: "new",
            src_ip: source.ip,
            src_port: source.port,
            time: local_time(mapping.opened.wall),
        }
    }
}

/// `2026-11-21 07:34:27` in the system's time zone.
fn local_time(milliseconds: u64) -> String {
    let milliseconds = i64::try_from(milliseconds).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}
