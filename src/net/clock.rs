//! The only place that reads clocks and draws random numbers; the cores get both as arguments.

use std::{
    pin::Pin,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::{TryRng, rngs::SysRng};
use tokio::time::Sleep;

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this is the driver's clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Time on a clock that runs while the machine sleeps, and that nobody sets. Only differences mean
/// something. (Where the system has no such clock it is the wall clock.)
pub fn since_boot() -> Duration {
    #[cfg(unix)]
    {
        use rustix::time::{ClockId, clock_gettime};
        // Linux's monotonic clock stops in sleep; that of the BSDs and of macOS does not.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        const CLOCK: ClockId = ClockId::Boottime;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        const CLOCK: ClockId = ClockId::Monotonic;
        clock_gettime(CLOCK).try_into().unwrap_or_default()
    }
    #[cfg(not(unix))]
    since_1970()
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

/// A timer for a deadline that moves with every byte. It is set anew only where it would ring too late,
/// because setting one costs a wake-up of the runtime; so it may ring too early.
pub(crate) struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    /// Not set.
    pub(crate) fn new() -> Self {
        Alarm(Box::pin(tokio::time::sleep(Duration::ZERO)))
    }

    /// Waits until the deadline at most; for ever where there is none. To be asked again then.
    pub(crate) async fn until(&mut self, deadline: Option<Instant>) {
        let Some(deadline) = deadline.map(tokio::time::Instant::from_std) else {
            return std::future::pending().await;
        };
        if self.0.is_elapsed() || deadline < self.0.deadline() {
            self.0.as_mut().reset(deadline);
        }
        self.0.as_mut().await;
    }
}

/// Waits until a core's next deadline; for ever where it has none.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
