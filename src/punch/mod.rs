//! The punch: clock, agreed instant, opening plan, and the agent that runs an attempt.

/// Version of [`plan()`](crate::punch): peers with different versions do not start a round together.
pub const PLAN_VERSION: u8 = 1;
