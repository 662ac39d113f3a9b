//! Reads every configuration that was recorded from the Python program (ConfigObj 5) and compares the result
//! with the recorded one: the same values, or an error at the same place. Intended differences are listed in
//! [`DIFFERENT`], with what happens instead.

use std::time::Duration;

use pynatconnd::config::{Config, Loaded};
use serde_json::{Map, Value};

/// The result of a case that differs from the recorded one.
enum Instead {
    /// Refused with an error that begins with this text.
    Refused(&'static str),
    /// Accepted, with this text in the written file and this number of warnings.
    Accepted(&'static str, usize),
}
use Instead::{Accepted, Refused};

/// The cases that differ intentionally.
const DIFFERENT: &[(&str, Instead)] = &[
    // The user's intention is clear.
    ("acl-single-no-comma", Accepted("ip_acl = 127.0.0.1/32,", 0)),
    ("acl-missing", Accepted("ip_acl = 127.0.0.0/8, ::1/128", 0)),
    ("acl-host-bits", Accepted("ip_acl = 127.0.0.0/8,", 1)),
    ("ip-v6", Accepted("dst_ip = 2001:db8::1", 0)),
    ("http-port-low", Accepted("port = 80", 0)),
    // The Python program accepted these invalid values.
    ("port-too-large", Refused("FILE:2: [filter] dst_port: found \"70000\", expected a port")),
    ("port-negative", Refused("FILE:2: [filter] dst_port: found \"-1\", expected a port")),
    ("key-name-unknown", Refused("FILE:4: [data] key_name: found \"banana\", expected one of src_ip,")),
    ("del-delay-negative", Refused("FILE:5: [data] del_delay: found \"-3\", expected a number of seconds")),
    ("http-port-70000", Refused("FILE:6: [http_server] port: found \"70000\", expected a port")),
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
            (Some((_, Refused(text))), Err(error)) => assert!(error.starts_with(text), "{name}: {error}"),
            (Some((_, Accepted(line, warnings))), Ok(loaded)) => {
                let written = loaded.config.to_ini();
                assert!(written.lines().any(|written| written == *line), "{name}: {written}");
                assert_eq!(loaded.warnings.len(), *warnings, "{name}: {:?}", loaded.warnings);
            }
            (Some(_), read) => panic!("{name}: {read:?}"),
            (None, Ok(loaded)) => {
                assert_eq!(case["accepts"], true, "{name} was refused: {}", case["error"]);
                same_values(name, loaded, case);
            }
            (None, Err(error)) => {
                assert_eq!(case["accepts"], false, "{name}: {error}");
                same_place(name, error, case["error"].as_str().unwrap());
            }
        }
        if instead.is_some() { different += 1 } else { same += 1 }
    }
    assert_eq!(different, DIFFERENT.len(), "a case that differs isn't recorded");
    println!("{same} recorded files hold, {different} differ on purpose");
}

/// Compares the values that both have. The Python program kept unknown keys silently; this one warns about them.
fn same_values(name: &str, loaded: &Loaded, case: &Value) {
    let Config { syslog, log_level, filter, data, join_timeout, http, netlink: _ } = &loaded.config;
    let recorded = |section: &str, key: &str| {
        let value = &case["values"][section][key];
        assert!(!case["values"][section].is_null(), "{name}: no [{section}] was recorded");
        value.clone()
    };
    let seconds = |section, key| Duration::from_secs_f64(recorded(section, key).as_f64().unwrap());
    let text = |value: Option<std::net::IpAddr>| Value::from(value.map(|value| value.to_string()));

    let facility = syslog.map_or(0, |syslog| syslog.local_facility);
    assert_eq!(Value::from(facility), recorded("syslog", "local_facility"), "{name}");
    assert_eq!(syslog.is_some(), case["ini"].as_str().unwrap().contains("[syslog]"), "{name}");
    assert_eq!(Value::from(log_level.get()), recorded("syslog", "debug_level"), "{name}");
    assert_eq!(text(filter.src_ip), recorded("filter", "src_ip"), "{name}");
    assert_eq!(text(filter.nat_ip), recorded("filter", "nat_ip"), "{name}");
    assert_eq!(text(filter.dst_ip), recorded("filter", "dst_ip"), "{name}");
    assert_eq!(Value::from(filter.src_port), recorded("filter", "src_port"), "{name}");
    assert_eq!(Value::from(filter.nat_port), recorded("filter", "nat_port"), "{name}");
    assert_eq!(Value::from(filter.dst_port), recorded("filter", "dst_port"), "{name}");
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

/// The recorded error names a line, or a section and a key; ours must name them too.
fn same_place(name: &str, error: &str, recorded: &str) {
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
