//! Queries to the kernel: all entries, one entry, counts and statistics. The
//! submodule `change` creates, changes and removes entries, `each` looks up many
//! tuples at once, `rules` reads the rules that mask events.

mod change;
mod each;
mod rules;
#[cfg(test)]
mod tests;

use std::fmt;

use nfct_sys as sys;

use crate::channel::{Channel, Refused};
use crate::conntrack::Conntrack;
use crate::direction::Direction;
use crate::dump::{self, Dump, Entry};
use crate::error::Error;
use crate::family::Family;
use crate::flow::Flow;
use crate::message::MessageBuffer;
use crate::operation::Operation;
use crate::selection::Selection;
use crate::statistics::{Count, CpuStatistics, ExpectCpuStatistics};
use crate::tuple::Tuple;
use crate::wire::{Message, MessageWriter, expectation_kind, message_kind};

/// A socket for queries, in the network namespace of the thread that opened it.
///
/// An entry that does not exist is not an error for a lookup, which returns `None`,
/// nor for a removal, which returns `false`. It is an error (`ENOENT`) for a change,
/// and for an operation that depends on the entry.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Family, Query, Selection};
///
/// let mut query = Query::open()?;
/// println!("{} of at most {:?} entries", query.count()?.entries, query.count()?.limit);
/// for flow in query.dump(Selection::from(Family::Ipv4).zone(0))? {
///     println!("{}", flow?.original);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Query {
    pub(crate) channel: Channel,
    /// The buffer in which entries are written; allocated for the first one.
    message: Option<MessageBuffer>,
    /// The memory for the requests of [`find_each`](Self::find_each).
    requests: Vec<u8>,
}

