//! Peers that no existing program provides: they read what the kernel sends, or serve what is always the same, and do
//! nothing else. Each runs in a separate process, which is this program started again.

use std::io::{BufRead, BufReader, IoSliceMut, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, ExitCode, Stdio};
use std::time::Instant;

use nfct::{Family, Layer4, Query};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, MultiHeaders, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
    recvmmsg, sendto, setsockopt, socket, sockopt::RcvBufForce,
};

use lab::Netns;

use super::bare;

/// First argument of a process that is a peer.
const PEER: &str = "--peer";

/// The daemon's groups, `NEW | DESTROY` as bits of the first 32, and its default receive buffer.
const GROUPS: u32 = 1 << 0 | 1 << 2;
const RECEIVE_BUFFER: usize = 64 << 20;

/// The cheapest possible consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Receives events with `recvmmsg` without parsing them.
    Events,
    /// Receives a dump of the complete table and parses only its end.
    Dump,
    /// Writes as many bytes to a connection as its client asks for.
    Copy,
    /// Reads a dump of the complete table into nfct's values. This is not a peer but nfct's side of a row.
    Flows,
    /// Answers every request with the body that is its argument.
    Server,
}

impl Peer {
    const ALL: [(Peer, &'static str); 5] = [
        (Peer::Events, "events"),
        (Peer::Dump, "dump"),
        (Peer::Copy, "copy"),
        (Peer::Flows, "flows"),
        (Peer::Server, "server"),
    ];

    /// Starts it in a namespace.
    pub fn start(self, netns: &Netns) -> Child {
        self.start_with(netns, &[])
    }

    /// Starts it in a namespace with these arguments.
    pub fn start_with(self, netns: &Netns, args: &[&str]) -> Child {
        let name = Self::ALL.iter().find(|(peer, _)| *peer == self).map_or("", |(_, name)| name);
        let program = std::env::current_exe().expect("the program knows its path");
        let command = netns.command(program).args([PEER, name]).args(args.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("this program can be started")
    }
}

/// A peer, ended when dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

/// Runs as a peer if the arguments say so, and returns its exit code.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next()? != PEER {
        return None;
    }
    let name = args.next()?;
    let (peer, _) = Peer::ALL.into_iter().find(|(_, known)| *known == name)?;
    let result = match peer {
        Peer::Events => take_events().map_err(|error| error.to_string()),
        Peer::Dump => take_dump().map_err(|error| error.to_string()),
        Peer::Copy => copy_bytes().map_err(|error| error.to_string()),
        Peer::Flows => read_flows().map_err(|error| error.to_string()),
        Peer::Server => bare::serve(args.next()?).map_err(|error| error.to_string()),
    };
    match result {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("peer {name}: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

fn open(groups: u32) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

/// Receives until it is killed.
fn take_events() -> nix::Result<()> {
    const BATCH: usize = 64;
    const BUFFER_SIZE: usize = 8192;
    let socket = open(GROUPS)?;
    setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER)?;
    let mut memory = vec![0; BATCH * BUFFER_SIZE];
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    loop {
        let mut chunks = memory.chunks_mut(BUFFER_SIZE);
        let mut buffers: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
        match recvmmsg(socket.as_raw_fd(), &mut headers, buffers.iter_mut(), MsgFlags::MSG_WAITFORONE, None) {
            Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Prints the number of messages, and the seconds from opening the socket to the end of the dump.
fn take_dump() -> nix::Result<()> {
    const NLMSG_DONE: u16 = 3;
    const HEADER: usize = 16;
    let start = Instant::now();
    let socket = open(0)?;
    // struct nlmsghdr: length, IPCTNL_MSG_CT_GET of the conntrack subsystem, REQUEST | DUMP, sequence, port;
    // struct nfgenmsg: any family.
    let mut request = Vec::with_capacity(20);
    request.extend_from_slice(&20_u32.to_ne_bytes());
    request.extend_from_slice(&0x0101_u16.to_ne_bytes());
    request.extend_from_slice(&0x0301_u16.to_ne_bytes());
    request.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    sendto(socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = vec![0; 1 << 20];
    let mut messages = 0_u64;
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let [a, b, c, d, e, f, ..] = *rest {
            if u16::from_ne_bytes([e, f]) == NLMSG_DONE {
                let seconds = start.elapsed().as_secs_f64();
                let _ = writeln!(std::io::stdout(), "{messages} {seconds:.6}");
                return Ok(());
            }
            messages += 1;
            let step = (u32::from_ne_bytes([a, b, c, d]) as usize).max(HEADER).next_multiple_of(4);
            rest = rest.get(step..).unwrap_or_default();
        }
    }
}

/// Prints its port. Then sends to each client as many bytes as the line says that it gets, until it is killed.
fn copy_bytes() -> std::io::Result<()> {
    const PIECE: usize = 1 << 16;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept()?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let mut left: usize = line.trim().parse().unwrap_or(0);
        let piece = [b'0'; PIECE];
        while left > 0 {
            let length = left.min(PIECE);
            stream.get_mut().write_all(&piece[..length])?;
            left -= length;
        }
    }
}

/// Reads the table of this namespace and prints the figures: nfct's side of a row, in a separate process.
fn read_flows() -> Result<(), nfct::Error> {
    let start = Instant::now();
    let (mut entries, mut sum) = (0_u64, 0_u64);
    let mut add = |number: u64| sum = sum.wrapping_add(number);
    for flow in Query::open()?.dump(Family::Any)? {
        let flow = flow?;
        entries += 1;
        // The C side adds 32-bit numbers as such.
        add(flow.id.wrapping_add(flow.status.0).wrapping_add(flow.mark).into());
        add(flow.start.unwrap_or(0));
        add(flow.stop.unwrap_or(0));
        for (tuple, address, of_source) in
            [(&flow.original, flow.original.src, true), (&flow.reply, flow.reply.dst, false)]
        {
            let port = match tuple.layer4 {
                Layer4::Ports { src, dst } => {
                    if of_source {
                        src
                    } else {
                        dst
                    }
                }
                _ => 0,
            };
            let octet = match address {
                std::net::IpAddr::V4(address) => address.octets()[3],
                std::net::IpAddr::V6(address) => address.octets()[3],
            };
            add(u64::from(port) + u64::from(tuple.zone) + u64::from(octet));
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let memory = memory.split_whitespace().next().unwrap_or_default();
    println!("{entries} {seconds:.6} {sum} {memory}");
    Ok(())
}
