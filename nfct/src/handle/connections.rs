//! The subsystem of connections for the C library's handle.

use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;

use libc::c_void;
use nfct_sys as sys;

use super::callback::Next;
use super::library::{Argument, Library, LibraryHandle, Prepared, Subsystem, sealed};
use crate::conntrack::ConntrackRef;
use crate::dump_filter::DumpFilter;
use crate::error::Error;
use crate::event::Groups;
use crate::family::Family;
use crate::message::MessageBuffer;
use crate::operation::Operation;
use crate::selection::Selection;

/// A connection to the kernel's connection tracking, opened by the C library,
/// with safe callbacks. It belongs to the network namespace of the thread that
/// opened it.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Family, Groups, Handle, Next};
///
/// let mut handle = Handle::open(Groups::NEW)?;
/// let mut left = 10;
/// handle.catch(|kind, entry| {
///     println!("{kind:?} {:?}", entry.original());
///     left -= 1;
///     if left == 0 { Next::Stop } else { Next::Continue }
/// })?;
/// # Ok(())
/// # }
/// ```
pub type Handle = LibraryHandle<Connections>;

/// The [`Subsystem`] of connections.
///
/// ```no_run
/// let handle: nfct::LibraryHandle<nfct::Connections> = nfct::Handle::open(nfct::Groups::NONE)?;
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug)]
pub enum Connections {}

/// A request that the C library can send about connections
/// (`enum nf_conntrack_query`).
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Family, Groups, Handle, Next, Request, Selection};
///
/// let mut handle = Handle::open(Groups::NONE)?;
/// let marked = Selection::from(Family::Ipv4).mark(7, u32::MAX);
/// handle.query(Request::DumpFilter(marked), |_, entry| {
///     println!("{:?}", entry.original());
///     Next::Continue
/// })?;
/// handle.query(Request::Flush, |_, _| Next::Continue)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Request<'a> {
    /// Create the entry; `EEXIST` if it exists (`NFCT_Q_CREATE`).
    Create(&'a ConntrackRef),
    /// Change the entry; `ENOENT` if it does not exist (`NFCT_Q_UPDATE`).
    Update(&'a ConntrackRef),
    /// Create the entry or, if it exists, change it (`NFCT_Q_CREATE_UPDATE`).
    CreateOrUpdate(&'a ConntrackRef),
    /// Remove the entry (`NFCT_Q_DESTROY`).
    Delete(&'a ConntrackRef),
    /// Return the entry with this original tuple (`NFCT_Q_GET`).
    Get(&'a ConntrackRef),
    /// Remove all entries, of both families: the library's request makes the
    /// kernel ignore the family (`NFCT_Q_FLUSH`).
    Flush,
    /// Remove the selected entries (`NFCT_Q_FLUSH_FILTER`). Needs library 1.1.0 or
    /// newer. A kernel that does not support a condition removes more;
    /// [`Query::flush`](crate::Query::flush) never does, and works with any library.
    FlushFilter(Selection),
    /// Return all entries (`NFCT_Q_DUMP`).
    Dump(Family),
    /// Return all entries and set their counters to 0 (`NFCT_Q_DUMP_RESET`).
    DumpReset(Family),
    /// Return the selected entries (`NFCT_Q_DUMP_FILTER`). A kernel that does not
    /// support a condition returns more; [`Query::dump`](crate::Query::dump)
    /// never does.
    DumpFilter(Selection),
    /// Return the selected entries and set their counters to 0
    /// (`NFCT_Q_DUMP_FILTER_RESET`).
    DumpFilterReset(Selection),
}

impl sealed::Sealed for Connections {}

impl Subsystem for Connections {
    type Groups = Groups;
    type Object = ConntrackRef;
    type Request<'a> = Request<'a>;
    type Raw = sys::nf_conntrack;

    const LIBRARY: Library<Self> = Library {
        number: sys::NFNL_SUBSYS_CTNETLINK,
        opening: "opening a conntrack socket",
        subscribing: "subscribing to conntrack events",
        receiving: "receiving conntrack events",
        register: sys::nfct_callback_register2,
        unregister: sys::nfct_callback_unregister2,
        catch: sys::nfct_catch,
        query: sys::nfct_query,
        send: sys::nfct_send,
    };

    fn bits(groups: Groups) -> u32 {
        groups.bits()
    }

    unsafe fn lend<'a>(raw: NonNull<sys::nf_conntrack>) -> &'a ConntrackRef {
        // SAFETY: the caller vouches for the object.
        unsafe { ConntrackRef::from_ptr(raw) }
    }

    fn prepare<'a>(request: Self::Request<'a>) -> Result<Prepared<'a>, Error> {
        match request {
            Request::Create(entry) => about(Operation::Create, sys::NFCT_Q_CREATE, entry),
            Request::Update(entry) => about(Operation::Update, sys::NFCT_Q_UPDATE, entry),
            Request::CreateOrUpdate(entry) => {
                about(Operation::CreateOrUpdate, sys::NFCT_Q_CREATE_UPDATE, entry)
            }
            Request::Delete(entry) => about(Operation::Delete, sys::NFCT_Q_DESTROY, entry),
            Request::Get(entry) => about(Operation::Get, sys::NFCT_Q_GET, entry),
            Request::Flush => Ok(plain(FLUSHING, sys::NFCT_Q_FLUSH, of_family(Family::Any))),
            Request::FlushFilter(selection) => {
                let filter = DumpFilter::for_flush(&selection, FLUSHING)?;
                Ok(plain(FLUSHING, sys::NFCT_Q_FLUSH_FILTER, Argument::Filter(filter)))
            }
            Request::Dump(family) => Ok(plain(DUMPING, sys::NFCT_Q_DUMP, of_family(family))),
            Request::DumpReset(family) => Ok(plain(DUMPING, sys::NFCT_Q_DUMP_RESET, of_family(family))),
            Request::DumpFilter(selection) => selected(sys::NFCT_Q_DUMP_FILTER, &selection),
            Request::DumpFilterReset(selection) => selected(sys::NFCT_Q_DUMP_FILTER_RESET, &selection),
        }
    }
}

const FLUSHING: &str = "flushing the conntrack table";
const DUMPING: &str = "reading all conntrack entries";

/// A request about one entry.
fn about(operation: Operation, number: u32, entry: &ConntrackRef) -> Result<Prepared<'_>, Error> {
    check_size(operation, entry)?;
    let object = entry.as_ptr().cast_const().cast::<c_void>();
    Ok(Prepared {
        doing: operation.doing(),
        number,
        argument: Argument::Object(object, PhantomData),
        refused: Box::new(move |error| operation.refused(error)),
    })
}

fn plain<'a>(doing: &'static str, number: u32, argument: Argument<'a>) -> Prepared<'a> {
    let refused = Box::new(move |error| Error::from_plain_request(doing, error));
    Prepared { doing, number, argument, refused }
}

fn selected(number: u32, selection: &Selection) -> Result<Prepared<'static>, Error> {
    let filter = DumpFilter::new(selection, DUMPING)?;
    Ok(plain(DUMPING, number, Argument::Filter(filter)))
}

