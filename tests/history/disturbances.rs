//! What happens to the daemon while it records: reloads, restarts, SIGKILL, and stops in which events are lost.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use lab::{Daemon, Lab, wait_within};
use nix::sys::signal::Signal;

use super::DAEMON;
use super::life::now;

/// Times in which the history cannot know everything, in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    pub(crate) total: i64,
    pub(crate) times: i64,
}

pub(crate) struct Disturbances<'a> {
    lab: &'a Lab,
    path: PathBuf,
    daemon: Daemon,
    lost: Lost,
    reloads: u32,
}

impl<'a> Disturbances<'a> {
    /// Starts the daemon, with its history in this directory.
    pub(crate) fn start(lab: &'a Lab, path: &Path) -> Self {
        let daemon = DAEMON.start(lab.gateway(), config(path, 0));
        wait_ready(lab, &daemon);
        Self { lab, path: path.into(), daemon, lost: Lost::default(), reloads: 0 }
    }

    /// One disturbance.
    pub(crate) fn disturb(&mut self, round: usize) {
        match round % 4 {
            0 => self.restart(Signal::SIGTERM),
            1 => self.restart(Signal::SIGKILL),
            2 => self.lose_events(),
            _ => {
                self.reloads += 1;
                self.daemon.rewrite_config(&config(&self.path, self.reloads));
                self.daemon.signal(Signal::SIGHUP);
            }
        }
    }

    fn restart(&mut self, signal: Signal) {
        let begun = now();
        self.daemon.signal(signal);
        self.daemon.wait();
        thread::sleep(Duration::from_millis(200));
        self.daemon = DAEMON.start(self.lab.gateway(), config(&self.path, self.reloads));
        self.note_lost(begun);
    }

    /// Stops the daemon until the receive buffer has overrun.
    fn lose_events(&mut self) {
        let begun = now();
        self.daemon.stop();
        thread::sleep(Duration::from_millis(1_500));
        self.daemon.go_on();
        self.note_lost(begun);
    }

    fn note_lost(&mut self, begun: i64) {
        wait_ready(self.lab, &self.daemon);
        self.lost.total += now() - begun;
        self.lost.times += 1;
    }

    /// The daemon, which runs, and what was lost.
    pub(crate) fn finish(self) -> (Daemon, Lost) {
        (self.daemon, self.lost)
    }
}

/// The receive buffer holds few events, so that a stop of a second loses some.
fn config(path: &Path, reloads: u32) -> String {
    format!(
        "[data]\nkey_name = nat_port\ndel_delay = {}\n[netlink]\nreceive_buffer = 1M\nreceive_buffer_max = 1M\n\
         [history]\npath = {}\n",
        10 + reloads % 2,
        path.display()
    )
}

fn wait_ready(lab: &Lab, daemon: &Daemon) {
    wait_within(Duration::from_secs(60), "the table is complete", || {
        lab::http::get(lab.gateway(), daemon.local_addr(), "/readyz").status == 200
    });
}
