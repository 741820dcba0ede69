//! TCP connections to the server: probes, and datagrams of clients whose UDP is blocked.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

use super::{Shared, examine};
use crate::{
    net::{
        clock,
        frames::{read_frame, write_frame},
    },
    rendezvous::Source,
    wire::{
        self, MAX_DATAGRAM,
        probe::{PREAMBLE, ProbeQuestion, Purpose, QUESTION, parse_preamble},
    },
};

/// Most connections at a time.
const MAX_CONNECTIONS: usize = 8192;

/// Most connections of one source (an IPv4 address or an IPv6 /64) at a time: two full batches of
/// probes for each of a few peers behind one NAT.
const MAX_CONNECTIONS_PER_SOURCE: usize = 512;

/// A connection must have said what it is for by then.
const OPENING_LIMIT: Duration = Duration::from_secs(5);

/// A probe's connection is held this long at most: the peer closes it when its punch is over.
const PROBE_LIFE: Duration = Duration::from_secs(60);

/// A connection for datagrams without one for so long is closed: three keep-alives.
const SILENCE: Duration = Duration::from_secs(75);

/// Datagrams that wait for one connection; more are dropped.
const QUEUE: usize = 64;

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    /// The main port: probes and datagrams.
    Main,
    /// A further probe port.
    Probe,
}

/// Connections that are open.
#[derive(Default)]
pub(super) struct Connections {
    counts: Mutex<(usize, BTreeMap<IpAddr, usize>)>,
    /// Where answers over TCP go.
    clients: Mutex<BTreeMap<SocketAddr, mpsc::Sender<Vec<u8>>>>,
}

/// One of the connections that may be open; gives the place back when dropped.
struct Place<'c> {
    connections: &'c Connections,
    source: IpAddr,
}

impl Connections {
    /// Sends to a client, or drops the datagram where it does not keep up or is gone.
    pub(super) fn send(&self, to: SocketAddr, datagram: Vec<u8>) {
        if let Some(queue) = self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(&to) {
            queue.try_send(datagram).ok();
        }
    }

    fn place(&self, address: IpAddr) -> Option<Place<'_>> {
        let source = source_of(address);
        let (all, by_source) = &mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_source.get(&source).copied().unwrap_or(0);
        if *all >= MAX_CONNECTIONS || count >= MAX_CONNECTIONS_PER_SOURCE {
            return None;
        }
        *all += 1;
        by_source.insert(source, count + 1);
        Some(Place { connections: self, source })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let (all, by_source) = &mut *self.connections.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *all -= 1;
        if let Some(count) = by_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                by_source.remove(&self.source);
            }
        }
    }
}

/// Accepts for ever. The connections end with it: a server that has stopped answers nobody.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener, port: Port) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, from)) => {
                let (shared, accepted) = (shared.clone(), clock::now());
                connections.spawn(async move {
                    let result = serve(&shared, stream, from, accepted, port).await;
                    tracing::trace!(%from, ?result, "TCP connection ended");
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                // Out of files: give those who have some the time to end.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(
    shared: &Shared,
    mut stream: TcpStream,
    from: SocketAddr,
    accepted: Instant,
    port: Port,
) -> io::Result<()> {
    let Some(_place) = shared.connections.place(from.ip()) else { return Ok(()) };
    stream.set_nodelay(true)?;
    let purpose = tokio::time::timeout(OPENING_LIMIT, async {
        let mut head = [0; PREAMBLE];
        stream.read_exact(&mut head).await?;
        parse_preamble(head).map_err(io::Error::other)
    });
    match purpose.await?? {
        Purpose::Probe => answer(shared, &mut stream, from, accepted).await,
        Purpose::Datagrams if port == Port::Main => carry(shared, stream, from).await,
        Purpose::Datagrams => Ok(()),
        Purpose::Knock => examine::knock(shared, &mut stream, from).await,
        Purpose::Cross => examine::cross(shared, &mut stream, from).await,
    }
}

async fn answer(
    shared: &Shared,
    stream: &mut TcpStream,
    from: SocketAddr,
    accepted: Instant,
) -> io::Result<()> {
    let mut question = [0; QUESTION];
    tokio::time::timeout(OPENING_LIMIT, stream.read_exact(&mut question)).await??;
    let question = ProbeQuestion::parse(&question).map_err(io::Error::other)?;
    let answer = shared.observe(accepted, question, stream.local_addr()?, from);
    let body = wire::encode(&answer);
    let length = u16::try_from(body.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &body].concat()).await?;
    // Held until the peer closes it. Whatever else it sends is not read.
    let mut end = [0; 1];
    tokio::time::timeout(PROBE_LIFE, stream.read(&mut end)).await??;
    Ok(())
}

async fn carry(shared: &Shared, stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let (queue, mut waiting) = mpsc::channel::<Vec<u8>>(QUEUE);
    let clients = || shared.connections.clients.lock().unwrap_or_else(PoisonError::into_inner);
    clients().insert(from, queue.clone());
    let receiving = async {
        let mut reader = BufReader::new(reader);
        let mut buffer = [0; MAX_DATAGRAM];
        while let Some(datagram) =
            tokio::time::timeout(SILENCE, read_frame(&mut reader, &mut buffer)).await??
        {
            shared.datagram(Source { addr: from, udp: false }, datagram);
        }
        Ok(())
    };
    let sending = async {
        while let Some(datagram) = waiting.recv().await {
            write_frame(&mut writer, &datagram).await?;
        }
        Ok(())
    };
    let result = tokio::select! {
        ended = receiving => ended,
        ended = sending => ended,
    };
    // The peer may have come again from the same port before this end noticed that the last connection
    // is gone.
    if let Entry::Occupied(entry) = clients().entry(from)
        && entry.get().same_channel(&queue)
    {
        entry.remove();
    }
    result
}

/// What counts as one source.
fn source_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_every_place_and_gives_its_places_back() {
        let connections = Connections::default();
        let source: IpAddr = [192, 0, 2, 1].into();
        let places: Vec<_> = std::iter::from_fn(|| connections.place(source)).collect();
        assert_eq!(places.len(), MAX_CONNECTIONS_PER_SOURCE);
        assert!(connections.place([192, 0, 2, 2].into()).is_some());
        drop(places);
        assert!(connections.place(source).is_some());
        assert!(connections.counts.lock().unwrap().1.is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let [a, b, c]: [IpAddr; 3] =
            ["2001:db8::1", "2001:db8::2:0:0:1", "2001:db8:0:1::1"].map(|text| text.parse().unwrap());
        assert_eq!(source_of(a), source_of(b));
        assert_ne!(source_of(a), source_of(c));
    }
}
