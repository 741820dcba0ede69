//! Notices that this machine is somewhere else in the network, or that it slept.

mod notices;

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

pub(crate) use self::notices::Notices;
use super::{clock, lan};

/// How often to look without being told to: nobody tells of a sleep, after which the mappings of a NAT are
/// gone, and not every system tells of its addresses. A look costs a few system calls.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// The wall clock may run away from the monotonic one by this much between two looks without a sleep in
/// between: corrections are smaller, and what is shorter harms no mapping.
const SLEEP: Duration = Duration::from_secs(5);

/// What the machine looked like.
pub(crate) struct Watch {
    servers: Vec<SocketAddr>,
    /// Those that count ([`lan::addresses`]): containers come and go.
    addresses: Vec<IpAddr>,
    clocks: (Instant, Duration),
}

/// What has changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The addresses, or the one from which a server is reached (the default route).
    Addresses,
    /// It slept, for that long.
    Slept(Duration),
}

impl Watch {
    pub(crate) fn new(servers: Vec<SocketAddr>) -> Self {
        let addresses = lan::addresses(&servers);
        Watch { servers, addresses, clocks: (clock::now(), clock::since_1970()) }
    }

    /// Looks.
    pub(crate) fn look(&mut self) -> Option<Change> {
        let slept = self.slept(clock::now(), clock::since_1970());
        let addresses = lan::addresses(&self.servers);
        let moved = addresses != self.addresses;
        self.addresses = addresses;
        slept.map(Change::Slept).or(moved.then_some(Change::Addresses))
    }

    fn slept(&mut self, now: Instant, wall: Duration) -> Option<Duration> {
        let (before, wall_before) = std::mem::replace(&mut self.clocks, (now, wall));
        let ahead = wall.saturating_sub(wall_before).saturating_sub(now.saturating_duration_since(before));
        (ahead > SLEEP).then_some(ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_stays_where_it_is_has_not_changed() {
        assert_eq!(Watch::new(vec!["127.0.0.1:1".parse().unwrap()]).look(), None);
    }

    #[test]
    fn a_wall_clock_that_jumps_ahead_was_a_sleep() {
        let mut watch = Watch::new(Vec::new());
        let (now, wall) = watch.clocks;
        let hour = Duration::from_secs(3600);
        assert_eq!(watch.slept(now + hour, wall + hour), None);
        assert_eq!(watch.slept(now + hour + INTERVAL, wall + 2 * hour + INTERVAL), Some(hour));
        // Set back by hand: no sleep.
        assert_eq!(watch.slept(now + hour + 2 * INTERVAL, wall), None);
    }
}
