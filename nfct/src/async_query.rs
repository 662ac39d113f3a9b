//! Queries for asynchronous programs on tokio (feature `tokio`).

use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::query::Query;

/// A [`Query`] for asynchronous programs. Each query runs on one of tokio's threads
/// for blocking work, because the kernel does the work of a query inside the system
/// call: a dump or a flush of a large table would delay every task of the thread.
///
/// Clones share the socket, and their queries run one after another.
///
/// ```no_run
/// # async fn example() -> Result<(), nfct::Error> {
/// use nfct::{AsyncQuery, Family, Flow, Query};
///
/// let query = AsyncQuery::new(Query::open()?);
/// let count = query.run(|query| query.count()).await?;
/// let flows: Vec<Flow> = query.run(|query| query.dump(Family::Any)?.collect()).await?;
/// println!("{} of {}", flows.len(), count.entries);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AsyncQuery {
    query: Arc<Mutex<Query>>,
}

impl AsyncQuery {
    /// Wraps a query of any network namespace.
    ///
    /// ```no_run
    /// let gateway = nfct::Namespace::named("gateway")?;
    /// let query = nfct::AsyncQuery::new(gateway.enter(nfct::Query::open)?);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    pub fn new(query: Query) -> Self {
        Self { query: Arc::new(Mutex::new(query)) }
    }

    /// Runs `work` on a thread for blocking work, and returns its result. `work` runs
    /// to its end even if the future is dropped.
    ///
    /// ```no_run
    /// # async fn example(query: nfct::AsyncQuery, tuple: nfct::Tuple) -> Result<(), nfct::Error> {
    /// let flow = query.run(move |query| query.get_by_reply(&tuple)).await?;
    /// println!("{:?}", flow.map(|flow| flow.original.src));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of `work`, and an error if the runtime is shutting down.
    ///
    /// # Panics
    /// If `work` panics, and outside of a tokio runtime.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Query) -> Result<T, Error> + Send + 'static,
    {
        let query = Arc::clone(&self.query);
        let task = tokio::task::spawn_blocking(move || {
            // A query stays usable after a panic: a dump that is dropped discards the rest of its answer.
            work(&mut query.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match task.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => {
                    let source = io::Error::other("the runtime is shutting down");
                    Err(Error::from_system("running a conntrack query", source))
                }
            },
        }
    }
}

impl fmt::Debug for AsyncQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncQuery").finish_non_exhaustive()
    }
}
