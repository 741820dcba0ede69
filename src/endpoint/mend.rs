//! Make before break: a link that looks sick gets its successor while it still carries data.
//!
//! Only the initiator starts attempts, so a responder that notices says so. The attempt is as any other, but
//! for what follows a failure: nothing, as long as the link lives. A connection that comes of it is nominated
//! under a higher epoch and takes the link's place; where the link dies before that, the attempt goes on as
//! the one that follows the death of a link.

use std::time::{Duration, Instant};

use super::peer::{Env, Peer};
use crate::wire::peer::PeerMessage;

/// A link that looks sick gets a successor at most this often: where the network is just bad, another link
/// is no better, and each attempt costs ports and probes.
const AGAIN: Duration = Duration::from_secs(30);

impl Peer {
    /// The link of that epoch looks sick, here or to the other side.
    pub(super) fn link_sick(&mut self, now: Instant, epoch: u32, env: &mut Env) {
        let lately = self.mended.is_some_and(|at| now < at + AGAIN);
        if self.link == Some(epoch) && !lately && self.closing.is_none() {
            self.mend(now, env);
        }
    }

    /// The network changed: a link may go on, and may be dead without anybody knowing. However often that
    /// happens.
    pub(super) fn mend(&mut self, now: Instant, env: &mut Env) {
        self.mended = Some(now);
        self.link_proves(now);
        self.line.suspect(now);
        if self.initiator {
            self.mending = true;
            self.begin_attempt(now, env);
        } else if let Some(epoch) = self.link {
            let _ = self.line.send(now, PeerMessage::LinkSick { epoch });
        }
    }

    /// This side is to make a link: there is none, or a sick one.
    pub(super) fn leads(&self) -> bool {
        self.initiator && (self.link.is_none() || self.mending)
    }

    /// No successor came of an attempt: whether the link lives that it was for. Then nothing follows.
    pub(super) fn link_goes_on(&mut self, now: Instant) -> bool {
        if self.link.is_none() {
            return false;
        }
        (self.mending, self.repeat_due) = (false, false);
        self.retire(now);
        true
    }
}
