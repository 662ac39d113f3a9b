//! Follows sources, each in a thread of its own.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::book::{Book, Changes, Limits};
use crate::claim::Report;
use crate::outlet::{Outlet, Stop, Stopped, Taker};
use crate::source::Source;
use crate::time::{Millis, wall_clock};

/// The pause before a source that failed is followed again; it doubles with each failure.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its name.
    pub name: &'static str,
    /// Where it is.
    pub place: String,
    /// Whether it is followed.
    pub is_followed: bool,
    /// How often following it has failed.
    pub failures: u64,
    /// What it has reported.
    pub reports: u64,
}

struct Followed {
    name: &'static str,
    place: String,
    failures: u64,
    reports: u64,
    last_error: Option<String>,
}

struct Shared {
    book: RwLock<Book>,
    followed: Mutex<Vec<Followed>>,
}

/// Sources that are followed, and what they have said.
pub struct Names {
    shared: Arc<Shared>,
    stop: Arc<Stop>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("status", &self.status()).finish_non_exhaustive()
    }
}

struct Ear {
    shared: Arc<Shared>,
    source: u8,
}

impl Taker for Ear {
    fn take(&self, report: Report, now: Millis) {
        let was_list = matches!(report, Report::ListEnds | Report::Followed);
        let mut book = self.shared.book.write();
        let is_new = was_list && !book.is_followed(self.source);
        book.apply(self.source, report, now);
        drop(book);
        let mut followed = self.shared.followed.lock();
        if let Some(followed) = followed.get_mut(usize::from(self.source)) {
            followed.reports += 1;
            if is_new {
                followed.last_error = None;
                log::info!("names: {} is followed ({})", followed.name, followed.place);
            }
        }
    }

    fn note_delay(&self, since: Option<Millis>) {
        self.shared.book.write().note_delay(self.source, since);
    }
}

impl Names {
    /// Begins to follow sources, in the order in which they decide: where two disagree, the first is believed.
    ///
    /// # Errors
    /// If the system has no thread or no descriptor for them.
    pub fn start(sources: Vec<Box<dyn Source>>, limits: Limits) -> io::Result<Self> {
        Self::start_with(sources, limits, |_| {})
    }

    /// Like [`start`](Self::start), with a book that is prepared first.
    ///
    /// # Errors
    /// If the system has no thread or no descriptor for them.
    pub fn start_with(
        sources: Vec<Box<dyn Source>>,
        limits: Limits,
        prepare: impl FnOnce(&mut Book),
    ) -> io::Result<Self> {
        let places: Vec<String> = sources.iter().map(|source| source.place()).collect();
        let names: Vec<(&str, &str)> =
            sources.iter().zip(&places).map(|(source, place)| (source.name(), &**place)).collect();
        let mut book = Book::new(limits, &names, wall_clock());
        prepare(&mut book);
        let followed = sources.iter().map(|source| Followed {
            name: source.name(),
            place: source.place(),
            failures: 0,
            reports: 0,
            last_error: None,
        });
        let shared = Arc::new(Shared { book: RwLock::new(book), followed: Mutex::new(followed.collect()) });
        let this = Self { shared, stop: Arc::new(Stop::new()?), threads: Mutex::new(Vec::new()) };
        for (number, source) in (0..).zip(sources) {
            let ear = Arc::new(Ear { shared: this.shared.clone(), source: number });
            let outlet = Outlet::new(ear, this.stop.clone(), wall_clock);
            let shared = this.shared.clone();
            let thread = thread::Builder::new()
                .name(format!("name-{}", source.name()).chars().take(15).collect())
                .spawn(move || follow(source, number, &outlet, &shared))?;
            this.threads.lock().push(thread);
        }
        Ok(this)
    }

    /// What the sources have said.
    pub fn book(&self) -> RwLockReadGuard<'_, Book> {
        self.shared.book.read()
    }

    /// What has changed since it was asked for last, if the book keeps a journal.
    pub fn take_changes(&self) -> Changes {
        self.shared.book.write().take_changes(wall_clock())
    }

    /// How each source is.
    pub fn status(&self) -> Vec<Status> {
        let book = self.shared.book.read();
        let followed = self.shared.followed.lock();
        (0..)
            .zip(followed.iter())
            .map(|(number, followed)| Status {
                name: followed.name,
                place: followed.place.clone(),
                is_followed: book.is_followed(number),
                failures: followed.failures,
                reports: followed.reports,
            })
            .collect()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.stop.stop();
        for thread in self.threads.lock().drain(..) {
            // It catches panics itself.
            let _ = thread.join();
        }
    }
}

/// Follows one source until it is stopped.
fn follow(mut source: Box<dyn Source>, number: u8, outlet: &Outlet, shared: &Shared) {
    let mut pause = PAUSE;
    loop {
        let begun = Instant::now();
        let error = match catch_unwind(AssertUnwindSafe(|| source.follow(outlet))) {
            Ok(Ok(())) => "it ended".to_owned(),
            Ok(Err(error)) if is_stop(&error) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked: this is a bug, please report it".to_owned(),
        };
        // What it did not read until it failed is not known.
        let since = outlet.note_read();
        shared.book.write().lose(number, since);
        note_failure(shared, number, error);
        if begun.elapsed() > LONGEST_PAUSE {
            pause = PAUSE;
        }
        if outlet.wait(&[], Some(pause)).is_err_and(|error| is_stop(&error)) {
            return;
        }
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

fn is_stop(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stopped>())
}

/// Counts a failure. An error is logged once, until the source is followed again or has another one.
fn note_failure(shared: &Shared, number: u8, error: String) {
    let mut followed = shared.followed.lock();
    let Some(followed) = followed.get_mut(usize::from(number)) else { return };
    followed.failures += 1;
    if followed.last_error.as_ref() != Some(&error) {
        log::warn!("names: {} ({}) cannot be followed: {error}", followed.name, followed.place);
        followed.last_error = Some(error);
    }
}
