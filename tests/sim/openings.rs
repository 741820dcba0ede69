//! The world and its TCP, tried with scripted hosts: what `docs/NAT.md` says that real sockets do.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{
    nat_model::{Behaviour, Filtering, Unsolicited},
    tcp::{End, Event, Failure, SockId},
    world::{Conditions, HostId, INTERNET, Io, NetworkId, Program, World},
};

/// Notes everything, and opens again after a refusal where it is told to.
#[derive(Default)]
struct Recorder {
    events: Vec<Event>,
    datagrams: Vec<(SocketAddr, Vec<u8>)>,
    redial: Option<(u16, SocketAddr)>,
    redials: u32,
}

impl Program for Recorder {
    fn datagram(&mut self, _: &mut Io<'_>, from: SocketAddr, _: SocketAddr, bytes: &[u8]) {
        self.datagrams.push((from, bytes.to_vec()));
    }

    fn tcp(&mut self, io: &mut Io<'_>, event: Event) {
        if let (Event::Failed(_, Failure::Refused | Failure::Unreachable), Some((port, remote))) =
            (&event, self.redial)
        {
            self.redials += 1;
            io.tcp.connect(io.now, port, remote, None).expect("the socket before is gone");
        }
        self.events.push(event);
    }

    fn wake(&mut self, _: &mut Io<'_>) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

impl Recorder {
    fn connected(&self) -> Option<SockId> {
        self.events.iter().find_map(|event| match event {
            Event::Connected(sock) | Event::Accepted { sock, .. } => Some(*sock),
            _ => None,
        })
    }

    fn received_len(&self) -> usize {
        let lengths = self.events.iter().map(|event| match event {
            Event::Received(_, bytes) => bytes.len(),
            _ => 0,
        });
        lengths.sum()
    }

    fn received(&self) -> Vec<u8> {
        let bytes = self.events.iter().filter_map(|event| match event {
            Event::Received(_, bytes) => Some(bytes.as_slice()),
            _ => None,
        });
        bytes.flatten().copied().collect()
    }
}

const PORT: u16 = 5000;
const INSIDE: &str = "10.0.0.2";
const OUTSIDE: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn quiet(delay: u64) -> Conditions {
    Conditions::quiet(ms(delay))
}

/// Two hosts, each behind a NAT of its own.
struct Pair {
    world: World<Recorder>,
    hosts: [HostId; 2],
    targets: [SocketAddr; 2],
}

fn pair(behaviours: [&Behaviour; 2], conditions: Conditions) -> Pair {
    seeded(behaviours, conditions, 1)
}

fn seeded(behaviours: [&Behaviour; 2], conditions: Conditions, seed: u64) -> Pair {
    let mut world = World::new(seed, conditions);
    let hosts = [0, 1].map(|i| {
        let network: NetworkId = world.network(INTERNET, behaviours[i], &[ip(OUTSIDE[i])]);
        world.host(network, &[ip(INSIDE)], &[PORT], Recorder::default())
    });
    let targets = [1, 0].map(|other| SocketAddr::new(ip(OUTSIDE[other]), PORT));
    Pair { world, hosts, targets }
}

impl Pair {
    fn listen(&mut self, side: usize) {
        self.world.with(self.hosts[side], |_, io| io.tcp.listen(PORT));
    }

    /// Opens from the punch port towards the other's.
    fn open(&mut self, side: usize, ttl: Option<u8>) -> bool {
        let target = self.targets[side];
        self.world.with(self.hosts[side], |_, io| io.tcp.connect(io.now, PORT, target, ttl).is_ok())
    }

    fn redial(&mut self) {
        for side in [0, 1] {
            let target = self.targets[side];
            self.world.with(self.hosts[side], |program, _| program.redial = Some((PORT, target)));
        }
    }

    fn program(&self, side: usize) -> &Recorder {
        self.world.program(self.hosts[side])
    }

    fn both_within(&mut self, time: Duration) -> bool {
        let hosts = self.hosts;
        self.world.run_until(time, |w| hosts.iter().all(|&host| w.program(host).connected().is_some()))
    }
}

#[test]
fn two_simultaneous_opens_through_two_preserving_nats_both_establish() {
    let linux = Behaviour::linux(Unsolicited::Drop);
    for skew in [0, 10, 24, 26, 100] {
        let mut pair = pair([&linux, &linux], quiet(25));
        assert!(pair.open(0, None));
        pair.world.run_for(ms(skew));
        assert!(pair.open(1, None));
        assert!(pair.both_within(ms(1100)), "skew {skew}");
        let both: Vec<SockId> = [0, 1].map(|side| pair.program(side).connected().unwrap()).to_vec();
        pair.world.with(pair.hosts[0], |_, io| io.tcp.send(io.now, both[0], b"hello"));
        pair.world.run_for(ms(100));
        assert_eq!(pair.program(1).received(), b"hello");
    }
}

#[test]
fn a_simultaneous_open_survives_the_loss_of_any_of_its_packets() {
    let linux = Behaviour::linux(Unsolicited::Drop);
    let mut connected = 0;
    for seed in 0..200 {
        let conditions = Conditions { loss: 0.2, ..Conditions::usual(ms(25)) };
        let mut pair = seeded([&linux, &linux], conditions, seed);
        pair.open(0, None);
        pair.open(1, None);
        connected += u32::from(pair.both_within(ms(10_000)));
    }
    assert!(connected >= 198, "{connected} of 200 at 20 % loss");
}

#[test]
fn resets_for_early_syns_end_the_opening_unless_it_is_redialled() {
    let reset = Behaviour::linux(Unsolicited::Reset);
    for (redial, skew, expected) in [
        (false, 0, true),
        (false, 60, false),
        (true, 0, true),
        (true, 20, true),
        (true, 60, true),
        (true, 120, true),
    ] {
        let mut pair = pair([&reset, &reset], quiet(25));
        if redial {
            pair.redial();
        }
        pair.open(0, None);
        pair.world.run_for(ms(skew));
        pair.open(1, None);
        assert_eq!(pair.both_within(ms(4000)), expected, "redial {redial}, skew {skew} ms");
    }
}

#[test]
fn icmp_ends_the_opening_at_once_and_redialling_saves_it() {
    let icmp = Behaviour::linux(Unsolicited::Icmp);
    let mut alone = pair([&icmp, &icmp], quiet(25));
    alone.open(0, None);
    alone.world.run_for(ms(60));
    assert!(matches!(alone.program(0).events[..], [Event::Failed(_, Failure::Unreachable)]));

    let mut pair = pair([&icmp, &icmp], quiet(25));
    pair.redial();
    pair.open(0, None);
    pair.world.run_for(ms(60));
    pair.open(1, None);
    assert!(pair.both_within(ms(4000)));
}

#[test]
fn sequential_nats_that_reset_hate_redialling() {
    let behaviour = Behaviour::sequential(1).resetting();
    let mut pair = pair([&behaviour, &behaviour], quiet(25));
    pair.redial();
    pair.open(0, None);
    pair.world.run_for(ms(60));
    pair.open(1, None);
    assert!(!pair.both_within(ms(4000)));
    assert!(pair.program(0).redials > 10);
}

#[test]
fn an_early_syn_waits_half_open_at_the_listener_and_accept_delivers_it() {
    let preserving = Behaviour::linux(Unsolicited::Drop);
    let open = Behaviour {
        assignment: crate::nat_model::Assignment::Preserving,
        ..Behaviour::endpoint_independent(Filtering::EndpointIndependent)
    };
    for listener in [true, false] {
        let mut pair = pair([&preserving, &open], quiet(25));
        // The open NAT's mapping is there already: a connection to somebody else.
        pair.world.with(pair.hosts[1], |_, io| {
            let elsewhere = SocketAddr::new(ip("203.0.113.1"), 7862);
            io.tcp.connect(io.now, PORT, elsewhere, None).expect("a free tuple");
            if listener {
                io.tcp.listen(PORT);
            }
        });
        pair.world.run_for(ms(10));
        pair.open(0, None);
        pair.world.run_for(ms(40));
        assert_eq!(pair.open(1, None), !listener, "the tuple exists exactly if a listener holds it");
        let established = pair.both_within(ms(500));
        assert_eq!(established, listener);
        let accepted = pair.program(1).events.iter().any(|e| matches!(e, Event::Accepted { .. }));
        assert_eq!(accepted, listener);
        let refused = matches!(pair.program(0).events[..], [Event::Failed(_, Failure::Refused)]);
        assert_eq!(refused, !listener, "without a listener the connecting socket's host resets");
    }
}

#[test]
fn a_listener_that_gets_a_bare_syn_ack_resets() {
    let mut world = World::new(1, quiet(10));
    let [a, b] = OUTSIDE.map(|address| world.host(INTERNET, &[ip(address)], &[], Recorder::default()));
    let target = SocketAddr::new(ip(OUTSIDE[1]), PORT);
    world.with(b, |_, io| io.tcp.listen(PORT));
    // The SYN's answer finds its sender gone: closing in SYN_SENT sends nothing, the late SYN/ACK a reset.
    world.with(a, |_, io| {
        io.tcp.listen(PORT);
        let sock = io.tcp.connect(io.now, PORT, target, None).expect("a free tuple");
        io.tcp.close(io.now, sock);
    });
    world.run_for(ms(15));
    world.with(b, |_, io| assert_eq!(io.tcp.len(), 1, "half-open"));
    world.run_for(ms(20));
    world.with(b, |_, io| assert_eq!(io.tcp.len(), 0, "reset"));
    assert!(world.program(b).events.is_empty(), "accept never delivers it");
}

#[test]
fn a_syn_is_repeated_each_second_before_the_distances_double() {
    let linux = Behaviour::linux(Unsolicited::Drop);
    let mut pair = pair([&linux, &linux], quiet(25));
    pair.open(0, None);
    let mut seen = Vec::new();
    for _ in 0..120 {
        pair.world.run_for(ms(100));
        if pair.world.syns as usize > seen.len() {
            seen.push((pair.world.elapsed().as_millis() / 1000) as u64);
        }
    }
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 7, 11]);
}

