//! Groups of attributes that are set and read together.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libc::c_void;
use nfct_sys as sys;

use super::table::{self as attr, Id};
use crate::conntrack::object::{Conntrack, ConntrackRef};
use crate::error::Error;
use crate::flow::Counters;
use crate::state::Layer3;

/// A value for the source and one for the destination.
///
/// ```
/// let ports = nfct::attr::Pair { src: 40000, dst: 443 };
/// assert_eq!(ports.dst, 443);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pair<T> {
    /// Source.
    pub src: T,
    /// Destination.
    pub dst: T,
}

/// What distinguishes ICMP connections.
///
/// ```
/// let echo = nfct::attr::Icmp { id: 77, kind: 8, code: 0 };
/// assert_eq!(echo.kind, 8);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Icmp {
    /// Identifier, host byte order.
    pub id: u16,
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
}

/// A group of attributes whose value is a `T`: a constant here, named as in the
/// C header without `ATTR_GRP_`.
///
/// ```
/// use nfct::{Conntrack, attr::{self, Group, Pair}};
///
/// let mut entry = Conntrack::new()?;
/// entry.set_group(Group::ORIG_IPV4, Pair { src: [10, 0, 0, 1].into(), dst: [192, 0, 2, 1].into() })?;
/// assert_eq!(entry.get(attr::ORIG_L3PROTO), Some(nfct::Layer3::Ipv4));
/// assert_eq!(entry.get_group(Group::ORIG_ADDR_DST), Some([192, 0, 2, 1].into()));
/// entry.unset_group(Group::ORIG_IPV4);
/// assert!(!entry.is_group_set(Group::ORIG_IPV4));
/// # Ok::<(), nfct::Error>(())
/// ```
pub struct Group<T> {
    number: u32,
    name: &'static str,
    read: fn(&ConntrackRef, u32) -> Option<T>,
    write: Option<fn(&mut Conntrack, u32, T)>,
    /// The protocol that must be set first. Without it the library marks the group as set, but discards
    /// the value.
    needs: Option<Id>,
    /// The attributes that it sets.
    members: &'static [Id],
}

impl<T> Group<T> {
    /// Its name in the C header.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// The header's number.
    pub const fn number(self) -> u32 {
        self.number
    }

    /// Whether only the kernel sets it.
    pub const fn is_read_only(self) -> bool {
        self.write.is_none()
    }
}

impl<T> Clone for Group<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Group<T> {}

