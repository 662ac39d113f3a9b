//! Lookups of many tuples with few system calls.

use std::io;

use nfct_sys as sys;

use super::Query;
use crate::channel::Refused;
use crate::direction::Direction;
use crate::error::Error;
use crate::family::Family;
use crate::found::Found;
use crate::malformed::Malformed;
use crate::operation::Operation;
use crate::tuple::Tuple;
use crate::wire::{Message, MessageWriter, message_kind};

/// Tuples asked for with one system call. A bit of a `u64` stands for each. The answers
/// fit the default receive buffer, and one more system call receives them.
const AT_ONCE: usize = u64::BITS as usize;
const DOING: &str = Operation::Get.doing();

impl Query {
    /// Looks up the entry of each tuple, whether the tuple is its original or its reply
    /// tuple, zone included. The results have the order of the tuples.
    ///
    /// A zone can apply to one direction only. Then the entry's other tuple has zone 0,
    /// and is found with zone 0.
    ///
    /// Up to 64 tuples need two system calls: the kernel handles all their requests
    /// while it receives them. If the receive buffer is too small for the answers, the
    /// tuples without an answer are asked for again, fewer at once.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// use nfct::{Found, Query, Tuple};
    ///
    /// let servers = [Tuple::tcp(([198, 51, 100, 1], 443), ([100, 64, 2, 1], 40001))];
    /// for (tuple, found) in servers.iter().zip(Query::open()?.find_each(&servers)?) {
    ///     match found {
    ///         Found::Flow(direction, flow) => println!("{tuple}: {direction:?} of id {}", flow.id),
    ///         Found::Failed(error) => println!("{tuple}: {error}"),
    ///         _ => println!("{tuple}: no entry"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN, and errors of the socket. What
    /// concerns one tuple is in its [`Found::Failed`]: [`Error::Invalid`] for a tuple with
    /// addresses of two families or details of another protocol, `EINVAL` for one that
    /// the kernel does not accept, [`Error::Malformed`] for an entry that cannot be read.
    pub fn find_each(&mut self, tuples: &[Tuple]) -> Result<Vec<Found>, Error> {
        let mut found = Vec::with_capacity(tuples.len());
        for chunk in tuples.chunks(AT_ONCE) {
            let start = found.len();
            let mut asked = 0_u64;
            for (at, tuple) in chunk.iter().enumerate() {
                found.push(match tuple.check(DOING) {
                    Ok(()) => Found::Nothing,
                    Err(error) => Found::Failed(error),
                });
                asked |= u64::from(matches!(found.last(), Some(Found::Nothing))) << at;
            }
            self.find_chunk(chunk, asked, &mut found[start..])?;
        }
        Ok(found)
    }

    /// Looks up the tuples of a chunk whose bits are set in `unanswered`.
    fn find_chunk(&mut self, chunk: &[Tuple], mut unanswered: u64, found: &mut [Found]) -> Result<(), Error> {
        let mut at_once = AT_ONCE;
        while unanswered != 0 {
            if at_once == 1 || unanswered.count_ones() == 1 {
                // By itself, with the large buffer, which waits for the answer.
                let at = unanswered.trailing_zeros() as usize;
                found[at] = self.find_in_either(&chunk[at])?;
                unanswered &= unanswered - 1;
                continue;
            }
            let asked = lowest(unanswered, at_once);
            let answered = self.ask(chunk, asked, found)?;
            unanswered &= !answered;
            if answered != asked {
                at_once /= 2;
            }
        }
        Ok(())
    }

    /// Asks for the tuples whose bits are set in `asked`, with one system call. Returns
    /// the bits of those that were answered.
    fn ask(&mut self, chunk: &[Tuple], asked: u64, found: &mut [Found]) -> Result<u64, Error> {
        // The request about a tuple has the number `first` plus the tuple's place in the chunk.
        let first = self.channel.next_sequences(AT_ONCE as u32);
        let mut requests = std::mem::take(&mut self.requests);
        requests.clear();
        for at in places(asked) {
            requests = request(requests, first.wrapping_add(at as u32), &chunk[at]);
        }
        let sent = self.channel.send(&requests);
        self.requests = requests;
        let (mut answered, mut refused) = (0_u64, None);
        let read = |message: Result<Message<'_>, Malformed>| {
            // Without a readable header it belongs to no query, so its query is repeated.
            let Ok(message) = message else { return false };
            let at = message.sequence.wrapping_sub(first) as usize;
            if at >= AT_ONCE || (asked >> at) & 1 == 0 {
                return false;
            }
            match read_answer(&message, &chunk[at]) {
                // No room for the entry, only for the error.
                Err(error) if error.errno() == Some(libc::ENOBUFS) => return false,
                // The kernel refuses the whole datagram, and answers its first request alone.
                Err(error) => refused = Some(error),
                Ok(answer) => {
                    found[at] = answer;
                    answered |= 1 << at;
                }
            }
            answered == asked || refused.is_some()
        };
        // An error of the socket that stays is reported by the query for a single tuple.
        let _ = sent.and_then(|()| self.channel.receive_waiting(read));
        match refused {
            Some(error) => Err(error),
            None => Ok(answered),
        }
    }

    /// Looks up one tuple in both directions.
    fn find_in_either(&mut self, tuple: &Tuple) -> Result<Found, Error> {
        let sequence = self.channel.next_sequence();
        let request = request(Vec::with_capacity(128), sequence, tuple);
        let answer =
            self.channel.transact(&request, sequence, DOING, |message| Ok(read_flow(message, tuple)));
        match answer {
            Ok(found) => Ok(found),
            Err(Refused::Kernel(errno)) => read_errno(errno),
            Err(Refused::Local(error)) => Err(error),
        }
    }
}

