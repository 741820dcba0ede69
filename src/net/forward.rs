//! Forwarded connections: local ports, dialling the service, and copying with the manners of TCP.
//!
//! | what one side does | what the other side sees |
//! | --- | --- |
//! | sends FIN | FIN; its own direction goes on |
//! | resets | a reset, by `SO_LINGER` 0 |
//! | a service refuses | a reset (the client's connection was accepted before the service was asked) |
//! | reads slowly | the window closes, on this stream only |

use std::{
    collections::VecDeque,
    future::Future,
    io,
    net::{Shutdown, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest},
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
    sync::Notify,
};

use super::{
    clock, congestion, drain,
    event::{Event, EventSource},
    read_buffer::ReadBuffer,
    stream::Stream,
    vectored,
};
use crate::{
    error::ConfigError,
    forward::{LocalRule, Service},
    mux::holding::SEND_BUFFER,
    wire::stream::{OpenRequest, ResetReason},
};

/// Size of the buffers that standard input is read into: what a stream takes.
const CHUNK: usize = SEND_BUFFER;

/// Size of the buffer for a local connection that says little. A flood of new connections has as many of them for
/// [`IDLE`].
const SMALL: usize = 4 << 10;

/// Bulk data is expected until so many reads after one another brought little.
const BULK: u32 = 16;

/// A buffer with less room is replaced: so keystrokes share one, and bulk data is read in large pieces.
const LEAST_ROOM: usize = 64 << 10;

/// A connection that brings nothing for so long gives its buffers back.
const IDLE: Duration = Duration::from_secs(1);

/// Most bytes taken from a stream at a time: what one write to the local connection carries.
const HELD: usize = SEND_BUFFER;

/// A service that does not answer by then cannot be reached. A service in the host's own network
/// answers in milliseconds; one repetition of the SYN comes after a second, another after three.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// Pause after a connection that could not be taken: the next attempt may fail at once, too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A local port that is bound and listening, so that nobody else can have it. Clones are the same port:
/// keep one, and it stays open from one client to the next; connections in between wait.
#[derive(Debug, Clone)]
pub struct LocalPort {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    request: OpenRequest,
}

impl LocalPort {
    /// Listens where a rule says.
    ///
    /// # Errors
    /// [`ConfigError::Listen`].
    pub async fn bind(rule: &LocalRule) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Listen { address: rule.listen, source };
        let listener = TcpListener::bind(rule.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if address.ip().is_loopback() {
            congestion::unpace(&listener);
        }
        Ok(LocalPort { listener: listener.into(), address, request: rule.request() })
    }

