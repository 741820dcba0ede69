//! A stream: one forwarded connection, as a program reads and writes it.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSliceMut},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{drain, tunnel::Tunnel};
use crate::{
    mux::{StreamId, whole::ROOM},
    secure::PublicKey,
    wire::stream::ResetReason,
};

/// Largest piece that one write hands to the session.
const PIECE: usize = 64 << 10;

/// A byte stream to the other peer, with the manners of a TCP connection.
///
/// - `shutdown` ends this side's direction; the other goes on until the other peer ends it.
/// - A reset by the other peer is an [`io::Error`] of kind
///   [`ConnectionReset`](io::ErrorKind::ConnectionReset) whose source is a [`ResetReason`].
/// - Dropping a stream that was not shut down resets it.
/// - A stream outlives its link: reads and writes wait while there is none.
pub struct Stream {
    tunnel: Arc<Tunnel>,
    id: StreamId,
    /// The rest of a piece that did not fit into the reader's buffer.
    rest: Bytes,
    /// This side's direction has ended.
    finished: AtomicBool,
    /// The other side's has, or everything has.
    ended: AtomicBool,
}

impl Stream {
    pub(super) fn new(tunnel: Arc<Tunnel>, id: StreamId) -> Self {
        Stream {
            tunnel,
            id,
            rest: Bytes::new(),
            finished: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// The other peer's key.
    pub fn remote(&self) -> PublicKey {
        self.tunnel.key()
    }

    /// The next bytes as they lie in memory, without a copy; `None` at the end.
    ///
    /// # Errors
    /// [`ConnectionReset`](io::ErrorKind::ConnectionReset).
    pub async fn read_chunk(&mut self) -> io::Result<Option<Bytes>> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        self.next_chunk().await.map_err(reset_error)
    }

    /// Writes all of it. Pieces of 16 KiB and more are held as they are until a record carries them.
    ///
    /// # Errors
    /// [`ConnectionReset`](io::ErrorKind::ConnectionReset).
    pub async fn write_chunk(&mut self, bytes: Bytes) -> io::Result<()> {
        self.write_all_of(bytes).await.map_err(reset_error)
    }

    /// Resets the stream, telling the other peer why.
    pub fn reset(self, reason: ResetReason) {
        self.abort(reason);
    }

    /// [`read_chunk`](Self::read_chunk) for whoever reads and writes at the same time.
    pub(super) async fn next_chunk(&self) -> Result<Option<Bytes>, ResetReason> {
        poll_fn(|context| self.poll_chunk(context, &mut VecDeque::new(), 0)).await
    }

    /// Waits for bytes and takes what is there, up to about `most` bytes, into `pieces`, which are empty. Nothing at
    /// the end.
    pub(super) async fn next_pieces(
        &self,
        pieces: &mut VecDeque<Bytes>,
        most: usize,
    ) -> Result<(), ResetReason> {
        let first = poll_fn(|context| self.poll_chunk(context, pieces, most)).await?;
        first.into_iter().for_each(|first| pieces.push_front(first));
        Ok(())
    }

    /// [`write_chunk`](Self::write_chunk) for whoever reads and writes at the same time.
    pub(super) async fn write_all_of(&self, mut bytes: Bytes) -> Result<(), ResetReason> {
        while !bytes.is_empty() {
            let room = poll_fn(|context| self.tunnel.poll_writable(self.id, context)).await?;
            self.tunnel.write(self.id, bytes.split_to(room.min(bytes.len())));
        }
        Ok(())
    }

    /// Waits until something can be written: how many bytes.
    pub(super) async fn writable(&self) -> Result<usize, ResetReason> {
        poll_fn(|context| self.tunnel.poll_writable(self.id, context)).await
    }

    /// Appends bytes that [`writable`](Self::writable) has room for.
    pub(super) fn write_now(&self, bytes: &[u8]) {
        self.tunnel.write(self.id, Bytes::copy_from_slice(bytes));
    }

    /// Reads what `local` has, at most `room` bytes, straight into the records that will carry it.
    ///
    /// # Errors
    /// As [`TcpStream::try_read_vectored`].
    pub(super) fn try_read_from(&self, local: &TcpStream, mut room: usize) -> io::Result<usize> {
        if room > ROOM {
            // What is left of a piece would be a record of its own.
            room -= room % ROOM;
        }
        let asked = room;
        let mut pieces = self.tunnel.wholes(room.div_ceil(ROOM));
        let mut slices: Vec<_> = Vec::with_capacity(pieces.len());
        for piece in &mut pieces {
            let length = room.min(ROOM);
            room -= length;
            slices.push(IoSliceMut::new(piece.space().split_at_mut(length).0));
        }
        let result = drain::try_read(local, asked, |local| local.try_read_vectored(&mut slices));
        self.tunnel.write_wholes(self.id, pieces, result.as_ref().map_or(0, |&count| count));
        result
    }

    /// Ends this side's direction.
    pub(super) fn finish(&self) {
        if !self.finished.swap(true, Ordering::Relaxed) {
            self.tunnel.finish(self.id);
        }
    }

    /// Ends both directions.
    pub(super) fn abort(&self, reason: ResetReason) {
        self.finished.store(true, Ordering::Relaxed);
        self.ended.store(true, Ordering::Relaxed);
        self.tunnel.reset(self.id, reason);
    }

    /// As [`Tunnel::poll_read`].
    fn poll_chunk(
        &self,
        context: &mut Context<'_>,
        behind: &mut VecDeque<Bytes>,
        most: usize,
    ) -> Poll<Result<Option<Bytes>, ResetReason>> {
        let chunk = ready!(self.tunnel.poll_read(self.id, context, behind, most));
        match chunk {
            Ok(Some(_)) => {}
            Ok(None) => self.ended.store(true, Ordering::Relaxed),
            Err(_) => {
                self.ended.store(true, Ordering::Relaxed);
                self.finished.store(true, Ordering::Relaxed);
            }
        }
        Poll::Ready(chunk)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.rest.is_empty() {
            match ready!(self.poll_chunk(context, &mut VecDeque::new(), 0)).map_err(reset_error)? {
                Some(chunk) => self.rest = chunk,
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(self.rest.get(..length).unwrap_or_default());
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.finished.load(Ordering::Relaxed) && !self.ended.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = ready!(self.tunnel.poll_writable(self.id, context)).map_err(reset_error)?;
        let piece = bytes.get(..room.min(bytes.len()).min(PIECE)).unwrap_or_default();
        self.tunnel.write(self.id, Bytes::copy_from_slice(piece));
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What is written is sent as soon as the link takes it.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        match (*self.finished.get_mut(), *self.ended.get_mut()) {
            (true, true) => self.tunnel.forget(self.id),
            // Ended properly here and still open there: what was written must arrive, so wait for the
            // other end as the kernel does for a closed socket, and like it, reset at the first byte
            // that nobody is going to read.
            (true, false) if tokio::runtime::Handle::try_current().is_ok() => {
                let rest = Stream {
                    tunnel: self.tunnel.clone(),
                    id: self.id,
                    rest: Bytes::new(),
                    finished: AtomicBool::new(true),
                    // So that dropping it, where the runtime has no time for the task, is the end of it.
                    ended: AtomicBool::new(true),
                };
                tokio::spawn(async move {
                    if let Ok(Some(_)) = rest.next_chunk().await {
                        rest.abort(ResetReason::Reset);
                    }
                });
            }
            _ => {
                self.tunnel.reset(self.id, ResetReason::Reset);
                self.tunnel.forget(self.id);
            }
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({:?})", self.id)
    }
}

pub(super) fn reset_error(reason: ResetReason) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, reason)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::{
        super::{
            event::EventSource,
            tunnel::{Beginning, Tunnel},
        },
        *,
    };
    use crate::{endpoint::PeerId, session::testing::Keys, wire::stream::OpenRequest};

    #[tokio::test]
    async fn a_stream_leaves_nothing_behind_however_it_is_dropped() {
        let (commands, _orders) = tokio::sync::mpsc::channel(1);
        let tunnel = Tunnel::new(Beginning {
            peer: PeerId(1),
            key: PublicKey([7; 32]),
            keys: Keys::new(1).epoch().0,
            initiator: true,
            linger: std::time::Duration::MAX,
            dead_after: None,
            commands: commands.downgrade(),
            events: EventSource::new(),
        });
        let open = || tunnel.open(OpenRequest { service: None }).unwrap();
        drop(open());
        open().reset(ResetReason::Refused);
        let mut written = open();
        written.write_all(b"words").await.unwrap();
        drop(written);
        assert_eq!(tunnel.held(), 0);
    }
}
