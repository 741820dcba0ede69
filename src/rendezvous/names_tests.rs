use super::*;
use crate::testing::start;

const ALICE: PublicKey = PublicKey([1; 32]);
const BOB: PublicKey = PublicKey([2; 32]);
const HERE: Prefix = Prefix::V4([0, 0, 0, 1]);
const YEAR: u64 = 365 * 24 * 3600;

fn node(n: u64) -> NodeRef {
    NodeRef(n.try_into().expect("not zero"))
}

fn names(limits: Limits) -> Names {
    Names::new(start(), &limits, [])
}

#[test]
fn names_are_labels_in_lower_case() {
    for good in ["a", "myhost", "my-host-2", &"x".repeat(63)] {
        assert!(is_name(good), "{good}");
    }
    for bad in ["", "-a", "a-", "A", "a.b", "a--b", "a_b", "a b", "ä", "a\0", &"x".repeat(64)] {
        assert!(!is_name(bad), "{bad:?}");
    }
}

#[test]
fn a_name_belongs_to_the_first_key_even_after_it_left() {
    let mut names = names(Limits::default());
    assert_eq!(names.claim(start(), 10, HERE, "box", ALICE, node(1)), Ok(None));
    names.release(20, ALICE, node(1));
    assert_eq!(names.claim(start(), 30, HERE, "box", BOB, node(2)), Err(NameRefusal::Owned));
    assert_eq!(names.holder("box"), None);
    assert_eq!(names.unseen_for(30, "box"), Some(10));
    assert_eq!(names.claim(start(), 40, HERE, "box", ALICE, node(3)), Ok(None));
}

#[test]
fn a_release_by_a_former_holder_changes_nothing() {
    let mut names = names(Limits::default());
    let _ = names.claim(start(), 10, HERE, "box", ALICE, node(1));
    assert_eq!(names.claim(start(), 11, HERE, "box", ALICE, node(2)), Ok(Some(node(1))));
    names.release(12, ALICE, node(1));
    assert_eq!(names.holder("box"), Some((node(2), ALICE)));
}

#[test]
fn what_was_stored_is_known_again() {
    let mut before = names(Limits::default());
    let _ = before.claim(start(), 10, HERE, "box", ALICE, node(1));
    let Some(Store::Put { name, key, last_seen }) = before.poll_store() else { panic!("nothing to store") };
    assert_eq!(before.poll_store(), None);
    let mut after = Names::new(start(), &Limits::default(), [(name, key, last_seen)]);
    assert_eq!(after.unseen_for(15, "box"), Some(5));
    assert_eq!(after.claim(start(), 20, HERE, "box", BOB, node(1)), Err(NameRefusal::Owned));
}

#[test]
fn keys_sources_and_the_whole_have_their_limits() {
    let mut few = names(Limits { names_per_key: 2, ..Limits::default() });
    for (name, expected) in [("a", Ok(None)), ("b", Ok(None)), ("c", Err(NameRefusal::Full))] {
        assert_eq!(few.claim(start(), 0, HERE, name, ALICE, node(1)), expected, "{name}");
    }
    let mut slow = names(Limits { new_names_per_source: 1, ..Limits::default() });
    assert_eq!(slow.claim(start(), 0, HERE, "a", ALICE, node(1)), Ok(None));
    assert_eq!(slow.claim(start(), 0, HERE, "b", BOB, node(2)), Err(NameRefusal::Full));
    assert_eq!(slow.claim(start(), 0, Prefix::V4([0, 0, 0, 9]), "b", BOB, node(2)), Ok(None));
}

#[test]
fn a_name_that_nobody_held_for_its_time_belongs_to_nobody() {
    let ttl = Limits::default().name_ttl.as_secs();
    let mut names = names(Limits::default());
    let _ = names.claim(start(), 10, HERE, "box", ALICE, node(1));
    assert_eq!(names.claim(start(), 10 + YEAR, HERE, "box", BOB, node(2)), Err(NameRefusal::Owned));
    names.tend(YEAR);
    names.release(YEAR, ALICE, node(1));
    let just_before = names.claim(start(), YEAR + ttl - 1, HERE, "box", BOB, node(2));
    assert_eq!(just_before, Err(NameRefusal::Owned));
    assert_eq!(names.unseen_for(YEAR + ttl, "box"), None);
    assert_eq!(names.claim(start(), YEAR + ttl, HERE, "box", BOB, node(2)), Ok(None));
    assert_eq!(names.by_key, BTreeSet::from([(start_of(BOB), "box".into())]));
}

