//! Messages as the kernel sends them, and damaged ones, which never crash the process.

use std::time::Duration;

use nfct::attr::{self};
use nfct::{Conntrack, CopyParts, Error, Family, Labels, Layer4, Output, Protocol, Status, TcpState, Tuple};
use proptest::prelude::*;

use super::assignments::cases;

/// One attribute of a netlink message.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The kernel's numbers, `enum ctattr_type` and what nests in it.
pub(super) mod kernel {
    pub(crate) const COUNTERS_ORIG: u16 = 9;
    pub(crate) const COUNTERS_REPLY: u16 = 10;
    pub(crate) const USE: u16 = 11;
    pub(crate) const SECCTX: u16 = 19;
    pub(crate) const TIMESTAMP: u16 = 20;
    pub(crate) const HELP: u16 = 5;
    pub(crate) const LABELS: u16 = 22;
    pub(crate) const TIMESTAMP_EVENT: u16 = 27;
}

pub(super) fn read_only_attributes(values: &[u64; 6]) -> Vec<u8> {
    let number = |kind, value: u64| attribute(kind, &value.to_be_bytes());
    let two = |a, b| [number(1, a), number(2, b)].concat();
    [
        attribute(kernel::COUNTERS_ORIG, &two(values[0], values[1])),
        attribute(kernel::COUNTERS_REPLY, &two(values[2], values[3])),
        attribute(kernel::USE, &(values[4] as u32).to_be_bytes()),
        attribute(kernel::SECCTX, &attribute(1, b"system_u:object_r:unlabeled_t\0")),
        // The library treats times as signed.
        attribute(kernel::TIMESTAMP, &two(values[5] >> 1, values[4] >> 1)),
    ]
    .concat()
}

/// Attributes of all kinds.
pub(super) fn full_attributes() -> Vec<u8> {
    let mut entry = Conntrack::new().unwrap();
    let ports = |src, dst| Layer4::Ports { src, dst };
    let tuple = |layer4| Tuple {
        src: [10, 0, 0, 1].into(),
        dst: [10, 0, 0, 2].into(),
        protocol: Protocol::Tcp,
        layer4,
        zone: 0,
    };
    entry.set_tuples(&tuple(ports(1, 2)), &tuple(ports(2, 1))).unwrap();
    entry.set_master(&tuple(ports(3, 21))).unwrap();
    entry.set_status(Status::ASSURED).set_timeout(Duration::from_secs(5)).set_mark(6).set_zone(7);
    entry.set_tcp_state(TcpState::Established).set_helper("ftp").unwrap();
    let mut labels = Labels::new(127).unwrap();
    labels.set(3).unwrap();
    entry.set_labels(labels);
    entry.set(attr::HELPER_INFO, vec![1; 32]).unwrap();
    for attribute in [attr::SYNPROXY_ISN, attr::SYNPROXY_ITS, attr::SYNPROXY_TSOFF, attr::SECMARK] {
        entry.set(attribute, 9).unwrap();
    }
    entry.set(attr::ORIG_NAT_SEQ_CORRECTION_POS, 1).unwrap();
    for attribute in [attr::ORIG_NAT_SEQ_OFFSET_BEFORE, attr::ORIG_NAT_SEQ_OFFSET_AFTER] {
        entry.set(attribute, -1).unwrap();
    }
    let mut bytes = entry.to_message().unwrap().split_off(20);
    bytes.extend(read_only_attributes(&[1, 2, 3, 4, 5, 6]));
    bytes
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn no_bytes_crash_the_process(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Conntrack::parse(&bytes);
        let _ = Conntrack::parse_attributes(&bytes, Family::Ipv4);
        let mut message = vec![0; 20];
        message.extend(&bytes);
        let length = (message.len() as u32).to_ne_bytes();
        message[..4].copy_from_slice(&length);
        let _ = Conntrack::parse(&message);
    }

    #[test]
    fn no_damaged_message_crashes_the_process(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = full_attributes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            if let Ok(entry) = Conntrack::parse_attributes(bytes, Family::Ipv4) {
                // A parsed entry can be copied, printed, serialized and parsed again.
                let copy = entry.clone();
                assert!(copy.attributes().eq(entry.attributes()));
                let _ = (entry.print(&Output::plain().timestamps()), entry.print(&Output::xml()));
                let _ = (entry.view(), format!("{entry:?}"));
                let mut other = Conntrack::new().unwrap();
                other.copy_from(&entry, CopyParts::ALL);
                if let Ok(message) = other.to_message() {
                    Conntrack::parse(&message).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_wrong_length_or_size_is_malformed() {
    assert!(Conntrack::parse(&[]).is_err());
    assert!(Conntrack::parse(&[255; 19]).is_err());
    let mut long = [0_u8; 64];
    long[..4].copy_from_slice(&65_u32.to_ne_bytes());
    assert!(Conntrack::parse(&long).is_err());
    let read = |bytes: &[u8]| Conntrack::parse_attributes(bytes, Family::Ipv4).map(|_| ());
    for bad in [
        attribute(kernel::USE, &[1, 2, 3]),
        attribute(kernel::COUNTERS_ORIG, &attribute(1, &[1; 7])),
        attribute(kernel::SECCTX, &attribute(1, b"no zero at its end")),
        attribute(kernel::HELP, &attribute(1, b"")),
        attribute(kernel::LABELS, &vec![0; 8193]),
    ] {
        assert!(matches!(read(&bad), Err(Error::Malformed { .. })), "{bad:?}");
    }
    read(&attribute(kernel::LABELS, &[255; 8192])).unwrap();
    read(&full_attributes()).unwrap();
}
