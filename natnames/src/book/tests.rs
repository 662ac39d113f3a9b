//! Who had an address.

use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::answer::Who;
use crate::book::{Book, Changes, Limits};
use crate::claim::{Claim, Report};
use crate::fact::{Fact, Span};
use crate::host::Host;
use crate::mac::Mac;
use crate::time::Millis;

const LIMITS: Limits = Limits { facts: 1000, keep: 1_000_000 };

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn device(name: &str, mac: u8) -> Host {
    Host { mac: Mac::from_bytes(&[2, 0, 0, 0, 0, mac]), ..Host::named(name) }
}

fn claim(text: &str, host: Host, since: Option<Millis>, until: Option<Millis>) -> Report {
    Report::Holds(Claim { net: net(text), host, since, within: 0, until })
}

/// A book whose sources are followed from the moment 0 on.
fn book(sources: &[&str]) -> Book {
    let places: Vec<(&str, &str)> = sources.iter().map(|name| (*name, "/somewhere")).collect();
    let mut book = Book::new(LIMITS, &places, 0);
    for source in 0..sources.len() as u8 {
        book.apply(source, Report::ListBegins { missed_since: None }, 0);
        book.apply(source, Report::ListEnds, 0);
    }
    book
}

/// The name that an address had, with a question mark if it is not certain.
fn name(book: &Book, address: &str, at: Millis) -> String {
    let answer = book.at(address.parse().unwrap(), at);
    let found = answer.found.map(|found| {
        let name = found.name.unwrap_or("unnamed").to_owned();
        if found.is_certain { name } else { name + "?" }
    });
    found.unwrap_or_else(|| "nobody".to_owned())
}

#[test]
fn an_address_passes_from_host_to_host() {
    let mut book = book(&["leases"]);
    book.apply(0, claim("192.168.7.23", device("phone", 1), Some(1_000), Some(9_000)), 1_000);
    book.apply(0, Report::Ends { net: net("192.168.7.23"), at: Some(5_000) }, 5_000);
    book.apply(0, claim("192.168.7.23", device("laptop", 2), Some(5_400), Some(9_400)), 5_400);
    let names =
        [999, 1_000, 4_999, 5_000, 5_399, 5_400, 9_399, 9_400].map(|at| name(&book, "192.168.7.23", at));
    assert_eq!(names, ["nobody", "phone", "phone", "nobody", "nobody", "laptop", "laptop", "nobody"]);
    // Renewed, and renamed.
    book.apply(0, claim("192.168.7.23", device("laptop", 2), Some(7_000), Some(11_000)), 7_000);
    book.apply(0, claim("192.168.7.23", device("work", 2), Some(7_000), Some(11_000)), 8_000);
    let names = [7_899, 7_999, 8_000, 10_999].map(|at| name(&book, "192.168.7.23", at));
    assert_eq!(names, ["laptop", "laptop?", "work", "work"]);
    // One that takes over without a word of the end.
    book.apply(0, claim("192.168.7.23", device("tablet", 3), Some(10_000), Some(14_000)), 10_001);
    assert_eq!([9_999, 10_000].map(|at| name(&book, "192.168.7.23", at)), ["work", "tablet"]);
}

#[test]
fn what_is_said_again_after_a_restart_adds_nothing() {
    let mut before = book(&["leases"]);
    before.keep_journal();
    let leases = [("a", 1, 1_000, 2_000), ("b", 2, 3_000, 4_000), ("a", 1, 5_000, 9_000)];
    let list = |book: &mut Book| {
        book.apply(0, Report::ListBegins { missed_since: None }, 6_000);
        for (host, mac, since, until) in leases {
            book.apply(0, claim("10.0.0.1", device(host, mac), Some(since), Some(until)), 6_000);
        }
        book.apply(0, Report::ListEnds, 6_000);
    };
    list(&mut before);
    let mut after = Book::new(LIMITS, &[("leases", "/somewhere")], 6_000);
    after.restore(before.take_changes(6_000).facts, [], Some(6_000), 6_000);
    list(&mut after);
    let times = [999, 1_999, 2_000, 3_000, 3_999, 4_000, 5_000, 8_999];
    let expected = ["nobody", "a", "nobody", "b", "b", "nobody", "a", "a"];
    assert_eq!(times.map(|at| name(&after, "10.0.0.1", at)), expected);
    assert_eq!(after.len(), 3);
}

