//! The real server, alone against many: killed at any instant, flooded, without descriptors.
#![cfg(unix)]

mod flood;
#[path = "../cli/harness.rs"]
#[allow(dead_code, reason = "the tests of the command line use more of it")]
mod harness;
mod listen;
mod names;
mod party;
mod strangers;
