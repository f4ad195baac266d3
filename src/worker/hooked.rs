//! Hooks around a job: all before it in their order, and each of these once more after it, in reverse order, whatever came
//! of it.
//!
//! | step | if it fails, or the daemon dies after it |
//! |---|---|
//! | what they are told is stored | no hook was run |
//! | the hooks before it | those that were run, the failing one too, are told that it failed; the job does nothing |
//! | in the job, where the administrator asks for it: the hooks while the guest is frozen | the guest is thawed, and the job has failed, or goes on, as with those before it |
//! | the job | the next start tells all hooks that it failed, before any other job of the VM |
//! | how it ended is stored | as before; where it cannot be stored, the job's result stays |
//! | the hooks after it | the next start tells all hooks the same once more; one that fails is told in the journal, and the job's result stays |
//! | what was stored is removed | it is over. Where it cannot be removed, this life knows that it is |

use std::{cell::RefCell, path::Path, time::Duration};

use super::{Tools, Work};
use crate::{
    core::{
        hook::{self, Event},
        job::{Failure, Outcome},
        model::{SnapshotName, VmId},
    },
    freeze::Called,
    hooks::{self, Budget, Hook, Ran, TIMEOUT},
    hypervisor::{Error, ErrorKind, Result},
    logging::message,
};

/// The hooks that have been run before a job.
#[derive(Debug)]
pub(super) struct Beside {
    hooks: Vec<Hook>,
    /// The VM's name.
    vm: String,
    told: Vec<(&'static str, String)>,
}

pub(super) fn around(work: &Work<'_>, job: impl FnOnce() -> Outcome) -> Outcome {
    if !hook::has_hooks(&work.job.operation) {
        return job();
    }
    let directory = Path::new(&work.settings.daemon.hooks);
    let all = match hooks::all(directory) {
        Ok(all) if all.is_empty() => return job(),
        Ok(all) => all,
        Err(e) => {
            let text = format!(
                "the hooks in {} cannot be read, so the {} of VM {} was not begun: {e}",
                directory.display(),
                work.job.operation.as_str(),
                work.job.vm
            );
            return Outcome::Failed(Failure::new("HookFailed", text));
        }
    };
    let vm = work.tools.hypervisor.vm(work.job.vm).map_or_else(|_| work.job.vm.to_string(), |vm| vm.name);
    let told = hook::environment(work.job, &vm);
    if let Err(e) = work.tools.store.hooks_begin(work.job.vm, directory, &told) {
        return Outcome::Failed(Failure::new("Failed", e.to_string()));
    }
    let run = |hook: &Hook, event, told: &[(&str, String)]| {
        work.phase(&format!("running hook {}", hook.name), None, None);
        hook.run(event, work.job.operation.as_str(), told, TIMEOUT)
    };
    let mut ran = 0;
    let mut refused = None;
    for hook in &all {
        if let Err(super::Stop::Cancelled(text)) = work.safe_point() {
            refused = Some(Outcome::Cancelled(text));
            break;
        }
        ran += 1;
        match run(hook, Event::Before, &told) {
            Err(why) if !hook::is_optional(&hook.name) => {
                refused = Some(Outcome::Failed(hook::refused(work.job, &vm, &hook.name, &why)));
                break;
            }
            Err(why) => warn(&vm, work.job.vm, &hook.name, &why),
            Ok(()) => {}
        }
    }
    let outcome = refused.unwrap_or_else(|| {
        let (hooks, vm, told) = (all.clone(), vm.clone(), told.clone());
        // Nobody else has.
        let _ = work.hooks.set(Beside { hooks, vm, told });
        job()
    });
    let (event, more) = hook::at_the_end(work.job, &outcome);
    let told = hook::with(told, more);
    if let Err(e) = work.tools.store.hooks_tell(work.job.vm, directory, &told, event) {
        tracing::error!(
            MESSAGE_ID = message::STORE_FAILED, VIRTSNAP_VM = %vm, VIRTSNAP_VM_UUID = %work.job.vm, error = %e,
            "cannot write down how the {} of VM {vm} ended: should virtsnapd end before that can be, its hooks are told that \
             it failed", work.job.operation.as_str()
        );
    }
    for hook in all[..ran].iter().rev() {
        if let Err(why) = run(hook, event, &told) {
            warn(&vm, work.job.vm, &hook.name, &why);
        }
    }
    over(work.tools, work.job.vm);
    outcome
}

/// The hooks of a job that are run while the guest is frozen for a snapshot.
pub(super) struct Window<'a> {
    work: &'a Work<'a>,
    /// `None`: there are none, or nobody has asked for that.
    beside: Option<&'a Beside>,
    taken: &'a SnapshotName,
    /// Those that were.
    ran: RefCell<Vec<Ran>>,
}

