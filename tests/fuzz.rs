//! What cargo-fuzz runs for hours, for a moment: over the committed corpus, and over bytes from a seed.
#![allow(unreachable_pub, missing_docs, reason = "shared with the fuzz targets")]
#![allow(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::{fs, path::Path};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Inputs a target from a seed. More: `FUZZ_INPUTS=100000 cargo test --release --test fuzz`.
const INPUTS: u64 = 500;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn the_committed_corpus_is_survived() {
    for (name, target) in targets::TARGETS {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name} has no corpus");
        corpus.iter().for_each(|input| target(input));
    }
}

/// A target whose scripts all end at the door would prove nothing.
#[test]
fn scripts_of_the_corpus_make_sessions_and_links_on_both_sides() {
    let reached: Vec<_> = corpus("endpoint").iter().map(|script| targets::play(script)).collect();
    for host in [false, true] {
        let ours = || reached.iter().filter(|reached| reached.host == host);
        let (sessions, links) =
            (ours().filter(|r| r.sessions > 0).count(), ours().filter(|r| r.links > 0).count());
        let openings = ours().map(|reached| reached.openings).max();
        println!(
            "host {host}: {sessions} scripts with sessions, {links} with links, {openings:?} openings at most"
        );
        assert!(sessions > 0 && links > 0, "host {host}: {reached:?}");
    }
}

#[test]
fn bytes_from_a_seed_are_survived() {
    let inputs = std::env::var("FUZZ_INPUTS").map_or(INPUTS, |count| count.parse().expect("a number"));
    for (name, target) in targets::TARGETS {
        let corpus = corpus(name);
        for seed in 0..inputs {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut input = match corpus.get(rng.random_range(0..corpus.len() + 1)) {
                Some(known) => known.clone(),
                None => (0..rng.random_range(0..2_000)).map(|_| rng.random()).collect(),
            };
            for _ in 0..rng.random_range(0..4) {
                let length = input.len();
                if let Some(byte) = input.get_mut(rng.random_range(0..length.max(1))) {
                    *byte = rng.random();
                }
            }
            let ran = std::panic::catch_unwind(|| target(&input));
            assert!(ran.is_ok(), "{name}, seed {seed}: {input:02x?}");
        }
    }
}
