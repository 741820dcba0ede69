//! The tasks of a set: each waits for one socket and says what became of it.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::Socket;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, oneshot},
};

use super::{burst::Started, socket};
use crate::{
    endpoint::{ConnId, Favour, OpenFailure, PortsId},
    wire::{
        self,
        examine::Knocked,
        probe::{MAX_ANSWER, PREAMBLE, ProbeAnswer, ProbeQuestion, Purpose, QUESTION, preamble},
    },
};

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 128;

/// A probe without an answer by then is given up: one repetition of the SYN after a second, and a
/// round trip of up to two.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// What the tasks tell.
pub(super) enum Happened {
    /// A probe was answered, or not.
    Probed { ports: PortsId, number: u8, answer: Option<ProbeAnswer> },
    /// The server did a favour, or did not.
    Favoured { ports: PortsId, favour: Favour, answer: Option<Knocked> },
    /// SYNs of openings have left.
    Left { ports: PortsId, left: Vec<(u32, Instant)> },
    /// An opening completed or failed.
    Opened { ports: PortsId, opening: u32, stream: Result<TcpStream, OpenFailure> },
    /// A listener accepted.
    Accepted { ports: PortsId, remote: SocketAddr, stream: TcpStream },
    /// There is something to read on a connection.
    Readable(ConnId),
}

/// Asks on a connection whose SYN has left, and then holds it: the NAT's mapping must not change
/// before the set is released, or for as long as the server holds it.
pub(super) async fn probe(
    ports: PortsId,
    number: u8,
    started: io::Result<Socket>,
    question: ProbeQuestion,
    report: mpsc::Sender<Happened>,
) {
    let asked = tokio::time::timeout(PROBE_LIMIT, async { ask(started?, question).await }).await;
    let (answer, held) = match asked {
        Ok(Ok((answer, stream))) => (Some(answer), Some(stream)),
        failed => {
            tracing::debug!(number, ?failed, "probe without answer");
            (None, None)
        }
    };
    report.send(Happened::Probed { ports, number, answer }).await.ok();
    if let Some(mut stream) = held {
        // Nothing more comes on it but its end.
        let length = stream.read(&mut [0]).await.unwrap_or_default();
        tracing::trace!(number, length, "the server has closed a probe");
    }
}

async fn ask(socket: Socket, question: ProbeQuestion) -> io::Result<(ProbeAnswer, TcpStream)> {
    let mut stream = TcpStream::from_std(socket.into())?;
    established(&stream).await?;
    let mut request = [0; PREAMBLE + QUESTION];
    let (head, body) = request.split_at_mut(PREAMBLE);
    head.copy_from_slice(&preamble(Purpose::Probe));
    body.copy_from_slice(&question.encode());
    stream.write_all(&request).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut answer = [0; MAX_ANSWER];
    let answer = answer.get_mut(..length).ok_or(io::ErrorKind::InvalidData)?;
    stream.read_exact(answer).await?;
    let answer = wire::decode(answer, MAX_ANSWER).map_err(io::Error::other)?;
    Ok((answer, stream))
}

/// Waits for an opening: first for its instant, then for its end.
pub(super) async fn opening(
    ports: PortsId,
    opening: u32,
    started: oneshot::Receiver<Started>,
    report: mpsc::Sender<Happened>,
) {
    let stream = match started.await {
        Ok((socket, Ok(()))) => finish(socket).await,
        Ok((socket, Err(error))) => Err((socket::failure(&error), Some(socket))),
        Err(_) => Err((OpenFailure::Other("the socket could not be bound".into()), None)),
    };
    match stream {
        Ok(stream) => {
            report.send(Happened::Opened { ports, opening, stream: Ok(stream) }).await.ok();
        }
        Err((why, held)) => {
            report.send(Happened::Opened { ports, opening, stream: Err(why) }).await.ok();
            // A failed socket holds no tuple any more; an opener that the system refused may.
            if let Some(_held) = held {
                std::future::pending().await
            }
        }
    }
}

async fn finish(socket: Socket) -> Result<TcpStream, (OpenFailure, Option<Socket>)> {
    let result = async {
        let stream = TcpStream::from_std(socket.into())?;
        established(&stream).await?;
        if stream.local_addr()? == stream.peer_addr()? {
            // Own external port = own local port: a simultaneous open with oneself.
            return Err(io::Error::other("connected to itself"));
        }
        Ok(stream)
    };
    result.await.map_err(|error| (socket::failure(&error), None))
}

/// Waits until a connect in progress has ended.
pub(super) async fn established(stream: &TcpStream) -> io::Result<()> {
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Makes a bound socket a listener.
pub(super) fn listener(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the set is released.
pub(super) async fn accept(ports: PortsId, listener: TcpListener, report: mpsc::Sender<Happened>) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                stream.set_nodelay(true).ok();
                if report.send(Happened::Accepted { ports, remote, stream }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Out of files, or a connection that died in the queue. Give the others a turn.
                tracing::debug!(%error, "accept failed on a punch port");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Says that there is something to read, waits until it was read, and again.
pub(super) async fn announce(
    conn: ConnId,
    stream: Arc<TcpStream>,
    read: Arc<Notify>,
    report: mpsc::Sender<Happened>,
) {
    while stream.readable().await.is_ok() && report.send(Happened::Readable(conn)).await.is_ok() {
        read.notified().await;
    }
}
