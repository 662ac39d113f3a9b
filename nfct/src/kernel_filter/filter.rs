//! The public filter: adding conditions, and attaching them to a socket.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use libc::sock_filter;

use super::assembler::{ATTACHING, LONGEST, assemble, join, too_long};
use super::condition::Condition;
use super::endpoint_test::EndpointTest;
use crate::direction::{Direction, Endpoint, Logic};
use crate::error::Error;
use crate::socket;
use crate::tuple::Protocol;

/// A filter for events, which the kernel runs. It delivers only events that meet all
/// conditions.
///
/// The kernel may deliver more events, never fewer: events of protocols without ports
/// pass a port condition.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Direction, Endpoint, Events, Groups, KernelFilter, Logic, Protocol};
///
/// // Only connections through this public address to port 443, and no UDP.
/// let filter = KernelFilter::new()
///     .address(Direction::Reply, Endpoint::Destination, "100.64.2.1".parse().unwrap())
///     .port(Direction::Original, Endpoint::Destination, 443)
///     .protocols(Logic::Except, [Protocol::Udp]);
/// let events = Events::subscribe(Groups::NEW | Groups::DESTROY)?;
/// events.set_filter(&filter)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelFilter {
    conditions: Vec<Condition>,
}

impl KernelFilter {
    /// A filter that delivers everything.
    ///
    /// ```
    /// assert!(nfct::KernelFilter::new().is_empty());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition: this endpoint of this tuple is in one of these networks,
    /// or in none of them. A network is an address and the number of its leading
    /// bits that count.
    ///
    /// ```
    /// use nfct::{Direction, Endpoint, KernelFilter, Logic};
    /// let loopback = [("127.0.0.0".parse().unwrap(), 8), ("::1".parse().unwrap(), 128)];
    /// let filter = KernelFilter::new()
    ///     .networks(Direction::Original, Endpoint::Source, Logic::Except, loopback);
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn networks(
        self,
        direction: Direction,
        endpoint: Endpoint,
        logic: Logic,
        networks: impl IntoIterator<Item = (IpAddr, u8)>,
    ) -> Self {
        self.any_of([EndpointTest::networks(direction, endpoint, logic, networks)])
    }

    /// Adds a condition: at least one of these tests is met.
    ///
    /// ```
    /// use nfct::{Direction, Endpoint, EndpointTest, KernelFilter, Logic};
    /// // The source is not in this network, or it is not translated into another one.
    /// let network = [("100.64.2.0".parse().unwrap(), 24)];
    /// let filter = KernelFilter::new().any_of([
    ///     EndpointTest::networks(Direction::Reply, Endpoint::Destination, Logic::Except, network),
    ///     EndpointTest::networks(Direction::Original, Endpoint::Source, Logic::Only, network),
    /// ]);
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn any_of(mut self, tests: impl IntoIterator<Item = EndpointTest>) -> Self {
        self.conditions.push(Condition::Any(tests.into_iter().collect()));
        self
    }

    /// Adds a condition: the protocol is one of these, or none of them.
    ///
    /// ```
    /// use nfct::{KernelFilter, Logic, Protocol};
    /// let filter = KernelFilter::new().protocols(Logic::Only, [Protocol::Tcp, Protocol::Sctp]);
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn protocols(mut self, logic: Logic, protocols: impl IntoIterator<Item = Protocol>) -> Self {
        self.conditions.push(Condition::Protocols(logic, protocols.into_iter().collect()));
        self
    }

    /// Adds a condition: an event of this protocol is in one of these states, or in
    /// none of them. Events of other protocols pass. TCP, SCTP and DCCP have states.
    ///
    /// ```
    /// use nfct::{KernelFilter, Logic, Protocol, TcpState};
    /// let established = [TcpState::Established.number()];
    /// let filter = KernelFilter::new().states(Logic::Only, Protocol::Tcp, established);
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn states(mut self, logic: Logic, protocol: Protocol, states: impl IntoIterator<Item = u8>) -> Self {
        self.conditions.push(Condition::States(logic, protocol, states.into_iter().collect()));
        self
    }

    /// Adds a condition: the connection mark equals the value in all bits of the
    /// mask, for one of these pairs (value, mask), or for none of them.
    ///
    /// ```
    /// use nfct::{KernelFilter, Logic};
    /// let filter = KernelFilter::new().marks(Logic::Except, [(0, u32::MAX)]);
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn marks(mut self, logic: Logic, marks: impl IntoIterator<Item = (u32, u32)>) -> Self {
        self.conditions.push(Condition::Marks(logic, marks.into_iter().collect()));
        self
    }

    /// Adds a condition: the event is in one of these zones in either direction, or in
    /// none of them. Zone 0 is the default zone.
    ///
    /// ```
    /// use nfct::{KernelFilter, Logic};
    /// let filter = KernelFilter::new().zones(Logic::Only, [7, 8]);
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn zones(mut self, logic: Logic, zones: impl IntoIterator<Item = u16>) -> Self {
        self.conditions.push(Condition::Zones(logic, zones.into_iter().collect()));
        self
    }

    /// Adds a condition: this endpoint of this tuple has this address.
    ///
    /// ```
    /// use nfct::{Direction, Endpoint, KernelFilter};
    /// let filter =
    ///     KernelFilter::new().address(Direction::Reply, Endpoint::Destination, "100.64.2.1".parse().unwrap());
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn address(self, direction: Direction, endpoint: Endpoint, address: IpAddr) -> Self {
        self.address_in([(direction, endpoint)], address)
    }

