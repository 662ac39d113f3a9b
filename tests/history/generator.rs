//! Makes flows that hold a public address and port one after the other, and notes when.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;

use lab::{Lab, flows};
use nfct::{Protocol, Query, Tuple};

use super::amount;
use super::life::{Between, Life, Random, now};

/// Flows are made by so many threads.
const THREADS: usize = 2;
/// The zone of some flows.
const ZONE: u16 = 5;

/// Public addresses and ports of a thread. Each is free only for the time between two system calls.
fn places() -> usize {
    amount(1_500, 30_000)
}

/// Makes `number` flows, at most `rate` a second, and returns them. The last ones stay.
pub(crate) fn generate(lab: &Lab, number: usize, rate: usize) -> Vec<Life> {
    thread::scope(|scope| {
        let make = |part| move || Maker::new(lab, part).make(number / THREADS, rate / THREADS);
        let threads: Vec<_> = (0..THREADS).map(|part| scope.spawn(make(part))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("the flows were made")).collect()
    })
}

struct Maker {
    query: Query,
    part: usize,
    server: SocketAddr,
    lives: Vec<Life>,
    /// The flow that holds each place, and its original tuple.
    holders: Vec<Option<(usize, Tuple)>>,
    random: Random,
}

impl Maker {
    fn new(lab: &Lab, part: usize) -> Self {
        Self {
            query: lab.gateway().enter(Query::open).expect("ctnetlink is available"),
            part,
            server: lab.server_at(443),
            lives: Vec::new(),
            holders: vec![None; places()],
            random: Random(0x9e37_79b9_7f4a_7c15 ^ part as u64),
        }
    }

    fn make(mut self, number: usize, rate: usize) -> Vec<Life> {
        let begun = std::time::Instant::now();
        while self.lives.len() < number {
            // Some hold their place for a short time, some for a long one.
            let place = self.random.next() as usize % self.holders.len();
            self.hand_over(place);
            let ahead = self.lives.len() as f64 / rate as f64 - begun.elapsed().as_secs_f64();
            if ahead > 0.01 {
                thread::sleep(std::time::Duration::from_secs_f64(ahead));
            }
        }
        self.lives
    }

    /// Ends the flow that holds a place, and begins one of another host there.
    fn hand_over(&mut self, place: usize) {
        if let Some((holder, original)) = self.holders[place].take() {
            let from = now();
            assert!(flows::remove(&mut self.query, &original), "{original} is there");
            self.lives[holder].ended = Some(Between { from, to: now() });
        }
        let (tuples, mut life) = self.flow(place);
        life.begun.from = now();
        flows::create(&mut self.query, &tuples);
        life.begun.to = now();
        self.holders[place] = Some((self.lives.len(), tuples.0));
        self.lives.push(life);
    }

    /// A new flow at a place, of a host that no other flow has.
    fn flow(&self, place: usize) -> ((Tuple, Tuple), Life) {
        let host = (self.part << 22) as u32 + self.lives.len() as u32;
        let inside: IpAddr = Ipv4Addr::from(0x0a00_0000 + host).into();
        let inside_v6: IpAddr = Ipv6Addr::from(0xfd00_0007 << 96 | u128::from(host)).into();
        let port = 10_000 + place as u16;
        let public: IpAddr = Ipv4Addr::new(100, 64, 2, 1 + self.part as u8).into();
        let source_nat = |protocol, inside: IpAddr, public: IpAddr, server| {
            flows::source_nat(protocol, (inside, 40_000).into(), server, (public, port).into())
        };
        let begun = Between { from: 0, to: 0 };
        let life = |protocol, public, inside, zone| Life {
            protocol,
            public: (public, port),
            inside,
            zone,
            begun,
            ended: None,
        };
        match place % 8 {
            0..=2 => (source_nat(Protocol::Tcp, inside, public, self.server), life("tcp", public, inside, 0)),
            3 => (source_nat(Protocol::Udp, inside, public, self.server), life("udp", public, inside, 0)),
            4 => {
                let (mut original, mut reply) = source_nat(Protocol::Udp, inside, public, self.server);
                (original.zone, reply.zone) = (ZONE, ZONE);
                ((original, reply), life("udp", public, inside, ZONE))
            }
            5 => {
                // ctnetlink sets the same identifier in both directions.
                let original = Tuple::icmp_echo(inside, self.server.ip(), port);
                let reply = Tuple::icmp_echo(public, self.server.ip(), port).reversed();
                ((original, reply), life("icmp", public, inside, 0))
            }
            6 => {
                let public: IpAddr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2 + self.part as u16).into();
                let server = (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 443).into();
                (source_nat(Protocol::Udp, inside_v6, public, server), life("udp", public, inside_v6, 0))
            }
            _ => {
                // A connection from outside, to a host inside.
                let outside: SocketAddr = (self.server.ip(), 50_000).into();
                let original = flows::tuple(Protocol::Tcp, outside, (public, port).into());
                let reply = flows::tuple(Protocol::Tcp, (inside, 8443).into(), outside);
                ((original, reply), life("tcp", public, inside, 0))
            }
        }
    }
}
