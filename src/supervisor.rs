//! The interface to systemd: notifications of readiness, status and watchdog
//! (`sd_notify(3)`), and passed listening sockets (`sd_listen_fds(3)`). Without
//! systemd nothing here has an effect.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState::{self, ExtendTimeoutUsec, Ready, Reloading, Status, Stopping, Watchdog};
use socket2::SockRef;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::error::{Cause, Fatal};
use crate::http::workers::Workers;
use crate::proc;
use crate::tracker::{Answer, Tracker};

/// The time between two status updates without a watchdog.
const STATUS_INTERVAL: Duration = Duration::from_secs(30);
/// The shortest time between two reports, however often the table becomes
/// incomplete.
const MIN_REPORT_PAUSE: Duration = Duration::from_millis(100);
/// The time between two checks whether the thread that drains the socket has made
/// a round.
const ROUND_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// A thread that waits for the kernel hangs if it makes no progress during this many timeouts of
/// the watchdog. That is long: a query can be blocked for seconds while another process empties
/// a large table.
const MAX_SILENT_TIMEOUTS: u32 = 6;
/// And at least during this time.
const MIN_SILENCE: Duration = Duration::from_secs(10);
/// A daemon that was stopped as a whole shows progress again within this time.
const SILENCE_RECHECK: Duration = Duration::from_secs(5);

/// The listening sockets that systemd passed; empty if it passed none. Call it
/// while there is only one thread: it removes variables from the environment, so
/// that no child process uses the sockets.
///
/// # Errors
/// When one is not a listening TCP socket.
pub fn passed_listeners() -> Result<Vec<TcpListener>, Fatal> {
    let mut passed = ListenFd::from_env();
    let mut listeners = Vec::with_capacity(passed.len());
    for index in 0..passed.len() {
        let refuse = |found: String| {
            let expected = "expected a listening TCP socket (in the .socket unit: ListenStream= with an \
                            address and a port, and Accept=no)";
            Fatal::new(Cause::System, format!("socket passed by systemd: found {found}, {expected}"))
        };
        let listener = passed.take_tcp_listener(index).map_err(|error| refuse(error.to_string()))?;
        let Some(listener) = listener else { continue };
        if !SockRef::from(&listener).is_listener().unwrap_or(false) {
            return Err(refuse("a socket that does not listen".to_owned()));
        }
        listener.set_nonblocking(true).map_err(|error| refuse(error.to_string()))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Reports the daemon's state to systemd.
#[derive(Debug, Default)]
pub struct Supervisor {
    ready: AtomicBool,
    /// Why the daemon listens nowhere, if it does.
    deaf: Mutex<Option<String>>,
}

impl Supervisor {
    /// Reports that the daemon is ready once it has read the kernel's table, updates
    /// the status, and feeds the watchdog; never returns.
    ///
    /// Feeds the watchdog only if the daemon works: since the last time, the thread
    /// that drains the socket has made a round, each thread that serves HTTP has run
    /// a task, each other thread has made progress lately, and the table could be read. If one
    /// of them hangs, this function waits, and systemd restarts the daemon.
    pub async fn report(&self, tracker: &Tracker, workers: &Workers) -> Infallible {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            std::future::pending::<()>().await;
        }
        let watchdog = sd_notify::watchdog_enabled();
        let mut beat = ticks(watchdog.map_or(STATUS_INTERVAL, |timeout| timeout / 2));
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
                if let Some(timeout) = watchdog {
                    all_progress(tracker, (timeout * MAX_SILENT_TIMEOUTS).max(MIN_SILENCE)).await;
                }
            }
            let loaded = tracker.is_loaded();
            // An error that stays ends the daemon elsewhere.
            let Ok(answer) = tracker.read(|table, _| table.live()).await else {
                sleep(MIN_REPORT_PAUSE).await;
                continue;
            };
            let mut status = status(answer, loaded);
            if let Some(reason) = self.deaf.lock().unwrap_or_else(PoisonError::into_inner).as_deref() {
                status = format!("listening nowhere, trying again: {reason}; {status}");
            }
            let mut states = vec![Status(&status)];
            if loaded && !self.ready.swap(true, Ordering::Relaxed) {
                states.push(Ready);
            }
            if let Some(timeout) = watchdog.filter(|_| due) {
                states.push(Watchdog);
                if !loaded {
                    // Reading millions of entries can take longer than the timeout.
                    states.push(ExtendTimeoutUsec(u32::try_from(timeout.as_micros()).unwrap_or(u32::MAX)));
                }
            }
            notify(&states);
            sleep(MIN_REPORT_PAUSE).await;
        }
    }

    /// Notes why the daemon listens nowhere, or that it listens.
    pub fn note_deaf(&self, reason: Option<&Fatal>) {
        let reason = reason.map(ToString::to_string);
        if let Some(reason) = &reason {
            notify(&[Status(&format!("listening nowhere, trying again: {reason}"))]);
        }
        *self.deaf.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Reports that the configuration is being reloaded.
    pub fn reloading(&self) {
        if let (true, Ok(now)) = (self.ready.load(Ordering::Relaxed), NotifyState::monotonic_usec_now()) {
            notify(&[Reloading, now]);
        }
    }

    /// Reports the outcome of a reload.
    pub fn reloaded(&self, outcome: Result<(), &Fatal>) {
        let status = match outcome {
            Ok(()) => "the new configuration is in force".to_owned(),
            Err(fatal) => format!("reload failed, the old configuration stays in force: {fatal}"),
        };
        match self.ready.load(Ordering::Relaxed) {
            true => notify(&[Status(&status), Ready]),
            false => notify(&[Status(&status)]),
        }
    }
}

/// Reports that the daemon stops.
pub fn stopping() {
    notify(&[Stopping, Status("stopping")]);
}

/// Reports that the daemon stops because of an error.
pub fn failed(fatal: &Fatal) {
    notify(&[Stopping, Status(&fatal.to_string())]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("cannot notify systemd through NOTIFY_SOCKET: {error}");
    }
}

/// A tick now and after each `period`. A late tick delays the next ones.
fn ticks(period: Duration) -> Interval {
    let mut beat = interval(period.max(Duration::from_millis(1)));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

/// Waits until the thread that drains the socket has made another round than `seen`.
/// Returns the number of that round.
async fn next_round(tracker: &Tracker, seen: u64) -> u64 {
    loop {
        let rounds = tracker.rounds();
        if rounds != seen {
            return rounds;
        }
        sleep(ROUND_POLL_INTERVAL).await;
    }
}

/// Waits until each thread that waits for the kernel has made progress within `limit`.
async fn all_progress(tracker: &Tracker, limit: Duration) {
    let mut is_logged = false;
    while tracker.stalled(limit).is_some() {
        // If the daemon was stopped as a whole, they need a moment.
        sleep(SILENCE_RECHECK).await;
        if let (Some((thread, silence)), false) = (tracker.stalled(limit), is_logged) {
            log::error!(
                "the thread {thread} has made no progress for {} s: not feeding the watchdog",
                silence.as_secs()
            );
            is_logged = true;
        }
    }
}

/// What `systemctl status` shows.
fn status(Answer { value: live, complete }: Answer<usize>, loaded: bool) -> String {
    if complete {
        format!("{live} live mappings; the table equals the kernel's")
    } else if loaded && proc::conntrack_events() == Some(0) {
        format!(
            "{live} live mappings; net.netfilter.nf_conntrack_events is 0: the kernel does not report connections"
        )
    } else {
        format!("{live} live mappings; reading the kernel's table")
    }
}
