//! A file that changes, and what is said of it.

use std::io::Write;
use std::sync::Arc;
use std::thread;

use super::*;
use crate::book::{Book, Limits};
use crate::outlet::Stop;
use crate::outlet::testing::Heard;
use crate::time::wall_clock;

struct StopOnDrop(Arc<Stop>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Follows a file while the test runs. Returns how following it ended.
fn follow(file: File, test: impl FnOnce(&Heard)) -> io::Error {
    follow_until(file, false, test)
}

/// Follows a file; waits after the test until it ends by itself, or stops it.
fn follow_until(mut file: File, ends_itself: bool, test: impl FnOnce(&Heard)) -> io::Error {
    let heard = Arc::new(Heard::default());
    let (outlet, stop) = heard.outlet();
    thread::scope(|scope| {
        let stop = StopOnDrop(stop);
        let source = scope.spawn(move || file.follow(&outlet));
        test(&heard);
        let begun = Instant::now();
        while ends_itself && !source.is_finished() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(1));
        }
        drop(stop);
        source.join().unwrap().unwrap_err()
    })
}

/// Waits for a list with these addresses and names; what was heard is forgotten. A file that is written in place can be
/// read half done before.
#[track_caller]
fn expect_list(heard: &Heard, expected: &[&str]) {
    heard.wait_until(&format!("{expected:?}"), |reports| {
        last_list(reports).is_some_and(|list| list.iter().map(said).eq(expected.iter().copied()))
    });
    heard.take_all();
}

/// The reports of the last list, if that is whole and nothing follows it.
fn last_list(reports: &[Report]) -> Option<&[Report]> {
    let begin = reports.iter().rposition(|report| *report == Report::ListBegins { missed_since: None })?;
    reports.get(begin + 1..)?.split_last().filter(|(end, _)| **end == Report::ListEnds).map(|(_, list)| list)
}

fn said(report: &Report) -> String {
    match report {
        Report::Holds(claim) => {
            format!("{} {}", claim.net.ip(), claim.host.name.as_deref().unwrap_or_default())
        }
        Report::Ends { net, at: None } => format!("{} -", net.ip()),
        other => panic!("{other:?}"),
    }
}

/// A file in a folder that goes with it.
fn folder(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts.csv");
    fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn each_way_of_changing_a_file_gives_a_new_list() {
    let (folder, path) = folder("address,name\n10.0.0.1,a\n10.0.0.2,b\n10.0.0.300,x\n");
    let error = follow(File::new(&path), |heard| {
        expect_list(heard, &["10.0.0.1 a", "10.0.0.2 b"]);
        // One is gone: what is not in a list has ended.
        fs::write(&path, "10.0.0.1,a").unwrap();
        expect_list(heard, &["10.0.0.1 a"]);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\n10.0.0.3,c\n").unwrap();
        expect_list(heard, &["10.0.0.1 a", "10.0.0.3 c"]);
        fs::write(folder.path().join("new"), "{\"address\":\"10.0.0.4\",\"name\":\"d\"}\n").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        expect_list(heard, &["10.0.0.4 d"]);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "10.0.0.5,e\n").unwrap();
        expect_list(heard, &["10.0.0.5 e"]);
        // Other files in the folder are none of its business.
        fs::write(folder.path().join("new"), "x").unwrap();
        fs::write(&path, "").unwrap();
        expect_list(heard, &[]);
    });
    assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{error}");
}

#[test]
fn a_file_that_stays_away_is_an_error_and_a_missing_one_is_waited_for() {
    let (_folder, path) = folder("10.0.0.1,a\n");
    let error = follow_until(File::new(&path), true, |heard| {
        expect_list(heard, &["10.0.0.1 a"]);
        fs::remove_file(&path).unwrap();
    });
    assert!(error.to_string().contains("hosts.csv: the file was removed"), "{error}");
    follow(File::new(&path), |heard| {
        fs::write(&path, "10.0.0.2,b\n").unwrap();
        expect_list(heard, &["10.0.0.2 b"]);
    });
}

