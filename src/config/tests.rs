//! Whole files: what is refused and with which words, what is warned about, and that what is written reads
//! back.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn loaded(text: &str) -> Loaded {
    Config::parse(text.as_bytes(), "f").unwrap()
}

fn error(text: &str) -> String {
    Config::parse(text.as_bytes(), "f").unwrap_err().to_string()
}

/// Warnings about a text that is otherwise complete.
fn warnings(text: &str) -> Vec<String> {
    loaded(&format!("{text}\n[data]\nkey_name = nat_port\n")).warnings
}

#[test]
fn one_line_is_a_configuration() {
    let Loaded { config, warnings } = loaded("[data]\nkey_name = nat_port\n");
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!((config.syslog, config.log_level.get()), (None, 4));
    assert_eq!(config.filter, Filter::default());
    assert_eq!(config.data.key_name, Key::NatPort);
    assert_eq!(config.data.del_delay, Duration::from_secs(10));
    assert_eq!(config.data.garbage_cleaner_interval, Duration::from_secs(3600));
    assert_eq!(config.data.life_span, Duration::from_secs(3600));
    assert_eq!(config.join_timeout, Duration::from_secs(5));
    assert_eq!((config.http.host.as_str(), config.http.port), ("127.0.0.1", 8080));
    assert_eq!(config.http.ip_acl, ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
}

#[test]
fn an_empty_syslog_section_turns_syslog_on() {
    let config = loaded("[syslog]\n[data]\nkey_name = src_ip\n").config;
    assert_eq!(config.syslog, Some(Syslog { local_facility: 0 }));
}

#[test]
fn errors_name_the_place_and_what_to_write() {
    for (text, expected) in [
        ("", "f: [data] key_name: found nothing, expected one of src_ip, src_port, nat_ip,"),
        ("\n[data]\n", "f:2: [data] key_name: found nothing, expected one of src_ip,"),
        ("[data]\nkey_name = ip", "f:2: [data] key_name: found \"ip\", expected one of src_ip,"),
        ("[data]\nkey_name = nat_ip, ", "f:2: [data] key_name: found \"nat_ip,\", expected one of src_ip,"),
        ("[filter]\ndst_port = 1, 2", "f:2: [filter] dst_port: found \"1, 2\", expected a port, a whole"),
        ("[filter]\ndst_port = 70000", "f:2: [filter] dst_port: found \"70000\", expected a port, a whole"),
        (
            "[filter]\ndst_ip = 10.1",
            "f:2: [filter] dst_ip: found \"10.1\", expected an IPv4 address with all",
        ),
        ("[filter]\ndst_ip = %(x)s", "f:2: [filter] dst_ip: found \"%(x)s\", expected x to be a key of"),
        ("[filter]\n[[dst_ip]]", "f:2: [filter] dst_ip: found \"[[dst_ip]]\", expected a key, not a section"),
        ("filter = 1", "f:1: found \"filter = 1\", expected [filter], as that is a section"),
        ("[filter]\ndst_port 1", "f:2: found \"dst_port 1\", expected [section], key = value, or a comment"),
        ("[a]\nb = 1\nb = 2", "f:3: found \"b = 2\", expected each key once (line 2 has it)"),
        ("[a]\n[a]", "f:2: found \"[a]\", expected a name not yet taken (line 1 has it)"),
        ("[[a]]", "f:1: found \"[[a]]\", expected at most 1 opening brackets here"),
        ("[[a]", "f:1: found \"[[a]\", expected as many closing brackets as opening ones"),
        ("a = \"\"\"b\nc", "f:1: found \"a = \"\"\"b\", expected closing triple quotes before the end"),
        ("a = 1,,2", "f:1: found \"a = 1,,2\", expected something between the commas of a list"),
        ("a = \"b\" c", "f:1: found \"a = \"b\" c\", expected a quoted text closed by the same quote"),
        (
            "[data]\nkey_name = nat_ip\n[http_server]\nip_acl = 10.0.0.0/8, x",
            "f:4: [http_server] ip_acl: found \"10.0.0.0/8, x\", expected",
        ),
    ] {
        let error = error(text);
        assert!(error.starts_with(expected), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{error:?}");
    }
    let error = Config::parse(b"[data]\nkey_name = \xe9", "f").unwrap_err().to_string();
    assert_eq!(error, "f:2: found \"the byte 0xe9\", expected text in UTF-8");
}

#[test]
fn unknown_names_come_with_the_nearest_known_one() {
    for (text, expected) in [
        ("[filter]\ndst_prot = 1", "f:2: [filter] dst_prot: unknown key, ignored; did you mean dst_port?"),
        ("[filter]\nDST_PORT = 1", "f:2: [filter] DST_PORT: unknown key, ignored; did you mean dst_port?"),
        (
            "[filter]\nport = 1",
            "f:2: [filter] port: unknown key, ignored; did you mean port in [http_server]?",
        ),
        (
            "dst_ip = 1",
            "f:1: before any section dst_ip: unknown key, ignored; did you mean dst_ip in [filter]?",
        ),
        ("[filter]\ncolour = red", "f:2: [filter] colour: unknown key, ignored"),
        (
            "[http-server]\nport = 1",
            "f:1: [http-server]: unknown section, ignored; did you mean [http_server]?",
        ),
        ("[other]\na = b", "f:1: [other]: unknown section, ignored"),
        ("[filter]\n[[sub]]\na = b", "f:2: [filter] [[sub]]: unknown section, ignored"),
    ] {
        assert_eq!(warnings(text), [expected], "{text:?}");
    }
}

#[test]
fn names_that_interpolation_uses_are_known() {
    let text = "net = 10.0\n[DEFAULT]\nhost = 0.1\n[filter]\nsrc_ip = %(net)s.%(host)s\n[[DEFAULT]]\na = b";
    assert_eq!(warnings(text), Vec::<String>::new());
}

#[test]
fn warnings_follow_the_file() {
    let text = "[http_server]\nip_acl = 10.0.0.1/8, 10.0.0.0/255.0.0.0\n[data]\ngarbage_cleaner_interval = 0\n\
                key_name = src_ip\n[zzz]\n";
    assert_eq!(
        loaded(text).warnings,
        [
            "f:2: [http_server] ip_acl: \"10.0.0.1/8\" has host bits, read as 10.0.0.0/8",
            "f:4: [data] garbage_cleaner_interval: read as 1 second, the shortest interval there is",
            "f:6: [zzz]: unknown section, ignored",
        ]
    );
    assert_eq!(
        warnings("[http_server]\nip_acl = ,"),
        ["f:2: [http_server] ip_acl: the list is empty, so nobody may ask"]
    );
}

#[test]
fn known_keys_have_defaults_that_read() {
    // A file of all the defaults is the same as one that leaves them out.
    let mut text = String::new();
    for section in table::sections() {
        text.push_str(&format!("[{section}]\n"));
        for (_, key, default) in known_keys().filter(|(of, ..)| *of == section) {
            match default {
                Some(default) => text.push_str(&format!("{key} = {default}\n")),
                None if key == "key_name" => text.push_str("key_name = dst_ip\n"),
                None => {}
            }
        }
    }
    assert_eq!(loaded(&text), loaded("[syslog]\n[data]\nkey_name = dst_ip\n"));
}

#[test]
fn the_sample_file_shows_every_key_with_its_default() {
    let sample = include_str!("../../pynatconnd.conf");
    // Settings are commented out without a space after the '#', prose has one.
    let shown = sample.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => setting,
        _ => line,
    });
    let all = shown.collect::<Vec<_>>().join("\n");
    for (section, key, _) in known_keys() {
        assert!(all.lines().any(|line| line.starts_with(&format!("{key} = "))), "[{section}] {key}");
    }
    let defaults = loaded("[data]\nkey_name = nat_port\n");
    assert_eq!(loaded(sample), defaults);
    let mut all = loaded(&all);
    assert_eq!(all.config.syslog.take(), Some(Syslog { local_facility: 0 }));
    all.config.filter = Filter::default();
    assert_eq!(all, defaults);
}

