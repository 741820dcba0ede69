//! Make before break: a link that looks sick has a successor before it is held for dead.

use std::time::Duration;

use crate::{
    nat_model::{Behaviour, Unsolicited},
    scene::Place,
    seeds,
    whole::{CLIENT, HOST, Pair},
    world::Conditions,
};

/// Runs of a scenario, each from another seed.
const SEEDS: u64 = 3;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn pair(seed: u64, conditions: Conditions) -> Pair {
    let linux = || vec![Behaviour::linux(Unsolicited::Drop)];
    Pair::new(seed, Place::Apart([linux(), linux()]), conditions)
}

/// Links that each side has had, and how many of them it held for dead for their silence.
fn links(pair: &mut Pair) -> [(u32, u32); 2] {
    [CLIENT, HOST].map(|side| {
        let id = pair.id(side);
        pair.scene.tunnel(id).map_or((0, 0), |tunnel| (tunnel.links, tunnel.silent))
    })
}

/// Something harms the link of a stream on which both sides write: another link comes before anybody holds
/// the old one for dead, and no byte is lost.
fn is_mended(what: &str, harm: impl Fn(&mut Pair)) {
    for seed in 0..seeds(SEEDS) {
        for writing in [true, false] {
            let mut pair = pair(seed, Conditions { jitter: ms(4), ..Conditions::quiet(ms(50)) });
            let stream = pair.open(CLIENT);
            pair.delivers(ms(5_000));
            pair.run(ms(20_000));
            harm(&mut pair);
            let harmed = pair.now();
            let mut mended = None;
            while pair.now() < harmed + ms(15_000) {
                if writing {
                    pair.write(CLIENT, stream, 100);
                    pair.write(HOST, stream, 100);
                }
                pair.run(ms(20));
                pair.read_all();
                if mended.is_none() && links(&mut pair).iter().all(|(links, _)| *links == 2) {
                    mended = Some(pair.now() - harmed);
                }
            }
            println!("{what}, writing {writing}: the next link after {mended:?}");
            assert_eq!(links(&mut pair), [(2, 0); 2], "{what}:\n{}", pair.scene.story());
            pair.delivers(ms(20_000));
            pair.ends_well(ms(20_000));
        }
    }
}

#[test]
fn a_link_that_has_become_ten_times_slower_is_replaced() {
    is_mended("ten times slower", |pair| {
        let ends = pair.with(CLIENT, |peer, io| peer.link_ends(io));
        pair.scene.world.slow.extend(ends.into_iter().map(|end| (end, ms(450))));
    });
}

#[test]
fn a_link_that_loses_everything_one_way_is_replaced_before_it_is_held_for_dead() {
    for side in [CLIENT, HOST] {
        is_mended(&format!("side {side} hears nothing"), |pair| {
            pair.with(side, |peer, io| peer.deafen_links(io));
        });
    }
}

#[test]
fn a_bad_network_does_not_cause_links_without_end() {
    // 300 ms one way, 200 ms more or less, one packet in fifty lost.
    let bad = Conditions { jitter: ms(400), loss: 0.02, ..Conditions::quiet(ms(100)) };
    // A fifth of what the least time between two of them would let through.
    const MOST: u64 = 24;
    let hours = 2;
    let mut replaced = 0;
    for seed in 0..hours {
        let mut pair = pair(seed, bad);
        let stream = pair.open(CLIENT);
        pair.delivers(ms(60_000));
        let before = links(&mut pair)[CLIENT].0;
        for _ in 0..3600 {
            pair.write(CLIENT, stream, 1);
            pair.run(ms(1_000));
            pair.read_all();
        }
        replaced += links(&mut pair)[CLIENT].0 - before;
        pair.delivers(ms(60_000));
    }
    println!("{replaced} links were replaced in {hours} hours");
    assert!(u64::from(replaced) <= MOST * hours, "{replaced} links in {hours} hours");
}
