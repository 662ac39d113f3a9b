//! The rules that mask events: `ct event set` of nftables, and the target CT of
//! iptables-nft.
//!
//! A rule is a list of expressions. `ct event set` is an expression `ct` that writes a
//! register into the mask of a connection, after an expression that loads the register.
//! Constants are those of `linux/netfilter/nf_tables.h`, `nf_tables_compat.h` and
//! `xt_CT.h`.

use std::fmt;

use crate::wire::{Attributes, Malformed, Message, u32_be, u32_ne, u64_be};

/// `nlmsg_type` of the request for all rules.
pub(crate) const GET_RULES: u16 = ((libc::NFNL_SUBSYS_NFTABLES << 8) | libc::NFT_MSG_GETRULE) as u16;
/// `nlmsg_type` of a rule.
pub(crate) const RULE: u16 = ((libc::NFNL_SUBSYS_NFTABLES << 8) | libc::NFT_MSG_NEWRULE) as u16;
/// The types of messages that say that rules are gone, alone or with what contained them.
pub(crate) const REMOVALS: [u16; 3] = [
    ((libc::NFNL_SUBSYS_NFTABLES << 8) | libc::NFT_MSG_DELRULE) as u16,
    ((libc::NFNL_SUBSYS_NFTABLES << 8) | libc::NFT_MSG_DELCHAIN) as u16,
    ((libc::NFNL_SUBSYS_NFTABLES << 8) | libc::NFT_MSG_DELTABLE) as u16,
];

const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFTA_CT_SREG: u16 = 4;
const NFTA_TARGET_NAME: u16 = 1;
const NFTA_TARGET_INFO: u16 = 3;

/// `IPCT_NEW`, `IPCT_RELATED` and `IPCT_DESTROY` of `enum ip_conntrack_events`.
const BEGIN_AND_END: u32 = 0b111;

/// A rule that limits the events of the connections that it matches.
///
/// ```no_run
/// for rule in nfct::Query::open()?.event_masks()? {
///     if !rule.lets_through_begin_and_end() {
///         println!("connections can be missing: {rule}");
///     }
/// }
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct EventMask {
    /// The family of the table, as a number of the kernel: 1 (`NFPROTO_INET`) for inet,
    /// 2 for ip, 10 for ip6.
    pub family: u8,
    /// The table.
    pub table: String,
    /// The chain. It need not be in use.
    pub chain: String,
    /// The rule's number, as in `nft -a list ruleset`.
    pub handle: u64,
    /// A bit for each kind of event that passes, numbered as in
    /// `enum ip_conntrack_events`: 1 for a new connection, 2 for a new connection that
    /// was expected, 4 for the end of a connection. `None` if the rule computes the mask,
    /// for example with a map.
    pub mask: Option<u32>,
}

impl EventMask {
    /// Whether the kernel reports the begin and the end of every connection that the
    /// rule matches. It does if the mask has the events new, related and destroy: the
    /// kernel reports the begin of an expected connection as related. False if the mask
    /// is not known.
    ///
    /// ```no_run
    /// let masks = nfct::Query::open()?.event_masks()?;
    /// let complete = masks.iter().all(|rule| rule.lets_through_begin_and_end());
    /// println!("{}", if complete { "all connections are reported" } else { "some may be missing" });
    /// # Ok::<_, nfct::Error>(())
    /// ```
    pub fn lets_through_begin_and_end(&self) -> bool {
        self.mask.is_some_and(|mask| mask & BEGIN_AND_END == BEGIN_AND_END)
    }
}

/// Names the rule and its mask. `nft delete rule inet filter input handle 5` removes
/// "rule 5 of chain input in table inet filter".
impl fmt::Display for EventMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} of chain {} in table ", self.handle, self.chain)?;
        match i32::from(self.family) {
            libc::NFPROTO_INET => f.write_str("inet")?,
            libc::NFPROTO_IPV4 => f.write_str("ip")?,
            libc::NFPROTO_IPV6 => f.write_str("ip6")?,
            libc::NFPROTO_ARP => f.write_str("arp")?,
            libc::NFPROTO_NETDEV => f.write_str("netdev")?,
            libc::NFPROTO_BRIDGE => f.write_str("bridge")?,
            other => write!(f, "family {other}")?,
        }
        write!(f, " {} ", self.table)?;
        match self.mask {
            Some(mask) => write!(f, "sets the event mask {mask:#x}"),
            None => f.write_str("sets an event mask that is not a constant"),
        }
    }
}

/// The masks that one rule sets.
pub(crate) struct RuleMasks(pub(crate) Vec<EventMask>);

impl RuleMasks {
    pub(crate) const DOING: &str = "reading the rules of nftables";