impl<'a> Window<'a> {
    /// For this snapshot.
    pub(super) fn of(work: &'a Work<'a>, taken: &'a SnapshotName) -> Self {
        let beside = work.hooks.get().filter(|_| work.settings.daemon.hooks_frozen);
        Self { work, beside, taken, ran: RefCell::default() }
    }

    /// Has them run in between.
    pub(super) fn come_in<'b>(&'b self, called: Called<'b>) -> Called<'b> {
        match self.beside {
            Some(beside) => called.with(move |limit| self.run(beside, limit)),
            None => called,
        }
    }

    fn run(&self, beside: &Beside, limit: Duration) -> Result<()> {
        let (job, budget) = (self.work.job, Budget::begin(limit));
        let told = hook::with(beside.told.clone(), hook::while_frozen(job, self.taken));
        for hook in &beside.hooks {
            let left = budget.left();
            let ran = if left.is_zero() {
                let all = limit.as_secs();
                hook.left_out(
                    Event::Frozen,
                    format!("was not run, as all may take {all} s while a guest is frozen"),
                )
            } else {
                hook.run_quietly(Event::Frozen, job.operation.as_str(), &told, left)
            };
            let failed = ran.result.clone();
            self.ran.borrow_mut().push(ran);
            if let (Err(why), false) = (failed, hook::is_optional(&hook.name)) {
                let text = format!("hook {} {why}. The file systems were frozen meanwhile", hook.name);
                return Err(Error::new(ErrorKind::HookFailed, text));
            }
        }
        Ok(())
    }

    /// Puts what they did into the journal, now that there is time for it.
    pub(super) fn tell(&self) {
        for ran in self.ran.borrow().iter() {
            ran.tell();
            // Of any other the job's own error tells.
            if let (Err(why), Some(beside), true) = (&ran.result, self.beside, hook::is_optional(&ran.hook)) {
                warn(&beside.vm, self.work.job.vm, &ran.hook, why);
            }
        }
    }
}

/// An earlier life of the daemon ended in the middle of a job of this VM: its hooks are told, by who has the VM.
pub(crate) fn left_over(tools: &Tools, id: VmId) {
    let left = match tools.store.hooks_begun(id) {
        Ok(None) => return,
        Ok(Some(left)) => left,
        Err(e) => {
            tracing::error!(MESSAGE_ID = message::STORE_FAILED, error = %e, "cannot read which hooks were begun");
            return;
        }
    };
    let of =
        |key| left.told.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str()).unwrap_or_default();
    let (vm, operation) = (of("VIRTSNAP_VM"), of("VIRTSNAP_OPERATION"));
    let mut told: Vec<(&str, String)> = left.told.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    let event = left.ended.unwrap_or_else(|| {
        told.push(("VIRTSNAP_ERROR_NAME", "Interrupted".to_owned()));
        told.push(("VIRTSNAP_ERROR", "virtsnapd ended in the middle of it".to_owned()));
        Event::Failed
    });
    match hooks::all(&left.directory) {
        Ok(all) => {
            for hook in all.iter().rev() {
                if let Err(why) = hook.run(event, operation, &told, TIMEOUT) {
                    warn(vm, id, &hook.name, &why);
                }
            }
        }
        Err(e) => warn(vm, id, &left.directory.display().to_string(), &format!("cannot be read: {e}")),
    }
    over(tools, id);
}

fn over(tools: &Tools, vm: VmId) {
    if let Err(e) = tools.store.hooks_end(vm) {
        tracing::error!(
            MESSAGE_ID = message::STORE_FAILED, error = %e,
            "cannot write down that the hooks of VM {vm} are over: should virtsnapd end before that can be, they are told the \
             same once more"
        );
    }
}

fn warn(vm: &str, id: VmId, hook: &str, why: &str) {
    tracing::warn!(
        MESSAGE_ID = message::HOOK_FAILED, VIRTSNAP_VM = vm, VIRTSNAP_VM_UUID = %id, VIRTSNAP_HOOK = hook,
        "hook {hook} of VM {vm} {why}"
    );
}
