//! Asking the kernel about expectations.

use std::io;
use std::os::fd::AsFd;

use nfct_sys as sys;

use super::expectation::{Expectation, check_helper};
use crate::dump::{Dump, Entry};
use crate::error::Error;
use crate::query::{Query, Refused};
use crate::selection::{Family, Selection};
use crate::socket;
use crate::tuple::Tuple;
use crate::wire::{
    Message, Request, expectation_kind, name_expectation, plain_tuple, write_expectation, write_text,
    write_zone,
};

impl Query {
    /// Reads all expectations, as the kernel sends them.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// for expectation in nfct::Query::open()?.dump_expectations(nfct::Family::Any)? {
    ///     println!("{}", expectation?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN (from here or from the
    /// iterator), `EINVAL` without `nf_conntrack_netlink`.
    pub fn dump_expectations(&mut self, family: Family) -> Result<Dump<'_, Expectation>, Error> {
        self.start_expectations(family, 0, |_| ())
    }

    /// Reads the expectations of one connection, by its original tuple.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// let mut query = nfct::Query::open()?;
    /// let flows: Vec<_> = query.dump(nfct::Family::Any)?.collect::<Result<_, _>>()?;
    /// for flow in flows {
    ///     for expectation in query.dump_expectations_of(&flow.original)?.flatten() {
    ///         println!("{expectation}");
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// From the iterator: `ENOENT` where there is no such connection, `EINVAL`
    /// where it never had a helper.
    pub fn dump_expectations_of(&mut self, master: &Tuple) -> Result<Dump<'_, Expectation>, Error> {
        // A connection that expects nothing is answered with an acknowledgement
        // alone, and with nothing unless one is asked for.
        self.start_expectations(Family::of(master.src), sys::NLM_F_ACK, |request| {
            plain_tuple(request, sys::CTA_EXPECT_MASTER, master);
            write_zone(request, master.zone);
        })
    }

    fn start_expectations(
        &mut self,
        family: Family,
        flags: u32,
        fill: impl FnOnce(&mut Request),
    ) -> Result<Dump<'_, Expectation>, Error> {
        let sequence = self.next_sequence();
        let kind = expectation_kind(sys::IPCTNL_MSG_EXP_GET);
        let flags = sys::NLM_F_REQUEST | sys::NLM_F_DUMP | flags;
        let mut request = Request::of_kind(kind, flags, sequence, family.number());
        fill(&mut request);
        socket::send(self.handle.as_fd(), &request.finish())
            .map_err(|source| Error::from_io(DUMPING, source))?;
        Ok(Dump::new(self, sequence, None))
    }

    /// Asks for the one expectation of exactly this expected tuple, zone
    /// included; `None` when there is none.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Layer4, Protocol, Query, Tuple};
    /// let data = Tuple {
    ///     src: "192.168.7.2".parse().unwrap(),
    ///     dst: "198.51.100.1".parse().unwrap(),
    ///     protocol: Protocol::Tcp,
    ///     layer4: Layer4::Ports { src: 0, dst: 50000 },
    ///     zone: 0,
    /// };
    /// match Query::open()?.get_expectation(&data)? {
    ///     Some(expectation) => println!("{expectation}"),
    ///     None => println!("nobody expects {data}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As the system says.
    pub fn get_expectation(&mut self, expected: &Tuple) -> Result<Option<Expectation>, Error> {
        let (message, flags) = (sys::IPCTNL_MSG_EXP_GET, 0);
        let answer = self.ask_expectation(message, flags, Family::of(expected.src), GETTING, |request| {
            plain_tuple(request, sys::CTA_EXPECT_TUPLE, expected);
            write_zone(request, expected.zone);
        });
        match answer {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            answer => answer,
        }
    }

    /// Has the kernel expect a connection. Its master must be a connection in
    /// the kernel's table that has a helper; zone, NAT, flags, class, helper and
    /// function count, id and time-out do not: the kernel takes the helper's
    /// time-out.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Expectation, Query, Tuple};
    /// # let (control, data): (Tuple, Tuple) = unimplemented!();
    /// Query::open()?.create_expectation(&Expectation::new(control, data))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] where a name is too long or the tuples are of
    /// different families; `EEXIST` where it is expected already, `ENOENT`
    /// where there is no such master, `EOPNOTSUPP` where the master has no
    /// helper or the kernel none of this name, `EBUSY` where another one takes
    /// its place, `EMFILE` where the master expects as many as its helper may.
    pub fn create_expectation(&mut self, expectation: &Expectation) -> Result<(), Error> {
        self.put_expectation(expectation, sys::NLM_F_CREATE | sys::NLM_F_EXCL, CREATING)
    }

    /// Sets the time-out of an expectation. One that is not there yet is made,
    /// with the helper's time-out.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// let mut query = nfct::Query::open()?;
    /// let expected: Vec<_> = query.dump_expectations(nfct::Family::Any)?.collect::<Result<_, _>>()?;
    /// for mut expectation in expected {
    ///     expectation.timeout = Some(600);
    ///     query.update_expectation(&expectation)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`create_expectation`](Self::create_expectation) without `EEXIST`,
    /// and `ETIME` where it has just ended.
    pub fn update_expectation(&mut self, expectation: &Expectation) -> Result<(), Error> {
        self.put_expectation(expectation, sys::NLM_F_CREATE, UPDATING)
    }

    fn put_expectation(
        &mut self,
        expectation: &Expectation,
        flags: u32,
        doing: &'static str,
    ) -> Result<(), Error> {
        expectation.check(doing)?;
        let (message, flags) = (sys::IPCTNL_MSG_EXP_NEW, flags | sys::NLM_F_ACK);
        let fill = |request: &mut Request| write_expectation(request, expectation);
        self.ask_expectation(message, flags, expectation.family(), doing, fill).map(drop)
    }

    /// Has the kernel expect a connection no longer: the one of this expected
    /// tuple and zone and, where set, this id.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// let mut query = nfct::Query::open()?;
    /// let expected: Vec<_> = query.dump_expectations(nfct::Family::Any)?.collect::<Result<_, _>>()?;
    /// for expectation in expected.iter().filter(|expectation| expectation.helper.as_deref() == Some("sip")) {
    ///     query.delete_expectation(expectation)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `ENOENT` where there is none.
    pub fn delete_expectation(&mut self, expectation: &Expectation) -> Result<(), Error> {
        let (message, flags) = (sys::IPCTNL_MSG_EXP_DELETE, sys::NLM_F_ACK);
        let fill = |request: &mut Request| name_expectation(request, expectation);
        self.ask_expectation(message, flags, expectation.family(), DELETING, fill).map(drop)
    }

    /// Has the kernel expect nothing any more, in either family.
    ///
    /// ```no_run
    /// nfct::Query::open()?.flush_expectations()?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the system says.
    pub fn flush_expectations(&mut self) -> Result<(), Error> {
        let (message, flags) = (sys::IPCTNL_MSG_EXP_DELETE, sys::NLM_F_ACK);
        self.ask_expectation(message, flags, Family::Any, FLUSHING, |_| ()).map(drop)
    }

    /// Removes what one helper has the kernel expect: the expectations of every
    /// connection that this helper reads along in.
    ///
    /// ```no_run
    /// nfct::Query::open()?.flush_expectations_of("ftp")?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] where no helper can have this name.
    pub fn flush_expectations_of(&mut self, helper: &str) -> Result<(), Error> {
        check_helper(FLUSHING, helper)?;
        let (message, flags) = (sys::IPCTNL_MSG_EXP_DELETE, sys::NLM_F_ACK);
        let fill = |request: &mut Request| write_text(request, sys::CTA_EXPECT_HELP_NAME, helper);
        self.ask_expectation(message, flags, Family::Any, FLUSHING, fill).map(drop)
    }

    /// Sends one request and reads its answer: an expectation, or an
    /// acknowledgement.
    fn ask_expectation(
        &mut self,
        message: u32,
        flags: u32,
        family: Family,
        doing: &'static str,
        fill: impl FnOnce(&mut Request),
    ) -> Result<Option<Expectation>, Error> {
        let (kind, sequence) = (expectation_kind(message), self.next_sequence());
        let mut request = Request::of_kind(kind, sys::NLM_F_REQUEST | flags, sequence, family.number());
        fill(&mut request);
        let read = |message: &Message<'_>| {
            message.expectation().map(Some).map_err(|source| Error::Malformed { doing, source })
        };
        match self.transact(&request.finish(), sequence, doing, read) {
            Err(Refused::Kernel(0)) => Ok(None),
            answer => answer.map_err(|error| error.into_error(doing, refused)),
        }
    }
}

