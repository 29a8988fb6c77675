//! The agent: `cli -> control -> reconcile -> {state, dataplane}`.

pub mod cli;
pub mod config;
pub mod control;
pub mod run;
