//! What a round opened, a line for each SYN (`-v`).

use std::time::Duration;

use punchtunnel::{
    endpoint::{Came, Tried},
    wire::peer::RoundId,
};

use super::count;

/// A heading, and below it every SYN in the order in which they left.
pub(super) fn lines(id: RoundId, tried: &[Tried]) -> Vec<String> {
    let mut tried: Vec<_> = tried.iter().collect();
    tried.sort_by_key(|syn| syn.left_us);
    let RoundId { attempt, round } = id;
    if tried.is_empty() {
        let what = "the other side's SYNs made the connection before any of this side's left";
        return vec![format!("attempt {attempt}, round {}: {what}", round + 1)];
    }
    let syns = count(tried.len() as u64, "SYN");
    let heading = format!("attempt {attempt}, round {}: {syns}, counted from the agreed instant", round + 1);
    std::iter::once(heading).chain(tried.into_iter().map(line)).collect()
}

fn line(syn: &Tried) -> String {
    let Tried { local, remote, left_us, ttl, came } = syn;
    let local = local.map_or_else(|| "any".to_owned(), |local| local.to_string());
    let ttl = ttl.map(|ttl| format!(", to die after {ttl} hops")).unwrap_or_default();
    let came = match came {
        None => "no answer".to_owned(),
        Some((came, after)) => format!("{} after {:.1} ms", words(*came), millis(*after)),
    };
    let left = *left_us as f64 / 1000.0;
    format!("  {left:+8.1} ms  from port {local:>5} to {remote}{ttl}: {came}")
}

fn words(came: Came) -> &'static str {
    match came {
        Came::Connected => "connected",
        Came::Reset => "reset",
        Came::Unreachable => "ICMP error",
        Came::Nothing => "given up",
        Came::Exists => "the same connection came in",
        Came::Failed => "not sent",
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_a_heading_and_a_line_for_each_syn_in_the_order_in_which_they_left() {
        let syn = |local, left_us, ttl, came| Tried {
            local,
            remote: "198.51.100.7:40000".parse().unwrap(),
            left_us,
            ttl,
            came,
        };
        assert_eq!(
            lines(RoundId { attempt: 1, round: 0 }, &[]),
            ["attempt 1, round 1: the other side's SYNs made the connection before any of this side's left"]
        );
        let tried = [
            syn(Some(41_000), 40_250, None, None),
            syn(Some(41_001), -120, Some(5), Some((Came::Reset, Duration::from_micros(61_400)))),
        ];
        let id = RoundId { attempt: 2, round: 1 };
        assert_eq!(
            lines(id, &tried),
            [
                "attempt 2, round 2: 2 SYNs, counted from the agreed instant",
                "      -0.1 ms  from port 41001 to 198.51.100.7:40000, to die after 5 hops: reset after 61.4 ms",
                "     +40.2 ms  from port 41000 to 198.51.100.7:40000: no answer",
            ]
        );
    }
}
