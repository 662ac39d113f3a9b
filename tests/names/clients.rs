//! DHCP clients: udhcpc and dhclient.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use lab::{Lab, NetnsCommand};

/// What both clients run on each event. It sets the address, and writes down when. udhcpc tells the event as an argument,
/// dhclient as a variable.
const SCRIPT: &str = r#"#!/bin/bash
begun=${EPOCHREALTIME/./}
event=${1:-$reason}
ip=${ip:-$new_ip_address}
case "$event" in
deconfig | EXPIRE | FAIL | RELEASE | STOP) ip address flush dev "$interface" ;;
bound | BOUND | REBOOT) ip address replace "$ip/32" dev "$interface" ;;
esac
echo "$begun ${EPOCHREALTIME/./} $SESSION $event ${ip:--} ${lease:-${new_dhcp_lease_time:-0}}" >> "$TRUTH"
"#;

/// What all clients need.
pub(crate) struct Clients {
    folder: PathBuf,
    truth: PathBuf,
}

impl Clients {
    pub(crate) fn new(folder: &Path, truth: &Path) -> Self {
        let script = folder.join("script");
        fs::write(&script, SCRIPT).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder: folder.to_owned(), truth: truth.to_owned() }
    }

    /// Starts a client that calls itself so.
    pub(crate) fn udhcpc(&self, lab: &Lab, interface: &str, name: &str, session: usize) -> Child {
        let hostname = format!("hostname:{name}");
        let arguments = ["-f", "-i", interface, "-t", "3", "-T", "1", "-A", "2", "-x", &hostname, "-s"]
            .map(str::to_owned);
        let command = lab.client().command("udhcpc").args(arguments).arg(self.folder.join("script"));
        quiet(command.env("TRUTH", &self.truth).env("SESSION", session.to_string())).spawn().unwrap()
    }

    /// The same with dhclient.
    pub(crate) fn dhclient(&self, lab: &Lab, interface: &str, name: &str, session: usize) -> Child {
        let config = format!(
            "send host-name \"{name}\";\nrequest subnet-mask;\ntimeout 10;\nretry 2;\ninitial-interval 1;\n\
             backoff-cutoff 2;\nselect-timeout 0;\n"
        );
        fs::write(self.folder.join(format!("{interface}.conf")), config).unwrap();
        // Without a memory it asks for any address.
        let _ = fs::remove_file(self.folder.join(format!("{interface}.leases")));
        self.dhclient_with(lab, interface, session, "-d")
    }

    /// Ends a dhclient, which releases its address.
    pub(crate) fn release(&self, lab: &Lab, interface: &str, session: usize) -> Child {
        self.dhclient_with(lab, interface, session, "-r")
    }

    fn dhclient_with(&self, lab: &Lab, interface: &str, session: usize, verb: &str) -> Child {
        let file = |kind: &str| self.folder.join(format!("{interface}.{kind}")).display().to_string();
        let script = self.folder.join("script").display().to_string();
        let session = format!("SESSION={session}");
        let truth = format!("TRUTH={}", self.truth.display());
        let command = lab.client().command("dhclient").args([verb, "-4", "-sf", &script]).args([
            "-cf",
            &file("conf"),
            "-lf",
            &file("leases"),
            "-pf",
            &file("pid"),
            "-e",
            &session,
            "-e",
            &truth,
            interface,
        ]);
        quiet(command).spawn().unwrap()
    }
}

fn quiet(command: NetnsCommand<'_>) -> NetnsCommand<'_> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    command.env("PATH", path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}
