//! The real binary on the command line: what it prints where, with which exit code, and what it says
//! when it is used wrongly.

mod harness;
mod network;
#[cfg(unix)]
mod signals;
mod words;
