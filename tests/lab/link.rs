//! One direction of a line: delay, jitter, loss, and a queue in front of a rate.

use std::time::{Duration, Instant};

use rand::{RngExt, rngs::StdRng};

/// What a line is like, in one direction.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// Time that every packet takes.
    pub delay: Duration,
    /// At most this much more, evenly distributed; packets never overtake each other.
    pub jitter: Duration,
    /// Share of packets that get lost, 0 to 1.
    pub loss: f64,
    /// Bytes a second, if the line has a bottleneck.
    pub rate: Option<u64>,
    /// Bytes that may wait in front of the bottleneck; more are dropped at the tail.
    pub queue: u64,
}

impl Line {
    /// A line that only takes time.
    pub fn delayed(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }
}

impl Default for Line {
    fn default() -> Self {
        Self { delay: Duration::ZERO, jitter: Duration::ZERO, loss: 0.0, rate: None, queue: 256 * 1024 }
    }
}

/// A line with the state that it needs to carry packets one after the other.
#[derive(Debug)]
pub struct Link {
    line: Line,
    /// Nothing gets through.
    pub cut: bool,
    /// When the bottleneck has sent what waits in front of it.
    free_at: Option<Instant>,
    /// When the latest packet comes out.
    last_out: Option<Instant>,
}

impl Link {
    /// An idle line.
    pub fn new(line: Line) -> Self {
        Self { line, cut: false, free_at: None, last_out: None }
    }

    /// When a packet of `length` bytes that enters now comes out; `None` if it is lost.
    pub fn carry(&mut self, now: Instant, length: usize, rng: &mut StdRng) -> Option<Instant> {
        let line = &self.line;
        if self.cut {
            return None;
        }
        if line.loss > 0.0 && rng.random_bool(line.loss) {
            return None;
        }
        let mut at = now;
        if let Some(rate) = line.rate {
            let start = self.free_at.map_or(now, |free| free.max(now));
            let waiting = start.duration_since(now).as_secs_f64() * rate as f64;
            if waiting as u64 + length as u64 > line.queue {
                return None;
            }
            at = start + Duration::from_secs_f64(length as f64 / rate as f64);
            self.free_at = Some(at);
        }
        at += line.delay;
        if !line.jitter.is_zero() {
            at += line.jitter.mul_f64(rng.random());
        }
        at = self.last_out.map_or(at, |last| last.max(at));
        self.last_out = Some(at);
        Some(at)
    }
}
