//! Every attribute that can be set, with any value, for the property tests.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nfct::attr::{self, Attribute, Id};
use nfct::{
    Conntrack, ConntrackRef, DccpRole, DccpState, Labels, Layer3, Layer4, Protocol, SctpState, Status,
    TcpFlags, TcpState, Tuple,
};
use proptest::prelude::*;

/// One attribute and a value for it.
pub(super) struct Assignment {
    pub(super) id: Id,
    text: String,
    set: Box<dyn Fn(&mut Conntrack)>,
    pub(super) holds: Box<dyn Fn(&ConntrackRef) -> bool>,
}

impl Debug for Assignment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {}", self.id, self.text)
    }
}

pub(super) fn with<T: Clone + Debug + PartialEq + 'static>(
    attribute: Attribute<T>,
    values: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Assignment> {
    let assignment = move |value: T| {
        let (wanted, text) = (value.clone(), format!("{value:?}"));
        Assignment {
            id: attribute.id(),
            text,
            set: Box::new(move |entry| {
                entry.set(attribute, value.clone()).unwrap();
            }),
            holds: Box::new(move |entry| entry.get(attribute).as_ref() == Some(&wanted)),
        }
    };
    values.prop_map(assignment).boxed()
}

pub(super) fn numbered<T: From<u8> + Debug>() -> impl Strategy<Value = T> {
    any::<u8>().prop_map(T::from)
}

pub(super) fn labels() -> impl Strategy<Value = Labels> {
    (any::<u16>(), prop::collection::vec(any::<u16>(), 0..6)).prop_map(|(highest, bits)| {
        let mut labels = Labels::new(highest).unwrap();
        for bit in bits {
            labels.set(bit % highest.max(1)).unwrap();
        }
        labels
    })
}

/// Every attribute that can be set, with every value that it can have.
pub(super) fn assignments() -> Vec<BoxedStrategy<Assignment>> {
    use attr::*;
    let seconds = || any::<u32>().prop_map(|seconds| Duration::from_secs(seconds.into()));
    let flags = || any::<u8>().prop_map(TcpFlags);
    let mut all = Vec::new();
    for attribute in [
        ORIG_IPV4_SRC,
        ORIG_IPV4_DST,
        REPL_IPV4_SRC,
        REPL_IPV4_DST,
        MASTER_IPV4_SRC,
        MASTER_IPV4_DST,
        SNAT_IPV4,
        DNAT_IPV4,
    ] {
        all.push(with(attribute, any::<Ipv4Addr>()));
    }
    for attribute in [
        ORIG_IPV6_SRC,
        ORIG_IPV6_DST,
        REPL_IPV6_SRC,
        REPL_IPV6_DST,
        MASTER_IPV6_SRC,
        MASTER_IPV6_DST,
        SNAT_IPV6,
        DNAT_IPV6,
    ] {
        all.push(with(attribute, any::<Ipv6Addr>()));
    }
    for attribute in [
        ORIG_PORT_SRC,
        ORIG_PORT_DST,
        REPL_PORT_SRC,
        REPL_PORT_DST,
        MASTER_PORT_SRC,
        MASTER_PORT_DST,
        ICMP_ID,
        SNAT_PORT,
        DNAT_PORT,
        ZONE,
        ORIG_ZONE,
        REPL_ZONE,
    ] {
        all.push(with(attribute, any::<u16>()));
    }
    for attribute in [ORIG_L3PROTO, REPL_L3PROTO, MASTER_L3PROTO] {
        all.push(with(attribute, numbered::<Layer3>()));
    }
    for attribute in [ORIG_L4PROTO, REPL_L4PROTO, MASTER_L4PROTO] {
        all.push(with(attribute, numbered::<Protocol>()));
    }
    for attribute in [ICMP_TYPE, ICMP_CODE, TCP_WSCALE_ORIG, TCP_WSCALE_REPL] {
        all.push(with(attribute, any::<u8>()));
    }
    for attribute in [TCP_FLAGS_ORIG, TCP_FLAGS_REPL, TCP_MASK_ORIG, TCP_MASK_REPL] {
        all.push(with(attribute, flags()));
    }
    for attribute in [
        MARK,
        SECMARK,
        ID,
        SCTP_VTAG_ORIG,
        SCTP_VTAG_REPL,
        ORIG_NAT_SEQ_CORRECTION_POS,
        REPL_NAT_SEQ_CORRECTION_POS,
        SYNPROXY_ISN,
        SYNPROXY_ITS,
        SYNPROXY_TSOFF,
    ] {
        all.push(with(attribute, any::<u32>()));
    }
    for attribute in [
        ORIG_NAT_SEQ_OFFSET_BEFORE,
        ORIG_NAT_SEQ_OFFSET_AFTER,
        REPL_NAT_SEQ_OFFSET_BEFORE,
        REPL_NAT_SEQ_OFFSET_AFTER,
    ] {
        all.push(with(attribute, any::<i32>()));
    }
    for attribute in [CONNLABELS, CONNLABELS_MASK] {
        all.push(with(attribute, labels()));
    }
    all.extend([
        with(TCP_STATE, numbered::<TcpState>()),
        with(SCTP_STATE, numbered::<SctpState>()),
        with(DCCP_STATE, numbered::<DccpState>()),
        with(DCCP_ROLE, numbered::<DccpRole>()),
        with(DCCP_HANDSHAKE_SEQ, any::<u64>()),
        with(TIMEOUT, seconds()),
        with(STATUS, any::<u32>().prop_map(Status)),
        with(HELPER_NAME, "[a-zA-Z0-9.<&-]{0,15}"),
        with(HELPER_INFO, prop::collection::vec(any::<u8>(), 0..100)),
    ]);
    all
}

