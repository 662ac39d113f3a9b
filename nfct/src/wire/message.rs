//! Netlink messages: iteration over the messages of a datagram, and their headers.

use nfct_sys as sys;

use super::attributes::{Attributes, align, u16_be, u16_ne, u32_ne};
use crate::malformed::Malformed;

/// Size of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Size of `struct nfgenmsg`, the start of each message's payload.
const NFGENMSG: usize = 4;

/// One netlink message: header fields and payload.
///
/// ```
/// use nfct::wire::Message;
///
/// fn is_acknowledgement(message: &Message<'_>) -> bool {
///     message.kind == 2 && message.payload.starts_with(&[0; 4])
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`: subsystem in the upper byte, message in the lower.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// The bytes after the header.
    pub payload: &'a [u8],
    /// Header and payload.
    bytes: &'a [u8],
}

/// An iterator over the messages of one datagram.
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
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages of `datagram`.
    ///
    /// ```
    /// assert_eq!(nfct::wire::Messages::new(&[]).count(), 0);
    /// ```
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }

    /// The number of bytes after the current message.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = || {
            let header = self.rest.get(..HEADER)?;
            let length = u32_ne(header, 0) as usize;
            let payload = self.rest.get(HEADER..length)?;
            let bytes = self.rest.get(..length)?;
            let (kind, flags, sequence) = (u16_ne(header, 4), u16_ne(header, 6), u32_ne(header, 8));
            Some((Message { kind, flags, sequence, payload, bytes }, length))
        };
        match read() {
            Some((message, length)) => {
                self.rest = self.rest.get(align(length)..).unwrap_or_default();
                Some(Ok(message))
            }
            None => {
                self.rest = &[];
                Some(Err(Malformed::Length))
            }
        }
    }
}

impl<'a> Message<'a> {
    /// The complete message, header included.
    ///
    /// ```
    /// # use nfct::wire::Messages;
    /// let bytes = [16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0_u8];
    /// # #[cfg(target_endian = "little")]
    /// assert_eq!(Messages::new(&bytes).next().unwrap()?.as_bytes(), bytes);
    /// # Ok::<_, nfct::wire::Malformed>(())
    /// ```
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The attributes after the `struct nfgenmsg`, which every message of the conntrack subsystems has.
    pub(crate) fn attributes(&self) -> Result<Attributes<'a>, Malformed> {
        self.payload.get(NFGENMSG..).map(Attributes::new).ok_or(Malformed::Length)
    }

    /// `res_id` of the `struct nfgenmsg`.
    pub(crate) fn resource(&self) -> Result<u16, Malformed> {
        self.payload.get(2..NFGENMSG).map_or(Err(Malformed::Length), |bytes| u16_be(0, bytes))
    }

    /// The error number of an `NLMSG_ERROR` (0 is an acknowledgement) or of an `NLMSG_DONE` that ends a
    /// dump with an error; positive, as in `errno`.
    pub(crate) fn errno(&self) -> Option<i32> {
        let end = self.kind == sys::NLMSG_ERROR as u16 || self.kind == sys::NLMSG_DONE as u16;
        let code = self.payload.get(..4).map(|bytes| u32_ne(bytes, 0) as i32);
        end.then(|| code.unwrap_or(0).saturating_neg())
    }
}
