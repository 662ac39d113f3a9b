//! A helper's data: bytes whose length the library does not handle correctly.
//!
//! The library's setter and copy functions keep the length of the previous data, its getter does not
//! return the length, and after the attribute is unset the library still writes the data into messages.
//! Only its parser is correct, and only for an object without such data. So this module sets the data by
//! parsing a message into an object that has none, and reads it from a message that the library writes.

use std::ffi::CStr;

use libc::c_char;
use nfct_sys as sys;

use super::object::{Conntrack, ConntrackRef};
use crate::error::Error;
use crate::wire::{Attributes, HEADER};

/// The longest data that fits into a nested attribute: lengths have 16 bits.
pub(super) const MOST_BYTES: usize = 65_000;

const DOING: &str = "setting a helper's data";
const NESTED: u16 = 0x8000;

impl ConntrackRef {
    pub(super) fn helper_info(&self) -> Option<Vec<u8>> {
        if !self.has(sys::ATTR_HELPER_INFO) {
            return None;
        }
        // The library writes the data only if the name and the family are set. Nothing else is needed.
        let needed = [sys::ATTR_HELPER_NAME, sys::ATTR_HELPER_INFO, sys::ATTR_ORIG_L3PROTO];
        let mut probe = self.to_owned();
        for number in (0..sys::ATTR_MAX).filter(|number| !needed.contains(number)) {
            probe.clear(number);
        }
        // SAFETY: a live object that is borrowed for writing, and an attribute of eight bits.
        unsafe { sys::nfct_set_attr_u8(probe.as_ptr(), sys::ATTR_ORIG_L3PROTO, libc::AF_INET as u8) };
        if !probe.has(sys::ATTR_HELPER_NAME) {
            // SAFETY: the attribute is a C string.
            unsafe { probe.set_pointer(sys::ATTR_HELPER_NAME, c"".as_ptr().cast()) };
        }
        let message = probe.to_message().ok()?;
        // After the header and the `struct nfgenmsg`.
        let help = find(message.get(HEADER + 4..)?, sys::CTA_HELP)?;
        find(help, sys::CTA_HELP_INFO).map(<[u8]>::to_vec)
    }
}

impl Conntrack {
    /// Sets the data of an object that has had none.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than [`MOST_BYTES`].
    pub(super) fn set_helper_info(&mut self, info: &[u8]) -> Result<(), Error> {
        if info.len() > MOST_BYTES {
            return Err(Error::Invalid {
                doing: DOING,
                found: format!("{} bytes", info.len()),
                expected: "at most 65000 bytes (the kernel keeps 32)",
            });
        }
        // The parser also sets the name. So the message contains the current name, or an empty one.
        let name = self.pointer(sys::ATTR_HELPER_NAME).map(|name| {
            // SAFETY: the attribute is a C string of the object, which is not changed while it is read.
            unsafe { CStr::from_ptr(name.cast::<c_char>().as_ptr()) }.to_bytes_with_nul().to_vec()
        });
        let mut help = Vec::new();
        append(&mut help, sys::CTA_HELP_NAME as u16, name.as_deref().unwrap_or(&[0]));
        append(&mut help, sys::CTA_HELP_INFO as u16, info);
        let mut payload = Vec::new();
        append(&mut payload, sys::CTA_HELP as u16 | NESTED, &help);
        // SAFETY: attributes that were written here: a string with a zero byte at its end, and bytes.
        unsafe { self.read_attributes(&payload, 0, DOING)? };
        if name.is_none() {
            self.clear(sys::ATTR_HELPER_NAME);
        }
        Ok(())
    }
}

fn find(attributes: &[u8], wanted: u32) -> Option<&[u8]> {
    Attributes::new(attributes).flatten().find(|(kind, _)| u32::from(*kind) == wanted).map(|(_, value)| value)
}

/// Appends an attribute, padded to four bytes; its length fits 16 bits.
fn append(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend((value.len() as u16 + 4).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}
