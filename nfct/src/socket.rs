//! The system calls on a netlink socket that the C library opened.

use std::io;
use std::mem::{MaybeUninit, size_of, size_of_val, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;

use libc::{c_int, c_void, iovec, mmsghdr, sockaddr_nl, socklen_t};

/// The size of the buffer for one event at first. An event has some hundred bytes. With
/// labels, a helper's data and a security context it is usually still smaller than a page.
pub(crate) const EVENT_SIZE: usize = 4096;
/// The buffers become at most this large: 16 MiB together. No message of the kernel comes near.
const MAX_EVENT_SIZE: usize = 256 * 1024;
/// Events received with one system call.
pub(crate) const BATCH: usize = 64;
/// Bytes between two buffers. Without them, the buffers would begin at the same place of a page, and their
/// first lines would displace each other from the processor's nearest cache.
const GAP: usize = 320;

/// Receives many datagrams with one system call. The memory is used again.
pub(crate) struct Batch {
    /// One buffer of `size` bytes for each datagram, and [`GAP`] bytes behind it.
    buffers: Box<[u8]>,
    size: usize,
    /// The size that the buffers get before the next call.
    wanted: usize,
    lengths: [u32; BATCH],
    received: usize,
    truncated: u32,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            buffers: vec![0; BATCH * (EVENT_SIZE + GAP)].into_boxed_slice(),
            size: EVENT_SIZE,
            wanted: EVENT_SIZE,
            lengths: [0; BATCH],
            received: 0,
            truncated: 0,
        }
    }

    /// Receives waiting datagrams, at most [`BATCH`], without blocking. Datagrams
    /// that are not from the kernel are ignored. One that is larger than its buffer is lost
    /// ([`truncated`](Self::truncated)); the next call has buffers that are large enough.
    ///
    /// # Errors
    /// `EAGAIN` if nothing is waiting, and `ENOBUFS` if the kernel has dropped datagrams.
    pub(crate) fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        (self.received, self.truncated) = (0, 0);
        if self.wanted != self.size {
            self.size = self.wanted;
            self.buffers = vec![0; BATCH * (self.size + GAP)].into_boxed_slice();
        }
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut senders: [sockaddr_nl; BATCH] = unsafe { zeroed() };
        let size = self.size;
        let mut buffers: [iovec; BATCH] = std::array::from_fn(|at| iovec {
            iov_base: self.buffers[at * (size + GAP)..][..size].as_mut_ptr().cast::<c_void>(),
            iov_len: size,
        });
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut headers: [mmsghdr; BATCH] = unsafe { zeroed() };
        for ((header, buffer), sender) in headers.iter_mut().zip(&mut buffers).zip(&mut senders) {
            header.msg_hdr.msg_iov = buffer;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (sender as *mut sockaddr_nl).cast::<c_void>();
            header.msg_hdr.msg_namelen = size_of::<sockaddr_nl>() as socklen_t;
        }
        let received = loop {
            // SAFETY: `headers` holds BATCH headers, each with one buffer of
            // `size` bytes and one address, all of which live until the call
            // returns.
            let received = unsafe {
                libc::recvmmsg(
                    fd.as_raw_fd(),
                    headers.as_mut_ptr(),
                    BATCH as u32,
                    // MSG_TRUNC: the length is the datagram's, not that of the part in the
                    // buffer. musl declares the flags unsigned.
                    (libc::MSG_DONTWAIT | libc::MSG_TRUNC) as _,
                    null_mut(),
                )
            };
            match usize::try_from(received) {
                Ok(received) => break received,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        };
        for (at, header) in headers.iter().take(received).enumerate() {
            let is_ours = senders[at].nl_pid == 0;
            let is_whole = header.msg_len as usize <= size;
            if is_ours && !is_whole {
                self.truncated += 1;
                let wanted = (header.msg_len as usize).next_power_of_two().min(MAX_EVENT_SIZE);
                self.wanted = self.wanted.max(wanted);
            }
            self.lengths[at] = if is_ours && is_whole { header.msg_len } else { 0 };
        }
        self.received = received;
        Ok(())
    }

    /// Whether the last [`receive`](Self::receive) got [`BATCH`] datagrams: more may be
    /// waiting.
    pub(crate) fn is_full(&self) -> bool {
        self.received == BATCH
    }

    /// The number of datagrams that the last [`receive`](Self::receive) lost because they were
    /// larger than their buffers. They appear as empty ones.
    pub(crate) fn truncated(&self) -> u32 {
        self.truncated
    }

    /// A datagram that the last [`receive`](Self::receive) got.
    pub(crate) fn datagram(&self, at: usize) -> Option<&[u8]> {
        if at >= self.received {
            return None;
        }
        self.buffers[at * (self.size + GAP)..].get(..self.lengths[at] as usize)
    }
}

