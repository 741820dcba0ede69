//! One sentence for a person.

use super::{Counter, Mapping, Model, Prediction};

/// Says what a NAT does, without a full stop, to go behind "your NAT" or "the other NAT".
///
/// `punch_ports` are the local ports behind a [`Model::Fixed`], by index; empty for the other peer's,
/// whose local ports nobody here knows.
pub fn describe(prediction: &Prediction, punch_ports: &[u16]) -> String {
    match &prediction.model {
        Model::Fixed { ports } => fixed(ports, punch_ports, prediction.mapping),
        Model::Progression(counter) => progression(counter),
        Model::Band { low, high, size, .. } if u32::from(*low) + u32::from(*size) == u32::from(*high) + 1 => {
            format!("draws ports at random out of its block of {size} ({low} to {high})")
        }
        Model::Band { low, high, .. } => format!("draws ports at random between about {low} and {high}"),
        Model::Random => "draws a random port for each new connection".to_owned(),
    }
}

fn progression(counter: &Counter) -> String {
    let Counter { step, jitter, rate_centi, .. } = *counter;
    let others = match rate_centi.div_ceil(100) {
        0..=1 => "hardly any others".to_owned(),
        rate => format!("about {rate} others a second"),
    };
    let further = i32::from(step) + i32::from(step.signum()) * i32::from(jitter);
    match (step, jitter) {
        (1, 0) => format!("gives each new connection the next port (+1), {others}"),
        (-1, 0) => format!("gives each new connection the port before (-1), {others}"),
        (_, 0) => format!("moves {step:+} ports for each new connection, {others}"),
        _ => format!("moves {step:+} to {further:+} ports for each new connection, {others}"),
    }
}

fn fixed(ports: &[u16], punch_ports: &[u16], mapping: Mapping) -> String {
    if mapping != Mapping::EndpointIndependent {
        return "keeps the port of the first connection from it".to_owned();
    }
    let offsets: Vec<u16> = ports
        .iter()
        .zip(punch_ports)
        .filter(|&(&port, _)| port != 0)
        .map(|(port, local)| port.wrapping_sub(*local))
        .collect();
    match offsets.first() {
        Some(0) if offsets.iter().all(|&o| o == 0) => {
            "keeps the port (endpoint-independent mapping)".to_owned()
        }
        Some(&by) if offsets.len() > 1 && offsets.iter().all(|&o| o == by) => {
            format!("moves every port by {:+} (endpoint-independent mapping)", by.cast_signed())
        }
        _ => "uses one port for all destinations (endpoint-independent mapping)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(model: Model, punch_ports: &[u16]) -> String {
        let prediction = Prediction::new([192, 0, 2, 7].into(), model, Mapping::EndpointIndependent, 99);
        describe(&prediction, punch_ports)
    }

    #[test]
    fn every_model_has_its_sentence() {
        let fixed = |ports: &[u16]| Model::Fixed { ports: ports.to_vec() };
        let kept = "keeps the port (endpoint-independent mapping)";
        assert_eq!(said(fixed(&[5, 0, 7]), &[5, 6, 7]), kept);
        assert_eq!(
            said(fixed(&[15, 16]), &[25, 26]),
            "moves every port by -10 (endpoint-independent mapping)"
        );
        let same = "uses one port for all destinations (endpoint-independent mapping)";
        assert_eq!(said(fixed(&[15, 99]), &[25, 26]), same);
        assert_eq!(said(fixed(&[15, 99]), &[]), same);
        let counter = |step, jitter, rate_centi| {
            Model::Progression(Counter { next: 5, step, jitter, rate_centi, over_ms: 300 })
        };
        assert_eq!(
            said(counter(1, 0, 1980), &[]),
            "gives each new connection the next port (+1), about 20 others a second"
        );
        assert_eq!(
            said(counter(-2, 0, 100), &[]),
            "moves -2 ports for each new connection, hardly any others"
        );
        assert_eq!(
            said(counter(-1, 2, 0), &[]),
            "moves -1 to -3 ports for each new connection, hardly any others"
        );
        assert_eq!(
            said(Model::Band { low: 1900, high: 2355, size: 304, meet: 2112 }, &[]),
            "draws ports at random between about 1900 and 2355"
        );
        assert_eq!(
            said(Model::Band { low: 2048, high: 2303, size: 256, meet: 2176 }, &[]),
            "draws ports at random out of its block of 256 (2048 to 2303)"
        );
        assert_eq!(said(Model::Random, &[]), "draws a random port for each new connection");
    }
}