/// The library reads four bytes.
fn of_family(family: Family) -> Argument<'static> {
    Argument::Family(family.number().into())
}

/// Rejects an entry that does not fit into the library's buffer: it writes entries into
/// 4 KiB on its stack without checking the size.
fn check_size(operation: Operation, entry: &ConntrackRef) -> Result<(), Error> {
    const LARGEST: usize = 4096;
    let mut buffer = MessageBuffer::new();
    let length = buffer.write(entry, sys::IPCTNL_MSG_CT_NEW, 0, 0, operation.doing())?.len();
    if length <= LARGEST {
        return Ok(());
    }
    Err(operation.refused(io::Error::from_raw_os_error(libc::EMSGSIZE)))
}

impl Handle {
    /// Passes each entry of the kernel's table to `callback`, until it returns
    /// [`Next::Stop`]. Consumes the handle: the unread rest of a stopped dump is
    /// discarded with it.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Family, Groups, Handle, Next};
    /// let mut any = None;
    /// Handle::open(Groups::NONE)?.dump(Family::Any, |entry| {
    ///     any = entry.original();
    ///     Next::Stop
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN; otherwise the system's error.
    ///
    /// # Panics
    /// If `callback` panics: the panic continues after the C library has returned.
    pub fn dump(self, family: Family, callback: impl FnMut(&ConntrackRef) -> Next) -> Result<(), Error> {
        self.query_once(Request::Dump(family), callback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::Conntrack;
    use crate::handle::library::tests as library;

    #[test]
    fn a_panic_in_a_callback_stops_the_c_loop_and_does_not_cross_it() {
        let entry = Conntrack::new().unwrap();
        library::a_panic_stays_on_the_rust_side::<Connections>(entry.as_ptr());
        library::a_stop_is_no_failure::<Connections>(entry.as_ptr());
    }

    #[test]
    fn null_pointers_from_c_reach_no_callback() {
        library::null_pointers_reach_no_callback::<Connections>(Conntrack::new().unwrap().as_ptr());
    }

    #[test]
    fn a_handle_may_move_to_another_thread() {
        library::a_handle_may_move::<Connections>();
    }
}
