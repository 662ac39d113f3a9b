//! The subsystem of expectations for the C library's handle.

use std::marker::PhantomData;
use std::ptr::NonNull;

use libc::c_void;
use nfct_sys as sys;

use super::attribute::ExpectAttribute;
use super::object::ExpectRef;
use crate::error::Error;
use crate::event::ExpectGroups;
use crate::family::Family;
use crate::handle::{Argument, Library, LibraryHandle, Prepared, Subsystem, sealed};
use crate::operation::ExpectOperation;

/// A connection to the kernel's expectations, opened by the C library, with safe
/// callbacks. It belongs to the network namespace of the thread that opened it.
///
/// The library sends tuples, mask, timeout, flags, zone and helper.
/// [`Query::create_expectation`](crate::Query::create_expectation) also sends
/// class, NAT and function.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Expect, ExpectGroups, ExpectHandle, ExpectRequest, Next, Tuple};
///
/// let mut handle = ExpectHandle::open(ExpectGroups::NEW | ExpectGroups::DESTROY)?;
/// handle.catch(|kind, expect| {
///     println!("{kind:?} {expect:?}");
///     Next::Stop
/// })?;
/// # let data: Tuple = unimplemented!();
/// let mut wanted = Expect::new()?;
/// wanted.set_expected(&data)?;
/// ExpectHandle::open(ExpectGroups::NONE)?.query(ExpectRequest::Get(&wanted), |_, found| {
///     println!("{:?} left", found.timeout());
///     Next::Continue
/// })?;
/// # Ok(())
/// # }
/// ```
pub type ExpectHandle = LibraryHandle<Expectations>;

/// The [`Subsystem`] of expectations.
///
/// ```no_run
/// use nfct::{ExpectGroups, ExpectHandle, Expectations, LibraryHandle};
/// let handle: LibraryHandle<Expectations> = ExpectHandle::open(ExpectGroups::NONE)?;
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug)]
pub enum Expectations {}

