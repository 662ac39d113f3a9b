//! What a masquerading gateway of a few thousand hosts records.

use std::net::IpAddr;

use nathistory::{End, Millis, Moment, Record};

/// A network, and how its gateway translates.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    pub hosts: u32,
    pub public_addresses: u8,
    /// Whether the gateway chooses ports at random, as for `--random-fully`; otherwise it keeps them.
    pub random_ports: bool,
    pub destinations: bool,
}

/// Draws mappings in the order in which they open.
pub struct Trace {
    network: Network,
    state: u64,
    now: f64,
    /// The mean time between two.
    pause: f64,
    until: Millis,
}

impl Trace {
    /// About `count` mappings from `from` to `until`.
    pub fn new(network: Network, count: u64, from: Millis, until: Millis) -> Self {
        let pause = (until - from) as f64 / count as f64;
        Self { network, state: 0x1234_5678_9abc_def1 ^ from as u64, now: from as f64, pause, until }
    }

    fn next_u64(&mut self) -> u64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, end: u32) -> u32 {
        (self.share() * f64::from(end)) as u32
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.share()).ln()
    }

    /// A rank of so many, by Zipf's law with the exponent 1.
    fn zipf(&mut self, count: u32) -> u32 {
        (f64::from(count + 1).powf(self.share()) as u32).saturating_sub(1).min(count - 1)
    }

    fn record(&mut self) -> Record {
        self.now += self.exponential(self.pause);
        let opened = self.now as Millis;
        let host = self.zipf(self.network.hosts);
        // Hosts are not numbered by their traffic.
        let number = (host.wrapping_mul(2_654_435_761) >> 8) % 65_000;
        let src_ip: IpAddr = [10, 20, (number >> 8) as u8, number as u8].into();
        // Windows and macOS, or Linux.
        let ephemeral =
            if host % 3 == 0 { 32_768 + self.below(28_232) } else { 49_152 + self.below(16_384) } as u16;
        let server = |rank: u32| -> IpAddr {
            let bits = rank.wrapping_add(1).wrapping_mul(2_246_822_519);
            let [a, b, c, d] = bits.to_be_bytes();
            [20 + a % 180, b, c, d].into()
        };
        let kind = self.share();
        let (protocol, dst_ip, dst_port, active, timeout) = if kind < 0.38 {
            let resolver = [[1, 1, 1, 1], [8, 8, 8, 8], [9, 9, 9, 9]][self.zipf(3) as usize].into();
            (17, resolver, Some(53), self.exponential(25.0), 30_000.0)
        } else if kind < 0.74 {
            (6, server(self.zipf(60_000)), Some(443), self.exponential(15_000.0), 120_000.0)
        } else if kind < 0.90 {
            (17, server(self.zipf(20_000)), Some(443), self.exponential(30_000.0), 120_000.0)
        } else if kind < 0.93 {
            (6, server(self.zipf(30_000)), Some(80), self.exponential(5_000.0), 120_000.0)
        } else if kind < 0.95 {
            (17, server(self.zipf(50)), Some(123), self.exponential(30.0), 30_000.0)
        } else if kind < 0.96 {
            (1, server(self.zipf(50)), None, self.exponential(2_000.0), 30_000.0)
        } else {
            let port = 1_024 + self.below(64_000) as u16;
            (17, server(60_000 + self.below(1_000_000)), Some(port), self.exponential(9_000.0), 30_000.0)
        };
        // The kernel's garbage collection finds it some time after its timeout.
        let lasted = active + timeout + self.share() * 2_000.0;
        let closed = opened + lasted as Millis;
        let port = if self.network.random_ports { 1_024 + self.below(64_512) as u16 } else { ephemeral };
        let public = host.wrapping_mul(40_503) >> 4;
        let nat_ip: IpAddr =
            [203, 0, 113, 1 + (public % u32::from(self.network.public_addresses)) as u8].into();
        let dst = Some(End { ip: dst_ip, port: dst_port });
        let record = Record {
            protocol,
            zone: 0,
            reply_zone: 0,
            src: End { ip: src_ip, port: Some(ephemeral) },
            dst,
            nat: End { ip: nat_ip, port: Some(port) },
            server: dst,
            id: Some(self.next_u64() as u32),
            mark: None,
            opened: Moment::event(opened),
            closed: Some(Moment::event(closed)),
            counters: None,
        };
        if self.network.destinations { record } else { record.without_destination() }
    }
}

impl Iterator for Trace {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let record = self.record();
        (record.opened.at < self.until).then_some(record)
    }
}
