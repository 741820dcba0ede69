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

    /// Sets it, so that it rings at the deadline at the latest; when it will ring.
    pub(crate) fn set(&mut self, deadline: Option<Instant>) -> Option<Instant> {
        let wanted = tokio::time::Instant::from_std(deadline?);
        if self.0.is_elapsed() || wanted < self.0.deadline() {
            self.0.as_mut().reset(wanted);
        }
        Some(self.0.deadline().into_std())
    }

    /// Waits until it rings: only where there was a deadline.
    pub(crate) async fn ring(&mut self) {
        self.0.as_mut().await;
    }
}

/// Notices that nothing comes any more, with one timer a second for whatever comes, and with none where nothing does.
#[derive(Default)]
pub(crate) struct Idle {
    /// None since it was told that nothing comes.
    timer: Option<Pin<Box<Sleep>>>,
    /// Something came since the timer was set.
    busy: bool,
}

impl Idle {
    /// Waits for what comes. `None` once where nothing has come for so long, or for twice as long, since something did.
    pub(crate) async fn wait<T>(&mut self, span: Duration, coming: impl Future<Output = T>) -> Option<T> {
        let mut coming = std::pin::pin!(coming);
        while let Some(timer) = &mut self.timer {
            tokio::select! {
                biased;
                come = &mut coming => {
                    self.busy = true;
                    return Some(come);
                }
                () = timer.as_mut() => {}
            }
            if !std::mem::take(&mut self.busy) {
                self.timer = None;
                return None;
            }
            timer.as_mut().reset((now() + span).into());
        }
        let come = coming.await;
        self.timer = Some(Box::pin(tokio::time::sleep(span)));
        Some(come)
    }
}

/// Waits until a core's next deadline; for ever where it has none.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn it_is_told_once_that_nothing_comes() {
        const SPAN: Duration = Duration::from_millis(2);
        let (bring, mut coming) = mpsc::unbounded_channel();
        let mut idle = Idle::default();
        for round in [1, 2] {
            tokio::spawn({
                let bring = bring.clone();
                async move {
                    tokio::time::sleep(10 * SPAN).await;
                    bring.send(round).unwrap();
                }
            });
            assert_eq!(idle.wait(SPAN, coming.recv()).await, Some(Some(round)), "nothing was told before");
            assert_eq!(idle.wait(SPAN, coming.recv()).await, None);
        }
    }
}
