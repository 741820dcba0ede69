//! The rows and columns of the table: what a side is behind. Whatever a kind leaves open comes from the
//! seed: rates of foreign traffic, steps, offsets, filters; first ports, block positions and the
//! draws themselves are the NAT's own, out of the world's seed.

use rand::{RngExt, rngs::StdRng};

use crate::nat_model::{Assignment, Behaviour, Filtering, Mapping, Unsolicited};

/// What can be known of the next external port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Each local port has one.
    Fixed,
    /// The next ones are in a row, or nearly.
    Progression,
    /// One of a block.
    Band,
    /// Nothing.
    Random,
}

/// What a side is behind.
#[derive(Clone, Copy)]
pub struct Kind {
    /// What the table calls it.
    pub name: &'static str,
    pub class: Class,
    /// It drops bare SYNs even where an own one is on its way.
    pub strict: bool,
    /// Its NATs, the innermost first.
    pub draw: fn(&mut StdRng) -> Vec<Behaviour>,
}

const fn kind(name: &'static str, class: Class, draw: fn(&mut StdRng) -> Vec<Behaviour>) -> Kind {
    Kind { name, class, strict: false, draw }
}

/// One NAT, with up to `most` foreign connections a second.
fn busy(behaviour: Behaviour, most: f64, rng: &mut StdRng) -> Vec<Behaviour> {
    vec![behaviour.with_foreign(most * rng.random::<f64>())]
}

fn at(behaviour: Behaviour, rate: f64) -> Vec<Behaviour> {
    vec![behaviour.with_foreign(rate)]
}

fn independent(filtering: Filtering, rng: &mut StdRng) -> Vec<Behaviour> {
    busy(Behaviour::endpoint_independent(filtering), QUIET, rng)
}

/// A regular step, either way.
fn regular(rng: &mut StdRng) -> Behaviour {
    Behaviour::sequential([1, 1, 2, -1][rng.random_range(0..4)])
}

fn irregular(rng: &mut StdRng) -> Behaviour {
    let mut behaviour = Behaviour::irregular();
    if let Assignment::Sequential { step, .. } = &mut behaviour.assignment {
        *step = [1, 1, 1, -1][rng.random_range(0..4)];
    }
    behaviour
}

fn filtering(rng: &mut StdRng) -> Filtering {
    let all =
        [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];
    all[rng.random_range(0..3)]
}

/// A block's other traffic is that of one household: a connection a second holds a quarter of 256.
fn block(size: u16, rng: &mut StdRng) -> Vec<Behaviour> {
    busy(Behaviour::block(size), if size < 512 { 1.0 } else { 5.0 }, rng)
}

/// A carrier's NAT as RFC 6888 wants it (endpoint-independent mapping, ports out of the customer's block),
/// with any filter.
fn carrier(rng: &mut StdRng) -> Behaviour {
    let filtering = filtering(rng);
    Behaviour { mapping: Mapping::EndpointIndependent, filtering, ..Behaviour::block(1024) }.named("carrier")
}

/// Foreign connections a second, at most, where a kind says nothing of them: a household or two.
const QUIET: f64 = 10.0;

pub const OPEN: Kind =
    kind("independent, open filter", Class::Fixed, |r| independent(Filtering::EndpointIndependent, r));
pub const ADDRESS: Kind =
    kind("independent, address filter", Class::Fixed, |r| independent(Filtering::AddressDependent, r));
pub const PORT: Kind =
    kind("independent, port filter", Class::Fixed, |r| independent(Filtering::AddressAndPortDependent, r));
pub const LINUX: Kind =
    kind("Linux, drops", Class::Fixed, |r| busy(Behaviour::linux(Unsolicited::Drop), QUIET, r));
pub const RESET: Kind =
    kind("Linux, resets", Class::Fixed, |r| busy(Behaviour::linux(Unsolicited::Reset), QUIET, r));
