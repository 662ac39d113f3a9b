//! Queries that create, change and remove entries.

use std::io;

use nfct_sys as sys;

use super::Query;
use crate::channel::Refused;
use crate::conntrack::ConntrackRef;
use crate::direction::Direction;
use crate::error::Error;
use crate::family::Family;
use crate::flow::Flow;
use crate::message::MessageBuffer;
use crate::operation::Operation;
use crate::selection::Selection;
use crate::socket;
use crate::tuple::Tuple;
use crate::wire::MessageWriter;

/// The first kernel that applies family, mark, status and zone together to a request
/// that removes entries.
const FLUSHES_SELECTED: (u32, u32) = (6, 8);

impl Query {
    /// Creates an entry in the kernel's table.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Conntrack, Query, Status};
    /// # use std::time::Duration;
    /// # let (original, reply): (nfct::Tuple, nfct::Tuple) = unimplemented!();
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&original, &reply)?.set_timeout(Duration::from_secs(300));
    /// entry.set_status(Status::CONFIRMED | Status::ASSURED | Status::SEEN_REPLY);
    /// Query::open()?.create(&entry)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A TCP entry should have a state, set by
    /// [`set_tcp_state`](crate::Conntrack::set_tcp_state). The kernel gives an entry
    /// without one the state `NONE`.
    ///
    /// If no rule of the network namespace uses `ct label`, the kernel discards the
    /// labels of a new entry without an error. So this function reads an entry with
    /// labels back. If the labels are missing, it removes the entry and returns
    /// `ENOSPC`.
    ///
    /// # Errors
    /// `EEXIST` if an entry with one of the tuples exists, `EINVAL` if the entry lacks
    /// something that the kernel needs (both tuples, a timeout),
    /// `EOPNOTSUPP` for an unknown helper, `ENOENT` for an unknown master,
    /// `ENOSPC` for labels that cannot be kept.
    pub fn create(&mut self, entry: &ConntrackRef) -> Result<(), Error> {
        self.put(Operation::Create, sys::NLM_F_CREATE | sys::NLM_F_EXCL, entry)?;
        self.check_labels(Operation::Create, entry)
    }

    /// Changes the entry with the tuples of `entry` to the values that are set in
    /// `entry`. Timeout, mark, status, protocol state and labels can be changed.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Direction, Query};
    /// # let tuple: nfct::Tuple = unimplemented!();
    /// let mut query = Query::open()?;
    /// if let Some(mut entry) = query.get(Direction::Original, &tuple)? {
    ///     entry.set_mark(7);
    ///     query.update(&entry)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `ENOENT` if there is no such entry, `EBUSY` for status bits that cannot be unset,
    /// `ENOSPC` for an entry that cannot hold labels: when it began, no rule of its
    /// network namespace used `ct label`.
    pub fn update(&mut self, entry: &ConntrackRef) -> Result<(), Error> {
        self.put(Operation::Update, 0, entry)
    }

    /// Changes the entry, or creates it if it does not exist.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # let entry: nfct::Conntrack = unimplemented!();
    /// nfct::Query::open()?.create_or_update(&entry)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`create`](Self::create) and [`update`](Self::update), except `EEXIST` and
    /// `ENOENT` for the entry itself.
    pub fn create_or_update(&mut self, entry: &ConntrackRef) -> Result<(), Error> {
        self.put(Operation::CreateOrUpdate, sys::NLM_F_CREATE, entry)?;
        self.check_labels(Operation::CreateOrUpdate, entry)
    }

    /// Removes the entry with this original tuple and, if set, this id. Returns false if
    /// there is no such entry.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # let entry: nfct::Conntrack = unimplemented!();
    /// if !nfct::Query::open()?.delete(&entry)? {
    ///     println!("the connection has already ended");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `EINVAL` for a tuple that is not valid; otherwise the system's error.
    pub fn delete(&mut self, entry: &ConntrackRef) -> Result<bool, Error> {
        match self.send_entry(sys::IPCTNL_MSG_CT_DELETE, Operation::Delete, 0, entry) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes exactly this lifetime of a connection, by original tuple, zone and id.
    /// Returns false if it has already ended, even if a new connection has the same
    /// tuple.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Family, Query};
    /// let mut query = Query::open()?;
    /// let oldest = query.dump(Family::Any)?.flatten().min_by_key(|flow| flow.start);
    /// if let Some(flow) = oldest {
    ///     query.delete_flow(&flow)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for an original tuple with details of another protocol; otherwise the system's error.
    pub fn delete_flow(&mut self, flow: &Flow) -> Result<bool, Error> {
        self.remove(&flow.original, flow.id)
    }

    fn remove(&mut self, original: &Tuple, id: u32) -> Result<bool, Error> {
        original.check(Operation::Delete.doing())?;
        let sequence = self.channel.next_sequence();
        let flags = sys::NLM_F_REQUEST | sys::NLM_F_ACK;
        let family = Family::of(original.src).number();
        let mut request = MessageWriter::new(sys::IPCTNL_MSG_CT_DELETE, flags, sequence, family);
        request.tuple(sys::CTA_TUPLE_ORIG, original).attribute(sys::CTA_ID, &id.to_be_bytes());
        match self.channel.acknowledged(&request.finish(), sequence, Operation::Delete.doing()) {
            Ok(()) => Ok(true),
            Err(Refused::Kernel(libc::ENOENT)) => Ok(false),
            Err(refused) => Err(refused.into_error(|error| Operation::Delete.refused(error))),
        }
    }

    /// Removes all entries, or those of a [`Family`] or [`Selection`].
    ///
    /// This is one request if the kernel applies all conditions: without a condition, or
    /// from Linux 6.8 on with family, mark, status and a zone other than 0. Otherwise
    /// the entries are read and removed one by one, so no other entry is removed.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Query, Selection};
    /// Query::open()?.flush(Selection::all().mark(7, u32::MAX))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN; otherwise the system's error.
    pub fn flush(&mut self, selection: impl Into<Selection>) -> Result<(), Error> {
        const DOING: &str = "flushing the conntrack table";
        let selection = selection.into();
        let everything = selection == Selection::all();
        let at_once = selection.is_complete_for_flush() && socket::kernel_version() >= FLUSHES_SELECTED;
        if !everything && !at_once {
            return self.flush_one_by_one(&selection);
        }
        let sequence = self.channel.next_sequence();
        let flags = sys::NLM_F_REQUEST | sys::NLM_F_ACK;
        let family = selection.wire_family().number();
        let mut request = MessageWriter::new(sys::IPCTNL_MSG_CT_DELETE, flags, sequence, family);
        selection.write(request.use_family());
        let answer = self.channel.acknowledged(&request.finish(), sequence, DOING);
        answer.map_err(|refused| refused.into_error(|error| Error::from_plain_request(DOING, error)))
    }

    /// Removes the entries of a dump. Entries that begin after the dump has passed their
    /// hash bucket remain.
    fn flush_one_by_one(&mut self, selection: &Selection) -> Result<(), Error> {
        const AT_ONCE: usize = 65_536;
        loop {
            let mut dump = self.dump(selection)?;
            let found: Vec<Flow> = dump.by_ref().take(AT_ONCE).collect::<Result<_, _>>()?;
            let last = found.len() < AT_ONCE;
            dump.abandon();
            let mut removed = 0_usize;
            for flow in &found {
                removed += usize::from(self.delete_flow(flow)?);
            }
            if last || removed == 0 {
                return Ok(());
            }
        }
    }

    fn put(&mut self, operation: Operation, flags: u32, entry: &ConntrackRef) -> Result<(), Error> {
        self.send_entry(sys::IPCTNL_MSG_CT_NEW, operation, flags, entry)
    }

    /// Sends an entry and waits for the acknowledgement.
    fn send_entry(
        &mut self,
        message: u32,
        operation: Operation,
        flags: u32,
        entry: &ConntrackRef,
    ) -> Result<(), Error> {
        let sequence = self.channel.next_sequence();
        let flags = sys::NLM_F_REQUEST | sys::NLM_F_ACK | flags;
        let doing = operation.doing();
        let buffer = self.message.get_or_insert_with(MessageBuffer::new);
        let request = buffer.write(entry, message, flags, sequence, doing)?;
        let answer = self.channel.acknowledged(request, sequence, doing);
        answer.map_err(|refused| refused.into_error(|error| operation.refused(error)))
    }

    /// Reads a new entry back to see whether the kernel kept its labels, and
    /// removes it if not. Does nothing for an entry without labels.
    fn check_labels(&mut self, operation: Operation, entry: &ConntrackRef) -> Result<(), Error> {
        let has_labels =
            |entry: &ConntrackRef| entry.labels().is_some_and(|labels| labels.iter().next().is_some());
        let Some(original) = entry.original().filter(|_| has_labels(entry)) else { return Ok(()) };
        match self.get(Direction::Original, &original)? {
            Some(created) if !has_labels(&created) => {
                if let Some(id) = created.id() {
                    self.remove(&original, id)?;
                }
                Err(operation.refused(io::Error::from_raw_os_error(libc::ENOSPC)))
            }
            _ => Ok(()),
        }
    }
}