/// What lines of one address become, as name, begin and end.
fn order(text: &str, now: Millis) -> Vec<String> {
    let mut parser = Parser::default();
    let records = text.lines().map(|line| parser.read(line.as_bytes()).unwrap().unwrap());
    let claims = in_order(records.collect(), now);
    claims
        .into_iter()
        .map(|(begin, claim)| {
            let until = claim.until.map(|until| until.to_string()).unwrap_or_default();
            format!("{} {begin}-{until}", claim.host.name.unwrap())
        })
        .collect()
}

#[test]
fn the_lines_of_an_address_are_put_into_the_order_of_time() {
    let now = 100_000;
    for (text, expected) in [
        // By their begin, wherever they are.
        ("10.0.0.1,b,,,20,30\n10.0.0.1,a,,,10,20", vec!["a 10000-20000", "b 20000-30000"]),
        // The lower one of the same begin counts.
        ("10.0.0.1,a,,,10\n10.0.0.1,b,,,10", vec!["b 10000-"]),
        // A line without a time is of the present, unless it is replaced.
        ("10.0.0.1,a\n10.0.0.1,b", vec!["b 100000-"]),
        ("10.0.0.1,a\n10.0.0.1,b,,,10", vec!["b 10000-"]),
        ("10.0.0.1,a,,,10\n10.0.0.1,b", vec!["a 10000-", "b 100000-"]),
        ("10.0.0.1,a\n10.0.0.1,b,,,200", vec!["a 100000-", "b 200000-"]),
        // Nobody knows when this was.
        ("10.0.0.1,a,,,,50", vec![]),
        ("10.0.0.1,a,,,,200", vec!["a 100000-200000"]),
    ] {
        assert_eq!(order(text, now), expected, "{text}");
    }
    let header = "address,name,event,from,until\n";
    let order = |text: &str| {
        let mut parser = Parser::default();
        let records = format!("{header}{text}");
        let records: Vec<Record> =
            records.lines().filter_map(|line| parser.read(line.as_bytes()).unwrap()).collect();
        let claims = in_order(records, now).into_iter();
        claims.map(|(begin, claim)| (begin, claim.until)).collect::<Vec<_>>()
    };
    assert_eq!(order("10.0.0.1,a,,10,\n10.0.0.1,,stop,,30"), [(10_000, Some(30_000))]);
    assert_eq!(order("10.0.0.1,a,,10,20\n10.0.0.1,,stop,,30"), [(10_000, Some(20_000))]);
    assert_eq!(order("10.0.0.1,a,,10,\n10.0.0.1,,stop,,"), []);
    assert_eq!(order("10.0.0.1,a,,10,20\n10.0.0.1,,stop,,"), [(10_000, Some(20_000))]);
    assert_eq!(order("10.0.0.1,,stop,,\n10.0.0.1,a,,10,"), [(10_000, None)]);
    assert_eq!(order("10.0.0.1,a,,10,\n10.0.0.1,,stop,,300"), [(10_000, Some(300_000))]);
    assert_eq!(order("10.0.0.1,,stop,,300"), []);
}

#[test]
fn a_file_that_is_read_often_tells_each_thing_once() {
    let text = "10.0.0.1,a,,,10,20\n10.0.0.1,b,,,20\n10.0.0.2,c\n10.0.0.3,d,,,5,9\n10.0.0.4,e,,,,8\n";
    let (_folder, path) = folder(text);
    let mut book = Book::new(Limits { facts: 1000, keep: Millis::MAX }, &[("file", "/names")], wall_clock());
    follow(File::new(&path), |heard| {
        // Writes the file, and waits until so much is known.
        let mut expect = |text: Option<&str>, facts: Option<usize>, expected: &str| {
            if let Some(text) = text {
                fs::write(path.with_extension("new"), text).unwrap();
                fs::rename(path.with_extension("new"), &path).unwrap();
            }
            loop {
                heard.wait_until(expected, |reports| last_list(reports).is_some());
                for report in heard.take_all() {
                    book.apply(0, report, wall_clock());
                }
                let name = |address: &str, at| {
                    let found = book.at(address.parse().unwrap(), at).found;
                    found.and_then(|found| found.name).unwrap_or("-").to_owned()
                };
                let first = [15_000, 50_000, wall_clock()].map(|at| name("10.0.0.1", at));
                let told = format!("{} {}", first.join(" "), name("10.0.0.2", wall_clock()));
                if told == expected && facts.is_none_or(|facts| facts == book.len()) {
                    return book.len();
                }
            }
        };
        expect(None, Some(4), "a b b c");
        for _ in 0..3 {
            expect(Some(text), Some(4), "a b b c");
        }
        // A line more, of a moment after those.
        let more = format!("{text}10.0.0.1,f,,,30,40\n");
        expect(Some(&more), Some(5), "a - - c");
        expect(Some(&more), Some(5), "a - - c");
        // It is taken back, and another address has another host: from now on.
        let other = text.replace("10.0.0.2,c", "10.0.0.2,g");
        let facts = expect(Some(&other), None, "a - b g");
        expect(Some(&other), Some(facts), "a - b g");
    });
}

