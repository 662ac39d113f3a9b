//! One conntrack entry as a plain value.

use std::time::{Duration, SystemTime};

use crate::state::{Status, TcpState};
use crate::tuple::Tuple;

/// Packets and bytes of one direction. The kernel counts them with `net.netfilter.nf_conntrack_acct=1`.
///
/// ```
/// assert_eq!(nfct::Counters::default().bytes, 0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes, IP headers included.
    pub bytes: u64,
}

/// One entry as the kernel reports it. Fields that the kernel did not send are `None`, or 0 for the id, the
/// status and the mark.
///
/// ```
/// use nfct::{Flow, Tuple};
///
/// /// The inside address and port of a source NAT, and the public ones.
/// fn translation(flow: &Flow) -> String {
///     let port = |tuple: &Tuple, port: Option<u16>| port.map_or(String::new(), |port| format!(" port {port}"));
///     let (inside, public) = (&flow.original, &flow.reply);
///     format!(
///         "{}{} is {}{}",
///         inside.src, port(inside, inside.src_port()), public.dst, port(public, public.dst_port()),
///     )
/// }
///
/// let original = Tuple::udp(([192, 168, 7, 2], 40000), ([198, 51, 100, 1], 53));
/// let reply = Tuple::udp(([198, 51, 100, 1], 53), ([203, 0, 113, 9], 51000));
/// let flow = Flow::new(original, reply);
/// assert_eq!(translation(&flow), "192.168.7.2 port 40000 is 203.0.113.9 port 51000");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Flow {
    /// The tuple of packets from the client, before NAT.
    pub original: Tuple,
    /// The tuple of packets from the server. With source NAT its destination is the public address and
    /// port.
    pub reply: Tuple,
    /// The kernel's id of this lifetime of the connection (`conntrack -o id`). It is a keyed hash of the
    /// entry's memory address and original tuple, so a later connection can get the same id again.
    pub id: u32,
    /// State bits.
    pub status: Status,
    /// Connection mark; 0 if none is set.
    pub mark: u32,
    /// Seconds until the kernel removes the entry if it stays idle.
    pub timeout: Option<u32>,
    /// Start of the connection in nanoseconds since the epoch; only with
    /// `net.netfilter.nf_conntrack_timestamp=1`.
    pub start: Option<u64>,
    /// End of the connection in nanoseconds since the epoch; in DESTROY events, with the same sysctl.
    pub stop: Option<u64>,
    /// State of a TCP connection.
    pub tcp_state: Option<TcpState>,
    /// Packets and bytes of the original direction; in dumps and DESTROY events, with
    /// `net.netfilter.nf_conntrack_acct=1`.
    pub counters_original: Option<Counters>,
    /// Packets and bytes of the reply direction, as for the original direction.
    pub counters_reply: Option<Counters>,
}

impl Flow {
    /// A flow with these tuples; everything else is `None` or 0.
    ///
    /// ```
    /// use nfct::{Flow, Status, Tuple};
    ///
    /// let original = Tuple::tcp(([192, 168, 7, 2], 40000), ([198, 51, 100, 1], 443));
    /// let mut flow = Flow::new(original, original.reversed());
    /// flow.status = Status::ASSURED;
    /// assert_eq!((flow.id, flow.timeout), (0, None));
    /// ```
    pub fn new(original: Tuple, reply: Tuple) -> Self {
        Self {
            original,
            reply,
            id: 0,
            status: Status(0),
            mark: 0,
            timeout: None,
            start: None,
            stop: None,
            tcp_state: None,
            counters_original: None,
            counters_reply: None,
        }
    }

    /// Time until the kernel removes the entry if it stays idle: [`timeout`](Self::timeout) as a duration.
    ///
    /// ```
    /// # use nfct::{Flow, Tuple};
    /// # let tuple = Tuple::udp(([192, 168, 7, 2], 40000), ([198, 51, 100, 1], 53));
    /// let mut flow = Flow::new(tuple, tuple.reversed());
    /// flow.timeout = Some(30);
    /// assert_eq!(flow.time_left(), Some(std::time::Duration::from_secs(30)));
    /// ```
    pub fn time_left(&self) -> Option<Duration> {
        self.timeout.map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// Start of the connection, if the kernel keeps timestamps.
    ///
    /// ```
    /// # use nfct::{Flow, Tuple};
    /// # let tuple = Tuple::udp(([192, 168, 7, 2], 40000), ([198, 51, 100, 1], 53));
    /// # let flow = Flow::new(tuple, tuple.reversed());
    /// if let Some(age) = flow.started().and_then(|start| start.elapsed().ok()) {
    ///     println!("{} s old", age.as_secs());
    /// }
    /// ```
    pub fn started(&self) -> Option<SystemTime> {
        self.start.map(|nanoseconds| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds))
    }

    /// End of the connection, if the kernel keeps timestamps.
    ///
    /// ```
    /// # use nfct::{Flow, Tuple};
    /// # let tuple = Tuple::udp(([192, 168, 7, 2], 40000), ([198, 51, 100, 1], 53));
    /// # let flow = Flow::new(tuple, tuple.reversed());
    /// if let (Some(start), Some(end)) = (flow.started(), flow.stopped()) {
    ///     println!("{:?}", end.duration_since(start));
    /// }
    /// ```
    pub fn stopped(&self) -> Option<SystemTime> {
        self.stop.map(|nanoseconds| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds))
    }
}
