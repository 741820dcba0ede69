//! A client of the server without anything around it: one socket, one association.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use punchtunnel::{
    endpoint::Path,
    rendezvous::{Client, ClientEvent},
    secure::StaticKey,
    wire::server::{FromServer, ToServer},
};
use tokio::net::UdpSocket;
use zeroize::Zeroizing;

/// Nothing takes so long on a machine that works, also where it is slow and busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Party {
    socket: UdpSocket,
    client: Client,
    path: Path,
    /// Every datagram of the two.
    heard_and_said: Vec<Vec<u8>>,
}

#[expect(clippy::disallowed_methods, reason = "a driver reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A runtime, and a limit for what hangs.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let is_long = std::env::var_os("PUNCHTUNNEL_LAB_LONG").is_some();
    let limit = PATIENCE * if is_long { 60 } else { 3 };
    runtime.block_on(async { tokio::time::timeout(limit, test).await.expect("it hangs") })
}

/// The key of that number.
pub(crate) fn key(number: u32) -> StaticKey {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    StaticKey::from_private(Zeroizing::new(seed))
}

/// An address of the loopback network, each in a /24 of its own: a server looks at addresses and networks.
pub(crate) fn address(number: u32) -> IpAddr {
    Ipv4Addr::new(127, 1 + (number / 250 % 250) as u8, 1 + (number % 250) as u8, 1).into()
}

impl Party {
    pub(crate) async fn new(from: IpAddr, server: &str, number: u32) -> Party {
        let server: SocketAddr = server.parse().expect("an address");
        let socket = UdpSocket::bind((from, 0)).await.expect("a port");
        // Nobody else is heard.
        socket.connect(server).await.expect("connected");
        let port = socket.local_addr().expect("an address").port();
        let (mut seed, mut node) = ([3; 32], [5; 16]);
        seed[..6].copy_from_slice(&[&number.to_be_bytes()[..], &port.to_be_bytes()].concat());
        node[..6].copy_from_slice(&seed[..6]);
        let client = Client::new(now(), seed, key(number), server, None, node);
        Party { socket, client, path: Path::Udp(server), heard_and_said: Vec::new() }
    }

    pub(crate) fn say(&mut self, message: ToServer) {
        self.client.send(now(), message).expect("room");
    }

    /// Sends what there is to send.
    pub(crate) async fn flush(&mut self) {
        while let Some((path, datagram)) = self.client.poll_transmit(now()) {
            if let Path::Udp(_) = path {
                // Lost where the server is gone.
                self.socket.send(&datagram).await.ok();
                self.heard_and_said.push(datagram);
            }
        }
    }

    /// What the server says next.
    pub(crate) async fn hear(&mut self) -> FromServer {
        let mut buffer = [0; 2048];
        loop {
            self.flush().await;
            while let Some(event) = self.client.poll_event() {
                if let ClientEvent::Message(message) = event {
                    return message;
                }
            }
            let wait = self.client.poll_timeout().map_or(PATIENCE, |at| at.saturating_duration_since(now()));
            match tokio::time::timeout(wait, self.socket.recv(&mut buffer)).await {
                Ok(Ok(length)) => {
                    self.client.handle_datagram(now(), self.path, &buffer[..length]);
                    self.heard_and_said.push(buffer[..length].to_vec());
                }
                // Somebody answers with ICMP.
                Ok(Err(_)) => tokio::task::yield_now().await,
                Err(_) => self.client.handle_timeout(now()),
            }
        }
    }

    pub(crate) async fn ask(&mut self, message: ToServer) -> FromServer {
        self.say(message);
        self.hear().await
    }

    /// Its socket, and every datagram of the two.
    pub(crate) fn into_parts(self) -> (std::net::UdpSocket, Vec<Vec<u8>>) {
        (self.socket.into_std().expect("its own"), self.heard_and_said)
    }
}
