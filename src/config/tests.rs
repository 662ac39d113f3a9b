//! Tests with complete files: errors, warnings, the rows of the table, and files that are written and read
//! again.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use ipnetwork::IpNetwork;
use nfct::Protocol;
use proptest::prelude::*;

use super::{
    conditions::{AddressSet, Condition, PortRange},
    documents,
    key::Key,
    level::LogLevel,
    table::{KeyDefault, SYSLOG, keys},
    types::{
        Audit, Config, DataConfig, FilterConfig, HistoryConfig, HttpConfig, Loaded, NamesConfig,
        NetlinkConfig, Paths, SyslogConfig,
    },
    values::ByteSize,
};

fn loaded(text: &str) -> Loaded {
    Config::parse(text.as_bytes(), "f").unwrap()
}

fn error(text: &str) -> String {
    Config::parse(text.as_bytes(), "f").unwrap_err().to_string()
}

/// Warnings about a text to which the required key is added.
fn warnings(text: &str) -> Vec<String> {
    loaded(&format!("{text}\n[data]\nkey_name = nat_port\n")).warnings
}

#[test]
fn one_line_is_a_configuration() {
    let Loaded { config, warnings } = loaded("[data]\nkey_name = nat_port\n");
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!((config.syslog.enabled, config.log_level.get()), (false, 4));
    assert_eq!(config.filter, FilterConfig::default());
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
    assert_eq!(config.syslog, SyslogConfig { enabled: true, local_facility: 0 });
}

