//! One TCP connection under a session: its options, and what is on its way into it.

use std::{collections::VecDeque, io, time::Duration};

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{read_buffer::ReadBuffer, vectored};
use crate::wire::record::MAX_SESSION_RECORD;

/// Size of a receive buffer: a few full records, so that a fast link costs few system calls. What is cut
/// out of it keeps all of it alive, which is why it is not larger.
const READ: usize = 384 << 10;

/// A buffer with less room than two full records is replaced: the part of a record that is at its end
/// is copied then, a tenth of all on the average.
const LEAST_ROOM: usize = 128 << 10;

/// Most records taken from the session at a time, bytes: two full ones.
const BATCH: usize = 2 * MAX_SESSION_RECORD;

/// The kernel resets a link by itself whose data is not acknowledged for so many times the silence after
/// which the session holds it for dead. The session comes first where it can, because it knows when a
/// machine slept; this is for what it has closed, which would go on repeating for a quarter of an hour.
const USER_TIMEOUT: u32 = 2;

/// Sets a link's options. Without them it works, only less well.
pub(super) fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    if let Err(error) = socket.set_tcp_nodelay(true) {
        tracing::debug!(%error, "link without NODELAY");
    }
}

/// Unsent bytes in the kernel above which the socket takes no more: as many as were set last. What is
/// sent next is decided when the socket can take it: a keystroke waits behind this much and no more,
/// whatever the size of the send buffer.
#[derive(Debug, Default)]
pub(super) struct NotSent(usize);

impl NotSent {
    /// Follows what the session wants to give the socket at a time: where that has moved by so much that
    /// it is worth a system call.
    pub(super) fn follow(&mut self, stream: &TcpStream, batch: usize) {
        let batch = batch.min(BATCH);
        if batch <= self.0 && batch > self.0 / 2 || batch > self.0 && batch < self.0 + self.0 / 4 {
            return;
        }
        self.0 = batch;
        #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
        if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(batch as u32) {
            tracing::debug!(%error, "link without TCP_NOTSENT_LOWAT");
        }
        #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
        let _ = stream;
    }
}

/// The kernel's patience with what is not acknowledged: as much as was set last.
#[derive(Debug, Default)]
pub(super) struct UserTimeout(Duration);

impl UserTimeout {
    /// Follows the session's limit of silence, which moves with the round trip: up at once, down when it
    /// is worth a system call.
    pub(super) fn follow(&mut self, stream: &TcpStream, silence: Duration) {
        let wanted = silence.saturating_mul(USER_TIMEOUT);
        if wanted <= self.0 && wanted >= self.0 / 2 {
            return;
        }
        self.0 = wanted;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(wanted)) {
            tracing::debug!(%error, "link without TCP_USER_TIMEOUT");
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = stream;
    }
}

/// Why a connection failed, in a few words: what the system says of it is about sockets.
pub(super) fn words(error: &io::Error) -> String {
    use io::ErrorKind::*;
    match error.kind() {
        ConnectionReset | ConnectionAborted | BrokenPipe => "reset".into(),
        TimedOut => "what was sent was not acknowledged".into(),
        HostUnreachable | NetworkUnreachable | NetworkDown => "the network cannot be reached".into(),
        _ => error.to_string(),
    }
}

/// What a link's bytes are read into, beginning with those that came behind its handshake.
pub(super) fn inbox(surplus: BytesMut) -> ReadBuffer {
    ReadBuffer::new(READ, LEAST_ROOM).holding(surplus)
}

/// Writes a link's last words, if the socket takes them at once.
pub(super) fn send_last(stream: &TcpStream, record: Option<Bytes>) {
    if let Some(record) = record {
        stream.try_write(&record).ok();
    }
}

/// Records of one link that the socket has not taken yet.
#[derive(Default)]
pub(super) struct Outbox {
    epoch: Option<u32>,
    records: VecDeque<Bytes>,
    length: usize,
}

impl Outbox {
    /// Takes records from the session up to `batch` bytes; whether these are all that it has now. Those of another
    /// link are dropped, also one that was sent in part: what counts of them the session sends again.
    pub(super) fn fill(
        &mut self,
        epoch: Option<u32>,
        batch: usize,
        mut next: impl FnMut() -> Option<Bytes>,
    ) -> bool {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.records.clear();
            self.length = 0;
        }
        while self.epoch.is_some() && self.length < batch.min(BATCH) {
            let Some(record) = next() else { return true };
            self.length += record.len();
            self.records.push_back(record);
        }
        self.epoch.is_none()
    }

    /// Everything has been taken.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Writes what the socket takes now; `false` where it takes nothing. What it leaves is written
    /// together with what follows: a small rest alone would cost as much as a full batch.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) fn write(&mut self, stream: &TcpStream) -> io::Result<bool> {
        match vectored::try_write(stream, &mut self.records) {
            Ok(written) => self.length -= written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn records_arrive_whole_and_in_order_however_little_the_socket_takes() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        prepare(&near);
        let records: Vec<Bytes> = (0..200u8).map(|n| vec![n; 30_000 + usize::from(n)].into()).collect();
        let expected = records.concat();
        let reading = tokio::spawn(async move {
            let mut received = Vec::new();
            while received.len() < expected.len() {
                far.readable().await.unwrap();
                let _ = far.try_read_buf(&mut received);
            }
            assert!(received == expected);
        });
        let mut waiting = records.into_iter();
        let mut outbox = Outbox::default();
        loop {
            outbox.fill(Some(1), BATCH, || waiting.next());
            if outbox.is_empty() {
                break;
            }
            if !outbox.write(&near).unwrap() {
                near.writable().await.unwrap();
            }
        }
        reading.await.unwrap();
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[tokio::test]
    async fn the_kernel_s_patience_is_twice_that_of_the_session_and_follows_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let second = Duration::from_secs(1);
        let mut patience = UserTimeout::default();
        for (silence, timeout) in [(4, 8), (3, 8), (2, 8), (1, 2), (2, 4)] {
            patience.follow(&stream, silence * second);
            let set = SockRef::from(&stream).tcp_user_timeout().unwrap();
            assert_eq!(set, Some(timeout * second), "silence {silence} s");
        }
    }

    #[test]
    fn records_of_an_old_link_are_dropped() {
        let mut outbox = Outbox::default();
        let mut once = Some(Bytes::from_static(b"old"));
        outbox.fill(Some(1), BATCH, || once.take());
        assert!(!outbox.is_empty());
        outbox.fill(None, BATCH, || panic!("nothing is taken without a link"));
        assert!(outbox.is_empty());
        outbox.fill(Some(2), BATCH, || None);
        assert!(outbox.is_empty());
    }
}
