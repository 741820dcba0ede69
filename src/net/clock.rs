//! The only place that reads clocks and draws random numbers; the cores get both as arguments.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::{TryRng, rngs::SysRng};

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this is the driver's clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Wall-clock time since 1970, for what is kept on disk. Zero on a machine whose clock is before that.
#[expect(clippy::disallowed_methods, reason = "this is the driver's clock")]
pub fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// 32 bytes from the operating system's random number generator: the seed of a core, or a key.
///
/// # Panics
/// Where the operating system has no random numbers to give. Nothing secure can be done without them.
pub fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    SysRng.try_fill_bytes(&mut seed).expect("the operating system gives random numbers");
    seed
}

/// Waits until a core's next deadline; for ever where it has none.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
