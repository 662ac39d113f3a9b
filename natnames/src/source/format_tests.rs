//! Lines of CSV and JSON.

use proptest::prelude::*;

use super::*;

fn read(lines: &[&str]) -> Vec<Result<Option<Record>, String>> {
    let mut parser = Parser::default();
    lines.iter().map(|line| parser.read(line.as_bytes())).collect()
}

fn claim(line: &str) -> Claim {
    match Parser::default().read(line.as_bytes()) {
        Ok(Some(Record::Holds(claim))) => claim,
        other => panic!("{line}: {other:?}"),
    }
}

fn error(line: &str) -> String {
    Parser::default().read(line.as_bytes()).unwrap_err()
}

const T: Millis = 1_795_773_600_000; // 2026-11-27T10:00:00Z

#[test]
fn csv_without_a_header_has_the_usual_order() {
    let all =
        claim("10.0.0.7,phone,00:16:3e:5a:01:2f,c-4711,2026-11-27T10:00:00Z,2026-11-27T11:00:00.5+00:00");
    assert_eq!(all.net, "10.0.0.7/32".parse().unwrap());
    assert_eq!(all.host.name.as_deref(), Some("phone"));
    assert_eq!(all.host.mac, "00:16:3e:5a:01:2f".parse().ok());
    assert_eq!(all.host.subscriber.as_deref(), Some("c-4711"));
    assert_eq!((all.since, all.within, all.until), (Some(T), 999, Some(T + 3_600_500)));
    let short = claim(" 2001:db8::7 , phone");
    assert_eq!((short.net, short.since), ("2001:db8::7/128".parse().unwrap(), None));
    assert_eq!(claim("10.0.0.0/24,,,office").net, "10.0.0.0/24".parse().unwrap());
    assert_eq!(claim("::ffff:10.0.0.7,x").net, "10.0.0.7/32".parse().unwrap());
}

#[test]
fn a_header_names_the_columns_and_others_become_labels() {
    let read = read(&[
        "\u{feff}# hosts",
        "",
        "Subscriber,floor,ADDRESS,event\r",
        "bob,2,10.0.0.7,",
        ",,10.0.0.7,stop",
    ]);
    let Ok(Some(Record::Holds(claim))) = &read[3] else { panic!("{read:?}") };
    assert_eq!(claim.host.subscriber.as_deref(), Some("bob"));
    assert_eq!(claim.host.labels["floor"], "2");
    assert_eq!(read[4], Ok(Some(Record::Free { net: "10.0.0.7/32".parse().unwrap(), at: None })));
    assert!(read[..3].iter().all(|read| *read == Ok(None)), "{read:?}");
}

