//! Queries to the real kernel, each test in its own network namespace.
//!
//! Needs root. Without it each test prints a message and does nothing.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use lab::samples::{create, entry, masqueraded, over_ipv6, zoned};
use lab::{in_fresh_namespace, wait_until};
use nfct::{
    Conntrack, Direction, Endpoint, Error, Events, Family, Flow, Groups, Logic, Namespace, Protocol, Query,
    Received, Selection, Status, Tuple,
};

fn dump(query: &mut Query, selection: impl Into<Selection>) -> Vec<Flow> {
    query.dump(selection).unwrap().collect::<Result<_, _>>().unwrap()
}

fn originals(flows: &[Flow]) -> BTreeSet<String> {
    flows.iter().map(|flow| flow.original.to_string()).collect()
}

/// Entries that differ in every selectable field.
fn variety(query: &mut Query) {
    for port in 1..=4 {
        let mut made = entry(masqueraded(port));
        made.set_mark(u32::from(port) << 4);
        query.create(&made).unwrap();
        create(query, over_ipv6(port));
        create(query, zoned(port, masqueraded(100 + port)));
        let mut unanswered = entry(masqueraded(200 + port));
        unanswered.set_status(Status::CONFIRMED).set_mark(0);
        query.create(&unanswered).unwrap();
    }
    // A zone only in the original direction, as `ct original zone set` creates it.
    let (original, reply) = masqueraded(300);
    create(query, (Tuple { zone: 9, ..original }, reply));
}

/// Selections of every kind, alone and combined.
fn selections() -> Vec<Selection> {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let all = Selection::all;
    let inside = address("192.168.7.2");
    let public = address("100.64.2.1");
    vec![
        all(),
        all().family(Family::Ipv4),
        all().family(Family::Ipv6),
        all().mark(0x20, u32::MAX),
        all().mark(0x20, 0x20),
        all().mark(0, 0xf0),
        all().mark(0x99, 0),
        all().mark(7, 7).family(Family::Ipv6),
        all().status(Status::SEEN_REPLY, Status::SEEN_REPLY),
        all().status(Status(0), Status::SEEN_REPLY | Status::ASSURED),
        all().status(Status::ASSURED, Status(0)),
        all().zone(0),
        all().zone(3),
        all().zone(9),
        all().zone(77),
        all().zone(0).mark(7, u32::MAX),
        all().zone(0).family(Family::Ipv4).status(Status(0), Status::ASSURED),
        all().protocol(Protocol::Tcp),
        all().protocol(Protocol::Udp).family(Family::Ipv6),
        all().protocol(Protocol::Udp).family(Family::Ipv4),
        all().address(Direction::Original, Endpoint::Source, inside),
        all().address(Direction::Original, Endpoint::Destination, inside),
        all().address(Direction::Reply, Endpoint::Destination, public),
        all().address(Direction::Reply, Endpoint::Destination, public).family(Family::Ipv6),
        all().address(Direction::Original, Endpoint::Source, address("fd00:7::2")),
        all().address(Direction::Original, Endpoint::Source, address("fd00:7::2")).address(
            Direction::Reply,
            Endpoint::Source,
            inside,
        ),
        all().port(Direction::Original, Endpoint::Source, 2),
        all().port(Direction::Original, Endpoint::Source, 2).protocol(Protocol::Tcp).family(Family::Ipv4),
        all().port(Direction::Reply, Endpoint::Destination, 3).protocol(Protocol::Tcp).family(Family::Ipv4),
        all().port(Direction::Reply, Endpoint::Destination, 3).protocol(Protocol::Udp).family(Family::Ipv6),
        all()
            .port(Direction::Original, Endpoint::Source, 2)
            .port(Direction::Original, Endpoint::Destination, 443)
            .port(Direction::Reply, Endpoint::Source, 443)
            .port(Direction::Reply, Endpoint::Destination, 3)
            .address(Direction::Original, Endpoint::Source, inside)
            .address(Direction::Reply, Endpoint::Destination, public)
            .protocol(Protocol::Tcp)
            .mark(0x20, u32::MAX)
            .zone(0),
        all().networks(Direction::Original, Endpoint::Source, Logic::Only, [(address("192.168.0.0"), 16)]),
        all().networks(Direction::Original, Endpoint::Source, Logic::Except, [(address("192.168.0.0"), 16)]),
        all().networks(Direction::Reply, Endpoint::Destination, Logic::Only, [(address("fd00::"), 8)]).port(
            Direction::Original,
            Endpoint::Source,
            2,
        ),
    ]
}