/// Whether only one of two attributes can be set, judged by their names: the kernel has one of them
/// per entry.
pub(super) fn exclude_each_other(a: Id, b: Id) -> bool {
    fn kind(id: Id) -> (&'static str, String) {
        let name = id.name().trim_start_matches("ATTR_");
        for family in ["_IPV4", "_IPV6"] {
            if name.contains(family) {
                return (family, name.replace(family, ""));
            }
        }
        let tuple_port = name.starts_with("ORIG_PORT") || name.starts_with("REPL_PORT");
        match name.split('_').next() {
            _ if tuple_port => ("ports", "layer4".to_owned()),
            Some("ICMP") => ("icmp", "layer4".to_owned()),
            Some(protocol @ ("TCP" | "SCTP" | "DCCP")) => (protocol, "state".to_owned()),
            _ => ("", name.to_owned()),
        }
    }
    let ((kind_a, place_a), (kind_b, place_b)) = (kind(a), kind(b));
    place_a == place_b && kind_a != kind_b
}

pub(super) fn several() -> impl Strategy<Value = Vec<Assignment>> {
    prop::collection::vec(prop::strategy::Union::new(assignments()), 1..60)
}

/// Sets them all, and returns those that are still set afterwards.
pub(super) fn apply(assignments: &[Assignment]) -> (Conntrack, BTreeMap<Id, &Assignment>) {
    let mut entry = Conntrack::new().unwrap();
    let mut held = BTreeMap::new();
    for assignment in assignments {
        (assignment.set)(&mut entry);
        held.retain(|id, _| !exclude_each_other(*id, assignment.id));
        held.insert(assignment.id, assignment);
    }
    (entry, held)
}

pub(super) fn assert_holds(entry: &ConntrackRef, held: &BTreeMap<Id, &Assignment>) {
    assert!(entry.attributes().eq(held.keys().copied()), "{entry:?} should have {held:?}");
    for assignment in held.values() {
        assert!((assignment.holds)(entry), "{entry:?} should have {assignment:?}");
    }
    assert!(entry.are_set(&held.keys().copied().collect::<Vec<_>>()));
}

/// The number of cases: `PROPTEST_CASES`, for a slow checker, or `usual`.
pub(super) fn cases(usual: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|number| number.parse().ok());
    ProptestConfig::with_cases(cases.unwrap_or(usual))
}

pub(super) fn tuple(src: &str, dst: &str, protocol: Protocol, layer4: Layer4, zone: u16) -> Tuple {
    Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), protocol, layer4, zone }
}

pub(super) const fn ports(src: u16, dst: u16) -> Layer4 {
    Layer4::Ports { src, dst }
}
