//! How long it takes from the death of a link to the first new byte at the application.

use std::{net::IpAddr, time::Duration};

use punchtunnel::session::StreamId;

use crate::{
    nat_model::{Behaviour, Unsolicited},
    scene::Place,
    whole::{CLIENT, HOST, Pair},
    world::Conditions,
};

const ROUND_TRIPS: [u64; 3] = [20, 100, 300];

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn linux() -> Behaviour {
    Behaviour::linux(Unsolicited::Drop)
}

/// Two with a stream whose programs write both ways: each millisecond while a recovery is timed.
struct Talk {
    pair: Pair,
    stream: StreamId,
}

impl Talk {
    fn new(seed: u64, rtt: u64) -> Self {
        let place = Place::Apart([vec![linux()], vec![linux()]]);
        let conditions = Conditions { lateness: ms(2), ..Conditions::quiet(ms(rtt) / 2) };
        let mut pair = Pair::new(seed, place, conditions);
        let stream = pair.open(CLIENT);
        let mut talk = Talk { pair, stream };
        talk.run(ms(10 * rtt + 5_000));
        talk
    }

    /// Both write a byte, and time passes.
    fn step(&mut self, time: Duration) {
        for side in [CLIENT, HOST] {
            if self.pair.pipes.held(side).contains(&self.stream) {
                self.pair.write(side, self.stream, 1);
            }
        }
        self.pair.run(time);
    }

    /// A quiet time, in which something is said now and then.
    fn run(&mut self, time: Duration) {
        let end = self.pair.now() + time;
        while self.pair.now() < end {
            self.step(ms(50));
            self.pair.read_all();
        }
    }

    /// Does something, and waits for the first byte that each side reads from a newer link: the times.
    fn recovers(&mut self, harm: impl FnOnce(&mut Pair)) -> [Duration; 2] {
        let links = [CLIENT, HOST].map(|side| self.pair.links(side).0);
        let harmed = self.pair.now();
        harm(&mut self.pair);
        let mut times = [None; 2];
        while times.contains(&None) {
            let took = self.pair.now() - harmed;
            assert!(took < ms(60_000), "no way back:\n{}", self.pair.scene.story());
            self.step(ms(1));
            for side in [CLIENT, HOST] {
                let newer = self.pair.links(side).0 > links[side];
                if self.pair.read(side, self.stream) > 0 && newer {
                    times[side].get_or_insert(took);
                }
            }
        }
        times.map(Option::unwrap_or_default)
    }
}

/// Of several runs the median of the time in which both sides have new bytes.
fn median(what: &str, rtt: u64, budget: Duration, harm: impl Fn(&mut Pair, u64)) -> bool {
    let mut both = Vec::new();
    let mut sides = [Vec::new(), Vec::new()];
    for seed in 0..3 {
        let mut talk = Talk::new(seed, rtt);
        for _ in 0..3 {
            let times = talk.recovers(|pair| harm(pair, seed));
            both.push(times[0].max(times[1]));
            sides.iter_mut().zip(times).for_each(|(side, time)| side.push(time));
            talk.run(ms(10_000));
        }
    }
    let middle = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let [client, host] = sides.each_mut().map(middle);
    let worst = both.iter().max().copied().unwrap_or_default();
    let both = middle(&mut both);
    let trips = both.as_secs_f64() * 1000.0 / rtt as f64;
    println!(
        "{what}, {rtt} ms: new bytes on both sides after {both:.0?} ({trips:.1} round trips; client {client:.0?}, \
         host {host:.0?}; worst {worst:.0?}), budget {budget:.0?}"
    );
    both <= budget
}

#[test]
fn after_a_reset_bytes_flow_again_within_three_round_trips() {
    let mut kept = true;
    for rtt in ROUND_TRIPS {
        let budget = 3 * ms(rtt) + ms(150);
        kept &= median("reset at both ends", rtt, budget, |pair, _| {
            // What the network does: each end gets a reset at the same moment.
            for side in [CLIENT, HOST] {
                pair.with(side, |peer, io| peer.kill_links(io, false));
            }
        });
        kept &= median("reset at the client", rtt, budget, |pair, _| {
            pair.with(CLIENT, |peer, io| peer.kill_links(io, true));
        });
        // Half a round trip more until the initiator hears of it.
        kept &= median("reset at the host", rtt, budget + ms(rtt) / 2, |pair, _| {
            pair.with(HOST, |peer, io| peer.kill_links(io, true));
        });
    }
    assert!(kept, "see above");
}

#[test]
fn after_a_silent_death_bytes_flow_again_within_the_limit_of_silence_and_three_round_trips() {
    let mut kept = true;
    for rtt in ROUND_TRIPS {
        // The limit is 2 s, or six times the smoothed round trip and four deviations.
        let budget = ms(2_000).max(6 * ms(rtt + rtt / 2)) + 3 * ms(rtt) + ms(150);
        for (what, deaf) in
            [("both ways", [true; 2]), ("to the client", [true, false]), ("to the host", [false, true])]
        {
            kept &= median(what, rtt, budget, |pair, _| {
                for side in [CLIENT, HOST] {
                    if deaf[side] {
                        pair.with(side, |peer, io| peer.deafen_links(io));
                    }
                }
            });
        }
    }
    assert!(kept, "see above");
}

#[test]
fn with_a_new_address_bytes_flow_again_within_eight_round_trips() {
    let mut kept = true;
    for rtt in ROUND_TRIPS {
        let budget = 8 * ms(rtt) + ms(150);
        for (what, side) in [("the client moved", CLIENT), ("the host moved", HOST)] {
            kept &= median(what, rtt, budget, |pair, _| {
                // Another NAT, another address inside and outside.
                let last = 30 + pair.links(side).0;
                let public: IpAddr = format!("198.51.100.{last}").parse().expect("an address");
                let inside: IpAddr = format!("192.168.7.{last}").parse().expect("an address");
                let id = pair.id(side);
                let network = pair.scene.world.network(crate::world::INTERNET, &linux(), &[public]);
                pair.scene.world.relocate(id, network, &[inside]);
                pair.with(side, |peer, io| peer.moved(io));
            });
        }
    }
    assert!(kept, "see above");
}
