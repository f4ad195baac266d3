//! The real thing for tests: a container with systemd, D-Bus, polkit, libvirtd and QEMU, and tiny
//! guests in it.
//!
//! ```ignore
//! mod harness;
//! use harness::{GuestSpec, Testbed};
//!
//! harness::on_both! {
//!     fn counts(tb) {
//!         let guest = tb.guest(GuestSpec { disks: 2, ..GuestSpec::named("vm1") });
//!         guest.wait_agent();
//!         assert!(guest.counter("vda") > 0);
//!     }
//! }
//! ```
//!
//! The scripts under `tests/testbed/` do the work and can be run by hand. Everything here has a
//! deadline and panics with all there is to know when it passes. Needs root.

#![allow(dead_code, reason = "each test binary uses a part of the harness")]
#![allow(unused_imports, reason = "as above, of what is exported again")]
#![allow(unreachable_pub, reason = "a test binary has no outside; `pub` says what tests may use")]

mod bare;
mod bus;
mod command;
mod container;
mod daemon;
mod dying;
mod guest;
mod package;
mod side_channel;
mod stopping;
mod xml;

pub use bare::{Bare, BareDisk, byte_in};
pub use bus::Bus;
pub use command::{Output, quote};
pub use container::{ImageState, Suite, Testbed};
pub use daemon::Daemon;
pub use dying::Dying;
pub use guest::{Gap, Guest, GuestSpec, Write};
pub use package::{install, install_offline, package};
pub use stopping::{Stopping, When};
pub use xml::sources;

use std::time::{Duration, Instant};

/// Calls `probe` again and again until it answers, and returns the answer; panics with `what` when
/// `deadline` has passed without one.
///
/// For what has no event to wait for. This is the only place in the tests that pauses.
#[track_caller]
pub fn wait_for<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    wait_or(deadline, &mut probe, || panic!("{what}: not within {deadline:?}"))
}

/// The same, for who has more to say of it when nothing comes.
#[allow(clippy::disallowed_methods, reason = "the one pause of all tests")]
#[track_caller]
pub fn wait_or<T>(
    deadline: Duration,
    mut probe: impl FnMut() -> Option<T>,
    otherwise: impl FnOnce() -> T,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        if start.elapsed() >= deadline {
            return otherwise();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Makes of each function one test on Debian 13 and one on Debian 12, `trixie::NAME` and
/// `bookworm::NAME`, each with a pristine container of its own: `fn NAME(tb) { … }`, where `tb` is a
/// [`Testbed`].
macro_rules! on_both {
    ($($(#[$attribute:meta])* fn $name:ident($tb:ident) $body:block)*) => {
        mod cases {
            use super::*;
            $($(#[$attribute])* pub(super) fn $name($tb: &$crate::harness::Testbed) $body)*
        }
        mod trixie {
            $(#[test] fn $name() {
                super::cases::$name(&$crate::harness::Testbed::start($crate::harness::Suite::Trixie));
            })*
        }
        mod bookworm {
            $(#[test] fn $name() {
                super::cases::$name(&$crate::harness::Testbed::start($crate::harness::Suite::Bookworm));
            })*
        }
    };
}
pub(crate) use on_both;
