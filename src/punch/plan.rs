//! Who opens from which port to which: a pure function of what both sides know.
//!
//! Both sides call [`plan()`] with the same two predictions (each with its own first), the same round,
//! budget and window; nothing about the plan is negotiated. Only integers are computed with.
//!
//! ```text
//!                  Fixed    Progression   Band       Random
//!   Fixed          meet     cover         cover      cover
//!   Progression             one port      one port   hopeless
//!   Band                                  one port   hopeless
//!   Random                                           hopeless
//! ```
//!
//! | plan | the predictable side | the other |
//! | --- | --- | --- |
//! | meet | one opening each, and a second guess | the same |
//! | cover | from *one* local port to many ports of the other | some sockets, all to that one port |
//! | one port | N sockets from N local ports, all at one port of the other | the same |

mod cover;
mod meet;
mod one_port;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::Budget;
use crate::nat::{Model, Prediction};

/// Punch ports to bind while nothing is known of either NAT. More than are probed
/// ([`crate::nat::PROBED_LOCALS`]), because some NATs spoil the probed ones and a counter's side opens
/// a handful; ports that a plan needs beyond these need no probe and can be bound when it is known.
pub const FIRST_PORTS: u16 = 16;

/// Time to live of a SYN that is to open this side's NAT and die before the other's: past a home router
/// and the few hops of a carrier, short of the other end (paths between networks take ten and more).
const LOW_TTL: u8 = 5;

/// In a round with low TTL, the other side opens this much later, so that the way in is open however the
/// clocks disagree (they do by half the asymmetry of the path).
const SETTLE: Duration = Duration::from_millis(60);

/// Lowest port that is ever opened to: NATs keep the lower ones for hosts that use them (RFC 4787 §4.2.2),
/// and whatever listens there belongs to somebody.
const LOWEST_PORT: u16 = 1024;

/// Ports that a counter runs through before it starts over, as far as is known: [`LOWEST_PORT`] and up.
const COUNTED_PORTS: i64 = 65536 - LOWEST_PORT as i64;

/// One connection to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Opening {
    /// Index of the punch port that it leaves from.
    pub local: u16,
    /// Where to.
    pub remote: SocketAddr,
    /// When, counted from the agreed instant; under [`super::schedule::OPENING_WINDOW`].
    pub after: Duration,
    /// Time to live of its first SYN, where it is to die on the way. The repetitions have the usual one.
    pub ttl: Option<u8>,
}

/// Whether it is worth a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Open.
    Try,
    /// No plan finds each other's ports by any number of rounds within the budget: why, in words.
    Hopeless(&'static str),
}

/// What one side does in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Connections to open: the likeliest first. Empty where it is hopeless.
    pub openings: Vec<Opening>,
    /// Indices of the punch ports to listen on, from before the instant: the local ports of the
    /// openings, each once, rising.
    pub listen: Vec<u16>,
    /// How often an opening that is refused within the window (reset or ICMP: its SYN came early) is
    /// opened again from the same port to the same port. 0 where that would draw another external port
    /// and only move the counter.
    pub redials: u8,
    /// Whether it is worth it.
    pub verdict: Verdict,
}

impl Plan {
    /// Punch ports that must be bound for it: indices below this are used.
    pub fn ports(&self) -> u16 {
        self.listen.last().map_or(0, |&highest| highest.saturating_add(1))
    }

    fn hopeless(why: &'static str) -> Self {
        Plan { openings: Vec::new(), listen: Vec::new(), redials: 0, verdict: Verdict::Hopeless(why) }
    }
}

