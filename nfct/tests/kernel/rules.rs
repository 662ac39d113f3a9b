//! Rules that mask events, on the real kernel, each test in its own network namespace.
//!
//! Needs root and nft. Without root each test prints a message and does nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::{StopOnDrop, in_fresh_namespace};
use nfct::{EventKind, Events, Family, Groups, Notification, Query, RuleChange, RuleChanges};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Loads rules into the namespace of this thread.
fn nft(rules: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{rules}");
}

/// A table with one base chain of these rules.
fn table(family: &str, name: &str, rules: &[&str]) -> String {
    let hook = "type filter hook output priority -150\n policy accept";
    format!("table {family} {name} {{\n chain c {{\n {hook}\n {}\n }}\n}}\n", rules.join("\n "))
}

fn texts(query: &mut Query) -> Vec<String> {
    query.event_masks().unwrap().iter().map(ToString::to_string).collect()
}

#[test]
fn the_masks_of_all_families_are_read() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        assert_eq!(query.event_masks().unwrap(), []);
        nft(&table("inet", "none", &["counter", "ct mark set 7", "ct event set new,related,destroy"]));
        nft(&table(
            "ip",
            "four",
            &["ct mark set 7 ct event set new", "tcp dport 22 ct event set destroy accept"],
        ));
        nft(&table("ip6", "six", &["ct event set 0x0", "ct event set new,related,destroy,assured"]));
        nft(&table("inet", "computed", &["ct event set meta mark map { 1 : new, 2 : destroy }"]));
        let masks = query.event_masks().unwrap();
        let found: BTreeSet<_> = masks
            .iter()
            .map(|rule| (rule.family, rule.table.as_str(), rule.chain.as_str(), rule.mask))
            .collect();
        let (inet, ip, ip6) = (libc::NFPROTO_INET as u8, libc::NFPROTO_IPV4 as u8, libc::NFPROTO_IPV6 as u8);
        let expected = [
            (inet, "none", "c", Some(7)),
            (ip, "four", "c", Some(1)),
            (ip, "four", "c", Some(4)),
            (ip6, "six", "c", Some(0)),
            (ip6, "six", "c", Some(0x17)),
            (inet, "computed", "c", None),
        ];
        assert_eq!(found, BTreeSet::from(expected));
        assert_eq!(masks.len(), expected.len());
        let passing: BTreeSet<_> =
            masks.iter().filter(|rule| rule.lets_through_begin_and_end()).map(|rule| rule.mask).collect();
        assert_eq!(passing, BTreeSet::from([Some(7), Some(0x17)]));
        // Each rule is removed by what its text says.
        for rule in &masks {
            let text = rule.to_string();
            let words: Vec<&str> = text.split(' ').collect();
            let ["rule", handle, "of", "chain", chain, "in", "table", family, table, ..] = words[..] else {
                panic!("{text}")
            };
            nft(&format!("delete rule {family} {table} {chain} handle {handle}\n"));
        }
        assert_eq!(query.event_masks().unwrap(), []);
        assert_eq!(query.count().unwrap().entries, 0, "the socket has no answer left");
    });
}

#[test]
fn the_masks_of_iptables_nft_are_read() {
    if Command::new("iptables-nft").arg("-V").output().is_err() {
        println!("skipped: needs iptables-nft");
        return;
    }
    in_fresh_namespace(|| {
        let run = |program: &str, target: &str| {
            let rule = format!("-w -t raw -A OUTPUT -p udp -j CT {target}");
            let status = Command::new(program).args(rule.split(' ')).status().unwrap();
            assert!(status.success(), "{program} {rule}");
        };
        let mut query = Query::open().unwrap();
        run("iptables-nft", "--notrack");
        run("iptables-nft", "--zone 3");
        assert_eq!(query.event_masks().unwrap(), []);
        run("iptables-nft", "--ctevents new");
        run("iptables-nft", "--expevents new");
        run("ip6tables-nft", "--ctevents new,related,destroy --zone 3");
        let masks = query.event_masks().unwrap();
        let found: Vec<_> = masks
            .iter()
            .map(|rule| (rule.family, rule.table.as_str(), rule.mask, rule.lets_through_begin_and_end()))
            .collect();
        let (ip, ip6) = (libc::NFPROTO_IPV4 as u8, libc::NFPROTO_IPV6 as u8);
        assert_eq!(
            found,
            [(ip, "raw", Some(1), false), (ip, "raw", Some(0), false), (ip6, "raw", Some(7), true)]
        );
    });
}