pub const ICMP: Kind =
    kind("Linux, ICMP", Class::Fixed, |r| busy(Behaviour::linux(Unsolicited::Icmp), QUIET, r));
pub const STRICT: Kind =
    Kind { strict: true, ..kind("strict firewall", Class::Fixed, |r| busy(Behaviour::strict(), QUIET, r)) };
pub const OFFSET: Kind =
    kind("constant offset", Class::Fixed, |r| busy(Behaviour::constant_offset(), QUIET, r));
pub const CARRIER: Kind = kind("home behind carrier", Class::Fixed, |r| {
    vec![Behaviour::linux(Unsolicited::Drop), carrier(r).with_foreign(QUIET * r.random::<f64>())]
});
pub const NONE: Kind = kind("no NAT", Class::Fixed, |_| Vec::new());
pub const NO_UDP: Kind = kind("Linux, UDP blocked", Class::Fixed, |r| {
    busy(Behaviour::linux(Unsolicited::Drop).without_udp(), QUIET, r)
});
pub const UP_1: Kind =
    kind("sequential +1", Class::Progression, |r| busy(Behaviour::sequential(1), QUIET, r));
pub const UP_2: Kind =
    kind("sequential +2", Class::Progression, |r| busy(Behaviour::sequential(2), QUIET, r));
pub const DOWN_1: Kind =
    kind("sequential −1", Class::Progression, |r| busy(Behaviour::sequential(-1), QUIET, r));
pub const PARITY: Kind =
    kind("sequential, parity", Class::Progression, |r| busy(Behaviour::sequential_parity(), QUIET, r));
pub const BY_ADDRESS: Kind = kind("sequential by address", Class::Progression, |r| {
    busy(Behaviour::address_dependent_sequential(), QUIET, r)
});
pub const AT_20: Kind = kind("sequential, 20/s", Class::Progression, |r| at(regular(r), 20.0));
pub const AT_100: Kind = kind("sequential, 100/s", Class::Progression, |r| at(regular(r), 100.0));
pub const AT_200: Kind = kind("sequential, 200/s", Class::Progression, |r| at(regular(r), 200.0));
pub const IRREGULAR: Kind =
    kind("sequential, 1 + 0…2, 20/s", Class::Progression, |r| at(irregular(r), 20.0));
pub const BLOCK_256: Kind = kind("block of 256", Class::Band, |r| block(256, r));
pub const BLOCK_1024: Kind = kind("block of 1024", Class::Band, |r| block(1024, r));
pub const BLOCK_2048: Kind = kind("block of 2048", Class::Band, |r| block(2048, r));
pub const RANDOM: Kind = kind("random", Class::Random, |r| busy(Behaviour::random(), QUIET, r));

/// Not in the grid: what figures ask for beside it.
pub const TO_50: Kind = kind("sequential, to 50/s", Class::Progression, |r| {
    let behaviour = regular(r);
    busy(behaviour, 50.0, r)
});
pub const RESETS: Kind =
    kind("sequential, resets", Class::Progression, |r| busy(regular(r).resetting(), QUIET, r));

/// Rows and columns.
pub const GRID: [Kind; 24] = [
    OPEN, ADDRESS, PORT, LINUX, RESET, ICMP, STRICT, OFFSET, CARRIER, NONE, NO_UDP, UP_1, UP_2, DOWN_1,
    PARITY, BY_ADDRESS, AT_20, AT_100, AT_200, IRREGULAR, BLOCK_256, BLOCK_1024, BLOCK_2048, RANDOM,
];

/// No plan finds these together, and they are told so: all that one server address can see of a mapping that
/// depends on the address is that each local port has one external port.
pub fn hopeless(a: &Kind, b: &Kind) -> bool {
    let moves = |b: &Kind| b.class != Class::Fixed && b.name != BY_ADDRESS.name;
    let random = |a: &Kind, b: &Kind| a.class == Class::Random && moves(b);
    (a.strict && b.strict) || random(a, b) || random(b, a)
}
