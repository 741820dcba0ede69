//! A rendezvous server and two clients, with a network in between that does what the script says.

use std::{collections::VecDeque, net::SocketAddr, time::Instant};

use punchtunnel::{
    endpoint::Path,
    rendezvous::{Client, ClientEvent, Limits, Server, Source},
    wire::{self, server::FromServer, server::ToServer},
};

use super::{
    keys::key,
    script::{Script, start},
};

const SERVER: ([u8; 4], u16) = ([198, 51, 100, 1], 7862);
const DAWN: u64 = 1_700_000_000;
/// Datagrams on their way; the network loses more.
const MOST_FLYING: usize = 64;

struct World<'a> {
    now: Instant,
    began: Instant,
    server: Server,
    /// Changes of names that the server gave out.
    stored: u64,
    clients: [Client; 2],
    /// What flies: to whom (`None`: the server), between that client's address and the server's.
    flying: VecDeque<(Option<usize>, Source, Vec<u8>)>,
    script: Script<'a>,
}

/// Plays the script.
pub(crate) fn run(bytes: &[u8]) {
    let now = start();
    let limits = Limits {
        associations: 8,
        associations_per_source: 4,
        names: 8,
        requests: 8,
        relations: 8,
        sources: 64,
        ..Limits::default()
    };
    let clients =
        [1, 2].map(|n| Client::new(now, [n; 32], key(n.into()).clone(), SERVER.into(), None, [n; 16]));
    let mut world = World {
        now,
        began: now,
        server: Server::new(now, [9; 32], key(9).clone(), limits, []),
        stored: 0,
        clients,
        flying: VecDeque::new(),
        script: Script::new(bytes),
    };
    while !world.script.is_over() {
        world.step();
    }
}

impl World<'_> {
    fn step(&mut self) {
        match self.script.byte() % 16 {
            0..=8 => self.arrive(),
            9 => {
                self.now += self.script.duration();
                self.server.handle_timeout(self.now, self.unix_secs());
                for client in &mut self.clients {
                    client.handle_timeout(self.now);
                }
            }
            10 | 11 => self.say(),
            12 => {
                let datagram = self.script.bytes().to_vec();
                let (to, source) = (self.script.below(3), self.source());
                self.fly(self.clients.get(to).map(|_| to), source, datagram);
            }
            13 => self.flying.rotate_left(1.min(self.flying.len())),
            14 => {
                if let Some(again) = self.flying.front().cloned() {
                    self.fly(again.0, again.1, again.2);
                }
            }
            _ => {
                let client = self.script.below(2);
                self.clients[client].handle_network_change(self.now);
            }
        }
        self.drain();
    }

    fn unix_secs(&self) -> u64 {
        DAWN + (self.now - self.began).as_secs()
    }

    /// One of a few addresses, over UDP or TCP.
    fn source(&mut self) -> Source {
        let choice = self.script.byte();
        let addr = SocketAddr::from(([192, 0, 2, choice % 4], 5000 + u16::from(choice / 64)));
        Source { addr, udp: choice % 8 != 7, via: 0 }
    }

    fn fly(&mut self, to: Option<usize>, at: Source, datagram: Vec<u8>) {
        if self.flying.len() < MOST_FLYING {
            self.flying.push_back((to, at, datagram));
        }
    }

    fn arrive(&mut self) {
        let Some((to, at, datagram)) = self.flying.pop_front() else { return };
        let datagram = self.script.damage(datagram);
        let at = if self.script.byte() > 250 { self.source() } else { at };
        match to {
            Some(client) => {
                let path = if at.udp { Path::Udp(SERVER.into()) } else { Path::Tcp(SERVER.into()) };
                self.clients[client].handle_datagram(self.now, path, &datagram);
            }
            None => {
                let before = self.server.stats().associations;
                self.server.handle_datagram(self.now, self.unix_secs(), at, &datagram);
                let answers: Vec<_> = std::iter::from_fn(|| self.server.poll_transmit()).collect();
                if self.server.stats().associations == before && before == 0 {
                    let said: usize = answers.iter().map(|(_, answer)| answer.len()).sum();
                    assert!(said <= datagram.len(), "a stranger hears more than it said");
                }
                for (to, answer) in answers {
                    self.answer(to, answer);
                }
            }
        }
    }

    fn answer(&mut self, to: Source, datagram: Vec<u8>) {
        let client = usize::from(to.addr.port() == 5001);
        self.fly(Some(client), to, datagram);
    }

    /// A client says something to the server: anything that it could say.
    fn say(&mut self) {
        let (client, kind) = (self.script.below(2), self.script.byte());
        let (request, name) =
            (u32::from(self.script.byte() % 4), ["a", "box", "-", ""][self.script.below(4)]);
        let name = name.to_owned();
        let message = match kind % 10 {
            0 => ToServer::Register { name },
            1 => ToServer::Unregister,
            2 => ToServer::Find { request, name },
            3 => ToServer::Introduce { request, name, hello: self.script.bytes().to_vec().into() },
            4 => ToServer::Cancel { request },
            5 => ToServer::Accept { relation: request, reply: self.script.bytes().to_vec().into() },
            6 => ToServer::Relay { relation: request, datagram: self.script.bytes().to_vec().into() },
            7 => ToServer::Ping { proof: self.script.bytes().to_vec().into() },
            8 => ToServer::Release { name },
            _ => match wire::decode(self.script.bytes(), 255) {
                Ok(message) => message,
                Err(_) => return,
            },
        };
        let _ = self.clients[client].send(self.now, message);
    }

    fn drain(&mut self) {
        for index in 0..self.clients.len() {
            while let Some((path, datagram)) = self.clients[index].poll_transmit(self.now) {
                let udp = matches!(path, Path::Udp(_));
                let addr = SocketAddr::from(([192, 0, 2, index as u8], 5000 + index as u16));
                self.fly(None, Source { addr, udp, via: 0 }, datagram);
            }
            while let Some(event) = self.clients[index].poll_event() {
                if let ClientEvent::Message(FromServer::Introduction { relation, .. }) = event {
                    let reply = vec![8; 60].into();
                    let _ = self.clients[index].send(self.now, ToServer::Accept { relation, reply });
                }
            }
        }
        while let Some((to, datagram)) = self.server.poll_transmit() {
            self.answer(to, datagram);
        }
        while self.server.poll_store().is_some() {
            self.stored += 1;
        }
        self.server.handle_stored(self.now, 0, self.stored);
        let stats = self.server.stats();
        assert!(stats.associations <= 8 && stats.names <= 8 && stats.relations <= 8, "{stats:?}");
    }
}
