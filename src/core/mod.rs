//! The pure core: no I/O, no async, no clock, no globals. Time and facts come in as arguments, decisions go out
//! as values. `tests/fences.rs` holds this folder to it.

pub mod adopt;
pub mod awaited;
pub mod branch;
pub mod chain;
pub mod doubt;
pub mod family;
pub mod fitness;
pub mod forgotten;
mod glob;
pub mod health;
pub mod hook;
pub mod inventory;
pub mod job;
pub mod layer;
pub mod leftover;
pub mod machine;
pub mod marker;
pub mod merge;
pub mod model;
pub mod naming;
pub mod policy;
pub mod prune;
pub mod qcow2;
pub mod queue;
pub mod retention;
pub mod revert;
pub mod room;
pub mod schedule;
pub mod select;
pub mod settings;
pub mod simulate;
pub mod stray;
pub mod suspend;
pub mod taking;
pub mod text;
pub mod view;
