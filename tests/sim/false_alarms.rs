//! Links over a bad network, and TCP under them with its retransmissions, its back-off and its blocking of
//! everything behind a hole: none may be held for dead.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use punchtunnel::{
    session::{Session, SessionConfig, SessionEvent, StreamId},
    wire::stream::OpenRequest,
};

use crate::{
    model::{epoch_keys, established},
    tcp::{Event, SockId},
    world::{Conditions, INTERNET, Io, Program, World},
};

const PORT: u16 = 4_000;

/// What a link carries.
#[derive(Debug, Clone, Copy)]
struct Traffic {
    /// Bytes written at a time, by the client; the other side sends them back.
    size: usize,
    /// Time between.
    every: Duration,
}

/// One end of a session with one link over the world's TCP.
struct End {
    side: usize,
    session: Option<Session>,
    remote: SocketAddr,
    traffic: Traffic,
    sock: Option<SockId>,
    stream: Option<StreamId>,
    next: Option<Instant>,
    input: BytesMut,
    echo: Vec<u8>,
    /// Bytes that came.
    received: usize,
    /// When and why the link was held for dead.
    deaths: Vec<String>,
    /// How often it looked sick.
    sick: usize,
    /// Longest time without a sign of life.
    heard: Option<Instant>,
    longest: Duration,
}

impl End {
    fn new(side: usize, remote: SocketAddr, traffic: Traffic) -> Self {
        End {
            side,
            session: None,
            remote,
            traffic,
            sock: None,
            stream: None,
            next: None,
            input: BytesMut::new(),
            echo: Vec::new(),
            received: 0,
            deaths: Vec::new(),
            sick: 0,
            heard: None,
            longest: Duration::ZERO,
        }
    }

    fn begin(&mut self, io: &mut Io<'_>) -> &mut Session {
        if self.session.is_none() {
            let keys = epoch_keys(self.side, 0);
            let mut session = Session::new(io.now, self.side == 0, keys, SessionConfig::default());
            if self.side == 0 {
                self.stream = session.open(io.now, OpenRequest { service: None }).ok();
                self.next = Some(io.now);
                self.sock = io.tcp.connect(io.now, PORT, self.remote, None).ok();
            } else {
                io.tcp.listen(PORT);
            }
            self.session = Some(session);
        }
        self.session.as_mut().expect("made just now")
    }

    fn attach(&mut self, io: &mut Io<'_>) {
        let side = self.side;
        self.begin(io).attach(io.now, established(side, 1)).expect("the first link");
        self.heard = Some(io.now);
    }

    fn failed(&mut self, io: &Io<'_>, why: String) {
        self.deaths.push(why);
        self.sock = None;
        self.session.as_mut().into_iter().for_each(|session| session.detach(io.now));
    }
}

impl Program for End {
    fn datagram(&mut self, _: &mut Io<'_>, _: SocketAddr, _: SocketAddr, _: &[u8]) {}

    fn tcp(&mut self, io: &mut Io<'_>, event: Event) {
        match event {
            Event::Connected(_) => self.attach(io),
            Event::Accepted { sock, .. } => {
                self.sock = Some(sock);
                self.attach(io);
            }
            Event::Received(_, bytes) => {
                let heard = self.heard.replace(io.now).unwrap_or(io.now);
                self.longest = self.longest.max(io.now - heard);
                self.input.extend_from_slice(&bytes);
                let mut input = std::mem::take(&mut self.input);
                let result = self.begin(io).handle_input(io.now, &mut input);
                self.input = input;
                if let Err(error) = result {
                    self.failed(io, error.to_string());
                }
            }
            Event::Failed(..) | Event::Ended(..) => self.failed(io, format!("{event:?}")),
        }
    }

    fn wake(&mut self, io: &mut Io<'_>) {
        self.begin(io);
        let Some(session) = &mut self.session else { return };
        if session.poll_timeout().is_some_and(|at| at <= io.now)
            && let Err(error) = session.handle_timeout(io.now)
        {
            return self.failed(io, error.to_string());
        }
        self.sick += usize::from(session.poll_sick().is_some());
        while let Some(event) = session.poll_event() {
            if let SessionEvent::Opened { id, .. } = event {
                self.stream = Some(id);
            }
        }
        let Some(stream) = self.stream else { return };
        while let Some(bytes) = session.read(io.now, stream) {
            self.received += bytes.len();
            if self.side == 1 {
                self.echo.extend_from_slice(&bytes);
            }
        }
        if self.next.is_some_and(|at| at <= io.now) {
            self.next = Some(io.now + self.traffic.every);
            self.echo = vec![7; self.traffic.size];
        }
        let room = session.writable(stream).min(self.echo.len());
        if room > 0 {
            let bytes: Vec<u8> = self.echo.drain(..room).collect();
            session.write(stream, Bytes::from(bytes)).expect("as much as it takes");
        }
        if let Some(sock) = self.sock {
            while io.tcp.has_room(sock)
                && let Some(bytes) = session.poll_transmit(io.now)
            {
                io.tcp.send(io.now, sock, &bytes);
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        [self.session.as_ref().and_then(Session::poll_timeout), self.next].into_iter().flatten().min()
    }
}

/// One link for a time: deaths on both sides, the longest silence, bytes that came back, and how often it
/// looked sick to either side.
fn link(
    seed: u64,
    conditions: Conditions,
    traffic: Traffic,
    time: Duration,
) -> (Vec<String>, Duration, usize, usize) {
    let mut world = World::new(seed, conditions);
    let addresses: [SocketAddr; 2] =
        ["203.0.113.1:4000", "203.0.113.2:4000"].map(|text| text.parse().expect("an address"));
    let host = world.host(INTERNET, &[addresses[1].ip()], &[], End::new(1, addresses[0], traffic));
    let client = world.host(INTERNET, &[addresses[0].ip()], &[], End::new(0, addresses[1], traffic));
    world.run_for(time);
    let (client, host) = (world.program(client), world.program(host));
    let deaths = [&client.deaths[..], &host.deaths].concat();
    (deaths, client.longest.max(host.longest), client.received, client.sick + host.sick)
}

#[test]
fn no_link_is_held_for_dead_because_the_network_is_bad() {
    // 300 ms one way, 200 ms more or less, one packet in fifty lost.
    let ms = Duration::from_millis;
    let bad = Conditions { jitter: ms(400), loss: 0.02, ..Conditions::quiet(ms(100)) };
    let hour = Duration::from_secs(3600);
    let mut deaths = Vec::new();
    for (name, size, every, hours) in [
        ("idle", 0, hour, 8),
        ("keystrokes", 1, ms(700), 4),
        ("a page now and then", 20_000, ms(15_000), 2),
        ("a stream of data", 3_000, ms(250), 1),
    ] {
        let (mut longest, mut bytes, mut sick) = (Duration::ZERO, 0, 0);
        for seed in 0..hours {
            let (died, silence, received, looked_sick) = link(seed, bad, Traffic { size, every }, hour);
            longest = longest.max(silence);
            bytes += received;
            sick += looked_sick;
            deaths.extend(died.into_iter().map(|why| format!("{name}, seed {seed}: {why}")));
        }
        println!(
            "{name}: {hours} link-hours, {bytes} bytes came back, longest silence {longest:.1?}, looked sick \
             {sick} times"
        );
        assert!(bytes > 0 || size == 0, "{name}: nothing was carried");
    }
    assert_eq!(deaths, Vec::<String>::new());
}
