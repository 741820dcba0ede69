//! Those who mean harm: datagrams without end from many addresses, and connections that are good for nothing.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use punchtunnel::wire::{
    MAX_DATAGRAM,
    examine::{Origin, QUESTION, mirror},
    packet::Packet,
    probe::{ProbeQuestion, Purpose, preamble},
    server::{FromServer, ToServer},
};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::party::{Party, address};

/// Strangers that send datagrams, each from a network of its own.
const STRANGERS: u32 = 64;

/// Networks that the connections come from.
const CROWDED: u32 = 400;

/// Connections that are held open at a time.
const HELD: usize = 1_000;

/// Somebody with a key and a name of its own, who was served until now: its cookie and its index are good from that
/// very socket, so that what it repeats and damages gets as far as anything can.
pub(crate) struct Stranger {
    socket: UdpSocket,
    samples: Vec<Vec<u8>>,
}

impl Stranger {
    /// All of them.
    pub(crate) async fn all(server: &str) -> Vec<Stranger> {
        let mut all = Vec::new();
        for number in 0..STRANGERS {
            all.push(Stranger::new(server, number).await);
        }
        all
    }

    async fn new(server: &str, number: u32) -> Stranger {
        let mut party = Party::new(address(500 + number), server, 500 + number).await;
        let name = format!("seen-{number}");
        assert_eq!(party.ask(ToServer::Register { name: name.clone() }).await, FromServer::Registered);
        // It introduces itself to itself: requests, answers, and what is passed on.
        let found = party.ask(ToServer::Find { request: 1, name: name.clone() }).await;
        assert!(matches!(found, FromServer::Found { .. }), "{found:?}");
        let introduced =
            party.ask(ToServer::Introduce { request: 2, name, hello: vec![5; 300].into() }).await;
        assert!(matches!(introduced, FromServer::Introduction { .. }), "{introduced:?}");
        let (socket, mut samples) = party.into_parts();
        let inits: Vec<Vec<u8>> = samples
            .iter()
            .filter_map(|sample| match Packet::parse(sample) {
                // Another handshake under the same cookie: it is refused behind a Diffie-Hellman.
                Ok(Packet::Init { sender, cookie, noise }) => {
                    let noise = [&[9; 32][..], &noise[32..]].concat();
                    Some(Packet::Init { sender, cookie, noise: &noise }.encode())
                }
                _ => None,
            })
            .collect();
        assert!(!inits.is_empty());
        samples.extend(inits);
        samples.push(mirror([number as u8; 16]).to_vec());
        Stranger { socket, samples }
    }
}

/// Datagrams, one after the other.
pub(crate) struct Flood {
    strangers: Vec<Stranger>,
    rng: StdRng,
    buffer: Vec<u8>,
}

impl Flood {
    pub(crate) fn new(strangers: Vec<Stranger>) -> Flood {
        Flood { strangers, rng: StdRng::seed_from_u64(6), buffer: Vec::with_capacity(MAX_DATAGRAM) }
    }

    /// Makes the next one: random bytes, or what a stranger has said or heard, as it was or damaged.
    pub(crate) fn make(&mut self) -> &[u8] {
        let Flood { strangers, rng, buffer } = self;
        strangers.rotate_left(1);
        let samples = &strangers[0].samples;
        // One number is enough for what there is to be decided.
        let mut dice = rng.next_u64();
        let mut roll = |sides: u64| {
            let rolled = dice % sides;
            dice /= sides;
            rolled as usize
        };
        buffer.clear();
        if roll(4) == 0 {
            buffer.resize(roll(200), 0);
            rng.fill(&mut buffer[..]);
        } else {
            buffer.extend_from_slice(&samples[roll(samples.len() as u64)]);
            if roll(2) == 0 {
                for _ in 0..=roll(3) {
                    let place = roll(buffer.len() as u64);
                    buffer[place] ^= 1 + roll(255) as u8;
                }
                if roll(4) == 0 {
                    buffer.truncate(roll(buffer.len() as u64));
                }
            }
        }
        buffer
    }

    /// Makes one and sends it; whether it left.
    pub(crate) fn send(&mut self) -> bool {
        self.make();
        self.strangers[0].socket.send(&self.buffer).is_ok()
    }
}

/// Connections that say nothing, too little, the wrong thing, or the right thing and stay; that speak slowly, are
/// half closed or reset.
pub(crate) struct Crowd {
    servers: Vec<SocketAddr>,
    rng: StdRng,
    held: VecDeque<TcpStream>,
    /// What each of these has still to say, a byte at a time.
    slow: VecDeque<(TcpStream, Vec<u8>)>,
    pub(crate) opened: u64,
    pub(crate) failed: u64,
}

impl Crowd {
    pub(crate) fn new(servers: Vec<SocketAddr>) -> Crowd {
        Crowd {
            servers,
            rng: StdRng::seed_from_u64(7),
            held: VecDeque::new(),
            slow: VecDeque::new(),
            opened: 0,
            failed: 0,
        }
    }

    /// One more. It waits for nothing: on this machine the kernel has answered when `connect` returns.
    pub(crate) fn join(&mut self, n: u64) {
        let to = self.servers[n as usize % self.servers.len()];
        let stream = connect(address(600 + n as u32 % CROWDED), to).and_then(|mut stream| {
            let said = self.says();
            if self.rng.random_range(0..8) == 0 {
                self.slow.push_back((stream.try_clone()?, said));
            } else {
                stream.write_all(&said)?;
            }
            Ok(stream)
        });
        match stream {
            Ok(stream) => {
                self.opened += 1;
                self.hold(stream);
            }
            // There is no place where it would wait.
            Err(_) => self.failed += 1,
        }
        self.drip();
    }

    fn says(&mut self) -> Vec<u8> {
        let rng = &mut self.rng;
        match rng.random_range(0..9) {
            0 => Vec::new(),
            1 => b"PT"[..rng.random_range(0..2)].to_vec(),
            2 => (0..rng.random_range(1..200)).map(|_| rng.random()).collect(),
            3 => preamble(Purpose::Probe).to_vec(),
            4 | 5 => {
                let (batch, local_port) = (rng.random(), rng.random());
                let question = ProbeQuestion { batch, number: 0, count: 2, local: 0, local_port };
                [&preamble(Purpose::Probe)[..], &question.encode()].concat()
            }
            6 => [&preamble(Purpose::Datagrams)[..], &[0, 88], &[0; 88], &[9; 300]].concat(),
            7 => {
                let question = [&[Origin::Port as u8][..], &[0; QUESTION - 1]].concat();
                [&preamble(Purpose::Knock)[..], &question].concat()
            }
            _ => preamble(Purpose::Cross).to_vec(),
        }
    }

    fn hold(&mut self, mut stream: TcpStream) {
        match self.rng.random_range(0..4) {
            0 => drop(stream.shutdown(Shutdown::Write)),
            1 => {
                // Closing is a reset now.
                drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
                return;
            }
            2 => drop(stream.read(&mut [0; 64])),
            _ => {}
        }
        self.held.push_back(stream);
        if self.held.len() > HELD {
            self.held.pop_front();
        }
    }

    /// The slowest says its next byte.
    fn drip(&mut self) {
        let Some((mut stream, said)) = self.slow.pop_front() else { return };
        if let Some((first, rest)) = said.split_first()
            && stream.write_all(&[*first]).is_ok()
            && self.slow.len() < HELD
        {
            self.slow.push_back((stream, rest.to_vec()));
        }
    }
}

/// A connection that is being opened.
fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SockAddr::from(SocketAddr::new(from, 0)))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        _ => Ok(socket.into()),
    }
}
