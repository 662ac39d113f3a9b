//! Reads messages of the kernel with this crate's reader and with the C
//! library's parser: the same messages and the same attributes, which are both
//! tuples, id, status, mark, timeout, timestamps, TCP state and counters.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr::NonNull;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box_drop};
use nfct::wire::Messages;
use nfct_sys as sys;

/// Messages of a real kernel, one per line, in hexadecimal.
const MESSAGES: &str = include_str!("../tests/data/messages.hex");

fn main() {
    divan::main();
}

/// The entries among them, as aligned words, as the library requires.
fn entries() -> Vec<Vec<u32>> {
    let lines = MESSAGES.lines().filter(|line| !line.starts_with('#'));
    let word = |line: &str, at: usize| {
        let byte = |at: usize| {
            line.get(at..at + 2)
                .map_or(0, |digits| u8::from_str_radix(digits, 16).expect("hexadecimal digits"))
        };
        u32::from_ne_bytes([byte(at), byte(at + 2), byte(at + 4), byte(at + 6)])
    };
    let messages =
        lines.map(|line| (0..line.len()).step_by(8).map(|at| word(line, at)).collect::<Vec<u32>>());
    messages.filter(|words| flow(&bytes(words)).is_some()).collect()
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn flow(message: &[u8]) -> Option<nfct::Flow> {
    Messages::new(message).next()?.ok()?.flow().ok()
}

#[divan::bench(sample_count = 200, sample_size = 100)]
fn our_reader(bencher: Bencher<'_, '_>) {
    let entries: Vec<Vec<u8>> = entries().iter().map(|words| bytes(words)).collect();
    bencher.counter(ItemsCount::new(entries.len())).bench_local(|| {
        for entry in &entries {
            black_box_drop(flow(black_box(entry)));
        }
    });
}

/// The fastest way with the library: one object for all messages.
#[divan::bench(sample_count = 200, sample_size = 100)]
fn the_library_into_one_object(bencher: Bencher<'_, '_>) {
    let entries = entries();
    // SAFETY: takes nothing; NULL is checked by NonNull.
    let object = NonNull::new(unsafe { sys::nfct_new() }).expect("memory is available");
    bencher.counter(ItemsCount::new(entries.len())).bench_local(|| {
        for entry in &entries {
            let header = black_box(entry.as_ptr()).cast::<sys::nlmsghdr>();
            // SAFETY: a complete message, aligned, as a kernel sent it, and a live object.
            let parsed = unsafe { sys::nfct_nlmsg_parse(header, object.as_ptr()) };
            assert!(parsed >= 0);
            black_box(Attributes(object).read());
        }
    });
    // SAFETY: it came from nfct_new and is never used again.
    unsafe { sys::nfct_destroy(object.as_ptr()) }
}

/// The attributes of an object that [`nfct::Flow`] has.
struct Attributes(NonNull<sys::nf_conntrack>);

type TupleFields = (IpAddr, IpAddr, u16, u16, u8);

impl Attributes {
    fn read(&self) -> (TupleFields, TupleFields, [u32; 4], [u64; 6], u8) {
        let original = self.tuple(
            (sys::ATTR_ORIG_IPV4_SRC, sys::ATTR_ORIG_IPV4_DST),
            (sys::ATTR_ORIG_IPV6_SRC, sys::ATTR_ORIG_IPV6_DST),
            (sys::ATTR_ORIG_PORT_SRC, sys::ATTR_ORIG_PORT_DST),
            (sys::ATTR_ORIG_L3PROTO, sys::ATTR_ORIG_L4PROTO),
        );
        let reply = self.tuple(
            (sys::ATTR_REPL_IPV4_SRC, sys::ATTR_REPL_IPV4_DST),
            (sys::ATTR_REPL_IPV6_SRC, sys::ATTR_REPL_IPV6_DST),
            (sys::ATTR_REPL_PORT_SRC, sys::ATTR_REPL_PORT_DST),
            (sys::ATTR_REPL_L3PROTO, sys::ATTR_REPL_L4PROTO),
        );
        let numbers = [sys::ATTR_ID, sys::ATTR_STATUS, sys::ATTR_MARK, sys::ATTR_TIMEOUT];
        let long_numbers = [
            sys::ATTR_TIMESTAMP_START,
            sys::ATTR_TIMESTAMP_STOP,
            sys::ATTR_ORIG_COUNTER_PACKETS,
            sys::ATTR_ORIG_COUNTER_BYTES,
            sys::ATTR_REPL_COUNTER_PACKETS,
            sys::ATTR_REPL_COUNTER_BYTES,
        ];
        let state = self.u8(sys::ATTR_TCP_STATE);
        let numbers = numbers.map(|number| self.u32(number));
        (original, reply, numbers, long_numbers.map(|number| self.u64(number)), state)
    }

    fn tuple(&self, v4: (u32, u32), v6: (u32, u32), ports: (u32, u32), protocols: (u32, u32)) -> TupleFields {
        let (src, dst) = match i32::from(self.u8(protocols.0)) {
            libc::AF_INET6 => (self.v6(v6.0), self.v6(v6.1)),
            _ => (self.v4(v4.0), self.v4(v4.1)),
        };
        (src, dst, self.u16(ports.0), self.u16(ports.1), self.u8(protocols.1))
    }

    fn v4(&self, attribute: u32) -> IpAddr {
        Ipv4Addr::from(self.u32(attribute).to_ne_bytes()).into()
    }

    fn v6(&self, attribute: u32) -> IpAddr {
        // SAFETY: a live object; NULL when the attribute is not set.
        let value = unsafe { sys::nfct_get_attr(self.0.as_ptr(), attribute) };
        // SAFETY: an IPv6 attribute points to 16 bytes inside the object.
        let octets = unsafe { value.cast::<[u8; 16]>().as_ref() };
        Ipv6Addr::from(octets.copied().unwrap_or_default()).into()
    }

    fn u8(&self, attribute: u32) -> u8 {
        // SAFETY: a live object; 0 when the attribute is not set.
        unsafe { sys::nfct_get_attr_u8(self.0.as_ptr(), attribute) }
    }

    fn u16(&self, attribute: u32) -> u16 {
        // SAFETY: a live object; 0 when the attribute is not set.
        unsafe { sys::nfct_get_attr_u16(self.0.as_ptr(), attribute) }
    }

    fn u32(&self, attribute: u32) -> u32 {
        // SAFETY: a live object; 0 when the attribute is not set.
        unsafe { sys::nfct_get_attr_u32(self.0.as_ptr(), attribute) }
    }

    fn u64(&self, attribute: u32) -> u64 {
        // SAFETY: a live object; 0 when the attribute is not set.
        unsafe { sys::nfct_get_attr_u64(self.0.as_ptr(), attribute) }
    }
}
