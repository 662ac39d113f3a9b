//! Starting the tracker: its subscription and its threads.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use nfct::{Error, Events, Groups, Query, RuleChanges};

use super::clashes::Clashes;
use super::filtering::{Filtering, following_addresses};
use super::reporting::Reporting;
use super::settings::Settings;
use super::shared::{Parts, Tracker};
use super::state::TrackerState;
use super::verifier::Verifier;
use crate::addresses::{AddressChanges, AddressReader};
use crate::clock::Clock;
use crate::proc::{ClashCounter, EventsSetting};
use crate::stats::Stats;

impl Tracker {
    /// Subscribes to the kernel's events in the network namespace of this thread, and
    /// starts the threads. A thread that ends calls `on_failure`: from then on the
    /// table is out of date, and the process must end.
    ///
    /// # Errors
    /// Those of [`Events::subscribe`], and when the system cannot start a thread.
    pub fn start(
        settings: Settings,
        clock: Arc<dyn Clock>,
        stats: Arc<Stats>,
        on_failure: impl Fn(Error) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, Error> {
        let events = Events::subscribe(Groups::NEW | Groups::DESTROY)?;
        let receive_buffer = events.set_receive_buffer(settings.netlink.receive_buffer.0)?;
        events.set_reliable(settings.netlink.reliable)?;
        let (waiter, socket) = (events.waiter()?, events.waiter()?);
        // All sockets are opened here, in the caller's network namespace.
        let (dumps, mut query) = (Query::open()?, Query::open()?);
        let events_setting = EventsSetting::open();
        // The subscription comes first, so that no change is missed.
        let (mut rule_changes, mut rule_query) = (RuleChanges::subscribe()?, Query::open()?);
        let masks = rule_query.event_masks();
        let address_changes = AddressChanges::subscribe().map_err(following_addresses)?;
        let mut filtering = Filtering::new(AddressReader::open().map_err(following_addresses)?);
        let filter = filtering.resolve(&settings.filter)?;
        let settings = Settings { filter: filter.clone(), ..settings };
        let clashes = Clashes::new(ClashCounter::open(), || query.clashes().unwrap_or_default());
        let reporting = Reporting::new(events_setting.read());
        let state = TrackerState::new(events, settings, receive_buffer, reporting, clock.now());
        let (verifier, work) = Verifier::new();
        let rule_waiter = rule_changes.waiter()?;
        let parts = Parts {
            socket,
            verifier,
            clashes,
            rule_changes: rule_waiter,
            filtering,
            address_changes,
            events_setting,
        };
        let tracker = Arc::new(Self::new(state, parts, clock, stats));
        tracker.attach_filter(&mut tracker.filtering.lock(), &filter)?;
        let news = tracker.filtering.lock().take_news();
        news.log();
        let is_read = tracker.note_read(masks);
        let on_failure: Arc<dyn Fn(Error) + Send + Sync> = Arc::new(on_failure);
        tracker.spawn("netfilter", on_failure.clone(), move |tracker| tracker.pump_forever(&waiter))?;
        tracker.spawn("verify", on_failure.clone(), move |tracker| tracker.verify_forever(query, &work))?;
        tracker.spawn("rules", on_failure.clone(), move |tracker| {
            tracker.follow_rules(&mut rule_changes, rule_query, is_read)
        })?;
        let watched = tracker.watched_filter();
        tracker.spawn("addresses", on_failure.clone(), move |tracker| tracker.follow_addresses(watched))?;
        tracker.spawn("indexes", on_failure.clone(), Self::maintain_indexes)?;
        tracker.spawn("resync", on_failure, move |tracker| tracker.resync_forever(dumps))?;
        Ok(tracker)
    }

    fn spawn(
        self: &Arc<Self>,
        name: &'static str,
        on_failure: Arc<dyn Fn(Error) + Send + Sync>,
        work: impl FnOnce(&Self) -> Result<Infallible, Error> + Send + 'static,
    ) -> Result<(), Error> {
        let tracker = Arc::clone(self);
        let thread = move || {
            let ended = catch_unwind(AssertUnwindSafe(|| work(&tracker)));
            on_failure(match ended {
                Ok(Err(error)) => error,
                Err(_) => {
                    let panicked = std::io::Error::other(format!("the thread {name} panicked"));
                    Error::new("following the kernel's connection tracking", panicked)
                }
            });
        };
        let started = std::thread::Builder::new().name(name.to_owned()).spawn(thread);
        started.map(|_| ()).map_err(|source| Error::new("starting a thread", source))
    }
}
