//! What is done to a running network: cables, mappings and addresses that go.

use std::{net::IpAddr, time::Instant};

use super::{Hop, NatId, Network};

/// What gets through between a NAT and the segment outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Everything.
    Both,
    /// What comes from outside.
    OnlyIn,
    /// What comes from inside.
    OnlyOut,
    /// Nothing: the cable is pulled.
    Neither,
}

impl Network {
    /// Says what gets through to a NAT from outside, and out of it: a cable that is pulled, and plugged in
    /// again.
    pub fn set_passage(&mut self, nat: NatId, passage: Passage) {
        let port = &mut self.nats[nat.0];
        (port.up.cut, port.down.cut) = match passage {
            Passage::Both => (false, false),
            Passage::OnlyIn => (true, false),
            Passage::OnlyOut => (false, true),
            Passage::Neither => (true, true),
        };
    }

    /// A NAT forgets its mappings, as one that is switched off and on.
    pub fn flush(&mut self, nat: NatId) {
        self.nats[nat.0].nat.reboot(Instant::now());
    }

    /// A NAT gets another address from its provider.
    pub fn renumber(&mut self, nat: NatId, public: IpAddr) {
        let port = &mut self.nats[nat.0];
        let outside = port.outside;
        port.nat.renumber(Instant::now(), vec![public]);
        self.segments[outside.0].routes.retain(|route| !matches!(route.hop, Hop::Nat(id) if id == nat));
        self.add_route(outside, public, if public.is_ipv4() { 32 } else { 128 }, Hop::Nat(nat));
    }
}
