//! Queries from asynchronous programs, on the real kernel.
//!
//! Needs root and the feature `tokio`. Without root each test prints a message and does nothing.

use lab::in_fresh_namespace;
use lab::samples::{create, masqueraded};
use nfct::{AsyncQuery, Error, Family, Flow, Query};

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
}

#[test]
fn queries_run_beside_the_tasks_in_the_namespace_of_their_socket() {
    in_fresh_namespace(|| {
        let query = AsyncQuery::new(Query::open().unwrap());
        run(async {
            let made = query.run(|query| {
                (1..=500).for_each(|port| create(query, masqueraded(port)));
                query.count()
            });
            assert_eq!(made.await.unwrap().entries, 500);
            // Two tasks share the socket, and each gets its own answer.
            let other = query.clone();
            let (flows, found) = tokio::join!(
                query.run(|query| query.dump(Family::Any)?.collect::<Result<Vec<Flow>, Error>>()),
                other.run(|query| query.get_by_reply(&masqueraded(7).1)),
            );
            assert_eq!(flows.unwrap().len(), 500);
            assert_eq!(found.unwrap().unwrap().original, masqueraded(7).0);
            let refused = query.run(|query| query.update(&lab::samples::entry(masqueraded(600)))).await;
            assert_eq!(refused.unwrap_err().errno(), Some(libc::ENOENT));
        });
    });
}

#[test]
fn a_query_is_usable_after_a_panic_and_after_its_future_was_dropped() {
    in_fresh_namespace(|| {
        let query = AsyncQuery::new(Query::open().unwrap());
        run(async {
            let panics = query.clone();
            let outcome = tokio::spawn(async move {
                panics
                    .run(|query| -> Result<(), Error> {
                        (1..=500).for_each(|port| create(query, masqueraded(port)));
                        let _unread = query.dump(Family::Any)?;
                        panic!("in the query")
                    })
                    .await
            });
            assert!(outcome.await.unwrap_err().is_panic());
            let dropped = query.run(|query| query.dump(Family::Any)?.collect::<Result<Vec<Flow>, Error>>());
            // The future is dropped at once. The query still runs to its end.
            tokio::select! {
                biased;
                _ = dropped => {}
                () = std::future::ready(()) => {}
            }
            assert_eq!(query.run(|query| query.count()).await.unwrap().entries, 500);
        });
    });
}
