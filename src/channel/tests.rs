use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use zeroize::Zeroizing;

use super::*;
use crate::{
    secure::{Initiator, Psk, Purpose, Responder, StaticKey},
    testing::start,
    wire::packet::Packet,
};

const MAX: usize = 300;

fn pair() -> (Channel<String>, Channel<String>) {
    let key = |byte| StaticKey::from_private(Zeroizing::new([byte; 32]));
    let mut initiator =
        Initiator::new([1; 32], &key(10), &key(20).public(), Purpose::Peer, b"", &Psk::none());
    let first = initiator.write(b"");
    let (responder, _) = Responder::read([2; 32], &key(20), Purpose::Peer, b"", &first).unwrap();
    let (second, theirs) = responder.write(&Psk::none(), b"");
    let (_, ours) = initiator.read(&second).unwrap();
    (Channel::new(ours.datagram(), 1, 2, MAX), Channel::new(theirs.datagram(), 2, 1, MAX))
}

fn ms(amount: u64) -> Duration {
    Duration::from_millis(amount)
}

fn deliver(to: &mut Channel<String>, datagram: &[u8]) -> Result<Received<String>, ChannelError> {
    assert!(datagram.len() <= MAX);
    match Packet::parse(datagram).unwrap() {
        Packet::Data { index, counter, sealed } if index == to.local_index() => to.handle(counter, sealed),
        other => panic!("{other:?}"),
    }
}

/// Seals any body whatever as the channel's next datagram.
fn forge<T: Serialize>(from: &mut Channel<String>, body: &T) -> Vec<u8> {
    from.next_counter += 1;
    from.keys.seal(from.remote_index, from.next_counter, &wire::encode(body))
}

#[test]
fn a_message_sealed_alone_carries_nothing_else_and_changes_nothing() {
    let ((mut a, mut b), now) = (pair(), start());
    a.send(now, "kept".into()).unwrap();
    a.send_once(now, "once".into());
    let alone = a.seal_alone(&"alone".into());
    assert_eq!(deliver(&mut b, &alone).unwrap().messages, ["alone"]);
    let rest = a.poll_transmit(now).unwrap();
    assert_eq!(deliver(&mut b, &rest).unwrap().messages, ["kept", "once"]);
}

#[test]
fn a_message_arrives_is_acknowledged_and_then_all_is_quiet() {
    let ((mut a, mut b), now) = (pair(), start());
    a.send(now, "one".into()).unwrap();
    assert!(!a.is_idle());
    let datagram = a.poll_transmit(now).unwrap();
    assert!(a.poll_transmit(now).is_none());
    assert_eq!(a.poll_timeout(), Some(now + ms(450)));
    let later = now + ms(20);
    let received = deliver(&mut b, &datagram).unwrap();
    assert_eq!(received, Received { messages: vec!["one".into()], newest: true });
    assert!(!b.is_idle());
    let ack = b.poll_transmit(later).unwrap();
    assert!(b.is_idle() && b.poll_timeout().is_none());
    assert!(deliver(&mut a, &ack).unwrap().messages.is_empty());
    assert!(a.is_idle() && a.poll_timeout().is_none());
    assert!(a.poll_transmit(later).is_none(), "an acknowledgement is not acknowledged");
}

#[test]
fn a_lost_message_is_repeated_by_the_ladder_and_by_every_other_datagram() {
    let ((mut a, mut b), mut now) = (pair(), start());
    a.set_rtt(ms(100));
    a.send(now, "one".into()).unwrap();
    a.poll_transmit(now).unwrap();
    let mut waits = Vec::new();
    for _ in 0..12 {
        let at = a.poll_timeout().unwrap();
        assert!(a.poll_transmit(at - ms(1)).is_none());
        waits.push((at - now).as_millis());
        now = at;
        a.poll_transmit(now).unwrap();
    }
    assert_eq!(waits, [150, 225, 337, 506, 759, 1139, 1708, 2562, 3844, 5000, 5000, 5000]);
    now += ms(1);
    a.send_once(now, "ping".into());
    let datagram = a.poll_transmit(now).unwrap();
    assert_eq!(deliver(&mut b, &datagram).unwrap().messages, ["one", "ping"]);
    let ack = b.poll_transmit(now).unwrap();
    deliver(&mut a, &ack).unwrap();
    a.send(now, "two".into()).unwrap();
    a.poll_transmit(now).unwrap();
    assert_eq!(a.poll_timeout(), Some(now + ms(150)), "the ladder begins anew");
}

