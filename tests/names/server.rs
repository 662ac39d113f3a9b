//! The DHCP servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use lab::{Lab, wait_within};

use crate::Millis;

/// A DHCP server, how it is set up, and how its source is.
pub(crate) struct Server {
    pub(crate) program: &'static str,
    /// The key of `[names]`.
    pub(crate) key: &'static str,
    file: &'static str,
    config: fn(&Path, u8) -> String,
    arguments: fn(&Path) -> Vec<String>,
    /// The length of a lease, in milliseconds. dnsmasq has none shorter than two minutes.
    pub(crate) lease: Millis,
    /// How exact its times are, in milliseconds.
    pub(crate) exactness: Millis,
    /// Whether it renames its file at any time, so that the file cannot be moved away and back.
    pub(crate) renames: bool,
}

pub(crate) const DNSMASQ: Server = Server {
    program: "dnsmasq",
    key: "dnsmasq",
    file: "dnsmasq.leases",
    config: |folder, last| {
        format!(
            "port=0\nno-resolv\nno-ping\ninterface=inside\nbind-interfaces\ndhcp-authoritative\nuser=root\npid-file\n\
             dhcp-sequential-ip\ndhcp-range=192.168.7.10,192.168.7.{last},2m\n\
             dhcp-leasefile={}/dnsmasq.leases\n",
            folder.display()
        )
        .replace("", "")
    },
    arguments: |folder| vec!["-k".to_owned(), format!("--conf-file={}/config", folder.display())],
    lease: 120_000,
    exactness: 100,
    renames: false,
};

pub(crate) const KEA: Server = Server {
    program: "kea-dhcp4",
    key: "kea",
    file: "kea-leases4.csv",
    config: |folder, last| {
        format!(
            r#"{{"Dhcp4": {{"interfaces-config": {{"interfaces": ["inside"]}}, "authoritative": true,
            "valid-lifetime": 20, "renew-timer": 10, "rebind-timer": 17,
            "expired-leases-processing": {{"reclaim-timer-wait-time": 1, "hold-reclaimed-time": 5}},
            "lease-database": {{"type": "memfile", "name": "{}/kea-leases4.csv", "lfc-interval": 10}},
            "subnet4": [{{"subnet": "192.168.7.0/24", "pools": [{{"pool": "192.168.7.10-192.168.7.{last}"}}]}}],
            "loggers": [{{"name": "kea-dhcp4", "severity": "WARN", "output_options": [{{"output": "stdout"}}]}}]}}}}"#,
            folder.display()
        )
    },
    arguments: |folder| vec!["-c".to_owned(), format!("{}/config", folder.display())],
    lease: 20_000,
    exactness: 1_000,
    renames: true,
};

pub(crate) const DHCPD: Server = Server {
    program: "dhcpd",
    key: "dhcpd",
    file: "dhcpd.leases",
    config: |folder, last| {
        format!(
            "default-lease-time 20; max-lease-time 20; authoritative; ping-check false; dhcp-cache-threshold 0;\n\
             ddns-update-style none; lease-file-name \"{0}/dhcpd.leases\"; pid-file-name \"{0}/pid\";\n\
             subnet 192.168.7.0 netmask 255.255.255.0 {{ range 192.168.7.10 192.168.7.{last}; }}\n",
            folder.display()
        )
    },
    arguments: |folder| {
        let config = format!("{}/config", folder.display());
        ["-4", "-f", "-d", "-cf", &config, "inside"].map(str::to_owned).to_vec()
    },
    lease: 20_000,
    exactness: 1_000,
    renames: false,
};

/// A server that runs in the gateway. It ends with this.
pub(crate) struct Running {
    server: &'static Server,
    folder: PathBuf,
    child: Option<Child>,
}

impl Running {
    /// Starts a server for the addresses up to this one.
    pub(crate) fn start(server: &'static Server, lab: &Lab, folder: &Path, last: u8) -> Self {
        fs::write(folder.join("config"), (server.config)(folder, last)).unwrap();
        if server.program == "dhcpd" {
            fs::write(folder.join(server.file), "").unwrap();
        }
        let mut this = Self { server, folder: folder.to_owned(), child: None };
        this.launch(lab);
        this
    }

    /// Its lease file.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join(self.server.file)
    }

    fn launch(&mut self, lab: &Lab) {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("server.log")).unwrap();
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let command = lab
            .gateway()
            .command(self.server.program)
            .args((self.server.arguments)(&self.folder))
            .env("PATH", path)
            .env("KEA_PIDFILE_DIR", &self.folder)
            .env("KEA_LOCKFILE_DIR", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap().into())
            .stderr(log.into());
        self.child = Some(command.spawn().unwrap());
        // Port 67 of UDP.
        wait_within(Duration::from_secs(20), "the DHCP server listens", || {
            let udp = lab.gateway().read_proc_net("udp").unwrap_or_default();
            udp.lines().any(|line| line.contains(":0043 "))
        });
    }

    /// Ends it, and starts it anew: it writes its file anew, or cleans it up.
    pub(crate) fn restart(&mut self, lab: &Lab) {
        self.stop();
        self.launch(lab);
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Prints what it wrote, if the test fails.
    fn show_log(&self) {
        let log = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(15).collect();
        eprintln!("--- {} wrote at last (newest first):\n{}", self.server.program, lines.join("\n"));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            self.show_log();
        }
    }
}
