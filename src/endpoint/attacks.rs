//! Peers, servers and strangers that mean harm, attack by attack: docs/SECURITY.md lists them by these names.

mod peers;
mod servers;
mod strangers;

use std::time::Duration;

use super::{openings::Effort, openings::Openings, world::*, *};
use crate::{
    nat::{self, Mapping, Model, Prediction},
    punch::{Opening, PLAN_VERSION, Plan, Verdict},
    secure::{Initiator, Psk, PublicKey, Purpose},
    wire::{
        self,
        peer::{PeerHello, PeerMessage, RoundId, Start},
        server::{Decline, FromServer},
    },
};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Somebody who has nothing to do with any of it.
fn victim() -> SocketAddr {
    "192.0.2.66:5000".parse().expect("an address")
}

fn random_at(address: IpAddr) -> Vec<Prediction> {
    vec![Prediction::new(address, Model::Random, Mapping::AddressAndPortDependent, 50)]
}

fn id(attempt: u32) -> RoundId {
    RoundId { attempt, round: 0 }
}

impl World {
    fn endpoint(&mut self, who: usize) -> &mut Endpoint {
        self.endpoints[who].as_mut().expect("running")
    }

    fn line(&mut self, who: usize) -> &mut Line {
        &mut self.endpoint(who).peers.values_mut().next().expect("a session").line
    }

    /// The server says something that an honest one would not.
    fn server_says(&mut self, who: usize, message: FromServer) {
        let now = self.now;
        self.endpoint(who).server_message(now, 0, message);
        self.drain(who);
    }

    /// The client has a round prepared and names these predictions.
    fn predict(&mut self, attempt: u32, predictions: &[Prediction], lan: &[SocketAddr]) {
        self.say(CLIENT, PeerMessage::Prepare { id: id(attempt) });
        self.run(400 * MS, |_| false);
        let predicted = PeerMessage::Predicted {
            id: id(attempt),
            predictions: predictions.to_vec(),
            lan: lan.to_vec(),
            age_ms: 0,
            budget: u16::MAX,
        };
        self.say(CLIENT, predicted);
        self.run(100 * MS, |_| false);
    }

    /// Then it says START, as soon as the host has its own prediction.
    fn lie(&mut self, attempt: u32, predictions: &[Prediction]) {
        self.predict(attempt, predictions, &[]);
        let peer = self.endpoint(HOST).peers.values().next().expect("a session");
        let round = peer.round.as_ref().filter(|round| round.id == id(attempt));
        let Some(mine) = round.and_then(|round| round.mine()) else { return };
        let digest = nat::digest(predictions, mine);
        let now = self.now;
        let Some((_, (sample, after_us))) = self.line(CLIENT).instant(now) else { panic!("no sample") };
        self.say(CLIENT, start(attempt, digest, (sample, after_us)));
        self.run(600 * MS, |_| false);
    }

    /// Openings of the host to an address, and most of them in any time of that length.
    fn opened_to(&self, address: IpAddr, within: Duration) -> (usize, usize) {
        let to = |(who, remote, _): &&(usize, SocketAddr, Instant)| *who == HOST && remote.ip() == address;
        let mut at: Vec<Instant> = self.opened.iter().filter(to).map(|(.., at)| *at).collect();
        at.sort_unstable();
        let before = |end: Instant| at.partition_point(|at| *at < end);
        let most = at.iter().map(|from| before(*from + within) - before(*from));
        (at.len(), most.max().unwrap_or(0))
    }

    /// The session that there was goes on, and gets another link when its own is lost.
    fn goes_on(&mut self) {
        let links = self.links.iter().filter(|link| link.0 == CLIENT).count();
        self.drop_links(&[HOST, CLIENT]);
        assert!(self.run(20 * SECOND, |w| w.both_linked(links + 1)), "{}", self.story());
        let ended = |(_, output): &(usize, Output)| matches!(output, Output::SessionEnded { .. });
        assert!(!self.sessions.iter().any(ended));
    }

    /// The client's next run gets in: what the one before has said harmed nobody else.
    fn next_run_gets_in(&mut self) {
        self.kill(CLIENT);
        let links = self.links.len();
        self.client_of(99);
        assert!(self.run(20 * SECOND, |w| w.links.len() >= links + 2), "{}", self.story());
    }
}

fn start(attempt: u32, digest: u64, (sample, after_us): (u32, u64)) -> PeerMessage {
    PeerMessage::Start(Start {
        id: id(attempt),
        plan: PLAN_VERSION,
        variant: 0,
        budget: u16::MAX,
        digest,
        after_us,
        sample,
        window_ms: 500,
        next: Vec::new(),
        their_next: Vec::new(),
    })
}

/// A session that stands for a while.
fn settled() -> World {
    let mut world = connected(20);
    world.run(5 * SECOND, |_| false);
    world
}
