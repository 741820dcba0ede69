//! Who owns a name outlives the server's death at any instant, from the moment that the owner is told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use punchtunnel::wire::server::{FromServer, NameRefusal, Release, ToServer};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redb::{Database, TableDefinition};
use tokio::task::JoinSet;

use crate::{
    harness::{Home, Server},
    party::{Party, address, key, run},
};

/// As `net/server/store.rs` has it.
const NAMES: TableDefinition<'static, &str, (&[u8; 32], u64)> = TableDefinition::new("names");

/// Names that are claimed in one life of the server.
const CLAIMS: u32 = 60;

/// Who owns which name, as far as the server has promised it: `None` for nobody.
type Promises = Arc<Mutex<BTreeMap<String, Option<u32>>>>;

fn rounds() -> u32 {
    if std::env::var_os("PUNCHTUNNEL_LAB_LONG").is_some() { 200 } else { 6 }
}

async fn register(server: &str, number: u32, name: &str) -> FromServer {
    let mut party = Party::new(address(number), server, number).await;
    party.ask(ToServer::Register { name: name.into() }).await
}

async fn release(server: &str, number: u32, name: &str) -> FromServer {
    let mut party = Party::new(address(number), server, number).await;
    party.ask(ToServer::Release { name: name.into() }).await
}

#[test]
fn every_promised_name_outlives_kill_9_at_any_instant() {
    run(async {
        let mut rng = StdRng::seed_from_u64(9);
        let home = Home::new();
        let promises = Promises::default();
        let (mut next, mut promised, mut most) = (0, 0, 0);
        for round in 0..rounds() {
            let server = Server::start_in(home.clone(), &[]);
            let known = promises.lock().unwrap().clone();
            most = most.max(known.len());
            check(&server.address, &known).await;
            let mut tasks = JoinSet::new();
            for number in next..next + CLAIMS {
                tasks.spawn(claim(server.address.clone(), number, promises.clone()));
            }
            // Some of those who own one give it up meanwhile.
            for (name, owner) in known.into_iter().filter(|_| rng.random_range(0..4) == 0) {
                if let Some(owner) = owner {
                    tasks.spawn(give_up(server.address.clone(), owner, name, promises.clone()));
                }
            }
            // As soon as so many promises were heard, and a little later.
            let fresh = |owner: &&Option<u32>| owner.is_some_and(|owner| owner >= next);
            let heard = || promises.lock().unwrap().values().filter(fresh).count();
            let target = rng.random_range(0..CLAIMS as usize);
            while heard() < target {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_micros(rng.random_range(0..3_000))).await;
            drop(server);
            // What was on its way has arrived when the last answer is old.
            tokio::time::sleep(Duration::from_millis(20)).await;
            tasks.shutdown().await;
            eprintln!("life {round}: {} promises", heard());
            promised += heard();
            next += CLAIMS;
        }
        assert!(promised > 0 && most > 0, "it was always killed before it promised anything");
        let server = Server::start_in(home, &[]);
        let known = promises.lock().unwrap().clone();
        check(&server.address, &known).await;
    });
}

/// Claims a new name, and notes it if the server says that it is promised.
async fn claim(server: String, number: u32, promises: Promises) {
    let name = format!("name-{number}-x");
    assert_eq!(register(&server, number, &name).await, FromServer::Registered);
    promises.lock().unwrap().insert(name, Some(number));
}

/// From the question on the name may belong to nobody; from the answer on it does.
async fn give_up(server: String, owner: u32, name: String, promises: Promises) {
    promises.lock().unwrap().remove(&name);
    match release(&server, owner, &name).await {
        FromServer::Released { outcome: Release::Done, .. } => {
            promises.lock().unwrap().insert(name, None);
        }
        other => panic!("{other:?}"),
    }
}

/// Asks the server about every promise, without changing whose a name is.
async fn check(server: &str, promises: &BTreeMap<String, Option<u32>>) {
    for (name, owner) in promises {
        let stranger = 60_000;
        let heard = release(server, stranger, name).await;
        let expected = if owner.is_some() { Release::Owned } else { Release::Unknown };
        let expected = FromServer::Released { name: name.clone(), outcome: expected };
        assert_eq!(heard, expected, "{name} of {owner:?}");
    }
}

#[test]
fn a_name_whose_time_was_over_belongs_to_the_next_key_after_kill_9_too() {
    run(async {
        let home = Home::new();
        // Dropped, it is killed.
        drop(Server::start_in(home.clone(), &[]));
        let file = walk(home.path());
        {
            let database = Database::create(file).expect("it opens");
            let writing = database.begin_write().expect("writing");
            let mut table = writing.open_table(NAMES).expect("a table");
            table.insert("old", (&key(1).public().0, 1_000_000_000)).expect("room");
            drop(table);
            writing.commit().expect("on disk");
        }
        let second = Server::start_in(home.clone(), &[]);
        assert_eq!(register(&second.address, 2, "old").await, FromServer::Registered);
        drop(second);
        let third = Server::start_in(home, &[]);
        let refused = FromServer::NotRegistered { why: NameRefusal::Owned };
        assert_eq!(register(&third.address, 1, "old").await, refused);
        assert_eq!(register(&third.address, 2, "old").await, FromServer::Registered);
    });
}

/// The database of the server.
fn walk(directory: &std::path::Path) -> std::path::PathBuf {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("listed") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => directories.push(path),
                false if path.ends_with("names.redb") => return path,
                false => {}
            }
        }
    }
    panic!("no database");
}

#[test]
fn a_name_that_is_taken_for_anothers_is_refused() {
    run(async {
        let server = Server::start();
        assert_eq!(register(&server.address, 1, "modern1").await, FromServer::Registered);
        let refused = FromServer::NotRegistered { why: NameRefusal::Alike };
        assert_eq!(register(&server.address, 2, "modeml").await, refused);
    });
}
