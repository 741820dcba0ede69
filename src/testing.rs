//! What the tests of all rooms share.

use std::{sync::OnceLock, time::Instant};

/// The instant at which every test begins.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had from nowhere else; all others are computed"
)]
pub(crate) fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}