#[test]
fn a_selective_dump_equals_filtering_a_full_dump() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        variety(&mut query);
        let everything = dump(&mut query, Selection::all());
        assert_eq!(everything.len(), 17);
        let mut sizes = BTreeSet::new();
        for selection in selections() {
            let expected: Vec<Flow> =
                everything.iter().filter(|flow| selection.matches(flow)).copied().collect();
            let found = dump(&mut query, &selection);
            assert_eq!(originals(&found), originals(&expected), "{selection:?}");
            sizes.insert(found.len());
        }
        assert!(sizes.len() > 5, "the selections differ in their results: {sizes:?}");
    });
}

#[test]
fn a_selective_flush_removes_exactly_the_selected_entries() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        for selection in selections() {
            variety(&mut query);
            let stay: Vec<Flow> = dump(&mut query, Selection::all())
                .into_iter()
                .filter(|flow| !selection.matches(flow))
                .collect();
            query.flush(&selection).unwrap();
            assert_eq!(originals(&dump(&mut query, Family::Any)), originals(&stay), "{selection:?}");
            query.flush(Family::Any).unwrap();
            assert_eq!(query.count().unwrap().entries, 0);
        }
    });
}

#[test]
fn an_entry_is_created_updated_and_deleted() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        let tuples = masqueraded(1);
        let mut made = entry(tuples);
        let missing = query.update(&made).unwrap_err();
        assert_eq!(missing.errno(), Some(libc::ENOENT), "{missing}");
        query.create(&made).unwrap();
        let twice = query.create(&made).unwrap_err();
        assert_eq!(twice.errno(), Some(libc::EEXIST));
        assert!(twice.to_string().ends_with("an entry with one of these tuples exists already"), "{twice}");

        made.set_mark(9).set_timeout(Duration::from_secs(77));
        query.update(&made).unwrap();
        let found = query.get_by_reply(&tuples.1).unwrap().unwrap();
        assert_eq!(found.mark, 9);
        assert!((70..=77).contains(&found.timeout.unwrap()), "{found:?}");

        let other = masqueraded(2);
        query.create_or_update(&entry(other)).unwrap();
        let mut again = entry(other);
        again.set_mark(10);
        query.create_or_update(&again).unwrap();
        assert_eq!(query.get_by_original(&other.0).unwrap().unwrap().mark, 10);

        assert!(query.delete(&made).unwrap());
        assert!(!query.delete(&made).unwrap(), "it was deleted before");
        assert_eq!(query.count().unwrap().entries, 1);

        let empty = query.create(&Conntrack::new().unwrap()).unwrap_err();
        assert!(empty.to_string().contains("needs its original tuple"), "{empty}");
        let mut no_state = Conntrack::new().unwrap();
        no_state.set_tuples(&tuples.0, &tuples.1).unwrap();
        let refused = query.create(&no_state).unwrap_err();
        assert_eq!(refused.errno(), Some(libc::EINVAL));
        assert!(refused.to_string().contains("a timeout"), "{refused}");
    });
}

#[test]
fn only_the_named_lifetime_is_deleted() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        for tuples in [masqueraded(1), zoned(5, masqueraded(1)), over_ipv6(1)] {
            create(&mut query, tuples);
            let flow = query.get_by_original(&tuples.0).unwrap().unwrap();
            let mut other_life = flow;
            other_life.id ^= 1;
            assert!(!query.delete_flow(&other_life).unwrap());
            assert!(query.get_by_original(&tuples.0).unwrap().is_some());
            assert!(query.delete_flow(&flow).unwrap());
            assert!(!query.delete_flow(&flow).unwrap());
            assert_eq!(query.get_by_original(&tuples.0).unwrap(), None);
        }
    });
}

#[test]
fn get_returns_an_entry_with_every_attribute() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        for tuples in [masqueraded(1), over_ipv6(2), zoned(3, masqueraded(3))] {
            create(&mut query, tuples);
        }
        for flow in dump(&mut query, Family::Any) {
            for (direction, tuple) in [(Direction::Original, &flow.original), (Direction::Reply, &flow.reply)]
            {
                let full = query.get(direction, tuple).unwrap().unwrap();
                assert_eq!((full.original(), full.reply()), (Some(flow.original), Some(flow.reply)));
                assert_eq!(
                    (full.id(), full.mark(), full.status()),
                    (Some(flow.id), Some(7), Some(flow.status))
                );
            }
            assert!(query.get(Direction::Reply, &flow.original).unwrap().is_none());
        }
        let full: Vec<Conntrack> = query.dump(Family::Any).unwrap().full().map(Result::unwrap).collect();
        assert_eq!(full.len(), 3);
        let selected = query.dump(Selection::all().zone(0)).unwrap().full().count();
        assert_eq!(selected, 2, "selections apply to complete objects too");
        // Half as plain values, half as objects.
        let mut half = query.dump(Family::Any).unwrap();
        let first = half.next().unwrap().unwrap();
        let rest: Vec<_> = half.full().map(|entry| entry.unwrap().id().unwrap()).collect();
        assert_eq!(rest.len(), 2);
        assert!(!rest.contains(&first.id));
    });
}

