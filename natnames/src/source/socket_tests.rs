//! Clients that write lines, and some that do not.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Shutdown};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::outlet::Stop;
use crate::outlet::testing::Heard;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    path: PathBuf,
    heard: Arc<Heard>,
}

struct StopOnDrop(Arc<Stop>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Follows a socket while the test runs.
fn with_socket(idle: Duration, test: impl FnOnce(&Bench)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("names.sock");
    follow(Socket { idle, ..Socket::new(&path, 0o660) }, test);
    assert!(!path.exists(), "it is removed at the end");
}

fn follow(mut socket: Socket, test: impl FnOnce(&Bench)) {
    let heard = Arc::new(Heard::default());
    let bench = Bench { path: socket.path.clone(), heard: heard.clone() };
    let (outlet, stop) = heard.outlet();
    thread::scope(|scope| {
        let stop = StopOnDrop(stop);
        let source = scope.spawn(move || socket.follow(&outlet));
        let begun = heard.wait_until("its begin", |reports| !reports.is_empty());
        assert_eq!(begun, [Report::Followed]);
        heard.take_all();
        test(&bench);
        drop(stop);
        let error = source.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{error}");
    });
}

impl Bench {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What a client is answered that writes this.
    fn answer(&self, text: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        answer(stream)
    }

    /// Waits until this many lines were applied, and returns what they said.
    fn wait_for(&self, lines: usize) -> Vec<Report> {
        self.heard.wait_until("lines", |reports| reports.len() >= lines);
        self.heard.take_all()
    }
}

fn answer(stream: UnixStream) -> String {
    stream.shutdown(Shutdown::Write).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

/// Address, subscriber and name of what was said; `-` for an end.
fn said(reports: &[Report]) -> Vec<String> {
    let one = |report: &Report| match report {
        Report::Holds(claim) => {
            let host = &claim.host;
            let who = host.subscriber.as_deref().or(host.name.as_deref()).unwrap_or_default();
            format!("{} {who}", claim.net.ip())
        }
        Report::Ends { net, at } => format!("{} - {at:?}", net.ip()),
        Report::Stops { net, at } => format!("{} - {:?}", net.ip(), Some(at)),
        other => panic!("{other:?}"),
    };
    reports.iter().map(one).collect()
}

#[test]
fn lines_of_freeradius_and_accel_ppp_are_taken() {
    with_socket(IDLE, |bench| {
        let mut radius = bench.connect();
        let start = r#"{"event":"start","address":"10.0.0.7","subscriber":"ann@isp","mac":"00-16-3E-5A-01-2F","from":1795773600,"nas":"bras-1"}"#;
        radius.write_all(format!("{start}\n").as_bytes()).unwrap();
        // It is applied as it arrives, and the connection stays.
        assert_eq!(said(&bench.wait_for(1)), ["10.0.0.7 ann@isp"]);
        let up = "event,address,subscriber,mac,ifname\nstart,10.0.0.8,\"bob\",00:16:3e:5a:01:30,ppp0\n";
        assert_eq!(bench.answer(up), "ok 1\n");
        let reports = bench.wait_for(1);
        assert_eq!(said(&reports), ["10.0.0.8 bob"]);
        let Report::Holds(claim) = &reports[0] else { panic!() };
        assert_eq!(claim.host.labels["ifname"], "ppp0");
        radius.write_all(start.replace("start", "update").as_bytes()).unwrap();
        radius
            .write_all(b"\n{\"event\":\"stop\",\"address\":\"10.0.0.7\",\"until\":1795773700.5}\n")
            .unwrap();
        assert_eq!(said(&bench.wait_for(2)), ["10.0.0.7 ann@isp", "10.0.0.7 - Some(1795773700500)"]);
        // The last line feed can be left out.
        assert_eq!(bench.answer("# down\n\naddress,event\n10.0.0.8,stop"), "ok 1\n");
        assert_eq!(said(&bench.wait_for(1)), ["10.0.0.8 - None"]);
        assert_eq!(answer(radius), "ok 3\n");
        assert_eq!(bench.answer(""), "ok 0\n");
    });
}

#[test]
fn what_is_valid_is_applied_and_the_first_error_is_told() {
    with_socket(IDLE, |bench| {
        let long = "x".repeat(LONGEST_LINE + 1);
        let text =
            format!("# test\n10.0.0.7,ann\n10.0.0.300,bob\n{long}\n10.0.0.8,\u{1b}\n10.0.0.9,carl\n{long}");
        assert_eq!(
            bench.answer(&text),
            "error line 3: expected an address or a network such as 10.0.0.7 or 10.0.0.0/24, \
             found \"10.0.0.300\" (lines applied: 3, not applied: 3)\n"
        );
        assert_eq!(said(&bench.wait_for(3)), ["10.0.0.7 ann", "10.0.0.8 \u{fffd}", "10.0.0.9 carl"]);
        let mut gone = bench.connect();
        gone.write_all(b"10.0.0.10,dora\n10.0.0.11,emil").unwrap();
        drop(gone);
        assert_eq!(said(&bench.wait_for(2)), ["10.0.0.10 dora", "10.0.0.11 emil"]);
    });
}

#[test]
fn two_hundred_clients_at_once_are_answered() {
    with_socket(IDLE, |bench| {
        thread::scope(|scope| {
            for client in 0..200 {
                scope.spawn(move || {
                    let lines: String = (0..50).map(|i| format!("10.1.{client}.{i},c{client}\n")).collect();
                    assert_eq!(bench.answer(&lines), "ok 50\n");
                });
            }
        });
        assert_eq!(bench.wait_for(10_000).len(), 10_000);
    });
}

#[test]
fn a_hundred_thousand_lines_of_one_client_are_taken_in_order() {
    with_socket(IDLE, |bench| {
        let address = |i: u32| IpAddr::from((0x0a00_0000 + i).to_be_bytes());
        let lines: String = (0..100_000).map(|i| format!("{},host{i}\n", address(i))).collect();
        assert_eq!(bench.answer(&lines), "ok 100000\n");
        let said = said(&bench.wait_for(100_000));
        assert!((0..).zip(&said).all(|(i, said)| *said == format!("{} host{i}", address(i))));
    });
}

#[test]
fn clients_that_misbehave_hinder_nobody() {
    with_socket(Duration::from_millis(50), |bench| {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            // As many as can be connected: they never write a valid line, and come again when they are closed.
            for client in 0..MOST_CONNECTIONS {
                let is_over = &is_over;
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        let mut stream = bench.connect();
                        stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
                        let garbage: &[u8] =
                            if client % 2 == 0 { &[b'x'; 10_000] } else { b"garb\xffage\n\0" };
                        while !is_over.load(Ordering::Relaxed) && stream.write_all(garbage).is_ok() {}
                    }
                });
            }
            let mut slow = bench.connect();
            for i in 0..20 {
                slow.write_all(b"10.2.0.").unwrap();
                let text = format!("10.1.0.{i},ann\n");
                // One that is closed while it waits for its turn comes again.
                let begun = Instant::now();
                while bench.try_answer(&text).as_deref() != Some("ok 1\n") {
                    assert!(begun.elapsed() < PATIENCE);
                }
                if slow.write_all(format!("{i},slow\n").as_bytes()).is_err() {
                    slow = bench.connect();
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
    });
}

impl Bench {
    fn try_answer(&self, text: &str) -> Option<String> {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).ok()?;
        stream.shutdown(Shutdown::Write).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line)
    }
}

