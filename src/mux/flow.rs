//! Credit: how much of a stream may be on its way. Pure arithmetic.
//!
//! Credit is an absolute offset: "you may send the bytes of this stream up to here". Each stream begins
//! with a [`FirstWindow`] in both directions. The receiver raises the limit as its program consumes
//! bytes, and widens the window where a whole window is consumed within two round trips: then the window,
//! and not the program or the network, is what holds the sender up.
//!
//! What a window has grown by comes out of one [`GrowthBudget`] of the session, because granted credit
//! cannot be taken back: the sum of all windows is the memory that the peer can make this side hold.

use std::time::{Duration, Instant};

use super::whole::ROOM;

/// What a full record carries. Windows are multiples of it: a rest of credit would go into small records.
const RECORD: u64 = ROOM as u64;

/// Window of a new stream, bytes; part of the protocol.
pub const INITIAL_WINDOW: u64 = 4 * RECORD;

/// Window of a new stream beside many others, bytes; part of the protocol. A request, or what begins a
/// TLS connection, passes before the window has to grow.
pub const NARROW_WINDOW: u64 = RECORD / 4;

/// What a stream begins with in both directions: the side that opens it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstWindow {
    /// [`INITIAL_WINDOW`].
    Wide,
    /// [`NARROW_WINDOW`].
    Narrow,
}

impl FirstWindow {
    /// Bytes.
    pub fn bytes(self) -> u64 {
        match self {
            FirstWindow::Wide => INITIAL_WINDOW,
            FirstWindow::Narrow => NARROW_WINDOW,
        }
    }
}

/// Widest window of a stream, bytes: 1 Gbit/s over 130 ms.
pub const MAX_WINDOW: u64 = 256 * RECORD;

/// What all windows of a session together may grow by, bytes: four streams of the widest window, or
/// many with less.
pub const GROWTH_BUDGET: u64 = 4 * MAX_WINDOW;

/// Round trip that is assumed until one was measured.
const ASSUMED_RTT: Duration = Duration::from_millis(50);

/// Least round trip that counts: on one machine, or in one LAN, it is not the network that a window has
/// to bridge but the time until a task runs again.
const LEAST_RTT: Duration = Duration::from_millis(1);

/// The sender's side of a stream's credit.
#[derive(Debug, Clone, Copy)]
pub struct SendWindow {
    limit: u64,
    sent: u64,
    /// Most that was ever to be sent at a time: the peer's window has at least this width.
    widest: u64,
}

impl SendWindow {
    /// Of a new stream.
    pub fn new(first: FirstWindow) -> Self {
        SendWindow { limit: first.bytes(), sent: 0, widest: first.bytes() }
    }

    /// Bytes that may be sent now.
    pub fn available(&self) -> u64 {
        self.limit - self.sent
    }

    /// Whether so many bytes do not go now, and will without anything being sent before them. A receiver with a window
    /// of twice as many gives credit for them as soon as its program has read what is on its way. (So senders of TCP
    /// avoid small segments: RFC 9293, 3.8.6.2.1.)
    pub fn is_worth_waiting(&self, count: u64) -> bool {
        self.available() < count && count <= self.widest / 2
    }

    /// That many bytes, at most [`available`](Self::available), were put into a record.
    pub fn take(&mut self, count: u64) {
        debug_assert!(count <= self.available());
        self.sent += count;
    }

    /// A CREDIT frame. A lower limit than the present one changes nothing.
    pub fn raise(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
        self.widest = self.widest.max(self.available());
    }
}

/// The peer sent more than it had credit for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overrun;

/// What the windows of one session may still grow by.
#[derive(Debug, Clone, Copy)]
pub struct GrowthBudget {
    left: u64,
}

impl GrowthBudget {
    /// That many bytes for all streams together.
    pub fn new(bytes: u64) -> Self {
        GrowthBudget { left: bytes }
    }

    /// Bytes not taken by any stream.
    pub fn left(&self) -> u64 {
        self.left
    }
}

/// The receiver's side of a stream's credit.
#[derive(Debug, Clone, Copy)]
pub struct ReceiveWindow {
    first: FirstWindow,
    window: u64,
    granted: u64,
    received: u64,
    consumed: u64,
    /// When the window now being consumed was begun, and at which offset.
    began: Option<(Instant, u64)>,
}

impl ReceiveWindow {
    /// Of a new stream.
    pub fn new(first: FirstWindow) -> Self {
        let bytes = first.bytes();
        ReceiveWindow { first, window: bytes, granted: bytes, received: 0, consumed: 0, began: None }
    }

    /// What it began with.
    pub fn first(&self) -> FirstWindow {
        self.first
    }

    /// Bytes came in.
    ///
    /// # Errors
    /// They are more than was granted.
    pub fn receive(&mut self, now: Instant, count: u64) -> Result<(), Overrun> {
        if count > self.granted - self.received {
            return Err(Overrun);
        }
        self.received += count;
        self.began.get_or_insert((now, self.consumed));
        Ok(())
    }

    /// The program took bytes. Widens the window where it is too narrow for this round trip and the
    /// budget allows. `true` when a CREDIT frame is worth its bytes: a quarter of the window is free.
    pub fn consume(
        &mut self,
        now: Instant,
        count: u64,
        rtt: Option<Duration>,
        budget: &mut GrowthBudget,
    ) -> bool {
        self.consumed += count;
        if let Some((since, from)) = self.began
            && self.consumed - from >= self.window
        {
            if now.saturating_duration_since(since) < 2 * rtt.unwrap_or(ASSUMED_RTT).max(LEAST_RTT) {
                let growth = self.window.min(MAX_WINDOW - self.window).min(budget.left);
                budget.left -= growth;
                self.window += growth;
            }
            self.began = Some((now, self.consumed));
        }
        self.consumed + self.window - self.granted >= self.window / 4
    }

