//! What comes in, and what goes out.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{Entry, Labelled, Note, Refusal, Reply, Request, RequestId};
use crate::core::{
    deferred::Deferred,
    inhibit::InhibitorId,
    inventory::VmRecord,
    job::{Far, Job, JobId, Outcome},
    model::{SnapshotName, VmId},
    settings::Settings,
};

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A connection to the hypervisor stands.
    Connected {
        /// Its URI.
        uri: String,
        /// What it is.
        version: String,
    },
    /// It went, or could not be had.
    Disconnected,
    /// The VMs there are, all of them.
    Listed(Vec<VmId>),
    /// Something about a VM may have changed.
    Changed(VmId),
    /// A VM was read.
    VmRead(Box<VmRecord>),
    /// A VM could not be read, for now.
    VmUnreadable(VmId, String),
    /// A VM is no more.
    VmGone(VmId),
    /// A VM's file systems are frozen by us or may be; or they surely are not.
    Frozen(VmId, bool),
    /// A VM's file systems were frozen for so long, for a snapshot that was taken or was not.
    Held(VmId, SignedDuration),
    /// The time for which we asked to be woken, or a jump of the clock.
    Timer,
    /// New settings.
    Settings(Arc<Settings>),
    /// There are other settings, which cannot be understood, for this reason: a line.
    Refused(String),
    /// A client asks.
    Request(RequestId, Request),
    /// What a client wants attached is stored; false: the snapshot's deletion was begun.
    Labelled(RequestId, Box<Labelled>, Result<bool, String>),
    /// Merges of this VM were cut short in an earlier life, and can be finished.
    Unfinished(VmId),
    /// On this VM's images are files that were in quarantine for long enough.
    QuarantineOver(VmId),
    /// A job goes on.
    Progress {
        /// The job.
        job: JobId,
        /// What it does now.
        phase: String,
        /// How far it is.
        far: Far,
        /// The snapshot that it works on now, if it is known by now.
        snapshot: Option<SnapshotName>,
        /// Nothing stops what it does now.
        to_its_end: bool,
    },
    /// A prune found the clock right, and this is stored now as the newest time known to have passed.
    Passed(Timestamp),
    /// Images of this VM that held so many bytes were merged into others.
    Merged(VmId, u64),
    /// This operation was found cut short: the daemon, libvirt or the host had ended in the middle of it.
    Interrupted(&'static str),
    /// Why nothing can be written down; `None`: it can be again.
    Stored(Option<String>),
    /// A job ended.
    Ended(JobId, Outcome),
    /// Nobody keeps this inhibitor any more.
    Released(InhibitorId),
    /// Finish what runs, take no more.
    Stop,
    /// What waits is written down for the next life, or why it cannot be.
    Deferred(Result<(), String>),
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// List the VMs.
    List,
    /// Read this VM.
    Read(VmId),
    /// Start this job on a worker.
    Start(Job),
    /// Write these jobs down for the next life, and send [`Event::Deferred`].
    Defer(Vec<Deferred>),
    /// Ask this running job to stop at its next safe point.
    Cancel(JobId),
    /// Answer a client.
    Reply(RequestId, Result<Reply, Refusal>),
    /// Send [`Event::Timer`] at this time, and not before; `None`: not at all.
    WakeAt(Option<Timestamp>),
    /// Write this down, all of it or nothing, before the effects that follow.
    Remember(Vec<Entry>),
    /// `@reboot` has fired: the next start is no longer the first one since the host's.
    Booted,
    /// Store this, and send [`Event::Labelled`], by which the client gets its answer.
    Label(RequestId, Box<Labelled>),
    /// Tell the log.
    Log(Note),
    /// All is at rest after [`Event::Stop`].
    Stopped,
}
