//! Follows the addresses of the interfaces that the filter names, and gives a hint about a filter
//! with which nothing is seen.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nfct::Error;

use super::filtering::following_addresses;
use super::pulse::MAX_REST;
use super::pump::pause_after;
use super::shared::Tracker;
use crate::clock::Stamp;
use crate::filter::Filter;

/// After this time, a change of addresses that could not be put into force is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// If no connection has matched the filter for this time, and no interface has its public
/// address, the log says so. The tracker's clock measures it.
const HINT_AFTER: Duration = Duration::from_secs(60);

/// What is remembered for the hint.
pub(super) struct Watched {
    filter: Arc<Filter>,
    /// When the filter came into force, as far as the thread has seen.
    since: Stamp,
    /// The mappings that had been created until then.
    created: u64,
    is_decided: bool,
}

impl Tracker {
    /// Follows the addresses as they change; never returns except for an error. `watched` is
    /// [`watched_filter`](Self::watched_filter) at the start.
    pub(super) fn follow_addresses(&self, mut watched: Watched) -> Result<Infallible, Error> {
        let mut is_current = true;
        loop {
            self.pulses.addresses.beat();
            let has_changed =
                match self.take_notifications(if is_current { MAX_REST } else { RETRY_INTERVAL }) {
                    Ok(has_changed) => has_changed,
                    Err(error) => {
                        pause_after(error)?;
                        continue;
                    }
                };
            if has_changed || !is_current {
                is_current = self.put_addresses_into_force(is_current);
                self.reads_addresses.store(false, Ordering::SeqCst);
                let news = self.filtering.lock().take_news();
                news.log();
            }
            self.watch_filter(&mut watched);
        }
    }

    /// Waits until addresses may have changed, for at most `timeout`, and removes the
    /// notifications. Returns whether they may.
    fn take_notifications(&self, timeout: Duration) -> Result<bool, Error> {
        let has_changed = self.address_changes.wait(Some(timeout)).map_err(following_addresses)?;
        if has_changed {
            // Lookups must not find the socket empty before this is set.
            self.reads_addresses.store(true, Ordering::SeqCst);
            self.address_changes.clear().map_err(following_addresses)?;
        }
        Ok(has_changed)
    }

    /// Whether no address has changed without being in force.
    pub(super) fn has_current_addresses(&self) -> Result<bool, Error> {
        if !self.has_interfaces.load(Ordering::SeqCst) {
            return Ok(true);
        }
        // In this order: the thread sets the second before it empties the first.
        let has_changes = self.address_changes.wait(Some(Duration::ZERO)).map_err(following_addresses)?;
        Ok(!has_changes && !self.reads_addresses.load(Ordering::SeqCst))
    }

    /// Puts the addresses into force that the interfaces have now. Returns whether this was
    /// possible; if not, the table is not complete.
    fn put_addresses_into_force(&self, was_possible: bool) -> bool {
        let mut filtering = self.filtering.lock();
        let filter = self.filter();
        let changed =
            filtering.resolve(&filter).and_then(|filter| self.change_filter(&mut filtering, &filter));
        let lacks_addresses = changed.is_err();
        if let Err(error) = changed {
            if was_possible {
                filtering.warn_of_failure(&error);
            }
        }
        let mut state = self.lock();
        if state.reporting.lacks_addresses != lacks_addresses {
            self.change_reporting(&mut state, |reporting| reporting.lacks_addresses = lacks_addresses);
        }
        !lacks_addresses
    }

    /// The filter in force and what has been seen with it, for the hint.
    pub(super) fn watched_filter(&self) -> Watched {
        let created =
            [&self.stats.created_by_event, &self.stats.created_by_dump, &self.stats.created_by_query];
        Watched {
            filter: self.filter(),
            since: self.clock.now(),
            created: created.iter().map(|count| count.get()).sum(),
            is_decided: false,
        }
    }

    /// Logs a hint if nothing has matched the filter in force for some time, and no interface has
    /// its public address. Such an address can still be right: it may be routed to this machine.
    fn watch_filter(&self, watched: &mut Watched) {
        let now = self.watched_filter();
        if now.filter != watched.filter {
            *watched = now;
            return;
        }
        if watched.is_decided || now.since.since(watched.since) < HINT_AFTER {
            return;
        }
        watched.is_decided = true;
        if now.created != watched.created || self.lock().table.live() > 0 {
            return;
        }
        let Ok(interfaces) = self.filtering.lock().read_addresses() else { return };
        if let Some(addresses) = watched.filter.foreign_public_address(&interfaces) {
            let own: Vec<_> = interfaces
                .all()
                .filter(|address| !address.is_loopback())
                .map(|address| address.to_string())
                .collect();
            log::warn!(
                "no connection has matched [filter] for {} seconds, and no interface has an address of nat_ip: \
                 {addresses}. Is this right? The interfaces have {}",
                HINT_AFTER.as_secs(),
                own.join(", ")
            );
        }
    }
}
