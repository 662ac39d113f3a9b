//! One expectation as a plain value.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::direction::Direction;
use crate::error::Error;
use crate::family::Family;
use crate::state::bits;
use crate::tuple::{Layer4, Tuple};

/// The longest name of a helper in the kernel and in the C library, in bytes.
pub(crate) const LONGEST_HELPER: usize = 15;
/// The longest name of a function in the C library, in bytes.
pub(crate) const LONGEST_FUNCTION: usize = 23;

/// An expectation: one that the kernel reports, or one to create.
///
/// ```
/// use nfct::{Expectation, Layer4, Tuple};
///
/// // An FTP client's data connection, from any port.
/// let control = Tuple::tcp(([192, 168, 7, 2], 40001), ([198, 51, 100, 1], 21));
/// let data = Tuple::tcp(([192, 168, 7, 2], 0), ([198, 51, 100, 1], 50000));
/// let expectation = Expectation::new(control, data);
/// assert_eq!(expectation.mask.layer4, Layer4::Ports { src: 0, dst: 0xffff });
/// assert_eq!(
///     expectation.to_string(),
///     "expects tcp 192.168.7.2:* -> 198.51.100.1:50000 for tcp 192.168.7.2:40001 -> 198.51.100.1:21"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Expectation {
    /// The original tuple of the master, the connection to which the expectation belongs.
    pub master: Tuple,
    /// The tuple that the first packet of the expected connection must match, in the bits of
    /// [`mask`](Self::mask).
    pub expected: Tuple,
    /// Which bits of `expected` count. The kernel keeps the mask of the source address and the source port;
    /// all bits of the other fields count.
    pub mask: Tuple,
    /// How the kernel translates the expected connection, if it does.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub nat: Option<ExpectNat>,
    /// Seconds until the kernel removes the expectation. For a new one the kernel uses the helper's timeout;
    /// [`Query::update_expectation`](crate::Query::update_expectation) sets another.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub timeout: Option<u32>,
    /// The kernel's id of this expectation.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub id: Option<u32>,
    /// The conntrack zone in which the kernel looks it up: the zone of the master. The kernel does not report
    /// it, so this is 0 in an expectation that was read.
    pub zone: u16,
    /// The kind of expectation.
    pub flags: ExpectFlags,
    /// Which of the helper's policies applies: 0 for most helpers. SIP has 0 signalling, 1 audio, 2 video and
    /// 3 other media.
    pub class: u32,
    /// The helper that inspects the expected connection, such as `ftp`.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub helper: Option<String>,
    /// The function that the kernel runs when the expected connection arrives, such as `nat-follow-master`.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub function: Option<String>,
}

impl Expectation {
    /// Expects `expected` because of the connection with the original tuple `master`. Source port 0 means any
    /// port, and source address 0.0.0.0 or :: any address. No NAT, flags, class, helper or function is set.
    ///
    /// ```
    /// # use nfct::{Expectation, Tuple};
    /// let control = Tuple::tcp(([192, 168, 7, 2], 40001), ([198, 51, 100, 1], 21));
    /// let data = Tuple::tcp(([192, 168, 7, 2], 0), ([198, 51, 100, 1], 50000));
    /// let mut expectation = Expectation::new(control, data);
    /// expectation.helper = Some("ftp".to_owned());
    /// assert_eq!(expectation.mask.src_port(), Some(0));
    /// ```
    pub fn new(master: Tuple, expected: Tuple) -> Self {
        Self {
            master,
            expected,
            mask: mask(&expected),
            nat: None,
            timeout: None,
            id: None,
            zone: master.zone,
            flags: ExpectFlags::default(),
            class: 0,
            helper: None,
            function: None,
        }
    }

    /// Time until the kernel removes the expectation.
    ///
    /// ```
    /// # use nfct::{Expectation, Tuple};
    /// # let tuple = Tuple::udp(([192, 0, 2, 1], 40001), ([198, 51, 100, 1], 5060));
    /// let mut expectation = Expectation::new(tuple, tuple);
    /// expectation.timeout = Some(300);
    /// assert_eq!(expectation.time_left(), Some(std::time::Duration::from_secs(300)));
    /// ```
    pub fn time_left(&self) -> Option<Duration> {
        self.timeout.map(|seconds| Duration::from_secs(seconds.into()))
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.expected.src)
    }

    /// # Errors
    /// [`Error::Invalid`] if a name is too long or contains a zero byte, the tuples are of different families,
    /// or a tuple has details of another protocol.
    pub(crate) fn check(&self, doing: &'static str) -> Result<(), Error> {
        check_name(doing, self.helper.as_deref(), LONGEST_HELPER, HELPER)?;
        check_name(doing, self.function.as_deref(), LONGEST_FUNCTION, FUNCTION)?;
        let nat = self.nat.map(|nat| nat.tuple);
        let tuples = [Some(self.master), Some(self.expected), Some(self.mask), nat];
        for tuple in tuples.iter().flatten() {
            tuple.check(doing)?;
        }
        let addresses = tuples.iter().flatten().flat_map(|tuple| [tuple.src, tuple.dst]);
        match addresses.into_iter().find(|address| address.is_ipv4() != self.expected.src.is_ipv4()) {
            None => Ok(()),
            Some(other) => Err(Error::Invalid {
                doing,
                found: format!("{} and {other} in one expectation", self.expected.src),
                expected: "addresses of one family",
            }),
        }
    }
}

const HELPER: &str = "a helper's name of 1 to 15 bytes, such as \"ftp\"";
const FUNCTION: &str = "a function's name of 1 to 23 bytes, such as \"nat-follow-master\"";

