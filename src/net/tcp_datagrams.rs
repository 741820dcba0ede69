//! The way to the server where UDP is blocked: the same datagrams, behind their lengths, over TCP.

use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, tcp::OwnedWriteHalf},
    sync::mpsc,
    task::JoinSet,
};

use super::{
    clock,
    frames::{read_frame, write_frame},
};
use crate::wire::{
    MAX_DATAGRAM,
    probe::{Purpose, preamble},
};

/// Datagrams that wait for the connection; more are dropped, as a network would.
const QUEUE: usize = 64;

/// Longest time to establish the connection: a firewall that drops the SYN is not going to answer.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A connection whose data is not acknowledged for this long is given up. The kernel alone would repeat for a
/// quarter of an hour over a path that a restarted NAT or another network has cut.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// First pause after a connection that failed at once; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// A connection that lived this long resets the pause.
const LIVED: Duration = Duration::from_secs(30);

/// A datagram that came over TCP, and the server's address.
pub(crate) type Arrived = (SocketAddr, Vec<u8>);

/// TCP connections to the addresses of the server, opened when there is something to send.
pub(crate) struct TcpDatagrams {
    queues: BTreeMap<SocketAddr, mpsc::Sender<Vec<u8>>>,
    arrived: mpsc::Sender<Arrived>,
    tasks: JoinSet<()>,
}

impl TcpDatagrams {
    /// Nothing is opened yet. What arrives goes to `arrived`.
    pub(crate) fn new(arrived: mpsc::Sender<Arrived>) -> Self {
        TcpDatagrams { queues: BTreeMap::new(), arrived, tasks: JoinSet::new() }
    }

    /// This machine is somewhere else in the network: the next datagrams take new connections.
    pub(crate) fn renew(&mut self) {
        self.queues.clear();
    }

    /// Sends, or drops the datagram where too many wait already.
    pub(crate) fn send(&mut self, to: SocketAddr, datagram: Vec<u8>) {
        let queue = self.queues.entry(to).or_insert_with(|| {
            let (queue, waiting) = mpsc::channel(QUEUE);
            self.tasks.spawn(keep_connected(to, waiting, self.arrived.clone()));
            queue
        });
        if queue.try_send(datagram).is_err() {
            tracing::trace!(%to, "datagram over TCP dropped");
        }
    }
}

/// Connects whenever there is something to send, until the sender is dropped.
async fn keep_connected(
    to: SocketAddr,
    mut waiting: mpsc::Receiver<Vec<u8>>,
    arrived: mpsc::Sender<Arrived>,
) {
    let mut pause = FIRST_PAUSE;
    while let Some(first) = waiting.recv().await {
        let began = clock::now();
        let result = converse(to, first, &mut waiting, &arrived).await;
        tracing::debug!(%to, ?result, "datagrams over TCP: connection ended");
        if clock::now() - began > LIVED {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One connection, from its preamble to its end.
async fn converse(
    to: SocketAddr,
    first: Vec<u8>,
    waiting: &mut mpsc::Receiver<Vec<u8>>,
    arrived: &mpsc::Sender<Arrived>,
) -> io::Result<()> {
    let stream = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(to)).await??;
    stream.set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(&preamble(Purpose::Datagrams)).await?;
    write_frame(&mut writer, &first).await?;
    let receiving = async {
        let mut reader = tokio::io::BufReader::new(&mut reader);
        let mut buffer = [0; MAX_DATAGRAM];
        while let Some(datagram) = read_frame(&mut reader, &mut buffer).await? {
            if arrived.send((to, datagram.to_vec())).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = receiving => ended,
        ended = send_all(&mut writer, waiting) => ended,
    }
}

async fn send_all(writer: &mut OwnedWriteHalf, waiting: &mut mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(datagram) = waiting.recv().await {
        write_frame(writer, &datagram).await?;
    }
    Ok(())
}
