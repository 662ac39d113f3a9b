//! The load: connections created in the kernel's table, or by packets through the NAT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nfct::wire::write_event;
use nfct::{Conntrack, Event, EventKind, Family, Flow, Query, Status, Tuple};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use lab::{Lab, Netns};

/// CONFIRMED, ASSURED and SEEN_REPLY: the kernel keeps such an entry without packets.
const ESTABLISHED: Status = Status(8 | 4 | 2);
/// Flag of a netlink message.
const NLM_F_REQUEST: u16 = 1;
/// `TCP_CONNTRACK_ESTABLISHED`
const TCP_ESTABLISHED: u8 = 3;

/// TCP connections of many inside hosts behind the smallest possible number of public addresses.
#[derive(Clone)]
pub struct Connections {
    /// Their public ports.
    ports: Range<u16>,
    /// The first value of the last two bytes of inside addresses, so that two sets do not overlap.
    inside: Ipv4Addr,
    public: Ipv4Addr,
    timeout: Duration,
    /// Whether these addresses are the last 32 bits of IPv6 ones.
    is_v6: bool,
}

/// The limit for the kernel to end all connections.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connections of one inside host.
const A_HOST: u32 = 100;

/// Long-lived connections.
pub const LASTING: Connections = Connections {
    ports: 1024..61024,
    inside: Ipv4Addr::new(10, 0, 0, 1),
    public: Ipv4Addr::new(100, 65, 0, 1),
    timeout: Duration::from_secs(24 * 3600),
    is_v6: false,
};

/// The same with IPv6.
pub const LASTING_V6: Connections = Connections { is_v6: true, ..LASTING };

/// Short-lived connections, on other public ports.
pub const PASSING: Connections = Connections {
    ports: 61024..65024,
    inside: Ipv4Addr::new(11, 0, 0, 1),
    public: Ipv4Addr::new(100, 66, 0, 1),
    timeout: Duration::from_secs(10),
    is_v6: false,
};

/// Their common destination.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

impl Connections {
    /// The public ports.
    pub fn ports(&self) -> Range<u16> {
        self.ports.clone()
    }

    /// The connection of this number before and after NAT.
    pub fn tuples(&self, number: u32) -> (Tuple, Tuple) {
        let behind = |first: Ipv4Addr, number| {
            let last: u32 = u32::from(first) + number;
            match self.is_v6 {
                true => IpAddr::V6(Ipv6Addr::from((0x2001_0db8 << 96) | u128::from(last))),
                false => IpAddr::V4(last.into()),
            }
        };
        let count = u32::from(self.ports.end - self.ports.start);
        let nat_port = self.ports.start + (number % count) as u16;
        let src_port = 20_000 + (number % A_HOST) as u16;
        let inside = behind(self.inside, number / A_HOST);
        let public = behind(self.public, number / count);
        let server = (behind(SERVER, 0), 443);
        (Tuple::tcp((inside, src_port), server), Tuple::tcp(server, (public, nat_port)))
    }
}

/// Creates entries in the namespace in which it was opened.
pub struct Maker {
    query: Query,
    entry: Conntrack,
}

impl Maker {
    pub fn new() -> Self {
        let query = Query::open().expect("ctnetlink is available");
        Self { query, entry: Conntrack::new().expect("memory is available") }
    }

    /// Creates one entry, which is one NEW event.
    pub fn make(&mut self, connections: &Connections, number: u32) {
        let (original, reply) = connections.tuples(number);
        let entry = self.entry.set_tuples(&original, &reply).expect("tuples of one protocol");
        entry.set_status(ESTABLISHED).set_tcp_state(TCP_ESTABLISHED);
        self.entry.set_timeout(connections.timeout);
        self.query.create(&self.entry).unwrap_or_else(|error| panic!("connection {number}: {error}"));
    }

    /// Removes all entries, with one DESTROY event each.
    pub fn flush(&mut self) {
        self.query.flush(Family::Any).expect("the table can be emptied");
    }
}

/// Creates entries in the namespace in which it was opened, several per system call and without
/// acknowledgements: this takes about half the time of [`Maker`] and leaves more of the processors to the
/// other processes.
pub struct Sender {
    socket: OwnedFd,
    messages: Vec<u8>,
}