/// # Errors
/// [`Error::Invalid`] if the name is empty, longer than `longest` bytes, or contains a zero byte.
fn check_name(
    doing: &'static str,
    name: Option<&str>,
    longest: usize,
    expected: &'static str,
) -> Result<(), Error> {
    match name {
        Some(name) if name.is_empty() || name.len() > longest || name.contains('\0') => {
            Err(Error::Invalid { doing, found: format!("{name:?}"), expected })
        }
        _ => Ok(()),
    }
}

/// # Errors
/// [`Error::Invalid`] if no helper can have this name.
pub(crate) fn check_helper(doing: &'static str, name: &str) -> Result<(), Error> {
    check_name(doing, Some(name), LONGEST_HELPER, HELPER)
}

/// # Errors
/// [`Error::Invalid`] if the name of a function is too long for the C library.
pub(crate) fn check_function(doing: &'static str, name: &str) -> Result<(), Error> {
    check_name(doing, Some(name), LONGEST_FUNCTION, FUNCTION)
}

/// The mask of `expected`, as the kernel's helpers set it.
fn mask(expected: &Tuple) -> Tuple {
    let all = |address: IpAddr| match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::BROADCAST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from([0xff; 16])),
    };
    let layer4 = match expected.layer4 {
        Layer4::Ports { src, .. } => Layer4::Ports { src: if src == 0 { 0 } else { 0xffff }, dst: 0xffff },
        Layer4::Keys { src, .. } => Layer4::Keys { src: if src == 0 { 0 } else { 0xffff }, dst: 0xffff },
        Layer4::Icmp { .. } => Layer4::Icmp { id: 0xffff, kind: 0xff, code: 0xff },
        Layer4::None => Layer4::None,
    };
    Tuple {
        src: if expected.src.is_unspecified() { expected.src } else { all(expected.src) },
        dst: all(expected.dst),
        protocol: expected.protocol,
        layer4,
        zone: 0,
    }
}

/// `expects tcp 198.51.100.1:* -> 100.64.2.1:50000 for tcp 192.168.7.2:40001 -> 198.51.100.1:21`
impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = |address: IpAddr, any_address: bool, port: Option<u16>, any_port: bool| {
            let address = match address {
                _ if any_address => "*".to_owned(),
                IpAddr::V6(v6) if port.is_some() => format!("[{v6}]"),
                other => other.to_string(),
            };
            match port {
                Some(_) if any_port => format!("{address}:*"),
                Some(port) => format!("{address}:{port}"),
                None => address,
            }
        };
        let (ports, any_port) = match (self.expected.layer4, self.mask.layer4) {
            (Layer4::Ports { src, dst }, Layer4::Ports { src: bits, .. }) => (Some((src, dst)), bits == 0),
            _ => (None, false),
        };
        write!(
            f,
            "expects {} {} -> {} for {}",
            self.expected.protocol,
            endpoint(self.expected.src, self.mask.src.is_unspecified(), ports.map(|(src, _)| src), any_port),
            endpoint(self.expected.dst, false, ports.map(|(_, dst)| dst), false),
            self.master
        )
    }
}

/// How the kernel translates an expected connection.
///
/// ```
/// # use nfct::{Expectation, Tuple};
/// use nfct::{Direction, ExpectNat};
/// # let inside = Tuple::tcp(([192, 0, 2, 1], 50000), ([198, 51, 100, 1], 0));
/// # let mut expectation = Expectation::new(inside, inside);
/// // The data connection runs back to the inside host: in the master's reply direction.
/// expectation.nat = Some(ExpectNat { tuple: inside, direction: Direction::Reply });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ExpectNat {
    /// NAT replaces the expected address and port with the source address and source port of this tuple. If
    /// one of them is 0, as the address is for FTP, the kernel uses the master's.
    pub tuple: Tuple,
    /// The direction of the master in which the expected connection runs.
    pub direction: Direction,
}

bits! {
    /// The kind of expectation; combine flags with `|`.
    ///
    /// ```
    /// use nfct::ExpectFlags;
    ///
    /// let flags = ExpectFlags::PERMANENT | ExpectFlags::INACTIVE;
    /// assert!(flags.is_permanent() && flags.is_inactive() && !flags.is_userspace());
    /// assert_eq!(flags, ExpectFlags(3));
    /// assert_eq!(flags.to_string(), "PERMANENT|INACTIVE");
    /// ```
    ExpectFlags(u32) {
        /// The expectation stays after a connection has matched it, so more connections can match.
        PERMANENT = nfct_sys::NF_CT_EXPECT_PERMANENT, "PERMANENT";
        /// The expectation is not active.
        INACTIVE = nfct_sys::NF_CT_EXPECT_INACTIVE, "INACTIVE";
        /// A program created the expectation, not a helper of the kernel.
        USERSPACE = nfct_sys::NF_CT_EXPECT_USERSPACE, "USERSPACE";
    }
}

impl ExpectFlags {
    /// Whether the expectation stays after a connection has matched it.
    ///
    /// ```
    /// assert!(nfct::ExpectFlags(1).is_permanent());
    /// ```
    pub fn is_permanent(self) -> bool {
        self.contains(Self::PERMANENT)
    }

    /// Whether the expectation is not active.
    ///
    /// ```
    /// assert!(nfct::ExpectFlags(2).is_inactive());
    /// ```
    pub fn is_inactive(self) -> bool {
        self.contains(Self::INACTIVE)
    }

    /// Whether a program created the expectation, not a helper of the kernel.
    ///
    /// ```
    /// assert!(nfct::ExpectFlags(4).is_userspace());
    /// ```
    pub fn is_userspace(self) -> bool {
        self.contains(Self::USERSPACE)
    }
}