#[test]
fn what_begins_later_is_reported_then() {
    let begin = wall_clock() + 400;
    let seconds = |millis: Millis| format!("{}.{:03}", millis / 1000, millis % 1000);
    let text = format!(
        "10.0.0.1,a\n10.0.0.1,b,,,{}\n10.0.0.2,d,,,{}\n10.0.0.2,c,,,{}\n",
        seconds(begin),
        seconds(begin + 1_000_000),
        seconds(begin + 1)
    );
    let (_folder, path) = folder(&text);
    follow(File::new(&path), |heard| {
        expect_list(heard, &["10.0.0.1 a"]);
        heard.wait_until("the later ones", |reports| reports.len() >= 2);
        assert!(wall_clock() > begin);
        assert_eq!(heard.take_all().iter().map(said).collect::<Vec<_>>(), ["10.0.0.1 b", "10.0.0.2 c"]);
        fs::write(&path, &text).unwrap();
        expect_list(heard, &["10.0.0.1 b", "10.0.0.2 c"]);
    });
}

#[test]
fn what_is_hostile_is_skipped_in_bounded_memory() {
    let mut text = vec![b'x'; 3 << 20];
    text.extend_from_slice(b"\n10.0.0.1,a\n\xff\xfe\0\n{\"address\":\n");
    text.resize(text.len() + (1 << 20), b'{');
    text.extend_from_slice(b"\n10.0.0.2,b\x1b[2J\n");
    let (_folder, path) = folder("");
    fs::write(&path, text).unwrap();
    follow(File::new(&path), |heard| {
        expect_list(heard, &["10.0.0.1 a", "10.0.0.2 b\u{fffd}[2J"]);
        // What is over makes room.
        let old = (0..20_000).map(|i| format!("10.0.0.9,old{i},,,{i},{}\n", i + 1));
        let text: String = old.chain(["10.0.0.9,new,,,30000\n".to_owned()]).collect();
        fs::write(&path, &text).unwrap();
        let is_there = |reports: &[Report]| {
            last_list(reports).and_then(<[_]>::last).is_some_and(|last| said(last) == "10.0.0.9 new")
        };
        heard.wait_until("the new one", is_there);
    });
    let (_folder, path) = folder("");
    let old = (0..20_000).map(|i| format!("10.0.0.9,old{i},,,{i},{}\n", i + 1));
    let many = (0..20_000).map(|i| format!("10.1.{}.{},host{i}\n", i >> 8, i & 255));
    let text: String =
        old.chain(["10.0.0.9,new,,,30000\n".to_owned()]).chain(many).collect::<Vec<_>>().concat();
    fs::write(&path, text).unwrap();
    follow(File { most_memory: 1 << 20, ..File::new(&path) }, |heard| {
        let reports = heard.wait_until("a list", |reports| last_list(reports).is_some());
        let list: Vec<String> = last_list(&reports).unwrap().iter().map(said).collect();
        assert!((2_000..10_000).contains(&list.len()), "{}", list.len());
        assert!(list.contains(&"10.0.0.9 new".to_owned()) && list.contains(&"10.1.0.0 host0".to_owned()));
    });
}