/// What the kernel reports of a connection under a rule is what the mask says.
#[test]
fn a_mask_hides_exactly_the_events_that_it_lacks() {
    in_fresh_namespace(|| {
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        let track = "ct state new counter";
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut query = Query::open().unwrap();
        let mut events = Events::subscribe(Groups::NEW | Groups::DESTROY).unwrap();
        let mut with = |rules: &[&str]| {
            nft(&table("inet", "t", rules));
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"x", receiver.local_addr().unwrap()).unwrap();
            assert_eq!(query.count().unwrap().entries, 1);
            query.flush(Family::Any).unwrap();
            let complete = query.event_masks().unwrap().iter().all(|rule| rule.lets_through_begin_and_end());
            nft("delete table inet t\n");
            let mut seen = Vec::new();
            while let Some(notification) = events.try_next().unwrap() {
                let Notification::Event(event) = notification else { panic!("{notification:?}") };
                seen.push(event.kind);
            }
            (seen, complete)
        };
        let (new, destroy) = (EventKind::New, EventKind::Destroy);
        assert_eq!(with(&[track]), (vec![new, destroy], true));
        assert_eq!(with(&["ct event set new,related,destroy"]), (vec![new, destroy], true));
        assert_eq!(with(&["ct event set new"]), (vec![new], false));
        assert_eq!(with(&["ct event set destroy"]), (vec![destroy], false));
        assert_eq!(with(&["ct event set 0x0"]), (vec![], false));
        if Command::new("iptables-nft").arg("-V").output().is_ok() {
            let mut target = |target: &str| {
                let rule = format!("-w -t raw -A OUTPUT -p udp -j CT {target}");
                assert!(Command::new("iptables-nft").args(rule.split(' ')).status().unwrap().success());
                let found = with(&[track]);
                nft("delete table ip raw\n");
                found
            };
            assert_eq!(target("--ctevents destroy"), (vec![destroy], false));
            assert_eq!(
                target("--expevents new"),
                (vec![], false),
                "a mask for expectations hides all others"
            );
            assert_eq!(target("--zone 3"), (vec![new, destroy], true));
        }
    });
}

#[test]
fn a_change_of_the_rules_is_noticed_once() {
    in_fresh_namespace(|| {
        let mut changes = RuleChanges::subscribe().unwrap();
        assert_eq!(changes.read().unwrap(), RuleChange::default());
        let waiter = changes.waiter().unwrap();
        let is_readable = |changes: &RuleChanges| {
            let mut watched = [PollFd::new(changes.as_fd(), PollFlags::POLLIN)];
            let is_readable = poll(&mut watched, PollTimeout::ZERO).unwrap() == 1;
            assert_eq!(waiter.wait(Some(Duration::ZERO)).unwrap(), is_readable);
            is_readable
        };
        for (rules, masks, removed) in [
            (table("inet", "t", &["counter"]), 0, false),
            ("add rule inet t c ct event set new\n".to_owned(), 1, false),
            ("flush chain inet t c\n".to_owned(), 0, true),
            (table("ip", "other", &["ct event set new", "counter", "ct event set destroy"]), 2, false),
            ("delete table inet t\n".to_owned(), 0, true),
        ] {
            assert!(!is_readable(&changes));
            nft(&rules);
            assert!(is_readable(&changes));
            changes.wait().unwrap();
            let change = changes.read().unwrap();
            assert_eq!((change.added_masks.len(), change.removed), (masks, removed), "{rules}");
            assert_eq!(changes.read().unwrap(), RuleChange::default(), "{rules}");
        }
        // Elsewhere, and not of the rules.
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            nft(&table("inet", "t", &["counter"]));
        })
        .join()
        .unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        assert_eq!(changes.read().unwrap(), RuleChange::default());
        // More notifications than fit the receive buffer.
        nft(&table("inet", "t", &["counter ip saddr 10.0.0.1 ip daddr 10.0.0.2"; 5000]));
        assert!(changes.read().unwrap().lost, "the masks must be read again");
        assert_eq!(changes.read().unwrap(), RuleChange::default());
        nft("delete table inet t\n");
        assert!(changes.read().unwrap().removed, "it notices changes after an overrun");
    });
}

