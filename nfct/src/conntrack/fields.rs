//! The attributes that most users need, as methods. Tuples are in `tuples`, NAT is in `nat`.

use std::time::{Duration, SystemTime};

use super::attr;
use super::object::{Conntrack, ConntrackRef};
use crate::direction::Direction;
use crate::error::Error;
use crate::flow::Counters;
use crate::labels::Labels;
use crate::state::{DccpState, SctpState, Status, TcpState};

/// # State, times, mark, helper and labels
///
/// ```
/// use nfct::{Conntrack, Status};
///
/// let mut entry = Conntrack::new()?;
/// entry.set_mark(7).set_status(Status::ASSURED);
/// assert_eq!((entry.mark(), entry.status()), (Some(7), Some(Status::ASSURED)));
/// # Ok::<(), nfct::Error>(())
/// ```
impl ConntrackRef {
    /// The kernel's id of this lifetime of the connection.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set(nfct::attr::ID, 7)?;
    /// assert_eq!(entry.id(), Some(7));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn id(&self) -> Option<u32> {
        self.get(attr::ID)
    }

    /// The connection mark.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_mark(7);
    /// assert_eq!(entry.mark(), Some(7));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn mark(&self) -> Option<u32> {
        self.get(attr::MARK)
    }

    /// State bits.
    ///
    /// ```
    /// # use nfct::Status;
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_status(Status::ASSURED);
    /// assert!(entry.status().is_some_and(Status::is_assured));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn status(&self) -> Option<Status> {
        self.get(attr::STATUS)
    }

    /// Time until the kernel removes the entry if it stays idle, in whole seconds.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_timeout(Duration::from_secs(300));
    /// assert_eq!(entry.timeout(), Some(Duration::from_secs(300)));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn timeout(&self) -> Option<Duration> {
        self.get(attr::TIMEOUT)
    }

    /// TCP state.
    ///
    /// ```
    /// # use nfct::TcpState;
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_tcp_state(TcpState::Established);
    /// assert_eq!(entry.tcp_state(), Some(TcpState::Established));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn tcp_state(&self) -> Option<TcpState> {
        self.get(attr::TCP_STATE)
    }

    /// SCTP state.
    ///
    /// ```
    /// # use nfct::{SctpState, attr};
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set(attr::SCTP_STATE, SctpState::Established)?;
    /// assert_eq!(entry.sctp_state(), Some(SctpState::Established));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn sctp_state(&self) -> Option<SctpState> {
        self.get(attr::SCTP_STATE)
    }

    /// DCCP state.
    ///
    /// ```
    /// # use nfct::{DccpState, attr};
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set(attr::DCCP_STATE, DccpState::Open)?;
    /// assert_eq!(entry.dccp_state(), Some(DccpState::Open));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn dccp_state(&self) -> Option<DccpState> {
        self.get(attr::DCCP_STATE)
    }

    /// Packets and bytes of one direction, if the kernel counts them.
    ///
    /// ```
    /// # use nfct::Direction;
    /// let entry = nfct::Conntrack::new()?;
    /// let bytes = entry.counters(Direction::Reply).map_or(0, |counters| counters.bytes);
    /// assert_eq!(bytes, 0);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn counters(&self, direction: Direction) -> Option<Counters> {
        self.get_group(match direction {
            Direction::Original => attr::Group::ORIG_COUNTERS,
            Direction::Reply => attr::Group::REPL_COUNTERS,
        })
    }

    /// Start of the connection, if the kernel keeps timestamps.
    ///
    /// ```
    /// let entry = nfct::Conntrack::new()?;
    /// let age = entry.started().and_then(|time| time.elapsed().ok());
    /// assert_eq!(age, None);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn started(&self) -> Option<SystemTime> {
        self.get(attr::TIMESTAMP_START)
    }

    /// End of the connection, if the kernel keeps timestamps.
    ///
    /// ```
    /// let entry = nfct::Conntrack::new()?;
    /// assert_eq!(entry.stopped(), None);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn stopped(&self) -> Option<SystemTime> {
        self.get(attr::TIMESTAMP_STOP)
    }

    /// Name of the helper.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_helper("ftp")?;
    /// assert_eq!(entry.helper().as_deref(), Some("ftp"));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn helper(&self) -> Option<String> {
        self.get(attr::HELPER_NAME)
    }

    /// The zone of both directions.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_zone(5);
    /// assert_eq!(entry.zone(), Some(5));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn zone(&self) -> Option<u16> {
        self.get(attr::ZONE)
    }

    /// The labels.
    ///
    /// ```
    /// # use nfct::Labels;
    /// let mut entry = nfct::Conntrack::new()?;
    /// let mut labels = Labels::new(127)?;
    /// labels.set(3)?;
    /// entry.set_labels(labels);
    /// assert!(entry.labels().is_some_and(|labels| labels.contains(3)));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn labels(&self) -> Option<Labels> {
        self.get(attr::CONNLABELS)
    }

    /// Security context, as SELinux writes it.
    ///
    /// ```
    /// let entry = nfct::Conntrack::new()?;
    /// assert_eq!(entry.security_context(), None);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn security_context(&self) -> Option<String> {
        self.get(attr::SECCTX)
    }
}

/// # Setting state, timeout, mark, helper and labels
///
/// ```
/// use std::time::Duration;
/// use nfct::{Conntrack, Labels, Status, TcpState};
///
/// let mut entry = Conntrack::new()?;
/// entry.set_timeout(Duration::from_secs(300)).set_status(Status::ASSURED);
/// entry.set_tcp_state(TcpState::Established).set_zone(5);
/// entry.set_helper("ftp")?.set_labels(Labels::new(127)?);
/// assert_eq!(entry.helper().as_deref(), Some("ftp"));
/// # Ok::<(), nfct::Error>(())
/// ```
impl Conntrack {
    /// Sets the connection mark.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_mark(0x17);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_mark(&mut self, mark: u32) -> &mut Self {
        self.put(attr::MARK, mark)
    }

    /// Sets how long the kernel keeps the idle entry, in whole seconds, at most `u32::MAX`.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_timeout(std::time::Duration::from_secs(300));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.put(attr::TIMEOUT, timeout)
    }

    /// Sets the state bits.
    ///
    /// ```
    /// # use nfct::Status;
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_status(Status::ASSURED | Status::SEEN_REPLY);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_status(&mut self, status: Status) -> &mut Self {
        self.put(attr::STATUS, status)
    }

    /// Sets the TCP state.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_tcp_state(nfct::TcpState::Established);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_tcp_state(&mut self, state: impl Into<TcpState>) -> &mut Self {
        self.put(attr::TCP_STATE, state.into())
    }

    /// Sets the zone of both directions.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_zone(5);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_zone(&mut self, zone: u16) -> &mut Self {
        self.put(attr::ZONE, zone)
    }

    /// Sets the helper by name; in an update, an empty name removes the helper.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_helper("ftp")?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than 15 bytes.
    pub fn set_helper(&mut self, name: &str) -> Result<&mut Self, Error> {
        self.set(attr::HELPER_NAME, name.to_owned())
    }

    /// Sets the labels. An update changes the labels in [`attr::CONNLABELS_MASK`]. Without a mask it changes
    /// all labels.
    ///
    /// ```
    /// let mut labels = nfct::Labels::new(127)?;
    /// labels.set(3)?;
    /// nfct::Conntrack::new()?.set_labels(labels);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_labels(&mut self, labels: Labels) -> &mut Self {
        self.put(attr::CONNLABELS, labels)
    }
}
