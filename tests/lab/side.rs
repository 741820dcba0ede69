//! What a host can be behind.

use crate::{
    error::Result,
    link::Line,
    namespace::Namespace,
    nat_model::{Behaviour, Unsolicited},
    network::{INTERNET, SegmentId},
    world::{Gateway, Host, Plan, World},
};

/// What a host is behind.
#[derive(Debug, Clone)]
pub enum Side {
    /// A NAT of the model.
    Model(Behaviour),
    /// The kernel's masquerade, with what an unsolicited SYN gets.
    Kernel(Unsolicited),
    /// A stateful IPv6 firewall of the model.
    Firewall(Behaviour),
    /// The kernel's stateful IPv6 firewall.
    KernelFirewall,
}

/// A host on the internet and two behind something, running.
#[derive(Debug)]
pub struct Trio {
    /// Where the server stands.
    pub vps: Host,
    /// Where the service is.
    pub home: Host,
    /// Where the client is.
    pub laptop: Host,
    /// The rest.
    pub world: World,
    /// Namespaces of routers, which live as long as this.
    _routers: Vec<Namespace>,
}

impl Side {
    /// A word for names of tests.
    pub fn name(&self) -> String {
        let name = match self {
            Side::Model(behaviour) => behaviour.name.clone(),
            Side::Kernel(unsolicited) => format!("kernel {unsolicited:?}"),
            Side::Firewall(behaviour) => format!("firewall {}", behaviour.name),
            Side::KernelFirewall => "kernel firewall".to_owned(),
        };
        name.to_lowercase().replace(|letter: char| !letter.is_ascii_alphanumeric(), "_")
    }

    /// A host behind this, with such a line outwards, and the router's namespace if there is one.
    pub fn host(
        &self,
        plan: &mut Plan,
        outside: SegmentId,
        name: &str,
        line: Line,
    ) -> Result<(Host, Option<Namespace>)> {
        let gateway = match self {
            Side::Model(behaviour) => {
                let (_, inside) = plan.nat(outside, behaviour, line);
                return Ok((plan.host(inside, name)?, None));
            }
            Side::Firewall(behaviour) => return Ok((plan.firewalled(behaviour, name, line)?, None)),
            Side::Kernel(unsolicited) => Gateway::Masquerade(*unsolicited),
            Side::KernelFirewall => Gateway::Firewall,
        };
        let mut lan = plan.lan(outside, gateway, line)?;
        Ok((lan.host(name)?, Some(lan.router)))
    }
}

impl Trio {
    /// Both hosts on the internet behind one thing each. `half_way` is each direction of everybody's line
    /// to the middle, so that all three are equally far from each other.
    pub fn new(seed: u64, home: &Side, laptop: &Side, half_way: Line) -> Result<Self> {
        let mut plan = Plan::new(seed);
        let vps = plan.public("vps", half_way)?;
        let (home, home_router) = home.host(&mut plan, INTERNET, "home", half_way)?;
        let (laptop, laptop_router) = laptop.host(&mut plan, INTERNET, "laptop", half_way)?;
        let routers = home_router.into_iter().chain(laptop_router).collect();
        Ok(Self { vps, home, laptop, world: plan.start()?, _routers: routers })
    }

    /// All three.
    pub fn hosts(&self) -> [&Host; 3] {
        [&self.vps, &self.home, &self.laptop]
    }
}
