//! Reading the table: the best match, all matches, everything.

use std::net::IpAddr;
use std::ops::ControlFlow;

use nfct::Protocol;

use super::entry::SlotState;
use super::family::FamilyTable;
use super::heads::{ChainKey, IndexedBy, ProtocolClass};
use super::index::{ChainIndex, MAX_CHAIN_WALK, Unfinished};
use super::packed::{Address, PackedTuple};
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::{Doubt, Mapping};
use crate::question::{Question, StateFilter, one_address};
use crate::tuples::KeyValue;

/// The maximum number of zones in which a tuple is searched.
const MAX_ZONES: usize = 64;

/// The protocols whose tuples have ports, or keys in their place.
const WITH_PORTS: [Protocol; 6] =
    [Protocol::Tcp, Protocol::Udp, Protocol::UdpLite, Protocol::Sctp, Protocol::Dccp, Protocol::Gre];

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
        &mut self,
        key: Key,
        value: KeyValue,
        protocol: Option<Protocol>,
        accept: impl Fn(&Mapping) -> bool,
        now: Stamp,
    ) -> Result<Option<Mapping>, Unfinished> {
        let by = IndexedBy::key(key);
        let is_match = |mapping: &Mapping| mapping.key(key) == Some(value) && accept(mapping);
        let classes = || ProtocolClass::all_of(protocol).filter(|class| *class != ProtocolClass::Other);
        for class in classes() {
            // An address of the other family has no entries here.
            let Some(chain_key) = ChainKey::of_value(value, class) else { return Ok(None) };
            // The best slot, and what its mapping's rank depends on in this chain.
            let (mut best, mut best_rank) = (None, None);
            self.walk_live(by, chain_key, now, |this, slot| {
                let entry = this.entries.get(slot);
                let rank = (entry.is_source_nat(), entry.age_rank());
                if best_rank.is_none_or(|best| rank > best) && is_match(&this.mapping(slot)) {
                    (best, best_rank) = (Some(slot), Some(rank));
                }
                // The rest of the chain opened earlier.
                let is_last = |(is_source_nat, age)| is_source_nat && age >= rank.1;
                break_if(entry.was_newest() && best_rank.is_some_and(is_last))
            })?;
            // No closed one, and none of a later class, ranks higher.
            if let Some(slot) = best {
                return Ok(self.visible(slot, now));
            }
        }
        let mut best = None;
        for class in classes() {
            let Some(chain_key) = ChainKey::of_value(value, class) else { break };
            let found = self.closed(by, chain_key, now)?.filter(is_match);
            best = best.into_iter().chain(found).max_by_key(Mapping::rank);
        }
        Ok(best)
    }

    /// The mappings that match a question: all of them, or at least the newest `max` if more than
    /// these are live.
    pub(super) fn find(
        &mut self,
        question: &Question,
        max: usize,
        now: Stamp,
    ) -> Result<Vec<Mapping>, Unfinished> {
        if self.is_of_another_family(question) {
            return Ok(Vec::new());
        }
        if let Some(replies) = self.named_replies(question) {
            return self.find_by_tuple(question, &replies, max, now);
        }
        let (nat_ip, src_ip) = (one_address(question.nat_ip), one_address(question.src_ip));
        let (by, address, port) = match (nat_ip, question.nat_port, src_ip, question.src_port) {
            (Some(_), Some(_), ..) => (IndexedBy::NatIpAndPort, nat_ip, question.nat_port),
            (_, _, Some(_), Some(_)) => (IndexedBy::SrcIpAndPort, src_ip, question.src_port),
            (_, Some(_), ..) => (IndexedBy::NatPort, None, question.nat_port),
            (_, _, Some(_), _) => (IndexedBy::SrcIp, src_ip, None),
            _ => return Err(Unfinished::TooMany),
        };
        let keys: Vec<_> = ProtocolClass::all_of(question.protocol)
            // An address of the other family has no entries here.
            .filter_map(|class| ChainKey::new(address, port, class))
            .collect();
        let mut found = Vec::new();
        // The chains of public ports have the ends of translated sources only.
        if matches!(by, IndexedBy::NatIpAndPort | IndexedBy::NatPort) {
            let index = self.index(by).ok_or(Unfinished::NoIndex(by))?;
            let is_elsewhere = |slot: &u32| keys.iter().any(|key| index.has_key(*slot, *key, &self.entries));
            let forwards =
                ProtocolClass::all_of(question.protocol).flat_map(|class| self.forwards(question, class));
            for (walked, slot) in forwards.enumerate() {
                if walked == MAX_CHAIN_WALK {
                    return Err(Unfinished::TooMany);
                }
                if !is_elsewhere(&slot) {
                    found.extend(self.matching(slot, question, now));
                }
            }
        }
        for key in &keys {
            // The oldest of the live ones that were found in this chain, and their number.
            let (mut oldest, mut live) = ((u64::MAX, u32::MAX), 0);
            self.walk_live(by, *key, now, |this, slot| {
                if let Some(mapping) = this.matching(slot, question, now) {
                    oldest = oldest.min(mapping.age_rank());
                    live += 1;
                    found.push(mapping);
                }
                let entry = this.entries.get(slot);
                // The rest of the chain opened earlier.
                break_if(live > max && entry.was_newest() && oldest >= entry.age_rank())
            })?;
        }
        let live = found.iter().filter(|mapping| mapping.is_live()).count();
        if live <= max && question.state != StateFilter::Live {
            for key in keys {
                found.extend(self.closed(by, key, now)?.filter(|mapping| question.matches(mapping)));
            }
        }
        Ok(found)
    }

    /// The reply tuples of connections that began inside and match a question that names both
    /// ends; `None` if it does not.
    fn named_replies(&self, question: &Question) -> Option<Vec<PackedTuple<A>>> {
        let address = |network| one_address(network).and_then(A::from_ip);
        let reply = PackedTuple::with_ports(
            (address(question.peer_ip)?, question.peer_port?),
            (address(question.nat_ip)?, question.nat_port?),
        );
        let protocols = match &question.protocol {
            Some(protocol) => std::slice::from_ref(protocol),
            None => &WITH_PORTS,
        };
        if self.zones.len() > MAX_ZONES {
            return None;
        }
        let in_zones = |protocol: &Protocol| {
            let reply = reply.of_protocol(*protocol);
            self.zones_with_0().map(move |zone| reply.in_zone(zone))
        };
        Some(protocols.iter().flat_map(in_zones).collect())
    }

    /// The mappings that match a question that names both ends: of each reply tuple all, or the newest
    /// `max` and one more.
    fn find_by_tuple(
        &self,
        question: &Question,
        replies: &[PackedTuple<A>],
        max: usize,
        now: Stamp,
    ) -> Result<Vec<Mapping>, Unfinished> {
        let (mut found, mut walked) = (Vec::new(), 0);
        for reply in replies {
            let enough = found.len().saturating_add(max);
            for slot in self.tuple_index.all(reply, &self.entries) {
                walked += 1;
                if walked > MAX_CHAIN_WALK {
                    return Err(Unfinished::TooMany);
                }
                found.extend(self.matching(slot, question, now));
                if found.len() > enough {
                    break;
                }
            }
        }
        let forwards =
            ProtocolClass::all_of(question.protocol).flat_map(|class| self.forwards(question, class));
        for slot in forwards {
            walked += 1;
            if walked > MAX_CHAIN_WALK {
                return Err(Unfinished::TooMany);
            }
            if !replies.contains(&self.entries.get(slot).reply()) {
                found.extend(self.matching(slot, question, now));
            }
        }
        Ok(found)
    }

    /// Whether no mapping of this family can match, because the question names addresses of the other
    /// one.
    fn is_of_another_family(&self, question: &Question) -> bool {
        let Question { src_ip, nat_ip, peer_ip, dst_ip, server_ip, .. } = question;
        let networks = [src_ip, nat_ip, peer_ip, dst_ip, server_ip].into_iter().flatten();
        networks.into_iter().any(|network| A::from_ip(network.ip()).is_none())
    }

    /// Passes the live slots of a chain to `on`, until that breaks.
    fn walk_live(
        &mut self,
        by: IndexedBy,
        key: ChainKey<A>,
        now: Stamp,
        mut on: impl FnMut(&Self, u32) -> ControlFlow<()>,
    ) -> Result<(), Unfinished> {
        let is_this = |index: &ChainIndex| index.by == by && index.is_complete();
        let at = self.indexes.iter().position(is_this).ok_or(Unfinished::NoIndex(by))?;
        self.indexes[at].used_at = now.monotonic;
        let mut walk = self.indexes[at].begin_walk(key, &self.entries);
        while let Some(slot) = self.indexes[at].next_live(&mut walk, &self.entries)? {
            if on(self, slot).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The closed mappings of a chain, after all its live ones have been walked.
    fn closed(
        &self,
        by: IndexedBy,
        key: ChainKey<A>,
        now: Stamp,
    ) -> Result<impl Iterator<Item = Mapping> + use<'_, A>, Unfinished> {
        let index = self.index(by).ok_or(Unfinished::NoIndex(by))?;
        let slots: Vec<u32> = index.aside(key, &self.entries).take(MAX_CHAIN_WALK + 1).collect();
        if slots.len() > MAX_CHAIN_WALK {
            return Err(Unfinished::TooMany);
        }
        Ok(slots.into_iter().filter_map(move |slot| self.visible(slot, now)))
    }

    /// A slot's mapping, if it matches.
    fn matching(&self, slot: u32, question: &Question, now: Stamp) -> Option<Mapping> {
        self.visible_if(slot, now, |mapping| question.matches(mapping))
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
            if wanted == max && slot as usize + 1 < self.entries.len() {
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
            if walked > MAX_CHAIN_WALK && slot as usize + 1 < self.entries.len() {
                return Some(slot + 1);
            }
        }
        next
    }

    /// The public address and the protocol of a slot's mapping, if it is live,
    /// translated and of TCP or UDP.
    fn public_port(&self, slot: u32) -> Option<(IpAddr, Transport)> {
        let entry = self.entries.get(slot);
        let reply = entry.reply();
        if entry.state() != SlotState::Live || reply.dst == entry.original().src {
            return None;
        }
        let transport = match entry.protocol() {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
            _ => return None,
        };
        Some((reply.dst.into(), transport))
    }

    /// A slot's mapping, unless the slot is free or the mapping has expired.
    pub(super) fn visible(&self, slot: u32, now: Stamp) -> Option<Mapping> {
        self.visible_if(slot, now, |_| true)
    }

    /// [`visible`](Self::visible), if `accept` returns true for the mapping. Its doubt is computed last.
    fn visible_if(&self, slot: u32, now: Stamp, accept: impl Fn(&Mapping) -> bool) -> Option<Mapping> {
        let entry = self.entries.get(slot);
        let is_visible = match entry.state() {
            SlotState::Live => true,
            SlotState::Closed => entry.closed().age(now) < self.del_delay,
            SlotState::Free | SlotState::Removed => false,
        };
        let mapping = is_visible.then(|| self.mapping(slot)).filter(accept)?;
        let doubt = if mapping.is_live() { self.doubt(slot, now) } else { Doubt::None };
        Some(Mapping { doubt, ..mapping })
    }
}

fn break_if(is_done: bool) -> ControlFlow<()> {
    if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
