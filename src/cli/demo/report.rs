//! What happened, and how long each step took.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

/// The steps of the demo.
pub(super) struct Report {
    begin: Instant,
    last: Instant,
    steps: Vec<(String, Duration)>,
}

impl Report {
    pub(super) fn start() -> Report {
        let now = now();
        Report { begin: now, last: now, steps: Vec::new() }
    }

    /// A step is done.
    pub(super) fn step(&mut self, what: &str) {
        let now = now();
        self.steps.push((what.to_owned(), now - self.last));
        self.last = now;
    }

    /// A line a step, its time in front.
    pub(super) fn table(&self) -> String {
        let mut table = String::new();
        for (what, took) in &self.steps {
            // Writing to a string does not fail.
            let _ = writeln!(table, "{:>7} ms  {what}", took.as_millis());
        }
        let _ = write!(table, "{:>7} ms  in all: everything arrived, nothing was lost", {
            (self.last - self.begin).as_millis()
        });
        table
    }
}

#[expect(clippy::disallowed_methods, reason = "the command line reads the clock for the cores")]
fn now() -> Instant {
    Instant::now()
}
