//! The thread that queries the kernel about single connections.
//!
//! A query costs a few microseconds, but it can block for seconds while another process
//! empties a large table. So only this thread makes queries, and lookups that need none
//! never wait for it. Lookups that need one at the same time share one message to the
//! kernel: the first one starts a [`Batch`], the others of its thread join it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nfct::{Found, Query, Tuple};
use tokio::sync::{Notify, oneshot};

/// How long a lookup waits for the kernel's replies.
const KERNEL_TIMEOUT: Duration = Duration::from_secs(1);
/// Queries that are made together at most, so that no lookup waits longer for its own.
pub(super) const MAX_TOGETHER: usize = 64;

/// Work for the thread.
pub(super) enum Work {
    /// Queries of lookups that wait.
    Queries(Arc<Batch>, oneshot::Sender<Replies>),
    /// A query of another kind that a lookup waits for.
    Job(Job),
    /// Verify the mappings for which the table requests it.
    Requested,
    /// Verify some of the mappings that may end without a DESTROY event.
    Patrol,
    /// Read the kernel's counter of resolved clashes.
    Clashes,
}

/// A query of any kind.
pub(super) type Job = Box<dyn FnOnce(&mut Query) + Send>;

/// The kernel's replies to a batch, in the order of its tuples; `None` if the queries failed.
type Replies = Option<Vec<Found>>;

/// Queries that are sent together.
#[derive(Debug)]
pub(super) struct Batch {
    tuples: Mutex<Vec<Tuple>>,
    replies: OnceLock<Replies>,
    answered: Notify,
}

