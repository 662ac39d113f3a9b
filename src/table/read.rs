//! Reading the table: the best answer, all answers, everything.

use std::net::IpAddr;

use nfct::Protocol;

use super::entry::{Address, State};
use super::family::Family;
use super::index::{By, Class, IndexKey};
use super::{LONGEST_WALK, Transport};
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::{KeyValue, Mapping};
use crate::question::{Question, one_address};

/// More mappings share a value than are looked at in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

impl<A: Address> Family<A> {
    pub(super) fn best(
        &self,
        key: Key,
        value: KeyValue,
        protocol: Option<Protocol>,
        now: Stamp,
    ) -> Result<Option<Mapping>, TooMany> {
        let Some(chains) = self.chains(By::key(key)) else { return Err(TooMany) };
        let mut best: Option<Mapping> = None;
        for class in Class::all_of(protocol).filter(|class| *class != Class::Other) {
            // An address of the other family: nobody here has it.
            let Some(key_value) = IndexKey::of_value(value, class) else { break };
            let is_sure = |best: &Mapping| best.is_live() && best.is_source_nat();
            let mut walked = 0;
            for slot in chains.walk(key_value, &self.entries).take(LONGEST_WALK) {
                walked += 1;
                let found = self.visible(slot, now).filter(|mapping| mapping.key(key) == Some(value));
                best = best.into_iter().chain(found).max_by_key(Mapping::rank);
                let entry = self.entries.get(slot);
                let is_last =
                    || best.is_some_and(|best| is_sure(&best) && best.age_rank() >= entry.age_rank());
                if chains.in_order && entry.was_newest() && is_last() {
                    // What comes behind it in the chain began earlier.
                    break;
                }
            }
            if best.as_ref().is_some_and(is_sure) {
                // What was not walked began earlier, or is of a class that ranks lower.
                break;
            }
            if walked == LONGEST_WALK {
                return Err(TooMany);
            }
        }
        Ok(best)
    }

    pub(super) fn find(&self, question: &Question, now: Stamp) -> Option<Vec<Mapping>> {
        let (nat_ip, src_ip) = (one_address(question.nat_ip), one_address(question.src_ip));
        let (by, address, port) = match (nat_ip, question.nat_port, src_ip, question.src_port) {
            (Some(_), Some(_), ..) => (By::NatIpAndPort, nat_ip, question.nat_port),
            (_, _, Some(_), Some(_)) => (By::SrcIpAndPort, src_ip, question.src_port),
            (_, Some(_), ..) => (By::NatPort, None, question.nat_port),
            (_, _, Some(_), _) => (By::SrcIp, src_ip, None),
            _ => return None,
        };
        let chains = self.chains(by)?;
        let mut walked = 0;
        let found = Class::all_of(question.protocol)
            .filter_map(|class| IndexKey::new(address, port, class))
            .flat_map(|key| chains.walk(key, &self.entries))
            .take(LONGEST_WALK)
            .inspect(|_| walked += 1)
            .filter_map(|slot| self.visible(slot, now))
            .filter(|mapping| question.matches(mapping))
            .collect();
        (walked < LONGEST_WALK).then_some(found)
    }

    pub(super) fn scan(&self, slot: u32, now: Stamp, mut on: impl FnMut(Mapping)) -> Option<u32> {
        let (slice, next) = self.slice(slot);
        slice.filter_map(|slot| self.visible(slot, now)).for_each(&mut on);
        next
    }

    /// An outside port is counted with the newest of the live mappings that use
    /// it. Mostly the one that is looked at is that; a chain of many that closed
    /// is what else there is to walk, and ends the slice early.
    pub(super) fn scan_ports(&self, from: u32, mut on: impl FnMut(IpAddr, Transport)) -> Option<u32> {
        let (slice, next) = self.slice(from);
        let Some(chains) = self.chains(By::NatIpAndPort) else { return next };
        let mut walked = 0;
        for slot in slice {
            if let Some((address, transport)) = self.outside_port(slot) {
                let newer = chains.newer(slot).take(LONGEST_WALK).inspect(|_| walked += 1);
                if !{ newer }.any(|newer| self.outside_port(newer).is_some()) {
                    on(address, transport);
                }
            }
            if walked > LONGEST_WALK && slot + 1 < self.unused {
                return Some(slot + 1);
            }
        }
        next
    }

    /// The outside address that a slot has a port of, if it is live and translated.
    fn outside_port(&self, slot: u32) -> Option<(IpAddr, Transport)> {
        let entry = self.entries.get(slot);
        if entry.state() != State::Live || entry.reply.dst == entry.original.src {
            return None;
        }
        let transport = match entry.original.protocol() {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
            _ => return None,
        };
        Some((entry.reply.dst.into(), transport))
    }

    /// A mapping, unless the slot is free or its time is over.
    fn visible(&self, slot: u32, now: Stamp) -> Option<Mapping> {
        let entry = self.entries.get(slot);
        let shown = match entry.state() {
            State::Live => true,
            State::Closed => now.since(entry.closed.into()) < self.del_delay,
            State::Free | State::Dropped => false,
        };
        shown.then(|| entry.mapping())
    }
}
