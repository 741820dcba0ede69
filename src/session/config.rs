//! What can be chosen for a session.

use std::time::Duration;

use crate::wire::record::MAX_SESSION_BODY;

/// What can be chosen for a session. Both sides may choose differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionConfig {
    /// Most bytes of sealed records that are not acknowledged. They are what a link can have on its way:
    /// the default, 64 MiB, fills 5 Gbit/s over 100 ms or 1 Gbit/s over 500 ms, and is only ever used
    /// up on such paths, because on others the kernel's buffers stop the sender long before.
    pub queue: usize,
    /// Largest plaintext of a record, bytes, at most [`MAX_SESSION_BODY`].
    pub record: usize,
    /// Where no more bytes than this are queued, a new link carries them before the peer said what it
    /// has. The default, 128 KiB, is twenty milliseconds at 50 Mbit/s: less than the round trip it saves.
    pub eager_replay: usize,
    /// Least silence after which a link is dead; the limit grows with the measured round trip.
    pub silence: Duration,
    /// Silence after which a link is dead, whatever the round trip: in the place of what is measured,
    /// for people who know their network. Below the round trip no link lives. From 100 ms
    /// ([`LEAST_DEAD_AFTER`]) to a day ([`MOST_DEAD_AFTER`]); what is outside counts as the nearest.
    pub dead_after: Option<Duration>,
}

/// No link is held for dead earlier, whatever was chosen: schedulers and radios are late by that much.
pub const LEAST_DEAD_AFTER: Duration = Duration::from_millis(100);

/// The longest silence that can be chosen: whoever wants more wants never, and memory for nobody.
pub const MOST_DEAD_AFTER: Duration = Duration::from_secs(24 * 3600);

impl Default for SessionConfig {
    fn default() -> Self {
        SessionConfig {
            queue: 64 * 1024 * 1024,
            record: MAX_SESSION_BODY,
            eager_replay: 128 * 1024,
            silence: Duration::from_secs(2),
            dead_after: None,
        }
    }
}
