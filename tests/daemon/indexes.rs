//! Indexes that are built when a lookup first needs them: answers are exact before, meanwhile and after.

use lab::flows::{self, create, source_nat};
use lab::http::Client;
use lab::{Lab, Netns};
use nfct::{Protocol, Query, Tuple};

use super::binary::DAEMON;

const CONFIG: &str = "[filter]\nnat_only = yes\n[data]\nkey_name = nat_port\nsweep_interval = 3600\n";
/// Connections that live at the same time, of two hosts in turn.
const LIVE: u16 = 1000;
/// Connections that begin while others end.
const STEPS: u16 = 600;

fn flow(lab: &Lab, number: u16) -> (Tuple, Tuple) {
    let inside = lab.client_at((number % 2) as u8, 10_000 + number);
    let public = (lab.public(0), 20_000 + number);
    source_nat(Protocol::Tcp, inside, lab.server_at(443), public.into())
}

/// The states and public ports of what a lookup finds.
fn found(client: &mut Client, question: &str) -> Vec<(String, u64)> {
    let answer = client.get(&format!("/v1/lookup?{question}"));
    let json = answer.json();
    let matches = json["matches"].as_array().unwrap_or_else(|| panic!("{question}: {json}"));
    let one = |one: &serde_json::Value| {
        let port = one["nat_port"].as_u64().expect("a port");
        (one["state"].as_str().expect("a state").to_owned(), port)
    };
    matches.iter().map(one).collect()
}

#[test]
fn answers_are_exact_before_while_and_after_an_index_is_built() {
    let lab = Lab::builder().clients(2).build();
    let daemon = DAEMON.builder(CONFIG).arg("-l").arg("debug").start(lab.gateway());
    daemon.wait_for_line("equals the kernel's");
    let gateway: &Netns = lab.gateway();
    let mut query = gateway.enter(Query::open).expect("ctnetlink is available");
    for number in 0..LIVE {
        create(&mut query, &flow(&lab, number));
    }
    let mut client = Client::connect(gateway, daemon.local_addr());
    for step in 0..STEPS {
        let (new, old) = (flow(&lab, LIVE + step), flow(&lab, step));
        create(&mut query, &new);
        assert!(flows::remove(&mut query, &old.0));
        let by_port = |flow: &(Tuple, Tuple)| {
            format!("src_ip={}&src_port={}", flow.0.src, flow.0.src_port().expect("TCP has ports"))
        };
        let port = |number: u16| u64::from(20_000 + number);
        assert_eq!(found(&mut client, &by_port(&new)), [("live".to_owned(), port(LIVE + step))]);
        assert_eq!(found(&mut client, &by_port(&old)), [("closed".to_owned(), port(step))]);
        // All live ones of the host that the new connection belongs to.
        let mut host: Vec<u64> = found(&mut client, &format!("src_ip={}&state=live", new.0.src))
            .into_iter()
            .map(|(state, port)| {
                assert_eq!(state, "live");
                port
            })
            .collect();
        host.sort_unstable();
        let expected: Vec<u64> =
            (step + 1..=LIVE + step).filter(|number| number % 2 == (LIVE + step) % 2).map(port).collect();
        assert_eq!(host, expected, "step {step}");
    }
    daemon.wait_for_line("the index by src_ip is built");
    daemon.wait_for_line("the index by src_ip and src_port is built");
}
