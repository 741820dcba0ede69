use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::testing::start;

impl Directory {
    /// Every table says the same.
    fn check(&self) {
        assert_eq!(self.waiting.len(), self.awaited.len());
        for ((node, request), wanted) in &self.waiting {
            assert!(self.awaited.contains(&(wanted.name.clone(), *node, *request)));
            assert!(self.names.holder(&wanted.name).is_none(), "{} is there", wanted.name);
            assert!(self.relations.find(Side { node: *node, number: *request }).is_none());
        }
        for (node, state) in &self.nodes {
            let waits = self.waiting.keys().filter(|(n, _)| n == node).count();
            assert_eq!(state.waits, waits);
            assert!(waits + self.relations.asked_by(*node) <= self.limits.requests_per_client);
            assert!(state.holds.iter().all(|name| self.names.holder(name) == Some(*node)));
        }
        for id in self.nodes.keys().flat_map(|node| self.relations.of(*node)) {
            let (_, Relation { client, host, reply, name, .. }) = id;
            assert!(self.nodes.contains_key(&client.node) && self.nodes.contains_key(&host.node));
            assert!(reply.is_some() || self.names.holder(&name) == Some(host.node));
        }
    }
}

/// Anything that a client may say, about few names and numbers, so that they meet.
fn anything(rng: &mut StdRng, heard: &[u32]) -> ToServer {
    let name = ["a", "b", "c", "-"][rng.random_range(0..4)].to_owned();
    let request = rng.random_range(0..4);
    let relation = if heard.is_empty() { request } else { heard[rng.random_range(0..heard.len())] };
    let blob = Blob(vec![rng.random_range(0..3); rng.random_range(0..4)]);
    match rng.random_range(0..10) {
        0 | 1 => ToServer::Register { name },
        2 => ToServer::Unregister,
        3 => ToServer::Find { request, name },
        4 | 5 => ToServer::Introduce { request, name, hello: blob },
        6 => ToServer::Cancel { request: if rng.random() { request } else { relation } },
        7 => ToServer::Accept { relation, reply: blob },
        8 => ToServer::Decline { relation, why: Decline::Unauthorised },
        _ => ToServer::Relay { relation, datagram: blob },
    }
}

#[test]
fn whatever_clients_say_the_tables_agree_and_are_empty_when_all_have_left() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let limits = Limits {
            requests_per_client: 3,
            relations_per_host: 4,
            relations: 8,
            requests: 6,
            ..Limits::default()
        };
        let names = Names::new(start(), &limits, []);
        let mut directory = Directory::new(names, limits);
        let mut heard: BTreeMap<NodeRef, Vec<u32>> = BTreeMap::new();
        for step in 0..400 {
            let node = NodeRef(rng.random_range(0..6));
            let key = PublicKey([node.0 as u8 / 2; 32]);
            if rng.random_range(0..25) == 0 {
                directory.leave(step, node);
                heard.remove(&node);
            } else {
                directory.enter(node, key);
                let message = anything(&mut rng, heard.get(&node).map_or(&[], |numbers| numbers));
                let at = Arrival { now: start(), unix_secs: step, source: Prefix::V4(1), family: Family::V4 };
                directory.handle(at, node, message);
            }
            while let Some((to, message)) = directory.poll_said() {
                if let FromServer::Introduction { relation, .. } = message {
                    heard.entry(to.node).or_default().push(relation);
                }
            }
            directory.check();
        }
        for node in 0..6 {
            directory.leave(1_000, NodeRef(node));
        }
        assert_eq!(directory.len(), (0, 0), "seed {seed}");
        assert!(directory.nodes.is_empty() && directory.awaited.is_empty());
        assert!(["a", "b", "c"].iter().all(|name| directory.names.holder(name).is_none()));
    }
}
