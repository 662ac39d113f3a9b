//! Both readers, this one and the C library's, read back what is written, and no message makes this one
//! panic.

use std::net::IpAddr;

use nfct_sys as sys;

use super::*;
use crate::tuple::{Layer4, Protocol, Tuple};

fn tuples() -> Vec<Tuple> {
    let v4 = |text: &str| text.parse::<IpAddr>().unwrap();
    let (a, b) = (v4("192.168.7.2"), v4("198.51.100.1"));
    let (c, d) = (v4("fd00:7::2"), v4("2001:db8::1"));
    vec![
        Tuple {
            src: a,
            dst: b,
            protocol: Protocol::Tcp,
            layer4: Layer4::Ports { src: 65535, dst: 1 },
            zone: 0,
        },
        Tuple {
            src: c,
            dst: d,
            protocol: Protocol::Udp,
            layer4: Layer4::Ports { src: 0, dst: 53 },
            zone: 65535,
        },
        Tuple {
            src: a,
            dst: b,
            protocol: Protocol::Icmp,
            layer4: Layer4::Icmp { id: 7, kind: 8, code: 0 },
            zone: 3,
        },
        Tuple {
            src: c,
            dst: d,
            protocol: Protocol::Icmpv6,
            layer4: Layer4::Icmp { id: 65535, kind: 128, code: 255 },
            zone: 0,
        },
        Tuple { src: a, dst: b, protocol: Protocol::Gre, layer4: Layer4::Keys { src: 1, dst: 2 }, zone: 0 },
        Tuple { src: a, dst: b, protocol: Protocol::Other(50), layer4: Layer4::None, zone: 0 },
    ]
}

fn message(original: &Tuple, reply: &Tuple) -> Vec<u8> {
    // The C library takes the family from the message, not from the tuple.
    let family = if original.src.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut request = MessageWriter::new(sys::IPCTNL_MSG_CT_NEW, 0, 1, family as u8);
    request.tuple(sys::CTA_TUPLE_ORIG, original).tuple(sys::CTA_TUPLE_REPLY, reply);
    request.attribute(sys::CTA_ID, &0xdead_beef_u32.to_be_bytes());
    request.attribute(sys::CTA_MARK, &7_u32.to_be_bytes());
    request.nested(sys::CTA_TIMESTAMP, |request| {
        request.attribute(sys::CTA_TIMESTAMP_START, &u64::MAX.to_be_bytes());
    });
    request.finish()
}

#[test]
fn what_is_written_is_read_back() {
    for tuple in tuples() {
        let bytes = message(&tuple, &tuple);
        let message = Messages::new(&bytes).next().unwrap().unwrap();
        assert_eq!(message.kind, message_kind(sys::IPCTNL_MSG_CT_NEW));
        let flow = message.flow().unwrap();
        assert_eq!((flow.original, flow.reply), (tuple, tuple));
        assert_eq!((flow.id, flow.mark, flow.start), (0xdead_beef, 7, Some(u64::MAX)));
    }
}

#[test]
fn the_c_library_reads_the_same() {
    for tuple in tuples() {
        let bytes = message(&tuple, &tuple);
        let theirs = crate::Conntrack::parse(&bytes).unwrap();
        let ours = Messages::new(&bytes).next().unwrap().unwrap().flow().unwrap();
        assert_eq!((theirs.original(), theirs.reply()), (Some(ours.original), Some(ours.reply)));
        assert_eq!((theirs.id(), theirs.mark()), (Some(ours.id), Some(ours.mark)));
    }
}

#[test]
fn no_truncated_and_no_changed_message_makes_it_panic() {
    for tuple in tuples() {
        let complete = message(&tuple, &tuple);
        for end in 0..complete.len() {
            for message in Messages::new(&complete[..end]).flatten() {
                let _ = message.flow();
            }
        }
        for at in 0..complete.len() {
            for value in [0, 1, 3, 4, 0x7f, 0x80, 0xff] {
                let mut bytes = complete.clone();
                bytes[at] = value;
                for message in Messages::new(&bytes).flatten() {
                    let _ = message.flow();
                    let _ = message.errno();
                }
            }
        }
    }
}

