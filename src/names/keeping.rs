//! Keeps what the sources say on the disk, beside the history.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nathistory::disk::{Directory, Disk};
use nathistory::{NameEntry, NameFact, NameGap, NameStore, StoredNames};
use natnames::{Book, Changes, Fact, Host, Millis, Names, Span, wall_clock};

use crate::error::{Cause, Fatal};

/// If nothing changes, it is written this often that the sources are followed, in milliseconds.
const QUIET: Millis = 10_000;

/// What was kept, before it is used.
pub(super) struct Loaded {
    store: NameStore,
    stored: StoredNames,
}

/// What a book is to take back.
pub(super) struct Restore(StoredNames);

impl Loaded {
    /// Opens what is kept in a directory.
    pub(super) fn open(directory: &Path, most: usize) -> Result<Self, Fatal> {
        let failed = |error: &dyn std::fmt::Display| {
            let path = directory.display();
            Fatal::new(
                Cause::Configuration,
                format!(
                    "[names]: what is kept in {path} cannot be used: {error}; mend the directory, or move it away"
                ),
            )
        };
        let disk: Arc<dyn Disk> = Arc::new(Directory::new(directory).map_err(|error| failed(&error))?);
        let now = wall_clock();
        let (store, stored) = NameStore::open(disk, most, now).map_err(|error| failed(&error))?;
        for file in &stored.damaged {
            log::warn!(
                "{}/{file} is damaged: the names that could not be read are missing",
                directory.display()
            );
        }
        Ok(Self { store, stored })
    }

    pub(super) fn split(self) -> (NameStore, Restore) {
        (self.store, Restore(self.stored))
    }
}

impl Restore {
    /// Gives it to a book whose sources are those that are followed.
    pub(super) fn into(self, book: &mut Book) {
        let StoredNames { facts, gaps, alive, .. } = self.0;
        let facts: Vec<(u64, Fact)> = facts
            .into_iter()
            .filter_map(|stored| {
                let source = book.number_of(&stored.source, &stored.place)?;
                Some((stored.key, fact(stored, source)?))
            })
            .collect();
        let gaps: Vec<(u8, Millis, Millis)> = gaps
            .into_iter()
            .filter_map(|gap| Some((book.number_of(&gap.source, &gap.place)?, gap.from, gap.to)))
            .collect();
        book.restore(facts, gaps, alive, wall_clock());
    }
}

fn fact(stored: NameFact, source: u8) -> Option<Fact> {
    let NameFact { net, name, mac, subscriber, client_id, labels, .. } = stored;
    let mac = mac.and_then(|mac| mac.parse().ok());
    let ended = stored.ended.map(|latest| Span { earliest: stored.ended_after.unwrap_or(latest), latest });
    Some(Fact {
        net: net.parse().ok()?,
        host: Arc::new(Host { name, mac, subscriber, client_id, labels }),
        source,
        began: Span { earliest: stored.began_after, latest: stored.began },
        learnt: stored.learnt,
        ended,
        until: stored.until,
    })
}

fn stored(key: u64, fact: Fact, book: &Book) -> NameFact {
    let Host { name, mac, subscriber, client_id, labels } = (*fact.host).clone();
    NameFact {
        key,
        net: fact.net.to_string(),
        source: book.source_name(fact.source).to_owned(),
        place: book.source_place(fact.source).to_owned(),
        name,
        mac: mac.map(|mac| mac.to_string()),
        subscriber,
        client_id,
        labels,
        began_after: fact.began.earliest,
        began: fact.began.latest,
        learnt: fact.learnt,
        ended_after: fact.ended.map(|ended| ended.earliest),
        ended: fact.ended.map(|ended| ended.latest),
        until: fact.until,
    }
}

/// The thread that writes.
#[derive(Debug)]
pub(super) struct Keeping {
    stop: Sender<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Writer {
    store: NameStore,
    names: Arc<Names>,
    keep: Millis,
    /// What is not written yet: facts by their numbers, of which the last state counts, and ends of gaps.
    facts: BTreeMap<u64, NameFact>,
    gaps: BTreeMap<(String, String, Millis), Millis>,
    written_at: Millis,
    last_error: Option<String>,
}

impl Keeping {
    pub(super) fn start(
        store: NameStore,
        names: Arc<Names>,
        interval: Duration,
        keep: Millis,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let mut writer = Writer {
            store,
            names,
            keep,
            facts: BTreeMap::new(),
            gaps: BTreeMap::new(),
            written_at: 0,
            last_error: None,
        };
        let run = move || loop {
            match stopped.recv_timeout(interval) {
                Err(RecvTimeoutError::Timeout) => writer.write(),
                _ => {
                    writer.written_at = 0;
                    return writer.write();
                }
            }
        };
        let thread = std::thread::Builder::new().name("names".to_owned()).spawn(run)?;
        Ok(Self { stop, thread: Mutex::new(Some(thread)) })
    }

    /// Writes what is not written yet, and ends.
    pub(super) fn stop(&self) {
        let _ = self.stop.send(());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // If it panicked, that is logged.
        let _ = thread.map(JoinHandle::join);
    }
}

impl Writer {
    fn write(&mut self) {
        let now = wall_clock();
        let Changes { facts, gaps } = self.names.take_changes();
        if facts.is_empty() && self.facts.is_empty() && now.saturating_sub(self.written_at) < QUIET {
            return;
        }
        self.written_at = now;
        {
            let book = self.names.book();
            self.facts.extend(facts.into_iter().map(|(key, fact)| (key, stored(key, fact, &book))));
            for (source, from, to) in gaps {
                let (name, place) = (book.source_name(source), book.source_place(source));
                self.gaps.insert((name.to_owned(), place.to_owned(), from), to);
            }
        }
        let facts = self.facts.values().cloned().map(NameEntry::Fact);
        let gaps = self.gaps.iter().map(|((source, place, from), to)| {
            NameEntry::Gap(NameGap { source: source.clone(), place: place.clone(), from: *from, to: *to })
        });
        let entries: Vec<NameEntry> = facts.chain(gaps).chain([NameEntry::Alive { at: now }]).collect();
        let written = self.store.append(&entries).and_then(|()| self.store.sync());
        let result = match written {
            Ok(()) => {
                self.facts.clear();
                self.gaps.clear();
                let oldest = now.saturating_sub(self.keep);
                self.store.seal_if_due(now, oldest).map_err(|error| error.to_string())
            }
            // What was appended is appended again, which changes nothing.
            Err(error) => Err(error.to_string()),
        };
        match result {
            Ok(()) if self.last_error.take().is_some() => log::info!("names are kept again"),
            Ok(()) => {}
            Err(error) if self.last_error.as_ref() == Some(&error) => {}
            Err(error) => {
                log::warn!("names cannot be kept: {error}");
                self.last_error = Some(error);
            }
        }
    }
}
