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
    /// Least silence after which a link is dead.
    pub silence: Duration,
}

impl Default for SessionConfig {
    fn default() -> Self {
        SessionConfig {
            queue: 64 * 1024 * 1024,
            record: MAX_SESSION_BODY,
            eager_replay: 128 * 1024,
            silence: Duration::from_secs(2),
        }
    }
}
