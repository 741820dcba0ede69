//! Who opens from which port to which: a pure function of what both sides know.
//!
//! Both sides call [`plan()`] with the same two predictions (each with its own first), the same round,
//! budget and window; nothing about the plan is negotiated. Only integers are computed with.
//!
//! ```text
//!                  Fixed    Progression   Band       Random
//!   Fixed          meet     cover         cover      cover
//!   Progression             aim           aim        hopeless
//!   Band                                  aim        hopeless
//!   Random                                           hopeless
//! ```
//!
//! | plan | the predictable side | the other |
//! | --- | --- | --- |
//! | meet | one opening each, and a second guess | the same |
//! | cover | from *one* local port to many ports of the other | some sockets, all to that one port |
//! | aim | N sockets from N local ports, all at one port of the other, or in groups at several | the same |
//!
//! Two firewalls that both drop incoming SYNs even where an own one is on its way are hopeless whatever
//! their ports.

mod aim;
mod cover;
mod meet;
mod shift;
mod success;
#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

pub use self::success::expected_success;
use super::Budget;
use crate::nat::{Mapping, Model, PROBED_LOCALS, Prediction, SimultaneousOpen, Unsolicited};

/// Punch ports to bind while nothing is known of either NAT. More than are probed
/// ([`crate::nat::PROBED_LOCALS`]), because some NATs spoil the probed ones and a counter's side opens
/// a handful; ports that a plan needs beyond these need no probe and can be bound when it is known.
pub const FIRST_PORTS: u16 = 16;

/// Index of the first punch port that no batch of probes uses.
const FRESH: u16 = 2 * PROBED_LOCALS;

/// Time to live of a SYN that is to open this side's NAT and die before the other's: past a home router
/// and the few hops of a carrier, short of the other end (paths between networks take ten and more).
const LOW_TTL: u8 = 5;

/// In a round with low TTL, the other side opens this much later, so that the way in is open however the
/// clocks disagree (they do by half the asymmetry of the path).
const SETTLE: Duration = Duration::from_millis(60);

/// Lowest port that is ever opened to: NATs keep the lower ones for hosts that use them (RFC 4787 §4.2.2),
/// and whatever listens there belongs to somebody.
const LOWEST_PORT: u16 = 1024;

/// Rounds after which nothing is doubled any more: eight times the first cover is at the budget.
const MOST_DOUBLINGS: u8 = 3;

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

    /// The same from punch ports that no probe used.
    fn with_fresh_ports(mut self) -> Self {
        self.openings.iter_mut().for_each(|o| o.local = o.local.saturating_add(FRESH));
        self.listen.iter_mut().for_each(|local| *local = local.saturating_add(FRESH));
        self
    }

    fn hopeless(why: &'static str) -> Self {
        Plan { openings: Vec::new(), listen: Vec::new(), redials: 0, verdict: Verdict::Hopeless(why) }
    }
}

/// What a round is planned under, beside the two predictions. All of it but `spent` and the parts of the
/// budget that say so is the same on both sides.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// This side is the initiator (`connect`).
    pub initiator: bool,
    /// Counts the instants within the attempt, from 0; later rounds do something else, not the same again.
    pub round: u8,
    /// As agreed in `Start`.
    pub budget: Budget,
    /// The time from the earlier side's last probe to the instant, in which others behind a NAT use up
    /// ports. It is the initiator's reckoning, in `Start`, that both take, and the base of the other
    /// side's counters is moved back by what happens less. Counted in whole milliseconds.
    pub window: Duration,
    /// Mappings that this side's probes, earlier rounds and other attempts still hold in its NAT: they
    /// count towards the part of a block that may be used ([`Budget::block_percent`]).
    pub spent: u16,
}

/// What this side does in a round, where the other side computes its own part from the same input.
///
/// `mine` and `theirs` as sent to each other (equal [digests](crate::nat::digest)). A side's counter
/// whose base was [refreshed](crate::nat::refresh) after that may be put in its place: targets move, the
/// kind of plan and the numbers of sockets stay.
///
/// A target that is this side's own external address is left out, as are ports below 1024.
pub fn plan(mine: &Prediction, theirs: &Prediction, terms: &Terms) -> Plan {
    if mine.address.is_ipv4() != theirs.address.is_ipv4() {
        return Plan::hopeless("the two sides were measured over different address families");
    }
    if !mine.is_sound() || !theirs.is_sound() {
        return Plan::hopeless("one side sent a prediction that makes no sense");
    }
    if [mine, theirs].iter().all(|side| side.simultaneous_open == SimultaneousOpen::Blocked) {
        return Plan::hopeless("both firewalls drop the other side's SYN even when both open at once");
    }
    let (guise, their_guise) = (guise(mine, theirs, terms.round), guise(theirs, mine, terms.round));
    let pair = Pair::new(&guise, &their_guise, terms);
    let plan = of_models(&pair, &guise, &their_guise);
    if is_guise(mine, &guise) { plan.with_fresh_ports() } else { plan }.without_own_address(mine)
}

