//! Two ends of a channel over a network that loses, damages, repeats and reorders; and an authentic liar.

use std::time::Instant;

use bytes::BytesMut;
use punchtunnel::{
    channel::{Body, Channel, MAX_ONCE, MAX_UNACKNOWLEDGED},
    wire::{
        self, Blob, MAX_DATAGRAM,
        packet::{DATA_HEADER, Packet},
    },
};

use super::{
    keys,
    script::{Script, start},
};

/// Datagrams on their way in one direction; the network loses more.
const MOST_FLYING: usize = 32;

/// A message: its number among those that are repeated (or among those that are not), and some bytes.
type Message = (bool, u32, Blob);

struct Side {
    channel: Channel<Message>,
    sent: u32,
    sent_once: u32,
    /// The next message that has to come.
    expected: u32,
    /// What flies to this side.
    flying: Vec<Vec<u8>>,
}

/// Plays the script.
pub(crate) fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    match script.byte() % 4 {
        0 => liar(script),
        _ => honest(script),
    }
}

/// What is sent with [`Channel::send`] arrives once and in order, whatever the network does.
fn honest(mut script: Script<'_>) {
    let mut now = start();
    let mut sides = [0, 1].map(|side| Side {
        channel: channel(side),
        sent: 0,
        sent_once: 0,
        expected: 0,
        flying: Vec::new(),
    });
    while !script.is_over() {
        let side = script.below(2);
        match script.byte() % 8 {
            0 | 1 => say(&mut sides[side], now, true, script.bytes()),
            2 => say(&mut sides[side], now, false, script.bytes()),
            3 => now += script.duration(),
            4 => sides[side].flying.reverse(),
            5 => {
                let again = sides[side].flying.first().cloned();
                sides[side].flying.extend(again);
            }
            _ => {
                let Some(datagram) = sides[side].flying.pop() else { continue };
                let datagram = script.damage(datagram);
                arrive(&mut sides[side], &datagram);
            }
        }
        for side in 0..2 {
            while let Some(datagram) = sides[side].channel.poll_transmit(now) {
                assert!(datagram.len() <= MAX_DATAGRAM);
                let flying = &mut sides[1 - side].flying;
                if flying.len() < MOST_FLYING {
                    flying.push(datagram);
                }
            }
            let next = sides[side].channel.poll_timeout();
            assert!(next.is_none_or(|at| at > now), "it would be asked again and again");
        }
    }
}

fn channel(side: usize) -> Channel<Message> {
    let indices = [11, 22];
    Channel::new(keys::secrets(0)[side].datagram(), indices[side], indices[1 - side], MAX_DATAGRAM)
}

fn say(side: &mut Side, now: Instant, kept: bool, bytes: &[u8]) {
    if kept {
        let message = (true, side.sent, Blob(bytes.to_vec()));
        side.sent += u32::from(side.channel.send(now, message).is_ok());
    } else {
        side.channel.send_once(now, (false, side.sent_once, Blob(bytes.to_vec())));
        side.sent_once += 1;
    }
}

fn arrive(side: &mut Side, datagram: &[u8]) {
    let Ok(Packet::Data { counter, sealed, .. }) = Packet::parse(datagram) else { return };
    let Ok(received) = side.channel.handle(counter, sealed) else { return };
    for (kept, number, _) in received.messages {
        if kept {
            assert_eq!(number, side.expected, "once and in order");
            side.expected += 1;
        }
    }
}

/// The other end has the keys, and any body behind them.
fn liar(mut script: Script<'_>) {
    let (mut now, mut victim, theirs) = (start(), channel(1), keys::secrets(0)[0].datagram());
    let (mut counter, mut sent) = (0, 0);
    while !script.is_over() {
        let body = match script.byte() % 4 {
            0 => script.bytes().to_vec(),
            kind => {
                let message = || (true, 0, Blob(Vec::new()));
                let count = script.below(80);
                wire::encode(&Body::<Message> {
                    ack: if kind == 1 { sent } else { script.number() },
                    seq: script.number(),
                    kept: std::iter::repeat_with(message).take(count).collect(),
                    once: Vec::new(),
                })
            }
        };
        counter += u64::from(script.number());
        let sealed = theirs.seal(22, counter, &body);
        let _ = victim.handle(counter, &sealed[DATA_HEADER..]);
        if script.byte().is_multiple_of(4) {
            sent += u32::from(victim.send(now, (true, 0, Blob(script.bytes().to_vec()))).is_ok());
            victim.send_once(now, (false, 0, Blob(Vec::new())));
        }
        now += script.duration();
        let mut said = BytesMut::new();
        while let Some(datagram) = victim.poll_transmit(now) {
            said.extend_from_slice(&datagram);
            assert!(said.len() <= (MAX_UNACKNOWLEDGED + MAX_ONCE) * MAX_DATAGRAM, "it talks without end");
        }
    }
}
