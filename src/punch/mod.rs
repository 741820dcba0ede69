//! The punch: clock, agreed instant, opening plan, UDP path, and the agent that runs an attempt.
//!
//! | module | idea |
//! | --- | --- |
//! | [`clock`] | what an instant here is called there: ping numbers and durations |
//! | [`schedule`] | how far ahead the instant is, how long a round lasts, when to try again |
//! | [`budget`] | what an attempt may cost, and where it may go |
//! | [`plan()`] | who opens from which port to which, computed by both sides alike |
//! | [`hole`] | the UDP path between the peers: found, kept open, followed, lost |

pub mod budget;
pub mod clock;
pub mod hole;
mod plan;
pub mod schedule;

pub use self::{
    budget::{Budget, Effort},
    clock::{Answered, ClockFilter, PingLog},
    hole::Hole,
    plan::{FIRST_PORTS, Opening, Plan, Terms, Verdict, expected_success, plan},
};

/// Version of [`plan()`]: peers with different versions do not start a round together. Goes up with
/// every change that makes two builds compute different plans from the same input.
pub const PLAN_VERSION: u8 = 3;
