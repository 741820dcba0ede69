use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::testing::start;

impl Directory {
    /// Every table says the same.
    fn check(&self, here: &BTreeSet<NodeRef>) {
        assert_eq!(self.waiting.len(), self.awaited.len());
        for ((node, request), wanted) in &self.waiting {
            assert!(self.awaited.contains(&(wanted.name.clone(), *node, *request)));
            assert!(self.names.holder(&wanted.name).is_none(), "{} is there", wanted.name);
            assert!(self.relations.find(Side { node: *node, number: *request }).is_none());
        }
        for node in nodes() {
            let waits = self.waiting.keys().filter(|(n, _)| *n == node).count();
            assert!(waits + self.relations.asked_by(node) <= self.limits.requests_per_client);
            let is_here = here.contains(&node);
            assert!(is_here || waits == 0 && self.relations.of(node).is_empty());
            for (_, Relation { client, host, reply, name, .. }) in self.relations.of(node) {
                assert!(here.contains(&client.node) && here.contains(&host.node));
                assert!(reply.is_some() || self.names.holder(&name) == Some((host.node, key(host.node))));
            }
        }
        for name in ["a", "b", "c"] {
            assert!(self.names.holder(name).is_none_or(|(node, k)| here.contains(&node) && k == key(node)));
        }
    }
}

fn nodes() -> impl Iterator<Item = NodeRef> {
    (1..=6).map(|n| NodeRef(NonZeroU64::new(n).expect("not zero")))
}

/// Two nodes have the same key.
fn key(node: NodeRef) -> PublicKey {
    PublicKey([(node.0.get() - 1) as u8 / 2; 32])
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
        let associations = Associations::new(start(), [7; 32], 1);
        let mut here = BTreeSet::new();
        let mut heard: BTreeMap<NodeRef, Vec<u32>> = BTreeMap::new();
        for step in 0..400 {
            let node = nodes().nth(rng.random_range(0..6)).expect("one of six");
            let key = key(node);
            if rng.random_range(0..25) == 0 {
                directory.leave(step, key, node);
                heard.remove(&node);
                here.remove(&node);
            } else {
                here.insert(node);
                let message = anything(&mut rng, heard.get(&node).map_or(&[], |numbers| numbers));
                let (now, source) = (start(), Prefix::V4([0, 0, 0, 1]));
                let associations = &associations;
                let at = Arrival { now, unix_secs: step, source, family: Family::V4, key, associations };
                directory.handle(at, node, message);
            }
            while let Some((to, message)) = directory.poll_said() {
                if let FromServer::Introduction { relation, .. } = message {
                    heard.entry(to.node).or_default().push(relation);
                }
            }
            directory.check(&here);
        }
        for node in nodes() {
            directory.leave(1_000, key(node), node);
        }
        assert_eq!(directory.len(), (0, 0), "seed {seed}");
        assert!(directory.awaited.is_empty());
        assert!(["a", "b", "c"].iter().all(|name| directory.names.holder(name).is_none()));
    }
}
