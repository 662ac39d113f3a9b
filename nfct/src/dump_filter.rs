//! The C library's filter for dumps and flushes, built from a [`Selection`].

use std::ffi::CStr;
use std::ptr::NonNull;

use libc::c_void;
use nfct_sys as sys;

use crate::error::Error;
use crate::family::Family;
use crate::selection::{Selection, SelectionFields};

/// `NFCT_FILTER_DUMP_ZONE`. The headers have it since 1.1.0.
const FILTER_DUMP_ZONE: u32 = 3;
/// The function that sets it. The library has it since 1.1.0.
const SET_U16: &CStr = c"nfct_filter_dump_set_attr_u16";

type SetU16 = unsafe extern "C" fn(*mut sys::nfct_filter_dump, u32, u16);

/// `struct nfct_filter_dump`.
pub(crate) struct DumpFilter {
    raw: NonNull<sys::nfct_filter_dump>,
}

impl DumpFilter {
    /// # Errors
    /// [`Error::Library`] for a zone if the library is older than 1.1.0,
    /// [`Error::Invalid`] for conditions that no release of the library supports.
    pub(crate) fn new(selection: &Selection, doing: &'static str) -> Result<Self, Error> {
        let SelectionFields { family, mark, status, zone, others } = selection.fields();
        if others {
            return Err(Error::Invalid {
                doing,
                found: "a protocol, address, port or network".to_owned(),
                expected: "family, mark, status and zone, which the C library supports (Query supports all)",
            });
        }
        // SAFETY: takes nothing; NULL means no memory and is checked next.
        let raw = unsafe { sys::nfct_filter_dump_create() };
        let filter = Self { raw: NonNull::new(raw).ok_or_else(|| Error::last(doing))? };
        if family != Family::Any {
            let (attribute, family) = (sys::NFCT_FILTER_DUMP_L3NUM, family.number());
            // SAFETY: a live filter, and an attribute of eight bits.
            unsafe { sys::nfct_filter_dump_set_attr_u8(filter.as_ptr(), attribute, family) }
        }
        for (attribute, bits) in [(sys::NFCT_FILTER_DUMP_MARK, mark), (sys::NFCT_FILTER_DUMP_STATUS, status)]
        {
            let Some((val, mask)) = bits else { continue };
            let bits = sys::nfct_filter_dump_mark { val: val & mask, mask };
            let data = (&raw const bits).cast::<c_void>();
            // SAFETY: a live filter; the library copies the structure that both attributes have.
            unsafe { sys::nfct_filter_dump_set_attr(filter.as_ptr(), attribute, data) }
        }
        if let Some(zone) = zone {
            let set = set_u16().ok_or(Error::Library {
                doing,
                needs: "1.1.0",
                lacks: "nfct_filter_dump_set_attr_u16, which selects by zone",
            })?;
            // SAFETY: a live filter, and an attribute of sixteen bits that this library knows.
            unsafe { set(filter.as_ptr(), FILTER_DUMP_ZONE, zone) }
        }
        Ok(filter)
    }

    /// The filter for a flush. A library before 1.1.0 reads the filter's first byte as
    /// a family, and removes all entries of that family.
    pub(crate) fn for_flush(selection: &Selection, doing: &'static str) -> Result<Self, Error> {
        let filter = Self::new(selection, doing)?;
        let lacks = "nfct_filter_dump_set_attr_u16, and flushes too much when it gets a filter";
        set_u16().map(|_| filter).ok_or(Error::Library { doing, needs: "1.1.0", lacks })
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::nfct_filter_dump {
        self.raw.as_ptr()
    }
}

impl Drop for DumpFilter {
    fn drop(&mut self) {
        // SAFETY: it came from nfct_filter_dump_create and is never used again.
        unsafe { sys::nfct_filter_dump_destroy(self.raw.as_ptr()) }
    }
}

/// The function, if the loaded library has it. If it were linked, the program
/// would not start with an older library.
fn set_u16() -> Option<SetU16> {
    // SAFETY: a string that ends with NUL; only searches loaded libraries.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, SET_U16.as_ptr()) };
    if found.is_null() {
        return None;
    }
    // SAFETY: a pointer to the function of that name, which has had this type in every release that has it.
    Some(unsafe { std::mem::transmute::<*mut c_void, SetU16>(found) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direction::{Direction, Endpoint};
    use crate::tuple::Protocol;

    /// The bytes that the library writes after the header and `struct nfgenmsg`.
    fn attributes(selection: &Selection) -> Result<Vec<u8>, Error> {
        let filter = DumpFilter::new(selection, "a test")?;
        let mut words = [0_u32; 64];
        words[0] = 20;
        // SAFETY: an aligned header with enough memory after it for a filter's few attributes, and a live filter.
        let result = unsafe { sys::nfct_nlmsg_build_filter(words.as_mut_ptr().cast(), filter.as_ptr()) };
        assert!(result >= 0);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Ok(bytes[20..words[0] as usize].to_vec())
    }

    #[test]
    fn the_library_sends_the_same_conditions() {
        let all = Selection::all;
        for selection in [
            all(),
            all().mark(0x12, 0xff),
            all().mark(3, u32::MAX).status(crate::Status::ASSURED, crate::Status::ASSURED),
            all().family(Family::Ipv4).status(crate::Status(0), crate::Status::SEEN_REPLY),
        ] {
            let mut request = crate::wire::MessageWriter::new(sys::IPCTNL_MSG_CT_GET, 0, 0, 0);
            selection.write(&mut request);
            assert_eq!(attributes(&selection).unwrap(), request.finish()[20..], "{selection:?}");
        }
    }

    #[test]
    fn an_old_library_is_an_error_and_no_crash() {
        let zone = Selection::all().zone(5);
        let mut request = crate::wire::MessageWriter::new(sys::IPCTNL_MSG_CT_GET, 0, 0, 0);
        zone.write(&mut request);
        match attributes(&zone) {
            Ok(attributes) => assert_eq!(attributes, request.finish()[20..]),
            Err(error) => {
                assert!(matches!(error, Error::Library { needs: "1.1.0", .. }), "{error}");
                assert!(crate::LIBRARY_VERSION.starts_with("1.0."), "{error}");
            }
        }
        let port = Selection::all().protocol(Protocol::Tcp).port(Direction::Original, Endpoint::Source, 1);
        let error = attributes(&port).unwrap_err();
        assert!(error.to_string().contains("expected family, mark, status and zone"), "{error}");
    }
}