impl Batch {
    /// Takes the tuples to query.
    pub(super) fn take_tuples(&self) -> Vec<Tuple> {
        std::mem::take(&mut *self.tuples.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn answer(&self, replies: Replies) {
        let _ = self.replies.set(replies);
        self.answered.notify_waiters();
    }
}

/// The replies to the queries of one lookup.
pub(super) struct Answered {
    batch: Arc<Batch>,
    first: usize,
    count: usize,
}

impl Answered {
    /// One reply for each tuple, or `None` if the kernel did not reply in time.
    pub(super) fn replies(&self) -> Option<&[Found]> {
        let replies = self.batch.replies.get()?.as_deref()?;
        replies.get(self.first..self.first + self.count)
    }
}

/// Passes work to the thread.
#[derive(Debug)]
pub(super) struct Verifier {
    work: Sender<Work>,
    /// The batch that lookups can join.
    gathering: Mutex<Option<Arc<Batch>>>,
    /// Whether requested verifications are in the thread's queue already.
    requested: AtomicBool,
}

impl Verifier {
    pub(super) fn new() -> (Arc<Self>, Receiver<Work>) {
        let (work, receiver) = mpsc::channel();
        let verifier = Self { work, gathering: Mutex::new(None), requested: AtomicBool::new(false) };
        (Arc::new(verifier), receiver)
    }

    /// Queries the kernel for the entries that have these tuples, in either direction. Waits
    /// for the replies for at most a second.
    pub(super) async fn query(self: &Arc<Self>, tuples: &[Tuple]) -> Answered {
        let answered = self.join(tuples);
        {
            let notified = answered.batch.answered.notified();
            if answered.batch.replies.get().is_none() {
                notified.await;
            }
        }
        answered
    }

    /// Adds queries to the batch that is gathered, or begins another one.
    fn join(self: &Arc<Self>, tuples: &[Tuple]) -> Answered {
        let mut gathering = self.gathering.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(batch) = &*gathering {
            let mut joined = batch.tuples.lock().unwrap_or_else(PoisonError::into_inner);
            let first = joined.len();
            if first > 0 && first + tuples.len() <= MAX_TOGETHER {
                joined.extend_from_slice(tuples);
                return Answered { batch: Arc::clone(batch), first, count: tuples.len() };
            }
        }
        let batch = Arc::new(Batch {
            tuples: Mutex::new(tuples.to_vec()),
            replies: OnceLock::new(),
            answered: Notify::new(),
        });
        *gathering = Some(Arc::clone(&batch));
        drop(gathering);
        // A task of its own, because the lookup ends early if its client does.
        tokio::spawn(Arc::clone(self).send(Arc::clone(&batch)));
        Answered { batch, first: 0, count: tuples.len() }
    }

    /// Sends a batch after the other lookups of this thread have joined, and passes the
    /// replies to all of them: waking them from here is cheaper than from the other thread.
    async fn send(self: Arc<Self>, batch: Arc<Batch>) {
        tokio::task::yield_now().await;
        {
            let mut gathering = self.gathering.lock().unwrap_or_else(PoisonError::into_inner);
            if gathering.as_ref().is_some_and(|gathered| Arc::ptr_eq(gathered, &batch)) {
                *gathering = None;
            }
        }
        let (sender, receiver) = oneshot::channel();
        self.push(Work::Queries(Arc::clone(&batch), sender));
        let replies = match tokio::time::timeout(KERNEL_TIMEOUT, receiver).await {
            Ok(Ok(replies)) => replies,
            Ok(Err(_)) | Err(_) => {
                log::debug!("no reply from the kernel in time: cannot tell whether connections are live");
                None
            }
        };
        batch.answer(replies);
    }

    /// Makes a query of any kind, and waits for its result for at most a second. `None` if it
    /// failed or took longer.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Query) -> Result<T, nfct::Error> + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        self.push(Work::Job(Box::new(move |socket| {
            if sender.is_closed() {
                // The lookup has waited too long and is gone.
                return;
            }
            match query(socket) {
                // The lookup may be gone.
                Ok(result) => drop(sender.send(result)),
                Err(error) => log::debug!("{error}"),
            }
        })));
        tokio::time::timeout(KERNEL_TIMEOUT, receiver).await.ok()?.ok()
    }

    /// Adds work to the thread's queue.
    pub(super) fn push(&self, work: Work) {
        // Fails only if the thread has ended, and then the process ends.
        let _ = self.work.send(work);
    }

    /// Has requested verifications made, if the thread does not already know of some.
    pub(super) fn push_requested(&self) {
        if !self.requested.swap(true, Ordering::SeqCst) {
            self.push(Work::Requested);
        }
    }

    /// Notes that the thread takes the requested verifications now.
    pub(super) fn begin_requested(&self) {
        self.requested.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuples(ports: std::ops::Range<u16>) -> Vec<Tuple> {
        ports.map(|port| Tuple::udp(([192, 168, 7, 2], port), ([198, 51, 100, 1], 443))).collect()
    }

    fn run<T>(lookups: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(lookups)
    }

    #[test]
    fn lookups_that_arrive_together_share_messages_of_at_most_64_queries() {
        let (verifier, work) = Verifier::new();
        let kernel = std::thread::spawn(move || {
            let mut messages = Vec::new();
            while let Ok(Work::Queries(batch, sender)) = work.recv() {
                let tuples = batch.take_tuples();
                let _ = sender.send(Some(tuples.iter().map(|_| Found::Nothing).collect()));
                messages.push(tuples);
            }
            messages
        });
        let [one, two, three, four] = [tuples(0..20), tuples(20..40), tuples(40..60), tuples(60..80)];
        let ask = |tuples| verifier.query(tuples);
        let answered = run(async { tokio::join!(ask(&one), ask(&two), ask(&three), ask(&four)) });
        for answered in [answered.0, answered.1, answered.2, answered.3] {
            assert_eq!(answered.replies().map(<[Found]>::len), Some(20));
        }
        drop(verifier);
        let mut messages = kernel.join().unwrap();
        messages.sort_by_key(Vec::len);
        assert!(messages == [tuples(60..80), tuples(0..60)], "{messages:?}");
    }

    #[test]
    fn a_lookup_waits_for_the_kernel_for_a_second_at_most() {
        let (verifier, work) = Verifier::new();
        assert!(run(verifier.query(&tuples(0..1))).replies().is_none());
        // Nobody waits for the reply any more.
        assert!(matches!(work.recv(), Ok(Work::Queries(_, sender)) if sender.is_closed()));
        assert_eq!(run(verifier.run(|_| Ok(()))), None);
    }

    #[tokio::test]
    async fn a_query_is_not_made_for_a_lookup_that_has_waited_too_long() {
        let (verifier, work) = Verifier::new();
        let made = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&made);
        let query = verifier.run(move |_| {
            noted.store(true, Ordering::SeqCst);
            Ok(())
        });
        assert!(tokio::time::timeout(Duration::ZERO, query).await.is_err());
        let Ok(Work::Job(job)) = work.recv() else { panic!("it was passed on") };
        job(&mut Query::open().unwrap());
        assert!(!made.load(Ordering::SeqCst));
    }
}
