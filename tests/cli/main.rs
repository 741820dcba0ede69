//! The real binary on the command line: what it prints where, with which exit code, and what it says
//! when it is used wrongly.

#[cfg(target_os = "linux")]
mod calls;
mod granted;
mod harness;
#[cfg(unix)]
mod names;
mod network;
#[cfg(unix)]
mod secrets;
#[cfg(unix)]
mod signals;
#[cfg(unix)]
mod status;
mod words;
