//! Two first packets of one flow, sent by two processors, whose translations agree: the kernel keeps the entry of
//! one packet and uses it for the other. That packet may leave before the NEW event is queued.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lab::{Lab, flows};
use nfct::{EventKind, Events, Groups, Notification, Protocol};

use super::alone::{alone, amount};
use super::binary::DAEMON;
use super::lookups::{client, look_up, wait_complete};
use super::race::{Racers, resolved_clashes, two_processors};
use super::scene::{config, ctnetlink};

const DATA: &str = "del_delay = 1\nsweep_interval = 3600\n";

/// How long a datagram may take that both threads have sent, or will send at once.
const PATIENCE: Duration = Duration::from_millis(20);

/// The next datagram of this flow: the public address and port. `None` if none comes.
fn receive(server: &UdpSocket, flow: u32) -> Option<SocketAddr> {
    loop {
        let mut text = [0; 4];
        let (_, public) = server.recv_from(&mut text).ok()?;
        // One of an earlier flow may have come too late.
        if text == flow.to_ne_bytes() {
            return Some(public);
        }
    }
}

/// The same, without sleeping: to be woken takes longer than the kernel needs to queue the event.
fn spin(server: &UdpSocket, flow: u32) -> Option<SocketAddr> {
    server.set_nonblocking(true).expect("the socket is open");
    let begun = Instant::now();
    let mut public = None;
    while public.is_none() && begun.elapsed() < PATIENCE {
        public = receive(server, flow);
    }
    server.set_nonblocking(false).expect("the socket is open");
    public
}

/// Whether the NEW event of an inside host waits.
fn is_queued(events: &mut Events, inside: SocketAddr) -> bool {
    while let Some(notification) = events.try_next().expect("events can be received") {
        let Notification::Event(event) = notification else { continue };
        if event.kind == EventKind::New && event.flow.original.src_port() == Some(inside.port()) {
            return true;
        }
    }
    false
}

#[test]
fn a_flow_is_found_when_the_second_of_two_first_packets_arrives() {
    /// Flows of one host.
    const PORTS: u32 = 20_000;
    /// The first packet of one flow of so many shows whether the NEW event was late.
    const SAMPLED: u32 = 10;
    if !lab::require() {
        return;
    }
    let Some(cpus) = two_processors() else { return };
    let _alone = alone();
    let number = amount(24_000, 240_000);
    let lab = Lab::builder().clients(2).build();
    let target = lab.server_at(443);
    let server = lab.udp_server(target);
    server.set_read_timeout(Some(PATIENCE)).expect("the socket is open");
    let racers = Racers::new(lab.client(), cpus);
    let mut query = ctnetlink(&lab);
    let daemon = DAEMON.start(lab.gateway(), config(DATA));
    wait_complete(&lab, &daemon);
    let mut events = lab.gateway().enter(|| Events::subscribe(Groups::NEW)).expect("subscribed");
    events.set_receive_buffer(64 << 20).expect("the buffer can be set");
    let mut asker = client(&lab, &daemon);
    let (mut asked, mut absent, mut wrong, mut doubtful) = (0, Vec::new(), Vec::new(), 0);
    let (mut checked, mut late) = (0, 0);
    let before = resolved_clashes(&mut query);
    let begun = Instant::now();
    for flow in 0..number {
        let inside = lab.client_at((flow % 2) as u8, 20_000 + (flow / 2 % PORTS) as u16);
        let socket = lab.client().enter(|| UdpSocket::bind(inside)).expect("the port is free");
        socket.connect(target).expect("the socket is open");
        let is_sample = flow % SAMPLED == 0;
        if is_sample {
            is_queued(&mut events, target);
        }
        racers.start(&Arc::new(socket), &flow.to_ne_bytes());
        if is_sample && spin(&server, flow).is_some() {
            checked += 1;
            late += u32::from(!is_queued(&mut events, inside));
        }
        // The rest of a sample is looked up too.
        for _ in usize::from(is_sample)..2 {
            let Some(public) = receive(&server, flow) else { continue };
            let answer = look_up(&mut asker, &format!("nat_port={}", public.port()));
            asked += 1;
            match answer.live_matches().next() {
                Some(live) if live.inside() == inside => {}
                Some(live) => wrong.push(format!("{inside} as {public}: {live:?}")),
                None if answer.complete => absent.push(format!("{inside} as {public}: {answer:?}")),
                None => doubtful += 1,
            }
        }
        racers.wait();
        // The other host gets the same public port.
        assert!(flows::remove(&mut query, &flows::tuple(Protocol::Udp, inside, target)));
    }
    let resolved = resolved_clashes(&mut query) - before;
    println!(
        "{number} flows in {:.1?}: {resolved} clashes resolved; {late} of {checked} first packets arrived before the \
         NEW event was queued; {asked} lookups on arrival: {} wrong host, {} absent, {doubtful} doubtful",
        begun.elapsed(),
        wrong.len(),
        absent.len()
    );
    assert!(resolved > 0 && asked > 0, "no race was forced");
    wrong.truncate(3);
    absent.truncate(3);
    assert!(wrong.is_empty() && absent.is_empty(), "{wrong:#?}\n{absent:#?}");
}
