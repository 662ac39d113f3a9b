//! What the API says of one container.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde::Deserialize;

use super::timestamp::parse_nanoseconds;
use crate::host::Host;

/// The most addresses of a container.
const MOST_ADDRESSES: usize = 256;
/// The most labels of a host; see [`Host::cleaned`].
const MOST_LABELS: usize = 32;
/// These are kept whatever else there is: who of a cluster this is.
const FIRST_LABELS: [&str; 2] = ["io.kubernetes.pod.name", "io.kubernetes.pod.namespace"];

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    /// When it was started, in nanoseconds since 1970.
    pub(super) started: Option<i64>,
    /// Its addresses, and who it is at each.
    pub(super) hosts: BTreeMap<IpAddr, Host>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    name: Option<String>,
    state: StateOf,
    host_config: Option<HostConfig>,
    config: Option<Config>,
    network_settings: Option<NetworkSettings>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct StateOf {
    running: bool,
    paused: bool,
    restarting: bool,
    started_at: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    network_mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    image: Option<String>,
    labels: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    networks: Option<BTreeMap<String, Option<Endpoint>>>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(rename = "IPAddress")]
    ip_address: Option<String>,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: Option<String>,
    #[serde(rename = "MacAddress")]
    mac_address: Option<String>,
}

/// Reads the answer to `GET /containers/{id}/json`. `Ok(None)` is a container that does not run.
pub(super) fn parse(body: &[u8]) -> Result<Option<Running>, String> {
    let inspected: Inspected = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let state = &inspected.state;
    // Podman says of a paused container that it does not run. Docker says of one that waits for its restart that it
    // does.
    if !(state.running || state.paused) || state.restarting {
        return Ok(None);
    }
    let mut hosts = BTreeMap::new();
    // In a pod, all containers have the address of the first one. Podman repeats it for each.
    let mode = inspected.host_config.and_then(|config| config.network_mode).unwrap_or_default();
    if !mode.starts_with("container:") {
        let host = host_of(&inspected.id, inspected.name.as_deref(), inspected.config);
        let networks = inspected.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        for endpoint in networks.into_values().flatten() {
            let mac = endpoint.mac_address.and_then(|mac| mac.parse().ok());
            let texts = [endpoint.ip_address, endpoint.global_ipv6_address];
            let addresses = texts.into_iter().flatten().filter_map(|text| text.parse::<IpAddr>().ok());
            for address in addresses.filter(|address| is_of_host(*address)) {
                if hosts.len() < MOST_ADDRESSES {
                    hosts.insert(address, Host { mac, ..host.clone() });
                }
            }
        }
    }
    Ok(Some(Running { started: parse_nanoseconds(&state.started_at), hosts }))
}

