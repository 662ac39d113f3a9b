//! Reading the table: the best match, all matches, everything.

use std::net::IpAddr;

use nfct::Protocol;

use super::entry::{Address, SlotState};
use super::family::FamilyTable;
use super::index::{ChainKey, IndexedBy, MAX_CHAIN_WALK, ProtocolClass};
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::{Doubt, Mapping};
use crate::question::{Question, one_address};
use crate::tuples::KeyValue;

/// More entries share a value than one hold of the lock may walk through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

/// The protocols whose public ports can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl<A: Address> FamilyTable<A> {
    pub(super) fn best(
        &self,
        key: Key,
        value: KeyValue,
        protocol: Option<Protocol>,
        accept: impl Fn(&Mapping) -> bool,
        now: Stamp,
    ) -> Result<Option<Mapping>, TooMany> {
        let Some(index) = self.index(IndexedBy::key(key)) else { return Err(TooMany) };
        let mut best: Option<Mapping> = None;
        for class in ProtocolClass::all_of(protocol).filter(|class| *class != ProtocolClass::Other) {
            // An address of the other family has no entries here.
            let Some(chain_key) = ChainKey::of_value(value, class) else { break };
            // No older entry, and none of a later class, can rank higher.
            let ranks_highest = |best: &Mapping| best.is_live() && best.is_source_nat();
            let mut walked = 0;
            for slot in index.walk(chain_key, &self.entries).take(MAX_CHAIN_WALK) {
                walked += 1;
                let is_match = |mapping: &Mapping| mapping.key(key) == Some(value) && accept(mapping);
                let found = self.visible(slot, now).filter(is_match);
                best = best.into_iter().chain(found).max_by_key(Mapping::rank);
                let entry = self.entries.get(slot);
                let is_last =
                    || best.is_some_and(|best| ranks_highest(&best) && best.age_rank() >= entry.age_rank());
                if index.is_ordered && entry.was_newest() && is_last() {
                    // The rest of the chain opened earlier.
                    break;
                }
            }
            if best.as_ref().is_some_and(ranks_highest) {
                break;
            }
            if walked == MAX_CHAIN_WALK {
                return Err(TooMany);
            }
        }
        Ok(best)
    }

    pub(super) fn find(&self, question: &Question, now: Stamp) -> Option<Vec<Mapping>> {
        let (nat_ip, src_ip) = (one_address(question.nat_ip), one_address(question.src_ip));
        let (by, address, port) = match (nat_ip, question.nat_port, src_ip, question.src_port) {
            (Some(_), Some(_), ..) => (IndexedBy::NatIpAndPort, nat_ip, question.nat_port),
            (_, _, Some(_), Some(_)) => (IndexedBy::SrcIpAndPort, src_ip, question.src_port),
            (_, Some(_), ..) => (IndexedBy::NatPort, None, question.nat_port),
            (_, _, Some(_), _) => (IndexedBy::SrcIp, src_ip, None),
            _ => return None,
        };
        let index = self.index(by)?;
        let mut found = Vec::new();
        let mut walked = 0;
        for class in ProtocolClass::all_of(question.protocol) {
            // An address of the other family has no entries here.
            let Some(key) = ChainKey::new(address, port, class) else { break };
            let chain = index.walk(key, &self.entries);
            // The chains of public ports have the ends of translated sources only.
            let forwards = matches!(by, IndexedBy::NatIpAndPort | IndexedBy::NatPort)
                .then(|| self.forwards(question, class))
                .into_iter()
                .flatten()
                .filter(|slot| !index.has_key(*slot, key, &self.entries));
            for slot in chain.chain(forwards) {
                walked += 1;
                if walked == MAX_CHAIN_WALK {
                    return None;
                }
                found.extend(self.visible(slot, now).filter(|mapping| question.matches(mapping)));
            }
        }
        Some(found)
    }

    /// The slots of connections that may have begun outside to the question's public
    /// end.
    fn forwards(&self, question: &Question, class: ProtocolClass) -> impl Iterator<Item = u32> + use<'_, A> {
        let address = |network| one_address(network).and_then(A::from_ip);
        let (public, peer) = (address(question.nat_ip), address(question.peer_ip));
        let peer_port = question.peer_port;
        let walk = move |port| self.forwards.walk(class, port, public, peer, peer_port);
        question.nat_port.into_iter().flat_map(walk)
    }

    pub(super) fn scan_some(
        &self,
        from: u32,
        max: usize,
        now: Stamp,
        mut on: impl FnMut(Mapping) -> bool,
    ) -> Option<u32> {
        let (slice, next) = self.slice(from);
        let mut wanted = 0;
        for slot in slice {
            wanted += usize::from(self.visible(slot, now).is_some_and(&mut on));
            if wanted == max && slot + 1 < self.first_unused {
                return Some(slot + 1);
            }
        }
        next
    }

    /// A public port is counted at the newest of the live mappings that use it.
    /// Usually that is the entry itself, and no chain is walked. Walking a chain with
    /// many closed entries takes long, so it ends the slice early.
    pub(super) fn scan_ports(&self, from: u32, mut on: impl FnMut(IpAddr, Transport)) -> Option<u32> {
        let (slice, next) = self.slice(from);
        let Some(index) = self.index(IndexedBy::NatIpAndPort) else { return next };
        let mut walked = 0;
        for slot in slice {
            if let Some((address, transport)) = self.public_port(slot) {
                let newer = index.newer(slot).take(MAX_CHAIN_WALK).inspect(|_| walked += 1);
                if !{ newer }.any(|newer| self.public_port(newer).is_some()) {
                    on(address, transport);
                }
            }
            if walked > MAX_CHAIN_WALK && slot + 1 < self.first_unused {
                return Some(slot + 1);
            }
        }
        next
    }

    /// The public address and the protocol of a slot's mapping, if it is live,
    /// translated and of TCP or UDP.
    fn public_port(&self, slot: u32) -> Option<(IpAddr, Transport)> {
        let entry = self.entries.get(slot);
        if entry.state() != SlotState::Live || entry.reply.dst == entry.original.src {
            return None;
        }
        let transport = match entry.original.protocol() {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
            _ => return None,
        };
        Some((entry.reply.dst.into(), transport))
    }

    /// A slot's mapping, unless the slot is free or the mapping has expired.
    pub(super) fn visible(&self, slot: u32, now: Stamp) -> Option<Mapping> {
        let entry = self.entries.get(slot);
        let is_visible = match entry.state() {
            SlotState::Live => true,
            SlotState::Closed => now.since(entry.closed()) < self.del_delay,
            SlotState::Free | SlotState::Removed => false,
        };
        is_visible.then(|| {
            let is_live = entry.state() == SlotState::Live;
            entry.mapping(if is_live { self.doubt(slot, now) } else { Doubt::None })
        })
    }
}