/// What this side does in a round, where the other side computes its own part from the same input.
///
/// - `mine` and `theirs` as sent to each other (equal [digests](crate::nat::digest)).
/// - `initiator`: this side is.
/// - `round` within the attempt, from 0; later rounds do something else, not the same again.
/// - `budget` as agreed in `Start`.
/// - `window`: the time from the earlier side's last probe to the instant, in which others behind a
///   NAT use up ports. The two sides probe at different times and neither knows the other's, so it is
///   the initiator's reckoning, in `Start`, that both take: the time from the moment it told the
///   responder to probe, or from its own last probe if that was earlier, to the instant. That is never
///   less than the truth, and more costs only a few openings. Counted in whole milliseconds.
///
/// A target that is this side's own external address is left out, as are ports below 1024.
pub fn plan(
    mine: &Prediction,
    theirs: &Prediction,
    initiator: bool,
    round: u8,
    budget: Budget,
    window: Duration,
) -> Plan {
    if mine.address.is_ipv4() != theirs.address.is_ipv4() {
        return Plan::hopeless("the two sides were measured over different address families");
    }
    if !mine.is_sound() || !theirs.is_sound() {
        return Plan::hopeless("one side sent a prediction that makes no sense");
    }
    let pair = Pair { theirs: theirs.address, initiator, round, budget, window };
    let plan = match (&mine.model, &theirs.model) {
        (Model::Fixed { ports: my_ports }, Model::Fixed { ports }) => meet::plan(&pair, my_ports, ports),
        (Model::Fixed { ports }, moving) => cover::from_one_port(&pair, ports, moving),
        (moving, Model::Fixed { ports }) => cover::to_one_port(&pair, moving, ports),
        (Model::Random, Model::Random) => Plan::hopeless("both NATs draw ports at random"),
        (Model::Random, _) | (_, Model::Random) => {
            Plan::hopeless("one NAT draws ports at random and the other does not keep them")
        }
        (mine, theirs) => one_port::plan(&pair, mine, theirs),
    };
    plan.without_own_address(mine)
}

/// What a plan is made for.
struct Pair {
    theirs: IpAddr,
    initiator: bool,
    round: u8,
    budget: Budget,
    window: Duration,
}

impl Pair {
    fn towards(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.theirs, port)
    }

    /// Foreign connections to be expected between probe and instant, rounded up.
    fn expected(&self, rate_centi: u32) -> u64 {
        let ms = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        u64::from(rate_centi).saturating_mul(ms).div_ceil(100_000)
    }

    /// Steps ahead of `next` within which the counter almost surely is at the instant. Twice the
    /// expectation, because the rate is an estimate from a fraction of a second; four standard
    /// deviations of a Poisson count; and `least`, doubled with each round, for what was not
    /// estimated at all.
    fn reach(&self, rate_centi: u32, least: u64) -> u64 {
        let expected = self.expected(rate_centi);
        let spare = least << self.round.min(MOST_DOUBLINGS);
        expected.saturating_mul(2).saturating_add(4 * expected.isqrt()).saturating_add(spare)
    }
}

/// Rounds after which nothing is doubled any more: eight times the first cover is at the budget.
const MOST_DOUBLINGS: u8 = 3;

/// The port of a counter `steps` connections after `next`. Past either end of the range it starts over
/// at the other, [`LOWEST_PORT`] and 65535 being a guess where those are.
fn counted(next: u16, step: i16, steps: u64) -> u16 {
    let moved = i64::from(step) * i64::try_from(steps % COUNTED_PORTS as u64).unwrap_or(0);
    let at = (i64::from(next) - i64::from(LOWEST_PORT) + moved).rem_euclid(COUNTED_PORTS);
    u16::try_from(at + i64::from(LOWEST_PORT)).unwrap_or(LOWEST_PORT)
}

/// Punch ports whose external port is known: (index, external port).
fn known(ports: &[u16]) -> impl Iterator<Item = (u16, u16)> {
    (0u16..).zip(ports.iter().copied()).filter(|&(_, port)| port >= LOWEST_PORT)
}

impl Plan {
    /// The plan with its listeners, for these openings. Of two from one port to one port the first stays:
    /// the second would fail (a counter with a huge step comes round to the same ports).
    fn of(mut openings: Vec<Opening>, redials: u8) -> Self {
        let mut tuples = BTreeSet::new();
        openings.retain(|opening| tuples.insert((opening.local, opening.remote)));
        let mut listen: Vec<u16> = openings.iter().map(|o| o.local).collect();
        listen.sort_unstable();
        listen.dedup();
        Plan { openings, listen, redials, verdict: Verdict::Try }
    }

    /// Leaves out connections to oneself (both sides behind one public address, or no NAT at all and a
    /// peer that lies): they would succeed.
    fn without_own_address(mut self, mine: &Prediction) -> Self {
        let Model::Fixed { ports } = &mine.model else { return self };
        self.openings.retain(|opening| {
            let own = ports.get(usize::from(opening.local)).copied();
            opening.remote.ip() != mine.address || own != Some(opening.remote.port())
        });
        if self.openings.is_empty() && self.verdict == Verdict::Try {
            return Plan::hopeless("the other side claims this side's own address and port");
        }
        self
    }
}
