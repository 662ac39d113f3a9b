//! What changes in a book, so that another one can go on with it.

use ipnetwork::IpNetwork;

use crate::book::book::{Book, Entry, SourceState};
use crate::book::changes::{Changes, Journal};
use crate::fact::{Fact, Span};
use crate::time::Millis;

impl Book {
    /// From now on, [`take_changes`](Self::take_changes) has what changes.
    pub fn keep_journal(&mut self) {
        self.journal = Some(Journal::default());
    }

    /// What has changed since it was asked for last.
    pub fn take_changes(&mut self, now: Millis) -> Changes {
        let Some(Journal { changed, forgotten, gaps }) = self.journal.as_mut().map(std::mem::take) else {
            return Changes::default();
        };
        let known = changed.into_iter().filter_map(|id| Some((id, self.entries.get(&id)?.fact.clone())));
        let facts = known.chain(forgotten).collect();
        let lasting = (0..).zip(&self.sources).filter(|(_, state)| !state.is_retired);
        let lasting = lasting.filter_map(|(number, state)| {
            state.blind_since.filter(|since| *since < now).map(|since| (number, since, now))
        });
        Changes { facts, gaps: gaps.into_iter().chain(lasting).collect() }
    }

    /// The number of the source with this name at this place. One that is not known any more gets a number too, and is
    /// never followed. `None` if there are too many.
    pub fn number_of(&mut self, name: &str, place: &str) -> Option<u8> {
        let place_of = self.sources.iter().position(|state| (&*state.name, &*state.place) == (name, place));
        let number = place_of.unwrap_or(self.sources.len());
        let number = u8::try_from(number).ok()?;
        if place_of.is_none() {
            let (name, place) = (name.to_owned(), place.to_owned());
            self.sources.push(SourceState { name, place, is_retired: true, ..SourceState::default() });
        }
        Some(number)
    }

    /// Takes back what an earlier book knew, whose sources were followed until the moment `alive`. A source of which
    /// nothing comes back was not followed before.
    pub fn restore(
        &mut self,
        facts: impl IntoIterator<Item = (u64, Fact)>,
        gaps: impl IntoIterator<Item = (u8, Millis, Millis)>,
        alive: Option<Millis>,
        now: Millis,
    ) {
        let mut gaps: Vec<(u8, Millis, Millis)> = gaps.into_iter().collect();
        gaps.sort_unstable();
        for (source, from, to) in gaps {
            if let Some(state) = self.sources.get_mut(usize::from(source)) {
                state.add_gap(from, to);
                state.is_restored = true;
            }
        }
        let mut facts: Vec<(u64, Fact)> = facts.into_iter().collect();
        // Of an address, the last one is what is said now.
        facts.sort_unstable_by_key(|(id, _)| *id);
        for (id, fact) in facts {
            if self.entries.contains_key(&id) || usize::from(fact.source) >= self.sources.len() {
                continue;
            }
            let key = (fact.source, fact.net);
            let (is_over, began) = (fact.ended.is_some(), fact.began);
            self.sources[usize::from(fact.source)].is_restored = true;
            let said_at = alive.unwrap_or(fact.learnt);
            self.insert_as(id, Entry { fact, list: 0, said_since: Some(began.earliest), said_at });
            self.next = self.next.max(id + 1);
            // What came before has ended, even if that could not be written.
            if let Some(before) = self.current.remove(&key) {
                self.end(before, began);
            }
            if !is_over {
                self.current.insert(key, id);
            }
        }
        for state in &mut self.sources {
            state.blind_since = match (state.is_retired, state.is_restored) {
                (true, _) => None,
                // It was known before, and followed until then.
                (false, true) => alive.or(state.blind_since),
                (false, false) => state.blind_since,
            };
        }
        // Of what is not followed any more, nobody says when it ends.
        let is_retired = |source: u8| self.sources[usize::from(source)].is_retired;
        let retired: Vec<(u8, IpNetwork)> =
            self.current.keys().filter(|(source, _)| is_retired(*source)).copied().collect();
        for key in retired {
            if let Some(id) = self.current.remove(&key) {
                self.end(id, Span { earliest: alive.unwrap_or(now).min(now), latest: now });
            }
        }
        self.forget(now);
    }

    pub(super) fn note_change(&mut self, id: u64) {
        if let Some(journal) = &mut self.journal {
            journal.changed.insert(id);
        }
    }
}
