//! Retention against the tools whose rules it follows, in the same run: `union` against `restic forget`, `extend`
//! against `borg prune`, and against what Proxmox documents (which Debian does not have), worked out by hand.
//!
//! Verdict by verdict and rule by rule, over seeded random histories around changes of the clocks and the borders of
//! ISO weeks and years. Where we differ on purpose it is listed (`restic_differences`, `borg_differences`, `proxmox`)
//! and shown in a test of its own; what random histories have of it is predicted exactly by a `known_difference`, so
//! that a tool that stops differing fails here, too.
//!
//! Held against restic 0.14.0 and 0.18.0, and Borg 1.2.4 and 1.4.0: those of Debian 12 and 13.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    unreachable_pub,
    reason = "all of this is tests, in functions of their own"
)]

#[path = "retention_oracle/mod.rs"]
mod retention_oracle;
