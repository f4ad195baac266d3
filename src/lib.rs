//! virtsnap: snapshots of libvirt/QEMU virtual machines, taken, kept and pruned by policy.
//!
//! # How data flows: one way
//!
//! ```text
//!  /etc/virtsnap/*.toml ──▶ config ───────────────┐ settings
//!  wall clock (timerfd) ──▶ clock ────────────────┤ "it is time"
//!  libvirt events ─────────▶ hypervisor ──────────┤ "VM x changed"          ┌──────────────────────────┐
//!  D-Bus calls ────────────▶ dbus (auth: Permit) ─┼──▶ engine ── Event ───▶ │ core::machine (pure)     │
//!                                                 │      ▲   ◀── Effects ── │ schedule, retention,     │
//!                                                 │      │                  │ merge, queue             │
//!                                                 │      │                  └──────────────────────────┘
//!            worker threads ◀── start a job ──────┘      │
//!                 │ intent ─▶ store                      │ progress, result
//!                 │ freeze, create, thaw, delete ─▶ hypervisor
//!                 └──────────────────────────────────────┘
//!                                        engine ── view (watch) ──▶ dbus objects, PropertiesChanged ──▶ clients
//! ```
//!
//! An intent is stored before the hypervisor is asked; a result is stored before it is published.
//!
//! # The map
//!
//! | module | what it is | may |
//! |---|---|---|
//! | [`core`] | decisions: schedule, retention, merge plan, queue, the machine | think, and nothing else |
//! | [`config`] | TOML files to settings, with diagnostics | read files (`disk.rs` alone) |
//! | [`hypervisor`] | the trait; `libvirt` (the real one), `ffi` (the only `unsafe`), `sim` (with faults) | name `virt` |
//! | [`engine`] | the one task that owns all state; recovery; the inventory's thread | wait for inputs |
//! | [`worker`] | one job's blocking steps | block |
//! | [`merging`] | a run of snapshots merged away, each step harmless when it is done again | block |
//! | [`rooms`] | what jobs at work may still write, and where | block |
//! | [`strays`] | the look for files that nobody has | block |
//! | [`forgotten`] | the look for snapshots inside images that libvirt forgot | block |
//! | [`freeze`] | the freeze protocol, the thaw that never gives up, and the helper outside for when the daemon does | block |
//! | [`hooks`] | the administrator's programs beside jobs | run programs |
//! | [`store`] | SQLite: intents, results, the runs that are owed | write to the disk |
//! | [`clock`] | the time, and waiting for it | ask what time it is |
//! | [`threads`] | the daemon's own threads, and what they wait for together | block |
//! | [`dbus`] | one file per object; authorisation; the publisher | name `zbus` |
//! | [`cli`] | the client, which speaks D-Bus and knows no libvirt | name `zbus` |
//! | [`access`] | asks systemd to run it | name `zbus` |
//! | [`apparmor`] | `virtsnap-apparmor`, the one part with privileges: what a VM's profile lets it write | write profiles (`host.rs` alone) |
//! | [`daemon`] | wiring and order | name everything |
//! | [`systemd`], [`logging`] | notifications and the journal | |
//!
//! `tests/fences.rs` holds the crate to this table.

pub mod access;
pub mod apparmor;
pub mod cli;
pub mod clock;
pub mod config;
pub mod core;
pub mod daemon;
pub mod dbus;
pub mod engine;
pub mod forgotten;
pub mod freeze;
pub mod hooks;
pub mod hypervisor;
pub mod logging;
pub mod merging;
pub mod reader;
pub mod rooms;
pub mod store;
pub mod strays;
pub mod systemd;
pub mod threads;
pub mod worker;
