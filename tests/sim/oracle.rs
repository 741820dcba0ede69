//! Says, from the behaviours alone, when a direct link must be found.

use crate::nat_model::{Assignment, Behaviour, Mapping};

/// What is to be expected of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Every attempt ends with a link.
    Must,
    /// By luck, or by later plans.
    May,
    /// No plan can.
    MustNot,
}

/// What a NAT's next external port looks like to somebody who has watched a few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Each local port has one external port.
    Fixed,
    /// The next one is a regular step away and nobody else takes it.
    Progression,
    /// One of a range that can be covered, or a progression that is not regular: a matter of luck.
    Vague,
    /// Any of 64 k.
    Random,
}

fn kind(behaviour: &Behaviour) -> Kind {
    match (behaviour.mapping, behaviour.assignment) {
        (Mapping::EndpointIndependent, _) | (_, Assignment::Preserving) => Kind::Fixed,
        (_, Assignment::ConstantOffset { .. }) => Kind::Fixed,
        (Mapping::AddressAndPortDependent, Assignment::Sequential { jitter: 0, .. })
            if behaviour.foreign == 0.0 =>
        {
            Kind::Progression
        }
        (_, Assignment::Random { .. }) => Kind::Random,
        _ => Kind::Vague,
    }
}

/// Each new external port is drawn anew when the mapping was deleted by a reset.
fn moves_on_reset(behaviour: &Behaviour) -> bool {
    kind(behaviour) != Kind::Fixed && behaviour.reset_deletes
}

/// For two peers, each behind one NAT.
pub fn must_connect(a: &Behaviour, b: &Behaviour) -> Expected {
    if a.strict && b.strict {
        return Expected::MustNot;
    }
    match (kind(a), kind(b)) {
        (Kind::Random, Kind::Fixed) | (Kind::Fixed, Kind::Random) => Expected::May,
        (Kind::Random, _) | (_, Kind::Random) => Expected::MustNot,
        (Kind::Vague, _) | (_, Kind::Vague) => Expected::May,
        (Kind::Progression, Kind::Progression) => Expected::May,
        _ if moves_on_reset(a) || moves_on_reset(b) => Expected::May,
        _ => Expected::Must,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat_model::{Filtering, Unsolicited};

    #[test]
    fn the_oracle_knows_who_can_be_predicted() {
        let linux = Behaviour::linux(Unsolicited::Reset);
        let open = Behaviour::endpoint_independent(Filtering::EndpointIndependent);
        let (sequential, random) = (Behaviour::sequential(1), Behaviour::random());
        let block = Behaviour::block(256);
        let strict = Behaviour::strict();
        for (a, b, expected) in [
            (&linux, &linux, Expected::Must),
            (&linux, &open, Expected::Must),
            (&sequential, &open, Expected::Must),
            (&strict, &linux, Expected::Must),
            (&strict, &strict, Expected::MustNot),
            (&sequential, &sequential, Expected::May),
            (&random, &linux, Expected::May),
            (&random, &random, Expected::MustNot),
            (&random, &sequential, Expected::MustNot),
            (&block, &block, Expected::May),
        ] {
            assert_eq!(must_connect(a, b), expected, "{} and {}", a.name, b.name);
            assert_eq!(must_connect(b, a), expected, "{} and {}", b.name, a.name);
        }
    }
}