#[test]
fn a_stop_that_is_told_late_ends_no_later_host() {
    let mut book = book(&["accounting"]);
    book.apply(0, claim("10.0.0.1", device("a", 1), Some(5_000), None), 5_000);
    book.apply(0, Report::Stops { net: net("10.0.0.1"), at: 4_500 }, 7_000);
    assert_eq!(name(&book, "10.0.0.1", 8_000), "a");
    // A source without a list keeps what it said.
    book.lose(0, 7_000);
    book.apply(0, Report::Followed, 7_500);
    assert_eq!([6_999, 7_499, 7_500].map(|at| name(&book, "10.0.0.1", at)), ["a", "a?", "a"]);
    book.apply(0, Report::Stops { net: net("10.0.0.1"), at: 8_000 }, 8_100);
    assert_eq!([7_999, 8_000].map(|at| name(&book, "10.0.0.1", at)), ["a", "nobody"]);
}

#[test]
fn whole_seconds_of_a_source_are_not_taken_for_more() {
    let mut book = book(&["leases"]);
    let within = |address, host, since, now| {
        (Report::Holds(Claim { net: net(address), host, since: Some(since), within: 999, until: None }), now)
    };
    let (report, now) = within("10.0.0.1", device("a", 1), 10_000, 10_300);
    book.apply(0, report, now);
    book.apply(0, Report::Ends { net: net("10.0.0.1"), at: None }, 10_600);
    let (report, now) = within("10.0.0.1", device("b", 2), 10_000, 10_800);
    book.apply(0, report, now);
    let at = |at| name(&book, "10.0.0.1", at);
    assert_eq!([10_100, 10_300, 10_499, 10_599].map(at), ["a?", "a", "a", "a?"]);
    assert_eq!(name(&book, "10.0.0.1", 10_800), "b");
    assert_ne!(name(&book, "10.0.0.1", 10_700), "b");
}

#[test]
fn while_a_source_is_not_followed_nothing_is_certain() {
    let mut book = book(&["leases"]);
    book.apply(0, claim("10.0.0.1", device("a", 1), Some(100), None), 100);
    book.apply(0, claim("10.0.0.2", device("b", 2), Some(100), None), 100);
    book.lose(0, 1_000);
    assert_eq!([999, 1_000, 5_000].map(|at| name(&book, "10.0.0.1", at)), ["a", "a?", "a?"]);
    assert_eq!(book.at("10.0.0.9".parse().unwrap(), 5_000).gaps, [0]);
    book.apply(0, Report::ListBegins { missed_since: None }, 2_000);
    book.apply(0, claim("10.0.0.1", device("a", 1), Some(100), None), 2_000);
    book.apply(0, Report::ListEnds, 2_000);
    assert_eq!([999, 1_000, 1_999, 2_000].map(|at| name(&book, "10.0.0.1", at)), ["a", "a?", "a?", "a"]);
    // It ended at some moment in between.
    assert_eq!([999, 1_999, 2_000].map(|at| name(&book, "10.0.0.2", at)), ["b", "b?", "nobody"]);
    assert_eq!(book.at("10.0.0.9".parse().unwrap(), 2_000).gaps, [] as [u8; 0]);
}

#[test]
fn a_lease_names_the_other_addresses_of_its_device() {
    let mut book = book(&["leases", "neighbours"]);
    book.apply(0, claim("192.168.7.23", device("phone", 1), Some(0), Some(9_000)), 10);
    let unnamed = |mac| Host { name: None, ..device("", mac) };
    book.apply(1, claim("fd00::1:2", unnamed(1), None, None), 1_500);
    assert_eq!(
        [1_399, 1_400, 1_500, 8_999].map(|at| name(&book, "fd00::1:2", at)),
        ["nobody", "phone?", "phone", "phone"]
    );
    assert_eq!(name(&book, "fd00::1:2", 9_000), "unnamed");
    let addresses = book.addresses_of(&Who::Name("PHONE".to_owned()), 0, 20_000);
    assert_eq!(addresses.len(), 2);
    assert_eq!(addresses[1].0, net("fd00::1:2"));
    // The neighbour table has another device at the leased address: both are said.
    book.apply(1, claim("192.168.7.23", unnamed(9), None, None), 3_000);
    let found = book.at("192.168.7.23".parse().unwrap(), 4_000).found.unwrap();
    assert_eq!((found.name, found.others.len()), (Some("phone"), 1));
    assert!(found.is(&Who::Name("Phone".to_owned())) && found.is(&Who::Mac(device("", 1).mac.unwrap())));
}