fn is_of_host(address: IpAddr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

fn host_of(id: &str, name: Option<&str>, config: Option<Config>) -> Host {
    let name = name.map(|name| name.trim_start_matches('/')).unwrap_or_default();
    let (image, labels) = config.map(|config| (config.image, config.labels)).unwrap_or_default();
    let mut kept = BTreeMap::from([("container".to_owned(), id.chars().take(12).collect())]);
    if let Some(image) = image.filter(|image| !image.is_empty()) {
        kept.insert("image".to_owned(), image);
    }
    let mut labels: Vec<(String, String)> = labels.unwrap_or_default().into_iter().collect();
    // In an order of its own, so that the same ones are kept each time.
    labels.sort_unstable_by(|(one, _), (other, _)| {
        let key = |label: &String| (!FIRST_LABELS.contains(&label.as_str()), label.clone());
        key(one).cmp(&key(other))
    });
    for (label, value) in labels {
        if kept.len() >= MOST_LABELS {
            break;
        }
        kept.entry(label).or_insert(value);
    }
    Host { labels: kept, ..Host::named(name) }.cleaned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3efd85120690cb388130209ce8a65743a514f9ae41df3d556055b4151f0e9f32";

    fn read(text: &str) -> Result<Option<Running>, String> {
        parse(text.replace("ID1", ID).as_bytes())
    }

    #[test]
    fn a_container_has_a_host_for_each_address() {
        let text = r#"{"Id":"ID1","Name":"/web","State":{"Status":"running","Running":true,"Paused":false,"Restarting":false,"StartedAt":"2023-05-04T10:00:00.123456789Z"},
            "HostConfig":{"NetworkMode":"default"},"Config":{"Image":"nginx:1.25","Labels":{"tier":"front","image":"a lie"}},
            "NetworkSettings":{"IPAddress":"172.17.0.2","Networks":{
            "bridge":{"IPAddress":"172.17.0.2","GlobalIPv6Address":"fd00::2","MacAddress":"02:42:ac:11:00:02"},
            "other":{"IPAddress":"172.18.0.9","GlobalIPv6Address":"","MacAddress":""},
            "off":{"IPAddress":"","GlobalIPv6Address":"","MacAddress":""},"odd":null,"worse":{"IPAddress":"invalid IP"}}}}"#;
        let running = read(text).unwrap().unwrap();
        assert_eq!(running.started, Some(1_683_194_400_123_456_789));
        let addresses: Vec<String> = running.hosts.keys().map(ToString::to_string).collect();
        assert_eq!(addresses, ["172.17.0.2", "172.18.0.9", "fd00::2"]);
        let host = &running.hosts[&"fd00::2".parse().unwrap()];
        assert_eq!(host.name.as_deref(), Some("web"));
        assert_eq!(host.mac.unwrap().to_string(), "02:42:ac:11:00:02");
        let labels: Vec<_> = host.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(labels, [("container", "3efd85120690"), ("image", "nginx:1.25"), ("tier", "front")]);
    }

    #[test]
    fn the_labels_of_a_pod_are_kept_among_thousands() {
        let mut labels: Vec<String> = (0..5_000).map(|n| format!(r#""a{n}":"x""#)).collect();
        labels.push(r#""io.kubernetes.pod.name":"web-0","io.kubernetes.pod.namespace":"shop""#.to_owned());
        let text = format!(
            r#"{{"Id":"ID1","State":{{"Running":true}},"Config":{{"Image":"pause","Labels":{{{}}}}},
            "NetworkSettings":{{"Networks":{{"n":{{"IPAddress":"10.0.0.1"}}}}}}}}"#,
            labels.join(",")
        );
        let running = read(&text).unwrap().unwrap();
        let labels = &running.hosts.values().next().unwrap().labels;
        assert_eq!((labels.len(), running.started), (32, None));
        assert_eq!([&labels[FIRST_LABELS[0]], &labels[FIRST_LABELS[1]]], ["web-0", "shop"]);
        assert!(labels.contains_key("image") && labels.contains_key("container"));
    }

    #[test]
    fn only_what_runs_has_addresses() {
        let of = |state: &str, mode: &str| {
            let text = format!(
                r#"{{"Id":"ID1","State":{{{state}}},"HostConfig":{{"NetworkMode":"{mode}"}},
                "NetworkSettings":{{"Networks":{{"n":{{"IPAddress":"10.0.0.1"}}}}}}}}"#
            );
            read(&text).unwrap().map(|running| running.hosts.len())
        };
        assert_eq!(of(r#""Running":true"#, "bridge"), Some(1));
        assert_eq!(of(r#""Running":false,"Paused":true"#, "bridge"), Some(1));
        assert_eq!(of(r#""Running":true,"Restarting":true"#, "bridge"), None);
        assert_eq!(of(r#""Running":false"#, "bridge"), None);
        assert_eq!(of(r#""Running":true"#, "container:ID1"), Some(0));
        for text in ["", "x", "[]", "{}", r#"{"Id":7,"State":{}}"#, r#"{"Id":"ID1","State":null}"#] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
