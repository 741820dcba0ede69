//! How good the internet and the machines are.

use std::time::Duration;

/// How packets cross the internet.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// One way.
    pub delay: Duration,
    /// Up to this much more, at random for each packet.
    pub jitter: Duration,
    /// Of each packet.
    pub loss: f64,
    /// Out of each network up to this much more, drawn once: the two ways of a path differ.
    pub asymmetry: Duration,
    /// Programs' alarms ring up to this much too late, drawn once for each program.
    pub lateness: Duration,
}

impl Conditions {
    /// Nothing but delay.
    pub fn quiet(one_way: Duration) -> Self {
        let none = Duration::ZERO;
        Conditions { delay: one_way, jitter: none, loss: 0.0, asymmetry: none, lateness: none }
    }

    /// What the figures of `docs/NAT.md` are measured with: 1 % loss, 4 ms of jitter, and machines and
    /// routes that are not perfect.
    pub fn usual(one_way: Duration) -> Self {
        let ms = Duration::from_millis;
        Conditions { delay: one_way, jitter: ms(4), loss: 0.01, asymmetry: one_way / 4, lateness: ms(20) }
    }
}