#[test]
fn the_longest_prefix_and_the_first_source_decide() {
    let mut book = book(&["file", "leases"]);
    book.apply(0, claim("10.0.0.0/8", Host::named("office"), Some(0), None), 0);
    book.apply(0, claim("10.1.0.0/16", Host::named("lab"), Some(0), None), 0);
    book.apply(1, claim("10.1.2.3", Host::named("printer"), Some(0), None), 0);
    let names = ["10.1.2.3", "10.1.2.4", "10.2.0.0", "11.0.0.0"].map(|address| name(&book, address, 5));
    assert_eq!(names, ["printer", "lab", "office", "nobody"]);
}

#[test]
fn a_book_goes_on_with_what_an_earlier_one_knew() {
    let mut before = book(&["leases"]);
    before.keep_journal();
    before.apply(0, claim("10.0.0.1", device("a", 1), Some(100), None), 100);
    before.apply(0, claim("10.0.0.2", device("b", 2), Some(100), Some(1_500)), 100);
    before.apply(0, claim("10.0.0.3", device("c", 3), Some(100), None), 100);
    before.apply(0, claim("10.0.0.3", device("d", 4), Some(200), None), 200);
    before.lose(0, 500);
    before.apply(0, Report::ListBegins { missed_since: None }, 600);
    for (address, host, since) in [("10.0.0.1", device("a", 1), 100), ("10.0.0.3", device("d", 4), 200)] {
        before.apply(0, claim(address, host, Some(since), None), 600);
    }
    before.apply(0, Report::ListEnds, 600);
    let Changes { facts, gaps } = before.take_changes(900);
    assert_eq!((facts.len(), &gaps[..]), (4, &[(0, 500, 600)][..]));
    assert_eq!(before.take_changes(901), Changes::default());

    let mut after = Book::new(LIMITS, &[("leases", "/somewhere")], 2_000);
    assert_eq!((after.number_of("leases", "/somewhere"), after.number_of("gone", "/x")), (Some(0), Some(1)));
    after.restore(facts, gaps, Some(1_000), 2_000);
    let at = |book: &Book, address, times: [Millis; 4]| times.map(|at| name(book, address, at));
    assert_eq!(at(&after, "10.0.0.1", [499, 550, 999, 1_000]), ["a", "a?", "a", "a?"]);
    assert_eq!(at(&after, "10.0.0.3", [150, 200, 999, 3_000]), ["c", "d", "d", "d?"]);
    after.apply(0, Report::ListBegins { missed_since: None }, 2_100);
    after.apply(0, claim("10.0.0.1", device("a", 1), Some(100), None), 2_100);
    after.apply(0, Report::ListEnds, 2_100);
    assert_eq!(at(&after, "10.0.0.1", [999, 2_099, 2_100, 3_000]), ["a", "a?", "a", "a"]);
    assert_eq!(at(&after, "10.0.0.3", [999, 1_000, 2_099, 2_100]), ["d", "d?", "d?", "nobody"]);
}

#[test]
fn memory_is_bounded_and_what_holds_is_kept() {
    let mut book = book(&["leases"]);
    book.limits = Limits { facts: 100, keep: 1_000 };
    for at in 0..10_000 {
        let address = IpAddr::from([10, 0, (at >> 8) as u8, at as u8]);
        let host = device(&format!("host{at}"), 1);
        book.apply(0, claim(&address.to_string(), host, Some(at), Some(at + 50)), at);
        assert!(book.len() <= 100);
    }
    assert_eq!((name(&book, "10.0.39.15", 9_999), book.refused()), ("host9999".to_owned(), 0));
    for at in 0..200 {
        book.apply(0, claim(&format!("10.9.9.{at}"), Host::named("x"), Some(10_000), None), 10_000);
    }
    assert!(book.len() <= 100 && book.refused() >= 100);
}