/// A request that the C library can send about expectations.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{ExpectGroups, ExpectHandle, ExpectRequest, Family, Next};
///
/// let mut handle = ExpectHandle::open(ExpectGroups::NONE)?;
/// handle.query(ExpectRequest::Dump(Family::Ipv4), |_, expect| {
///     println!("{expect}");
///     Next::Continue
/// })?;
/// handle.query(ExpectRequest::Flush, |_, _| Next::Continue)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum ExpectRequest<'a> {
    /// Create the expectation; `EEXIST` if it exists (`NFCT_Q_CREATE`).
    Create(&'a ExpectRef),
    /// Create the expectation or, if it exists, set its timeout
    /// (`NFCT_Q_CREATE_UPDATE`).
    CreateOrUpdate(&'a ExpectRef),
    /// Return the expectation with this expected tuple (`NFCT_Q_GET`).
    Get(&'a ExpectRef),
    /// Remove the expectation (`NFCT_Q_DESTROY`).
    Delete(&'a ExpectRef),
    /// Remove all expectations, of both families (`NFCT_Q_FLUSH`).
    Flush,
    /// Return all expectations (`NFCT_Q_DUMP`).
    Dump(Family),
}

impl sealed::Sealed for Expectations {}

impl Subsystem for Expectations {
    type Groups = ExpectGroups;
    type Object = ExpectRef;
    type Request<'a> = ExpectRequest<'a>;
    type Raw = sys::nf_expect;

    const LIBRARY: Library<Self> = Library {
        number: sys::NFNL_SUBSYS_CTNETLINK_EXP,
        opening: "opening a socket for expectations",
        subscribing: "subscribing to expectation events",
        receiving: "receiving expectation events",
        register: sys::nfexp_callback_register2,
        unregister: sys::nfexp_callback_unregister2,
        catch: sys::nfexp_catch,
        query: sys::nfexp_query,
        send: sys::nfexp_send,
    };

    fn bits(groups: ExpectGroups) -> u32 {
        groups.bits()
    }

    unsafe fn lend<'a>(raw: NonNull<sys::nf_expect>) -> &'a ExpectRef {
        // SAFETY: the caller vouches for the expectation.
        unsafe { ExpectRef::from_ptr(raw) }
    }

    fn prepare<'a>(request: Self::Request<'a>) -> Result<Prepared<'a>, Error> {
        use ExpectAttribute::{Expected, Mask, Master};
        match request {
            ExpectRequest::Create(expect) => {
                about(ExpectOperation::Create, sys::NFCT_Q_CREATE, expect, &[Master, Expected, Mask])
            }
            ExpectRequest::CreateOrUpdate(expect) => {
                let needed = [Master, Expected, Mask];
                about(ExpectOperation::CreateOrUpdate, sys::NFCT_Q_CREATE_UPDATE, expect, &needed)
            }
            ExpectRequest::Get(expect) => about(ExpectOperation::Get, sys::NFCT_Q_GET, expect, &[Expected]),
            ExpectRequest::Delete(expect) => {
                about(ExpectOperation::Delete, sys::NFCT_Q_DESTROY, expect, &[Expected])
            }
            ExpectRequest::Flush => {
                Ok(prepared(ExpectOperation::Flush, sys::NFCT_Q_FLUSH, of_family(Family::Any)))
            }
            ExpectRequest::Dump(family) => {
                Ok(prepared(ExpectOperation::Dump, sys::NFCT_Q_DUMP, of_family(family)))
            }
        }
    }
}

/// A request about one expectation. Checks the tuples that it needs: the library sends
/// only what is set, and a request to remove without a tuple removes every expectation.
fn about<'a>(
    operation: ExpectOperation,
    number: u32,
    expect: &'a ExpectRef,
    needed: &[ExpectAttribute],
) -> Result<Prepared<'a>, Error> {
    match needed.iter().find(|attribute| !expect.is_set(**attribute)) {
        None => {
            let object = expect.as_ptr().cast_const().cast::<c_void>();
            Ok(prepared(operation, number, Argument::Object(object, PhantomData)))
        }
        Some(lacking) => Err(Error::Invalid {
            doing: operation.doing(),
            found: format!("an expectation without {lacking:?}"),
            expected: "the expected tuple and, to create an expectation, also its master and mask",
        }),
    }
}

fn prepared(operation: ExpectOperation, number: u32, argument: Argument<'_>) -> Prepared<'_> {
    let refused = Box::new(move |error| operation.refused(error));
    Prepared { doing: operation.doing(), number, argument, refused }
}

/// The library reads one byte, the first.
fn of_family(family: Family) -> Argument<'static> {
    Argument::Family(u32::from_ne_bytes([family.number(), 0, 0, 0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect::Expect;
    use crate::handle::tests as library;

    #[test]
    fn a_panic_in_a_callback_stops_the_c_loop_and_does_not_cross_it() {
        let expect = Expect::new().unwrap();
        library::a_panic_stays_on_the_rust_side::<Expectations>(expect.as_ptr());
        library::a_stop_is_no_failure::<Expectations>(expect.as_ptr());
    }

    #[test]
    fn null_pointers_from_c_reach_no_callback() {
        library::null_pointers_reach_no_callback::<Expectations>(Expect::new().unwrap().as_ptr());
    }

    #[test]
    fn a_request_without_its_tuples_never_reaches_the_library() {
        let expect = Expect::new().unwrap();
        use ExpectRequest::{Create, CreateOrUpdate, Delete, Get};
        for request in [Create(&expect), CreateOrUpdate(&expect), Get(&expect), Delete(&expect)] {
            let refused = Expectations::prepare(request).err();
            assert!(matches!(refused, Some(Error::Invalid { .. })), "{refused:?}");
        }
    }

    #[test]
    fn a_handle_may_move_to_another_thread() {
        library::a_handle_may_move::<Expectations>();
    }
}
