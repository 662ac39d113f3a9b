//! What a helper keeps of a connection: bytes of a length that the library
//! forgets.
//!
//! Its setter and its copy functions leave the length of the bytes before in
//! place, its getter does not tell it, and unsetting the attribute does not
//! keep the bytes out of a message. Only its parser gets all of it right, and
//! only for an object that has none yet. So they are set by a message to an
//! object without them, and read from a message that the library writes.

use nfct_sys as sys;

use super::attr::{self, HELPER_INFO, HELPER_NAME};
use super::{Conntrack, ConntrackRef};
use crate::error::Error;
use crate::state::Layer3;
use crate::wire::{Attributes, HEADER};

/// What fits an attribute in an attribute, whose lengths have 16 bits.
pub(super) const MOST_BYTES: usize = 65_000;

const DOING: &str = "setting a helper's data";
const NESTED: u16 = 0x8000;

impl ConntrackRef {
    pub(super) fn helper_info(&self) -> Option<Vec<u8>> {
        if !self.is_set(HELPER_INFO) {
            return None;
        }
        // An object that has nothing but what the library wants before it writes them.
        let mut probe = self.to_owned();
        let name = probe.get(HELPER_NAME).unwrap_or_default();
        for id in attr::all().filter(|id| *id != HELPER_INFO.id()) {
            probe.unset(id);
        }
        probe.put(attr::ORIG_L3PROTO, Layer3::Ipv4);
        probe.set(HELPER_NAME, name).ok()?;
        let message = probe.to_message().ok()?;
        // Behind the header and the `struct nfgenmsg`.
        let help = find(message.get(HEADER + 4..)?, sys::CTA_HELP)?;
        find(help, sys::CTA_HELP_INFO).map(<[u8]>::to_vec)
    }
}

impl Conntrack {
    pub(super) fn set_helper_info(&mut self, info: &[u8]) -> Result<(), Error> {
        if info.len() > MOST_BYTES {
            return Err(Error::Invalid {
                doing: DOING,
                found: format!("{} bytes", info.len()),
                expected: "at most 65000 bytes (the kernel keeps 32)",
            });
        }
        self.forget_helper_info();
        let name = self.get(HELPER_NAME);
        let mut text = name.clone().unwrap_or_default().into_bytes();
        text.push(0);
        let mut help = Vec::new();
        append(&mut help, sys::CTA_HELP_NAME as u16, &text);
        append(&mut help, sys::CTA_HELP_INFO as u16, info);
        let mut payload = Vec::new();
        append(&mut payload, sys::CTA_HELP as u16 | NESTED, &help);
        self.add(&payload, 0, DOING)?;
        if name.is_none() {
            self.unset(HELPER_NAME);
        }
        Ok(())
    }

    /// Goes on with an object that is the same but for the bytes.
    pub(super) fn forget_helper_info(&mut self) {
        if !self.is_set(HELPER_INFO) {
            return;
        }
        let mut without = Conntrack::new().unwrap_or_else(|_| crate::error::out_of_memory());
        for id in self.attributes().filter(|id| *id != HELPER_INFO.id()) {
            without.copy(self, id);
        }
        *self = without;
    }
}

fn find(attributes: &[u8], wanted: u32) -> Option<&[u8]> {
    Attributes::new(attributes).flatten().find(|(kind, _)| u32::from(*kind) == wanted).map(|(_, value)| value)
}

/// Appends an attribute of fewer bytes than 16 bits can say, padded to four.
fn append(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend((value.len() as u16 + 4).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}