#[test]
fn a_short_round_trip_is_not_taken_at_its_word_and_an_endless_one_neither() {
    let ((mut a, _), now) = (pair(), start());
    a.send(now, "one".into()).unwrap();
    a.poll_transmit(now).unwrap();
    a.set_rtt(Duration::ZERO);
    assert_eq!(a.poll_timeout(), Some(now + ms(50)));
    a.set_rtt(Duration::MAX);
    assert_eq!(a.poll_timeout(), Some(now + ms(5000)));
}

#[test]
fn messages_sent_once_are_not_repeated_and_not_acknowledged() {
    let ((mut a, mut b), now) = (pair(), start());
    a.send_once(now, "ping".into());
    let datagram = a.poll_transmit(now).unwrap();
    assert!(a.is_idle() && a.poll_timeout().is_none());
    assert_eq!(deliver(&mut b, &datagram).unwrap().messages, ["ping"]);
    assert!(b.poll_transmit(now).is_none());
}

#[test]
fn messages_that_fill_several_datagrams_leave_at_once_and_arrive_in_order() {
    let ((mut a, mut b), now) = (pair(), start());
    let messages: Vec<String> = (0..10).map(|n| format!("{n}{}", "x".repeat(99))).collect();
    for message in &messages {
        a.send(now, message.clone()).unwrap();
    }
    a.send_once(now, "y".repeat(240));
    let mut arrived = Vec::new();
    while let Some(datagram) = a.poll_transmit(now) {
        arrived.extend(deliver(&mut b, &datagram).unwrap().messages);
    }
    let big = arrived.iter().position(|m| m.starts_with('y')).map(|at| arrived.remove(at));
    assert!(big.is_some(), "what is sent once has its turn too");
    assert_eq!(arrived, messages);
}

#[test]
fn behind_a_gap_nothing_is_taken_until_it_is_filled() {
    let ((mut a, mut b), now) = (pair(), start());
    a.send(now, "x".repeat(200)).unwrap();
    a.send(now, "y".repeat(200)).unwrap();
    let (first, second) = (a.poll_transmit(now).unwrap(), a.poll_transmit(now).unwrap());
    assert!(deliver(&mut b, &second).unwrap().messages.is_empty());
    let late = deliver(&mut b, &first).unwrap();
    assert_eq!((late.messages.len(), late.newest), (1, false));
    let ack = b.poll_transmit(now).unwrap();
    deliver(&mut a, &ack).unwrap();
    let at = a.poll_timeout().unwrap();
    let again = a.poll_transmit(at).unwrap();
    assert_eq!(deliver(&mut b, &again).unwrap().messages, ["y".repeat(200)]);
}

#[test]
fn a_datagram_is_taken_once_and_a_forged_one_never() {
    let ((mut a, mut b), now) = (pair(), start());
    a.send_once(now, "ping".into());
    let datagram = a.poll_transmit(now).unwrap();
    let mut changed = datagram.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert!(matches!(deliver(&mut b, &changed), Err(ChannelError::Seal(_))));
    deliver(&mut b, &datagram).unwrap();
    assert_eq!(deliver(&mut b, &datagram), Err(ChannelError::Replayed));
}

#[test]
fn too_many_and_too_long_messages_are_refused() {
    let ((mut a, _), now) = (pair(), start());
    assert_eq!(a.send(now, "x".repeat(MAX)), Err(Full));
    for _ in 0..MAX_UNACKNOWLEDGED {
        a.send(now, "one".into()).unwrap();
    }
    assert_eq!(a.send(now, "one too many".into()), Err(Full));
    for _ in 0..1000 {
        a.send_once(now, "x".repeat(100));
    }
    a.send_once(now, "x".repeat(MAX));
    let count = std::iter::from_fn(|| a.poll_transmit(now)).count();
    assert_eq!(count, 1 + MAX_ONCE / 2, "one full of kept messages, then two others in each");
}