#[test]
fn a_strict_firewall_can_be_punched_from_one_side_only() {
    let (strict, linux) = (Behaviour::strict(), Behaviour::linux(Unsolicited::Drop));
    for (behaviours, expected) in
        [([&strict, &strict], false), ([&strict, &linux], true), ([&linux, &strict], true)]
    {
        let mut pair = pair(behaviours, quiet(25));
        pair.open(0, None);
        pair.open(1, None);
        assert_eq!(pair.both_within(ms(4000)), expected);
    }
}

#[test]
fn a_syn_of_low_ttl_opens_the_own_nat_and_dies_before_the_other() {
    let [mut low, mut full] = [Some(4), None].map(|ttl| {
        let mut pair =
            pair([&Behaviour::linux(Unsolicited::Drop), &Behaviour::linux(Unsolicited::Reset)], quiet(25));
        assert!(pair.open(0, ttl));
        pair
    });
    for pair in [&mut low, &mut full] {
        pair.world.run_for(ms(60));
    }
    assert!(matches!(low.program(0).events[..], [Event::Failed(_, Failure::Unreachable)]), "by a router");
    assert!(matches!(full.program(0).events[..], [Event::Failed(_, Failure::Refused)]), "by the NAT");
    // The NAT kept the mapping: the ICMP error deletes nothing.
    low.listen(0);
    assert!(low.open(1, None));
    assert!(low.both_within(ms(4000)));
}

