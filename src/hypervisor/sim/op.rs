//! The calls, and what is asked with one.

use std::time::Duration;

use crate::core::model::VmId;

/// The calls of [`Hypervisor`](crate::hypervisor::Hypervisor), `watch` apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// `vms`
    Vms,
    /// `vm`
    Vm,
    /// `glance`
    Glance,
    /// `snapshots`
    Snapshots,
    /// `space`
    Space,
    /// `prepare`
    Prepare,
    /// `discard`
    Discard,
    /// `create`
    Create,
    /// `delete`
    Delete,
    /// `file_systems`
    FileSystems,
    /// `guest_system`
    GuestSystem,
    /// `freeze_status`
    FreezeStatus,
    /// `freeze`
    Freeze,
    /// `thaw`
    Thaw,
    /// `redefine`
    Redefine,
    /// `forget`
    Forget,
    /// `name_layer`
    NameLayer,
    /// `copy`
    Copy,
    /// `put_back`
    PutBack,
    /// `commit`
    Commit,
    /// `pull`
    Pull,
    /// `block_jobs`
    BlockJobs,
    /// `end_block_job`
    EndBlockJob,
    /// `suspend`
    Suspend,
    /// `go_on`
    GoOn,
    /// `wake`
    Wake,
    /// `let_sleep`
    LetSleep,
    /// `waiting_jobs`
    WaitingJobs,
    /// `life`
    Life,
    /// `images_beside`
    ImagesBeside,
    /// `chain`
    Chain,
    /// `users`
    Users,
    /// `strays`
    Strays,
    /// `take_inside`
    TakeInside,
    /// `revert_inside`
    RevertInside,
    /// `snapshots_inside`
    SnapshotsInside,
    /// `load`
    Load,
    /// `save`
    Save,
    /// `definition` and `definition_at`
    Definition,
    /// `prepare_on`
    PrepareOn,
    /// `define`
    Define,
    /// `stop`
    Stop,
    /// `start`
    Start,
    /// `named`
    Named,
    /// `draw`
    Draw,
    /// `define_new`
    DefineNew,
    /// `undefine_new`
    UndefineNew,
    /// `resumable`
    Resumable,
    /// `resume`
    Resume,
    /// `opened`
    Opened,
    /// `name_for_next_start`
    NameForNextStart,
}

impl Op {
    /// True for those that change the host or the guest.
    pub const fn changes(self) -> bool {
        matches!(
            self,
            Self::Prepare
                | Self::Discard
                | Self::Create
                | Self::Delete
                | Self::Freeze
                | Self::Thaw
                | Self::Redefine
                | Self::Forget
                | Self::PutBack
                | Self::Commit
                | Self::Pull
                | Self::EndBlockJob
                | Self::Suspend
                | Self::GoOn
                | Self::Wake
                | Self::LetSleep
                | Self::Save
                | Self::PrepareOn
                | Self::Define
                | Self::NameForNextStart
                | Self::Stop
                | Self::Start
                | Self::DefineNew
                | Self::UndefineNew
                | Self::NameLayer
                | Self::TakeInside
                | Self::RevertInside
                | Self::Resume
        )
    }

    /// True for those that speak to the guest agent, of which a VM can do one at a time.
    pub const fn asks_agent(self) -> bool {
        matches!(self, Self::FileSystems | Self::GuestSystem | Self::FreezeStatus | Self::Freeze | Self::Thaw)
    }

    /// True for libvirt's asynchronous jobs, of which a VM can do one at a time.
    pub const fn is_job(self) -> bool {
        matches!(self, Self::Create | Self::Delete)
    }
}

/// What is asked, for the log, the faults and the gates.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What is called.
    pub op: Op,
    /// For which VM.
    pub vm: Option<VmId>,
    /// The snapshot's name, or the paths, or the mount points.
    pub about: String,
    pub(super) timeout: Option<Duration>,
}

impl Asked {
    pub(super) fn host(op: Op, about: impl Into<String>) -> Self {
        Self { op, vm: None, about: about.into(), timeout: None }
    }

    pub(super) fn vm(op: Op, vm: VmId, about: impl Into<String>) -> Self {
        Self { op, vm: Some(vm), about: about.into(), timeout: None }
    }

    pub(super) fn agent(op: Op, vm: VmId, about: impl Into<String>, timeout: Duration) -> Self {
        Self { op, vm: Some(vm), about: about.into(), timeout: Some(timeout) }
    }
}