    /// The limit for a CREDIT frame that is being sent now.
    pub fn grant(&mut self) -> u64 {
        self.granted = self.consumed + self.window;
        self.granted
    }

    /// The stream is gone: what its window had grown by goes back.
    pub fn release(self, budget: &mut GrowthBudget) {
        budget.left += self.window - self.first.bytes();
    }

    /// Present width, bytes.
    pub fn window(&self) -> u64 {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    const MS: Duration = Duration::from_millis(1);

    /// Sends and consumes as fast as the credit allows: one window each round trip.
    fn run(
        window: &mut ReceiveWindow,
        budget: &mut GrowthBudget,
        start: Instant,
        rtt: Duration,
        rounds: u32,
    ) {
        let mut sender = SendWindow { limit: window.granted, sent: window.received, widest: window.window };
        for round in 0..rounds {
            let now = start + rtt * round;
            while sender.available() > 0 {
                let count = sender.available().min(RECORD);
                sender.take(count);
                window.receive(now, count).unwrap();
                window.consume(now + rtt, count, Some(rtt), budget);
            }
            sender.raise(window.grant());
        }
    }

    #[test]
    fn a_window_that_is_consumed_every_round_trip_grows_to_the_widest() {
        let (mut window, mut budget) =
            (ReceiveWindow::new(FirstWindow::Wide), GrowthBudget::new(GROWTH_BUDGET));
        run(&mut window, &mut budget, start(), 100 * MS, 8);
        assert_eq!(window.window(), MAX_WINDOW);
        assert_eq!(budget.left(), GROWTH_BUDGET - MAX_WINDOW + INITIAL_WINDOW);
        window.release(&mut budget);
        assert_eq!(budget.left(), GROWTH_BUDGET);
    }

    #[test]
    fn a_narrow_window_grows_as_wide_as_any_and_gives_everything_back() {
        let mut budget = GrowthBudget::new(GROWTH_BUDGET);
        let mut window = ReceiveWindow::new(FirstWindow::Narrow);
        assert_eq!(window.receive(start(), NARROW_WINDOW + 1), Err(Overrun));
        run(&mut window, &mut budget, start(), 100 * MS, 12);
        assert_eq!(window.window(), MAX_WINDOW);
        window.release(&mut budget);
        assert_eq!(budget.left(), GROWTH_BUDGET);
    }

    #[test]
    fn a_slow_program_keeps_its_window_narrow() {
        let (mut window, mut budget) =
            (ReceiveWindow::new(FirstWindow::Wide), GrowthBudget::new(GROWTH_BUDGET));
        let mut now = start();
        let mut sender = SendWindow::new(FirstWindow::Wide);
        for _ in 0..100 {
            now += 50 * MS;
            let count = sender.available().min(RECORD);
            sender.take(count);
            window.receive(now, count).unwrap();
            if window.consume(now, count, Some(10 * MS), &mut budget) {
                sender.raise(window.grant());
            }
        }
        assert_eq!(window.window(), INITIAL_WINDOW);
    }

    #[test]
    fn growth_stops_at_the_budget() {
        let (mut window, mut budget) =
            (ReceiveWindow::new(FirstWindow::Wide), GrowthBudget::new(INITIAL_WINDOW / 2));
        run(&mut window, &mut budget, start(), 100 * MS, 20);
        assert_eq!(window.window(), INITIAL_WINDOW + INITIAL_WINDOW / 2);
        assert_eq!(budget.left(), 0);
    }

    #[test]
    fn a_byte_beyond_the_credit_is_an_overrun() {
        let mut window = ReceiveWindow::new(FirstWindow::Wide);
        window.receive(start(), INITIAL_WINDOW).unwrap();
        assert_eq!(window.receive(start(), 1), Err(Overrun));
    }

    #[test]
    fn a_credit_below_the_present_one_changes_nothing() {
        let mut window = SendWindow::new(FirstWindow::Wide);
        window.take(INITIAL_WINDOW);
        window.raise(7);
        assert_eq!(window.available(), 0);
        window.raise(u64::MAX);
        assert_eq!(window.available(), u64::MAX - INITIAL_WINDOW);
    }

    #[test]
    fn what_half_a_window_can_take_is_worth_waiting_for() {
        for (count, worth) in [(1, false), (NARROW_WINDOW / 2, true), (NARROW_WINDOW / 2 + 1, false)] {
            let mut window = SendWindow::new(FirstWindow::Narrow);
            window.take(NARROW_WINDOW - 1);
            assert_eq!(window.is_worth_waiting(count), worth, "{count}");
        }
        let mut window = SendWindow::new(FirstWindow::Narrow);
        assert!(!window.is_worth_waiting(1), "it goes now");
        window.take(NARROW_WINDOW);
        window.raise(3 * NARROW_WINDOW);
        window.take(2 * NARROW_WINDOW - 1);
        assert!(window.is_worth_waiting(NARROW_WINDOW), "the window has grown");
    }

    #[test]
    fn credit_that_is_worth_waiting_for_comes() {
        for first in [FirstWindow::Wide, FirstWindow::Narrow] {
            for count in 1..=first.bytes() / 2 {
                let (mut sender, mut window) = (SendWindow::new(first), ReceiveWindow::new(first));
                let mut budget = GrowthBudget::new(0);
                let pieces = sender.available() / count;
                sender.take(pieces * count);
                window.receive(start(), pieces * count).unwrap();
                for _ in 0..pieces {
                    if window.consume(start(), count, None, &mut budget) {
                        sender.raise(window.grant());
                    }
                }
                assert!(sender.available() >= count, "{first:?} window, pieces of {count}");
            }
        }
    }
}
