//! Whole peers, server and NATs in one thread under virtual time.
#![allow(unreachable_pub, missing_docs, reason = "a test program has no interface")]

mod crowd;
mod exchange;
mod false_alarms;
mod memory;
mod mending;
mod model;
#[path = "../nat_model/mod.rs"]
mod nat_model;
mod openings;
mod oracle;
mod pairs;
mod peer;
mod recovery;
mod scenarios;
mod scene;
mod server;
mod suspended;
mod table;
mod tcp;
mod whole;
mod world;

use rand::{Rng, SeedableRng, rngs::StdRng};

/// 32 bytes out of a number.
pub fn spread(seed: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Runs of a cell or scenario: `SIM_SEEDS` where it is set, for a long night.
pub fn seeds(usually: u64) -> u64 {
    std::env::var("SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(usually)
}
