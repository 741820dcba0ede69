//! Whole peers, server and NATs in one thread under virtual time.

#[path = "../nat_model/mod.rs"]
mod nat_model;
