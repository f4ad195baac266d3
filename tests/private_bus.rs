//! The whole daemon on a private bus: the simulator in libvirt's place, a real `dbus-daemon` with the shipped policy.
//!
//! Each test has its own bus, host and daemon, all in this process but the bus. They run as root, which is the user
//! that may change something, and nothing of the system's own bus or libvirt is touched.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unreachable_pub,
    reason = "all of this is tests, in functions of their own"
)]

#[path = "private_bus/mod.rs"]
mod private_bus;
