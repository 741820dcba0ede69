//! TCP connections to the server: probes, and datagrams of clients whose UDP is blocked.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::JoinSet,
};

use super::{Shared, examine};
use crate::{
    net::{
        clock,
        frames::{read_frame, write_frame},
    },
    rendezvous::{Prefix, Shares, Source},
    wire::{
        self, MAX_DATAGRAM,
        probe::{PREAMBLE, ProbeQuestion, Purpose, QUESTION, parse_preamble},
    },
};

/// Most connections at a time, where the process may have so many files.
const MAX_CONNECTIONS: usize = 8192;

/// Most connections of one source (an IPv4 address or an IPv6 /64) at a time: two full batches of
/// probes for each of a few peers behind one NAT. Four times as many of one network.
const MAX_CONNECTIONS_PER_SOURCE: usize = 512;

/// Files that are not for connections: sockets that listen, the disk, and (a quarter of all) examinations.
const OTHER_FILES: usize = 32;

/// A connection must have said what it is for by then.
const OPENING_LIMIT: Duration = Duration::from_secs(5);

/// A probe's connection is held this long at most: the peer closes it when its punch is over.
const PROBE_LIFE: Duration = Duration::from_secs(60);

/// A client that brings datagrams has shown its key by then: two round trips, and loss.
const KEY_LIMIT: Duration = Duration::from_secs(10);

/// A connection for datagrams without an authentic one for so long is closed: three keep-alives.
const SILENCE: Duration = Duration::from_secs(75);

/// Datagrams that wait for one connection; more are dropped.
const QUEUE: usize = 64;

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    /// The main port: probes and datagrams.
    Main {
        /// Which of the addresses.
        via: u16,
    },
    /// A further probe port.
    Probe,
}

/// Connections that are open.
///
/// When there is room for no more, the oldest of those that nobody with a key needs makes room: one that says
/// nothing, or a probe that has had its answer. So strangers who hold all places drive out each other, and
/// whoever has something to say gets its turn however many they are.
pub(super) struct Connections {
    most: usize,
    places: Mutex<Places>,
    /// Where answers over TCP go.
    clients: Mutex<BTreeMap<Source, mpsc::Sender<Vec<u8>>>>,
}

struct Places {
    taken: usize,
    shares: Shares,
    next: u64,
    /// Those that may be told to make room, by age.
    dispensable: BTreeMap<u64, Arc<Notify>>,
}

/// One of the connections that may be open; gives the place back when dropped.
struct Place<'c> {
    connections: &'c Connections,
    source: Prefix,
    number: u64,
    wanted: Arc<Notify>,
}

impl Connections {
    /// For a process that may have so many files.
    pub(super) fn new(files: usize) -> Self {
        let most = (files / 4 * 3).saturating_sub(OTHER_FILES).clamp(1, MAX_CONNECTIONS);
        let shares = Shares::new(MAX_CONNECTIONS_PER_SOURCE);
        let places = Places { taken: 0, shares, next: 0, dispensable: BTreeMap::new() };
        Connections { most, places: Mutex::new(places), clients: Mutex::default() }
    }

    /// Sends to a client, or drops the datagram where it does not keep up or is gone.
    pub(super) fn send(&self, to: Source, datagram: Vec<u8>) {
        if let Some(queue) = self.clients().get(&to) {
            queue.try_send(datagram).ok();
        }
    }