#[test]
fn what_holds_and_began_later_than_its_source_says_is_not_ended_by_a_restart() {
    let mut before = book(&["containers"]);
    before.keep_journal();
    // Restarted at once: the begin that the source says lies before the end of the first run.
    before.apply(0, claim("10.0.0.1", device("web", 1), Some(100), None), 100);
    before.apply(0, Report::Ends { net: net("10.0.0.1"), at: Some(5_000) }, 5_000);
    before.apply(0, claim("10.0.0.1", device("web", 1), Some(4_300), None), 5_300);
    // Renamed.
    before.apply(0, claim("10.0.0.2", device("two", 2), Some(100), None), 100);
    before.apply(0, claim("10.0.0.2", device("deux", 2), Some(100), None), 3_000);
    let facts = before.take_changes(5_400).facts;
    let mut after = Book::new(LIMITS, &[("containers", "/somewhere")], 6_000);
    after.restore(facts, [], Some(5_500), 6_000);
    after.apply(0, Report::ListBegins { missed_since: None }, 6_000);
    after.apply(0, claim("10.0.0.1", device("web", 1), Some(4_300), None), 6_000);
    after.apply(0, claim("10.0.0.2", device("deux", 2), Some(100), None), 6_000);
    after.apply(0, Report::ListEnds, 6_000);
    assert_eq!(["10.0.0.1", "10.0.0.2"].map(|address| name(&after, address, 9_000)), ["web", "deux"]);
    assert_eq!(name(&after, "10.0.0.2", 2_000), "two");
}

#[test]
fn a_name_of_a_source_that_is_not_followed_is_not_certain() {
    let mut book = book(&["leases", "neighbours"]);
    let unnamed = Host { name: None, ..device("", 1) };
    book.apply(0, claim("fd00::1", Host::named("phone"), Some(100), None), 100);
    book.apply(1, claim("fd00::1", unnamed, None, None), 100);
    assert_eq!(name(&book, "fd00::1", 500), "phone");
    book.lose(0, 1_000);
    assert_eq!(name(&book, "fd00::1", 1_500), "phone?");
    // Neither is what a source says that decides after one that is not followed.
    book.apply(1, claim("fd00::2", device("printer", 2), None, None), 1_100);
    assert_eq!(name(&book, "fd00::2", 1_500), "printer?");
    book.apply(0, Report::ListBegins { missed_since: None }, 2_000);
    book.apply(0, Report::ListEnds, 2_000);
    assert_eq!(name(&book, "fd00::2", 2_000), "printer");
}

#[test]
fn nothing_is_said_to_be_known_of_a_time_without_sources() {
    let address = "10.0.0.1".parse().unwrap();
    let mut book = Book::new(LIMITS, &[("leases", "/somewhere")], 5_000);
    book.apply(0, Report::ListBegins { missed_since: None }, 5_000);
    book.apply(0, claim("10.0.0.1", device("a", 1), None, None), 5_000);
    book.apply(0, Report::ListEnds, 5_000);
    assert_eq!(book.at(address, 1_000), crate::Answer { found: None, gaps: vec![0] });
    assert_eq!(name(&book, "10.0.0.1", 5_000), "a");
    // What ended longer ago than it is to be kept is forgotten, and so is that anything was known of it.
    book.apply(0, Report::Ends { net: net("10.0.0.1"), at: None }, 6_000);
    assert_eq!((name(&book, "10.0.0.1", 5_500), book.at(address, 6_500).gaps), ("a".to_owned(), vec![]));
    book.lose(0, 7_000);
    book.apply(0, Report::Followed, 7_100);
    book.apply(0, Report::Followed, 8_000 + 2 * LIMITS.keep + 3_600_000);
    assert_eq!((book.len(), book.at(address, 5_500).gaps), (0, vec![0]));
    assert_eq!([7_050, 7_200].map(|at| book.at(address, at).gaps), [vec![0], vec![]]);
}