/// The query for a tuple, after those that `requests` contains.
fn request(requests: Vec<u8>, sequence: u32, tuple: &Tuple) -> Vec<u8> {
    let kind = message_kind(sys::IPCTNL_MSG_CT_GET);
    let family = Family::of(tuple.src).number();
    let mut request = MessageWriter::after(requests, kind, sys::NLM_F_REQUEST, sequence, family);
    // The kernel looks for the tuple in both directions, although the request names one.
    // It compares the zone with that of the direction in which the tuple is found: the
    // zone is written next to the tuple, because inside it would be that of this
    // direction alone.
    request.tuple(sys::CTA_TUPLE_REPLY, tuple);
    request.finish()
}

/// The answer to the query for `tuple`. An error if it concerns all tuples.
fn read_answer(message: &Message<'_>, tuple: &Tuple) -> Result<Found, Error> {
    match message.errno() {
        None => Ok(read_flow(message, tuple)),
        Some(errno) => read_errno(errno),
    }
}

fn read_errno(errno: i32) -> Result<Found, Error> {
    match (errno, Operation::Get.refused(io::Error::from_raw_os_error(errno))) {
        (libc::ENOENT, _) => Ok(Found::Nothing),
        (libc::ENOBUFS, error) | (_, error @ Error::Permission { .. }) => Err(error),
        (_, error) => Ok(Found::Failed(error)),
    }
}

fn read_flow(message: &Message<'_>, tuple: &Tuple) -> Found {
    let failed = |source| Found::Failed(Error::Malformed { doing: DOING, source });
    match message.flow() {
        Ok(flow) if flow.original == *tuple => Found::Flow(Direction::Original, flow),
        Ok(flow) if flow.reply == *tuple => Found::Flow(Direction::Reply, flow),
        Ok(_) => failed(Malformed::OtherTuple),
        Err(source) => failed(source),
    }
}

/// The places of the bits that are set.
fn places(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = bits.trailing_zeros() as usize;
        bits &= bits.wrapping_sub(1);
        (at < AT_ONCE).then_some(at)
    })
}

/// The lowest `count` bits of those that are set.
fn lowest(bits: u64, count: usize) -> u64 {
    places(bits).take(count).fold(0, |lowest, at| lowest | 1 << at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Messages;

    fn tuple(number: u16) -> Tuple {
        Tuple::udp(([198, 51, 100, 1], 53), ([100, 64, 2, 1], number))
    }

    #[test]
    fn the_queries_of_a_datagram_follow_one_another() {
        let v6 = Tuple::tcp((std::net::Ipv6Addr::LOCALHOST, 443), (std::net::Ipv6Addr::LOCALHOST, 1));
        let tuples = [tuple(1), v6, Tuple { zone: 7, ..tuple(2) }];
        let mut bytes = Vec::new();
        for (tuple, sequence) in tuples.iter().zip([u32::MAX - 1, u32::MAX, 0]) {
            bytes = request(bytes, sequence, tuple);
        }
        let messages: Vec<Message<'_>> = Messages::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(messages.len(), 3);
        for ((message, tuple), sequence) in messages.iter().zip(&tuples).zip([u32::MAX - 1, u32::MAX, 0]) {
            assert_eq!((message.flags, message.sequence), (sys::NLM_F_REQUEST as u16, sequence));
            assert_eq!(message.kind, message_kind(sys::IPCTNL_MSG_CT_GET));
            assert_eq!(message.payload[0], Family::of(tuple.src).number());
            // By itself it is the same.
            assert_eq!(message.as_bytes(), request(Vec::new(), sequence, tuple));
        }
    }

    #[test]
    fn an_answer_belongs_to_the_tuple_of_its_query() {
        let flow = crate::Flow::new(Tuple::udp(([10, 0, 0, 1], 7), ([198, 51, 100, 1], 53)), tuple(7));
        let bytes = crate::wire::write_event(&crate::Event::new(crate::EventKind::New, flow));
        let message = Messages::new(&bytes).next().unwrap().unwrap();
        let read = |tuple: &Tuple| read_answer(&message, tuple).unwrap();
        assert!(matches!(read(&flow.original), Found::Flow(Direction::Original, found) if found == flow));
        assert!(matches!(read(&flow.reply), Found::Flow(Direction::Reply, found) if found == flow));
        let Found::Failed(error) = read(&tuple(8)) else { panic!("it has another tuple") };
        assert!(error.to_string().contains("another tuple than the query"), "{error}");
    }

    #[test]
    fn the_lowest_bits_are_taken_first() {
        for (bits, count, expected) in [
            (0, 64, 0),
            (u64::MAX, 64, u64::MAX),
            (u64::MAX, 3, 0b111),
            (0b1011_0000, 2, 0b11_0000),
            (1 << 63, 2, 1 << 63),
        ] {
            assert_eq!(lowest(bits, count), expected, "{count} of {bits:b}");
        }
        assert_eq!(places(1 << 63 | 0b101).collect::<Vec<_>>(), [0, 2, 63]);
    }
}