impl<T> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! groups {
    ($type:ty, $read:expr, $write:expr; $( $(#[$doc:meta])* $name:ident = $number:ident needs $needs:expr, $($member:ident),*; )*) => {
        impl Group<$type> {
            $(
                $(#[$doc])*
                ///
                /// ```
                #[doc = concat!("assert_eq!(nfct::attr::Group::", stringify!($name), ".name(), \"", stringify!($number), "\");")]
                #[doc = concat!("assert_eq!(nfct::Conntrack::new()?.get_group(nfct::attr::Group::", stringify!($name), "), None);")]
                /// # Ok::<(), nfct::Error>(())
                /// ```
                pub const $name: Group<$type> = Group {
                    number: sys::$number,
                    name: stringify!($number),
                    read: $read,
                    write: $write,
                    needs: $needs,
                    members: &[$( attr::$member.id() ),*],
                };
            )*
        }
    };
}

groups! {
    Pair<Ipv4Addr>, read_ipv4, Some(write_ipv4);
    /// Addresses of the original tuple; setting them sets its network protocol.
    ORIG_IPV4 = ATTR_GRP_ORIG_IPV4 needs None, ORIG_IPV4_SRC, ORIG_IPV4_DST, ORIG_L3PROTO;
    /// Addresses of the reply tuple; setting them sets its network protocol.
    REPL_IPV4 = ATTR_GRP_REPL_IPV4 needs None, REPL_IPV4_SRC, REPL_IPV4_DST, REPL_L3PROTO;
    /// Addresses of the master's tuple; setting them sets its network protocol.
    MASTER_IPV4 = ATTR_GRP_MASTER_IPV4 needs None, MASTER_IPV4_SRC, MASTER_IPV4_DST, MASTER_L3PROTO;
}

groups! {
    Pair<Ipv6Addr>, read_ipv6, Some(write_ipv6);
    /// Addresses of the original tuple; setting them sets its network protocol.
    ORIG_IPV6 = ATTR_GRP_ORIG_IPV6 needs None, ORIG_IPV6_SRC, ORIG_IPV6_DST, ORIG_L3PROTO;
    /// Addresses of the reply tuple; setting them sets its network protocol.
    REPL_IPV6 = ATTR_GRP_REPL_IPV6 needs None, REPL_IPV6_SRC, REPL_IPV6_DST, REPL_L3PROTO;
    /// Addresses of the master's tuple; setting them sets its network protocol.
    MASTER_IPV6 = ATTR_GRP_MASTER_IPV6 needs None, MASTER_IPV6_SRC, MASTER_IPV6_DST, MASTER_L3PROTO;
}

groups! {
    Pair<u16>, read_ports, Some(write_ports);
    /// Ports of the original tuple, host byte order; its transport protocol must be set first.
    ORIG_PORT = ATTR_GRP_ORIG_PORT needs Some(attr::ORIG_L4PROTO.id()), ORIG_PORT_SRC, ORIG_PORT_DST;
    /// Ports of the reply tuple, host byte order; its transport protocol must be set first.
    REPL_PORT = ATTR_GRP_REPL_PORT needs Some(attr::REPL_L4PROTO.id()), REPL_PORT_SRC, REPL_PORT_DST;
    /// Ports of the master's tuple, host byte order; its transport protocol must be set first.
    MASTER_PORT = ATTR_GRP_MASTER_PORT needs Some(attr::MASTER_L4PROTO.id()), MASTER_PORT_SRC, MASTER_PORT_DST;
}

groups! {
    Icmp, read_icmp, Some(write_icmp);
    /// ICMP type, code and identifier of the original tuple; the reply's are derived from them.
    ICMP = ATTR_GRP_ICMP needs None, ICMP_TYPE, ICMP_CODE, ICMP_ID;
}

groups! {
    Counters, read_counters, None;
    /// Packets and bytes of the original direction. Read-only.
    ORIG_COUNTERS = ATTR_GRP_ORIG_COUNTERS needs None, ORIG_COUNTER_PACKETS, ORIG_COUNTER_BYTES;
    /// Packets and bytes of the reply direction. Read-only.
    REPL_COUNTERS = ATTR_GRP_REPL_COUNTERS needs None, REPL_COUNTER_PACKETS, REPL_COUNTER_BYTES;
}

groups! {
    IpAddr, read_address, None;
    /// Source address of the original tuple, of either family. Read-only.
    ORIG_ADDR_SRC = ATTR_GRP_ORIG_ADDR_SRC needs None, ORIG_L3PROTO, ORIG_IPV4_SRC, ORIG_IPV6_SRC;
    /// Destination address of the original tuple, of either family. Read-only.
    ORIG_ADDR_DST = ATTR_GRP_ORIG_ADDR_DST needs None, ORIG_L3PROTO, ORIG_IPV4_DST, ORIG_IPV6_DST;
    /// Source address of the reply tuple, of either family. Read-only.
    REPL_ADDR_SRC = ATTR_GRP_REPL_ADDR_SRC needs None, REPL_L3PROTO, REPL_IPV4_SRC, REPL_IPV6_SRC;
    /// Destination address of the reply tuple, of either family. Read-only.
    REPL_ADDR_DST = ATTR_GRP_REPL_ADDR_DST needs None, REPL_L3PROTO, REPL_IPV4_DST, REPL_IPV6_DST;
}

impl ConntrackRef {
    /// The value of a group, or `None` unless all of it is set.
    ///
    /// ```
    /// # use nfct::{Conntrack, attr::Group};
    /// assert_eq!(Conntrack::new()?.get_group(Group::REPL_PORT), None);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn get_group<T>(&self, group: Group<T>) -> Option<T> {
        if self.is_group_set(group) { (group.read)(self, group.number) } else { None }
    }

    /// Whether all attributes of a group are set; for an address, whether it is set in either family.
    ///
    /// ```
    /// # use nfct::{Conntrack, attr::Group};
    /// assert!(!Conntrack::new()?.is_group_set(Group::ICMP));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn is_group_set<T>(&self, group: Group<T>) -> bool {
        // SAFETY: a live object; the library rejects a number past its last group.
        unsafe { sys::nfct_attr_grp_is_set(self.as_ptr(), group.number) > 0 }
    }
}

impl Conntrack {
    /// Sets a group.
    ///
    /// ```
    /// # use nfct::{Conntrack, Counters, attr::{Group, Icmp}};
    /// let mut entry = Conntrack::new()?;
    /// entry.set_group(Group::ICMP, Icmp { id: 7, kind: 8, code: 0 })?;
    /// assert_eq!(entry.get_group(Group::ICMP), Some(Icmp { id: 7, kind: 8, code: 0 }));
    /// assert!(entry.set_group(Group::ORIG_COUNTERS, Counters::default()).is_err(), "read-only");
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ReadOnly`] for a group that only the kernel sets; [`Error::Invalid`] for ports if the
    /// transport protocol is not set: the library would mark them as set without a value.
    pub fn set_group<T>(&mut self, group: Group<T>, value: T) -> Result<&mut Self, Error> {
        let write = group.write.ok_or(Error::ReadOnly { attribute: group.name })?;
        if group.needs.is_some_and(|id| !self.has(id.number())) {
            return Err(Error::Invalid {
                doing: "setting ports as a group",
                found: "no transport protocol".to_owned(),
                expected: "an entry whose transport protocol is set first",
            });
        }
        for id in group.members {
            self.unset_overlapping(id.number());
        }
        write(self, group.number, value);
        for id in group.members {
            self.refresh_derived(id.number());
        }
        Ok(self)
    }

    /// Unsets all attributes of a group.
    ///
    /// ```
    /// # use nfct::{Conntrack, attr::Group};
    /// Conntrack::new()?.unset_group(Group::ORIG_PORT).unset_group(Group::ICMP);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn unset_group<T>(&mut self, group: Group<T>) -> &mut Self {
        // SAFETY: a live object that is borrowed for writing; the library rejects an unknown group.
        unsafe { sys::nfct_attr_grp_unset(self.as_ptr(), group.number) };
        self
    }
}