/// Capabilities belong to a thread, but setuid changes all threads: the test starts itself again as nobody.
#[test]
fn cap_net_admin_is_enough_and_needed() {
    const AS_NOBODY: &str = "NFCT_TEST_RULES_AS_NOBODY";
    if std::env::var_os(AS_NOBODY).is_some() {
        match RuleChanges::subscribe() {
            Ok(mut changes) => println!("changes: {:?}", changes.read().unwrap()),
            Err(error) => println!("{error}"),
        }
        match Query::open().unwrap().event_masks() {
            Ok(masks) => println!("masks: {}", masks[0]),
            Err(error) => println!("{error}"),
        }
        return;
    }
    in_fresh_namespace(|| {
        nft(&table("inet", "t", &["ct event set new"]));
        let output = |capabilities: &[&str]| {
            let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
            let mut command = Command::new("setpriv");
            command.args(nobody).args(capabilities).arg(std::env::current_exe().unwrap());
            command.args(["rules::cap_net_admin_is_enough_and_needed", "--exact", "--nocapture"]);
            let output = command.env(AS_NOBODY, "1").output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{text}");
            text
        };
        let with = output(&["--inh-caps=+net_admin", "--ambient-caps=+net_admin", "--no-new-privs"]);
        assert!(with.contains("changes: RuleChange"), "{with}");
        assert!(with.contains("masks: rule") && with.contains("sets the event mask 0x1"), "{with}");
        let without = output(&[]);
        let needs = ": Operation not permitted (os error 1): needs CAP_NET_ADMIN";
        for doing in ["following the rules of nftables", "reading the rules of nftables"] {
            assert!(without.contains(&format!("{doing}{needs}")), "{without}");
        }
    });
}

/// Rules of a chain that do not mask events.
fn many(count: usize) -> String {
    let mut rules = String::from("add table inet many\nadd chain inet many c\n");
    for number in 0..count {
        let address = format!("10.{}.{}.1", number / 250, number % 250);
        writeln!(rules, "add rule inet many c ip saddr {address} tcp dport 22 counter ct mark set 7 accept")
            .unwrap();
    }
    rules
}

#[test]
fn masks_among_many_rules_are_found_while_rules_change() {
    in_fresh_namespace(|| {
        nft(&many(2000));
        nft("add rule inet many c ct event set new\n");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let no_more = StopOnDrop(&stop);
            // A thread inherits the namespace.
            let changing = scope.spawn(|| {
                let mut changed = 0;
                while !stop.load(Ordering::Relaxed) {
                    nft("insert rule inet many c counter\n");
                    changed += 1;
                }
                changed
            });
            let mut query = Query::open().unwrap();
            for _ in 0..30 {
                match query.event_masks() {
                    Ok(masks) => {
                        assert_eq!(masks.iter().map(|rule| rule.mask).collect::<Vec<_>>(), [Some(1)])
                    }
                    Err(error) => assert_eq!(error.errno(), Some(libc::EINTR), "{error}"),
                }
            }
            drop(no_more);
            assert!(changing.join().unwrap() > 0);
            assert_eq!(texts(&mut query).len(), 1);
        });
    });
}

/// `cargo test --test kernel rules:: -- --ignored --nocapture`
#[test]
#[ignore = "prints a figure, and asserts nothing about it"]
fn figure_of_10000_rules() {
    in_fresh_namespace(|| {
        nft(&many(10_000));
        let mut query = Query::open().unwrap();
        let mut changes = RuleChanges::subscribe().unwrap();
        for _ in 0..5 {
            let started = Instant::now();
            assert_eq!(query.event_masks().unwrap(), []);
            print!("10,000 rules: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
            let started = Instant::now();
            (0..10_000).for_each(|_| assert!(!changes.read().unwrap().lost));
            println!(", no change: {:.2} us", started.elapsed().as_secs_f64() * 1e2);
        }
    });
}
