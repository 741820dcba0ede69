//! Two sets of punch ports on loopback.

use std::{net::Ipv4Addr, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::wire::{
    examine::{Knocked, QUESTION},
    probe::PREAMBLE,
};

const SET: PortsId = PortsId(1);

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn bound(count: u16) -> (PunchPorts, Vec<u16>) {
    let mut ports = PunchPorts::new(vec![loopback(1)], None).unwrap();
    let Input::Bound { v4, v6, lan, .. } = ports.bind(SET, count) else { panic!("not bound") };
    assert_eq!(v4.len(), usize::from(count));
    assert!(v6.is_empty());
    assert!(lan.contains(&Ipv4Addr::LOCALHOST.into()));
    (ports, v4)
}

#[tokio::test]
async fn two_peers_that_open_towards_each_other_meet() {
    let (mut here, mine) = bound(1);
    let (mut there, theirs) = bound(1);
    let at = clock::now() + Duration::from_millis(20);
    for (ports, target) in [(&mut here, theirs[0]), (&mut there, mine[0])] {
        ports.listen(SET, 0);
        ports.connect(SET, 0, Some(0), loopback(target), at, None);
    }
    let conn = loop {
        match here.next().await {
            Input::Connected { conn, .. } | Input::Accepted { conn, .. } => break conn,
            Input::Left { .. } | Input::ConnectFailed { why: OpenFailure::TupleExists, .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(here.send(conn, b"message 1").is_none());
    loop {
        match there.next().await {
            Input::Received { bytes, .. } => break assert_eq!(bytes, b"message 1"),
            Input::Left { .. }
            | Input::Connected { .. }
            | Input::Accepted { .. }
            | Input::ConnectFailed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_side_that_accepted_can_speak_first() {
    let (mut ports, mine) = bound(1);
    ports.listen(SET, 0);
    let mut stranger = std::net::TcpStream::connect(loopback(mine[0])).unwrap();
    let Input::Accepted { conn, .. } = ports.next().await else { panic!("not accepted") };
    assert!(ports.send(conn, b"message 1").is_none());
    let mut heard = [0; 9];
    std::io::Read::read_exact(&mut stranger, &mut heard).unwrap();
    assert_eq!(&heard, b"message 1");
}

#[tokio::test]
async fn a_refused_opening_is_said_to_be_refused() {
    let (mut ports, _) = bound(1);
    let (other, theirs) = bound(1);
    ports.connect(SET, 7, Some(0), loopback(theirs[0]), clock::now(), None);
    let Input::ConnectFailed { opening: 7, why, .. } = ports.next().await else { panic!("not failed") };
    assert_eq!(why, OpenFailure::Refused);
    drop(other);
}

#[tokio::test]
async fn a_connection_to_oneself_is_a_failure() {
    let (mut ports, mine) = bound(1);
    ports.connect(SET, 0, Some(0), loopback(mine[0]), clock::now(), None);
    assert!(matches!(ports.next().await, Input::ConnectFailed { why: OpenFailure::Other(_), .. }));
}

/// A probe that was asked and answered, by the server's end.
async fn probed() -> (PunchPorts, tokio::net::TcpStream) {
    use crate::wire::{
        self,
        probe::{ProbeAnswer, Purpose, QUESTION, parse_preamble},
    };

    let server = tokio::net::TcpListener::bind(loopback(0)).await.unwrap();
    let (mut ports, mine) = bound(2);
    let question = ProbeQuestion { batch: [3; 16], number: 1, count: 2, local: 1, local_port: mine[1] };
    ports.probe(SET, 1, 1, server.local_addr().unwrap(), question);
    let (mut stream, observed) = server.accept().await.unwrap();
    assert_eq!(observed.port(), mine[1]);
    let mut head = [0; PREAMBLE];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(parse_preamble(head), Ok(Purpose::Probe));
    let mut body = [0; QUESTION];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(ProbeQuestion::parse(&body), Ok(question));
    let answer = ProbeAnswer { observed, at_us: 5, prediction: None };
    let bytes = wire::encode(&answer);
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let Input::Probed { number: 1, answer: Some(heard), .. } = ports.next().await else {
        panic!("no answer")
    };
    assert_eq!(heard, answer);
    (ports, stream)
}

#[tokio::test]
async fn a_probe_asks_hears_and_stays_open_until_the_release() {
    use tokio::io::AsyncReadExt;

    let (mut ports, mut stream) = probed().await;
    assert!(stream.try_read(&mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock));
    ports.release(SET);
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_probe_that_the_server_closes_is_closed_at_once() {
    let (_ports, mut stream) = probed().await;
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn what_happens_to_a_released_set_is_not_told() {
    let (mut ports, _) = bound(1);
    let server = std::net::TcpListener::bind(loopback(0)).unwrap();
    ports.connect(SET, 0, Some(0), server.local_addr().unwrap(), clock::now(), None);
    let (_stream, _) = server.accept().unwrap();
    tokio::task::yield_now().await;
    ports.release(SET);
    assert!(ports.try_next().is_none());
}

#[tokio::test]
async fn more_ports_are_bound_into_a_set_and_the_first_ones_stay() {
    let (mut ports, first) = bound(2);
    ports.listen(SET, 0);
    let Input::Bound { v4, .. } = ports.bind(SET, 40) else { panic!("not bound") };
    assert_eq!(v4[..2], first);
    assert_eq!(v4.iter().collect::<std::collections::BTreeSet<_>>().len(), 40);
    // The new ones can be used as well as the old ones: one connects to the other.
    ports.connect(SET, 7, Some(39), loopback(first[0]), clock::now(), None);
    loop {
        match ports.next().await {
            Input::Accepted { remote, .. } => break assert_eq!(remote.port(), v4[39]),
            Input::Connected { opening: 7, .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The server's end of a crossing that was asked for, up to where it names its door.
async fn asked_to_cross(ports: &mut PunchPorts) -> tokio::net::TcpStream {
    let server = tokio::net::TcpListener::bind(loopback(0)).await.unwrap();
    ports.favour(SET, 0, server.local_addr().unwrap(), Favour::Cross);
    let (mut asked, _) = server.accept().await.unwrap();
    asked.read_exact(&mut [0; PREAMBLE]).await.unwrap();
    asked
}

#[tokio::test]
async fn a_door_that_the_server_names_gets_one_connection_and_no_byte() {
    let (mut ports, mine) = bound(1);
    let mut server = asked_to_cross(&mut ports).await;
    let victim = tokio::net::TcpListener::bind(loopback(0)).await.unwrap();
    server.write_u16(victim.local_addr().unwrap().port()).await.unwrap();
    let (mut opened, from) = victim.accept().await.unwrap();
    assert_eq!(from, loopback(mine[0]), "from a punch port, as any opening");
    server.read_exact(&mut [0; QUESTION]).await.unwrap();
    server.write_u8(Knocked::Reached as u8).await.unwrap();
    let Input::Favour { answer: Some(Knocked::Reached), .. } = ports.next().await else {
        panic!("no answer")
    };
    let mut heard = Vec::new();
    // It is closed with a reset or with an end, as systems do.
    let _ = opened.read_to_end(&mut heard).await;
    assert_eq!(heard, b"");
    let again = tokio::time::timeout(Duration::ZERO, victim.accept()).await;
    assert!(again.is_err(), "a second one");
}

#[tokio::test]
async fn a_door_among_the_ports_of_services_is_not_opened_to() {
    let (mut ports, _) = bound(1);
    let mut server = asked_to_cross(&mut ports).await;
    server.write_u16(22).await.unwrap();
    let Input::Favour { answer: None, .. } = ports.next().await else { panic!("an answer") };
    assert!(server.read_exact(&mut [0; QUESTION]).await.is_err(), "it says that its SYN has left");
}
