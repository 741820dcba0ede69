//! Being told to stop.

use std::{process, sync::Arc, time::Duration};

use tokio::sync::{Notify, watch};

/// How often the server's name is looked up again while it has no address: a computer that has just
/// started is often online a few seconds later.
pub(crate) const LOOK_UP_AGAIN: Duration = Duration::from_secs(5);

/// Listens for Ctrl-C, for SIGTERM as service managers send it, and for SIGHUP as a closed terminal and
/// ssh (to the ProxyCommand that it does not need any more) send it, from the moment it is made.
///
/// Whoever was told to stop says goodbye first: a host would keep the session of a client that is just
/// gone for a day. Whoever is told a second time ends at once, whatever it is waiting for.
pub(crate) struct Stop {
    told: watch::Receiver<bool>,
    reloads: Arc<Notify>,
}

/// What SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hangup {
    /// The same as SIGTERM, always: for ssh's proxy.
    Stops,
    /// The same, except under `nohup`, as far as that can be seen.
    StopsUnlessIgnored,
    /// What servers do: something is to be read again.
    Reloads,
}

impl Stop {
    /// Needs a runtime.
    pub(crate) fn listen(hangup: Hangup) -> Stop {
        let (tell, told) = watch::channel(false);
        let reloads = Arc::new(Notify::new());
        // Signals are caught from here on, and not only once the task runs.
        let mut signals = Signals::catch(match hangup {
            Hangup::Stops => true,
            Hangup::StopsUnlessIgnored => hangup_stops(),
            Hangup::Reloads => false,
        });
        #[cfg(unix)]
        if hangup == Hangup::Reloads {
            pass_on(reloads.clone());
        }
        tokio::spawn(async move {
            signals.next().await;
            tell.send_replace(true);
            signals.next_order().await;
            process::exit(1);
        });
        Stop { told, reloads }
    }

    /// Tells each time that something is to be read again, where SIGHUP means that; several at once count
    /// as one.
    pub(crate) fn reloads(&self) -> Arc<Notify> {
        self.reloads.clone()
    }

    /// Ready once the program has been told to stop, and from then on.
    pub(crate) async fn requested(&mut self) {
        if self.told.wait_for(|told| *told).await.is_err() {
            // The task that listens is gone with the runtime.
            std::future::pending().await
        }
    }
}

/// SIGHUP is known not to be ignored: a handler of ours would undo what `nohup` did.
fn hangup_stops() -> bool {
    // Bit 0 of the mask is signal 1.
    let is_ignored = |status: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok().map(|mask| mask & 1 != 0)
    };
    // Where there is no such file, SIGHUP does what it always does.
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| is_ignored(&status) == Some(false))
}

/// From SIGHUP, for ever.
#[cfg(unix)]
fn pass_on(reloads: Arc<Notify>) {
    use tokio::signal::unix::{SignalKind, signal};
    // It fails only where the signal cannot be caught.
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reloads.notify_one();
        }
    });
}

#[cfg(unix)]
struct Signals {
    /// SIGINT and SIGTERM.
    orders: Vec<tokio::signal::unix::Signal>,
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn catch(hangup: bool) -> Signals {
        use tokio::signal::unix::{SignalKind, signal};
        // This fails only where a signal cannot be caught; then it ends the process by itself.
        let orders = [SignalKind::interrupt(), SignalKind::terminate()];
        let hangup = hangup.then(|| signal(SignalKind::hangup()).ok()).flatten();
        Signals { orders: orders.into_iter().filter_map(|kind| signal(kind).ok()).collect(), hangup }
    }

    /// The next one, also if it came while nobody waited.
    async fn next(&mut self) {
        use std::task::Poll;
        std::future::poll_fn(|context| {
            let mut signals = self.orders.iter_mut().chain(&mut self.hangup);
            match signals.any(|signal| signal.poll_recv(context).is_ready()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// The next order of a person or a service manager. A hangup is none: ssh sends one to a proxy that
    /// the same Ctrl-C has reached already.
    async fn next_order(&mut self) {
        self.hangup = None;
        self.next().await;
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn catch(_: bool) -> Signals {
        Signals
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }

    async fn next_order(&mut self) {
        self.next().await;
    }
}
