//! Follows the containers of a real Podman, and compares what is known of them with what Podman says.
//!
//! Podman runs in namespaces of its own (mounts, network, processes) and keeps its files in a temporary directory. They
//! end with the process that made them, so that nothing is left behind, however the test ends.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use natnames::source::containers::Containers;
use natnames::{Fact, Limits, Mac, Millis, Names};
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
struct Podman {
    directory: tempfile::TempDir,
    service: Child,
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
    fn start() -> Result<Self, String> {
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

    fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let url = format!("unix://{}", self.socket().display());
        Command::new("podman").args(["--remote", "--url", &url]).args(arguments).output().unwrap()
    }

    /// Runs a container with the limits that each process may set.
    fn run_container(&self, options: &[&str], command: &[&str]) -> Output {
        let limits = ["--cgroups=disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];
        let image = ["natnames-test", "/bin/busybox"];
        self.run(&[&["run"], &limits[..], options, &image, command].concat())
    }

    fn must(&self, arguments: &[&str]) {
        succeeded(&self.run(arguments));
    }

    /// Starts a container that sleeps.
    fn start_container(&self, name: &str, options: &[&str]) {
        let all = [&["-d", "--name", name], options].concat();
        succeeded(&self.run_container(&all, &["sleep", "1000"]));
    }

    fn inspect(&self, name: &str) -> Inspected {
        let output = self.run(&["inspect", name]);
        succeeded(&output);
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        Inspected(all[0].clone())
    }
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What `podman inspect` says.
struct Inspected(Value);

impl Inspected {
    fn time(&self, field: &str) -> Millis {
        let text = self.0["State"][field].as_str().unwrap();
        let output = Command::new("date").args(["-d", text, "+%s%3N"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }

    /// The address of IPv4 in a network, that of IPv6 if there is one, and the MAC address.
    fn addresses(&self, network: &str) -> (Vec<IpAddr>, String) {
        let endpoint = &self.0["NetworkSettings"]["Networks"][network];
        let texts =
            ["IPAddress", "GlobalIPv6Address"].map(|field| endpoint[field].as_str().unwrap_or_default());
        let addresses: Vec<IpAddr> = texts.iter().filter_map(|text| text.parse().ok()).collect();
        assert!(!addresses.is_empty(), "{endpoint}");
        (addresses, endpoint["MacAddress"].as_str().unwrap().to_owned())
    }
}

fn follow(socket: &Path) -> Names {
    let limits = Limits { facts: 10_000, keep: 3_600_000 };
    let names = Names::start(vec![Box::new(Containers::podman(socket.to_owned()))], limits).unwrap();
    wait_until("the list", || names.status()[0].is_followed.then_some(()));
    names
}

fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn now() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis() as Millis
}

/// Who had an address.
struct Known {
    name: Option<String>,
    mac: Option<Mac>,
    fact: Fact,
    is_certain: bool,
}

fn found(names: &Names, address: IpAddr, at: Millis) -> Option<Known> {
    let book = names.book();
    let found = book.at(address, at).found?;
    Some(Known {
        name: found.name.map(str::to_owned),
        mac: found.mac,
        fact: found.fact.clone(),
        is_certain: found.is_certain,
    })
}

fn name(names: &Names, address: IpAddr, at: Millis) -> Option<String> {
    found(names, address, at).and_then(|found| found.name)
}

fn wait_for_name(names: &Names, address: IpAddr, expected: Option<&str>) -> Option<Known> {
    wait_until(&format!("{address} is {expected:?}"), || {
        let found = found(names, address, now());
        (found.as_ref().and_then(|found| found.name.as_deref()) == expected).then_some(found)
    })
}

/// What is known of a container is what Podman says of it.
fn compare(podman: &Podman, names: &Names, container: &str, network: &str) -> Vec<IpAddr> {
    let inspected = podman.inspect(container);
    let (addresses, mac) = inspected.addresses(network);
    for address in &addresses {
        let found = wait_for_name(names, *address, Some(container)).unwrap();
        let started = inspected.time("StartedAt");
        assert_eq!(found.fact.began.earliest, started, "{container} {address}");
        assert!(found.is_certain && found.fact.began.latest <= started + 1);
        assert_eq!(found.mac.unwrap().to_string(), mac);
        assert_eq!(found.fact.host.labels["image"], "localhost/natnames-test:latest");
        assert_eq!(found.fact.host.labels["container"], inspected.0["Id"].as_str().unwrap()[..12]);
        assert_eq!(name(names, *address, started - 1), None);
    }
    addresses
}

#[test]
fn what_is_known_of_containers_is_what_podman_says() {
    let podman = match Podman::start() {
        Ok(podman) => podman,
        Err(reason) => return println!("skipped: {reason}"),
    };
    podman.must(&[
        "network",
        "create",
        "--subnet",
        "10.213.7.0/24",
        "--ipv6",
        "--subnet",
        "fd00:213:7::/64",
        "n1",
    ]);
    podman.must(&["network", "create", "--subnet", "10.213.8.0/24", "n2"]);
    podman.start_container("one", &["--network", "n1", "--label", "tier=front"]);
    let names = follow(&podman.socket());

    // What ran before, and what is started later.
    let one = compare(&podman, &names, "one", "n1");
    assert_eq!(one.len(), 2);
    assert_eq!(found(&names, one[0], now()).unwrap().fact.host.labels["tier"], "front");
    podman.start_container("two", &["--network", "n1"]);
    let two = compare(&podman, &names, "two", "n1");

    // Another name, and a signal that ends nothing.
    let before = now();
    podman.must(&["rename", "two", "deux"]);
    podman.must(&["kill", "-s", "HUP", "deux"]);
    for address in &two {
        wait_for_name(&names, *address, Some("deux"));
        assert_eq!(name(&names, *address, before - 1).as_deref(), Some("two"));
    }

    // Another network, for some time.
    for _ in 0..5 {
        let before = now();
        podman.must(&["network", "connect", "n2", "deux"]);
        let (addresses, _) = podman.inspect("deux").addresses("n2");
        let connected = wait_for_name(&names, addresses[0], Some("deux")).unwrap();
        assert!((before..=now()).contains(&connected.fact.began.earliest));
        podman.must(&["network", "disconnect", "n2", "deux"]);
        wait_for_name(&names, addresses[0], None);
        assert_eq!(name(&names, addresses[0], connected.fact.began.latest).as_deref(), Some("deux"));
        assert_eq!(name(&names, two[0], now()).as_deref(), Some("deux"));
    }

    // A restart is another time. It can have other addresses.
    let first_start = podman.inspect("deux").time("StartedAt");
    podman.must(&["stop", "-t", "0", "deux"]);
    let finished = podman.inspect("deux").time("FinishedAt");
    two.iter().for_each(|address| drop(wait_for_name(&names, *address, None)));
    podman.must(&["start", "deux"]);
    let started = podman.inspect("deux").time("StartedAt");
    assert!(finished < started);
    for address in compare(&podman, &names, "deux", "n1") {
        assert_eq!(found(&names, address, started + 1).unwrap().fact.began.earliest, started);
    }
    assert_eq!(name(&names, two[0], first_start + 1).as_deref(), Some("two"));
    assert_eq!(name(&names, two[0], finished - 1).as_deref(), Some("deux"));

    // Short lives leave nobody.
    for _ in 0..5 {
        succeeded(&podman.run_container(&["--rm", "--network", "n1"], &["true"]));
    }
    podman.start_container("three", &["--network", "n1"]);
    let three = compare(&podman, &names, "three", "n1");
    for last in 2..=250_u8 {
        let address = IpAddr::from([10, 213, 7, last]);
        if let Some(name) = name(&names, address, now()) {
            let is_held = one.contains(&address) || three.contains(&address) || name == "deux";
            assert!(is_held, "{address} {name}");
        }
    }

    // Removal, and the end of the service.
    let last = now();
    podman.must(&["rm", "-f", "-t", "0", "one", "deux", "three"]);
    for address in one.iter().chain(&three) {
        wait_for_name(&names, *address, None);
    }
    assert_eq!(name(&names, one[1], last).as_deref(), Some("one"));
    drop(podman);
    wait_until("the end", || (!names.status()[0].is_followed).then_some(()));
    assert_eq!(names.book().at(one[0], now() + 1).gaps, [0]);
}
