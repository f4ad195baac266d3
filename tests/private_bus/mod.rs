//! What they have in common is in `rig` (bus, host, daemon), `client`, and `hooked` (a hypervisor that can be bent).

mod access;
mod beside;
mod branches;
mod callers;
mod client;
mod command_line;
mod confined;
mod connection;
mod create;
mod faults;
mod hooked;
mod introspection;
mod life;
mod memory;
mod merging;
mod mirror;
mod pace;
mod policies;
mod prune;
mod quiesce;
mod reading;
mod recovery;
mod reload;
mod restart;
mod revert;
mod rig;
