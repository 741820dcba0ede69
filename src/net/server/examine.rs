//! What the server does for a client that examines its NAT: it opens towards the very address and port
//! that the client's connection comes from, and nowhere else.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::Shared;
use crate::{
    endpoint::OpenFailure,
    net::{clock, ports::socket},
    wire::examine::{Knocked, Origin, QUESTION},
};

/// A knock without an answer by then was dropped. The kernel repeats the SYN once, after a second, in
/// case that the first was lost.
const KNOCK_LIMIT: Duration = Duration::from_millis(1500);

/// The client says within this time what it wants, or that its SYN has left.
const QUESTION_LIMIT: Duration = Duration::from_secs(5);

/// From the client's word that its SYN has left to the server's own SYN: the two may overtake each other.
const OVERTAKING: Duration = Duration::from_millis(30);

/// A crossing that succeeds does so within one round trip. It must be over before the client's kernel
/// repeats its SYN after a second: the answer to that one gets in anywhere.
const CROSS_LIMIT: Duration = Duration::from_millis(800);

/// Purpose 3: connects back from a port, or an address, that was not contacted.
pub(super) async fn knock(shared: &Shared, stream: &mut TcpStream, from: SocketAddr) -> io::Result<()> {
    let [origin, ..] = question(stream).await?;
    let origin = Origin::parse(origin).map_err(io::Error::other)?;
    let here = stream.local_addr()?.ip();
    let address = match origin {
        Origin::Port => Some(here),
        Origin::Address => shared.another_address(here),
    };
    let answer = match address {
        None => Knocked::Unable,
        Some(_) if !shared.may_knock(from) => Knocked::Busy,
        Some(address) => match bound(address, 0) {
            Ok(socket) => open(socket, from, KNOCK_LIMIT).await,
            Err(_) => Knocked::Unable,
        },
    };
    stream.write_u8(answer as u8).await
}

/// Purpose 4: opens from a port at which the client's own SYN has been swallowed.
///
/// Whether two SYNs that cross open a connection cannot be seen where this side's kernel answers the
/// client's SYN: that answer passes where a bare SYN would not. So until the server's own SYN leaves, its
/// port belongs to a listener with a full queue, which the kernel lets answer nothing.
pub(super) async fn cross(shared: &Shared, stream: &mut TcpStream, from: SocketAddr) -> io::Result<()> {
    let here = stream.local_addr()?.ip();
    let door = if shared.may_knock(from) { Door::new(here).await.ok() } else { None };
    stream.write_u16(door.as_ref().map_or(0, |door| door.port)).await?;
    let Some(door) = door else { return Ok(()) };
    question(stream).await?;
    tokio::time::sleep(OVERTAKING).await;
    let answer = match bound(here, door.port) {
        Ok(socket) => open(socket, from, CROSS_LIMIT).await,
        Err(_) => Knocked::Unable,
    };
    stream.write_u8(answer as u8).await
}

/// All of it has to be there before anything is sent for it.
async fn question(stream: &mut TcpStream) -> io::Result<[u8; QUESTION]> {
    let mut question = [0; QUESTION];
    tokio::time::timeout(QUESTION_LIMIT, stream.read_exact(&mut question)).await??;
    Ok(question)
}

impl Shared {
    fn may_knock(&self, from: SocketAddr) -> bool {
        self.lock().favours.may_knock(clock::now(), from)
    }

    /// An address of the family that this server listens on and that is not `here`. Only where it was
    /// told its addresses: of a wildcard's, nobody knows which can be reached.
    fn another_address(&self, here: IpAddr) -> Option<IpAddr> {
        let addresses = self.udp.iter().filter_map(|socket| socket.local_addr().ok());
        addresses
            .map(|address| address.ip())
            .find(|ip| ip.is_ipv4() == here.is_ipv4() && *ip != here && !ip.is_unspecified())
    }
}

/// A port that answers no SYN.
struct Door {
    port: u16,
    _listener: TcpListener,
    _filler: TcpStream,
}

impl Door {
    async fn new(address: IpAddr) -> io::Result<Self> {
        let socket = bound(address, 0)?;
        // Room for one connection that nobody accepts.
        socket.listen(0)?;
        let listener = TcpListener::from_std(socket.into())?;
        let own = listener.local_addr()?;
        let filler = tokio::time::timeout(KNOCK_LIMIT, TcpStream::connect(own)).await??;
        Ok(Door { port: own.port(), _listener: listener, _filler: filler })
    }
}

/// With the options that let another socket have the same port.
fn bound(address: IpAddr, port: u16) -> io::Result<Socket> {
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn open(opener: Socket, to: SocketAddr, limit: Duration) -> Knocked {
    let opened = tokio::time::timeout(limit, async {
        socket::start(&opener, to, None)?;
        let stream = TcpStream::from_std(opener.into())?;
        stream.writable().await?;
        stream.take_error()?.map_or(Ok(()), Err)
    });
    match opened.await {
        Ok(Ok(())) => Knocked::Reached,
        Err(_) => Knocked::Dropped,
        Ok(Err(error)) => match socket::failure(&error) {
            OpenFailure::Refused => Knocked::Reset,
            OpenFailure::Unreachable => Knocked::Prohibited,
            OpenFailure::TimedOut => Knocked::Dropped,
            OpenFailure::TupleExists | OpenFailure::Other(_) => Knocked::Unable,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_door_swallows_a_syn_and_lets_a_crossing_one_meet_it() {
        let here: IpAddr = [127, 0, 0, 1].into();
        let door = Door::new(here).await.unwrap();
        let client = bound(here, 0).unwrap();
        let from = socket::address_of(&client).unwrap();
        socket::start(&client, (here, door.port).into(), None).unwrap();
        let client = TcpStream::from_std(client.into()).unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), client.writable()).await;
        assert!(early.is_err(), "the client's SYN was answered");
        let own = bound(here, door.port).unwrap();
        assert_eq!(open(own, from, CROSS_LIMIT).await, Knocked::Reached);
        client.writable().await.unwrap();
        assert!(client.take_error().unwrap().is_none());
    }

    #[tokio::test]
    async fn a_closed_port_answers_with_a_reset() {
        let here: IpAddr = [127, 0, 0, 1].into();
        let nobody = bound(here, 0).unwrap();
        let to = socket::address_of(&nobody).unwrap();
        assert_eq!(open(bound(here, 0).unwrap(), to, KNOCK_LIMIT).await, Knocked::Reset);
    }
}
