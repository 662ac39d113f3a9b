//! What systemd is told, and what it hands over: that the daemon is ready, what
//! it is at and that it lives (`sd_notify(3)`), and sockets to listen on
//! (`sd_listen_fds(3)`). Without systemd nothing here does anything.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState::{self, ExtendTimeoutUsec, Ready, Reloading, Status, Stopping, Watchdog};
use socket2::SockRef;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::error::{Cause, Fatal};
use crate::http::workers::Workers;
use crate::proc;
use crate::tracker::{Answer, Tracker};

/// Without a watchdog the status is brought up to date this often.
const STATUS_EVERY: Duration = Duration::from_secs(30);
/// Reports follow each other no sooner than this, whatever is lost.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// Looks at whether the thread that drains the socket lives.
const LOOKED_EVERY: Duration = Duration::from_millis(50);

/// The listening sockets that were handed over; none where none were. To be
/// called while there is one thread: it removes variables of the environment,
/// so that no child takes the sockets for its own.
///
/// # Errors
/// When one is not a TCP socket that listens.
pub fn passed_listeners() -> Result<Vec<TcpListener>, Fatal> {
    let mut passed = ListenFd::from_env();
    let mut listeners = Vec::with_capacity(passed.len());
    for index in 0..passed.len() {
        let refuse = |found: String| {
            let expected = "expected one that listens for TCP: in the .socket unit, \
                            ListenStream= with an address and a port, and Accept=no";
            Fatal::new(Cause::System, format!("systemd passed a socket, found: {found}; {expected}"))
        };
        let taken = passed.take_tcp_listener(index).map_err(|error| refuse(error.to_string()))?;
        let Some(listener) = taken else { continue };
        if !SockRef::from(&listener).is_listener().unwrap_or(false) {
            return Err(refuse("one that does not listen".to_owned()));
        }
        listener.set_nonblocking(true).map_err(|error| refuse(error.to_string()))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Tells systemd of the daemon's life.
#[derive(Debug, Default)]
pub struct Supervisor {
    ready: AtomicBool,
}

impl Supervisor {
    /// Says that the daemon is ready once the kernel's table was read, keeps
    /// the status true, and feeds the watchdog; for ever.
    ///
    /// The watchdog is fed by proof alone: the thread that drains the socket
    /// has done so since the last time, each of those that serve HTTP has done
    /// something, and a question was answered from the table. Where one hangs,
    /// so does this.
    pub async fn report(&self, tracker: &Tracker, workers: &Workers) {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return;
        }
        let watchdog = sd_notify::watchdog_enabled();
        let mut beat = every(watchdog.map_or(STATUS_EVERY, |longest| longest / 2));
        let mut complete = tracker.watch_complete();
        let mut rounds = tracker.rounds();
        loop {
            let due = tokio::select! {
                _ = beat.tick() => true,
                _ = complete.changed() => false,
            };
            if due {
                rounds = next_round(tracker, rounds).await;
                workers.all_respond().await;
            }
            let loaded = tracker.is_loaded();
            // What goes wrong here ends the daemon elsewhere.
            let Ok(answer) = tracker.ask(|table, _| table.live()).await else { return };
            let status = status(answer, loaded);
            let mut said = vec![Status(&status)];
            if loaded && !self.ready.swap(true, Ordering::Relaxed) {
                said.push(Ready);
            }
            if let Some(longest) = watchdog.filter(|_| due) {
                said.push(Watchdog);
                if !loaded {
                    // A table of many millions takes its time.
                    said.push(ExtendTimeoutUsec(u32::try_from(longest.as_micros()).unwrap_or(u32::MAX)));
                }
            }
            tell(&said);
            sleep(SHORTEST_PAUSE).await;
        }
    }

    /// Says that another configuration is being put into force.
    pub fn reloading(&self) {
        if let (true, Ok(now)) = (self.ready.load(Ordering::Relaxed), NotifyState::monotonic_usec_now()) {
            tell(&[Reloading, now]);
        }
    }

    /// Says how that went.
    pub fn reloaded(&self, outcome: Result<(), &Fatal>) {
        let status = match outcome {
            Ok(()) => "the new configuration is in force".to_owned(),
            Err(fatal) => format!("the configuration stays as it was: {fatal}"),
        };
        match self.ready.load(Ordering::Relaxed) {
            true => tell(&[Status(&status), Ready]),
            false => tell(&[Status(&status)]),
        }
    }
}

/// Says that the daemon is ending.
pub fn stopping() {
    tell(&[Stopping, Status("ending")]);
}

/// Says why it is.
pub fn failed(fatal: &Fatal) {
    tell(&[Stopping, Status(&fatal.to_string())]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("cannot tell systemd how the daemon is: NOTIFY_SOCKET: {error}");
    }
}

/// A tick now, and one each `period`; none is made up for.
fn every(period: Duration) -> Interval {
    let mut beat = interval(period.max(Duration::from_millis(1)));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

/// Waits until the socket was drained again after the round `seen`.
async fn next_round(tracker: &Tracker, seen: u64) -> u64 {
    loop {
        let rounds = tracker.rounds();
        if rounds != seen {
            return rounds;
        }
        sleep(LOOKED_EVERY).await;
    }
}

/// What `systemctl status` shows.
fn status(Answer { value: live, complete }: Answer<usize>, loaded: bool) -> String {
    if complete {
        format!("{live} live mappings; the table equals the kernel's")
    } else if loaded && proc::conntrack_events() == Some(0) {
        format!(
            "{live} live mappings; net.netfilter.nf_conntrack_events is 0: the kernel tells of no connection"
        )
    } else {
        format!("{live} live mappings; reading the kernel's table")
    }
}