impl Query {
    /// Opens the socket. Opening needs no capability, queries need CAP_NET_ADMIN.
    /// [`Namespace::enter`](crate::Namespace::enter) opens one in another network
    /// namespace.
    ///
    /// ```no_run
    /// let mut query = nfct::Query::open()?;
    /// # let _ = query;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the kernel has no netfilter netlink.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { channel: Channel::open()?, message: None, requests: Vec::new() })
    }

    /// Reads all entries, or those of a [`Family`] or [`Selection`], in constant
    /// memory: the kernel sends the next part when the iterator needs it. An entry that
    /// begins or ends during the dump may or may not be included. An entry that exists
    /// during the complete dump is included, unless the kernel's hash table is resized
    /// meanwhile (`nf_conntrack_buckets`).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Family, Query};
    /// for flow in Query::open()?.dump(Family::Any)? {
    ///     let flow = flow?;
    ///     println!("{} has the public address {}", flow.original, flow.reply.dst);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN (here or from the iterator),
    /// [`Error::Unsupported`] without `nf_conntrack_netlink`.
    pub fn dump(&mut self, selection: impl Into<Selection>) -> Result<Dump<'_>, Error> {
        self.dump_entries(sys::IPCTNL_MSG_CT_GET, selection.into())
    }

    /// As [`dump`](Self::dump), and sets the packet and byte counters of each entry to
    /// 0. The dump returns the counters before the reset.
    ///
    /// The kernel resets every entry that it reads. If it does not support a condition
    /// of the [`Selection`], it also reads entries that are not selected. It also reads
    /// ahead of the iterator.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Family, Query};
    /// for entry in Query::open()?.dump_and_reset(Family::Any)?.full() {
    ///     let entry = entry?;
    ///     println!("{:?}", entry.original());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`dump`](Self::dump).
    pub fn dump_and_reset(&mut self, selection: impl Into<Selection>) -> Result<Dump<'_>, Error> {
        self.dump_entries(sys::IPCTNL_MSG_CT_GET_CTRZERO, selection.into())
    }

    /// Reads the entries that have ended, but whose DESTROY event has not been
    /// delivered yet to a listener with reliable delivery
    /// ([`Events::set_reliable`](crate::Events::set_reliable)).
    ///
    /// ```no_run
    /// let mut query = nfct::Query::open()?;
    /// println!("{} events not delivered yet", query.dump_dying()?.count());
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`dump`](Self::dump).
    pub fn dump_dying(&mut self) -> Result<Dump<'_>, Error> {
        self.dump_entries(sys::IPCTNL_MSG_CT_GET_DYING, Selection::all())
    }

    /// Reads the entries whose first packet has not left yet. The dump is empty on
    /// kernels since 5.19, which keep no list of these entries.
    ///
    /// ```no_run
    /// let mut query = nfct::Query::open()?;
    /// println!("{} unconfirmed", query.dump_unconfirmed()?.count());
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`dump`](Self::dump).
    pub fn dump_unconfirmed(&mut self) -> Result<Dump<'_>, Error> {
        self.dump_entries(sys::IPCTNL_MSG_CT_GET_UNCONFIRMED, Selection::all())
    }

    /// Returns the number of entries and its limit.
    ///
    /// ```no_run
    /// let count = nfct::Query::open()?.count()?;
    /// println!("{} of {:?}", count.entries, count.limit);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN.
    pub fn count(&mut self) -> Result<Count, Error> {
        const DOING: &str = "counting the conntrack entries";
        let sequence = self.channel.next_sequence();
        let request =
            MessageWriter::new(sys::IPCTNL_MSG_CT_GET_STATS, sys::NLM_F_REQUEST, sequence, 0).finish();
        let read = |message: &Message<'_>| {
            Count::read(message).map_err(|source| Error::Malformed { doing: DOING, source })
        };
        let answer = self.channel.transact(&request, sequence, DOING, read);
        answer.map_err(|refused| refused.into_error(|error| Error::from_plain_request(DOING, error)))
    }

    /// Reads the counters of each processor.
    ///
    /// ```no_run
    /// for cpu in nfct::Query::open()?.cpu_statistics()? {
    ///     let cpu = cpu?;
    ///     println!("cpu {}: {} dropped, {} not inserted", cpu.cpu, cpu.drop, cpu.insert_failed);
    /// }
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`dump`](Self::dump).
    pub fn cpu_statistics(&mut self) -> Result<Dump<'_, CpuStatistics>, Error> {
        self.dump_kind(message_kind(sys::IPCTNL_MSG_CT_GET_STATS_CPU), Selection::all())
    }

    /// The number of resolved clashes between two packets of one new connection, on all
    /// processors since the network namespace was created. After a clash there can be an
    /// entry that no NEW event and no dump reports ([`Status::NAT_CLASH`](crate::Status::NAT_CLASH)).
    /// Kernels before 5.11 do not count them: then it is 0.
    ///
    /// Compare two results for equality: the counter of each processor wraps around after
    /// 4,294,967,295.
    ///
    /// ```no_run
    /// let mut query = nfct::Query::open()?;
    /// let before = query.clashes()?;
    /// println!("more: {}", query.clashes()? != before);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`dump`](Self::dump).
    pub fn clashes(&mut self) -> Result<u64, Error> {
        self.cpu_statistics()?.map(|cpu| cpu.map(|cpu| u64::from(cpu.clash_resolve))).sum()
    }

    /// Reads the counters of each processor for expectations.
    ///
    /// ```no_run
    /// for cpu in nfct::Query::open()?.expect_cpu_statistics()? {
    ///     let cpu = cpu?;
    ///     println!("cpu {}: {} expected connections", cpu.cpu, cpu.new);
    /// }
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`dump`](Self::dump).
    pub fn expect_cpu_statistics(&mut self) -> Result<Dump<'_, ExpectCpuStatistics>, Error> {
        self.dump_kind(expectation_kind(sys::IPCTNL_MSG_EXP_GET_STATS_CPU), Selection::all())
    }

    /// Looks up the entry whose reply tuple is `reply`, zone included. Returns
    /// `None` if there is none.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Query, Tuple};
    /// // Which inside host does the server 198.51.100.1:443 see as 100.64.2.1:40001?
    /// let reply = Tuple::tcp(([198, 51, 100, 1], 443), ([100, 64, 2, 1], 40001));
    /// if let Some(flow) = Query::open()?.get_by_reply(&reply)? {
    ///     println!("{}", flow.original.src);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a tuple with addresses of two families or details of another
    /// protocol, `EINVAL` for a tuple that the kernel does not accept; otherwise the
    /// system's error.
    pub fn get_by_reply(&mut self, reply: &Tuple) -> Result<Option<Flow>, Error> {
        self.find(Direction::Reply, reply)
    }

    /// Looks up the entry whose original tuple is `original`, zone included.
    /// Returns `None` if there is none.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # let tuple: nfct::Tuple = unimplemented!();
    /// let flow = nfct::Query::open()?.get_by_original(&tuple)?;
    /// println!("translated to {:?}", flow.map(|flow| flow.reply.dst));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`get_by_reply`](Self::get_by_reply).
    pub fn get_by_original(&mut self, original: &Tuple) -> Result<Option<Flow>, Error> {
        self.find(Direction::Original, original)
    }

    /// Looks up the entry that has this tuple in this direction, zone included,
    /// with every attribute that the kernel sends. Returns `None` if there is
    /// none.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Direction, Query};
    /// # let tuple: nfct::Tuple = unimplemented!();
    /// let entry = Query::open()?.get(Direction::Reply, &tuple)?;
    /// println!("{:?}", entry.and_then(|entry| entry.timeout()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`get_by_reply`](Self::get_by_reply).
    pub fn get(&mut self, direction: Direction, tuple: &Tuple) -> Result<Option<Conntrack>, Error> {
        self.find(direction, tuple)
    }

    fn find<T: Entry>(&mut self, direction: Direction, tuple: &Tuple) -> Result<Option<T>, Error> {
        const DOING: &str = Operation::Get.doing();
        tuple.check(DOING)?;
        let kind = match direction {
            Direction::Original => sys::CTA_TUPLE_ORIG,
            Direction::Reply => sys::CTA_TUPLE_REPLY,
        };
        let sequence = self.channel.next_sequence();
        let family = Family::of(tuple.src).number();
        let mut request = MessageWriter::new(sys::IPCTNL_MSG_CT_GET, sys::NLM_F_REQUEST, sequence, family);
        request.tuple(kind, tuple);
        // The kernel looks for the tuple in both directions, although the request names one.
        let read = |message: &Message<'_>| {
            let flow = message.flow().map_err(|source| Error::Malformed { doing: DOING, source })?;
            let (this_tuple, other_tuple) = match direction {
                Direction::Original => (&flow.original, &flow.reply),
                Direction::Reply => (&flow.reply, &flow.original),
            };
            if other_tuple == tuple && this_tuple != tuple { Ok(None) } else { T::read(message, None) }
        };
        match self.channel.transact(&request.finish(), sequence, DOING, read) {
            Err(Refused::Kernel(libc::ENOENT)) => Ok(None),
            answer => answer.map_err(|refused| refused.into_error(|error| Operation::Get.refused(error))),
        }
    }

    fn dump_entries(&mut self, message: u32, selection: Selection) -> Result<Dump<'_>, Error> {
        self.dump_kind(message_kind(message), selection)
    }

    fn dump_kind<T: Entry>(&mut self, kind: u16, selection: Selection) -> Result<Dump<'_, T>, Error> {
        let sequence = self.channel.next_sequence();
        let flags = sys::NLM_F_REQUEST | sys::NLM_F_DUMP;
        let mut request = MessageWriter::of_kind(kind, flags, sequence, selection.wire_family().number());
        selection.write(&mut request);
        self.channel.send(&request.finish()).map_err(|source| Error::from_io(dump::DOING, source))?;
        // Every kernel applies the family to a dump.
        let to_check = Some(selection).filter(|selection| !selection.is_family_only());
        Ok(Dump::new(&mut self.channel, sequence, to_check))
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query").finish_non_exhaustive()
    }
}
