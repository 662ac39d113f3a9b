//! What only the inside can tell; the rest is in `tests/objects.rs`.

use super::*;
use crate::state::Status;
use crate::tuple::{Layer4, Protocol, Tuple};
use std::time::Duration;

fn tuple(src: &str, dst: &str, protocol: Protocol, layer4: Layer4, zone: u16) -> Tuple {
    Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), protocol, layer4, zone }
}

#[test]
fn huge_and_odd_values_come_back_as_they_were_set() {
    let ports = |src, dst| Layer4::Ports { src, dst };
    let cases = [
        tuple("255.255.255.255", "0.0.0.0", Protocol::Tcp, ports(65535, 0), 0),
        tuple("ffff::ffff", "::", Protocol::Udp, ports(0, 65535), 65535),
        tuple("10.0.0.1", "10.0.0.2", Protocol::Gre, Layer4::Keys { src: 65535, dst: 1 }, 1),
        tuple("10.0.0.1", "10.0.0.2", Protocol::Icmp, Layer4::Icmp { id: 65535, kind: 8, code: 255 }, 0),
        tuple("10.0.0.1", "10.0.0.2", Protocol::Other(255), Layer4::None, 0),
    ];
    for case in cases {
        let mut entry = Conntrack::new().unwrap();
        assert_eq!(entry.original(), None);
        entry.set_tuples(&case, &case).set_mark(u32::MAX).set_status(Status(u32::MAX));
        entry.set_timeout(Duration::MAX).set_tcp_state(255);
        assert_eq!(entry.original(), Some(case));
        assert_eq!(entry.reply(), Some(case));
        assert_eq!(entry.mark(), Some(u32::MAX));
        assert_eq!(entry.timeout(), Some(Duration::from_secs(u32::MAX.into())));
        assert!(entry.status().unwrap().is_dying());
    }
}

#[test]
fn a_zone_of_one_direction_stays_there() {
    let original = tuple("10.0.0.1", "10.0.0.2", Protocol::Udp, Layer4::Ports { src: 1, dst: 2 }, 9);
    let reply = Tuple { zone: 0, ..original };
    let mut entry = Conntrack::new().unwrap();
    entry.set_tuples(&original, &reply);
    assert_eq!((entry.original().unwrap().zone, entry.reply().unwrap().zone), (9, 0));
}

#[test]
fn a_message_with_a_wrong_length_never_reaches_the_library() {
    assert!(Conntrack::parse(&[]).is_err());
    assert!(Conntrack::parse(&[255; 19]).is_err());
    let mut long = [0_u8; 64];
    long[..4].copy_from_slice(&65_u32.to_ne_bytes());
    assert!(Conntrack::parse(&long).is_err());
}
