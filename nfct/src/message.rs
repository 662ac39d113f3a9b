//! Conversion of the C library's objects to netlink messages.
//!
//! The library's own queries write into 4 KiB on their stack and do not check
//! whether an object fits. Long labels and long data of a helper do not fit. This
//! module makes the library write into a buffer for the largest possible object.

use std::io;

use nfct_sys as sys;

use crate::conntrack::ConntrackRef;
use crate::error::Error;
use crate::wire::{HEADER, message_kind};

/// An upper bound for what the library writes of one object: two label masks of
/// 65,536 bits, a helper's data of 65,531 bytes (the most that one attribute
/// holds), and all other attributes, which are short, with their headers.
const LARGEST: usize = 4096 + 2 * (8192 + 4) + 65_536;

/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEAD: usize = HEADER + 4;

/// A buffer for one message, aligned as netlink requires.
pub(crate) struct MessageBuffer {
    words: Box<[u32]>,
}

impl MessageBuffer {
    pub(crate) fn new() -> Self {
        Self { words: vec![0; (HEAD + LARGEST).div_ceil(4)].into_boxed_slice() }
    }

    /// Writes `entry` as a message of the conntrack subsystem.
    ///
    /// # Errors
    /// The library's `EINVAL`: an entry without the network and transport protocol
    /// of the original direction. [`Error::Invalid`] for a NAT address of the wrong
    /// family.
    pub(crate) fn write(
        &mut self,
        entry: &ConntrackRef,
        message: u32,
        flags: u32,
        sequence: u32,
        doing: &'static str,
    ) -> Result<&[u8], Error> {
        entry.check_nat(doing)?;
        // SAFETY: a live object, and an attribute of eight bits; 0 where it is not set.
        let family = unsafe { sys::nfct_get_attr_u8(entry.as_ptr(), sys::ATTR_ORIG_L3PROTO) };
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&(HEAD as u32).to_ne_bytes());
        head[4..6].copy_from_slice(&message_kind(message).to_ne_bytes());
        head[6..8].copy_from_slice(&(flags as u16).to_ne_bytes());
        head[8..12].copy_from_slice(&sequence.to_ne_bytes());
        head[HEADER] = family;
        for (word, bytes) in self.words.iter_mut().zip(head.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        let header = self.words.as_mut_ptr().cast::<sys::nlmsghdr>();
        // SAFETY: an aligned header whose length is that of what is written so far, with enough memory after it for
        // the largest possible object; and a live object, which is only read.
        let result = unsafe { sys::nfct_nlmsg_build(header, entry.as_ptr()) };
        if result < 0 {
            let hint = "an entry needs its original tuple: both addresses, the protocol and its ports, ICMP details or keys";
            return Err(Error::system(doing, io::Error::last_os_error(), hint));
        }
        let length = (self.words[0] as usize).clamp(HEAD, HEAD + LARGEST);
        // SAFETY: bytes have no alignment and any value, and the words are initialised.
        let (_, bytes, _) = unsafe { self.words.align_to::<u8>() };
        Ok(&bytes[..length])
    }
}

impl ConntrackRef {
    /// The entry as a netlink message, as the library writes it.
    /// [`Conntrack::parse`](crate::Conntrack::parse) reads it back. It has the form of an entry
    /// in a dump, without flags and sequence number.
    ///
    /// ```
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Conntrack, Tuple};
    /// let original = Tuple::udp(([192, 168, 7, 2], 40001), ([198, 51, 100, 1], 53));
    /// let mut entry = Conntrack::new()?;
    /// entry.set_original(&original)?.setup_reply()?;
    /// let message = entry.to_message()?;
    /// assert_eq!(Conntrack::parse(&message)?.original(), Some(original));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `EINVAL` if the original tuple has no family or no protocol. [`Error::Invalid`] for a
    /// NAT address of another family than the tuple.
    pub fn to_message(&self) -> Result<Vec<u8>, Error> {
        let mut buffer = MessageBuffer::new();
        let message = buffer.write(self, sys::IPCTNL_MSG_CT_NEW, 0, 0, "writing a conntrack message")?;
        Ok(message.to_vec())
    }
}
