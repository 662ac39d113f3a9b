//! A snapshot of the real kernel's table, and the events that continue it.
//!
//! Needs root. Without it each test prints a message and does nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lab::in_fresh_namespace;
use lab::samples::{create, masqueraded, over_ipv6, zoned};
use nfct::{EventKind, Events, Family, Flow, Groups, Notification, Query, Selection, Tuple};

type Table = HashMap<Tuple, u32>;

fn by_tuple(flows: Vec<Flow>) -> Table {
    flows.into_iter().map(|flow| (flow.original, flow.id)).collect()
}

fn kernels(query: &mut Query) -> Table {
    by_tuple(query.dump(Family::Any).unwrap().map(Result::unwrap).collect())
}

/// Applies what is waiting, and returns the number of overruns. Reads the table
/// again after each.
fn follow(table: &mut Table, events: &mut Events, query: &mut Query) -> usize {
    let mut overruns = 0;
    while let Some(notification) = events.try_next().unwrap() {
        match notification {
            Notification::Event(event) if event.kind == EventKind::Destroy => {
                table.remove(&event.flow.original);
            }
            Notification::Event(event) => drop(table.insert(event.flow.original, event.flow.id)),
            Notification::Recovered { lost } => {
                assert!(lost > 0);
                overruns += 1;
                *table = by_tuple(events.resync(query, Family::Any).unwrap());
            }
            Notification::Overrun => {}
            other => panic!("found {other:?}"),
        }
    }
    overruns
}

#[test]
fn a_snapshot_has_the_table_and_includes_the_waiting_events() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        create(&mut query, masqueraded(1));
        let mut events = Events::subscribe(Groups::NEW | Groups::DESTROY).unwrap();
        create(&mut query, masqueraded(2));
        create(&mut query, over_ipv6(3));
        create(&mut query, zoned(4, masqueraded(2)));
        let ended = query.get_by_original(&masqueraded(1).0).unwrap().unwrap();
        assert!(query.delete_flow(&ended).unwrap());

        let mut other = Query::open().unwrap();
        let table = by_tuple(events.resync(&mut other, Family::Any).unwrap());
        assert_eq!(table, kernels(&mut query));
        assert_eq!(table.len(), 3);
        assert_eq!(events.try_next().unwrap(), None, "they are part of the snapshot");
        let of_zone = events.resync(&mut other, Selection::all().zone(4)).unwrap();
        assert_eq!(of_zone.iter().map(|flow| flow.original.zone).collect::<Vec<_>>(), [4]);
    });
}

#[test]
fn a_table_stays_equal_to_the_kernels_through_overruns() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        (1..=3000).for_each(|port| create(&mut query, over_ipv6(port)));
        let mut events = Events::subscribe(Groups::NEW | Groups::DESTROY).unwrap();
        // The receive buffer holds some hundred events.
        events.set_receive_buffer(128 << 10).unwrap();

        // Connections begin and end continuously, also during the dumps.
        let over = Arc::new(AtomicBool::new(false));
        let changing = {
            let over = Arc::clone(&over);
            let mut maker = Query::open().unwrap();
            std::thread::spawn(move || {
                for port in (4000..5000).cycle() {
                    create(&mut maker, over_ipv6(port));
                    let ended = maker.get_by_original(&over_ipv6(port).0).unwrap().unwrap();
                    assert!(maker.delete_flow(&ended).unwrap());
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    std::thread::sleep(std::time::Duration::from_micros(200));
                }
            })
        };
        let mut table = by_tuple(events.resync(&mut query, Family::Any).unwrap());
        for round in 0..5 {
            // More events than the receive buffer holds, while nothing reads them.
            for port in 1..=1500 {
                create(&mut query, masqueraded(port));
            }
            for port in (1..=1500).filter(|port| round < 4 || port % 3 != 0) {
                let flow = query.get_by_original(&masqueraded(port).0).unwrap().unwrap();
                assert!(query.delete_flow(&flow).unwrap());
            }
            if round == 4 {
                over.store(true, Ordering::SeqCst);
            }
            let overruns = follow(&mut table, &mut events, &mut query);
            assert!(overruns > 0, "no event was lost in round {round}");
        }
        changing.join().unwrap();
        follow(&mut table, &mut events, &mut query);
        assert_eq!(table.len(), 3500);
        assert_eq!(table, kernels(&mut query));
    });
}