#[test]
fn a_name_that_is_held_outlives_a_crash_however_long_it_was_held() {
    let mut before = names(Limits::default());
    let _ = before.claim(start(), 10, HERE, "box", ALICE, node(1));
    before.tend(YEAR);
    let stored = std::iter::from_fn(|| before.poll_store()).last();
    let Some(Store::Put { name, key, last_seen }) = stored else { panic!("{stored:?}") };
    let mut after = Names::new(start(), &Limits::default(), [(name, key, last_seen)]);
    after.tend(YEAR + 60);
    assert_eq!(after.claim(start(), YEAR + 60, HERE, "box", BOB, node(1)), Err(NameRefusal::Owned));
}

#[test]
fn only_its_key_gives_a_name_up_and_not_while_it_is_held() {
    let mut names = names(Limits::default());
    assert_eq!(names.give_up("box", ALICE), Release::Unknown);
    let _ = names.claim(start(), 10, HERE, "box", ALICE, node(1));
    assert_eq!(names.give_up("box", ALICE), Release::Held);
    names.release(20, ALICE, node(1));
    assert_eq!(names.give_up("box", BOB), Release::Owned);
    assert_eq!(names.give_up("box", ALICE), Release::Done);
    assert_eq!(names.poll_store(), Some(Store::Forget { name: "box".into() }));
    assert_eq!(names.claim(start(), 30, HERE, "box", BOB, node(2)), Ok(None));
}

#[test]
fn a_full_table_forgets_only_what_was_out_of_sight_for_long() {
    let mut names = names(Limits { names: 1, ..Limits::default() });
    assert_eq!(names.claim(start(), 0, HERE, "old", ALICE, node(1)), Ok(None));
    assert_eq!(names.claim(start(), YEAR, HERE, "new", BOB, node(2)), Err(NameRefusal::Full), "held");
    names.release(10, ALICE, node(1));
    assert_eq!(names.claim(start(), 20, HERE, "new", BOB, node(2)), Err(NameRefusal::Full), "fresh");
    assert_eq!(names.claim(start(), YEAR, HERE, "new", BOB, node(2)), Ok(None));
    let stores: Vec<_> = std::iter::from_fn(|| names.poll_store()).collect();
    assert!(stores.contains(&Store::Forget { name: "old".into() }), "{stores:?}");
}

#[test]
fn a_new_name_that_is_taken_for_anothers_is_refused_and_ones_own_are_not() {
    let mut names = names(Limits::default());
    assert_eq!(names.claim(start(), 0, HERE, "modern-b0b", ALICE, node(1)), Ok(None));
    for alike in ["modem-bob", "modern-bob", "modem-b0b"] {
        let refused = names.claim(start(), 0, HERE, alike, BOB, node(2));
        assert_eq!(refused, Err(NameRefusal::Alike), "{alike}");
        assert_eq!(names.claim(start(), 0, HERE, alike, ALICE, node(1)), Ok(None), "{alike}");
        names.release(0, ALICE, node(1));
        assert_eq!(names.give_up(alike, ALICE), Release::Done);
    }
    names.release(0, ALICE, node(1));
    assert_eq!(names.claim(start(), YEAR, HERE, "modem-bob", BOB, node(2)), Ok(None), "its time is over");
    assert_eq!(names.len(), 1);
}

#[test]
fn a_name_is_stored_when_its_last_change_of_hands_is() {
    let mut names = names(Limits::default());
    assert_eq!(names.claim(start(), 0, HERE, "box", ALICE, node(1)), Ok(None));
    assert!(!names.is_stored("box"));
    assert!(names.stored(u64::MAX).is_empty(), "nothing was given out");
    assert!(names.poll_store().is_some());
    names.release(1, ALICE, node(1));
    assert_eq!(names.give_up("box", ALICE), Release::Done);
    assert!(names.stored(1).is_empty(), "it changed hands again");
    assert_eq!(names.unstored(1), ["box"; 0]);
    assert!(names.poll_store().is_some());
    assert_eq!(names.unstored(2), ["box"]);
    assert_eq!(names.stored(2), ["box"]);
    assert!(names.is_stored("box"));
    assert_eq!(names.claim(start(), 2, HERE, "box", ALICE, node(1)), Ok(None));
    assert!(names.poll_store().is_some() && names.stored(3) == ["box"]);
    names.release(3, ALICE, node(1));
    assert!(names.is_stored("box"), "that it was seen is written behind");
}

#[test]
fn a_smaller_limit_gives_no_name_away() {
    let stored = [("a".to_owned(), ALICE, 0), ("b".to_owned(), ALICE, 0)];
    let mut names = Names::new(start(), &Limits { names: 1, ..Limits::default() }, stored);
    for name in ["a", "b"] {
        assert_eq!(names.claim(start(), 1, HERE, name, BOB, node(1)), Err(NameRefusal::Owned));
        assert_eq!(names.claim(start(), 1, HERE, name, ALICE, node(1)), Ok(None));
    }
}