#[test]
fn the_one_that_is_idle_for_the_longest_time_is_closed_for_a_new_one() {
    with_socket(Duration::from_millis(10), |bench| {
        let mut idle: Vec<UnixStream> = (0..MOST_CONNECTIONS)
            .map(|i| {
                let mut stream = bench.connect();
                stream.write_all(format!("10.0.0.{i},x\n").as_bytes()).unwrap();
                bench.wait_for(1);
                stream
            })
            .collect();
        idle[0].write_all(b"10.0.0.0,y\n").unwrap();
        bench.wait_for(1);
        assert_eq!(bench.answer("10.0.1.1,new\n"), "ok 1\n");
        let mut line = String::new();
        BufReader::new(&idle[1]).read_line(&mut line).unwrap();
        assert!(line.starts_with("error line 1: it was idle, and at most 64"), "{line}");
        // All others are still there.
        idle.remove(1);
        for stream in idle {
            let line = answer(stream);
            assert!(line == "ok 1\n" || line == "ok 2\n", "{line}");
        }
    });
}

#[test]
fn a_stale_file_is_replaced_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("names.sock");
    let error = |path: &Path| {
        let (outlet, _stop) = Arc::<Heard>::default().outlet();
        Socket::new(path, 0o660).follow(&outlet).unwrap_err().to_string()
    };
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    follow(Socket::new(&path, 0o620), |bench| {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        assert_eq!(bench.answer("10.0.0.7,ann\n"), "ok 1\n");
        let taken = error(&path);
        assert!(taken.contains("another program listens there") && taken.contains("names.sock"), "{taken}");
        assert_eq!(bench.answer("10.0.0.7,ann\n"), "ok 1\n");
        // Another daemon's socket is not removed.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "other").unwrap();
    });
    assert_eq!(fs::read(&path).unwrap(), b"other");
    assert!(error(&path).contains("no socket"), "{}", error(&path));
    let long = folder.path().join("x".repeat(120));
    assert!(error(&long).contains("at most 107 bytes"), "{}", error(&long));
    assert!(error(Path::new("")).contains("at most 107 bytes"));
    assert!(error(&folder.path().join("none/names.sock")).contains("its folder does not exist"));
}

#[test]
fn a_second_run_does_not_end_what_the_first_one_heard() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("names.sock");
    let mut socket = Socket::new(&path, 0o660);
    let heard = Arc::new(Heard::default());
    for run in 0..2 {
        let (outlet, stop) = heard.outlet();
        thread::scope(|scope| {
            let stop = StopOnDrop(stop);
            let source = scope.spawn(|| socket.follow(&outlet));
            let begun = Instant::now();
            while UnixStream::connect(&path).and_then(|mut to| to.write_all(b"10.0.0.7,ann\n")).is_err() {
                assert!(begun.elapsed() < PATIENCE);
            }
            heard.wait_until("the line", |reports| reports.len() == 2 * (run + 1));
            drop(stop);
            source.join().unwrap().unwrap_err();
        });
    }
    let reports = heard.take_all();
    assert_eq!((&reports[0], &reports[2]), (&Report::Followed, &Report::Followed));
    assert_eq!(said(&[reports[1].clone(), reports[3].clone()]), ["10.0.0.7 ann", "10.0.0.7 ann"]);
}