#[test]
fn errors_name_the_location_and_what_is_expected() {
    for (text, expected) in [
        ("", "f: [data] key_name: found nothing, expected one of src_ip, src_port, nat_ip,"),
        ("\n[data]\n", "f:2: [data] key_name: found nothing, expected one of src_ip,"),
        ("[data]\nkey_name = ip", "f:2: [data] key_name: found \"ip\", expected one of src_ip,"),
        ("[data]\nkey_name = nat_ip, ", "f:2: [data] key_name: found \"nat_ip,\", expected one of src_ip,"),
        ("[filter]\ndst_port = 1, x", "f:2: [filter] dst_port: found \"x\", expected a port from 0 to 65535"),
        (
            "[filter]\ndst_port = 70000",
            "f:2: [filter] dst_port: found \"70000\", expected a port from 0 to 65535",
        ),
        ("[filter]\nnat_ip = ,", "f:2: [filter] nat_ip: found \",\", expected an IPv4 address with four"),
        ("[filter]\nprotocol = tpc", "f:2: [filter] protocol: found \"tpc\", expected tcp, udp,"),
        (
            "[data]\nkey_name = nat_ip\n[http_server]\nhost = 0.0.0.0:8080",
            "f:4: [http_server] host: found \"0.0.0.0:8080\", expected one host name or IP address: the port is a \
             key of its own: write host = 0.0.0.0 and port = 8080",
        ),
        (
            "[data]\nkey_name = nat_ip\n[http_server]\nhost = [::1]:8080",
            "f:4: [http_server] host: found \"[::1]:8080\", expected one host name or IP address: the port is a \
             key of its own: write host = ::1 and port = 8080",
        ),
        (
            "[filter]\ndst_ip = 10.1",
            "f:2: [filter] dst_ip: found \"10.1\", expected an IPv4 address with four",
        ),
        ("[filter]\ndst_ip = %(x)s", "f:2: [filter] dst_ip: found \"%(x)s\", expected x to be a key of"),
        ("[filter]\n[[dst_ip]]", "f:2: [filter] dst_ip: found \"[[dst_ip]]\", expected a key, not a section"),
        ("filter = 1", "f:1: found \"filter = 1\", expected [filter], because this is a section"),
        ("[filter]\ndst_port 1", "f:2: found \"dst_port 1\", expected [section], key = value, or # and a"),
        ("[a]\nb = 1\nb = 2", "f:3: found \"b = 2\", expected each key only once (line 2 has it)"),
        ("[a]\n[a]", "f:2: found \"[a]\", expected a name that is not used yet (line 1 has it)"),
        ("[[a]]", "f:1: found \"[[a]]\", expected at most 1 opening brackets here"),
        ("[[a]", "f:1: found \"[[a]\", expected as many closing brackets as opening brackets"),
        ("a = \"\"\"b\nc", "f:1: found \"a = \"\"\"b\", expected closing triple quotes before the end"),
        ("a = 1,,2", "f:1: found \"a = 1,,2\", expected a list member between two commas"),
        ("a = \"b\" c", "f:1: found \"a = \"b\" c\", expected the same quote at the end of the quoted text"),
        (
            "[data]\nkey_name = nat_ip\n[http_server]\nip_acl = 10.0.0.0/8, x",
            "f:4: [http_server] ip_acl: found \"x\", expected IP addresses or networks",
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
fn warnings_about_unknown_names_suggest_the_most_similar_name() {
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
fn keys_that_interpolation_uses_are_not_unknown() {
    let text = "net = 10.0\n[DEFAULT]\nhost = 0.1\n[filter]\nsrc_ip = %(net)s.%(host)s\n[[DEFAULT]]\na = b";
    assert_eq!(warnings(text), Vec::<String>::new());
}

#[test]
fn warnings_are_in_the_order_of_the_file() {
    let text = "[http_server]\nip_acl = 10.0.0.1/8, 10.0.0.0/255.0.0.0\n[data]\ngarbage_cleaner_interval = 0\n\
                key_name = src_ip\n[zzz]\n";
    assert_eq!(
        loaded(text).warnings,
        [
            "f:2: [http_server] ip_acl: \"10.0.0.1/8\" has host bits, read as 10.0.0.0/8",
            "f:4: [data] garbage_cleaner_interval: raised to 1 second, the minimum",
            "f:6: [zzz]: unknown section, ignored",
        ]
    );
    assert_eq!(
        warnings("[http_server]\nip_acl = ,"),
        ["f:2: [http_server] ip_acl: the list is empty: no client is allowed"]
    );
}

#[test]
fn values_that_do_not_go_together_cause_warnings() {
    for (text, expected) in [
        (
            "[data]\nkey_name = nat_port\ndel_delay = 3601",
            "f:3: [data] del_delay: del_delay (3601) is more than life_span (3600), ",
        ),
        (
            "[data]\nlife_span = 9\nkey_name = nat_port",
            "f:2: [data] life_span: del_delay (10) is more than life_span (9), ",
        ),
        (
            "[data]\nkey_name = nat_port\nlife_span = 60\ndel_delay = 60.5",
            "f:4: [data] del_delay: del_delay (60.5) is more than life_span (60), so a cleanup removes closed \
             mappings that del_delay would still keep: set life_span to at least 60.5",
        ),
        (
            "[filter]\nsrc_ip = 10.0.0.0/8, 10.1.1.1\ndst_ip = 2001:db8::1",
            "f:3: [filter] dst_ip: src_ip accepts only IPv4 and dst_ip only IPv6, so no connection is tracked: ",
        ),
        (
            "[filter]\ndst_ip = !0.0.0.0/0\nnat_ip = 100.64.2.1",
            "f:3: [filter] nat_ip: nat_ip accepts only IPv4 and dst_ip only IPv6, ",
        ),
        (
            "[filter]\nnat_ip = ::1\nprotocol = icmp",
            "f:3: [filter] protocol: protocol accepts only IPv4 and nat_ip only IPv6, ",
        ),
        (
            "[filter]\ndst_port = 80\nprotocol = icmp, 50",
            "f:3: [filter] protocol: no protocol of this list has a dst_port, ",
        ),
        (
            "[filter]\nnat_ip = 10.1.0.0/16, !10.0.0.0/8",
            "f:2: [filter] nat_ip: the exceptions leave no value, so ",
        ),
        (
            "[filter]\ndst_port = 80, 443, !0-1023",
            "f:2: [filter] dst_port: the exceptions leave no value, so ",
        ),
        ("[filter]\nprotocol = tcp, !tcp", "f:2: [filter] protocol: the exceptions leave no value, so "),
    ] {
        let text = if text.contains("[data]") {
            text.to_owned()
        } else {
            format!("{text}\n[data]\nkey_name = nat_port\n")
        };
        let warnings = loaded(&text).warnings;
        assert!(warnings.len() == 1 && warnings[0].starts_with(expected), "{text}: {warnings:?}");
    }
    for text in [
        "[filter]\nsrc_ip = 10.0.0.0/8, fd00::/8\ndst_ip = 2001:db8::1",
        "[filter]\nnat_ip = @ppp0\nsrc_ip = 10.0.0.0/8\nprotocol = icmp, icmpv6",
        "[filter]\nnat_ip = ::ffff:100.64.2.1\nsrc_ip = 10.0.0.0/8",
        "[filter]\nprotocol = icmp\nnat_port = 7",
        "[filter]\nprotocol = icmp, tcp\ndst_port = 80",
        "[filter]\nprotocol = !tcp\ndst_port = 80",
        "[filter]\ndst_port = 80, 8080, !0-1023\nnat_ip = !0.0.0.0/1",
    ] {
        assert_eq!(warnings(text), Vec::<String>::new(), "{text}");
    }
}

/// A file with one setting, and `key_name` if the setting is not that.
fn file_with(section: &str, key: &str, value: &str) -> String {
    let required = if key == "key_name" { "" } else { "\nkey_name = src_ip" };
    match section {
        "data" => format!("[data]\n{key} = {value}{required}\n"),
        _ => format!("[{section}]\n{key} = {value}\n[data]{required}\n"),
    }
}

#[test]
fn a_default_in_the_file_changes_nothing() {
    for (section, key) in keys() {
        let KeyDefault::Is(default) = key.default else { continue };
        let mut read = loaded(&file_with(section.name, key.name, default));
        assert_eq!(read.config.syslog.enabled, section.name == SYSLOG);
        read.config.syslog.enabled = false;
        assert_eq!(read, loaded("[data]\nkey_name = src_ip\n"), "[{}] {}", section.name, key.name);
    }
}

#[test]
fn every_example_is_valid_and_differs_from_the_default() {
    for (section, key) in keys() {
        let text = file_with(section.name, key.name, key.example);
        let Loaded { config, warnings } = loaded(&text);
        assert_eq!(warnings, Vec::<String>::new(), "{text}");
        assert_ne!(key.default, KeyDefault::Is(key.example), "{text}");
        let written = (key.field.write)(&config).expect("the example sets the key");
        assert_eq!(written.replace("/32", "").replace("/128", ""), key.example, "{text}");
    }
}

#[test]
fn every_key_is_complete() {
    for (section, key) in keys() {
        let texts = [section.help, key.expects, key.example, key.help, key.reload];
        assert!(texts.iter().all(|text| !text.is_empty()), "[{}] {}", section.name, key.name);
        if key.name == "key_name" {
            assert_eq!(key.expects, Key::EXPECTED);
        }
        // What an error says is expected, the reader must not accept.
        let (text, expected) = (file_with(section.name, key.name, "no such value"), key.expects);
        let invalid = error(&text);
        assert!(
            invalid.ends_with(&format!("{}: found \"no such value\", expected {expected}", key.name)),
            "{invalid}"
        );
    }
}

#[test]
fn the_sample_file_sets_only_defaults_and_shows_every_key() {
    let sample = documents::sample();
    let defaults = loaded("[data]\nkey_name = nat_port\n");
    assert_eq!(loaded(&sample), defaults);
    // A setting that is commented out has no space after the '#', prose has one.
    let settings = sample
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line));
    let all = settings.collect::<Vec<_>>().join("\n");
    for (section, key) in keys() {
        let start = format!("{} = ", key.name);
        assert!(all.lines().any(|line| line.starts_with(&start)), "[{}] {}", section.name, key.name);
    }
    let mut all = loaded(&all);
    assert!(all.config.syslog.enabled);
    all.config.syslog.enabled = false;
    all.config.filter = FilterConfig::default();
    all.config.history = defaults.config.history.clone();
    all.config.names = defaults.config.names.clone();
    assert_eq!(all, defaults);
}

#[test]
fn an_unreadable_file_is_an_error_with_a_remedy() {
    let error = Config::load("/nonexistent/x.conf".as_ref()).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("/nonexistent/x.conf: cannot be read: "), "{text}");
    assert!(text.ends_with("; create it, or name another file with --config"), "{text}");
}

#[test]
fn a_configuration_is_written_with_all_its_values() {
    let text = loaded("[filter]\ndst_port = 0443\n[data]\nkey_name = nat_port\n").config.to_ini();
    assert_eq!(
        text,
        "[filter]\ndst_port = 443\nnat_only = no\n\n[data]\nkey_name = nat_port\ndel_delay = 10\n\
         garbage_cleaner_interval = 3600\nlife_span = 3600\nsweep_interval = 300\n\
         max_closed = 1000000\nmax_mappings = 16000000\n\n\
         [netlink]\nreceive_buffer = 64M\nreceive_buffer_max = 512M\nreliable = no\n\n[threading]\njoin_timeout = 5\n\n\
         [http_server]\nhost = 127.0.0.1\nport = 8080\nip_acl = 127.0.0.0/8, ::1/128\n\
         max_connections = 1024\nmax_streams = 256\n\n\
         [history]\nsync_interval = 1\ndestinations = yes\n\n\
         [names]\nneighbours = no\nacl = 127.0.0.0/8, ::1/128\nmax_facts = 1000000\n"
    );
}

/// Times that a file can express: whole nanoseconds for short times, the precision of a float for long ones.
fn times() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (0..1000u64, 0..1_000_000_000u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos)),
        (0.0..1e9f64).prop_map(Duration::from_secs_f64),
    ]
}