#[test]
fn hostile_numbers_are_errors_and_change_nothing() {
    let ((mut a, mut b), now) = (pair(), start());
    b.send(now, "kept".into()).unwrap();
    b.poll_transmit(now).unwrap();
    b.send(now, "never sent".into()).unwrap();
    let message = || vec!["x".to_owned()];
    for body in [
        Body { ack: 2, kept: message(), ..Body::default() },
        Body { ack: 300, ..Body::default() },
        Body { ack: u32::MAX, ..Body::default() },
        Body { seq: u32::MAX, kept: message(), ..Body::default() },
    ] {
        let datagram = forge(&mut a, &body);
        assert_eq!(deliver(&mut b, &datagram), Err(ChannelError::Numbers), "{body:?}");
    }
    // A number far ahead is a gap.
    let ahead = forge(&mut a, &Body { seq: u32::MAX - 1, kept: message(), ..Body::default() });
    assert_eq!(deliver(&mut b, &ahead).unwrap().messages, [""; 0]);
    let good = forge(&mut a, &Body { ack: 1, kept: message(), ..Body::default() });
    assert_eq!(deliver(&mut b, &good).unwrap().messages, ["x"]);
    let older = forge(&mut a, &Body { ack: 0, kept: message(), ..Body::default() });
    assert!(deliver(&mut b, &older).unwrap().messages.is_empty());
}

#[test]
fn a_body_that_does_not_decode_is_an_error_and_is_not_taken_again() {
    let (mut a, mut b) = pair();
    for body in [
        &b""[..],
        b"\xc1",
        b"\x94\x00\x00\xdd\xff\xff\xff\xff\xdd\xff\xff\xff\xff",
        b"\x94\x00\x00\x90\x90\x00",
    ] {
        a.next_counter += 1;
        let datagram = a.keys.seal(2, a.next_counter, body);
        assert!(matches!(deliver(&mut b, &datagram), Err(ChannelError::Wire(_))), "{body:?}");
        assert_eq!(deliver(&mut b, &datagram), Err(ChannelError::Replayed));
    }
}

#[test]
fn thousands_of_messages_in_one_datagram_are_only_messages() {
    let (mut a, mut b) = pair();
    let body = Body { kept: vec![String::new(); 200], once: vec![String::new(); 30], ..Body::default() };
    let datagram = forge(&mut a, &body);
    assert_eq!(deliver(&mut b, &datagram).unwrap().messages.len(), 230);
}

#[test]
fn bodies_inside_handshakes_are_part_of_the_sequence() {
    let ((a, b), now) = (pair(), start());
    // The client sent "register" in message 1; the server answers "registered" in message 2.
    let answer = Body { ack: 1, kept: vec!["registered".to_owned()], ..Body::default() };
    let mut b = b.with_received(1).with_sent(now, answer.kept.clone());
    let mut a = a.with_sent(now, vec!["register".into()]);
    assert!(b.poll_transmit(now).is_none() && a.poll_transmit(now).is_none());
    assert_eq!(a.handle_body(answer), Ok(vec!["registered".into()]));
    let ack = a.poll_transmit(now).unwrap();
    assert!(a.is_idle());
    assert!(deliver(&mut b, &ack).unwrap().messages.is_empty());
    assert!(b.is_idle());
    a.send(now, "next".into()).unwrap();
    let datagram = a.poll_transmit(now).unwrap();
    assert_eq!(deliver(&mut b, &datagram).unwrap().messages, ["next"]);
}

#[test]
fn a_lost_answer_of_the_handshake_is_repeated_in_datagrams() {
    let ((a, b), now) = (pair(), start());
    let mut b = b.with_received(1).with_sent(now, vec!["registered".into()]);
    let mut a = a.with_sent(now, vec!["register".into()]);
    let at = b.poll_timeout().unwrap();
    let datagram = b.poll_transmit(at).unwrap();
    assert_eq!(deliver(&mut a, &datagram).unwrap().messages, ["registered"]);
    let ack = a.poll_transmit(at).unwrap();
    deliver(&mut b, &ack).unwrap();
    assert!(a.is_idle() && b.is_idle());
}

