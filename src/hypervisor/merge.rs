//! Merging images of one disk under a running VM, steered from here: with progress, a limit, and an end on request.

use std::num::NonZeroU64;

use super::Result;
pub use crate::core::job::Copied;
use crate::core::model::VmId;

/// One disk's merge: all images above `base`, up to `top`, go into `base`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The disk's target.
    pub target: String,
    /// The path of the image that is written to.
    pub base: String,
    /// The path of the uppermost image whose data goes into it.
    pub top: String,
}

/// What becomes of a merge that is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    /// It goes on.
    On {
        /// With so many bytes per second at most; `None`: as fast as it can.
        limit: Option<NonZeroU64>,
    },
    /// It stops.
    Stop,
}

/// What came of a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It was done now.
    Now,
    /// It was not needed: the disk has `base`, and no longer `top`.
    Before,
}

/// What a block job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// It merges images under the one that is written to, and ends by itself.
    Commit,
    /// It merges the one that is written to, and waits for somebody to end it.
    ActiveCommit,
    /// Something else: a copy, a backup.
    Other,
}

/// A block job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockJob {
    /// Its disk's target.
    pub target: String,
    /// What it does.
    pub kind: JobKind,
    /// How far it is.
    pub copied: Copied,
    /// Both sides are the same, and it only waits to be ended.
    pub ready: bool,
    /// The image that a merge of the active layer writes to, if that can be told.
    pub into: Option<String>,
}

impl BlockJob {
    /// Whether it can be completed, and nothing else: a libvirtd that was restarted after it began such a merge, and before
    /// it wrote that down, does not know where it writes. To break it off crashes libvirtd (9.0 and 11.3).
    pub fn only_completes(&self) -> bool {
        self.kind == JobKind::ActiveCommit && self.into.is_none()
    }
}

/// A block job that has done its part, and waits for whoever began it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingJob {
    /// Its disk's target.
    pub target: String,
    /// Only libvirt's own deletion of a snapshot begins such: it ends those of all disks together.
    pub of_deletion: bool,
}

/// The part of [`Hypervisor`](super::Hypervisor) that merges images.
pub trait Merge {
    /// Merges, and returns when the disk has left all of the images; they stay where they are, for who else names
    /// them. `steer` is asked before anything is touched, and from then on again and again; it may block only shortly.
    ///
    /// One that is done already is passed over, so that a rerun is harmless. Ended early (`Steer::Stop` gives
    /// [`ErrorKind::Cancelled`](super::ErrorKind::Cancelled)) it leaves the disk right, and everything in (base, top],
    /// too; but what is in `base` is no longer what it was before, nor is what anybody else reads through it.
    /// An error whose kind is [`untouched`](super::ErrorKind::untouched) left that right as well.
    fn commit(&self, vm: VmId, commit: &Commit, steer: &mut dyn FnMut(Copied) -> Steer) -> Result<Committed>;

    /// Copies what this disk of a running VM lies on into the image that it is written to, until it lies on nothing
    /// ([`Committed::Before`]: it did not). No other image is touched.
    ///
    /// The image says that it stands alone before all that makes it so is in it: what QEMU 7.2 copied it keeps to itself
    /// until somebody has it flush ([`Power::suspend`](super::Power::suspend)), or [ends it](super::Wake::let_sleep), and a
    /// QEMU that is killed before then takes it along. However it ends else, the disk reads as before, and to do it again is to go on with it. `steer` is asked as with
    /// `commit`; ended early by it, it is [`ErrorKind::Cancelled`](super::ErrorKind::Cancelled).
    fn pull(&self, vm: VmId, target: &str, steer: &mut dyn FnMut(Copied) -> Steer) -> Result<Committed>;

    /// All block jobs on the VM's disks, whoever began them; none of a stopped VM.
    fn block_jobs(&self, vm: VmId) -> Result<Vec<BlockJob>>;

    /// By its QEMU's word: all block jobs of a paused VM whose CPUs have stood still since it was started, if there are any
    /// and each does nothing but wait for somebody to end it. `None` of any other VM, and of one that the hypervisor itself
    /// is at work on.
    fn waiting_jobs(&self, vm: VmId) -> Result<Option<Vec<WaitingJob>>>;

    /// Ends the job on this disk that an earlier life left: one that is ready, or that can only be completed, is
    /// completed, any other broken off. No job is no error.
    fn end_block_job(&self, vm: VmId, target: &str) -> Result<()>;
}