#[test]
fn counts_are_per_namespace() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        assert_eq!(query.count().unwrap().entries, 0);
        for port in 1..=25 {
            create(&mut query, masqueraded(port));
        }
        let count = query.count().unwrap();
        assert_eq!(count.entries, 25);
        let limit = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap();
        assert_eq!(count.limit, limit.trim().parse().ok());

        let cpus: Vec<_> = query.cpu_statistics().unwrap().map(Result::unwrap).collect();
        let numbers: BTreeSet<u16> = cpus.iter().map(|cpu| cpu.cpu).collect();
        assert!(!cpus.is_empty() && numbers.len() == cpus.len(), "{cpus:?}");
        let expectations: Vec<_> = query.expect_cpu_statistics().unwrap().map(Result::unwrap).collect();
        assert_eq!(expectations.len(), cpus.len());
        assert!(expectations.iter().all(|cpu| cpu.create == 0), "{expectations:?}");
    });
}

/// They equal the output of `conntrack -S`.
#[test]
fn per_cpu_statistics_are_read_correctly() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        (1..=40).for_each(|port| create(&mut query, masqueraded(port)));
        let ours: Vec<_> = query.cpu_statistics().unwrap().map(Result::unwrap).collect();
        assert_eq!(ours.iter().map(|cpu| cpu.insert).sum::<u32>(), 40, "{ours:?}");
        let clashes: u32 = ours.iter().map(|cpu| cpu.clash_resolve).sum();
        assert_eq!(query.clashes().unwrap(), u64::from(clashes));
        let text = Command::new("conntrack").arg("-S").output().unwrap();
        let text = String::from_utf8(text.stdout).unwrap();
        for (cpu, line) in ours.iter().zip(text.lines()) {
            let of = |name: &str| {
                let field = line.split_whitespace().find_map(|field| field.strip_prefix(&format!("{name}=")));
                field.and_then(|number| number.parse::<u32>().ok())
            };
            assert_eq!(of("cpu"), Some(cpu.cpu.into()), "{line}");
            for (name, number) in [
                ("found", cpu.found),
                ("invalid", cpu.invalid),
                ("insert", cpu.insert),
                ("insert_failed", cpu.insert_failed),
                ("drop", cpu.drop),
                ("early_drop", cpu.early_drop),
                ("error", cpu.error),
                ("search_restart", cpu.search_restart),
                ("clash_resolve", cpu.clash_resolve),
            ] {
                assert_eq!(of(name).unwrap_or(0), number, "{name}: {line}");
            }
        }
    });
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
}