const DUMPING: &str = "reading expectations";
const GETTING: &str = "asking for one expectation";
const CREATING: &str = "making an expectation";
const UPDATING: &str = "changing an expectation";
const DELETING: &str = "removing an expectation";
const FLUSHING: &str = "removing expectations";

impl Entry for Expectation {
    fn is_in(kind: u16) -> bool {
        kind == expectation_kind(sys::IPCTNL_MSG_EXP_NEW)
    }

    fn read(message: &Message<'_>, _: Option<&Selection>) -> Result<Option<Self>, Error> {
        message.expectation().map(Some).map_err(|source| Error::Malformed { doing: DUMPING, source })
    }

    fn refused(error: io::Error) -> Error {
        refused(DUMPING, error)
    }
}

/// The answer to a message about one expectation, or about a master's.
pub(super) fn refused(doing: &'static str, source: io::Error) -> Error {
    let hint = match source.raw_os_error() {
        Some(libc::EEXIST) => "it is expected already",
        Some(libc::ENOENT) => "there is no such expectation, or no such master",
        Some(libc::EINVAL) => {
            "the master never had a helper, or the kernel has no such class or function, or no nf_conntrack_netlink"
        }
        Some(libc::EOPNOTSUPP) => "the master has no helper, or the kernel none of this name",
        Some(libc::EBUSY) => "something else is expected in its place",
        Some(libc::EMFILE) => {
            "its helper, or the kernel (net.netfilter.nf_conntrack_expect_max), expects as many as it may"
        }
        Some(libc::ETIME) => "it has just ended",
        _ => return Error::from_io(doing, source),
    };
    Error::system(doing, source, hint)
}
