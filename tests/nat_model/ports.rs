//! Port assignment: which external port a new mapping gets.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use rand::{RngExt, rngs::StdRng};

use super::behaviour::Assignment;

/// Ports that NATs give away: all but the well-known ones.
pub const RANGE: RangeInclusive<u16> = 1024..=u16::MAX;

/// Ports of [`RANGE`].
const SIZE: i32 = *RANGE.end() as i32 - *RANGE.start() as i32 + 1;

/// Random draws before the free ports are counted one by one.
const DRAWS: usize = 64;

/// The assignment of one transport, with the state that it needs.
#[derive(Debug)]
pub enum Ports {
    Preserving,
    ConstantOffset(u16),
    Sequential { next: u16, step: i16, jitter: u16, parity: bool },
    Random(RangeInclusive<u16>),
    Block { size: u16, lows: BTreeMap<IpAddr, u16>, first: Option<u16> },
}

impl Ports {
    /// Draws what the behaviour leaves open.
    pub fn new(assignment: Assignment, rng: &mut StdRng) -> Self {
        match assignment {
            Assignment::Preserving => Ports::Preserving,
            Assignment::ConstantOffset { offset } => {
                Ports::ConstantOffset(offset.unwrap_or_else(|| rng.random_range(1..SIZE as u16)))
            }
            Assignment::Sequential { step, jitter, parity, start } => {
                let next = start.unwrap_or_else(|| rng.random_range(RANGE));
                Ports::Sequential { next, step, jitter, parity }
            }
            Assignment::Random { low, high } => Ports::Random(low..=high),
            Assignment::Block { size, low } => Ports::Block { size, lows: BTreeMap::new(), first: low },
            Assignment::Any => match rng.random_range(0..3) {
                0 => Ports::Preserving,
                1 => {
                    let next = rng.random_range(RANGE);
                    Ports::Sequential { next, step: 1, jitter: 0, parity: false }
                }
                _ => Ports::Random(RANGE),
            },
        }
    }

    /// Mappings towards different destinations may have the same external port.
    pub fn shared(&self) -> bool {
        matches!(self, Ports::Preserving)
    }

    /// The external port for a new mapping of `internal`; `None` where all are taken.
    pub fn assign(
        &mut self,
        rng: &mut StdRng,
        internal: SocketAddr,
        taken: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        match self {
            Ports::Preserving if !taken(internal.port()) => Some(internal.port()),
            Ports::Preserving => draw(rng, RANGE, taken),
            Ports::ConstantOffset(offset) => {
                let port = step_from(internal.port(), i32::from(*offset));
                if taken(port) { draw(rng, RANGE, taken) } else { Some(port) }
            }
            Ports::Sequential { next, step, jitter, parity } => {
                let sign = i32::from(step.signum());
                let mut port = *next;
                for _ in 0..SIZE {
                    if *parity && port % 2 != internal.port() % 2 {
                        port = step_from(port, sign);
                    } else if taken(port) {
                        port = step_from(port, i32::from(*step));
                    } else {
                        let skipped = i32::from(rng.random_range(0..=*jitter));
                        *next = step_from(port, i32::from(*step) + sign * skipped);
                        return Some(port);
                    }
                }
                None
            }
            Ports::Random(range) => draw(rng, range.clone(), taken),
            Ports::Block { size, lows, first } => {
                let size = *size;
                if !lows.contains_key(&internal.ip()) {
                    let low = first.take().or_else(|| free_block(rng, size, lows))?;
                    lows.insert(internal.ip(), low);
                }
                let low = *lows.get(&internal.ip())?;
                draw(rng, low..=low.saturating_add(size - 1), taken)
            }
        }
    }

    /// A new mapping may find its port taken.
    pub fn meets_others(&self) -> bool {
        matches!(self, Ports::ConstantOffset(_) | Ports::Random(_))
    }

    /// Customers that have a block.
    pub fn customers(&self) -> usize {
        if let Ports::Block { lows, .. } = self { lows.len() } else { 0 }
    }

    /// A customer whose block foreign traffic uses up; `None` where blocks are not per customer.
    pub fn customer(&self, rng: &mut StdRng) -> Option<Option<IpAddr>> {
        match self {
            Ports::Block { lows, .. } if lows.is_empty() => Some(None),
            Ports::Block { lows, .. } => Some(lows.keys().nth(rng.random_range(0..lows.len())).copied()),
            _ => None,
        }
    }
}

/// `port` plus `step`, from one end of [`RANGE`] to the other.
fn step_from(port: u16, step: i32) -> u16 {
    let low = i32::from(*RANGE.start());
    (low + (i32::from(port) - low + step).rem_euclid(SIZE)) as u16
}

/// Any port of the range that is not taken.
fn draw(rng: &mut StdRng, range: RangeInclusive<u16>, taken: impl Fn(u16) -> bool) -> Option<u16> {
    for _ in 0..DRAWS {
        let port = rng.random_range(range.clone());
        if !taken(port) {
            return Some(port);
        }
    }
    let free: Vec<u16> = range.filter(|&port| !taken(port)).collect();
    (!free.is_empty()).then(|| free[rng.random_range(0..free.len())])
}

/// The lowest port of an aligned block that nobody has.
fn free_block(rng: &mut StdRng, size: u16, lows: &BTreeMap<IpAddr, u16>) -> Option<u16> {
    let blocks = SIZE as u16 / size;
    (0..DRAWS)
        .map(|_| RANGE.start() + rng.random_range(0..blocks) * size)
        .find(|low| !lows.values().any(|other| other == low))
}