fn of_models(pair: &Pair, mine: &Prediction, theirs: &Prediction) -> Plan {
    match (&mine.model, &theirs.model) {
        (Model::Fixed { ports: my_ports }, Model::Fixed { ports }) => meet::plan(pair, my_ports, ports),
        (Model::Random, _) if !covers(theirs) => {
            Plan::hopeless("this side's NAT gives random ports and the other's does not keep them")
        }
        (_, Model::Random) if !covers(mine) => {
            Plan::hopeless("the other side's NAT gives random ports and this side's does not keep them")
        }
        (Model::Fixed { ports }, moving) if covers(mine) => cover::from_one_port(pair, ports, moving),
        (moving, Model::Fixed { ports }) if covers(theirs) => cover::to_one_port(pair, moving, ports),
        (Model::Random, Model::Random) => Plan::hopeless("both NATs give random ports"),
        (mine, theirs) => aim::plan(pair, mine, theirs, pair.manners(None)),
    }
}

/// What a side is taken for in a round. One whose fresh mappings are counted may be endpoint-independent,
/// and then its fixed ports are good for everything; or its mapping depends on the destination's
/// address, and then they are good for nothing. Fresh punch ports of both draw from the counter: where the
/// other side can make do with a counter, that is what it is first.
fn guise<'a>(side: &'a Prediction, other: &Prediction, round: u8) -> Cow<'a, Prediction> {
    let (Model::Fixed { .. }, Some(counter)) = (&side.model, side.fresh) else { return Cow::Borrowed(side) };
    let suits = matches!(other.model, Model::Fixed { .. } | Model::Progression(_));
    let hopeless = matches!(other.model, Model::Random);
    if hopeless || suits != round.is_multiple_of(2) {
        return Cow::Borrowed(side);
    }
    Cow::Owned(Prediction {
        model: Model::Progression(counter),
        mapping: Mapping::AddressDependent,
        ..side.clone()
    })
}

fn is_guise(side: &Prediction, guise: &Prediction) -> bool {
    side.model != guise.model
}

/// One local port shows one external port to many destinations, so that many can be opened to from it.
fn covers(side: &Prediction) -> bool {
    matches!(side.model, Model::Fixed { .. }) && side.mapping == Mapping::EndpointIndependent
}

/// What a plan is made for.
struct Pair {
    theirs: IpAddr,
    initiator: bool,
    round: u8,
    budget: Budget,
    window: Duration,
    spent: u16,
    mine_seen: Seen,
    theirs_seen: Seen,
}

/// What a NAT or firewall does with SYNs from outside.
#[derive(Clone, Copy)]
struct Seen {
    /// It answers those that come early, and that ends the other side's try.
    answers: bool,
    /// It drops them even where an own one is on its way.
    strict: bool,
}

impl Seen {
    fn of(side: &Prediction) -> Self {
        Seen {
            answers: matches!(side.unsolicited, Unsolicited::Reset | Unsolicited::Prohibited),
            strict: side.simultaneous_open == SimultaneousOpen::Blocked,
        }
    }
}

/// How this side's first SYNs leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Manners {
    after: Duration,
    ttl: Option<u8>,
}

impl Pair {
    fn new(mine: &Prediction, theirs: &Prediction, terms: &Terms) -> Self {
        let &Terms { initiator, round, budget, window, spent } = terms;
        let (mine_seen, theirs_seen) = (Seen::of(mine), Seen::of(theirs));
        Pair { theirs: theirs.address, initiator, round, budget, window, spent, mine_seen, theirs_seen }
    }

    fn towards(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.theirs, port)
    }

    /// Who goes first, where it matters: behind a NAT that answers a SYN that comes early (a reset, an
    /// ICMP error), the early one's try is over and, with some, its mapping gone. Then one side's first
    /// SYNs only open its own NAT and die on the way, and the other's come a little later; the kernel
    /// repeats the first ones with their usual time to live after a second. In odd rounds the same is
    /// done on suspicion.
    ///
    /// `first`: this side, or the other, if the plan prefers one to go first.
    fn manners(&self, first: Option<bool>) -> Manners {
        let (mine, theirs) = (self.mine_seen, self.theirs_seen);
        if !(mine.answers || theirs.answers || self.round % 2 == 1) {
            return Manners::default();
        }
        let by_turns = self.initiator == matches!(self.round % 4, 0 | 1);
        // A strict firewall's side has to be the one whose SYN arrives.
        let first = match (mine.strict, theirs.strict) {
            (true, _) => false,
            (_, true) => true,
            _ => first.unwrap_or(match (mine.answers, theirs.answers) {
                (true, false) => true,
                (false, true) => false,
                _ => by_turns,
            }),
        };
        match first {
            true => Manners { after: Duration::ZERO, ttl: Some(LOW_TTL) },
            false => Manners { after: SETTLE, ttl: None },
        }
    }
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
