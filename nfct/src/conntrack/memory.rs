//! Attributes that share memory in the library's object, or that depend on each other.

use nfct_sys as sys;

use super::object::{Conntrack, ConntrackRef};
use crate::error::Error;

/// Attributes that share memory. Of the alternatives in a row only one can be set.
const SHARED: &[&[&[u32]]] = &[
    &[&[sys::ATTR_ORIG_IPV4_SRC], &[sys::ATTR_ORIG_IPV6_SRC]],
    &[&[sys::ATTR_ORIG_IPV4_DST], &[sys::ATTR_ORIG_IPV6_DST]],
    &[&[sys::ATTR_REPL_IPV4_SRC], &[sys::ATTR_REPL_IPV6_SRC]],
    &[&[sys::ATTR_REPL_IPV4_DST], &[sys::ATTR_REPL_IPV6_DST]],
    &[&[sys::ATTR_MASTER_IPV4_SRC], &[sys::ATTR_MASTER_IPV6_SRC]],
    &[&[sys::ATTR_MASTER_IPV4_DST], &[sys::ATTR_MASTER_IPV6_DST]],
    &[&[sys::ATTR_SNAT_IPV4], &[sys::ATTR_SNAT_IPV6]],
    &[&[sys::ATTR_DNAT_IPV4], &[sys::ATTR_DNAT_IPV6]],
    &[
        &[sys::ATTR_ORIG_PORT_SRC, sys::ATTR_ORIG_PORT_DST, sys::ATTR_REPL_PORT_SRC, sys::ATTR_REPL_PORT_DST],
        &[sys::ATTR_ICMP_TYPE, sys::ATTR_ICMP_CODE, sys::ATTR_ICMP_ID],
    ],
    &[
        &[
            sys::ATTR_TCP_STATE,
            sys::ATTR_TCP_FLAGS_ORIG,
            sys::ATTR_TCP_FLAGS_REPL,
            sys::ATTR_TCP_MASK_ORIG,
            sys::ATTR_TCP_MASK_REPL,
            sys::ATTR_TCP_WSCALE_ORIG,
            sys::ATTR_TCP_WSCALE_REPL,
        ],
        &[sys::ATTR_SCTP_STATE, sys::ATTR_SCTP_VTAG_ORIG, sys::ATTR_SCTP_VTAG_REPL],
        &[sys::ATTR_DCCP_STATE, sys::ATTR_DCCP_ROLE, sys::ATTR_DCCP_HANDSHAKE_SEQ],
    ],
];

impl Conntrack {
    /// Unsets the attributes that share memory with `number`, before `number` is set.
    pub(super) fn unset_overlapping(&mut self, number: u32) {
        for group in SHARED {
            let Some(mine) = group.iter().position(|alternative| alternative.contains(&number)) else {
                continue;
            };
            for (_, others) in group.iter().enumerate().filter(|(at, _)| *at != mine) {
                others.iter().for_each(|other| self.clear(*other));
            }
        }
    }

    /// Makes the library derive the type of the ICMP reply again after the network protocol was set: the
    /// type depends on it, whichever of the two is set first.
    pub(super) fn refresh_derived(&mut self, number: u32) {
        if number != sys::ATTR_ORIG_L3PROTO || !self.has(sys::ATTR_ICMP_TYPE) {
            return;
        }
        // SAFETY: a live object, and an attribute of eight bits that is set.
        let kind = unsafe { sys::nfct_get_attr_u8(self.as_ptr(), sys::ATTR_ICMP_TYPE) };
        // SAFETY: a live object that is borrowed for writing, and an attribute of eight bits.
        unsafe { sys::nfct_set_attr_u8(self.as_ptr(), sys::ATTR_ICMP_TYPE, kind) }
    }
}

impl ConntrackRef {
    /// Rejects an entry whose NAT address is of another family than its tuples: the kernel would ignore the
    /// address and translate only the port.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub(crate) fn check_nat(&self, doing: &'static str) -> Result<(), Error> {
        // SAFETY: a live object, and an attribute of eight bits; 0 if it is not set.
        let family = unsafe { sys::nfct_get_attr_u8(self.as_ptr(), sys::ATTR_ORIG_L3PROTO) };
        let (wrong, found, expected) = match i32::from(family) {
            libc::AF_INET => (
                [sys::ATTR_SNAT_IPV6, sys::ATTR_DNAT_IPV6],
                "an IPv4 entry with an IPv6 address for NAT",
                "an IPv4 address for NAT",
            ),
            libc::AF_INET6 => (
                [sys::ATTR_SNAT_IPV4, sys::ATTR_DNAT_IPV4],
                "an IPv6 entry with an IPv4 address for NAT",
                "an IPv6 address for NAT",
            ),
            _ => return Ok(()),
        };
        match wrong.into_iter().any(|number| self.has(number)) {
            true => Err(Error::Invalid { doing, found: found.to_owned(), expected }),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuple::Tuple;

    #[test]
    fn an_entry_with_a_nat_address_of_the_other_family_is_not_sent() {
        let v4 = Tuple::udp(([10, 0, 0, 1], 1), ([10, 0, 0, 2], 2));
        let v6 = Tuple::udp(([0_u16, 0, 0, 0, 0, 0, 0, 1], 1), ([0_u16, 0, 0, 0, 0, 0, 0, 2], 2));
        for (tuple, other) in [(v4, v6), (v6, v4)] {
            let mut entry = Conntrack::new().unwrap();
            // The address can be set before the tuples.
            entry.set_source_nat(other.dst, Some(1024)).set_original(&tuple).unwrap();
            let error = entry.setup_reply().unwrap().to_message().unwrap_err().to_string();
            assert!(error.contains("address for NAT, expected an IP"), "{error}");
            assert!(entry.set_source_nat(tuple.dst, Some(1024)).to_message().is_ok());
            assert!(entry.set_destination_nat(other.dst, None).to_message().is_err());
            assert!(entry.set_destination_nat(tuple.dst, None).to_message().is_ok());
        }
    }
}
