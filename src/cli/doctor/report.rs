//! An examination for machines: fields that stay what they are.

use punchtunnel::{
    nat::{Filtering, Mapping, Model, Prediction, SimultaneousOpen, Unsolicited},
    net::Examination,
    punch::Effort,
};
use serde_json::{Value, json};

use super::{super::memory::kind, findings::chances};

/// One address family.
pub(crate) fn family(found: &Examination, effort: Effort) -> Value {
    let observed: Vec<_> = found
        .udp
        .observed
        .iter()
        .map(|(server, seen)| json!({ "server": server.to_string(), "observed": seen.to_string() }))
        .collect();
    let (asked, answered) = found.probes;
    json!({
        "family": if found.server.is_ipv4() { "ipv4" } else { "ipv6" },
        "server": found.server.to_string(),
        "local_address": found.local.map(|address| address.to_string()),
        "probes": { "sent": asked, "answered": answered },
        "answered_in_ms": found.answered_in.map(|time| time.as_secs_f64() * 1000.0),
        "behind_nat": found.prediction.as_ref().map(|_| !found.is_public()),
        "nat": found.prediction.as_ref().map(nat),
        "hairpin": found.hairpin,
        "udp": {
            "answered": !found.udp.observed.is_empty(),
            "observed": observed,
            "mapping": found.udp.mapping().map(mapping),
        },
        "expected_success": found.prediction.as_ref().map(|prediction| {
            let chances = chances(prediction, effort);
            chances.into_iter().map(|(name, percent)| (name.to_owned(), percent.into())).collect::<serde_json::Map<_, Value>>()
        }),
    })
}

/// What a NAT does.
pub(crate) fn nat(prediction: &Prediction) -> Value {
    let mut ports = json!({ "kind": kind(&prediction.model) });
    match &prediction.model {
        Model::Fixed { .. } | Model::Random => {}
        Model::Progression(counter) => {
            ports["step"] = counter.step.into();
            ports["jitter"] = counter.jitter.into();
            ports["others_per_second"] = (f64::from(counter.rate_centi) / 100.0).into();
        }
        Model::Band { low, high, size, .. } => {
            ports["low"] = (*low).into();
            ports["high"] = (*high).into();
            ports["size"] = (*size).into();
        }
    }
    json!({
        "public_address": prediction.address.to_string(),
        "mapping": mapping(prediction.mapping),
        "filtering": match prediction.filtering {
            Filtering::EndpointIndependent => Some("endpoint_independent"),
            Filtering::AddressDependent => Some("address_dependent"),
            Filtering::AddressAndPortDependent => Some("address_and_port_dependent"),
            Filtering::Unknown => None,
        },
        "ports": ports,
        "unsolicited_syn": match prediction.unsolicited {
            Unsolicited::Dropped => Some("dropped"),
            Unsolicited::Reset => Some("reset"),
            Unsolicited::Prohibited => Some("icmp"),
            Unsolicited::Unknown => None,
        },
        "simultaneous_open": match prediction.simultaneous_open {
            SimultaneousOpen::Works => Some(true),
            SimultaneousOpen::Blocked => Some(false),
            SimultaneousOpen::Unknown => None,
        },
        "confidence": prediction.confidence,
    })
}

fn mapping(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::EndpointIndependent => "endpoint_independent",
        Mapping::AddressDependent => "address_dependent",
        Mapping::AddressAndPortDependent => "address_and_port_dependent",
    }
}