#[test]
fn datagrams_pass_once_both_have_sent() {
    let linux = Behaviour::linux(Unsolicited::Drop);
    let mut pair = pair([&linux, &linux], quiet(25));
    for (side, heard) in [(0, 0), (1, 1), (0, 1)] {
        let target = pair.targets[side];
        pair.world.with(pair.hosts[side], |_, io| io.send(PORT, target, vec![7]));
        pair.world.run_for(ms(30));
        assert_eq!(pair.program(1 - side).datagrams.len(), heard);
    }
}

#[test]
fn a_connection_carries_every_byte_once_and_in_order_whatever_is_lost() {
    let conditions = Conditions { jitter: ms(10), loss: 0.05, ..Conditions::usual(ms(20)) };
    let mut world = World::new(3, conditions);
    let [a, b] = OUTSIDE.map(|address| world.host(INTERNET, &[ip(address)], &[], Recorder::default()));
    world.with(b, |_, io| io.tcp.listen(PORT));
    let target = SocketAddr::new(ip(OUTSIDE[1]), PORT);
    let sent: Vec<u8> = (0..500_000_u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    world.with(a, |_, io| {
        let sock = io.tcp.connect(io.now, PORT, target, None).expect("a free tuple");
        io.tcp.send(io.now, sock, &sent);
    });
    let ended = |w: &World<Recorder>| w.program(b).received_len() == sent.len();
    assert!(world.run_until(Duration::from_secs(60), ended));
    assert!(world.program(b).received() == sent);
    let sock = world.program(a).connected().expect("bytes have come");
    world.with(a, |_, io| io.tcp.close(io.now, sock));
    world.run_for(ms(3000));
    let other = world.program(b).connected().expect("bytes have come");
    assert_eq!(world.program(b).events.last(), Some(&Event::Ended(other, End::Fin)));
    world.with(b, |_, io| io.tcp.close(io.now, other));
    world.run_for(ms(3000));
    assert_eq!([a, b].map(|host| world.with(host, |_, io| io.tcp.len())), [0, 0], "nothing is left");
}

#[test]
fn a_reset_reaches_the_other_side_through_both_nats() {
    let linux = Behaviour::linux(Unsolicited::Drop);
    let mut pair = pair([&linux, &linux], quiet(25));
    pair.open(0, None);
    pair.open(1, None);
    assert!(pair.both_within(ms(1000)));
    let sock = pair.program(0).connected().expect("both are");
    pair.world.with(pair.hosts[0], |_, io| io.tcp.abort(sock));
    pair.world.run_for(ms(100));
    assert!(matches!(pair.program(1).events.last(), Some(Event::Ended(_, End::Reset))));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut world =
            World::new(seed, Conditions { jitter: ms(10), loss: 0.05, ..Conditions::usual(ms(20)) });
        let [a, b] = OUTSIDE.map(|address| world.host(INTERNET, &[ip(address)], &[], Recorder::default()));
        world.with(b, |_, io| io.tcp.listen(PORT));
        world.with(a, |_, io| {
            let target = SocketAddr::new(ip(OUTSIDE[1]), PORT);
            let sock = io.tcp.connect(io.now, PORT, target, None).expect("a free tuple");
            io.tcp.send(io.now, sock, &[1; 100_000]);
        });
        world.run_until(Duration::from_secs(60), |w| w.program(b).received_len() == 100_000);
        (world.elapsed(), world.crossed)
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}