#[test]
fn an_end_that_could_not_be_written_is_that_of_the_next_begin() {
    let fact = |host: &str, began| Fact {
        net: net("10.0.0.1"),
        host: Arc::new(Host::named(host)),
        source: 0,
        began: Span::exactly(began),
        learnt: began,
        ended: None,
        until: None,
    };
    let mut book = Book::new(LIMITS, &[("leases", "/here")], 5_000);
    let gone = book.number_of("leases", "/elsewhere").unwrap();
    let facts = [(7, fact("b", 2_000)), (3, fact("a", 1_000)), (9, Fact { source: gone, ..fact("c", 500) })];
    book.restore(facts, [], Some(4_000), 5_000);
    book.apply(0, Report::ListBegins { missed_since: None }, 5_000);
    book.apply(0, claim("10.0.0.1", Host::named("b"), Some(2_000), None), 5_000);
    book.apply(0, Report::ListEnds, 5_000);
    assert_eq!([1_500, 2_500, 6_000].map(|at| name(&book, "10.0.0.1", at)), ["a", "b", "b"]);
    // A source that is not there any more is no gap, and its facts have ended.
    let found = book.at("10.0.0.1".parse().unwrap(), 6_000);
    assert_eq!((found.gaps, found.found.unwrap().others.len()), (vec![], 0));
}

#[test]
fn a_device_with_addresses_without_end_loses_its_own_past_only() {
    let mut book = book(&["neighbours"]);
    book.limits = Limits { facts: 1_000, keep: Millis::MAX };
    book.apply(0, claim("10.0.0.1", device("printer", 1), Some(100), None), 100);
    book.apply(0, Report::Ends { net: net("10.0.0.1"), at: Some(200) }, 200);
    for at in 1_000..10_000 {
        let address = format!("fd00::{at:x}");
        book.apply(0, claim(&address, device("flood", 2), Some(at), None), at);
        book.apply(0, Report::Ends { net: net(&address), at: Some(at + 1) }, at + 1);
    }
    assert!(book.len() <= 1_000 && book.refused() == 0);
    let found = book.at("10.0.0.1".parse().unwrap(), 150).found;
    assert_eq!(found.and_then(|found| found.name), Some("printer"));
}

#[test]
fn a_log_that_is_read_again_after_a_restart_renames_nobody() {
    let second = |host, since: Millis, until| {
        let since = Some(since * 1_000);
        Report::Holds(Claim { net: net("10.0.0.1"), host, since, within: 999, until: Some(until) })
    };
    let ends = |at: Millis| Report::Ends { net: net("10.0.0.1"), at: Some(at * 1_000) };
    // The second lease is renewed and renamed in one second.
    let log = [
        (second(device("a", 1), 1, 90_000), 1_200),
        (ends(2), 2_500),
        (second(device("b", 2), 3, 90_000), 3_500),
        (second(device("b", 2), 5, 90_000), 5_300),
        (second(device("c", 2), 5, 90_000), 5_400),
        (ends(9), 9_400),
    ];
    let expected = [(1_900, "a"), (4_000, "b"), (5_200, "b"), (5_350, "b?"), (5_400, "c"), (8_000, "c")];
    for told in [5, 6] {
        let mut before = book(&["leases"]);
        before.keep_journal();
        for (report, now) in log[..told].iter().cloned() {
            before.apply(0, report, now);
        }
        let mut after = Book::new(LIMITS, &[("leases", "/somewhere")], 20_000);
        after.restore(before.take_changes(10_000).facts, [], Some(10_000), 20_000);
        after.apply(0, Report::ListBegins { missed_since: None }, 20_000);
        for (report, _) in log[..told].iter().cloned() {
            after.apply(0, report, 20_000);
        }
        after.apply(0, Report::ListEnds, 20_000);
        for book in [&before, &after] {
            for (at, expected) in expected {
                assert_eq!(name(book, "10.0.0.1", at), expected, "at {at}, {told} were told");
            }
        }
        assert_eq!((after.len(), before.len()), (3, 3));
        let then = if told == 5 { ["c?", "c"] } else { ["nobody", "nobody"] };
        assert_eq!([15_000, 20_000].map(|at| name(&after, "10.0.0.1", at)), then);
    }
    // Of what is read for the first time, it is not known when the name changed.
    let mut late = Book::new(LIMITS, &[("leases", "/somewhere")], 20_000);
    late.apply(0, Report::ListBegins { missed_since: None }, 20_001);
    log.iter().cloned().for_each(|(report, _)| late.apply(0, report, 20_001));
    late.apply(0, Report::ListEnds, 20_001);
    assert_eq!([4_500, 7_000, 20_001].map(|at| name(&late, "10.0.0.1", at)), ["b?", "b?", "nobody"]);
}

