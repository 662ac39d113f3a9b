//! Plain values through `serde`: they have the documented shapes and are read back.
#![cfg(feature = "serde")]

use std::time::Duration;

use nfct::{
    Conntrack, Counters, DccpState, Event, EventKind, Flow, Labels, Layer3, Layer4, Protocol, SctpState,
    Status, TcpFlags, TcpState, Tuple, View, attr,
};
use proptest::prelude::*;
use serde_json::{Value, from_value, json, to_value};

fn tuple(protocol: Protocol, layer4: Layer4) -> Tuple {
    Tuple { src: [10, 0, 0, 1].into(), dst: [192, 0, 2, 1].into(), protocol, layer4, zone: 0 }
}

/// Checks that a value serializes to `shape` and is read back unchanged.
fn assert_shape<T>(value: &T, shape: Value)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    assert_eq!(to_value(value).unwrap(), shape);
    assert_eq!(&from_value::<T>(shape).unwrap(), value);
}

#[test]
fn values_have_the_shapes_that_are_documented() {
    assert_shape(&Protocol::Tcp, json!("tcp"));
    assert_shape(&Protocol::Other(89), json!(89));
    assert_shape(&Layer3::Ipv6, json!("ipv6"));
    assert_shape(&TcpState::TimeWait, json!("TIME_WAIT"));
    assert_shape(&SctpState::Other(200), json!(200));
    assert_shape(&Status(14), json!(14));
    assert_shape(&TcpFlags(3), json!(3));
    assert_shape(&EventKind::Destroy, json!("destroy"));
    assert_shape(&Layer4::Icmp { id: 7, kind: 8, code: 0 }, json!({"icmp": {"id": 7, "kind": 8, "code": 0}}));
    assert_shape(&Layer4::Keys { src: 1, dst: 2 }, json!({"keys": {"src": 1, "dst": 2}}));
    assert_shape(&Layer4::None, json!("none"));
    let original = json!({
        "src": "10.0.0.1", "dst": "192.0.2.1", "protocol": "udp",
        "layer4": {"ports": {"src": 40000, "dst": 53}}, "zone": 0,
    });
    let udp = tuple(Protocol::Udp, Layer4::Ports { src: 40000, dst: 53 });
    assert_shape(&udp, original.clone());
    let mut flow = Flow::new(udp, udp);
    (flow.id, flow.status, flow.mark) = (1, Status(2), 3);
    (flow.timeout, flow.start, flow.tcp_state) = (Some(4), Some(5), Some(TcpState::Established));
    flow.counters_reply = Some(Counters { packets: 6, bytes: 7 });
    let shape = json!({
        "original": original, "reply": original, "id": 1, "status": 2, "mark": 3, "timeout": 4,
        "start": 5, "stop": null, "tcp_state": "ESTABLISHED",
        "counters_original": null, "counters_reply": {"packets": 6, "bytes": 7},
    });
    assert_shape(&flow, shape.clone());
    assert_shape(&Event::new(EventKind::New, flow), json!({"kind": "new", "flow": shape}));
}

#[test]
fn a_view_has_what_is_set_and_nothing_else() {
    let mut entry = Conntrack::new().unwrap();
    assert_shape(&entry.view(), json!({}));
    let udp = tuple(Protocol::Udp, Layer4::Ports { src: 40000, dst: 53 });
    entry.set_original(&udp).unwrap().set_timeout(Duration::from_secs(9)).set_helper("ftp").unwrap();
    let mut labels = Labels::new(127).unwrap();
    labels.set(1).unwrap().set(127).unwrap();
    entry.set_labels(labels).set(attr::HELPER_INFO, vec![1, 2]).unwrap();
    entry.set(attr::DCCP_STATE, DccpState::Open).unwrap().set(attr::REPL_NAT_SEQ_OFFSET_AFTER, -1).unwrap();
    entry.set(attr::SYNPROXY_ISN, 0).unwrap();
    let shape = json!({
        "original": to_value(udp).unwrap(), "timeout": 9, "helper": "ftp", "helper_info": [1, 2],
        "labels": [1, 127], "dccp": {"state": "OPEN"}, "sequence_reply": {"after": -1},
        "syn_proxy": {"initial_sequence": 0},
    });
    assert_shape(&entry.view(), shape);
    // A value of a later release, with an unknown field.
    assert_eq!(from_value::<View>(json!({"mark": 7, "later": true})).unwrap().mark, Some(7));
}

#[test]
fn an_invalid_value_is_refused_with_what_is_expected() {
    for (bad, text) in [
        (json!("tpc"), "invalid value: string \"tpc\", expected a name, or a number from 0 to 255"),
        (json!(256), "invalid value: integer `256`, expected a name, or a number from 0 to 255"),
        (json!(-1), "invalid type: integer `-1`, expected a name, or a number from 0 to 255"),
        (json!(null), "invalid type: null, expected a name, or a number from 0 to 255"),
    ] {
        assert_eq!(from_value::<Protocol>(bad).unwrap_err().to_string(), text);
    }
}

proptest! {
    #[test]
    fn every_flow_is_read_as_it_was_written(
        (number, v6, octets) in any::<(u8, bool, [[u8; 16]; 2])>(),
        (src, dst, zone) in any::<(u16, u16, u16)>(),
        (id, status, mark) in any::<(u32, u32, u32)>(),
        (timeout, start, stop) in any::<(Option<u32>, Option<u64>, Option<u64>)>(),
    ) {
        let address = |octets: [u8; 16]| match v6 {
            true => octets.into(),
            false => [octets[0], octets[1], octets[2], octets[3]].into(),
        };
        let protocol = Protocol::from(number);
        let layer4 = match protocol {
            Protocol::Icmp | Protocol::Icmpv6 => Layer4::Icmp { id: src, kind: dst as u8, code: number },
            Protocol::Gre => Layer4::Keys { src, dst },
            Protocol::Other(_) => Layer4::None,
            _ => Layer4::Ports { src, dst },
        };
        let original = Tuple { src: address(octets[0]), dst: address(octets[1]), protocol, layer4, zone };
        let reply = Tuple { src: original.dst, dst: original.src, ..original };
        let mut flow = Flow::new(original, reply);
        (flow.id, flow.status, flow.mark) = (id, Status(status), mark);
        (flow.timeout, flow.start, flow.stop) = (timeout, start, stop);
        flow.tcp_state = timeout.map(|state| TcpState::from(state as u8));
        flow.counters_original = start.zip(stop).map(|(packets, bytes)| Counters { packets, bytes });
        let text = serde_json::to_string(&flow).unwrap();
        prop_assert_eq!(serde_json::from_str::<Flow>(&text).unwrap(), flow);
        let bytes = postcard::to_allocvec(&flow).unwrap();
        prop_assert!(bytes.len() < text.len());
        prop_assert_eq!(postcard::from_bytes::<Flow>(&bytes).unwrap(), flow);

        let mut entry = Conntrack::new().unwrap();
        entry.set_tuples(&original, &reply).unwrap().set_mark(mark).set_tcp_state(number);
        let view = entry.view();
        prop_assert_eq!(serde_json::from_str::<View>(&serde_json::to_string(&view).unwrap()).unwrap(), view);
    }
}
