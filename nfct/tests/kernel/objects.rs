//! Conntrack objects and the real kernel: a created entry is read back attribute by attribute, by a query and
//! through the C library's callback.
//!
//! Needs root. Without it each test prints a message and does nothing.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use lab::in_fresh_namespace;
use lab::nft;
use lab::samples::tuple;
use nfct::attr::{self, Id};
use nfct::{
    Compare, Conntrack, DccpRole, DccpState, Direction, Groups, Handle, Labels, Layer4, Next, Protocol,
    Query, SctpState, Status, TcpFlags, TcpState, Tuple,
};

const LASTING: Duration = Duration::from_secs(300);
const KEPT: Status = Status(Status::ASSURED.0 | Status::SEEN_REPLY.0 | Status::CONFIRMED.0);

fn tcp(port: u16) -> Tuple {
    tuple(Protocol::Tcp, "10.0.0.1", "10.0.0.2", Layer4::Ports { src: port, dst: 21 })
}

fn created(original: &Tuple) -> Conntrack {
    let mut entry = Conntrack::new().unwrap();
    entry.set_original(original).unwrap().setup_reply().unwrap().set_timeout(LASTING);
    entry.set_status(KEPT);
    if original.protocol == Protocol::Tcp {
        entry.set_tcp_state(TcpState::Established);
    }
    entry
}

fn labels(bits: &[u16]) -> Labels {
    let mut labels = Labels::new(127).unwrap();
    for bit in bits {
        labels.set(*bit).unwrap();
    }
    labels
}

/// The kernel keeps labels only in namespaces with a rule that uses them.
fn keep_labels() {
    nft("table inet labels {\nchain incoming {\ntype filter hook input priority 0;\nct label set 1\n}\n}\n");
}

/// Attributes that the kernel accepts but never reports.
fn is_write_only(id: Id) -> bool {
    let name = id.name();
    ["_SNAT_", "_DNAT_", "_TCP_MASK_", "_SECMARK", "_LABELS_MASK"].iter().any(|part| name.contains(part))
}

/// Attributes that only kernels up to 6.17 keep.
fn is_of_dccp(id: Id) -> bool {
    id.name().starts_with("ATTR_DCCP_")
}

/// The attributes that `wanted` has, with the values of `found`.
fn as_far_as_in(wanted: &Conntrack, found: &Conntrack) -> Conntrack {
    let mut kept = Conntrack::new().unwrap();
    for id in wanted.attributes() {
        kept.copy(found, id);
    }
    // The timeout is running.
    assert!(found.timeout().is_some_and(|left| left <= LASTING && left > LASTING / 2), "{found:?}");
    kept.set_timeout(LASTING);
    kept
}

