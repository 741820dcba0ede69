//! An echo service, and the program that sends data to it and compares what comes back.

use std::net::{Ipv4Addr, SocketAddr};

use aws_lc_rs::digest::{self, SHA256};
use punchtunnel::{ConfigError, Error, NetworkError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{AbortHandle, JoinHandle},
};

/// Bytes that the program reads and writes at once.
const PIECE: usize = 64 << 10;

/// A TCP service on the loopback interface that sends everything back.
pub(super) struct Echo {
    port: u16,
    task: AbortHandle,
}

impl Echo {
    pub(super) async fn start() -> Result<Echo, Error> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let failed = |source| ConfigError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let serve = async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    // The end of one direction ends the other; a failure ends both.
                    let _ = copy(&mut from, &mut to).await;
                    let _ = to.shutdown().await;
                });
            }
        };
        Ok(Echo { port, task: tokio::spawn(serve).abort_handle() })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A program that sends data over one TCP connection, and reads it back.
pub(super) struct Transfer {
    total: u64,
    /// Bytes that have come back.
    progress: watch::Receiver<u64>,
    sending: JoinHandle<std::io::Result<String>>,
    receiving: JoinHandle<std::io::Result<String>>,
    address: SocketAddr,
}

/// SHA-256 of both directions, in hexadecimal digits.
pub(super) struct Digests {
    pub(super) sent: String,
    pub(super) received: String,
}

impl Transfer {
    pub(super) async fn start(address: SocketAddr, total: u64) -> Result<Transfer, Error> {
        let stream = TcpStream::connect(address).await.map_err(|e| failed(address, e))?;
        let (from, to) = stream.into_split();
        let (counter, progress) = watch::channel(0);
        let sending = tokio::spawn(send(to, total));
        let receiving = tokio::spawn(receive(from, counter));
        Ok(Transfer { total, progress, sending, receiving, address })
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that have come back, as they come.
    pub(super) fn progress(&self) -> watch::Receiver<u64> {
        self.progress.clone()
    }

    /// Why the data stopped coming.
    pub(super) fn failure(&self) -> Error {
        let source = std::io::Error::other("the connection ended early");
        failed(self.address, source)
    }

    /// Waits until both directions have ended.
    pub(super) async fn finish(self) -> Result<Digests, Error> {
        let ended = |result: Result<std::io::Result<String>, _>| {
            let result = result.unwrap_or_else(|join: tokio::task::JoinError| Err(join.into()));
            result.map_err(|e| failed(self.address, e))
        };
        Ok(Digests { sent: ended(self.sending.await)?, received: ended(self.receiving.await)? })
    }
}

async fn send(mut to: OwnedWriteHalf, total: u64) -> std::io::Result<String> {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut hash = digest::Context::new(&SHA256);
    let mut piece = vec![0; PIECE];
    let mut left = total;
    while left > 0 {
        let length = left.min(PIECE as u64) as usize;
        let piece = piece.get_mut(..length).unwrap_or_default();
        numbers.fill(piece);
        hash.update(piece);
        to.write_all(piece).await?;
        left -= length as u64;
    }
    to.shutdown().await?;
    Ok(shown(hash))
}

async fn receive(mut from: OwnedReadHalf, counter: watch::Sender<u64>) -> std::io::Result<String> {
    let mut hash = digest::Context::new(&SHA256);
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return Ok(shown(hash));
        }
        hash.update(piece.get(..length).unwrap_or_default());
        counter.send_modify(|count| *count += length as u64);
    }
}

fn shown(hash: digest::Context) -> String {
    data_encoding::HEXLOWER.encode(hash.finish().as_ref())
}

fn failed(address: SocketAddr, source: std::io::Error) -> Error {
    NetworkError::Socket { operation: format!("use the tunnel's port {address}"), source }.into()
}

/// Numbers that look random and never repeat within a transfer (xorshift64), so that a piece that is
/// lost, doubled or swapped changes the digest. Not for secrets.
struct Numbers(u64);

impl Numbers {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            let number = self.0.to_le_bytes();
            chunk.copy_from_slice(number.get(..chunk.len()).unwrap_or_default());
        }
    }
}
