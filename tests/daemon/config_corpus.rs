//! Reads every configuration that was recorded with the Python program (ConfigObj 5), and compares the result
//! with that program's: the same values, or an error at the same location. [`DIFFERENT`] lists the cases with
//! another result on purpose.

use std::time::Duration;

use pynatconnd::config::{AddressSet, Condition, Config, Loaded, PortRange};
use serde_json::{Map, Value};

/// The result of a case that differs from the recorded one.
enum Instead {
    /// An error that begins with this text.
    Rejected(&'static str),
    /// Accepted, with this line in the written file, and this number of warnings.
    Accepted(&'static str, usize),
}
use Instead::{Accepted, Rejected};

/// The cases that differ on purpose.
const DIFFERENT: &[(&str, Instead)] = &[
    // The Python program rejected these, but what the user wants is clear.
    ("acl-single-no-comma", Accepted("ip_acl = 127.0.0.1/32,", 0)),
    ("acl-missing", Accepted("ip_acl = 127.0.0.0/8, ::1/128", 0)),
    ("acl-host-bits", Accepted("ip_acl = 127.0.0.0/8,", 1)),
    ("ip-v6", Accepted("dst_ip = 2001:db8::1", 0)),
    ("http-port-low", Accepted("port = 80", 0)),
    ("ip-cidr", Accepted("dst_ip = 10.0.0.0/8", 0)),
    // The Python program accepted these, but they are not valid.
    ("port-too-large", Rejected("FILE:2: [filter] dst_port: found \"70000\", expected a port")),
    ("port-negative", Rejected("FILE:2: [filter] dst_port: found \"-1\", expected a port")),
    ("key-name-unknown", Rejected("FILE:4: [data] key_name: found \"banana\", expected one of src_ip,")),
    ("del-delay-negative", Rejected("FILE:5: [data] del_delay: found \"-3\", expected a number of seconds")),
    ("http-port-70000", Rejected("FILE:6: [http_server] port: found \"70000\", expected a port")),
];

#[test]
fn recorded_files_have_the_same_meaning() {
    let cases: Map<String, Value> = serde_json::from_str(include_str!("../data/config-cases.json")).unwrap();
    let (mut same, mut different) = (0, 0);
    for (name, case) in &cases {
        let ini = case["ini"].as_str().unwrap();
        let read = Config::parse(ini.as_bytes(), "FILE").map_err(|error| error.to_string());
        let instead = DIFFERENT.iter().find(|(other, _)| other == name);
        match (instead, &read) {
            (Some((_, Rejected(text))), Err(error)) => assert!(error.starts_with(text), "{name}: {error}"),
            (Some((_, Accepted(line, warnings))), Ok(loaded)) => {
                let written = loaded.config.to_ini();
                assert!(written.lines().any(|written| written == *line), "{name}: {written}");
                assert_eq!(loaded.warnings.len(), *warnings, "{name}: {:?}", loaded.warnings);
            }
            (Some(_), read) => panic!("{name}: {read:?}"),
            (None, Ok(loaded)) => {
                assert_eq!(case["accepts"], true, "{name} was rejected: {}", case["error"]);
                same_values(name, loaded, case);
            }
            (None, Err(error)) => {
                assert_eq!(case["accepts"], false, "{name}: {error}");
                same_location(name, error, case["error"].as_str().unwrap());
            }
        }
        if instead.is_some() { different += 1 } else { same += 1 }
    }
    assert_eq!(different, DIFFERENT.len(), "a case in DIFFERENT is not recorded");
    println!("{same} recorded files have the same meaning, {different} differ on purpose");
}

/// Compares the values. Unknown keys cause a warning here; the Python program ignored them silently.
fn same_values(name: &str, loaded: &Loaded, case: &Value) {
    let Config { syslog, log_level, filter, data, join_timeout, http, netlink: _, history: _, names: _ } =
        &loaded.config;
    let recorded = |section: &str, key: &str| {
        let value = &case["values"][section][key];
        assert!(!case["values"][section].is_null(), "{name}: no [{section}] was recorded");
        value.clone()
    };
    let seconds = |section, key| Duration::from_secs_f64(recorded(section, key).as_f64().unwrap());
    let address = |condition: &Condition<AddressSet>| match single(condition) {
        Some(AddressSet::Network(network)) => Value::from(network.ip().to_string()),
        _ => Value::Null,
    };
    let port = |condition: &Condition<PortRange>| match single(condition) {
        Some(PortRange { first, last }) if first == last => Value::from(first),
        _ => Value::Null,
    };

    let facility = syslog.local_facility;
    assert_eq!(Value::from(facility), recorded("syslog", "local_facility"), "{name}");
    assert_eq!(syslog.enabled, case["ini"].as_str().unwrap().contains("[syslog]"), "{name}");
    assert_eq!(Value::from(log_level.get()), recorded("syslog", "debug_level"), "{name}");
    assert_eq!(address(&filter.src_ip), recorded("filter", "src_ip"), "{name}");
    assert_eq!(address(&filter.nat_ip), recorded("filter", "nat_ip"), "{name}");
    assert_eq!(address(&filter.dst_ip), recorded("filter", "dst_ip"), "{name}");
    assert_eq!(port(&filter.src_port), recorded("filter", "src_port"), "{name}");
    assert_eq!(port(&filter.nat_port), recorded("filter", "nat_port"), "{name}");
    assert_eq!(port(&filter.dst_port), recorded("filter", "dst_port"), "{name}");
    assert_eq!(Value::from(data.key_name.as_str()), recorded("data", "key_name"), "{name}");
    assert_eq!(data.del_delay, seconds("data", "del_delay"), "{name}");
    assert_eq!(data.garbage_cleaner_interval, seconds("data", "garbage_cleaner_interval"), "{name}");
    assert_eq!(data.life_span, seconds("data", "life_span"), "{name}");
    assert_eq!(*join_timeout, seconds("threading", "join_timeout"), "{name}");
    assert_eq!(Value::from(http.host.as_str()), recorded("http_server", "host"), "{name}");
    assert_eq!(Value::from(http.port), recorded("http_server", "port"), "{name}");
    let acl: Vec<ipnetwork::IpNetwork> =
        serde_json::from_value::<Vec<String>>(recorded("http_server", "ip_acl"))
            .unwrap()
            .iter()
            .map(|entry| entry.parse().unwrap())
            .collect();
    assert_eq!(http.ip_acl, acl, "{name}");

    let warnings = match name {
        "unknown-key" | "unknown-section" | "key-case" | "percent" | "acl-empty-list" => 1,
        _ => 0,
    };
    assert_eq!(loaded.warnings.len(), warnings, "{name}: {:?}", loaded.warnings);
}

/// The only value of a condition; `None` if it is not set.
fn single<T: Clone>(condition: &Condition<T>) -> Option<T> {
    assert!(condition.only.len() <= 1 && condition.except.is_empty());
    condition.only.first().cloned()
}

/// The error names the line, or the section and the key, that the recorded error names.
fn same_location(name: &str, error: &str, recorded: &str) {
    let after = |text: &str, mark: &str| {
        let rest = text.split_once(mark)?.1;
        Some(rest.split([' ', '.', ')']).next().unwrap_or_default().to_owned())
    };
    if let Some(line) = after(recorded, "at line ") {
        assert!(error.starts_with(&format!("FILE:{line}: ")), "{name}: {error}");
    } else {
        let section = after(recorded, "section ").unwrap();
        let key = after(recorded, " key ").unwrap();
        assert!(error.contains(&format!(": [{section}] {key}: found ")), "{name}: {error}");
    }
    assert!(error.contains(", expected "), "{name}: {error}");
}
