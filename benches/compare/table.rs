//! Figures and the Markdown that shows them.

use std::{fmt, time::Duration};

/// What repeated runs of one measurement brought.
#[derive(Debug, Clone, Default)]
pub struct Runs(Vec<f64>);

impl Runs {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    pub fn add(&mut self, figure: f64) {
        self.0.push(figure);
        self.0.sort_by(f64::total_cmp);
    }

    pub fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    pub fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => self.0[middle],
            _ => (self.0[middle - 1] + self.0[middle]) / 2.0,
        }
    }

    /// The median and, in parentheses, from the least to the most.
    pub fn spread(&self) -> String {
        match self.0.len() {
            0 => String::new(),
            1 => figure(self.median()),
            _ => format!("{} ({}–{})", figure(self.median()), figure(self.min()), figure(self.max())),
        }
    }
}

/// A figure with as many digits as it is worth.
pub fn figure(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => String::new(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// How many times the second is the first; empty if either is missing.
pub fn ratio(of: f64, to: f64) -> String {
    figure(of / to)
}

/// The time that a share of all does not exceed, in µs.
pub fn percentile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let index = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len().max(1)) - 1;
    times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

/// A table of a page.
#[derive(Debug)]
pub struct Table {
    /// What it shows, in a line or two above it.
    pub title: String,
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(title: impl Into<String>, head: &[&str]) -> Self {
        Self {
            title: title.into(),
            head: head.iter().map(|&word| word.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}\n", self.title)?;
        writeln!(formatter, "| {} |", self.head.join(" | "))?;
        let line: Vec<_> = (0..self.head.len()).map(|i| if i == 0 { "---" } else { "---:" }).collect();
        writeln!(formatter, "| {} |", line.join(" | "))?;
        for row in &self.rows {
            writeln!(formatter, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}
