//! Asking the kernel: all entries, one entry, or to make, change and remove some.

use std::io;
use std::os::fd::AsFd;

use nfct_sys as sys;

use crate::conntrack::{Conntrack, ConntrackRef};
use crate::dump::{self, Dump, Entry};
use crate::error::Error;
use crate::events::Groups;
use crate::flow::Flow;
use crate::handle::Handle;
use crate::kernel_filter::Direction;
use crate::message::MessageRoom;
use crate::selection::{Family, Selection};
use crate::socket;
use crate::statistics::{Count, CpuStatistics, ExpectCpuStatistics};
use crate::tuple::Tuple;
use crate::wire::{Message, Messages, Request, expectation_kind, message_kind};

/// The kernel fills at most 32 KiB of a dump at once, and only as much as the
/// largest buffer that it has seen on the socket.
const BUFFER: usize = 64 * 1024;

/// The first kernel that, told to remove entries by family, mark, status or
/// zone, minds all of these.
const FLUSHES_SELECTED: (u32, u32) = (6, 8);

/// A socket for questions, in the network namespace of the thread that opened it.
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
    pub(crate) handle: Handle,
    pub(crate) buffer: Box<[u8]>,
    room: Option<MessageRoom>,
    sequence: u32,
}

impl Query {
    /// Opens the socket. Asking needs CAP_NET_ADMIN, opening does not.
    /// [`Namespace::enter`](crate::Namespace::enter) opens one elsewhere.
    ///
    /// ```no_run
    /// let mut query = nfct::Query::open()?;
    /// # let _ = query;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsupported`] without netlink's netfilter protocol.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            handle: Handle::open(Groups::NONE)?,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            room: None,
            sequence: 0,
        })
    }

    /// Reads all entries, or those of a [`Family`] or [`Selection`], in constant
    /// memory: the kernel is asked for more as the iterator is read. An entry
    /// that begins or ends meanwhile may or may not show; one that lives all the
    /// time does, unless the kernel's hash table is resized meanwhile
    /// (`nf_conntrack_buckets`).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Family, Query};
    /// for flow in Query::open()?.dump(Family::Any)? {
    ///     let flow = flow?;
    ///     println!("{} -> seen outside as {}", flow.original, flow.reply.dst);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN (from here or from the
    /// iterator), [`Error::Unsupported`] without `nf_conntrack_netlink`.
    pub fn dump(&mut self, selection: impl Into<Selection>) -> Result<Dump<'_>, Error> {
        self.ask_for_entries(sys::IPCTNL_MSG_CT_GET, selection.into())
    }

    /// As [`dump`](Self::dump), and sets the packet and byte counters of each
    /// entry that the kernel reads to 0. The counters as they were are in
    /// [`Dump::full`].
    ///
    /// The kernel does so for each entry that it reads: of a [`Selection`]
    /// whose conditions it does not know, also for entries that are not among
    /// those selected, and ahead of what the iterator has handed out.
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
        self.ask_for_entries(sys::IPCTNL_MSG_CT_GET_CTRZERO, selection.into())
    }

    /// Reads the entries that have ended, but whose event a listener that asked
    /// for reliable delivery has not got yet; others are gone at once.
    ///
    /// ```no_run
    /// let mut query = nfct::Query::open()?;
    /// println!("{} wait for a listener", query.dump_dying()?.count());
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`dump`](Self::dump).
    pub fn dump_dying(&mut self) -> Result<Dump<'_>, Error> {
        self.ask_for_entries(sys::IPCTNL_MSG_CT_GET_DYING, Selection::all())
    }

    /// Reads the entries whose first packet has not left yet. Kernels since 5.19
    /// keep no list of them: it is empty there.
    ///
    /// ```no_run
    /// let mut query = nfct::Query::open()?;
    /// println!("{} on their way", query.dump_unconfirmed()?.count());
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`dump`](Self::dump).
    pub fn dump_unconfirmed(&mut self) -> Result<Dump<'_>, Error> {
        self.ask_for_entries(sys::IPCTNL_MSG_CT_GET_UNCONFIRMED, Selection::all())
    }

    /// How many entries there are, and may be.
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
        const DOING: &str = "asking how many conntrack entries there are";
        let sequence = self.next_sequence();
        let request = Request::new(sys::IPCTNL_MSG_CT_GET_STATS, sys::NLM_F_REQUEST, sequence, 0).finish();
        let read = |message: &Message<'_>| {
            Count::read(message).map_err(|source| Error::Malformed { doing: DOING, source })
        };
        self.transact(&request, sequence, DOING, read).map_err(|refused| refused.into_plain(DOING))
    }

    /// What each processor has counted.
    ///
    /// ```no_run
    /// for cpu in nfct::Query::open()?.cpu_statistics()? {
    ///     let cpu = cpu?;
    ///     println!("cpu {}: {} dropped, {} not put in", cpu.cpu, cpu.drop, cpu.insert_failed);
    /// }
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`dump`](Self::dump).
    pub fn cpu_statistics(&mut self) -> Result<Dump<'_, CpuStatistics>, Error> {
        self.ask_for(message_kind(sys::IPCTNL_MSG_CT_GET_STATS_CPU), Selection::all())
    }

    /// What each processor has counted about expectations.
    ///
    /// ```no_run
    /// for cpu in nfct::Query::open()?.expect_cpu_statistics()? {
    ///     let cpu = cpu?;
    ///     println!("cpu {}: {} came true", cpu.cpu, cpu.new);
    /// }
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`dump`](Self::dump).
    pub fn expect_cpu_statistics(&mut self) -> Result<Dump<'_, ExpectCpuStatistics>, Error> {
        self.ask_for(expectation_kind(sys::IPCTNL_MSG_EXP_GET_STATS_CPU), Selection::all())
    }

    /// Asks for the one entry whose reply tuple is `reply`, zone included;
    /// `None` when there is none.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Layer4, Protocol, Query, Tuple};
    /// // Who is behind 100.64.2.1:40001, as 198.51.100.1:443 sees it?
    /// let reply = Tuple {
    ///     src: "198.51.100.1".parse().unwrap(),
    ///     dst: "100.64.2.1".parse().unwrap(),
    ///     protocol: Protocol::Tcp,
    ///     layer4: Layer4::Ports { src: 443, dst: 40001 },
    ///     zone: 0,
    /// };
    /// if let Some(flow) = Query::open()?.get_by_reply(&reply)? {
    ///     println!("{}", flow.original.src);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As the system says.
    pub fn get_by_reply(&mut self, reply: &Tuple) -> Result<Option<Flow>, Error> {
        self.find(Direction::Reply, reply)
    }

    /// Asks for the one entry whose original tuple is `original`, zone
    /// included; `None` when there is none.
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
    /// As the system says.
    pub fn get_by_original(&mut self, original: &Tuple) -> Result<Option<Flow>, Error> {
        self.find(Direction::Original, original)
    }

    /// Asks for the one entry that has this tuple in this direction, zone
    /// included, with every attribute that the kernel sends.
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
    /// As the system says.
    pub fn get(&mut self, direction: Direction, tuple: &Tuple) -> Result<Option<Conntrack>, Error> {
        self.find(direction, tuple)
    }

    fn find<T: Entry>(&mut self, direction: Direction, tuple: &Tuple) -> Result<Option<T>, Error> {
        const DOING: &str = "asking for one conntrack entry";
        let kind = match direction {
            Direction::Original => sys::CTA_TUPLE_ORIG,
            Direction::Reply => sys::CTA_TUPLE_REPLY,
        };
        let sequence = self.next_sequence();
        let family = Family::of(tuple.src).number();
        let mut request = Request::new(sys::IPCTNL_MSG_CT_GET, sys::NLM_F_REQUEST, sequence, family);
        request.tuple(kind, tuple);
        // The kernel looks for the tuple in both directions, whichever it is told.
        let read = |message: &Message<'_>| {
            let flow = message.flow().map_err(|source| Error::Malformed { doing: DOING, source })?;
            let (this_way, other_way) = match direction {
                Direction::Original => (&flow.original, &flow.reply),
                Direction::Reply => (&flow.reply, &flow.original),
            };
            if other_way == tuple && this_way != tuple { Ok(None) } else { T::read(message, None) }
        };
        match self.transact(&request.finish(), sequence, DOING, read) {
            Err(Refused::Kernel(libc::ENOENT)) => Ok(None),
            answer => answer.map_err(|refused| refused.into_entry(DOING)),
        }
    }

    /// Puts an entry into the kernel's table.
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
    /// # Errors
    /// `EEXIST` where there is one already, `EINVAL` where something the kernel
    /// needs is missing (both tuples, a time-out, a TCP state).
    pub fn create(&mut self, entry: &ConntrackRef) -> Result<(), Error> {
        let flags = sys::NLM_F_CREATE | sys::NLM_F_EXCL;
        self.change(sys::IPCTNL_MSG_CT_NEW, flags, entry, "making a conntrack entry")
    }

    /// Changes an entry, named by its tuples, to what is set in `entry`: time-out,
    /// mark, status, state, labels and helper can be changed.
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
    /// `ENOENT` where there is none, `EBUSY` for status bits that can't be
    /// cleared.
    pub fn update(&mut self, entry: &ConntrackRef) -> Result<(), Error> {
        self.change(sys::IPCTNL_MSG_CT_NEW, 0, entry, "changing a conntrack entry")
    }

    /// Changes the entry, or makes it where there is none.
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
    /// As [`create`](Self::create) and [`update`](Self::update), but for
    /// `EEXIST` and `ENOENT`.
    pub fn create_or_update(&mut self, entry: &ConntrackRef) -> Result<(), Error> {
        const DOING: &str = "making or changing a conntrack entry";
        self.change(sys::IPCTNL_MSG_CT_NEW, sys::NLM_F_CREATE, entry, DOING)
    }

    /// Removes an entry, named by its original tuple and, where set, its id.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # let entry: nfct::Conntrack = unimplemented!();
    /// nfct::Query::open()?.delete(&entry)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `ENOENT` where there is none.
    pub fn delete(&mut self, entry: &ConntrackRef) -> Result<(), Error> {
        self.change(sys::IPCTNL_MSG_CT_DELETE, 0, entry, "removing a conntrack entry")
    }

    /// Removes exactly this life of a connection, by original tuple, zone and
    /// id; false when it has ended already.
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
    /// As the system says.
    pub fn delete_flow(&mut self, flow: &Flow) -> Result<bool, Error> {
        const DOING: &str = "removing a conntrack entry";
        let sequence = self.next_sequence();
        let flags = sys::NLM_F_REQUEST | sys::NLM_F_ACK;
        let family = Family::of(flow.original.src).number();
        let mut request = Request::new(sys::IPCTNL_MSG_CT_DELETE, flags, sequence, family);
        request.tuple(sys::CTA_TUPLE_ORIG, &flow.original).attribute(sys::CTA_ID, &flow.id.to_be_bytes());
        match self.acknowledged(&request.finish(), sequence, DOING) {
            Ok(()) => Ok(true),
            Err(Refused::Kernel(libc::ENOENT)) => Ok(false),
            Err(refused) => Err(refused.into_entry(DOING)),
        }
    }

    /// Removes all entries, or those of a [`Family`] or [`Selection`].
    ///
    /// One request where the kernel is known to mind all conditions (family,
    /// mark, status and a zone other than 0, from Linux 6.8); otherwise the
    /// entries are read and removed one by one, so that none is removed that
    /// is not among those selected.
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
    /// [`Error::Permission`] without CAP_NET_ADMIN; otherwise as the system says.
    pub fn flush(&mut self, selection: impl Into<Selection>) -> Result<(), Error> {
        const DOING: &str = "emptying the conntrack table";
        let selection = selection.into();
        let everything = selection == Selection::all();
        let at_once = selection.is_whole_for_flush() && socket::kernel_version() >= FLUSHES_SELECTED;
        if !everything && !at_once {
            return self.flush_one_by_one(selection);
        }
        let sequence = self.next_sequence();
        let flags = sys::NLM_F_REQUEST | sys::NLM_F_ACK;
        let family = selection.wire_family().number();
        let mut request = Request::new(sys::IPCTNL_MSG_CT_DELETE, flags, sequence, family);
        selection.write(request.mind_family());
        self.acknowledged(&request.finish(), sequence, DOING).map_err(|refused| refused.into_plain(DOING))
    }

    /// Entries that begin after the dump has passed their place are left.
    fn flush_one_by_one(&mut self, selection: Selection) -> Result<(), Error> {
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

    fn ask_for_entries(&mut self, message: u32, selection: Selection) -> Result<Dump<'_>, Error> {
        self.ask_for(message_kind(message), selection)
    }

    fn ask_for<T: Entry>(&mut self, kind: u16, selection: Selection) -> Result<Dump<'_, T>, Error> {
        let sequence = self.next_sequence();
        let flags = sys::NLM_F_REQUEST | sys::NLM_F_DUMP;
        let mut request = Request::of_kind(kind, flags, sequence, selection.wire_family().number());
        selection.write(&mut request);
        socket::send(self.handle.as_fd(), &request.finish())
            .map_err(|source| Error::from_io(dump::DOING, source))?;
        // Every kernel minds the family in a dump.
        let to_check = Some(selection).filter(|selection| !selection.is_family_only());
        Ok(Dump::new(self, sequence, to_check))
    }

    /// Sends an entry and waits for the acknowledgement.
    fn change(
        &mut self,
        message: u32,
        flags: u32,
        entry: &ConntrackRef,
        doing: &'static str,
    ) -> Result<(), Error> {
        let sequence = self.next_sequence();
        let mut room = self.room.take().unwrap_or_else(MessageRoom::new);
        let flags = sys::NLM_F_REQUEST | sys::NLM_F_ACK | flags;
        let result = room.write(entry, message, flags, sequence, doing).and_then(|request| {
            self.acknowledged(request, sequence, doing).map_err(|refused| refused.into_entry(doing))
        });
        self.room = Some(room);
        result
    }

    pub(crate) fn acknowledged(
        &mut self,
        request: &[u8],
        sequence: u32,
        doing: &'static str,
    ) -> Result<(), Refused> {
        match self.transact(request, sequence, doing, |_| Ok(())) {
            Err(Refused::Kernel(0)) => Ok(()),
            answer => answer,
        }
    }

    /// Sends a request and reads the one message that answers it.
    pub(crate) fn transact<T>(
        &mut self,
        request: &[u8],
        sequence: u32,
        doing: &'static str,
        read: impl Fn(&Message<'_>) -> Result<T, Error>,
    ) -> Result<T, Refused> {
        let system = |source| Refused::Here(Error::from_io(doing, source));
        socket::send(self.handle.as_fd(), request).map_err(system)?;
        loop {
            let length = socket::receive(self.handle.as_fd(), &mut self.buffer).map_err(system)?;
            for message in Messages::new(&self.buffer[..length]) {
                let message = message.map_err(|source| Refused::Here(Error::Malformed { doing, source }))?;
                if message.sequence != sequence {
                    continue;
                }
                return match message.errno() {
                    None => read(&message).map_err(Refused::Here),
                    Some(errno) => Err(Refused::Kernel(errno)),
                };
            }
        }
    }

    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

/// Why there is no answer.
pub(crate) enum Refused {
    /// The kernel's error number; 0 is an acknowledgement where an answer was expected.
    Kernel(i32),
    /// It did not come that far.
    Here(Error),
}

impl Refused {
    fn into_entry(self, doing: &'static str) -> Error {
        self.into_error(doing, Error::from_entry_request)
    }

    fn into_plain(self, doing: &'static str) -> Error {
        self.into_error(doing, Error::from_plain_request)
    }

    pub(crate) fn into_error(self, doing: &'static str, sort: fn(&'static str, io::Error) -> Error) -> Error {
        match self {
            Refused::Kernel(errno) => sort(doing, io::Error::from_raw_os_error(errno)),
            Refused::Here(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kernel_filter::End;
    use crate::{Layer4, Protocol, Status};

    /// Runs `test` in a fresh network namespace; not at all where none can be
    /// made and `CI` is not set.
    fn in_fresh_namespace(test: impl FnOnce() + Send + 'static) {
        let outcome =
            std::thread::spawn(move || match nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
                Ok(()) => test(),
                Err(error) => assert!(std::env::var_os("CI").is_none(), "CI must be able to: {error}"),
            });
        outcome.join().unwrap();
    }

    fn make(query: &mut Query, number: u16, zone: u16) {
        let tuple = |src: &str, dst: &str, ports: (u16, u16)| Tuple {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            protocol: Protocol::Udp,
            layer4: Layer4::Ports { src: ports.0, dst: ports.1 },
            zone,
        };
        let public = if number == 0 { "100.64.2.1" } else { "100.64.2.2" };
        let original = tuple("192.168.7.2", "198.51.100.1", (number, 53));
        let reply = tuple("198.51.100.1", public, (53, number));
        let mut entry = Conntrack::new().unwrap();
        entry.set_tuples(&original, &reply).unwrap().set_timeout(Duration::from_secs(100));
        let status = if number == 0 { Status::SEEN_REPLY } else { Status(0) };
        entry.set_mark(number.into()).set_status(Status::CONFIRMED | status);
        query.create(&entry).unwrap();
    }

    #[test]
    fn the_kernel_itself_leaves_out_what_its_version_can() {
        in_fresh_namespace(|| {
            let mut query = Query::open().unwrap();
            (0..5).for_each(|number| make(&mut query, number, number));
            let public = "100.64.2.1".parse().unwrap();
            let (udp, all) = (Selection::all().protocol(Protocol::Udp), Selection::all());
            for (since, selection) in [
                ((4, 0), all.mark(3, u32::MAX)),
                ((4, 0), all.mark(0, u32::MAX)),
                ((5, 8), all.address(Direction::Reply, End::Destination, public)),
                ((5, 8), udp.family(Family::Ipv4).port(Direction::Original, End::Source, 2)),
                ((5, 8), udp.family(Family::Ipv4).port(Direction::Reply, End::Destination, 2)),
                ((5, 15), all.status(Status::SEEN_REPLY, Status::SEEN_REPLY)),
                ((6, 8), all.zone(4)),
            ] {
                let mut dump = query.dump(selection).unwrap();
                dump.check_nothing();
                let sent = dump.count();
                let expected = if socket::kernel_version() >= since { 1 } else { 5 };
                assert_eq!(sent, expected, "{selection:?}");
            }
        });
    }

    #[test]
    fn an_interrupted_dump_is_told_and_one_that_makes_no_sense_goes_on() {
        let mut query = Query::open().unwrap();
        let message = |sequence, flags| {
            let mut request = Request::new(sys::IPCTNL_MSG_CT_NEW, flags, sequence, libc::AF_INET as u8);
            let address = "10.0.0.1".parse().unwrap();
            let layer4 = Layer4::Ports { src: 1, dst: 2 };
            let tuple = Tuple { src: address, dst: address, protocol: Protocol::Udp, layer4, zone: 0 };
            request.tuple(sys::CTA_TUPLE_ORIG, &tuple);
            (request, tuple)
        };
        let whole = |sequence, flags| {
            let (mut request, tuple) = message(sequence, flags);
            request.tuple(sys::CTA_TUPLE_REPLY, &tuple);
            request.finish()
        };
        let done = |flags| Request::of_kind(sys::NLMSG_DONE as u16, flags, 1, 0).finish();
        let interrupted = sys::NLM_F_DUMP_INTR;
        for (messages, is_interrupted) in [
            ([whole(1, 0), whole(1, 0), done(0)], false),
            ([whole(1, 0), whole(1, interrupted), done(0)], true),
            ([whole(1, 0), whole(1, 0), done(interrupted)], true),
        ] {
            let bytes = [whole(9, interrupted), messages.concat()].concat();
            query.buffer[..bytes.len()].copy_from_slice(&bytes);
            let mut dump: Dump<'_> = Dump::over(&mut query, 1, bytes.len());
            assert_eq!(dump.by_ref().filter(Result::is_ok).count(), 2, "another question's are left out");
            assert_eq!(dump.was_interrupted(), is_interrupted);
        }
        let bytes = [message(1, 0).0.finish(), whole(1, 0), done(0)].concat();
        query.buffer[..bytes.len()].copy_from_slice(&bytes);
        let read: Vec<_> =
            Dump::<'_, Flow>::over(&mut query, 1, bytes.len()).map(|entry| entry.is_ok()).collect();
        assert_eq!(read, [false, true]);
    }
}
