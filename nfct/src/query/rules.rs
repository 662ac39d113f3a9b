//! The query for rules that mask events.

use std::io;

use super::Query;
use crate::dump::Dump;
use crate::error::Error;
use crate::event_mask::{EventMask, GET_RULES, RuleMasks};
use crate::selection::Selection;

/// Attempts to read the rules while they change.
const ATTEMPTS: usize = 8;

impl Query {
    /// Reads the rules that limit the events of connections (`ct event set` of nftables
    /// and `-j CT --ctevents` of iptables-nft), of all families. The kernel reports less
    /// or nothing about the connections that match such a rule. Rules that no packet
    /// reaches are included. [`RuleChanges`](crate::RuleChanges) reports when to read
    /// them again.
    ///
    /// The result is empty if the kernel has no nf_tables, which it shows by an error for
    /// the request (`EINVAL`: nfnetlink has no such subsystem). The kernel loads the
    /// module for the request if it can. The rules of iptables-legacy are not part of
    /// nf_tables and are not included.
    ///
    /// ```no_run
    /// for rule in nfct::Query::open()?.event_masks()? {
    ///     println!("{rule}");
    /// }
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN, `EINTR` if the rules changed each time
    /// while they were read, [`Error::Malformed`] for a rule that cannot be read.
    pub fn event_masks(&mut self) -> Result<Vec<EventMask>, Error> {
        for _ in 0..ATTEMPTS {
            if let Some(masks) = collect(self.dump_kind(GET_RULES, Selection::all())?)? {
                return Ok(masks);
            }
        }
        let source = io::Error::from_raw_os_error(libc::EINTR);
        Err(Error::system(RuleMasks::DOING, source, "the rules changed while they were read; try again"))
    }
}

/// The masks of all rules; `None` if the rules changed meanwhile.
fn collect(mut dump: Dump<'_, RuleMasks>) -> Result<Option<Vec<EventMask>>, Error> {
    let mut masks = Vec::new();
    for rule in &mut dump {
        match rule {
            Ok(rule) => masks.extend(rule.0),
            // Without the subsystem there are no rules.
            Err(error) if error.errno() == Some(libc::EINVAL) => return Ok(Some(Vec::new())),
            Err(error) => return Err(error),
        }
    }
    Ok((!dump.was_interrupted()).then_some(masks))
}

#[cfg(test)]
mod tests {
    use nfct_sys as sys;

    use super::*;
    use crate::wire::MessageWriter;

    /// The end of a dump, after these bytes in place of its first four.
    fn answer(kind: u32, flags: u32, errno: i32) -> Vec<u8> {
        let mut bytes = MessageWriter::of_kind(kind as u16, flags, 1, 0).finish();
        bytes[16..20].copy_from_slice(&(-errno).to_ne_bytes());
        bytes
    }

    #[test]
    fn a_kernel_without_nf_tables_has_no_rules_and_changes_are_noticed() {
        let mut query = Query::open().unwrap();
        let mut read = |bytes: &[u8]| {
            query.channel.buffer[..bytes.len()].copy_from_slice(bytes);
            collect(Dump::over(&mut query.channel, 1, bytes.len()))
        };
        assert_eq!(read(&answer(sys::NLMSG_ERROR, 0, libc::EINVAL)).unwrap(), Some(Vec::new()));
        assert_eq!(read(&answer(sys::NLMSG_DONE, 0, 0)).unwrap(), Some(Vec::new()));
        assert_eq!(read(&answer(sys::NLMSG_DONE, sys::NLM_F_DUMP_INTR, 0)).unwrap(), None);
        let refused = read(&answer(sys::NLMSG_ERROR, 0, libc::EPERM)).unwrap_err();
        assert!(matches!(refused, Error::Permission { .. }), "{refused}");
        assert!(refused.to_string().starts_with("reading the rules of nftables"), "{refused}");
    }
}