#[test]
fn what_is_in_force_is_written_as_a_file() {
    let text = loaded("[filter]\ndst_port = 0443\n[data]\nkey_name = nat_port\n").config.to_ini();
    assert_eq!(
        text,
        "[filter]\ndst_port = 443\nnat_only = no\n\n[data]\nkey_name = nat_port\ndel_delay = 10\n\
         garbage_cleaner_interval = 3600\nlife_span = 3600\nsweep_interval = 300\n\n\
         [netlink]\nreceive_buffer = 64M\nreceive_buffer_max = 512M\nreliable = no\n\n[threading]\njoin_timeout = 5\n\n\
         [http_server]\nhost = 127.0.0.1\nport = 8080\nip_acl = 127.0.0.0/8, ::1/128\n"
    );
}

/// Times as a file can give them: whole nanoseconds for short ones, what a float holds for long ones.
fn times() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (0..1000u64, 0..1_000_000_000u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos)),
        (0.0..1e9f64).prop_map(Duration::from_secs_f64),
    ]
}

fn networks() -> impl Strategy<Value = IpNetwork> {
    (any::<IpAddr>(), 0..=128u8).prop_map(|(address, length)| {
        let length = if address.is_ipv4() { length.min(32) } else { length };
        let network = IpNetwork::new(address, length).unwrap();
        IpNetwork::new(network.network(), length).unwrap()
    })
}

