//! Podman in namespaces of its own (mounts, network, processes), with its files in a temporary directory. They end with
//! the process that made them, so that nothing is left behind, however the test ends.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use natnames::Millis;
use serde_json::Value;

/// Imports an image of one file, and serves the API. Hierarchies of control groups that mix both versions are refused by
/// crun, so the second is hidden.
const SERVE: &str = r#"
set -e
directory=$1
mount -t tmpfs none /run
mount -t tmpfs none /dev/shm
umount /sys/fs/cgroup/unified 2>/dev/null || true
ip link set lo up
set -- --root "$directory/root" --runroot "$directory/runroot" --tmpdir "$directory/tmp" --storage-driver vfs \
    --cgroup-manager cgroupfs --events-backend file --network-backend netavark \
    --network-config-dir "$directory/networks"
tar -C "$directory/image" -c . | podman "$@" import - natnames-test
exec podman "$@" system service --time=0 "unix://$directory/sock"
"#;

/// A Podman of its own.
pub struct Podman {
    directory: tempfile::TempDir,
    pub service: Child,
}

impl Drop for Podman {
    fn drop(&mut self) {
        // The first process of a namespace takes all others with it.
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

impl Podman {
    /// Starts it, or says why that is not possible here.
    pub fn start() -> Result<Self, String> {
        if std::fs::metadata("/proc/self").map_or(1, |metadata| metadata.uid()) != 0 {
            return Err("needs root".to_owned());
        }
        for (program, argument) in [("podman", "--version"), ("unshare", "--version"), ("ip", "-V")] {
            Command::new(program)
                .arg(argument)
                .output()
                .map_err(|error| format!("needs {program}: {error}"))?;
        }
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let bin = directory.path().join("image/bin");
        std::fs::create_dir_all(&bin).map_err(|error| error.to_string())?;
        std::fs::copy("/bin/busybox", bin.join("busybox"))
            .map_err(|error| format!("needs busybox-static: {error}"))?;
        let log = std::fs::File::create(directory.path().join("log")).map_err(|error| error.to_string())?;
        let namespaces = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let service = Command::new("unshare")
            .args(namespaces)
            .args(["sh", "-c", SERVE, "sh"])
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|error| error.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut this = Self { directory, service };
        let deadline = Instant::now() + Duration::from_secs(15);
        while !this.run(&["version"]).status.success() {
            let has_ended = !matches!(this.service.try_wait(), Ok(None));
            if has_ended || Instant::now() > deadline {
                let log = std::fs::read_to_string(this.directory.path().join("log")).unwrap_or_default();
                return Err(format!("Podman cannot be started here: {log}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let tried = this.run_container(&["--rm", "--network", "none"], &["true"]);
        if !tried.status.success() {
            let error = String::from_utf8_lossy(&tried.stderr).into_owned();
            return Err(format!("Podman cannot run a container here: {error}"));
        }
        Ok(this)
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        let url = format!("unix://{}", self.socket().display());
        Command::new("podman").args(["--remote", "--url", &url]).args(arguments).output().unwrap()
    }

    /// Runs a container with the limits that each process may set.
    pub fn run_container(&self, options: &[&str], command: &[&str]) -> Output {
        let limits = ["--cgroups=disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];
        let image = ["natnames-test", "/bin/busybox"];
        self.run(&[&["run"], &limits[..], options, &image, command].concat())
    }

    pub fn must(&self, arguments: &[&str]) {
        succeeded(&self.run(arguments));
    }

    /// Starts a container that sleeps.
    pub fn start_container(&self, name: &str, options: &[&str]) {
        let all = [&["-d", "--name", name], options].concat();
        succeeded(&self.run_container(&all, &["sleep", "1000"]));
    }

    pub fn inspect(&self, name: &str) -> Inspected {
        let output = self.run(&["inspect", name]);
        succeeded(&output);
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        Inspected(all[0].clone())
    }
}

pub fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What `podman inspect` says.
pub struct Inspected(pub Value);

impl Inspected {
    pub fn time(&self, field: &str) -> Millis {
        let text = self.0["State"][field].as_str().unwrap();
        let output = Command::new("date").args(["-d", text, "+%s%3N"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }

    /// The address of IPv4 in a network, that of IPv6 if there is one, and the MAC address.
    pub fn addresses(&self, network: &str) -> (Vec<IpAddr>, String) {
        let endpoint = &self.0["NetworkSettings"]["Networks"][network];
        let texts =
            ["IPAddress", "GlobalIPv6Address"].map(|field| endpoint[field].as_str().unwrap_or_default());
        let addresses: Vec<IpAddr> = texts.iter().filter_map(|text| text.parse().ok()).collect();
        assert!(!addresses.is_empty(), "{endpoint}");
        (addresses, endpoint["MacAddress"].as_str().unwrap().to_owned())
    }
}