fn nft(rules: &str) {
    use std::io::Write;
    let mut child =
        Command::new("nft").args(["-f", "-"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn counters_are_read_and_reset() {
    in_fresh_namespace(|| {
        assert!(run("ip", &["link", "set", "lo", "up"]));
        std::fs::write("/proc/sys/net/netfilter/nf_conntrack_acct", "1").unwrap();
        nft("table inet t {\n chain in { type filter hook input priority 0; ct state new counter; }\n}\n");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut query = Query::open().unwrap();
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..10 {
            socket.send_to(b"counted", receiver.local_addr().unwrap()).unwrap();
        }
        let text = || {
            let output = Command::new("conntrack").arg("-L").output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(text().contains("packets=10 bytes=350"), "{}", text());
        assert_eq!(query.dump_and_reset(Family::Any).unwrap().full().count(), 1);
        assert!(text().contains("packets=0 bytes=0"), "{}", text());
    });
}

#[test]
fn entries_whose_event_was_lost_are_listed_as_dying() {
    in_fresh_namespace(|| {
        let events = Events::subscribe(Groups::DESTROY).unwrap();
        events.set_reliable(true).unwrap();
        events.set_receive_buffer(4096).unwrap();
        let mut query = Query::open().unwrap();
        for port in 1..=300 {
            create(&mut query, masqueraded(port));
        }
        assert_eq!(query.dump_dying().unwrap().count(), 0);
        assert_eq!(query.dump_unconfirmed().unwrap().count(), 0);
        query.flush(Family::Any).unwrap();
        let dying: Vec<Flow> = query.dump_dying().unwrap().map(Result::unwrap).collect();
        assert!((1..300).contains(&dying.len()), "{}", dying.len());
        assert!(dying.iter().all(|flow| flow.status.is_dying()));
        assert_eq!(query.dump(Family::Any).unwrap().count(), 0);

        let mut events = events;
        wait_until("the kernel reports them all", || {
            while events.receive(|_| ()).unwrap() != Received::Nothing {}
            query.dump_dying().unwrap().count() == 0
        });
    });
}

#[test]
fn sockets_open_in_other_namespaces_and_the_thread_keeps_its_own() {
    in_fresh_namespace(|| {
        let here = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let mut query = Query::open().unwrap();
        create(&mut query, masqueraded(1));
        let home = here();

        // Two more namespaces. A thread in each keeps it open.
        let (ended, hold) = std::sync::mpsc::channel::<()>();
        let hold = std::sync::Arc::new(std::sync::Mutex::new(hold));
        let (sender, receiver) = std::sync::mpsc::channel();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (sender, hold) = (sender.clone(), hold.clone());
                std::thread::spawn(move || {
                    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                    let path = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
                    sender.send(Namespace::at(path).unwrap()).unwrap();
                    let _ = hold.lock().unwrap().recv();
                })
            })
            .collect();
        let namespaces: Vec<Namespace> = receiver.iter().take(2).collect();
        drop(ended);
        threads.into_iter().for_each(|thread| thread.join().unwrap());

        // Now only the descriptors keep them open. This thread has a listener in each.
        let mut listeners: Vec<Events> = namespaces
            .iter()
            .map(|namespace| namespace.enter(|| Events::subscribe(Groups::NEW)).unwrap())
            .collect();
        let mut own = Events::subscribe(Groups::NEW).unwrap();
        assert_eq!(here(), home);
        for (at, namespace) in namespaces.iter().enumerate() {
            let mut there = namespace.enter(Query::open).unwrap();
            assert_eq!(there.count().unwrap().entries, 0);
            for port in 0..=at as u16 {
                create(&mut there, masqueraded(100 + port));
            }
            // A query that opens a new socket stays in its namespace too.
            let mut dump = there.dump(Family::Any).unwrap();
            assert!(dump.next().is_some());
            dump.abandon();
            assert_eq!(there.count().unwrap().entries as usize, at + 1);
        }
        assert_eq!(query.count().unwrap().entries, 1);
        for (at, events) in listeners.iter_mut().enumerate() {
            let mut seen = 0;
            while events.receive(|_| seen += 1).unwrap() != Received::Nothing {}
            assert_eq!(seen, at + 1);
        }
        assert_eq!(own.receive(|_| ()).unwrap(), Received::Nothing);
        assert_eq!(here(), home);

        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            namespaces[0].enter(|| -> Result<(), Error> { panic!("in the namespace") })
        }));
        assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"in the namespace"));

        let missing = Namespace::named("no-such-namespace").unwrap_err();
        assert_eq!(missing.errno(), Some(libc::ENOENT));
        assert!(missing.to_string().contains("ip netns list"), "{missing}");
        let wrong = Namespace::at("/proc/self/status").unwrap().enter(Query::open).err().unwrap();
        assert!(wrong.to_string().contains("not a network namespace"), "{wrong}");
    });
}

/// Capabilities belong to a thread, but setuid changes all threads: the test starts itself again as nobody.
#[test]
fn the_error_names_the_missing_capability() {
    const AS_NOBODY: &str = "NFCT_TEST_AS_NOBODY";
    if std::env::var_os(AS_NOBODY).is_some() {
        let own = Namespace::of_process(std::process::id()).unwrap();
        let mut query = Query::open().unwrap();
        println!("{}", query.flush(Family::Any).unwrap_err());
        println!("{}", Events::subscribe(Groups::NEW).err().unwrap());
        println!("{}", own.enter(Query::open).err().unwrap());
        return;
    }
    in_fresh_namespace(|| {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["queries::the_error_names_the_missing_capability", "--exact", "--nocapture"]);
        command.env(AS_NOBODY, "1").uid(65534);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert_eq!(text.matches("needs CAP_NET_ADMIN").count(), 2, "{text}");
        assert_eq!(text.matches("needs CAP_SYS_ADMIN").count(), 1, "{text}");
    });
}