/// Without IPv4 addresses that are written as IPv6, which are read as IPv4.
fn networks() -> impl Strategy<Value = IpNetwork> {
    (any::<IpAddr>(), 0..=128u8).prop_map(|(address, length)| {
        let address = address.to_canonical();
        let length = if address.is_ipv4() { length.min(32) } else { length };
        let network = IpNetwork::new(address, length).unwrap();
        IpNetwork::new(network.network(), length).unwrap()
    })
}

fn condition<T: std::fmt::Debug + Clone>(
    members: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = Condition<T>> {
    (prop::collection::vec(members.clone(), 0..3), prop::collection::vec(members, 0..3))
        .prop_map(|(only, except)| Condition { only, except })
}

fn filters() -> impl Strategy<Value = FilterConfig> {
    let interface = "[a-zA-Z0-9_+=~-][a-zA-Z0-9._+=~@-]{0,14}".prop_map(AddressSet::Interface);
    let address = condition(prop_oneof![networks().prop_map(AddressSet::Network), interface].boxed());
    let port = condition(
        any::<(u16, u16)>()
            .prop_map(|(one, other)| PortRange { first: one.min(other), last: one.max(other) }),
    );
    let protocol = condition(any::<u8>().prop_map(Protocol::from));
    let (address, port) = (address.boxed(), port.boxed());
    let addresses = (address.clone(), address.clone(), address);
    (addresses, (port.clone(), port.clone(), port), protocol, any::<bool>()).prop_map(
        |((src_ip, nat_ip, dst_ip), (src_port, nat_port, dst_port), protocol, nat_only)| FilterConfig {
            src_ip,
            src_port,
            nat_ip,
            nat_port,
            dst_ip,
            dst_port,
            protocol,
            nat_only,
        },
    )
}

fn histories() -> impl Strategy<Value = HistoryConfig> {
    let path = || "(/[a-z0-9._+@:~-]{1,9}){1,3}".prop_map(PathBuf::from);
    let audit = prop_oneof![Just(Audit::Syslog), path().prop_map(Audit::File)];
    let retention = (
        prop::option::of(1..=36_500_u32),
        prop::option::of(((1 << 20)..=(1_usize << 50)).prop_map(ByteSize)),
    );
    let names = prop::option::of("[a-zA-Z0-9._-]{1,20}");
    let options =
        (prop::option::of(path()), times(), retention, any::<bool>(), names, prop::option::of(audit));
    options.prop_map(|(path, sync, (retention_days, retention_bytes), destinations, gateway, audit)| {
        HistoryConfig {
            path,
            sync_interval: sync.max(Duration::from_secs(1)),
            retention_days,
            retention_bytes,
            destinations,
            gateway,
            audit,
        }
    })
}

fn names() -> impl Strategy<Value = NamesConfig> {
    let path = || "(/[a-z0-9._@+:~-]{1,9}){1,3}".prop_map(PathBuf::from);
    let one = || prop::option::of(path());
    let some = || prop::collection::vec(path(), 0..4).prop_map(Paths);
    let sources = (one(), one(), one(), one(), one(), some(), some(), any::<bool>());
    let acl = prop::collection::vec(networks(), 0..4);
    (sources, acl, prop::option::of(1..=36500_u32), 1000..=1_000_000_000_usize).prop_map(
        |((file, socket, podman, docker, dnsmasq, kea, dhcpd, neighbours), acl, keep_days, max_facts)| {
            NamesConfig {
                file,
                socket,
                podman,
                docker,
                dnsmasq,
                kea,
                dhcpd,
                neighbours,
                acl,
                keep_days,
                max_facts,
            }
        },
    )
}

fn configs() -> impl Strategy<Value = Config> {
    let syslog = prop::option::of((0..=7u8, 0..=LogLevel::MAX));
    let count = || 1000..=1_000_000_000_usize;
    let data =
        (prop::sample::select(Key::ALL.to_vec()), times(), times(), times(), times(), count(), count());
    let buffers = || (4096..(1023_usize << 20)).prop_map(ByteSize);
    let netlink =
        (buffers(), buffers(), any::<bool>()).prop_map(|(receive_buffer, receive_buffer_max, reliable)| {
            NetlinkConfig { receive_buffer, receive_buffer_max, reliable }
        });
    let hosts = prop_oneof!["[a-z0-9._%-]{1,20}", any::<IpAddr>().prop_map(|address| address.to_string())];
    let limits = (16..=65536_usize, 1..=32768_usize);
    let http = (hosts, any::<u16>(), prop::collection::vec(networks(), 0..4), limits);
    (syslog, filters(), data, netlink, times(), http, histories(), names()).prop_map(
        |(syslog, filter, data, netlink, join_timeout, http, history, names)| {
            let (key_name, del_delay, interval, life_span, sweep, max_closed, max_mappings) = data;
            let (host, port, ip_acl, (max_connections, max_streams)) = http;
            let garbage_cleaner_interval = interval.max(Duration::from_secs(1));
            Config {
                syslog: SyslogConfig {
                    enabled: syslog.is_some(),
                    local_facility: syslog.map_or(0, |(local_facility, _)| local_facility),
                },
                log_level: LogLevel::new(syslog.map_or(4, |(_, step)| step)).unwrap(),
                filter,
                data: DataConfig {
                    key_name,
                    del_delay,
                    garbage_cleaner_interval,
                    life_span,
                    sweep_interval: sweep.max(Duration::from_secs(1)),
                    max_closed,
                    max_mappings,
                },
                netlink,
                join_timeout,
                http: HttpConfig { host, port, ip_acl, max_connections, max_streams },
                history,
                names,
            }
        },
    )
}

proptest! {
    #[test]
    fn reading_a_written_configuration_gives_an_equal_one(config in configs()) {
        let text = config.to_ini();
        let read = Config::parse(text.as_bytes(), "f");
        prop_assert_eq!(read.map(|read| read.config).map_err(|error| error.to_string()), Ok(config), "{}", text);
    }

    #[test]
    fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Config::parse(&bytes, "f");
    }

    #[test]
    fn no_text_causes_a_panic(text in "(\\[\\[?filter\\]|[a-b\"'#=,%()s \\r\\n]{1,8}|dst_ip = ){0,30}") {
        let _ = Config::parse(text.as_bytes(), "f");
    }
}
