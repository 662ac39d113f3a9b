//! Queries for expectations.

use std::io;

use nfct_sys as sys;

use crate::channel::Refused;
use crate::dump::{Dump, Entry, sealed};
use crate::error::Error;
use crate::expectation::{Expectation, check_helper};
use crate::family::Family;
use crate::operation::ExpectOperation;
use crate::query::Query;
use crate::selection::Selection;
use crate::tuple::Tuple;
use crate::wire::{
    Message, MessageWriter, expectation_kind, name_expectation, plain_tuple, write_expectation, write_text,
    write_zone,
};

impl Query {
    /// Reads all expectations.
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
    /// [`Error::Permission`] without CAP_NET_ADMIN (here or from the iterator),
    /// `EINVAL` without `nf_conntrack_netlink`.
    pub fn dump_expectations(&mut self, family: Family) -> Result<Dump<'_, Expectation>, Error> {
        self.start_expectations(family, 0, |_| ())
    }

    /// Reads the expectations of the connection with this original tuple.
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
    /// From the iterator: `ENOENT` if there is no such connection, `EINVAL` if it never
    /// had a helper.
    pub fn dump_expectations_of(&mut self, master: &Tuple) -> Result<Dump<'_, Expectation>, Error> {
        master.check(ExpectOperation::Dump.doing())?;
        // For a connection without expectations the kernel sends only an
        // acknowledgement, and only on request.
        self.start_expectations(Family::of(master.src), sys::NLM_F_ACK, |request| {
            plain_tuple(request, sys::CTA_EXPECT_MASTER, master);
            write_zone(request, master.zone);
        })
    }

    fn start_expectations(
        &mut self,
        family: Family,
        flags: u32,
        fill: impl FnOnce(&mut MessageWriter),
    ) -> Result<Dump<'_, Expectation>, Error> {
        let sequence = self.channel.next_sequence();
        let kind = expectation_kind(sys::IPCTNL_MSG_EXP_GET);
        let flags = sys::NLM_F_REQUEST | sys::NLM_F_DUMP | flags;
        let mut request = MessageWriter::of_kind(kind, flags, sequence, family.number());
        fill(&mut request);
        self.channel
            .send(&request.finish())
            .map_err(|source| Error::from_io(ExpectOperation::Dump.doing(), source))?;
        Ok(Dump::new(&mut self.channel, sequence, None))
    }

    /// Looks up the expectation with exactly this expected tuple, zone included.
    /// Returns `None` if there is none.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Query, Tuple};
    /// let data = Tuple::tcp(([192, 168, 7, 2], 0), ([198, 51, 100, 1], 50000));
    /// match Query::open()?.get_expectation(&data)? {
    ///     Some(expectation) => println!("{expectation}"),
    ///     None => println!("{data} is not expected"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The system's error.
    pub fn get_expectation(&mut self, expected: &Tuple) -> Result<Option<Expectation>, Error> {
        let (operation, family) = (ExpectOperation::Get, Family::of(expected.src));
        expected.check(operation.doing())?;
        let answer = self.request_expectation(sys::IPCTNL_MSG_EXP_GET, 0, family, operation, |request| {
            plain_tuple(request, sys::CTA_EXPECT_TUPLE, expected);
            write_zone(request, expected.zone);
        });
        match answer {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            answer => answer,
        }
    }

    /// Creates an expectation. Its master must be a connection in the kernel's
    /// table that has a helper. The kernel uses zone, NAT, flags, class, helper and
    /// function. It ignores id and timeout: the helper determines the timeout.
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
    /// [`Error::Invalid`] if a name is too long or the tuples are of different families;
    /// `EEXIST` if the expectation exists, `ENOENT` if there is no such master,
    /// `EOPNOTSUPP` if the master has no helper or the kernel has no helper of this
    /// name, `EBUSY` if the expectation clashes with another one, `EMFILE` if the
    /// master has as many expectations as its helper allows.
    pub fn create_expectation(&mut self, expectation: &Expectation) -> Result<(), Error> {
        self.put_expectation(expectation, sys::NLM_F_CREATE | sys::NLM_F_EXCL, ExpectOperation::Create)
    }

    /// Sets the timeout of an expectation. One that does not exist yet is created,
    /// with the timeout of the helper.
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
    /// and `ETIME` if the expectation has just ended.
    pub fn update_expectation(&mut self, expectation: &Expectation) -> Result<(), Error> {
        self.put_expectation(expectation, sys::NLM_F_CREATE, ExpectOperation::Update)
    }

    fn put_expectation(
        &mut self,
        expectation: &Expectation,
        flags: u32,
        operation: ExpectOperation,
    ) -> Result<(), Error> {
        expectation.check(operation.doing())?;
        let (message, flags) = (sys::IPCTNL_MSG_EXP_NEW, flags | sys::NLM_F_ACK);
        let fill = |request: &mut MessageWriter| write_expectation(request, expectation);
        self.request_expectation(message, flags, expectation.family(), operation, fill).map(drop)
    }

    /// Removes the expectation with this expected tuple, zone and, if set, id. Returns
    /// false if there is no such expectation.
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
    /// The system's error.
    pub fn delete_expectation(&mut self, expectation: &Expectation) -> Result<bool, Error> {
        let (message, flags) = (sys::IPCTNL_MSG_EXP_DELETE, sys::NLM_F_ACK);
        let (operation, family) = (ExpectOperation::Delete, expectation.family());
        expectation.expected.check(operation.doing())?;
        let fill = |request: &mut MessageWriter| name_expectation(request, expectation);
        match self.request_expectation(message, flags, family, operation, fill) {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes all expectations, of both families.
    ///
    /// ```no_run
    /// nfct::Query::open()?.flush_expectations()?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error.
    pub fn flush_expectations(&mut self) -> Result<(), Error> {
        let (message, flags) = (sys::IPCTNL_MSG_EXP_DELETE, sys::NLM_F_ACK);
        self.request_expectation(message, flags, Family::Any, ExpectOperation::Flush, |_| ()).map(drop)
    }

    /// Removes all expectations of one helper.
    ///
    /// ```no_run
    /// nfct::Query::open()?.flush_expectations_of("ftp")?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] if no helper can have this name.
    pub fn flush_expectations_of(&mut self, helper: &str) -> Result<(), Error> {
        check_helper(ExpectOperation::Flush.doing(), helper)?;
        let (message, flags) = (sys::IPCTNL_MSG_EXP_DELETE, sys::NLM_F_ACK);
        let fill = |request: &mut MessageWriter| write_text(request, sys::CTA_EXPECT_HELP_NAME, helper);
        self.request_expectation(message, flags, Family::Any, ExpectOperation::Flush, fill).map(drop)
    }

    /// Sends one request and reads its answer: an expectation, or an
    /// acknowledgement.
    fn request_expectation(
        &mut self,
        message: u32,
        flags: u32,
        family: Family,
        operation: ExpectOperation,
        fill: impl FnOnce(&mut MessageWriter),
    ) -> Result<Option<Expectation>, Error> {
        let (kind, sequence) = (expectation_kind(message), self.channel.next_sequence());
        let doing = operation.doing();
        let mut request = MessageWriter::of_kind(kind, sys::NLM_F_REQUEST | flags, sequence, family.number());
        fill(&mut request);
        let read = |message: &Message<'_>| {
            message.expectation().map(Some).map_err(|source| Error::Malformed { doing, source })
        };
        match self.channel.transact(&request.finish(), sequence, doing, read) {
            Err(Refused::Kernel(0)) => Ok(None),
            answer => answer.map_err(|refused| refused.into_error(|error| operation.refused(error))),
        }
    }
}

impl sealed::Sealed for Expectation {}

impl Entry for Expectation {
    fn is_in(kind: u16) -> bool {
        kind == expectation_kind(sys::IPCTNL_MSG_EXP_NEW)
    }

    fn read(message: &Message<'_>, _: Option<&Selection>) -> Result<Option<Self>, Error> {
        let doing = ExpectOperation::Dump.doing();
        message.expectation().map(Some).map_err(|source| Error::Malformed { doing, source })
    }

    fn refused(error: io::Error) -> Error {
        ExpectOperation::Dump.refused(error)
    }
}