#[test]
fn every_attribute_that_the_kernel_keeps_is_read_back() {
    in_fresh_namespace(|| {
        keep_labels();
        let ports = |src, dst| Layer4::Ports { src, dst };
        let mut entries = Vec::new();
        let mut make = |original: Tuple, set: &dyn Fn(&mut Conntrack)| {
            let mut entry = created(&original);
            set(&mut entry);
            entries.push(entry);
        };
        make(tcp(1), &|entry| {
            entry.set_mark(u32::MAX).set_zone(5);
        });
        make(tcp(2), &|entry| {
            entry.set_helper("ftp").unwrap().set_labels(labels(&[1, 127]));
            entry.set(attr::SECMARK, 6).unwrap();
        });
        // The master must exist.
        make(tcp(3), &|entry| {
            entry.set_master(&tcp(2)).unwrap();
        });
        make(tcp(4), &|entry| {
            for (number, attribute) in
                (1..).zip([attr::SYNPROXY_ISN, attr::SYNPROXY_ITS, attr::SYNPROXY_TSOFF])
            {
                entry.set(attribute, number << 24).unwrap();
            }
        });
        make(tcp(5), &|entry| {
            entry.set(attr::ORIG_NAT_SEQ_CORRECTION_POS, 9).unwrap();
            entry.set(attr::ORIG_NAT_SEQ_OFFSET_BEFORE, -5).unwrap();
            entry.set(attr::ORIG_NAT_SEQ_OFFSET_AFTER, i32::MIN).unwrap();
            entry.set(attr::REPL_NAT_SEQ_CORRECTION_POS, u32::MAX).unwrap();
            entry.set(attr::REPL_NAT_SEQ_OFFSET_BEFORE, 0).unwrap();
            entry.set(attr::REPL_NAT_SEQ_OFFSET_AFTER, 7).unwrap();
            entry.set_status(KEPT | Status::SEQUENCE_ADJUSTED);
        });
        make(tcp(6), &|entry| {
            let flags = TcpFlags::WINDOW_SCALE | TcpFlags::SACK_PERMITTED;
            entry.set(attr::TCP_FLAGS_ORIG, flags).unwrap().set(attr::TCP_MASK_ORIG, TcpFlags(255)).unwrap();
            // The kernel accepts window scales only for both directions together.
            entry.set(attr::TCP_FLAGS_REPL, TcpFlags::WINDOW_SCALE | TcpFlags::BE_LIBERAL).unwrap();
            entry.set(attr::TCP_MASK_REPL, TcpFlags(255)).unwrap();
            entry.set(attr::TCP_WSCALE_ORIG, 7).unwrap().set(attr::TCP_WSCALE_REPL, 14).unwrap();
        });
        make(tcp(7), &|entry| {
            entry.set(attr::ORIG_ZONE, 6).unwrap();
        });
        make(tcp(8), &|entry| {
            entry.set(attr::REPL_ZONE, 7).unwrap();
        });
        make(tuple(Protocol::Sctp, "10.0.0.1", "10.0.0.2", ports(1, 2)), &|entry| {
            entry.set(attr::SCTP_STATE, SctpState::ShutdownSent).unwrap();
            entry.set(attr::SCTP_VTAG_ORIG, 0xdead).unwrap().set(attr::SCTP_VTAG_REPL, 0xbeef_0001).unwrap();
        });
        make(tuple(Protocol::Dccp, "10.0.0.1", "10.0.0.2", ports(1, 2)), &|entry| {
            entry
                .set(attr::DCCP_STATE, DccpState::Open)
                .unwrap()
                .set(attr::DCCP_ROLE, DccpRole::Server)
                .unwrap();
            entry.set(attr::DCCP_HANDSHAKE_SEQ, 1 << 40).unwrap();
        });
        let nothing = |_: &mut Conntrack| ();
        let echo = |kind| Layer4::Icmp { id: 7, kind, code: 0 };
        make(tuple(Protocol::Udp, "fd00::1", "fd00::2", ports(65535, 1)), &nothing);
        make(tuple(Protocol::UdpLite, "10.0.0.1", "10.0.0.2", ports(1, 2)), &nothing);
        make(tuple(Protocol::Gre, "10.0.0.1", "10.0.0.2", Layer4::Keys { src: 1, dst: 0 }), &nothing);
        make(tuple(Protocol::Other(89), "10.0.0.1", "10.0.0.2", Layer4::None), &nothing);
        make(tuple(Protocol::Icmp, "10.0.0.1", "10.0.0.2", echo(8)), &nothing);
        make(tuple(Protocol::Icmpv6, "fd00::1", "fd00::2", echo(128)), &nothing);

        let mut query = Query::open().unwrap();
        let mut lent = HashMap::new();
        for entry in &entries {
            query.create(entry).unwrap_or_else(|error| panic!("{error}: {entry:?}"));
        }
        let dump = |entry: &nfct::ConntrackRef| {
            lent.insert(entry.id().unwrap(), entry.to_owned());
            Next::Continue
        };
        Handle::open(Groups::NONE).unwrap().dump(nfct::Family::Any, dump).unwrap();
        assert_eq!(lent.len(), entries.len());

        for mut entry in entries {
            let mut original = entry.original().unwrap();
            // The query uses the zone of the original direction.
            original.zone = entry.zone().or(entry.get(attr::ORIG_ZONE)).unwrap_or(0);
            let found = query.get(Direction::Original, &original).unwrap().unwrap();
            for id in attr::all() {
                let not_kept = is_write_only(id) || (is_of_dccp(id) && !found.is_set(id));
                // A kernel without DCCP tracks it only by address.
                let no_ports = id.name().contains("_PORT_") && !found.is_set(id);
                if not_kept || (no_ports && original.protocol == Protocol::Dccp) {
                    entry.unset(id);
                }
            }
            // Bits that the kernel sets itself.
            for (cause, bit) in
                [(attr::HELPER_NAME.id(), Status::HELPER), (attr::MASTER_L3PROTO.id(), Status::EXPECTED)]
            {
                if entry.is_set(cause) {
                    let status = entry.status().unwrap() | bit;
                    entry.set_status(status);
                }
            }
            let wanted = format!("{entry:?}");
            assert_eq!(format!("{:?}", as_far_as_in(&entry, &found)), wanted);
            let lent = &lent[&found.id().unwrap()];
            assert_eq!(format!("{:?}", as_far_as_in(&entry, lent)), wanted, "through the callback");
            assert!(lent.compare(&found, Compare::ORIGINAL | Compare::REPLY | Compare::STRICT));
        }
    });
}

