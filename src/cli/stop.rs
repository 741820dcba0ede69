//! Being told to stop.

/// Listens for Ctrl-C, and for SIGTERM as service managers send it, from the moment it is made.
pub(crate) struct Stop {
    #[cfg(unix)]
    signals: Option<[tokio::signal::unix::Signal; 2]>,
}

impl Stop {
    /// Needs a runtime.
    pub(crate) fn listen() -> Stop {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            // This fails only where a signal cannot be caught; then it ends the process by itself.
            let signals =
                signal(SignalKind::interrupt()).and_then(|i| Ok([i, signal(SignalKind::terminate())?]));
            Stop { signals: signals.ok() }
        }
        #[cfg(not(unix))]
        Stop {}
    }

    /// Ready once for each time that the program is told to stop, also for times that nobody awaited.
    pub(crate) async fn requested(&mut self) {
        #[cfg(unix)]
        match &mut self.signals {
            Some([interrupt, terminate]) => {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            }
            None => std::future::pending().await,
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
