//! Masked events: rules that keep the kernel from reporting that connections begin or end.

use std::process::Command;

use lab::{flows, wait_until, wait_within};
use nfct::Protocol;

use super::alone::alone;
use super::scene::{Questions, RESYNC, Scene, UdpFlow, config, ctnetlink, exchange};

/// Rules at the first hook after an entry has been created. `statements` are on lines of their own.
pub(crate) fn mask(statements: &str) -> String {
    format!(
        "table ip mask\n\
         delete table ip mask\n\
         table ip mask {{\n\
             chain tell {{\n\
                 type filter hook prerouting priority -150\n\
                 {statements}\n\
             }}\n\
         }}\n"
    )
}

pub(crate) const NO_MASK: &str = "table ip mask\ndelete table ip mask\n";

/// The first host's connections are reported only when they begin, those of the second not at all.
const MASKS: &str = "ip saddr 192.168.7.2 ct event set new\nip saddr 192.168.7.3 ct event set 0x0";

const FLOWS: u16 = 20;

/// Counts queries to the kernel.
const QUERIES: &str = "pynatconnd_kernel_questions_total";

fn ports(first: u16) -> std::ops::Range<u16> {
    first..first + FLOWS
}

#[test]
fn a_mapping_whose_end_is_masked_never_stands_in_for_its_masked_successor() {
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let Scene { lab, server, daemon } = Scene::build(3, config(""));
    let mut questions = Questions::to(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    questions.wait_ready();
    lab.gateway().nft(&mask(MASKS));
    let told_at_once = !questions.look_up("nat_port=1&state=live").complete;

    // What a question says that it must not: of twenty each.
    let (mut named, mut by_port, mut legacy, mut auth, mut auth_by_port) = (0, 0, 0, 0, 0);
    let (mut called_complete, mut dead) = (0, 0);
    for port in ports(40_001) {
        let first = UdpFlow::begin(&lab, lab.client_at(0, port), &server);
        assert_eq!(questions.look_up(&first.named()).live(), [first.src]);
        first.delete(&mut query);
        let second = UdpFlow::begin(&lab, lab.client_at(1, port), &server);
        assert_eq!(second.public, first.public, "the port is free again");
        // Each question meets the table as the last one left it, so the order changes.
        let number = usize::from(port);
        for kind in (0..5).map(|kind| (kind + number) % 5) {
            let right = Some(second.src);
            match kind {
                0 => {
                    let answer = questions.look_up(&second.named());
                    named += u32::from(answer.live() != [second.src]);
                    called_complete += u32::from(answer.complete);
                }
                1 => {
                    let answer = questions.look_up(&format!("nat_port={}", second.public.port()));
                    by_port += u32::from(answer.live() != [second.src]);
                    called_complete += u32::from(answer.complete);
                }
                2 => legacy += u32::from(questions.legacy(second.public.port()).ok() != right),
                3 => auth += u32::from(questions.auth(second.public, Some(second.server)).0 != right),
                _ => auth_by_port += u32::from(questions.auth(second.public, None).0 != right),
            }
        }
        second.delete(&mut query);
        let answer = questions.look_up(&second.named());
        dead += u32::from(!answer.live().is_empty());
        let answer = questions.look_up(&format!("nat_port={}", second.public.port()));
        dead += u32::from(!answer.live().is_empty());
    }
    let is_unready = !questions.is_ready();
    println!(
        "masked ends, masked successors, of {FLOWS} wrong: named {named}, by port {by_port}, legacy {legacy}, auth {auth}, \
         auth by port {auth_by_port}; called complete {called_complete}, dead called live {dead}; \
         the new rule counted at once: {told_at_once}, not ready: {is_unready}"
    );
    assert_eq!([named, by_port, legacy, auth, auth_by_port, called_complete, dead], [0; 7]);
    assert!(told_at_once && is_unready);

    lab.gateway().nft(NO_MASK);
    questions.wait_ready();
    let flow = UdpFlow::begin(&lab, lab.client_at(1, 41_000), &server);
    let answer = questions.look_up(&format!("nat_port={}&state=live", flow.public.port()));
    assert!(answer.complete && answer.live() == [flow.src], "{answer:?}");
}

#[test]
fn connections_stay_doubtful_when_the_rule_that_masked_their_end_is_gone() {
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let Scene { lab, server, daemon } = Scene::build(3, config(""));
    let mut questions = Questions::to(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    questions.wait_ready();
    // These are reported when they begin. The rule then masks their end as well: it is set by any of their packets.
    let older = UdpFlow::begin_all(&lab, 0, ports(40_001), &server);
    questions.wait_ready();
    lab.gateway().nft(&mask("ct event set new"));
    for flow in &older {
        exchange(&flow.socket, &server);
    }
    let newer = UdpFlow::begin_all(&lab, 1, ports(41_001), &server);
    lab.gateway().nft(NO_MASK);
    questions.wait_ready();
    let mut live = 0;
    for flow in older.iter().chain(&newer) {
        flow.delete(&mut query);
        let by_port = format!("nat_port={}&state=live", flow.public.port());
        live += u32::from(!questions.look_up(&by_port).live().is_empty());
    }
    println!("ended with masked events after the rule was gone: {live} of {} called live", 2 * FLOWS);
    assert_eq!(live, 0);
}

#[test]
fn a_connection_begun_the_other_way_does_not_keep_one_live_whose_end_is_masked() {
    if !lab::require() {
        return;
    }
    let _alone = alone();
    // Also connections that are not translated.
    let Scene { lab, server, daemon } = Scene::build(3, "[data]\nkey_name = nat_port\n".to_owned());
    let mut questions = Questions::to(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    lab.gateway().nft(&mask("ct event set new"));
    let flow = UdpFlow::begin(&lab, lab.client_at(0, 40_001), &server);
    assert_eq!(questions.look_up(&flow.named()).live(), [flow.src]);
    flow.delete(&mut query);
    // The server's datagram now begins a connection to the gateway itself: its original tuple was the reply tuple.
    server.send_to(b"again", flow.public).expect("the gateway is there");
    let original = flows::tuple(Protocol::Udp, flow.server, flow.public);
    wait_until("the datagram has an entry", || {
        query.get_by_original(&original).expect("ctnetlink answers").is_some()
    });
    let before = questions.metric(QUERIES).expect("queries are counted");
    let answer = questions.look_up(&flow.named());
    let queries = questions.metric(QUERIES).expect("queries are counted") - before;
    println!("begun the other way: {answer:?} after {queries} queries");
    assert_eq!(answer.live(), []);
    assert!(queries < 32.0, "{queries} queries");
}

#[test]
fn a_masked_flow_that_a_dump_found_is_not_live_when_it_has_ended() {
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let Scene { lab, server, daemon } = Scene::build(3, config("del_delay = 10\n"));
    let mut questions = Questions::to(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    lab.gateway().nft(&mask("ct event set 0x0"));
    let flows = UdpFlow::begin_all(&lab, 0, ports(40_001), &server);
    // The kernel's table is read again.
    daemon.rewrite_config(&config("del_delay = 20\n"));
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    wait_within(RESYNC, "a dump has found all", || questions.live_mappings("").len() == flows.len());
    flows.iter().for_each(|flow| flow.delete(&mut query));
    let listed = questions.live_mappings("").len();
    let live =
        |questions: &mut Questions, fields: &str| u32::from(!questions.look_up(fields).live().is_empty());
    let named = flows[..10].iter().map(|flow| live(&mut questions, &flow.named())).sum::<u32>();
    let by_port =
        flows[10..].iter().map(|flow| live(&mut questions, &format!("nat_port={}", flow.public.port())));
    let by_port = by_port.sum::<u32>();
    println!(
        "masked, found by a dump, ended: {named} and {by_port} of 10 and 10 called live, {listed} listed as live"
    );
    assert_eq!((named, by_port, listed), (0, 0, 0));
}

#[test]
fn a_mask_that_lets_pass_what_the_daemon_hears_is_harmless() {
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let Scene { lab, server, daemon } = Scene::build(3, config(""));
    let mut questions = Questions::to(&lab, &daemon);
    questions.wait_ready();
    lab.gateway().nft(&mask("ct event set new,related,destroy\nct event set new,related,destroy,assured"));
    let flows = UdpFlow::begin_all(&lab, 0, ports(40_001), &server);
    for flow in &flows {
        let answer = questions.look_up(&format!("nat_port={}&state=live", flow.public.port()));
        assert!(answer.complete && answer.live() == [flow.src], "{answer:?}");
        assert!(questions.is_ready());
    }
}

#[test]
fn a_rule_counts_wherever_it_is() {
    /// Each is the table `mask`, of the family that is named first.
    const PLACES: &[(&str, &str)] = &[
        ("inet", "chain tell {\ntype filter hook prerouting priority 0\nct event set new\n}"),
        ("ip", "chain tell {\ntype filter hook postrouting priority 0\nct event set 0x0\n}"),
        (
            "ip",
            "chain tell {\nct event set new\n}\nchain base {\ntype filter hook forward priority 0\njump tell\n}",
        ),
        (
            "ip",
            "chain tell {\ntype filter hook prerouting priority 0\nct event set new,destroy\nct event set new\n}",
        ),
    ];
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let Scene { lab, daemon, .. } = Scene::build(3, config(""));
    let mut questions = Questions::to(&lab, &daemon);
    let mut unseen = Vec::new();
    for (number, (family, chains)) in PLACES.iter().enumerate() {
        questions.wait_ready();
        lab.gateway().nft(&format!("table {family} mask {{\n{chains}\n}}\n"));
        if questions.look_up("nat_port=1&state=live").complete || questions.is_ready() {
            unseen.push(number);
        }
        lab.gateway().nft(&format!("delete table {family} mask\n"));
    }
    questions.wait_ready();
    println!("rules that mask events, of {}: {unseen:?} do not count", PLACES.len());
    assert!(unseen.is_empty());
}

/// Whether a program is installed; prints it if not.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new(program).arg("-V").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("not tried: needs {program}");
    }
    found
}

#[test]
fn rules_of_iptables_mask_as_those_of_nftables_do() {
    const RULE: &[&str] = &["PREROUTING", "-s", "192.168.7.2", "-j", "CT", "--ctevents", "new"];
    if !lab::require() || !has("iptables-nft") {
        return;
    }
    let _alone = alone();
    let Scene { lab, server, daemon } = Scene::build(3, config(""));
    let mut questions = Questions::to(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    let iptables = |verb: &'static str| {
        lab.gateway().run("iptables-nft", &[&["-t", "raw", verb], RULE].concat());
    };
    questions.wait_ready();
    iptables("-A");
    let told_at_once = !questions.look_up("nat_port=1&state=live").complete;
    let flows = UdpFlow::begin_all(&lab, 0, ports(40_001), &server);
    let mut live = 0;
    for flow in &flows {
        flow.delete(&mut query);
        let by_port = format!("nat_port={}&state=live", flow.public.port());
        live += u32::from(!questions.look_up(&by_port).live().is_empty());
    }
    let is_unready = !questions.is_ready();
    println!(
        "masked by iptables: {live} of {FLOWS} called live after their end; the rule counted at once: {told_at_once}, \
         not ready: {is_unready}"
    );
    assert_eq!(live, 0);
    assert!(told_at_once && is_unready);
    iptables("-D");
    questions.wait_ready();
    wait_until("what the rule did not mask is called complete", || {
        questions.look_up("nat_port=1&state=live").complete
    });
}
