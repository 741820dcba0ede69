//! Do both peers plan from the same input?

use std::net::IpAddr;

use super::{Counter, Filtering, Mapping, Model, Prediction, SimultaneousOpen, Unsolicited};

/// A number that is equal on both sides only if both hold the same predictions: `initiator`'s and
/// `responder`'s, as sent, in the order sent.
///
/// FNV-1a over a canonical encoding (big-endian integers, every list behind its length), so it is the
/// same on every machine and for every version of the wire format. It guards against accidents (a
/// message overtaken, a bug), not against forgers: it travels inside the peers' sealed channel, and a
/// peer that lies about its predictions needs no collision to do so.
pub fn digest(initiator: &[Prediction], responder: &[Prediction]) -> u64 {
    let mut hash = Fnv::new();
    for side in [initiator, responder] {
        hash.number(side.len() as u64);
        side.iter().for_each(|prediction| hash.prediction(prediction));
    }
    hash.0
}

/// FNV-1a, 64 bits (draft-eastlake-fnv).
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_be_bytes());
    }

    fn counter(&mut self, counter: &Counter) {
        let Counter { next, step, jitter, rate_centi, over_ms } = *counter;
        self.bytes(&step.to_be_bytes());
        for number in [u32::from(next), u32::from(jitter), rate_centi, u32::from(over_ms)] {
            self.number(u64::from(number));
        }
    }

    fn prediction(&mut self, prediction: &Prediction) {
        match prediction.address {
            IpAddr::V4(address) => self.bytes(&address.octets()),
            IpAddr::V6(address) => self.bytes(&address.octets()),
        }
        match &prediction.model {
            Model::Fixed { ports } => {
                self.bytes(&[0]);
                self.number(ports.len() as u64);
                ports.iter().for_each(|&port| self.number(u64::from(port)));
            }
            Model::Progression(counter) => {
                self.bytes(&[1]);
                self.counter(counter);
            }
            Model::Band { low, high, size, meet } => {
                self.bytes(&[2]);
                [low, high, size, meet].iter().for_each(|&&port| self.number(u64::from(port)));
            }
            Model::Random => self.bytes(&[3]),
        }
        let mapping = match prediction.mapping {
            Mapping::EndpointIndependent => 0,
            Mapping::AddressDependent => 1,
            Mapping::AddressAndPortDependent => 2,
        };
        let filtering = match prediction.filtering {
            Filtering::EndpointIndependent => 0,
            Filtering::AddressDependent => 1,
            Filtering::AddressAndPortDependent => 2,
            Filtering::Unknown => 3,
        };
        let unsolicited = match prediction.unsolicited {
            Unsolicited::Dropped => 0,
            Unsolicited::Reset => 1,
            Unsolicited::Prohibited => 2,
            Unsolicited::Unknown => 3,
        };
        let simultaneous_open = match prediction.simultaneous_open {
            SimultaneousOpen::Works => 0,
            SimultaneousOpen::Blocked => 1,
            SimultaneousOpen::Unknown => 2,
        };
        self.bytes(&[mapping, filtering, unsolicited, simultaneous_open, prediction.confidence]);
        self.bytes(&[u8::from(prediction.fresh.is_some())]);
        prediction.fresh.iter().for_each(|counter| self.counter(counter));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(ports: &[u16]) -> Prediction {
        Prediction::new(
            [192, 0, 2, 7].into(),
            Model::Fixed { ports: ports.to_vec() },
            Mapping::EndpointIndependent,
            99,
        )
    }

    #[test]
    fn it_is_the_published_function() {
        let mut hash = Fnv::new();
        hash.bytes(b"foobar");
        assert_eq!(hash.0, 0x8594_4171_f739_67e8);
    }

    #[test]
    fn any_change_and_any_exchange_shows() {
        let (a, b) = (fixed(&[40_000]), fixed(&[40_000, 40_001]));
        let base = digest(std::slice::from_ref(&a), std::slice::from_ref(&b));
        assert_ne!(base, digest(std::slice::from_ref(&b), std::slice::from_ref(&a)));
        assert_ne!(base, digest(&[a.clone(), b.clone()], &[]));
        let mut other = b.clone();
        other.confidence = 98;
        assert_ne!(base, digest(std::slice::from_ref(&a), &[other]));
        let random = Prediction { model: Model::Random, ..b };
        let counter = |step, jitter| Prediction {
            model: Model::Progression(Counter { next: 5, step, jitter, rate_centi: 0, over_ms: 1 }),
            ..random.clone()
        };
        assert_ne!(digest(&[counter(1, 0)], &[]), digest(&[counter(-1, 0)], &[]));
        assert_ne!(digest(&[counter(1, 0)], &[]), digest(&[counter(1, 2)], &[]));
        let strict = Prediction { simultaneous_open: SimultaneousOpen::Blocked, ..random.clone() };
        assert_ne!(digest(&[random], &[]), digest(&[strict], &[]));
    }
}
