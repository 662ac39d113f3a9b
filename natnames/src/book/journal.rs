//! What changes in a book, so that another one can go on with it.

use crate::book::book::{Book, Entry, SourceState};
use crate::book::changes::{Changes, Journal};
use crate::fact::Fact;
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
        let lasting = (0..).zip(&self.sources).filter_map(|(number, state)| {
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
            let blind_since = self.sources.iter().filter_map(|state| state.blind_since).min();
            let (name, place) = (name.to_owned(), place.to_owned());
            self.sources.push(SourceState { name, place, blind_since, ..SourceState::default() });
        }
        Some(number)
    }

    /// Takes back what an earlier book knew, which was followed until the moment `alive`.
    pub fn restore(
        &mut self,
        facts: impl IntoIterator<Item = (u64, Fact)>,
        gaps: impl IntoIterator<Item = (u8, Millis, Millis)>,
        alive: Option<Millis>,
    ) {
        for state in &mut self.sources {
            state.blind_since = state.blind_since.into_iter().chain(alive).min();
            state.is_restored = true;
        }
        for (source, from, to) in gaps {
            if let Some(state) = self.sources.get_mut(usize::from(source)) {
                state.gaps.push_back((from, to));
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
            let is_over = fact.ended.is_some();
            let since = fact.began.earliest;
            self.insert_as(id, Entry { fact, list: 0, said_since: Some(since) });
            self.next = self.next.max(id + 1);
            if !is_over {
                self.current.insert(key, id);
            }
        }
    }

    pub(super) fn note_change(&mut self, id: u64) {
        if let Some(journal) = &mut self.journal {
            journal.changed.insert(id);
        }
    }
}
