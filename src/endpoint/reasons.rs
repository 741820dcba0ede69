//! Why there is no connection, in words for a person: what cannot be opened, and what openings came to
//! nothing.

use std::time::Duration;

use crate::nat::{Model, Prediction, SimultaneousOpen};

/// What happened to an opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// The connection was established.
    Connected,
    /// A reset.
    Reset,
    /// An ICMP error.
    Unreachable,
    /// No answer until the system gave up.
    Nothing,
    /// The system did not open: the same connection came in by a listener at that moment.
    Exists,
    /// The system did not open, for another reason.
    Failed,
}

/// One SYN of a round, by which a person sees what was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The local port; `None` for one that the system chose.
    pub local: Option<u16>,
    /// Where to.
    pub remote: std::net::SocketAddr,
    /// When the SYN left, microseconds from the agreed instant; negative is before it.
    pub left_us: i64,
    /// Time to live of that SYN, where it was to die on the way.
    pub ttl: Option<u8>,
    /// What came back, and how long after the SYN.
    pub came: Option<(Came, Duration)>,
}

/// Why there is no plan for a pair. `why` is the plan's word, for pairs that are not known better here.
pub(super) fn hopeless(mine: &[Prediction], theirs: &[Prediction], why: &str) -> String {
    let ([mine], [theirs]) = (mine, theirs) else { return why.into() };
    if [mine, theirs].iter().all(|side| side.simultaneous_open == SimultaneousOpen::Blocked) {
        return both_strict();
    }
    match (&mine.model, &theirs.model) {
        (Model::Random, Model::Random) => "your NAT gives random ports and so does theirs".into(),
        (Model::Random, other) => {
            format!(
                "your NAT gives random ports, and theirs {}",
                moves(other).unwrap_or("does not keep them")
            )
        }
        (other, Model::Random) => {
            format!(
                "their NAT gives random ports, and yours {}",
                moves(other).unwrap_or("does not keep them")
            )
        }
        _ => why.into(),
    }
}

/// Why two strict firewalls cannot be joined.
pub(super) fn both_strict() -> String {
    "your firewall drops connections from outside even while you open one the other way, and so does theirs"
        .into()
}

/// Why the openings of a round brought no link.
/// `left_out` were not carried out, because it is not known that the other side is there.
pub(super) fn failed(tried: &[Tried], left_out: usize, mine: &[Prediction], theirs: &[Prediction]) -> String {
    let why = came(tried, left_out, mine, theirs);
    if left_out == 0 || tried.is_empty() {
        return why;
    }
    let there = theirs.first().map_or_else(String::new, |theirs| format!(" at {}", theirs.address));
    format!("{why} ({left_out} more SYNs were not sent, because nothing shows that the other side is{there})")
}

fn came(tried: &[Tried], left_out: usize, mine: &[Prediction], theirs: &[Prediction]) -> String {
    let all = tried.len();
    let count =
        |wanted: Came| tried.iter().filter(|t| t.came.is_some_and(|(came, _)| came == wanted)).count();
    let (connected, reset, icmp) = (count(Came::Connected), count(Came::Reset), count(Came::Unreachable));
    let unsent = count(Came::Failed);
    let of = |some: usize| if some == all { format!("{all}") } else { format!("{some} of {all}") };
    match () {
        () if all == 0 && left_out > 0 => {
            "nothing was opened: nothing shows that the other side is where it says, and that was tried often \
             enough; it is tried again in a minute"
                .into()
        }
        () if all == 0 => "nothing could be opened: no address of the other side may be opened to".into(),
        () if connected > 0 => format!(
            "{} SYNs were answered, but not by the other side: somebody else is at those ports",
            of(connected)
        ),
        () if reset > 0 => format!(
            "{} SYNs were answered with a reset: they came before the other side's NAT was open for them",
            of(reset)
        ),
        () if icmp > 0 => format!(
            "{} SYNs were answered with an ICMP error: a firewall on the way, or the other side's NAT, does not \
             let them in",
            of(icmp)
        ),
        () if unsent == all => "this computer could not send: is it online?".into(),
        () if unsent > 0 => format!(
            "{} SYNs had no local port to leave from (--punch-port gives too few), and no other was answered",
            of(unsent)
        ),
        () => format!("none of {all} SYNs was answered: {}", unanswered(mine, theirs)),
    }
}