#[test]
fn quoted_fields_are_those_of_rfc_4180() {
    let name = |line: &str| claim(line).host.name.unwrap();
    assert_eq!(name(r#"10.0.0.7,"Miller, Ann""#), "Miller, Ann");
    assert_eq!(name(r#""10.0.0.7" , "the ""big"" one" ,"#), "the \"big\" one");
    assert_eq!(name(r#"10.0.0.7,5" disk"#), "5\" disk");
    assert!(error(r#"10.0.0.7,"Miller"#).contains("not closed"));
    assert!(error(r#"10.0.0.7,"Miller"x"#).contains("expected a comma"));
    assert!(error("10.0.0.7,a,,,,,7").contains("7 fields, but there are 6"));
}

#[test]
fn json_has_labels_and_numbers() {
    let claim = claim(
        r#"{"address":"10.0.0.7","subscriber":4711,"client_id":"01:AB","from":1795773600.25,"nas":"bras-1","port":17,
           "tags":["x"],"ok":true,"until":null}"#,
    );
    assert_eq!(claim.host.subscriber.as_deref(), Some("4711"));
    assert_eq!(claim.host.client_id.as_deref(), Some("01ab"));
    assert_eq!((claim.since, claim.within, claim.until), (Some(T + 250), 0, None));
    let labels: Vec<_> = claim.host.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(labels, ["nas=bras-1", "port=17"]);
    for (line, part) in [
        ("{", "no JSON object"),
        (r#"{"address":["10.0.0.7"],"name":"x"}"#, "neither a text nor a number"),
        (r#"{"name":"x"}"#, "no address"),
        (r#"{"address":"10.0.0.7","client_id":"phone"}"#, "hexadecimal digits"),
        (r#"{"address":"10.0.0.7","event":"on","name":"x"}"#, "start, stop or update"),
    ] {
        assert!(error(line).contains(part), "{line}: {}", error(line));
    }
    assert!(error(&"[".repeat(60_000)).contains("expected an address"));
    assert!(error(&format!("{{\"a\":{}", "[".repeat(60_000))).contains("recursion"));
}

#[test]
fn times_have_two_forms() {
    for (text, expected) in [
        ("1795773600", Ok((T, 999))),
        ("1795773600.125", Ok((T + 125, 0))),
        ("2026-11-27T11:00:00.5+01:00", Ok((T + 500, 0))),
        ("2026-11-27t10:00:00z", Ok((T, 999))),
        ("1795773600000", Err("seconds since 1970")),
        ("-1", Err("seconds since 1970")),
        ("nan", Err("seconds since 1970")),
        ("inf", Err("seconds since 1970")),
        ("2026-11-27T10:00:00", Err("expected a time such as")),
        ("tomorrow", Err("expected a time such as")),
    ] {
        match expected {
            Ok(expected) => assert_eq!(moment(text), Ok(expected), "{text}"),
            Err(part) => assert!(moment(text).unwrap_err().contains(part), "{text}"),
        }
    }
    assert!(error("10.0.0.7,x,,,2026-11-27T10:00:00Z,2026-11-27T09:00:00Z").contains("until is before from"));
}

#[test]
fn macs_are_read_as_radius_and_switches_write_them() {
    for text in ["00163E5A012F", "0016.3e5a.012f", "00-16-3E-5A-01-2F", "00:16:3e:5a:01:2f"] {
        assert_eq!(mac(text).unwrap().to_string(), "00:16:3e:5a:01:2f");
    }
    for text in ["0016.3e5a.012", "+0163E5A012F", "000000000000", "49301234567"] {
        assert!(mac(text).is_err(), "{text}");
    }
}

#[test]
fn errors_say_how_to_mend_the_line_and_are_harmless() {
    let network = error("10.0.0.7/24,x");
    assert!(network.contains("write 10.0.0.7, or 10.0.0.0/24"), "{network}");
    assert!(error("10.0.0.7").contains("give a name"));
    assert!(error("10.0.0.7,\u{7f} \u{1b}[2J,x\u{1b}[2J").contains("x\\u{1b}[2J"));
    let long = error(&format!("{}\u{1b},x", "y".repeat(60_000)));
    assert!(long.len() < 200, "{long}");
}
#[test]
fn the_example_of_the_documentation_is_read() {
    let text = include_str!("../../../doc/NAMES.md");
    let example = text.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    let read = read(&example.lines().collect::<Vec<_>>());
    let says = read.iter().filter(|read| matches!(read, Ok(Some(Record::Holds(_))))).count();
    let says_nothing = read.iter().filter(|read| **read == Ok(None)).count();
    assert_eq!((says, says_nothing), (5, 2), "{read:?}");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_in_one_line(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..8)) {
        let mut parser = Parser::default();
        for line in lines {
            if let Err(why) = parser.read(&line) {
                prop_assert!(!why.chars().any(char::is_control), "{why:?}");
            }
        }
    }

    #[test]
    fn what_looks_like_a_line_is_read_or_refused(line in r#"(\{?"?(address|from|mac)"?[:,]"?[0-9a-f.:/]{0,20}"?[,}]){1,4}"#) {
        let _ = Parser::default().read(line.as_bytes());
        let _ = Parser::default().read(line.trim_start_matches(char::is_alphabetic).as_bytes());
    }
}