    /// Where it listens: with the port that was chosen, where the rule left that open.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes every connection to a stream of its own that `open` opens. Runs until it is dropped; the
    /// connections go on. What the host refuses is told to `events`.
    pub(super) async fn serve<F>(self, events: &EventSource, open: impl Fn(OpenRequest) -> F)
    where
        F: Future<Output = Result<Stream, ResetReason>> + Send + 'static,
    {
        let mut full = false;
        loop {
            let local = match self.listener.accept().await {
                Ok((local, _)) => local,
                Err(error) if lacks_files(&error) => {
                    // Said once; the connection waits in the kernel until another one has ended.
                    if !std::mem::replace(&mut full, true) {
                        tracing::warn!(
                            address = %self.address,
                            "no more connections until others end: the limit on open files is reached (ulimit -n)"
                        );
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
                Err(error) => {
                    tracing::debug!(address = %self.address, %error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            full = false;
            let (opening, events) = (open(self.request.clone()), events.clone());
            let service = self.request.service.clone();
            tokio::spawn(async move {
                let refused = match opening.await {
                    Ok(stream) => splice(&local, &stream).await.err(),
                    Err(reason) => {
                        reset(&local);
                        Some(reason)
                    }
                };
                if let Some(reason) = refused.filter(is_refusal) {
                    events.tell(Event::StreamRefused { service, reason, client: None });
                }
            });
        }
    }
}

/// Connects to a service and copies until both directions have ended, or until `forbidden` comes: then both
/// sides are reset.
pub(super) async fn serve(
    service: &Service,
    stream: &Stream,
    events: &EventSource,
    forbidden: impl Future<Output = ()>,
) {
    let mut forbidden = std::pin::pin!(forbidden);
    let dialled = tokio::select! {
        dialled = dial(service) => dialled,
        () = &mut forbidden => Err(ResetReason::NotAllowed),
    };
    let reason = match dialled {
        Ok(local) => tokio::select! {
            // Where the client has reset it, that was its right.
            _ = splice(&local, stream) => return,
            () = forbidden => {
                reset(&local);
                ResetReason::NotAllowed
            }
        },
        Err(reason) => reason,
    };
    stream.abort(reason);
    let (service, client) = (Some(service.to_string()), Some(stream.remote()));
    events.tell(Event::StreamRefused { service, reason, client });
}

/// A stream that did not come to be, as against one that came to an end.
fn is_refusal(reason: &ResetReason) -> bool {
    !matches!(reason, ResetReason::Reset | ResetReason::SessionEnded)
}

async fn dial(service: &Service) -> Result<TcpStream, ResetReason> {
    let mut reason = ResetReason::Unreachable;
    for target in service.targets() {
        match tokio::time::timeout(DIAL_LIMIT, connect(target)).await {
            Ok(Ok(local)) => return Ok(local),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                reason = ResetReason::Refused;
            }
            Ok(Err(error)) if lacks_files(&error) => {
                tracing::warn!("a connection is refused: the limit on open files is reached (ulimit -n)");
                return Err(ResetReason::TooMany);
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Err(reason)
}

/// Connects to the first address of a name or address that takes it.
async fn connect(target: (String, u16)) -> io::Result<TcpStream> {
    let mut failed = io::ErrorKind::NotFound.into();
    for address in lookup_host(target).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if address.ip().is_loopback() {
            congestion::unpace(&socket);
        }
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// The process or the system has as many files open as it may.
fn lacks_files(error: &io::Error) -> bool {
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        let errno = Errno::from_io_error(error);
        errno == Some(Errno::MFILE) || errno == Some(Errno::NFILE)
    }
    #[cfg(not(unix))]
    {
        _ = error;
        false
    }
}

/// Why copying ended early.
enum Broken {
    /// The local connection failed.
    Local(io::Error),
    /// The stream was reset.
    Remote(ResetReason),
}

/// Copies both ways until both directions have ended, or one side is reset, and then so is the other.
///
/// # Errors
/// The other peer has reset the stream.
pub(super) async fn splice(local: &TcpStream, stream: &Stream) -> Result<(), ResetReason> {
    local.set_nodelay(true).ok();
    let at_end = Notify::new();
    let up = async {
        copy_up(local, stream).await?;
        stream.finish();
        at_end.notify_one();
        Ok(())
    };
    let down = async {
        copy_down(stream, local).await?;
        SockRef::from(local).shutdown(Shutdown::Write).map_err(Broken::Local)
    };
    // A program that has sent its FIN and is then killed resets without a byte to read.
    let failed = async {
        at_end.notified().await;
        Err(Broken::Local(failure(local).await))
    };
    let result = tokio::select! {
        result = async { tokio::try_join!(up, down).map(|_| ()) } => result,
        result = failed => result,
    };
    match result {
        Ok(()) => Ok(()),
        Err(Broken::Local(error)) => {
            tracing::debug!(%error, "local connection failed");
            stream.abort(ResetReason::Reset);
            Ok(())
        }
        Err(Broken::Remote(reason)) => {
            tracing::debug!(%reason, "stream reset");
            reset(local);
            Err(reason)
        }
    }
}

/// Closing it is going to reset it.
fn reset(local: &TcpStream) {
    local.set_zero_linger().ok();
}

async fn failure(local: &TcpStream) -> io::Error {
    match local.ready(Interest::ERROR).await.and_then(|_| local.take_error()) {
        Ok(Some(error)) | Err(error) => error,
        Ok(None) => std::future::pending().await,
    }
}

async fn copy_up(local: &TcpStream, stream: &Stream) -> Result<(), Broken> {
    // What says little gets a small buffer; what fills it is read into whole records, until it stops to.
    let mut small = Vec::new();
    let (mut bulk, mut idle) = (0, clock::Idle::default());
    loop {
        match idle.wait(IDLE, local.readable()).await {
            Some(result) => result.map_err(Broken::Local)?,
            None => {
                small = Vec::new();
                continue;
            }
        }
        // Nothing is read that cannot be passed on: this is where a full session stops a program. Nobody takes
        // the room before it is used, as nothing is waited for in between.
        let room = stream.writable().await.map_err(Broken::Remote)?;
        let read = if bulk > 0 {
            stream.try_read_from(local, room)
        } else {
            small.resize(SMALL, 0);
            let length = room.min(SMALL);
            let read = drain::try_read(local, length, |local| local.try_read(&mut small[..length]));
            if let Ok(count @ 1..) = read {
                stream.write_now(&small[..count]);
            }
            read
        };
        match read {
            Ok(0) => return Ok(()),
            Ok(SMALL..) => bulk = BULK,
            Ok(_) => bulk = bulk.saturating_sub(1),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Broken::Local(error)),
        }
    }
}

async fn copy_down(stream: &Stream, local: &TcpStream) -> Result<(), Broken> {
    let mut pieces = VecDeque::new();
    loop {
        stream.next_pieces(&mut pieces, HELD).await.map_err(Broken::Remote)?;
        if pieces.is_empty() {
            return Ok(());
        }
        while !pieces.is_empty() {
            match vectored::try_write(local, &mut pieces) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    local.writable().await.map_err(Broken::Local)?;
                }
                Err(error) => return Err(Broken::Local(error)),
            }
        }
    }
}

/// Copies between a stream and a pair of pipes, as standard input and output are. The end of `input`
/// ends this side's direction; returns once the other side has ended its own.
///
/// # Errors
/// The stream was reset (its source is a [`ResetReason`]), or `output` failed.
pub async fn carry_pipes<R, W>(stream: Stream, mut input: R, mut output: W) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let stream = Arc::new(stream);
    let up = async {
        let mut buffer = ReadBuffer::new(CHUNK, LEAST_ROOM);
        loop {
            stream.writable().await?;
            // An input that fails has ended, for all that the other side can be told.
            if input.read_buf(buffer.room()).await.unwrap_or(0) == 0 {
                break;
            }
            stream.write_all_of(buffer.take()).await?;
        }
        stream.finish();
        Ok::<(), ResetReason>(())
    };
    let down = async {
        while let Some(chunk) = stream.next_chunk().await.map_err(super::stream::reset_error)? {
            output.write_all(&chunk).await?;
            output.flush().await?;
        }
        output.shutdown().await
    };
    tokio::pin!(up, down);
    tokio::select! {
        result = &mut down => result,
        result = &mut up => match result {
            Ok(()) => down.await,
            Err(reason) => Err(super::stream::reset_error(reason)),
        },
    }
}
