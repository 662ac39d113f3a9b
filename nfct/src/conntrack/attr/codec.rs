//! How the library's object stores the values of attributes: one module for each kind of value, with
//! `read` and `write`.
//!
//! The C getters and setters trust the caller to pass the right width. Here the width is fixed next to the
//! type, and `table` names the kind of each attribute.

use std::ffi::{CStr, CString};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use libc::c_char;
use nfct_sys as sys;

use crate::conntrack::object::{Conntrack, ConntrackRef};
use crate::error::Error;
use crate::labels::Labels;

/// The library stores 16 bytes of a helper's name, including the zero byte at its end.
const LONGEST_NAME: usize = sys::NFCT_HELPER_NAME_MAX as usize - 1;

/// A kind that the library hands over by value.
macro_rules! number {
    ($kind:ident: $type:ty = $get:ident, $set:ident, $from:expr, $to:expr) => {
        pub(super) mod $kind {
            use super::*;

            pub(crate) fn read(entry: &ConntrackRef, number: u32) -> Option<$type> {
                if !entry.has(number) {
                    return None;
                }
                // SAFETY: a live object with this attribute set, and the table names its width.
                let value = unsafe { sys::$get(entry.as_ptr(), number) };
                Some($from(value))
            }

            pub(crate) fn write(entry: &mut Conntrack, number: u32, value: $type) -> Result<(), Error> {
                // SAFETY: a live object that is borrowed for writing, and the table names its width.
                unsafe { sys::$set(entry.as_ptr(), number, $to(value)) };
                Ok(())
            }
        }
    };
}

/// A kind of eight bits with names.
macro_rules! named {
    ($($kind:ident: $type:path;)*) => {
        $( number!($kind: $type = nfct_get_attr_u8, nfct_set_attr_u8, <$type>::from, <$type>::number); )*
    };
}

number!(u8: u8 = nfct_get_attr_u8, nfct_set_attr_u8, u8::from, u8::from);
number!(u16: u16 = nfct_get_attr_u16, nfct_set_attr_u16, u16::from, u16::from);
number!(u32: u32 = nfct_get_attr_u32, nfct_set_attr_u32, u32::from, u32::from);
number!(u64: u64 = nfct_get_attr_u64, nfct_set_attr_u64, u64::from, u64::from);
// Network byte order in the object.
number!(port: u16 = nfct_get_attr_u16, nfct_set_attr_u16, u16::from_be, u16::to_be);
number!(i32: i32 = nfct_get_attr_u32, nfct_set_attr_u32, i32_from, i32_to);
number!(ipv4: Ipv4Addr = nfct_get_attr_u32, nfct_set_attr_u32, ipv4_from, ipv4_to);
number!(seconds: Duration = nfct_get_attr_u32, nfct_set_attr_u32, seconds_from, seconds_to);
number!(time: SystemTime = nfct_get_attr_u64, nfct_set_attr_u64, time_from, time_to);
number!(status: crate::state::Status = nfct_get_attr_u32, nfct_set_attr_u32, crate::state::Status, status_to);
number!(tcp_flags: crate::state::TcpFlags = nfct_get_attr_u8, nfct_set_attr_u8, crate::state::TcpFlags, flags_to);
named! {
    layer3: crate::state::Layer3;
    protocol: crate::tuple::Protocol;
    tcp_state: crate::state::TcpState;
    sctp_state: crate::state::SctpState;
    dccp_state: crate::state::DccpState;
    dccp_role: crate::state::DccpRole;
}

fn i32_from(raw: u32) -> i32 {
    raw as i32
}

fn i32_to(value: i32) -> u32 {
    value as u32
}

fn ipv4_from(raw: u32) -> Ipv4Addr {
    Ipv4Addr::from(raw.to_ne_bytes())
}

fn ipv4_to(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

fn seconds_from(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

fn seconds_to(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

fn time_from(nanoseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}

fn time_to(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn status_to(status: crate::state::Status) -> u32 {
    status.0
}

fn flags_to(flags: crate::state::TcpFlags) -> u8 {
    flags.0
}

pub(super) mod ipv6 {
    use super::*;

    pub(crate) fn read(entry: &ConntrackRef, number: u32) -> Option<Ipv6Addr> {
        let value = entry.pointer(number)?.cast::<[u8; 16]>();
        // SAFETY: an IPv6 attribute points to 16 bytes inside the object, which is not changed while
        // it is borrowed.
        let octets = unsafe { value.as_ref() };
        Some(Ipv6Addr::from(*octets))
    }

    pub(crate) fn write(entry: &mut Conntrack, number: u32, value: Ipv6Addr) -> Result<(), Error> {
        // SAFETY: the 16 bytes of an IPv6 address.
        unsafe { entry.set_pointer(number, value.octets().as_ptr().cast()) };
        Ok(())
    }
}

pub(super) mod text {
    use super::*;

    pub(crate) fn read(entry: &ConntrackRef, number: u32) -> Option<String> {
        let value = entry.pointer(number)?.cast::<c_char>();
        // SAFETY: a text attribute points to a C string of the object, which is not changed while it
        // is borrowed.
        let text = unsafe { CStr::from_ptr(value.as_ptr()) };
        Some(text.to_string_lossy().into_owned())
    }

    pub(crate) fn write(entry: &mut Conntrack, number: u32, value: String) -> Result<(), Error> {
        let invalid = |found| Error::Invalid {
            doing: "setting a helper's name",
            found,
            expected: "at most 15 bytes, none of them zero",
        };
        if value.len() > LONGEST_NAME {
            return Err(invalid(format!("a name of {} bytes", value.len())));
        }
        let text = CString::new(value).map_err(|error| invalid(format!("{:?}", error.into_vec())))?;
        // SAFETY: a C string.
        unsafe { entry.set_pointer(number, text.as_ptr().cast()) };
        Ok(())
    }
}

pub(super) mod labels {
    use super::*;

    pub(crate) fn read(entry: &ConntrackRef, number: u32) -> Option<Labels> {
        let value = entry.pointer(number)?.cast::<sys::nfct_bitmask>();
        // SAFETY: a label attribute points to a live bitmask of the object.
        Some(unsafe { Labels::copy_of(value) })
    }

    pub(crate) fn write(entry: &mut Conntrack, number: u32, value: Labels) -> Result<(), Error> {
        // SAFETY: a bitmask that nothing else frees: the object takes it over and frees the one that it had.
        unsafe { entry.set_pointer(number, value.into_raw().as_ptr().cast()) };
        Ok(())
    }
}

pub(super) mod info {
    use super::*;

    pub(crate) fn read(entry: &ConntrackRef, _: u32) -> Option<Vec<u8>> {
        entry.helper_info()
    }

    pub(crate) fn write(entry: &mut Conntrack, _: u32, value: Vec<u8>) -> Result<(), Error> {
        entry.set_helper_info(&value)
    }
}