#[test]
fn what_an_earlier_source_may_know_better_is_not_certain() {
    let mut book = book(&["leases", "neighbours"]);
    let unnamed = |mac| Host { name: None, ..device("", mac) };
    book.apply(0, claim("10.0.0.1", device("a", 1), None, Some(90_000)), 1_000);
    book.apply(1, claim("10.0.0.1", unnamed(1), None, None), 1_200);
    let at = |book: &Book, at| name(book, "10.0.0.1", at);
    assert_eq!([1_000, 4_999].map(|moment| at(&book, moment)), ["a", "a"]);
    // The neighbour table has it for long after the end of the lease, and while another device has it already.
    book.apply(0, Report::Ends { net: net("10.0.0.1"), at: None }, 5_000);
    book.apply(0, claim("10.0.0.1", device("b", 2), None, Some(90_000)), 6_000);
    assert_eq!([4_899, 5_000, 5_899].map(|moment| at(&book, moment)), ["a", "unnamed?", "unnamed?"]);
    assert_eq!([5_900, 5_999, 6_000].map(|moment| at(&book, moment)), ["b?", "b?", "b"]);
    // Whoever is new in the table after that is there.
    book.apply(0, Report::Ends { net: net("10.0.0.1"), at: None }, 7_000);
    book.apply(1, claim("10.0.0.1", unnamed(3), None, None), 8_200);
    assert_eq!([7_500, 8_200].map(|moment| at(&book, moment)), ["unnamed?", "unnamed"]);
    // While the leases are not known, the table can be old, and names too.
    book.apply(0, claim("10.0.0.1", device("c", 3), None, Some(90_000)), 9_000);
    book.lose(0, 10_000);
    assert_eq!([9_999, 10_000].map(|moment| at(&book, moment)), ["c", "c?"]);
}

#[test]
fn what_a_source_reads_late_can_have_happened_before() {
    let mut book = book(&["leases"]);
    book.apply(0, claim("10.0.0.1", device("a", 1), None, None), 1_000);
    book.apply(0, claim("10.0.0.2", device("b", 2), None, None), 1_000);
    book.note_delay(0, Some(5_000));
    assert_eq!([4_899, 4_900].map(|at| name(&book, "10.0.0.1", at)), ["a", "a?"]);
    book.apply(0, Report::ListBegins { missed_since: None }, 6_000);
    book.apply(0, claim("10.0.0.1", device("c", 3), None, None), 6_000);
    book.apply(0, Report::ListEnds, 6_000);
    book.note_delay(0, None);
    assert_eq!([4_899, 5_999, 6_000].map(|at| name(&book, "10.0.0.1", at)), ["a", "a?", "c"]);
    assert_eq!([4_899, 5_999, 6_000].map(|at| name(&book, "10.0.0.2", at)), ["b", "b?", "nobody"]);
    book.apply(0, Report::Ends { net: net("10.0.0.1"), at: None }, 9_000);
    assert_eq!([8_899, 8_900, 9_000].map(|at| name(&book, "10.0.0.1", at)), ["c", "c?", "nobody"]);
}

#[test]
fn a_host_of_a_span_is_certain_if_it_had_the_address_in_all_of_it() {
    let mut book = book(&["leases"]);
    book.apply(0, claim("10.0.0.1", device("a", 1), Some(100), None), 100);
    book.apply(0, claim("10.0.0.1", device("b", 2), Some(500), None), 500);
    let during = |book: &Book, earliest, latest| {
        book.during("10.0.0.1".parse().unwrap(), Span { earliest, latest })
            .found
            .map(|found| found.is_certain)
    };
    let spans = [(100, 499), (100, 500), (500, 600), (Millis::MIN, 600), (400, 50)];
    let found = spans.map(|(earliest, latest)| during(&book, earliest, latest));
    assert_eq!(found, [Some(true), Some(false), Some(true), Some(false), None]);
    book.lose(0, 700);
    book.apply(0, Report::ListBegins { missed_since: None }, 800);
    book.apply(0, claim("10.0.0.1", device("b", 2), Some(500), None), 800);
    book.apply(0, Report::ListEnds, 800);
    assert_eq!(
        [(600, 699), (600, 900), (800, 900)].map(|(from, to)| during(&book, from, to)),
        [Some(true), Some(false), Some(true)]
    );
}
