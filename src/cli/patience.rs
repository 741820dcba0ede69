//! How long `connect` may be without a connection.

use std::time::{Duration, Instant};

use punchtunnel::net::clock;
use tokio::{sync::watch, time::sleep_until};

/// Runs out when there has been no link for too long. Time asleep does not count: nobody tried.
pub(crate) struct Patience {
    /// `None`: for ever.
    limit: Option<Duration>,
    /// There has been no link since then.
    without: watch::Sender<Option<Instant>>,
}

impl Patience {
    /// Without a link, from now on.
    pub(crate) fn new(limit: Option<Duration>) -> Patience {
        Patience { limit, without: watch::Sender::new(Some(clock::now())) }
    }

    /// There is a link.
    pub(crate) fn linked(&self) {
        self.without.send_replace(None);
    }

    /// There is none any more.
    pub(crate) fn lost(&self) {
        self.without.send_if_modified(|without| without.is_none() && without.replace(clock::now()).is_none());
    }

    /// Waits until it has run out; tells the limit.
    pub(crate) async fn over(&self) -> Duration {
        let mut without = self.without.subscribe();
        loop {
            let since = *without.borrow_and_update();
            let until =
                self.limit.zip(since).and_then(|(limit, since)| Some((since.checked_add(limit)?, limit)));
            let over = async {
                match until {
                    Some((at, limit)) => {
                        sleep_until(at.into()).await;
                        limit
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender is this one's own.
                _ = without.changed() => {}
                limit = over => return limit,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn it_runs_out_without_a_link_and_not_while_there_is_one() {
        let patience = Patience::new(Some(LIMIT));
        assert_eq!(patience.over().await, LIMIT);
        patience.linked();
        let mut over = pin!(patience.over());
        timeout(2 * LIMIT, over.as_mut()).await.expect_err("there is a link");
        patience.lost();
        patience.lost();
        assert_eq!(over.await, LIMIT);
        let endless = Patience::new(None);
        timeout(LIMIT, endless.over()).await.expect_err("for ever");
    }
}