impl Sender {
    pub fn new() -> Self {
        let protocol = SockProtocol::NetlinkNetFilter;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol);
        Self { socket: socket.expect("ctnetlink is available"), messages: Vec::new() }
    }

    /// Creates the entries of these numbers, with one NEW event each.
    pub fn make(&mut self, connections: &Connections, numbers: Range<u32>) {
        self.messages.clear();
        for number in numbers {
            let (original, reply) = connections.tuples(number);
            let mut flow = Flow::new(original, reply);
            flow.status = ESTABLISHED;
            flow.timeout = Some(connections.timeout.as_secs() as u32);
            // The message of an event equals that of a request except for the flags.
            let mut message = write_event(&Event::new(EventKind::New, flow));
            let flags = u16::from_ne_bytes([message[6], message[7]]) | NLM_F_REQUEST;
            message[6..8].copy_from_slice(&flags.to_ne_bytes());
            self.messages.extend(message);
        }
        let kernel = NetlinkAddr::new(0, 0);
        let sent = sendto(self.socket.as_raw_fd(), &self.messages, &kernel, MsgFlags::empty());
        assert_eq!(sent, Ok(self.messages.len()), "the kernel takes what is sent");
    }

    /// Checks that all were created: the kernel replies only to what it refuses.
    pub fn check(&self) {
        let refusal = recv(self.socket.as_raw_fd(), &mut [0; 4096], MsgFlags::MSG_DONTWAIT);
        assert_eq!(refusal, Err(Errno::EAGAIN), "a connection was refused");
    }
}

/// Creates long-lived entries as fast as possible and returns the time.
pub fn make(netns: &Netns, numbers: Range<u32>) -> Duration {
    make_of(&LASTING, netns, numbers)
}

/// Creates these connections, and returns the time.
pub fn make_of(connections: &Connections, netns: &Netns, numbers: Range<u32>) -> Duration {
    netns.enter(|| {
        let mut maker = Maker::new();
        let start = Instant::now();
        numbers.for_each(|number| maker.make(connections, number));
        start.elapsed()
    })
}

/// Removes all entries and returns the time.
pub fn flush(netns: &Netns) -> Duration {
    netns.enter(|| {
        let mut maker = Maker::new();
        let start = Instant::now();
        maker.flush();
        start.elapsed()
    })
}

/// Opens connections with packets through the NAT from the client to the server, as fast as possible, and
/// returns the time. Each source port has 50,000 of them.
pub fn make_by_packets(lab: &Lab, flows: u32) -> Duration {
    const OF_ONE_PORT: u32 = 50_000;
    // No reply, not even ICMP errors.
    lab.server().nft(
        "table ip bench\ndelete table ip bench\ntable ip bench {\n\
         chain prerouting { type filter hook prerouting priority -300; meta l4proto udp drop; }\n}\n",
    );
    lab.gateway().sysctl("net.netfilter.nf_conntrack_udp_timeout", "600");
    let server = lab.server_at(0).ip();
    lab.client().enter(|| {
        let start = Instant::now();
        let mut made = 0;
        while made < flows {
            let socket = UdpSocket::bind(lab.client_at(0, 10_000 + (made / OF_ONE_PORT) as u16));
            let socket = socket.expect("the address is the client's");
            for port in (10_000..).take(OF_ONE_PORT.min(flows - made) as usize) {
                socket.send_to(b"new", (server, port)).expect("the way is open");
                made += 1;
            }
        }
        start.elapsed()
    })
}

/// Ends all masqueraded connections by removing the public address, on which the kernel deletes them. Restores
/// the address and returns the time.
pub fn end_by_address(lab: &Lab) -> Duration {
    let netns = lab.gateway();
    let address = format!("{}/24", lab.public(0));
    let start = Instant::now();
    netns.run("ip", &["address", "del", &address, "dev", "outside"]);
    // The kernel does it in a separate thread.
    let left = || netns.read_sysctl("net.netfilter.nf_conntrack_count").expect("it can be read");
    while left().parse::<u32>().is_ok_and(|left| left > 50) {
        assert!(start.elapsed() < PATIENCE, "the flows do not end");
        thread::sleep(Duration::from_millis(5));
    }
    let took = start.elapsed();
    netns.run("ip", &["address", "add", &address, "dev", "outside"]);
    // The route disappeared with the last address.
    netns.run("ip", &["route", "replace", "198.51.100.0/24", "dev", "outside"]);
    took
}

/// A rate per second.
pub struct Pace {
    start: Instant,
    rate: f64,
}

impl Pace {
    pub fn new(rate: u32) -> Self {
        Self { start: Instant::now(), rate: rate.into() }
    }

    /// Waits until the next one after `done` is due.
    pub fn wait(&self, done: u32) {
        let due = Duration::from_secs_f64(f64::from(done) / self.rate);
        let early = due.saturating_sub(self.start.elapsed());
        // Shorter sleeps would take longer than requested.
        if early > Duration::from_micros(200) {
            thread::sleep(early);
        }
    }

    /// The actual rate per second.
    pub fn reached(&self, done: u32) -> f64 {
        f64::from(done) / self.start.elapsed().as_secs_f64()
    }
}
