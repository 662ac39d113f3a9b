//! Events as the kernel sends them, written for tests and replays.

use nfct_sys as sys;

use super::request::MessageWriter;
use crate::event::{Event, EventKind};
use crate::flow::Counters;
use crate::tuple::Tuple;

/// Writes an event as the kernel sends it, for tests and replays.
/// [`Message::flow`](super::Message::flow) reads it back.
///
/// ```
/// use nfct::wire::{Messages, write_event};
/// # let flow = nfct::Flow::new(
/// #     nfct::Tuple::udp(([192, 168, 7, 2], 40000), ([198, 51, 100, 1], 53)),
/// #     nfct::Tuple::udp(([198, 51, 100, 1], 53), ([203, 0, 113, 9], 51000)),
/// # );
/// let bytes = write_event(&nfct::Event::new(nfct::EventKind::New, flow));
/// for message in Messages::new(&bytes) {
///     assert_eq!(message?.flow()?, flow);
/// }
/// # Ok::<_, nfct::wire::Malformed>(())
/// ```
pub fn write_event(event: &Event) -> Vec<u8> {
    let flow = &event.flow;
    let (message, flags) = match event.kind {
        EventKind::New => (sys::IPCTNL_MSG_CT_NEW, sys::NLM_F_CREATE | sys::NLM_F_EXCL),
        EventKind::Update => (sys::IPCTNL_MSG_CT_NEW, 0),
        EventKind::Destroy => (sys::IPCTNL_MSG_CT_DELETE, 0),
    };
    let family = if flow.original.src.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut request = MessageWriter::new(message, flags, 0, family as u8);
    let zone = flow.original.zone;
    let without_zone = |tuple: &Tuple| Tuple { zone: 0, ..*tuple };
    if zone == flow.reply.zone {
        request.tuple(sys::CTA_TUPLE_ORIG, &without_zone(&flow.original));
        request.tuple(sys::CTA_TUPLE_REPLY, &without_zone(&flow.reply));
        if zone != 0 {
            request.attribute(sys::CTA_ZONE, &zone.to_be_bytes());
        }
    } else {
        request.zoned_tuple(sys::CTA_TUPLE_ORIG, &flow.original);
        request.zoned_tuple(sys::CTA_TUPLE_REPLY, &flow.reply);
    }
    request.attribute(sys::CTA_ID, &flow.id.to_be_bytes());
    request.attribute(sys::CTA_STATUS, &flow.status.0.to_be_bytes());
    if flow.mark != 0 {
        request.attribute(sys::CTA_MARK, &flow.mark.to_be_bytes());
    }
    if let Some(timeout) = flow.timeout {
        request.attribute(sys::CTA_TIMEOUT, &timeout.to_be_bytes());
    }
    if flow.start.is_some() || flow.stop.is_some() {
        request.nested(sys::CTA_TIMESTAMP, |request| {
            for (kind, time) in [(sys::CTA_TIMESTAMP_START, flow.start), (sys::CTA_TIMESTAMP_STOP, flow.stop)]
            {
                if let Some(time) = time {
                    request.attribute(kind, &time.to_be_bytes());
                }
            }
        });
    }
    if let Some(state) = flow.tcp_state {
        request.nested(sys::CTA_PROTOINFO, |request| {
            request.nested(sys::CTA_PROTOINFO_TCP, |request| {
                request.attribute(sys::CTA_PROTOINFO_TCP_STATE, &[state.number()]);
            });
        });
    }
    for (kind, counters) in
        [(sys::CTA_COUNTERS_ORIG, flow.counters_original), (sys::CTA_COUNTERS_REPLY, flow.counters_reply)]
    {
        if let Some(Counters { packets, bytes }) = counters {
            request.nested(kind, |request| {
                request.attribute(sys::CTA_COUNTERS_PACKETS, &packets.to_be_bytes());
                request.attribute(sys::CTA_COUNTERS_BYTES, &bytes.to_be_bytes());
            });
        }
    }
    request.finish()
}
