//! The sources that `[names]` sets.

use std::path::PathBuf;

use natnames::source::Source;
use natnames::source::containers::Containers;
use natnames::source::dhcpd::Dhcpd;
use natnames::source::dnsmasq::Dnsmasq;
use natnames::source::file::File;
use natnames::source::kea::Kea;
use natnames::source::neighbours::Neighbours;
use natnames::source::socket::Socket;

use crate::config::NamesConfig;

/// Who may write to the socket: the daemon's user and group.
const SOCKET_MODE: u32 = 0o660;

/// The sources, in the order in which they decide.
pub(super) fn sources(config: &NamesConfig) -> Vec<Box<dyn Source>> {
    let NamesConfig { file, socket, podman, docker, dnsmasq, kea, dhcpd, neighbours, .. } = config;
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    let mut add = |path: &Option<PathBuf>, source: &dyn Fn(PathBuf) -> Box<dyn Source>| {
        sources.extend(path.clone().map(source));
    };
    add(file, &|path| Box::new(File::new(path)));
    add(socket, &|path| Box::new(Socket::new(path, SOCKET_MODE)));
    add(podman, &|path| Box::new(Containers::podman(path)));
    add(docker, &|path| Box::new(Containers::docker(path)));
    add(dnsmasq, &|path| Box::new(Dnsmasq::new(path)));
    kea.0.iter().for_each(|path| sources.push(Box::new(Kea::new(path.clone()))));
    dhcpd.0.iter().for_each(|path| sources.push(Box::new(Dhcpd::new(path.clone()))));
    if *neighbours {
        sources.push(Box::new(Neighbours::new()));
    }
    sources
}