#[test]
fn a_truncated_message_is_an_error_and_not_an_entry() {
    let tuple = tuples()[0];
    let complete = message(&tuple, &tuple);
    assert_eq!(Messages::new(&complete[..complete.len() - 4]).next(), Some(Err(Malformed::Length)));
    let mut request = MessageWriter::new(sys::IPCTNL_MSG_CT_NEW, 0, 1, libc::AF_INET as u8);
    request.tuple(sys::CTA_TUPLE_ORIG, &tuple);
    let bytes = request.finish();
    assert_eq!(Messages::new(&bytes).next().unwrap().unwrap().flow(), Err(Malformed::NoTuple));
}

#[test]
fn the_kernels_form_and_any_other_order_of_attributes_mean_the_same() {
    let tuple = tuples()[0];
    let (src, dst) = ([192, 168, 7, 2], [198, 51, 100, 1]);
    let reordered = |request: &mut MessageWriter, kind| {
        request.nested(kind, |request| {
            request.nested(sys::CTA_TUPLE_PROTO, |request| {
                request.attribute(sys::CTA_PROTO_DST_PORT, &1_u16.to_be_bytes());
                request.attribute(sys::CTA_PROTO_SRC_PORT, &65535_u16.to_be_bytes());
                request.attribute(sys::CTA_PROTO_NUM, &[6]);
            });
            request.nested(sys::CTA_TUPLE_IP, |request| {
                request.attribute(sys::CTA_IP_V4_DST, &dst).attribute(sys::CTA_IP_V4_SRC, &src);
            });
        });
    };
    // `None` stands for the kernel's form.
    for order in [None, Some(false), Some(true)] {
        let mut request = MessageWriter::new(sys::IPCTNL_MSG_CT_NEW, 0, 1, libc::AF_INET as u8);
        if order.is_some() {
            reordered(&mut request, sys::CTA_TUPLE_ORIG);
            reordered(&mut request, sys::CTA_TUPLE_REPLY);
        } else {
            request.tuple(sys::CTA_TUPLE_ORIG, &tuple).tuple(sys::CTA_TUPLE_REPLY, &tuple);
        }
        request.nested(sys::CTA_PROTOINFO, |request| {
            request.nested(sys::CTA_PROTOINFO_TCP, |request| {
                if order == Some(true) {
                    request.attribute(sys::CTA_PROTOINFO_TCP_FLAGS_REPLY, &[0; 2]);
                }
                request.attribute(sys::CTA_PROTOINFO_TCP_STATE, &[3]);
                request.attribute(sys::CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, &[7]);
                request.attribute(sys::CTA_PROTOINFO_TCP_WSCALE_REPLY, &[8]);
                request.attribute(sys::CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, &[1, 2]);
                if order != Some(true) {
                    request.attribute(sys::CTA_PROTOINFO_TCP_FLAGS_REPLY, &[0; 2]);
                }
            });
        });
        let bytes = request.finish();
        let flow = Messages::new(&bytes).next().unwrap().unwrap().flow().unwrap();
        assert_eq!((flow.original, flow.reply), (tuple, tuple), "{order:?}");
        assert_eq!(flow.tcp_state, Some(crate::TcpState::from(3)), "{order:?}");
    }
}

#[test]
fn events_survive_the_round_trip() {
    use crate::{Counters, Event, EventKind, Flow, Status, TcpState};
    for tuple in tuples() {
        for (zone, reply_zone) in [(0, 0), (7, 7), (0, 9), (9, 0), (1, 65535)] {
            for kind in [EventKind::New, EventKind::Update, EventKind::Destroy] {
                let flow = Flow {
                    original: Tuple { zone, ..tuple },
                    reply: Tuple { zone: reply_zone, ..tuple },
                    id: u32::MAX,
                    status: Status(0x1a8),
                    mark: u32::from(zone),
                    timeout: Some(120).filter(|_| zone == 0),
                    start: Some(1).filter(|_| zone > 0),
                    stop: Some(u64::MAX).filter(|_| reply_zone > 0),
                    tcp_state: Some(TcpState::Other(255)).filter(|_| zone == 0),
                    counters_original: Some(Counters { packets: 0, bytes: u64::MAX }).filter(|_| zone > 0),
                    counters_reply: Some(Counters { packets: u64::MAX, bytes: 1 }).filter(|_| reply_zone > 0),
                };
                let bytes = write_event(&Event { kind, flow });
                let message = Messages::new(&bytes).next().unwrap().unwrap();
                assert_eq!(EventKind::of(&message), Some(kind));
                assert_eq!(message.flow().unwrap(), flow);
            }
        }
    }
}