#[test]
fn what_is_not_acknowledged_can_be_moved_to_another_channel() {
    let ((mut a, mut b), now) = (pair(), start());
    for message in ["one", "two"] {
        a.send(now, message.into()).unwrap();
        let datagram = a.poll_transmit(now).unwrap();
        deliver(&mut b, &datagram).unwrap();
        if message == "one" {
            let ack = b.poll_transmit(now).unwrap();
            deliver(&mut a, &ack).unwrap();
        }
    }
    a.send(now, "three".into()).unwrap();
    assert_eq!(a.into_unacknowledged().collect::<Vec<_>>(), ["two", "three"]);
}

#[test]
fn a_message_sealed_alone_takes_nothing_else_along_and_changes_nothing() {
    let ((mut a, mut b), now) = (pair(), start());
    a.send(now, "kept".into()).unwrap();
    a.send_once(now, "once".into());
    let alone = a.seal_alone(&"alone".into());
    let rest = a.poll_transmit(now).unwrap();
    assert_eq!(deliver(&mut b, &rest).unwrap().messages, ["kept", "once"]);
    assert_eq!(deliver(&mut b, &alone).unwrap(), Received { messages: vec!["alone".into()], newest: false });
}

#[test]
fn an_idle_channel_is_small_enough_to_be_held_a_million_times() {
    assert!(size_of::<Channel<crate::wire::server::FromServer>>() <= 384);
}

#[test]
fn nothing_secret_is_shown() {
    let ((mut a, _), now) = (pair(), start());
    a.send(now, "secret".into()).unwrap();
    let shown = format!("{a:?}");
    assert!(shown.contains("unacknowledged: 1") && !shown.contains("secret"), "{shown}");
}

/// Two channels, and a wire that loses, doubles and reorders by a seed.
struct Wire {
    random: StdRng,
    loss: u32,
    now: Instant,
    flying: Vec<(Instant, usize, Vec<u8>)>,
    ends: [Channel<String>; 2],
    arrived: [Vec<String>; 2],
}

impl Wire {
    fn percent(&mut self, of: u32) -> bool {
        self.random.next_u32() % 100 < of
    }

    fn drain(&mut self) {
        for from in 0..2 {
            while let Some(datagram) = self.ends[from].poll_transmit(self.now) {
                while !self.percent(self.loss) {
                    let at = self.now + ms(u64::from(self.random.next_u32() % 200));
                    self.flying.push((at, 1 - from, datagram.clone()));
                    if !self.percent(30) {
                        break;
                    }
                }
            }
        }
    }

    /// To the next thing that happens; false if nothing ever will.
    fn step(&mut self) -> bool {
        self.drain();
        let timeout = self.ends.iter().filter_map(Channel::poll_timeout).min();
        let arrival = self.flying.iter().map(|f| f.0).min();
        let Some(next) = timeout.into_iter().chain(arrival).min() else { return false };
        self.now = self.now.max(next);
        if let Some(at) = self.flying.iter().position(|f| f.0 <= self.now) {
            let (_, to, datagram) = self.flying.swap_remove(at);
            match deliver(&mut self.ends[to], &datagram) {
                Ok(received) => self.arrived[to].extend(received.messages),
                Err(why) => assert_eq!(why, ChannelError::Replayed),
            }
        }
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn over_a_bad_wire_everything_arrives_once_and_in_order_and_then_it_is_quiet(
        seed in any::<u64>(),
        loss in 0u32..70,
        sizes in prop::collection::vec((0usize..2, 0usize..220), 1..60),
    ) {
        let (a, b) = pair();
        let random = StdRng::seed_from_u64(seed);
        let (flying, arrived) = (Vec::new(), [Vec::new(), Vec::new()]);
        let mut wire = Wire { random, loss, now: start(), flying, ends: [a, b], arrived };
        let mut sent = [Vec::new(), Vec::new()];
        for (number, (from, size)) in sizes.into_iter().enumerate() {
            let message = format!("{number} {}", "x".repeat(size));
            wire.ends[from].send(wire.now, message.clone()).unwrap();
            sent[1 - from].push(message);
            for _ in 0..wire.random.next_u32() % 4 {
                wire.step();
            }
        }
        let mut steps = 0;
        while wire.step() {
            steps += 1;
            prop_assert!(steps < 50_000, "it never ends");
        }
        prop_assert_eq!(&wire.arrived, &sent);
        prop_assert!(wire.ends.iter().all(Channel::is_idle));
    }
}