    /// Reads a rule. Allocates nothing if it sets no mask.
    pub(crate) fn read(message: &Message<'_>) -> Result<Self, Malformed> {
        let (mut table, mut chain, mut handle, mut expressions) = (&[][..], &[][..], 0, &[][..]);
        for attribute in message.attributes()? {
            match attribute? {
                (NFTA_RULE_TABLE, value) => table = value,
                (NFTA_RULE_CHAIN, value) => chain = value,
                (NFTA_RULE_HANDLE, value) => handle = u64_be(NFTA_RULE_HANDLE, value)?,
                (NFTA_RULE_EXPRESSIONS, value) => expressions = value,
                _ => {}
            }
        }
        let family = message.payload.first().copied().unwrap_or(0);
        let text = |value| String::from_utf8_lossy(until_zero(value)).into_owned();
        let mut masks = Vec::new();
        let mut registers = Registers::default();
        for element in Attributes::new(expressions) {
            if let Some(mask) = read_expression(element?.1, &mut registers)? {
                let (table, chain) = (text(table), text(chain));
                masks.push(EventMask { family, table, chain, handle, mask });
            }
        }
        Ok(Self(masks))
    }
}

/// The mask that an expression sets, if it sets one: `Some(None)` if it is not known.
fn read_expression(element: &[u8], registers: &mut Registers) -> Result<Option<Option<u32>>, Malformed> {
    let [name, data] = two(element, [NFTA_EXPR_NAME, NFTA_EXPR_DATA])?;
    match until_zero(name.unwrap_or_default()) {
        b"immediate" => {
            registers.load(data.unwrap_or_default())?;
            return Ok(None);
        }
        b"ct" => {
            let [key, source] = two(data.unwrap_or_default(), [NFTA_CT_KEY, NFTA_CT_SREG])?;
            let key = key.map(|value| u32_be(NFTA_CT_KEY, value)).transpose()?;
            let source = source.map(|value| u32_be(NFTA_CT_SREG, value)).transpose()?;
            if let Some(register) = source.filter(|_| key == Some(libc::NFT_CT_EVENTMASK as u32)) {
                return Ok(Some(registers.get(register)));
            }
        }
        b"target" => {
            let [name, info] = two(data.unwrap_or_default(), [NFTA_TARGET_NAME, NFTA_TARGET_INFO])?;
            if until_zero(name.unwrap_or_default()) == b"CT" {
                return read_target(info.unwrap_or_default());
            }
        }
        _ => {}
    }
    // It may write a register.
    *registers = Registers::default();
    Ok(None)
}

/// The mask that the target CT gives to a connection (`struct xt_ct_target_info`, and
/// later revisions with the same begin).
fn read_target(info: &[u8]) -> Result<Option<Option<u32>>, Malformed> {
    let Some(masks) = info.get(4..12) else { return Err(Malformed::Size(NFTA_TARGET_INFO)) };
    let (events, expect_events) = (u32_ne(masks, 0), u32_ne(masks, 4));
    // With a mask for the events of expectations alone, the mask for those of connections is empty.
    Ok((events != 0 || expect_events != 0).then_some(Some(events)))
}

/// What expressions have loaded into the registers: 16 words in host byte order.
#[derive(Default)]
struct Registers([Option<u32>; 16]);

impl Registers {
    /// The first word of a register. The four registers with 16 bytes share their memory with those of 4 bytes.
    fn word(register: u32) -> Option<usize> {
        match i32::try_from(register).ok()? {
            register @ libc::NFT_REG_1..=libc::NFT_REG_4 => Some((register - libc::NFT_REG_1) as usize * 4),
            register @ libc::NFT_REG32_00..=libc::NFT_REG32_15 => {
                Some((register - libc::NFT_REG32_00) as usize)
            }
            _ => None,
        }
    }

    fn get(&self, register: u32) -> Option<u32> {
        self.0[Self::word(register)?]
    }

    /// Loads what an expression `immediate` contains.
    fn load(&mut self, data: &[u8]) -> Result<(), Malformed> {
        let [register, value] = two(data, [NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA])?;
        let register = u32_be(NFTA_IMMEDIATE_DREG, register.unwrap_or_default())?;
        // A verdict is not in a register that can be read.
        let Some(first) = Self::word(register) else { return Ok(()) };
        let [value, _] = two(value.unwrap_or_default(), [NFTA_DATA_VALUE, 0])?;
        for (word, bytes) in self.0[first..].iter_mut().zip(value.unwrap_or_default().chunks(4)) {
            let mut padded = [0; 4];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = Some(u32::from_ne_bytes(padded));
        }
        Ok(())
    }
}

/// The values of two attributes.
fn two(bytes: &[u8], kinds: [u16; 2]) -> Result<[Option<&[u8]>; 2], Malformed> {
    let mut found = [None, None];
    for attribute in Attributes::new(bytes) {
        let (kind, value) = attribute?;
        if let Some(at) = kinds.iter().position(|wanted| *wanted == kind) {
            found[at] = Some(value);
        }
    }
    Ok(found)
}

/// A string of the kernel, which a zero ends.
fn until_zero(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
