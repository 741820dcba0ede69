//! What can happen, at random.

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

/// One move of a program, of the network, or of time. Sides are 0, who connects, and 1. A number that
/// picks something is taken modulo what there is, so that any part of a sequence is a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    Open(usize),
    Write(usize, usize, usize),
    /// Writes until nothing more is taken.
    Fill(usize, usize),
    Read(usize, usize, usize),
    Finish(usize, usize),
    Reset(usize, usize),
    /// That side's driver writes until its socket holds this many bytes.
    Transmit(usize, usize),
    /// The network brings up to this many bytes of that side, on the newest connection.
    Deliver(usize, usize),
    /// The same on the oldest connection: a link that one side has given up, and the other not yet.
    DeliverLate(usize, usize),
    /// A reset on the network after that many bytes each way; both sides hear of it, at their time.
    Cut(usize, usize),
    /// A reset that only that side hears of.
    CutOneEnd(usize),
    /// What that side sends is lost from now on, without a word.
    Blackhole(usize),
    /// Bit of what that side has on its way is changed.
    Damage(usize, usize),
    /// The initiator nominates a new link, whether or not there is one.
    Punch,
    /// What a side has to say of dead links reaches the other, by the line that needs no link.
    Tell(usize),
    /// Milliseconds pass, and nothing arrives.
    Stall(u64),
    /// Milliseconds pass, and everything arrives that can.
    Run(u64),
    /// That side's clock goes on by this many seconds while the other's does not: it slept, or its
    /// process was stopped.
    Jump(usize, u64),
    /// A few bytes are written and sent, and some of what was sent arrives.
    Talk(usize, usize, usize),
    /// That side ends the session.
    Close(usize),
}

/// How often a kind of move is drawn, and how one of it is made.
type Kind = (u32, fn(&mut StdRng) -> Move);

/// How often each kind of move is drawn, beside others.
const WEIGHTS: [Kind; 20] = [
    (6, |r| Move::Open(side(r))),
    (18, |r| Move::Write(side(r), pick(r), size(r))),
    (15, |r| Move::Read(side(r), pick(r), r.random_range(1..20))),
    (4, |r| Move::Finish(side(r), pick(r))),
    (3, |r| Move::Reset(side(r), pick(r))),
    (15, |r| Move::Transmit(side(r), size(r))),
    (12, |r| Move::Deliver(side(r), size(r))),
    (6, |r| Move::DeliverLate(side(r), size(r))),
    (4, |r| Move::Cut(size(r), size(r))),
    (2, |r| Move::CutOneEnd(side(r))),
    (2, |r| Move::Blackhole(side(r))),
    (2, |r| Move::Damage(side(r), r.random_range(0..1 << 20))),
    (12, |_| Move::Punch),
    (4, |r| Move::Tell(side(r))),
    (4, |r| Move::Stall(time(r))),
    (9, |r| Move::Run(time(r))),
    (1, |r| Move::Jump(side(r), [1, 3, 60, 12 * 3600][r.random_range(0..4)])),
    (18, |r| Move::Talk(side(r), pick(r), r.random_range(0..300))),
    (2, |r| Move::Fill(side(r), pick(r))),
    (0, |r| Move::Close(side(r))),
];

fn side(rng: &mut StdRng) -> usize {
    rng.random_range(0..2)
}

fn pick(rng: &mut StdRng) -> usize {
    rng.random_range(0..8)
}

fn size(rng: &mut StdRng) -> usize {
    match rng.random_range(0..8) {
        0..4 => rng.random_range(0..200),
        4..7 => rng.random_range(0..5_000),
        _ => rng.random_range(0..120_000),
    }
}

fn time(rng: &mut StdRng) -> u64 {
    match rng.random_range(0..4) {
        0..3 => rng.random_range(0..60),
        _ => rng.random_range(0..5_000),
    }
}

/// The moves of a seed. Each sequence draws from some kinds of moves only: what is rare among all of
/// them is then common in some.
pub fn moves(seed: u64) -> Vec<Move> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut kinds: Vec<Kind> = WEIGHTS.to_vec();
    for (weight, _) in &mut kinds {
        match rng.random_range(0..6) {
            0 => *weight = 0,
            1 => *weight *= 4,
            _ => {}
        }
    }
    // Something must be opened and carried, or there is nothing to see.
    kinds[0].0 = kinds[0].0.max(2);
    kinds[12].0 = kinds[12].0.max(4);
    let total: u32 = kinds.iter().map(|(weight, _)| weight).sum();
    let length = rng.random_range(5..if seed.is_multiple_of(8) { 120 } else { 40 });
    let mut moves: Vec<Move> = (0..length).map(|_| draw(&mut rng, &kinds, total)).collect();
    // One session in sixteen is ended on the way; what follows must find it so.
    if rng.random_range(0..16) == 0 {
        let at = rng.random_range(0..=moves.len());
        moves.insert(at, Move::Close(side(&mut rng)));
    }
    moves
}

fn draw(rng: &mut StdRng, kinds: &[Kind], total: u32) -> Move {
    let mut at = (rng.next_u64() % u64::from(total)) as u32;
    for (weight, kind) in kinds {
        if at < *weight {
            return kind(rng);
        }
        at -= weight;
    }
    Move::Punch
}

/// Leaves out of a failing sequence what it fails without, trying at most `tries` times.
pub fn smallest(moves: &[Move], mut tries: usize, fails: impl Fn(&[Move]) -> bool) -> Vec<Move> {
    let mut moves = moves.to_vec();
    let mut size = moves.len().div_ceil(2);
    while size > 0 && tries > 0 {
        let mut at = 0;
        while at < moves.len() && tries > 0 {
            let mut fewer = moves.clone();
            fewer.drain(at..(at + size).min(moves.len()));
            tries -= 1;
            if fails(&fewer) {
                moves = fewer;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    moves
}
