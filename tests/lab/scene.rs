//! A server and two homes of which everything can be taken away: the cable, the mappings, the address.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use crate::{
    error::Result,
    flows::Fate,
    link::Line,
    nat_model::{Behaviour, Unsolicited},
    network::{INTERNET, NatId},
    world::{Host, Plan, World},
};

/// A server and two homes with Linux NATs, all at the same distance from each other.
#[derive(Debug)]
pub struct Scene {
    /// Where the server stands.
    pub vps: Host,
    /// Where the service is.
    pub home: Host,
    /// Where the client is.
    pub laptop: Host,
    /// The NAT of the service's home.
    pub home_nat: NatId,
    /// The NAT of the client's home.
    pub laptop_nat: NatId,
    /// What address the laptop gets where it can be carried to.
    pub elsewhere: IpAddr,
    /// The rest.
    pub world: World,
}

impl Scene {
    /// Everybody is one round trip from everybody; each home's line has this rate in bytes a second, if any.
    pub fn new(seed: u64, round_trip: Duration, rate: Option<u64>) -> Result<Self> {
        // It does not take up connections that it does not know: after a flush they are dead.
        let behaviour = Behaviour { loose: false, ..Behaviour::linux(Unsolicited::Drop) };
        let line = Line { rate, ..Line::delayed(round_trip / 4) };
        let mut plan = Plan::new(seed);
        let vps = plan.public("vps", line)?;
        let (home_nat, segment) = plan.nat(INTERNET, &behaviour, line);
        let home = plan.host(segment, "home")?;
        let (laptop_nat, segment) = plan.nat(INTERNET, &behaviour, line);
        let laptop = plan.host(segment, "laptop")?;
        let (_, segment) = plan.nat(INTERNET, &behaviour, line);
        let elsewhere = plan.second_device(segment, &laptop)?;
        Ok(Self { vps, home, laptop, home_nat, laptop_nat, elsewhere, world: plan.start()? })
    }

    /// All three.
    pub fn hosts(&self) -> [&Host; 3] {
        [&self.vps, &self.home, &self.laptop]
    }

    /// Kills every direct connection by this means; how many there were.
    pub fn kill(&self, fate: Fate) -> usize {
        self.world.network().flows().seal(INTERNET, fate, &[self.vps.address])
    }

    /// Both NATs forget everything.
    pub fn flush(&self) {
        let mut network = self.world.network();
        network.flush(self.home_nat);
        network.flush(self.laptop_nat);
    }

    /// The home gets another address from its provider.
    pub fn renumber_home(&self) {
        let address = Ipv4Addr::new(203, 0, 113, 200);
        self.world.network().renumber(self.home_nat, address.into());
    }
}
