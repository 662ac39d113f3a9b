//! A body whose pieces another thread makes.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};
use tokio::sync::mpsc;

use crate::http::response::BodyError;
use crate::http::v1::stream::PIECES_AHEAD;

/// The pieces of a body. If the last one does not come, the client sees that the body is incomplete.
#[derive(Debug)]
pub(super) struct Pieces {
    receiver: mpsc::Receiver<Piece>,
    has_ended: bool,
}

#[derive(Debug)]
struct Piece {
    text: Bytes,
    is_last: bool,
}

/// Sends pieces from a thread that may block.
#[derive(Debug)]
pub(super) struct PieceSender(mpsc::Sender<Piece>);

/// The client is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

impl Pieces {
    pub(super) fn channel() -> (PieceSender, Self) {
        let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
        (PieceSender(sender), Self { receiver, has_ended: false })
    }
}

impl PieceSender {
    /// Sends a piece, when the client has read those before.
    pub(super) fn send(&self, text: Vec<u8>, is_last: bool) -> Result<(), Gone> {
        self.0.blocking_send(Piece { text: text.into(), is_last }).map_err(|_| Gone)
    }

    /// Whether the client is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        self.receiver.poll_recv(context).map(|piece| match piece {
            Some(piece) => {
                self.has_ended = piece.is_last;
                Some(Ok(Frame::data(piece.text)))
            }
            None => {
                self.has_ended = true;
                Some(Err("the answer ended early".into()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }
}