/// What silence means.
fn unanswered(mine: &[Prediction], theirs: &[Prediction]) -> String {
    let moving = |side: &[Prediction]| side.iter().find_map(|p| moves(&p.model));
    match (moving(mine), moving(theirs)) {
        (None, None) => "both NATs keep their ports, so a firewall in between drops them".into(),
        (Some(yours), None) => format!("your NAT {yours}, and gave others than were expected"),
        (None, Some(theirs)) => format!("their NAT {theirs}, and gave others than were expected"),
        (Some(yours), Some(theirs)) => {
            format!("your NAT {yours} and theirs {theirs}; the ports that were expected did not meet")
        }
    }
}

/// How the ports of a NAT move.
fn moves(model: &Model) -> Option<&'static str> {
    match model {
        Model::Fixed { .. } => None,
        Model::Progression(_) => Some("gives every connection another port"),
        Model::Band { .. } => Some("draws ports out of a block"),
        Model::Random => Some("gives random ports"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::{Counter, Mapping};

    fn side(model: Model) -> Vec<Prediction> {
        vec![Prediction::new([192, 0, 2, 7].into(), model, Mapping::AddressAndPortDependent, 90)]
    }

    fn counter() -> Model {
        Model::Progression(Counter { next: 5, step: 1, jitter: 0, rate_centi: 0, over_ms: 1 })
    }

    fn fixed() -> Model {
        Model::Fixed { ports: vec![5] }
    }

    #[test]
    fn every_hopeless_pair_is_told_by_both_sides_in_words() {
        let band = || Model::Band { low: 5, high: 9, size: 5, meet: 7 };
        for (mine, theirs, words) in [
            (Model::Random, Model::Random, "your NAT gives random ports and so does theirs"),
            (
                Model::Random,
                counter(),
                "your NAT gives random ports, and theirs gives every connection another",
            ),
            (band(), Model::Random, "their NAT gives random ports, and yours draws ports out of a block"),
            (fixed(), fixed(), "the plan's word"),
        ] {
            let said = hopeless(&side(mine), &side(theirs), "the plan's word");
            assert!(said.starts_with(words), "{said}");
        }
        let strict = || {
            let mut strict = side(fixed());
            strict[0].simultaneous_open = SimultaneousOpen::Blocked;
            strict
        };
        assert_eq!(hopeless(&strict(), &strict(), ""), both_strict());
    }

    #[test]
    fn every_kind_of_failed_round_has_its_reason() {
        use Came::*;
        let tried = |came: &[Option<Came>]| -> Vec<Tried> {
            let remote = "203.0.113.5:5".parse().unwrap();
            let one = |came: &Option<Came>| Tried {
                local: Some(4),
                remote,
                left_us: 0,
                ttl: None,
                came: came.map(|came| (came, Duration::ZERO)),
            };
            came.iter().map(one).collect()
        };
        for (came, mine, theirs, words) in [
            (&[][..], fixed(), fixed(), "nothing could be opened"),
            (
                &[None, Some(Connected)],
                fixed(),
                fixed(),
                "1 of 2 SYNs were answered, but not by the other side",
            ),
            (&[Some(Reset), Some(Reset)], fixed(), fixed(), "2 SYNs were answered with a reset"),
            (&[Some(Unreachable), None], fixed(), fixed(), "1 of 2 SYNs were answered with an ICMP error"),
            (&[Some(Failed)], fixed(), fixed(), "this computer could not send"),
            (&[None, Some(Failed)], fixed(), fixed(), "1 of 2 SYNs had no local port to leave from"),
            (&[None, Some(Nothing)], fixed(), fixed(), "none of 2 SYNs was answered: both NATs keep"),
            (&[None], counter(), fixed(), "none of 1 SYNs was answered: your NAT gives every connection"),
            (
                &[None],
                fixed(),
                Model::Random,
                "none of 1 SYNs was answered: their NAT gives random ports, and",
            ),
            (&[None], counter(), counter(), "none of 1 SYNs was answered: your NAT gives every connection"),
        ] {
            let said = failed(&tried(came), 0, &side(mine), &side(theirs));
            assert!(said.starts_with(words), "{said}");
        }
        let said = failed(&tried(&[None; 64]), 960, &side(fixed()), &side(Model::Random));
        assert!(said.ends_with(
            "(960 more SYNs were not sent, because nothing shows that the other side is at 192.0.2.7)"
        ));
        let said = failed(&[], 64, &side(fixed()), &side(fixed()));
        assert!(said.starts_with("nothing was opened: nothing shows"), "{said}");
    }
}
