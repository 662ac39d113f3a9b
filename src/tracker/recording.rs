//! What must be known to tell a recorder since when the table may have lacked something.

use std::time::Duration;

use nfct::Received;

use super::reporting::Incomplete;
use crate::clock::Stamp;

/// Events that can have waited in the socket for longer have no exact time. It is more than the time for which
/// nobody looks at an idle socket: the recorder does so each time that it takes the feed.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// If an attempt receives less, the kernel had no more: it receives up to so many datagrams, each with a message.
const RECEIVED_AT_ONCE: usize = 64;

/// When everything was last known to be well, and which gaps are open.
#[derive(Debug)]
pub(super) struct Recording {
    /// No event had been lost until then.
    pub(super) sound_at: Stamp,
    /// Everything that had been queued until then was received.
    pub(super) drained_at: Stamp,
    /// The value of `drained_at` before.
    drained_before: Stamp,
    /// Nothing suppressed events, and no address had changed unnoticed.
    pub(super) checked_at: Stamp,
    /// The last complete dump began then.
    pub(super) dumped_at: Stamp,
    /// Whether events were lost since the last complete dump.
    pub(super) has_lost: bool,
    /// The gaps that the recorder has been told of, and that have not ended.
    pub(super) open: [bool; 3],
}

impl Recording {
    pub(super) fn new(now: Stamp) -> Self {
        Self {
            sound_at: now,
            drained_at: now,
            drained_before: now,
            checked_at: now,
            dumped_at: now,
            has_lost: false,
            open: [false; 3],
        }
    }

    /// Notes the result of an attempt to receive events that began at this moment.
    pub(super) fn note_received(&mut self, received: &Received, before: Stamp) {
        match received {
            // The kernel reports a loss before it delivers anything more.
            Received::Some { messages, .. } => {
                self.sound_at = before;
                if *messages < RECEIVED_AT_ONCE {
                    self.note_drained(before);
                }
            }
            Received::Nothing => {
                self.sound_at = before;
                self.note_drained(before);
            }
            // The attempt before it can have ended early because of the loss.
            Received::Overrun => self.drained_at = self.drained_before,
            _ => {}
        }
    }

    /// Notes that the socket was empty at this moment.
    pub(super) fn note_empty(&mut self, at: Stamp) {
        self.sound_at = self.sound_at.max(at);
        self.note_drained(at);
    }

    /// Notes that everything was received that had been queued until then.
    fn note_drained(&mut self, at: Stamp) {
        if at > self.drained_at {
            (self.drained_before, self.drained_at) = (self.drained_at, at);
        }
    }

    pub(super) fn note_overrun(&mut self) {
        self.has_lost = true;
    }

    /// Since when events that are received now can have waited in the socket, if that is long.
    pub(super) fn waited_since(&self, now: Stamp) -> Option<u64> {
        // By the wall clock of this moment.
        let waited = now.since(self.drained_at);
        (waited > MAX_WAIT).then(|| now.wall.saturating_sub(waited.as_millis() as u64))
    }

    /// Since when the table may lack something for this reason.
    pub(super) fn known_until(&self, reason: Incomplete) -> Stamp {
        match reason {
            Incomplete::EventsOff | Incomplete::Rules | Incomplete::Addresses => self.checked_at,
            Incomplete::MissingEvents | Incomplete::Unreadable | Incomplete::Unheard => self.dumped_at,
            Incomplete::Full => self.drained_at,
            Incomplete::Resync => self.sound_at,
        }
    }
}
