//! Two datagrams of one socket, sent by two processors at the same moment.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use lab::Netns;
use nfct::Query;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Two processors that this process may use. `None`, with a note, if there is only one: nothing can race.
pub(crate) fn two_processors() -> Option<[usize; 2]> {
    let all = processors();
    if let [first, second, ..] = all[..] {
        return Some([first, second]);
    }
    println!("skipped: needs two processors");
    None
}

/// The processors that this thread may use.
pub(crate) fn processors() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).expect("this thread exists");
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

/// Keeps the calling thread on one processor.
pub(crate) fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("the processor's number is not too large");
    sched_setaffinity(Pid::from_raw(0), &set).expect("this thread may use the processor");
}

struct Start {
    socket: Arc<UdpSocket>,
    payload: Arc<[u8]>,
    /// The threads that are ready to send.
    ready: Arc<AtomicU32>,
}

/// Two threads, each on its own processor.
pub(crate) struct Racers {
    starts: Vec<mpsc::Sender<Start>>,
    sent: mpsc::Receiver<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Racers {
    pub(crate) fn new(netns: &Netns, cpus: [usize; 2]) -> Self {
        let (report, sent) = mpsc::channel();
        let (starts, threads) = cpus
            .into_iter()
            .map(|cpu| {
                let (start, waiting) = mpsc::channel::<Start>();
                let report = report.clone();
                let thread = netns.spawn(move || {
                    pin(cpu);
                    for Start { socket, payload, ready } in waiting {
                        ready.fetch_add(1, Ordering::SeqCst);
                        while ready.load(Ordering::SeqCst) < 2 {
                            std::hint::spin_loop();
                        }
                        // The kernel refuses a datagram whose entry clashed and could not be inserted.
                        let _ = socket.send(&payload);
                        if report.send(()).is_err() {
                            return;
                        }
                    }
                });
                (start, thread)
            })
            .unzip();
        Self { starts, sent, threads }
    }

    /// Both threads send this payload from a connected socket. Returns when both have.
    pub(crate) fn send(&self, socket: &Arc<UdpSocket>, payload: &[u8]) {
        self.start(socket, payload);
        self.wait();
    }

    /// Makes both threads send, without waiting for them.
    pub(crate) fn start(&self, socket: &Arc<UdpSocket>, payload: &[u8]) {
        let ready = Arc::new(AtomicU32::new(0));
        let payload: Arc<[u8]> = payload.into();
        for start in &self.starts {
            let (socket, payload, ready) = (Arc::clone(socket), Arc::clone(&payload), Arc::clone(&ready));
            start.send(Start { socket, payload, ready }).expect("the thread waits for the next");
        }
    }

    /// Waits until both threads have sent.
    pub(crate) fn wait(&self) {
        for _ in &self.starts {
            self.sent.recv_timeout(lab::PATIENCE).expect("both threads send");
        }
    }
}

impl Drop for Racers {
    fn drop(&mut self) {
        self.starts.clear();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a sending thread panicked");
        }
    }
}

/// How many clashes the kernel has resolved in the namespace of this socket.
pub(crate) fn resolved_clashes(query: &mut Query) -> u32 {
    let counters = query.cpu_statistics().expect("the counters can be read");
    counters.map(|cpu| cpu.expect("the counters can be read").clash_resolve).sum()
}

/// Runs `f` on one processor. Threads and processes that the caller starts are not kept there.
pub(crate) fn on_processor<T: Send>(cpu: usize, f: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        pin(cpu);
        f()
    };
    std::thread::scope(|scope| scope.spawn(inside).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
