//! The books of lease files that real DHCP servers write, compared with what their clients say.
//!
//! Needs root, for network namespaces, and `ip`, `udhcpc` and the servers; what is missing is skipped.

mod net;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use natnames::source::Source;
use natnames::source::dhcpd::Dhcpd;
use natnames::source::dnsmasq::Dnsmasq;
use natnames::source::kea::Kea;
use natnames::{Answer, Fact, Limits, Millis, Names};

use net::{Client, Net, missing, wait_for};

/// For how long a client has or loses an address before its script says so.
const SLOP: Millis = 300;
/// The servers write whole seconds.
const SECOND: Millis = 1_000;

fn now() -> Millis {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as Millis
}

/// A DHCP server, its configuration for the addresses 10.77.0.10 and 10.77.0.11, and its lease file.
struct Server {
    program: &'static str,
    file: &'static str,
    config: fn(&Path) -> String,
    arguments: fn(&Path) -> Vec<String>,
    source: fn(PathBuf) -> Box<dyn Source>,
    /// Whether the file has the begin and past of a lease.
    has_history: bool,
}

const DNSMASQ: Server = Server {
    program: "dnsmasq",
    file: "dnsmasq.leases",
    config: |folder| {
        format!(
            "port=0\nno-resolv\nno-ping\ninterface=br0\nbind-interfaces\ndhcp-authoritative\nuser=root\npid-file\n\
             dhcp-range=10.77.0.10,10.77.0.11,2m\ndhcp-leasefile={}/dnsmasq.leases\n",
            folder.display()
        )
    },
    arguments: |folder| vec!["-k".to_owned(), format!("--conf-file={}/config", folder.display())],
    source: |path| Box::new(Dnsmasq::new(path)),
    has_history: false,
};

const KEA: Server = Server {
    program: "kea-dhcp4",
    file: "kea-leases4.csv",
    config: |folder| {
        format!(
            r#"{{"Dhcp4": {{"interfaces-config": {{"interfaces": ["br0"]}}, "authoritative": true, "valid-lifetime": 6,
            "lease-database": {{"type": "memfile", "name": "{}/kea-leases4.csv", "lfc-interval": 1}},
            "subnet4": [{{"subnet": "10.77.0.0/24", "pools": [{{"pool": "10.77.0.10-10.77.0.11"}}]}}],
            "loggers": [{{"name": "kea-dhcp4", "severity": "WARN", "output_options": [{{"output": "stdout"}}]}}]}}}}"#,
            folder.display()
        )
    },
    arguments: |folder| vec!["-c".to_owned(), format!("{}/config", folder.display())],
    source: |path| Box::new(Kea::new(path)),
    has_history: true,
};

const DHCPD: Server = Server {
    program: "dhcpd",
    file: "dhcpd.leases",
    config: |folder| {
        format!(
            "default-lease-time 6; max-lease-time 6; authoritative; ping-check false; dhcp-cache-threshold 0; ddns-update-style none;\n\
             lease-file-name \"{0}/dhcpd.leases\"; pid-file-name \"{0}/pid\";\n\
             subnet 10.77.0.0 netmask 255.255.255.0 {{ range 10.77.0.10 10.77.0.11; }}\n",
            folder.display()
        )
    },
    arguments: |folder| {
        let config = format!("{}/config", folder.display());
        ["-4", "-f", "-d", "-cf", &config, "br0"].map(str::to_owned).to_vec()
    },
    source: |path| Box::new(Dhcpd::new(path)),
    has_history: true,
};

#[test]
fn dnsmasq() {
    check(&DNSMASQ);
}

#[test]
fn kea() {
    check(&KEA);
}

#[test]
fn dhcpd() {
    check(&DHCPD);
}

fn follow(server: &Server, path: &Path) -> Names {
    let limits = Limits { facts: 1_000, keep: 3_600_000 };
    Names::start(vec![(server.source)(path.to_owned())], limits).unwrap()
}

/// The fact that decides who had an address, and whether it is certain.
fn at(names: &Names, address: IpAddr, at: Millis) -> Option<(Fact, bool)> {
    names.book().at(address, at).found.map(|found| (found.fact.clone(), found.is_certain))
}

/// The name that is certain at a moment.
fn certain(names: &Names, address: IpAddr, moment: Millis) -> Option<String> {
    at(names, address, moment)
        .filter(|(_, is_certain)| *is_certain)
        .and_then(|(fact, _)| fact.host.name.clone())
}

fn wait_for_name(names: &Names, address: IpAddr, name: Option<&str>) {
    wait_for(&format!("{name:?} at {address}"), || {
        let is_right = match name {
            Some(_) => certain(names, address, now()).as_deref() == name,
            None => names.book().at(address, now()) == Answer::default(),
        };
        is_right.then_some(())
    });
}

fn start_server(server: &Server, net: &mut Net) -> usize {
    let folder = net.folder().to_owned();
    let mut command = net.command(0, server.program);
    command
        .args((server.arguments)(&folder))
        .env("KEA_PIDFILE_DIR", &folder)
        .env("KEA_LOCKFILE_DIR", "none")
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("server.log")).unwrap());
    net.spawn(&mut command)
}

/// Who had an address, from when, until when, as the clients say.
struct Truth {
    address: IpAddr,
    name: &'static str,
    from: Millis,
    to: Millis,
}

