//! The cause and the remedy that errors of the real kernel name, by operation.
//!
//! Needs root. Without it each test prints a message and does nothing.

use std::process::Command;
use std::time::Duration;

use lab::in_fresh_namespace;
use lab::samples::{create, entry, masqueraded, over_ipv6};
use nfct::{
    Conntrack, Direction, Error, Expectation, Flow, Labels, Layer4, Protocol, Query, TcpState, Tuple,
};

fn with_label(tuples: (Tuple, Tuple)) -> Conntrack {
    let mut labels = Labels::new(127).unwrap();
    labels.set(5).unwrap();
    let mut entry = entry(tuples);
    entry.set_labels(labels);
    entry
}

fn assert_error<T: std::fmt::Debug>(result: Result<T, nfct::Error>, errno: i32, parts: &[&str]) {
    let error = result.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.errno(), Some(errno), "{text}");
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn a_lookup_by_an_invalid_tuple_says_that_the_tuple_is_invalid() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        // An ICMP type that no request has.
        let layer4 = Layer4::Icmp { id: 1, kind: 250, code: 0 };
        let bad = Tuple { protocol: Protocol::Icmp, layer4, ..masqueraded(1).0 };
        let parts = ["looking up a conntrack entry", "the tuple is not valid"];
        assert_error(query.get_by_original(&bad), libc::EINVAL, &parts);
        assert_error(query.get_by_reply(&bad), libc::EINVAL, &parts);
    });
}

#[test]
fn an_unknown_helper_is_named_as_the_cause() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        let mut helped = entry(masqueraded(1));
        helped.set_helper("no-such").unwrap();
        let parts = ["creating a conntrack entry", "no helper of this name"];
        assert_error(query.create(&helped), libc::EOPNOTSUPP, &parts);
        create(&mut query, masqueraded(1));
        let parts = ["changing a conntrack entry", "no helper of this name"];
        assert_error(query.update(&helped), libc::EOPNOTSUPP, &parts);
    });
}

#[test]
fn a_new_entry_needs_a_timeout_and_a_tcp_state_is_optional() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        let (original, reply) = masqueraded(1);
        let mut bare = Conntrack::new().unwrap();
        bare.set_tuples(&original, &reply).unwrap();
        assert_error(query.create(&bare), libc::EINVAL, &["creating a conntrack entry", "a timeout"]);
        bare.set_timeout(Duration::from_secs(300));
        query.create(&bare).unwrap();
        let found = query.get(Direction::Original, &original).unwrap().unwrap();
        assert_eq!(found.tcp_state(), Some(TcpState::None));
        let missing = entry(over_ipv6(2));
        assert_error(query.update(&missing), libc::ENOENT, &["there is no entry with this tuple"]);
    });
}

#[test]
fn labels_that_cannot_be_kept_are_an_error() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        let parts = ["No space left on device", "`ct label`"];
        // No rule uses labels: the kernel discards them without an error.
        for result in
            [query.create(&with_label(masqueraded(1))), query.create_or_update(&with_label(masqueraded(1)))]
        {
            assert_error(result, libc::ENOSPC, &parts);
            assert_eq!(query.count().unwrap().entries, 0, "nothing is left behind");
        }
        create(&mut query, masqueraded(1));
        assert_error(query.update(&with_label(masqueraded(1))), libc::ENOSPC, &parts);
        assert_error(query.create_or_update(&with_label(masqueraded(1))), libc::ENOSPC, &parts);
        assert_eq!(query.count().unwrap().entries, 1);

        let rules = "table inet t { chain c { type filter hook input priority 0; ct label 5 counter; }; }";
        assert!(Command::new("nft").arg(rules).status().unwrap().success());
        query.create(&with_label(over_ipv6(2))).unwrap();
        let found = query.get(Direction::Original, &over_ipv6(2).0).unwrap().unwrap();
        assert!(found.labels().unwrap().contains(5));
        query.update(&with_label(over_ipv6(2))).unwrap();
        // The entry that is older than the rule still cannot hold labels.
        assert_error(query.update(&with_label(masqueraded(1))), libc::ENOSPC, &parts);
    });
}

#[test]
fn a_tuple_with_details_of_another_protocol_never_reaches_the_kernel() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        let (original, reply) = masqueraded(1);
        let wrong = Tuple { layer4: Layer4::Icmp { id: 7, kind: 8, code: 0 }, ..original };
        let expectation = Expectation::new(wrong, original);
        let errors = [
            query.get_by_original(&wrong).unwrap_err(),
            query.get_by_reply(&wrong).unwrap_err(),
            query.delete_flow(&Flow::new(wrong, reply)).unwrap_err(),
            query.get_expectation(&wrong).unwrap_err(),
            query.create_expectation(&expectation).unwrap_err(),
            query.delete_expectation(&Expectation::new(original, wrong)).unwrap_err(),
            query.dump_expectations_of(&wrong).map(drop).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, Error::Invalid { .. }), "{error}");
            assert!(
                error.to_string().contains("with Icmp { id: 7, kind: 8, code: 0 }, expected Layer4::"),
                "{error}"
            );
        }
    });
}
