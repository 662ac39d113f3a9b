//! What is asked.

use std::net::IpAddr;

use crate::record::{End, Record};
use crate::time::Millis;

/// Which mappings are searched for: those that fit all that is set, and that were open, or can have been
/// open, at some moment from `from` to `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The public address of either end.
    pub nat_ip: Option<IpAddr>,
    /// The public port of the same end.
    pub nat_port: Option<u16>,
    /// The IP protocol number.
    pub protocol: Option<u8>,
    /// The host that began the connection.
    pub src_ip: Option<IpAddr>,
    /// Its port.
    pub src_port: Option<u16>,
    /// The address that the connection was begun to. Records without a destination fit each.
    pub dst_ip: Option<IpAddr>,
    /// The port that the connection was begun to. Records without a destination fit each.
    pub dst_port: Option<u16>,
    /// The conntrack zone of either direction.
    pub zone: Option<u16>,
    /// The begin of the time.
    pub from: Millis,
    /// The end of the time, included.
    pub to: Millis,
}

impl Question {
    /// A question about all mappings of a time.
    pub fn about(from: Millis, to: Millis) -> Self {
        Self {
            nat_ip: None,
            nat_port: None,
            protocol: None,
            src_ip: None,
            src_port: None,
            dst_ip: None,
            dst_port: None,
            zone: None,
            from,
            to,
        }
    }

    /// Whether a mapping fits.
    pub fn fits(&self, record: &Record) -> bool {
        record.overlaps(self.from, self.to)
            && self.protocol.is_none_or(|protocol| protocol == record.protocol)
            && self.zone.is_none_or(|zone| zone == record.zone || zone == record.reply_zone)
            && is_end(self.src_ip, self.src_port, record.src)
            && record.dst.is_none_or(|dst| is_end(self.dst_ip, self.dst_port, dst))
            && self.fits_an_end(record)
    }

    fn fits_an_end(&self, record: &Record) -> bool {
        (self.nat_ip.is_none() && self.nat_port.is_none())
            || record.public_ends().any(|end| self.fits_public(end.public))
    }

    /// Whether a public end is one that the question means.
    pub fn fits_public(&self, public: End) -> bool {
        is_end(self.nat_ip, self.nat_port, public)
    }
}

fn is_end(ip: Option<IpAddr>, port: Option<u16>, end: End) -> bool {
    ip.is_none_or(|ip| ip == end.ip) && (port.is_none() || port == end.port)
}