/// Has the library fill `G`, the C struct of this group.
fn fetch<G: Default>(entry: &ConntrackRef, group: u32) -> Option<G> {
    let mut value = G::default();
    let into = (&raw mut value).cast::<c_void>();
    // SAFETY: a live object, and memory for the struct that the header names for the group.
    let result = unsafe { sys::nfct_get_attr_grp(entry.as_ptr(), group, into) };
    (result == 0).then_some(value)
}

/// Has the library copy `value`, the C struct of this group.
fn store<G>(entry: &mut Conntrack, group: u32, value: G) {
    let from = (&raw const value).cast::<c_void>();
    // SAFETY: a live object that is borrowed for writing, and the struct that the header names.
    unsafe { sys::nfct_set_attr_grp(entry.as_ptr(), group, from) }
}

/// Four words of network bytes, as in `struct nfct_attr_grp_ipv6`.
fn words(address: Ipv6Addr) -> [u32; 4] {
    let octets = address.octets();
    std::array::from_fn(|word| u32::from_ne_bytes(std::array::from_fn(|byte| octets[word * 4 + byte])))
}

fn address(words: [u32; 4]) -> Ipv6Addr {
    let octets: [u8; 16] = std::array::from_fn(|byte| words[byte / 4].to_ne_bytes()[byte % 4]);
    Ipv6Addr::from(octets)
}

fn read_ipv4(entry: &ConntrackRef, group: u32) -> Option<Pair<Ipv4Addr>> {
    let [src, dst] = fetch::<[u32; 2]>(entry, group)?.map(|raw| Ipv4Addr::from(raw.to_ne_bytes()));
    Some(Pair { src, dst })
}

fn write_ipv4(entry: &mut Conntrack, group: u32, value: Pair<Ipv4Addr>) {
    let [src, dst] = [value.src, value.dst].map(|address| u32::from_ne_bytes(address.octets()));
    store(entry, group, sys::nfct_attr_grp_ipv4 { src, dst });
}

fn read_ipv6(entry: &ConntrackRef, group: u32) -> Option<Pair<Ipv6Addr>> {
    let [src, dst] = fetch::<[[u32; 4]; 2]>(entry, group)?.map(address);
    Some(Pair { src, dst })
}

fn write_ipv6(entry: &mut Conntrack, group: u32, value: Pair<Ipv6Addr>) {
    store(entry, group, sys::nfct_attr_grp_ipv6 { src: words(value.src), dst: words(value.dst) });
}

fn read_ports(entry: &ConntrackRef, group: u32) -> Option<Pair<u16>> {
    let [src, dst] = fetch::<[u16; 2]>(entry, group)?.map(u16::from_be);
    Some(Pair { src, dst })
}

fn write_ports(entry: &mut Conntrack, group: u32, value: Pair<u16>) {
    store(entry, group, sys::nfct_attr_grp_port { sport: value.src.to_be(), dport: value.dst.to_be() });
}

fn read_icmp(entry: &ConntrackRef, group: u32) -> Option<Icmp> {
    // The struct has no padding: identifier, code, type.
    let [id, code_and_kind] = fetch::<[u16; 2]>(entry, group)?;
    let [code, kind] = code_and_kind.to_ne_bytes();
    Some(Icmp { id: u16::from_be(id), kind, code })
}

fn write_icmp(entry: &mut Conntrack, group: u32, value: Icmp) {
    let Icmp { id, kind, code } = value;
    store(entry, group, sys::nfct_attr_grp_icmp { id: id.to_be(), code, type_: kind });
}

fn read_counters(entry: &ConntrackRef, group: u32) -> Option<Counters> {
    let [packets, bytes] = fetch::<[u64; 2]>(entry, group)?;
    Some(Counters { packets, bytes })
}

/// The library returns 16 bytes for both families: the tuple's network protocol determines how many count.
fn read_address(entry: &ConntrackRef, group: u32) -> Option<IpAddr> {
    let words = fetch::<[u32; 4]>(entry, group)?;
    let original = group == sys::ATTR_GRP_ORIG_ADDR_SRC || group == sys::ATTR_GRP_ORIG_ADDR_DST;
    let (layer3, v4) = match original {
        true => (attr::ORIG_L3PROTO, [attr::ORIG_IPV4_SRC, attr::ORIG_IPV4_DST]),
        false => (attr::REPL_L3PROTO, [attr::REPL_IPV4_SRC, attr::REPL_IPV4_DST]),
    };
    let is_v4 = match layer3.read(entry) {
        Some(layer3) => layer3 == Layer3::Ipv4,
        None => v4.into_iter().any(|address| entry.has(address.id().number())),
    };
    Some(if is_v4 { Ipv4Addr::from(words[0].to_ne_bytes()).into() } else { address(words).into() })
}
