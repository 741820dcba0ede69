//! What the associations with rendezvous servers have to tell, and what they are told.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Endpoint, Event, Output, Part, PortsId};
use crate::{
    rendezvous::{Client, ClientEvent},
    wire::server::{FromServer, ToServer},
};

/// A refusal over one address family waits so long for a better answer over the other one: the fallback to TCP and two round
/// trips. Whoever stands on the way of one family can make it up.
const OTHER_ANSWER: Duration = Duration::from_secs(2);

/// Refusals of those who answered as the server does not, or not to this key.
#[derive(Default)]
pub(super) struct Refusals {
    by: BTreeMap<usize, Event>,
    tell_at: Option<Instant>,
}

impl Refusals {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.tell_at
    }
}

impl Endpoint {
    /// What the association with a server has to tell.
    pub(super) fn drain_server(&mut self, now: Instant, server: usize) {
        if let Some(round_trip) = self.servers.get(server).and_then(Client::round_trip) {
            self.nat.reached(round_trip);
        }
        while let Some(event) = self.servers.get_mut(server).and_then(Client::poll_event) {
            match event {
                ClientEvent::Message(message) => self.server_message(now, server, message),
                ClientEvent::Reached { observed, path, took, server_key, first_contact, .. } => {
                    if first_contact {
                        self.out.push_back(Output::Event(Event::ServerKey(server_key)));
                    }
                    self.refusals.by.remove(&server);
                    self.out.push_back(Output::Event(Event::ServerReached { path, observed, took }));
                    self.examine(server, observed);
                    self.server_reached(now, server);
                }
                ClientEvent::KeyChanged { found } => {
                    self.server_refused(now, server, Event::ServerKeyChanged { found });
                }
                ClientEvent::Version { theirs } => {
                    self.server_refused(now, server, Event::ServerVersion { theirs });
                }
                ClientEvent::Private => self.server_refused(now, server, Event::ServerPrivate),
                ClientEvent::Moved { observed, .. } => self.examine(server, observed),
                // One address family is enough: many networks have no IPv6.
                ClientEvent::Silent { .. } if self.reached_over().is_some() => {}
                ClientEvent::Silent { since } => {
                    self.out.push_back(Output::Event(Event::ServerSilent { since }));
                }
                ClientEvent::Renewed => match self.part {
                    _ if self.stopping => {}
                    Part::Host(_) | Part::Owner(_) => self.introduce_self(now, server),
                    Part::Client(_) => self.ask_anew(now, server),
                },
                ClientEvent::Lost => {
                    self.relations_over(server);
                    self.unregistered(server);
                    match self.part {
                        _ if self.stopping => {}
                        Part::Host(_) | Part::Owner(_) => self.introduce_self(now, server),
                        Part::Client(_) => self.ask_again(now, server),
                    }
                }
            }
        }
    }

    /// Refused over one address family. Over all of them it is told at once.
    pub(super) fn server_refused(&mut self, now: Instant, server: usize, refusal: Event) {
        self.refusals.by.insert(server, refusal.clone());
        if self.refusals.by.len() >= self.servers.len() {
            self.refusals.tell_at = None;
            self.out.push_back(Output::Event(refusal));
        } else {
            self.refusals.tell_at.get_or_insert(now + OTHER_ANSWER);
        }
    }

    /// Tells a refusal that has waited, unless the server was reached over another family.
    pub(super) fn advance_refusals(&mut self, now: Instant) {
        if self.refusals.tell_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        let by = &self.refusals.by;
        let mut others = self.servers.iter().enumerate().filter(|(server, _)| !by.contains_key(server));
        if !others.any(|(_, server)| server.path().is_some()) {
            self.out.extend(by.values().next().cloned().map(Output::Event));
        }
    }

    pub(super) fn server_message(&mut self, now: Instant, server: usize, message: FromServer) {
        match message {
            FromServer::Relay { datagram, .. } => {
                self.peer_datagram(now, None, &datagram.0);
            }
            FromServer::Gone { relation } => {
                self.drop_relation(relation);
                self.request_gone(relation);
            }
            other => match self.part {
                Part::Host(_) => self.host_message(now, server, other),
                Part::Client(_) => self.client_message(now, server, other),
                Part::Owner(_) => {
                    if let FromServer::Released { outcome, .. } = other {
                        self.out.push_back(Output::Event(Event::Released(outcome)));
                    }
                }
            },
        }
    }

    /// A server sees this side: before anything else is measured, it is asked what the NAT lets in.
    fn examine(&mut self, server: usize, observed: SocketAddr) {
        let Some(address) = self.servers.get(server).map(Client::server) else { return };
        self.next_ports += 1;
        let ports = PortsId(self.next_ports);
        self.examined.reached((server, address), observed.ip(), ports, &mut self.out);
    }

    /// Says to a server, new or found again, what this endpoint is there for.
    pub(super) fn introduce_self(&mut self, now: Instant, server: usize) {
        match &self.part {
            Part::Host(host) => {
                let name = host.name.clone();
                self.tell(now, server, ToServer::Register { name });
            }
            Part::Client(_) => self.ask(now, server),
            Part::Owner(name) => {
                let name = name.clone();
                self.tell(now, server, ToServer::Release { name });
            }
        }
    }

    /// Sends a message to a server. It queues what is said in a day; where even that is full, the
    /// association is about to be lost and everything is said again.
    pub(super) fn tell(&mut self, now: Instant, server: usize, message: ToServer) {
        if let Some(server) = self.servers.get_mut(server) {
            let _ = server.send(now, message);
        }
    }

    /// An association over which an endpoint is reached now, if there is one.
    pub(super) fn reached_over(&self) -> Option<usize> {
        self.servers.iter().position(|server| server.path().is_some())
    }
}