fn check(server: &Server) {
    if let Some(missing) = missing(&["ip", "udhcpc", server.program]) {
        println!("skipped: {missing}");
        return;
    }
    let mut net = Net::new(server.program, 3);
    let path = net.folder().join(server.file);
    std::fs::write(net.folder().join("config"), (server.config)(net.folder())).unwrap();
    std::fs::write(&path, "").unwrap();
    if server.program == "kea-dhcp4" {
        // It writes a header into a new file only.
        std::fs::remove_file(&path).unwrap();
    }
    let names = follow(server, &path);
    let running = start_server(server, &mut net);
    wait_for("the source is followed", || names.status()[0].is_followed.then_some(()));

    // Two clients get the two addresses.
    let phone = Client::start(&mut net, 1, "phone");
    let (phone_at, phone_from) = phone.wait_for("bound");
    wait_for_name(&names, phone_at, Some("phone"));
    let laptop = Client::start(&mut net, 2, "laptop");
    let (laptop_at, laptop_from) = laptop.wait_for("bound");
    wait_for_name(&names, laptop_at, Some("laptop"));
    let (found, _) = at(&names, phone_at, now()).unwrap();
    assert_eq!(found.host.mac.unwrap().to_string(), "02:00:00:00:77:01");
    assert!(found.host.client_id.as_ref().unwrap().ends_with("020000007701"));
    assert!(found.began.earliest >= phone_from - SECOND - SLOP && found.began.latest <= now());

    // A lease that is renewed began when it began.
    wait_for("a second is over", || (now() > phone_from + SECOND + SLOP).then_some(()));
    let reports = names.status()[0].reports;
    phone.signal(&net, "USR1");
    phone.wait_for("renew");
    wait_for("the renewal is heard", || (names.status()[0].reports > reports).then_some(()));
    wait_for_name(&names, phone_at, Some("phone"));
    assert_eq!(at(&names, phone_at, now()).unwrap().0.began, found.began);
    assert_eq!(at(&names, phone_at, now() + 3_600_000), None);

    // The same device with another name; its client was not asked.
    phone.kill(&mut net);
    let phone_to = now();
    let renamed = Client::start(&mut net, 1, "work");
    let (renamed_at, renamed_from) = renamed.wait_for("bound");
    assert_eq!(renamed_at, phone_at);
    wait_for_name(&names, phone_at, Some("work"));

    // An address is handed over.
    laptop.signal(&net, "USR2");
    let laptop_to = laptop.wait_for_release();
    wait_for_name(&names, laptop_at, None);
    let tablet = Client::start(&mut net, 3, "tablet");
    let (tablet_at, tablet_from) = tablet.wait_for("bound");
    assert_eq!(tablet_at, laptop_at);
    wait_for_name(&names, laptop_at, Some("tablet"));

    // The server is started anew: dhcpd replaces its file. Kea has renamed its own at times.
    net.kill(running);
    start_server(server, &mut net);
    if server.program == "dhcpd" {
        wait_for("the file is replaced", || path.with_extension("leases~").exists().then_some(()));
    }
    if server.program == "kea-dhcp4" {
        wait_for("the file is cleaned up", || path.with_extension("csv.2").exists().then_some(()));
    }
    tablet.signal(&net, "USR1");
    tablet.wait_for("renew");
    wait_for_name(&names, phone_at, Some("work"));
    wait_for_name(&names, laptop_at, Some("tablet"));
    let end = now();

    let truths = [
        Truth { address: phone_at, name: "phone", from: phone_from, to: phone_to },
        Truth { address: phone_at, name: "work", from: renamed_from, to: end },
        Truth { address: laptop_at, name: "laptop", from: laptop_from, to: laptop_to },
        Truth { address: laptop_at, name: "tablet", from: tablet_from, to: end },
    ];
    compare(&names, &truths, true, phone_from, end);
    assert_eq!(names.status()[0].failures, 0);
    // Who begins to read now knows what the file has of the past.
    let late = follow(server, &path);
    wait_for_name(&late, phone_at, Some("work"));
    wait_for_name(&late, laptop_at, Some("tablet"));
    compare(&late, &truths, false, phone_from, end);

    // One that leaves without a word loses its address in time.
    if server.has_history {
        tablet.kill(&mut net);
        wait_for_name(&names, laptop_at, None);
        wait_for_name(&names, phone_at, Some("work"));
    }
}

/// Whether nothing wrong is certain at any moment, and what is true is known if it must be.
fn compare(names: &Names, truths: &[Truth], must_know: bool, from: Millis, to: Millis) {
    for moment in (from..to).step_by(20) {
        for address in [truths[0].address, truths[2].address] {
            let said = certain(names, address, moment);
            let of = |slop: Millis| {
                truths.iter().filter(move |truth| {
                    truth.address == address && truth.from - slop <= moment && moment < truth.to + slop
                })
            };
            if let Some(name) = &said {
                // The end of a lease without a word is known when the next one begins.
                let is_true = of(SLOP).any(|truth| truth.name == name)
                    || (name == "phone" && moment < truths[1].from + SLOP);
                assert!(is_true, "{name} at {address} after {} ms", moment - from);
            }
            for truth in of(-(SECOND + SLOP)).filter(|_| must_know) {
                assert_eq!(said.as_deref(), Some(truth.name), "{address} after {} ms", moment - from);
            }
        }
    }
}

/// Whether a program can be started.
fn is_there(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').any(|folder| Path::new(folder).join(program).exists())
}

/// Runs a program to its end; it must succeed.
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
}

/// How long a condition is waited for.
const LONGEST: Duration = Duration::from_secs(20);
