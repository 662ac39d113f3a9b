//! Answers as Docker and Podman send them, and those that nobody should send.

use super::*;

/// Decodes an answer that comes in pieces of this size, and says whether it was whole.
fn decode(answer: &[u8], size: usize) -> io::Result<(Option<u16>, Vec<u8>, bool)> {
    let (mut decoder, mut body) = (Decoder::default(), Vec::new());
    for piece in answer.chunks(size) {
        decoder.decode(piece, &mut body)?;
    }
    let is_whole = decoder.state == State::Done || decoder.end().is_ok();
    Ok((decoder.status, body, is_whole))
}

#[test]
fn each_framing_is_read_in_pieces_of_every_size() {
    for (answer, status, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\nhello, and more", 200, "hello"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, ""),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        ("HTTP/1.0 200 OK\r\nServer: x\r\n\r\nuntil the end", 200, "until the end"),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, "hi"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n00A;x=y\r\n, 10 bytes\r\n0\r\nA: b\r\n\r\n",
            200,
            "hello, 10 bytes",
        ),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", 200, "hi"),
    ] {
        for size in 1..=answer.len() {
            let decoded = decode(answer.as_bytes(), size).unwrap();
            assert_eq!(decoded, (Some(status), body.as_bytes().to_vec(), true), "{answer:?} by {size}");
        }
    }
}

#[test]
fn what_is_cut_is_not_whole() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for length in 0..answer.len() {
        assert!(!decode(&answer.as_bytes()[..length], 7).unwrap().2, "{length}");
    }
    assert!(!decode(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", 100).unwrap().2);
}

#[test]
fn what_is_no_http_is_an_error_and_takes_no_memory() {
    for answer in [
        "garbage\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n",
    ] {
        for size in 1..=answer.len() {
            assert!(decode(answer.as_bytes(), size).is_err(), "{answer:?} by {size}");
        }
    }
    let endless = |start: &str, piece: &[u8]| {
        let (mut decoder, mut body) = (Decoder::default(), Vec::new());
        decoder.decode(start.as_bytes(), &mut body).unwrap();
        let failed = (0..2_000).any(|_| decoder.decode(piece, &mut body).is_err());
        assert!(failed && body.is_empty() && decoder.partial.len() <= LARGEST_HEAD, "{start:?}");
    };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    endless("", &[b'x'; 1_000]);
    endless(
        "HTTP/1.1 200 OK\r\n",
        b"a: b\r\nlonger: a field of some length, again and again and again\r\n\r",
    );
    endless(chunked, &[b'1'; 1_000]);
    endless(&format!("{chunked}0\r\n"), b"a: b, a field of a trailer that does not end, again and again\r\n");
}