/// Sends one message to the kernel.
pub(crate) fn send(fd: BorrowedFd<'_>, message: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of a live slice. Without an
    // address a netlink socket sends to the kernel.
    let sent = unsafe { libc::send(fd.as_raw_fd(), message.as_ptr().cast::<c_void>(), message.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits for one datagram from the kernel and returns its length. `buffer` is
/// must be large enough for an answer (the kernel sends at most 32 KiB of a dump at once).
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut sender = MaybeUninit::<sockaddr_nl>::zeroed();
        let mut size = size_of::<sockaddr_nl>() as socklen_t;
        // SAFETY: the buffer's pointer and length belong together, and so do
        // those of the address, which the kernel fills.
        let length = unsafe {
            libc::recvfrom(
                fd.as_raw_fd(),
                buffer.as_mut_ptr().cast::<c_void>(),
                buffer.len(),
                libc::MSG_TRUNC,
                sender.as_mut_ptr().cast::<libc::sockaddr>(),
                &mut size,
            )
        };
        // SAFETY: it was zeroed, and every bit pattern is a valid address.
        let sender = unsafe { sender.assume_init() };
        match usize::try_from(length) {
            Ok(_) if sender.nl_pid != 0 => continue,
            Ok(length) if length > buffer.len() => return Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
            Ok(length) => return Ok(length),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error => return Err(error),
            },
        }
    }
}

/// Sets the size of the receive buffer, above `net.core.rmem_max` if the process may.
/// Returns the size in effect: the kernel doubles the given size.
pub(crate) fn set_receive_buffer(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<usize> {
    let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
    if set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_err() {
        set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
    }
    receive_buffer(fd)
}

/// The size of the receive buffer in effect, in bytes as the kernel counts them.
pub(crate) fn receive_buffer(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut value: c_int = 0;
    let mut size = size_of::<c_int>() as socklen_t;
    // SAFETY: value and size are live and of the size that this option has.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw mut value).cast::<c_void>(),
            &mut size,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(value).unwrap_or(0)) }
}

/// Makes programs that this process starts not inherit a socket: the C library opens
/// it without this flag.
pub(crate) fn close_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes three integers.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets an option whose value is an integer.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the value is a live integer, its size is given with it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast::<c_void>(),
            size_of_val(&value) as socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until the socket has data or an error, or for at most `timeout`. Returns
/// whether it has one. Both stay in the socket.
pub(crate) fn wait(fd: BorrowedFd<'_>, timeout: Option<std::time::Duration>) -> io::Result<bool> {
    let mut watched = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // Rounded up: a wait is never shorter than `timeout`.
    let milliseconds = timeout
        .map_or(-1, |timeout| c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX));
    // SAFETY: one live structure, and its count.
    let result = unsafe { libc::poll(&mut watched, 1, milliseconds) };
    match io::Error::last_os_error() {
        error if result < 0 && error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(result > 0),
    }
}

/// Makes the kernel run a program of classic BPF on each message before it queues it.
pub(crate) fn attach_filter(fd: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    // The kernel copies the program and does not write to it.
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the structure is live and names a live slice with its length.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast::<c_void>(),
            size_of_val(&program) as socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Removes the program. It is not an error if there is none.
pub(crate) fn detach_filter(fd: BorrowedFd<'_>) -> io::Result<()> {
    match set_option(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// The part of the receive buffer in use, in bytes as the kernel counts them.
pub(crate) fn receive_memory(fd: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(memory_numbers(fd)?[libc::SK_MEMINFO_RMEM_ALLOC as usize] as usize)
}

/// The number of messages that the kernel dropped since the socket was opened.
pub(crate) fn drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(memory_numbers(fd)?[libc::SK_MEMINFO_DROPS as usize])
}

/// The kernel's numbers about a socket's memory (`SO_MEMINFO`).
fn memory_numbers(fd: BorrowedFd<'_>) -> io::Result<[u32; 9]> {
    // The kernel writes as many numbers as fit. It has nine.
    let mut numbers = [0_u32; 9];
    let mut size = size_of_val(&numbers) as socklen_t;
    // SAFETY: the buffer is live and its size is given with it.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast::<c_void>(),
            &mut size,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(numbers) }
}

/// Moves this thread to a network namespace. `EINVAL` if the descriptor is not one.
pub(crate) fn enter_namespace(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes two integers, and changes only this thread.
    let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The network namespace of a socket. Needs CAP_NET_ADMIN in this namespace.
pub(crate) fn namespace(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // linux/sockios.h
    const SIOCGSKNS: libc::Ioctl = 0x894c;
    // SAFETY: this request takes no argument and returns a new descriptor.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Major and minor version of the running kernel; (0, 0) if unknown.
pub(crate) fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers =
        release.split(|sign: char| !sign.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