fn filters() -> impl Strategy<Value = Filter> {
    let (address, port) = (any::<Option<IpAddr>>, any::<Option<u16>>);
    (address(), port(), address(), port(), address(), port(), any::<bool>()).prop_map(
        |(src_ip, src_port, nat_ip, nat_port, dst_ip, dst_port, nat_only)| Filter {
            src_ip,
            src_port,
            nat_ip,
            nat_port,
            dst_ip,
            dst_port,
            nat_only,
        },
    )
}

fn configs() -> impl Strategy<Value = Config> {
    let syslog = prop::option::of((0..=7u8, 0..=LogLevel::MAX));
    let data = (prop::sample::select(Key::ALL.to_vec()), times(), times(), times(), times());
    let buffers = || (4096..(1023_usize << 20)).prop_map(Bytes);
    let netlink =
        (buffers(), buffers(), any::<bool>()).prop_map(|(receive_buffer, receive_buffer_max, reliable)| {
            Netlink { receive_buffer, receive_buffer_max, reliable }
        });
    let hosts = prop_oneof!["[a-z0-9.:_%-]{1,20}", any::<IpAddr>().prop_map(|address| address.to_string())];
    let http = (hosts, any::<u16>(), prop::collection::vec(networks(), 0..4));
    (syslog, filters(), data, netlink, times(), http).prop_map(
        |(syslog, filter, data, netlink, join_timeout, http)| {
            let (key_name, del_delay, interval, life_span, sweep) = data;
            let (host, port, ip_acl) = http;
            let default_level = defaults::DEBUG_LEVEL.parse().unwrap();
            let garbage_cleaner_interval = interval.max(Duration::from_secs(1));
            Config {
                syslog: syslog.map(|(local_facility, _)| Syslog { local_facility }),
                log_level: syslog.map_or(default_level, |(_, step)| LogLevel::new(step).unwrap()),
                filter,
                data: Data {
                    key_name,
                    del_delay,
                    garbage_cleaner_interval,
                    life_span,
                    sweep_interval: sweep.max(Duration::from_secs(1)),
                },
                netlink,
                join_timeout,
                http: Http { host, port, ip_acl },
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_reads_back(config in configs()) {
        let text = config.to_ini();
        let read = Config::parse(text.as_bytes(), "f");
        prop_assert_eq!(read.map(|read| read.config).map_err(|error| error.to_string()), Ok(config), "{}", text);
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Config::parse(&bytes, "f");
    }

    #[test]
    fn no_text_is_too_odd(text in "(\\[\\[?filter\\]|[a-b\"'#=,%()s \\r\\n]{1,8}|dst_ip = ){0,30}") {
        let _ = Config::parse(text.as_bytes(), "f");
    }
}

#[test]
fn guide_has_every_key_and_its_default() {
    let guide = include_str!("../../doc/OPERATIONS.md");
    let rows: Vec<_> = guide.lines().filter(|line| line.starts_with("| `")).collect();
    for (_, key, default) in known_keys() {
        let row = rows.iter().find(|row| row.contains(&format!("`{key}`")));
        let row = row.unwrap_or_else(|| panic!("doc/OPERATIONS.md has no row of {key}"));
        let said = row.split('|').nth(2).unwrap_or_default().trim();
        let expected = default.unwrap_or(if key == "key_name" { "required" } else { "unset" });
        assert_eq!(said, expected, "{key}: {row}");
    }
}

#[test]
fn the_manual_has_every_key_and_is_right_about_it() {
    let in_manual = manual::SECTIONS.iter().flat_map(|section| {
        section.keys.iter().map(move |key| (section.name, key.name, key.default, key.example))
    });
    let in_table = table::ROWS.iter().map(|row| {
        let default = match row.default {
            table::Absent::Means(text) => manual::Absent::Is(text),
            table::Absent::Unset => manual::Absent::Unset,
            table::Absent::Refused(_) => manual::Absent::Required,
        };
        (row.section, row.key, default)
    });
    let said: Vec<_> = in_manual.clone().map(|(section, key, default, _)| (section, key, default)).collect();
    assert_eq!(said, in_table.collect::<Vec<_>>());

    for (section, key, default, example) in in_manual {
        let required = if section == "data" && key != "key_name" { "key_name = src_ip\n" } else { "" };
        let text = format!("[{section}]\n{key} = {example}\n{required}");
        let text = if section == "data" { text } else { format!("{text}[data]\nkey_name = src_ip\n") };
        let Loaded { config, warnings } = loaded(&text);
        assert_eq!(warnings, Vec::<String>::new(), "{text}");
        assert_ne!(manual::Absent::Is(example), default, "an example that shows nothing: {key}");
        let row = table::ROWS.iter().find(|row| (row.section, row.key) == (section, key)).expect("known");
        let written = (row.write)(&config).expect("it is set");
        assert_eq!(written.replace("/32", "").replace("/128", ""), example, "{key}");
    }
}
