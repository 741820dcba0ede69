//! What is fuzzed: every decoder, and every core state machine under a hostile script. One function for each
//! target, from any bytes to nothing; what it must not do is panic, break an assertion, or grow.
//!
//! cargo-fuzz runs them for hours (`docs/TESTING.md`); `tests/fuzz.rs` runs the same functions over the committed
//! corpus and over bytes from a seed, with every `cargo test`.

mod association;
mod channel;
mod decoders;
mod doctor;
mod endpoint;
mod files;
mod keys;
mod liar;
mod link;
mod mux;
mod names;
mod nat;
mod script;
mod session;

pub use endpoint::play;

/// A target.
pub type Target = fn(&[u8]);

/// All of them, by name: the name of the program in `fuzz_targets` and of the directory in `corpus`.
pub const TARGETS: [(&str, Target); 17] = [
    ("packet", decoders::packet),
    ("server_messages", decoders::server_messages),
    ("peer_messages", decoders::peer_messages),
    ("probes", decoders::probes),
    ("records", decoders::records),
    ("texts", decoders::texts),
    ("nat", nat::measured),
    ("plan", nat::told),
    ("doctor", doctor::run),
    ("files", files::run),
    ("names", names::run),
    ("association", association::run),
    ("channel", channel::run),
    ("endpoint", endpoint::run),
    ("link", link::run),
    ("mux", mux::run),
    ("session", session::run),
];

/// The program of a target.
#[macro_export]
macro_rules! program {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            let found = $crate::TARGETS.iter().find(|(name, _)| *name == $name);
            found.expect("a target of that name").1(bytes);
        });
    };
}