#[test]
fn the_kernel_applies_the_nat_of_a_new_entry() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        let udp = |address: &str, server: &str| {
            tuple(Protocol::Udp, address, server, Layer4::Ports { src: 1000, dst: 53 })
        };
        for (inside, server, public, port) in [
            ("10.0.0.1", "10.0.0.2", "203.0.113.9", Some(5000)),
            ("10.0.0.3", "10.0.0.2", "203.0.113.9", None),
            ("fd00::1", "fd00::2", "2001:db8::9", Some(5000)),
        ] {
            let original = udp(inside, server);
            let public = public.parse().unwrap();
            let mut check = |entry: &Conntrack, source: bool| {
                query.create(entry).unwrap();
                let flow = query.get_by_original(&original).unwrap().unwrap();
                let found = query.get(Direction::Original, &original).unwrap().unwrap();
                let Layer4::Ports { src, dst } = flow.reply.layer4 else { panic!("{flow:?}") };
                if source {
                    assert_eq!((flow.reply.dst, dst), (public, port.unwrap_or(1000)));
                } else {
                    assert_eq!((flow.reply.src, src), (public, port.unwrap_or(53)));
                }
                let nat = (found.is_source_nat(), found.is_destination_nat());
                assert_eq!(nat, (source, !source), "{found:?}");
                let ports = (found.is_source_port_nat(), found.is_destination_port_nat());
                assert_eq!(ports, (source && port.is_some(), !source && port.is_some()), "{found:?}");
                assert!(query.delete(&found).unwrap());
                found
            };
            let found = check(created(&original).set_source_nat(public, port), true);
            check(created(&original).set_destination_nat(public, port), false);
            // The entry is created again after undoing its NAT.
            let mut again = created(&original);
            again.copy_from(&found, nfct::CopyParts::REPLY).undo_source_nat().undo_source_port_nat();
            check(&again, true);
        }
    });
}

#[test]
fn a_mask_selects_the_labels_to_change_and_timestamps_are_current() {
    in_fresh_namespace(|| {
        keep_labels();
        std::fs::write("/proc/sys/net/netfilter/nf_conntrack_timestamp", "1").unwrap();
        std::fs::write("/proc/sys/net/netfilter/nf_conntrack_acct", "1").unwrap();
        let mut query = Query::open().unwrap();
        let before = SystemTime::now();
        query.create(created(&tcp(1)).set_labels(labels(&[1, 127]))).unwrap();

        let mut change = Conntrack::new().unwrap();
        change.set_original(&tcp(1)).unwrap().set_labels(labels(&[2]));
        change.set(attr::CONNLABELS_MASK, labels(&[1, 2, 3])).unwrap();
        query.update(&change).unwrap();
        let found = query.get(Direction::Original, &tcp(1)).unwrap().unwrap();
        assert_eq!(found.labels().unwrap().iter().collect::<Vec<_>>(), [2, 127]);

        query.update(change.unset(attr::CONNLABELS_MASK)).unwrap();
        let found = query.get(Direction::Original, &tcp(1)).unwrap().unwrap();
        assert_eq!(found.labels().unwrap().iter().collect::<Vec<_>>(), [2], "all without a mask");

        // The kernel's clock differs from this one: the test checks the unit.
        let started = found.started().unwrap();
        let minute = Duration::from_secs(60);
        assert!(started > before - minute && started < SystemTime::now() + minute, "{started:?}");
        for direction in [Direction::Original, Direction::Reply] {
            assert_eq!(found.counters(direction), Some(nfct::Counters::default()));
        }
        let view = found.view();
        assert_eq!((view.original, view.labels, view.mark), (Some(tcp(1)), Some(vec![2]), Some(0)));
    });
}