    /// Adds a condition: at least one of these endpoints has this address.
    ///
    /// ```
    /// use nfct::{Direction, Endpoint, KernelFilter};
    /// // With source NAT the public address is where replies go. With destination NAT it is
    /// // where the client's packets go.
    /// let public = [(Direction::Reply, Endpoint::Destination), (Direction::Original, Endpoint::Destination)];
    /// let filter = KernelFilter::new().address_in(public, "100.64.2.1".parse().unwrap());
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn address_in(
        self,
        places: impl IntoIterator<Item = (Direction, Endpoint)>,
        address: IpAddr,
    ) -> Self {
        self.any_of(places.into_iter().map(|(direction, endpoint)| {
            EndpointTest::networks(direction, endpoint, Logic::Only, [(address, u8::MAX)])
        }))
    }

    /// Adds a condition: this endpoint of this tuple has this port, or the protocol
    /// has no ports.
    ///
    /// ```
    /// use nfct::{Direction, Endpoint, KernelFilter};
    /// let filter = KernelFilter::new().port(Direction::Original, Endpoint::Destination, 443);
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn port(self, direction: Direction, endpoint: Endpoint, port: u16) -> Self {
        self.port_in([(direction, endpoint)], port)
    }

    /// Adds a condition: at least one of these endpoints has this port, or the protocol
    /// has no ports.
    ///
    /// ```
    /// use nfct::{Direction, Endpoint, KernelFilter};
    /// let public = [(Direction::Reply, Endpoint::Destination), (Direction::Original, Endpoint::Destination)];
    /// let filter = KernelFilter::new().port_in(public, 443);
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn port_in(self, places: impl IntoIterator<Item = (Direction, Endpoint)>, port: u16) -> Self {
        self.any_of(places.into_iter().map(|(direction, endpoint)| {
            EndpointTest::ports(direction, endpoint, Logic::Only, [port..=port])
        }))
    }

    /// Whether the filter has no condition.
    ///
    /// ```
    /// assert!(!nfct::KernelFilter::new().zones(nfct::Logic::Only, [0]).is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Attaches the filter to the socket of [`Events`](crate::Events) or of a
    /// [`Handle`](crate::Handle). Replaces the previous filter.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// use nfct::{Groups, Handle, KernelFilter, Logic, Protocol};
    /// let handle = Handle::open(Groups::ALL)?;
    /// KernelFilter::new().protocols(Logic::Only, [Protocol::Icmp]).attach(&handle)?;
    /// KernelFilter::new().attach(&handle)?; // delivers everything again
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for conditions that make the program too long for the
    /// kernel (some hundred networks), or for states of a protocol that has none.
    /// Otherwise the system's error: ENOMEM if the program takes more memory than
    /// `net.core.optmem_max` allows.
    pub fn attach(&self, socket: impl AsFd) -> Result<(), Error> {
        let programs = self.programs()?;
        let length = length(&programs);
        if length > LONGEST {
            return Err(too_long(length));
        }
        attach_programs(socket.as_fd(), &programs)
    }

    /// Attaches as much of the filter as the kernel accepts: the conditions with the
    /// longest lists are left out until the program is short enough. The kernel may then
    /// deliver more events, never fewer. Returns how many conditions were left out.
    ///
    /// The previous filter can be gone for a moment, or after an error; then the kernel
    /// delivers everything.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// use nfct::{Direction, Endpoint, Groups, Handle, KernelFilter, Logic};
    /// let handle = Handle::open(Groups::ALL)?;
    /// let hosts = (0..5000).map(|host| (std::net::Ipv4Addr::from_bits(10 << 24 | host).into(), 32));
    /// let filter = KernelFilter::new()
    ///     .port(Direction::Original, Endpoint::Destination, 443)
    ///     .networks(Direction::Original, Endpoint::Source, Logic::Only, hosts);
    /// assert_eq!(filter.attach_what_fits(&handle)?, 1); // without the hosts
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for states of a protocol that has none. Otherwise the system's
    /// error.
    pub fn attach_what_fits(&self, socket: impl AsFd) -> Result<usize, Error> {
        let socket = socket.as_fd();
        let mut programs = self.programs()?;
        let mut is_detached = false;
        loop {
            if length(&programs) <= LONGEST {
                match attach_programs(socket, &programs) {
                    Ok(()) => return Ok(self.conditions.len() - programs.len()),
                    Err(Error::System { source, .. })
                        if source.raw_os_error() == Some(libc::ENOMEM) && !programs.is_empty() =>
                    {
                        // The kernel counts the memory of both programs while it replaces one.
                        if !is_detached {
                            attach_programs(socket, &[])?;
                            is_detached = true;
                            continue;
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            let longest = (0..programs.len()).max_by_key(|at| programs[*at].len()).unwrap_or(0);
            programs.remove(longest);
        }
    }

    /// The statements of each condition.
    fn programs(&self) -> Result<Vec<Vec<sock_filter>>, Error> {
        self.conditions.iter().map(assemble).collect()
    }
}

/// The length of the program that consists of these, with its last statement.
fn length(programs: &[Vec<sock_filter>]) -> usize {
    programs.iter().map(Vec::len).sum::<usize>() + 1
}

fn attach_programs(socket: BorrowedFd<'_>, programs: &[Vec<sock_filter>]) -> Result<(), Error> {
    let result = if programs.is_empty() {
        socket::detach_filter(socket)
    } else {
        socket::attach_filter(socket, &join(programs))
    };
    result.map_err(|source| Error::from_io(ATTACHING, source))
}
