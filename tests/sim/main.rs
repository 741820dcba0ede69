//! Whole peers, server and NATs in one thread under virtual time.
#![allow(unreachable_pub, missing_docs, reason = "a test program has no interface")]

#[path = "../nat_model/mod.rs"]
mod nat_model;
mod openings;
mod tcp;
mod world;