    fn place(&self, address: IpAddr) -> Option<Place<'_>> {
        let source = Prefix::from(address);
        let mut places = self.places();
        if !places.shares.has_room(source) {
            return None;
        }
        // Those that are told to go need a moment for it.
        if places.taken > self.most + self.most / 8 {
            return None;
        }
        if places.taken >= self.most {
            let (_, oldest) = places.dispensable.pop_first()?;
            oldest.notify_one();
        }
        let wanted = Arc::new(Notify::new());
        let number = places.next;
        places.next += 1;
        places.taken += 1;
        places.shares.add(source);
        places.dispensable.insert(number, wanted.clone());
        Some(Place { connections: self, source, number, wanted })
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clients(&self) -> MutexGuard<'_, BTreeMap<Source, mpsc::Sender<Vec<u8>>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Somebody with a key uses it: it makes room for nobody.
    fn keep(&self) {
        self.connections.places().dispensable.remove(&self.number);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut places = self.connections.places();
        places.taken -= 1;
        places.shares.remove(self.source);
        places.dispensable.remove(&self.number);
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
                // It finds its place, and whoever makes room for it has gone, before the next is taken.
                tokio::task::yield_now().await;
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
    stream: TcpStream,
    from: SocketAddr,
    accepted: Instant,
    port: Port,
) -> io::Result<()> {
    let Some(place) = shared.connections.place(from.ip()) else { return Ok(()) };
    tokio::select! {
        result = talk(shared, stream, from, (accepted, port), &place) => result,
        () = place.wanted.notified() => Err(io::Error::other("made room for another")),
    }
}

async fn talk(
    shared: &Shared,
    mut stream: TcpStream,
    from: SocketAddr,
    (accepted, port): (Instant, Port),
    place: &Place<'_>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let purpose = tokio::time::timeout(OPENING_LIMIT, async {
        let mut head = [0; PREAMBLE];
        stream.read_exact(&mut head).await?;
        parse_preamble(head).map_err(io::Error::other)
    });
    match (purpose.await??, port) {
        (Purpose::Probe, _) => answer(shared, &mut stream, from, accepted).await,
        (Purpose::Datagrams, Port::Main { via }) => {
            carry(shared, stream, Source { addr: from, udp: false, via }, place).await
        }
        (Purpose::Datagrams, Port::Probe) => Ok(()),
        (Purpose::Knock, _) => examine::knock(shared, &mut stream, from).await,
        (Purpose::Cross, _) => examine::cross(shared, &mut stream, from).await,
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

async fn carry(shared: &Shared, stream: TcpStream, from: Source, place: &Place<'_>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let (queue, mut waiting) = mpsc::channel::<Vec<u8>>(QUEUE);
    let clients = || shared.connections.clients();
    clients().insert(from, queue.clone());
    let receiving = async {
        let mut reader = BufReader::new(reader);
        let mut buffer = [0; MAX_DATAGRAM];
        let mut until = clock::now() + KEY_LIMIT;
        while let Some(datagram) =
            tokio::time::timeout_at(until.into(), read_frame(&mut reader, &mut buffer)).await??
        {
            if shared.datagram(from, datagram) {
                place.keep();
                until = clock::now() + SILENCE;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_every_place_and_gives_its_places_back() {
        let connections = Connections::new(usize::MAX);
        let source: IpAddr = [192, 0, 2, 1].into();
        let places: Vec<_> = std::iter::from_fn(|| connections.place(source)).collect();
        assert_eq!(places.len(), MAX_CONNECTIONS_PER_SOURCE);
        assert!(connections.place([192, 0, 2, 2].into()).is_some());
        drop(places);
        assert!(connections.place(source).is_some());
        assert!(connections.places().shares.is_empty() && connections.places().dispensable.is_empty());
    }

    #[tokio::test]
    async fn when_all_places_are_taken_the_oldest_that_nobody_needs_makes_room() {
        let connections = Connections::new(1024);
        assert_eq!(connections.most, 736, "a quarter of the files, and some, are for others");
        let address = |n: usize| IpAddr::from([10, n as u8, 0, 1]);
        let mut places: Vec<_> = (0..736).filter_map(|n| connections.place(address(n % 64))).collect();
        assert_eq!(places.len(), 736);
        places[0].keep();
        let fresh = connections.place(address(200)).expect("the second one's");
        places[1].wanted.notified().await;
        drop(places.remove(1));
        assert_eq!(connections.places().taken, 736);
        // Those that are told and do not go hold up the others, and not the memory.
        let more = (0..736).filter_map(|n| connections.place(address(n % 64))).collect::<Vec<_>>().len();
        assert_eq!(more, 736 / 8 + 1);
        drop((places, fresh));
        assert_eq!(connections.places().taken, 0);
    }

    #[test]
    fn who_has_a_key_makes_room_for_nobody() {
        let connections = Connections::new(1);
        let one = connections.place([192, 0, 2, 1].into()).expect("a place");
        one.keep();
        assert!(connections.place([192, 0, 2, 2].into()).is_none());
    }
}
